import json

from cli_specs import make_spec

from gmi_registry.cli.main import app
from gmi_registry.index.cache import SpecCache
from gmi_registry.index.indexed import IndexedSpec


def test_info_and_prune(call, tmp_path):
    cache = SpecCache(tmp_path / "cache")
    cache.put(IndexedSpec.of(make_spec("flat")))
    cache.put(IndexedSpec.of(make_spec("oil")))
    before = json.loads(call(app, "cache", "info", "--json").stdout)
    assert before["specs"] == 2
    assert before["bytes"] > 0
    assert "specifications: 2\n" in call(app, "cache", "info").stdout
    assert call(app, "cache", "prune").stdout.startswith("deleted 2 specifications, ")
    assert json.loads(call(app, "cache", "info", "--json").stdout)["specs"] == 0
    done = call(app, "cache", "prune", "--json", "--cache-dir", tmp_path / "cache")
    assert json.loads(done.stdout) == {
        "directory": before["directory"],
        "specs": 0,
        "bytes": 0,
    }


def test_an_empty_cache(call, tmp_path):
    done = call(app, "cache", "info", "--cache-dir", tmp_path / "nothing")
    assert done.exit_code == 0
    assert not (tmp_path / "nothing").exists()
