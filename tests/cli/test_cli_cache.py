import contextlib
import json
import os
import sqlite3
import time
from datetime import datetime

import pytest

from gmi_registry.cli.main import app
from gmi_registry.index.cache import SpecCache
from gmi_registry.index.entry import IndexedSpec
from gmi_registry.index.stored.files import LocalDatabase
from tests.support.cli_specs import make_spec


def test_info_and_prune(call, tmp_path):
    cache = SpecCache(tmp_path / "cache")
    cache.put(IndexedSpec.of(make_spec("flat")))
    cache.put(IndexedSpec.of(make_spec("oil")))
    before = json.loads(call(app, "cache", "info", "--json").stdout)
    assert before["specs"] == 2
    assert before["bytes"] > 0
    assert "specifications: 2\n" in call(app, "cache", "info").stdout
    (part,) = (part for part in before["parts"] if part["name"] == "specifications")
    assert (part["files"], part["bytes"]) == (2, before["bytes"])
    assert datetime.fromisoformat(part["last_used"]).tzinfo is not None
    tried = call(app, "cache", "prune", "--dry-run")
    assert tried.stdout == f"specifications: 2 files, {before['bytes']:,} bytes\n"
    assert tried.stderr.endswith("would be deleted; leave out --dry-run to delete them\n")
    assert json.loads(call(app, "cache", "info", "--json").stdout) == before
    assert "specifications: 2 files" in call(app, "cache", "prune").stdout
    assert json.loads(call(app, "cache", "info", "--json").stdout)["specs"] == 0
    done = call(app, "cache", "prune", "--json", "--cache-dir", tmp_path / "cache")
    document = json.loads(done.stdout)
    assert (document["dry_run"], document["files"], document["bytes"]) == (False, 0, 0)
    assert "specifications" in {part["name"] for part in document["parts"]}


def test_prune_by_age_and_size(call, tmp_path):
    cache = SpecCache(tmp_path / "cache")
    for name, days in (("flat", 40), ("oil", 20), ("ink", 1)):
        cache.put(IndexedSpec.of(make_spec(name)))
        used = time.time() - days * 86400
        path = cache.directory / "specs" / f"{make_spec(name).digest}.bin"
        os.utime(path, (used, used))
    whole = cache.use().bytes
    assert "1 files" in call(app, "cache", "prune", "--older-than", "30d", "--dry-run").stdout
    assert call(app, "cache", "prune", "--max-size", whole).stdout == ""
    assert call(app, "cache", "prune", "--max-size", whole - 1, "--older-than", "9w").stdout == ""
    assert "1 files" in call(app, "cache", "prune", "--max-size", whole - 1).stdout
    assert cache.get(make_spec("flat").digest) is None
    assert call(app, "cache", "prune", "--older-than", "2w").exit_code == 0
    assert cache.use().specs == 1
    assert cache.get(make_spec("ink").digest) is not None


def test_other_parts_of_the_cache(call, tmp_path):
    listing = tmp_path / "cache" / "assets" / "gmi-registry" / "hub" / "hf" / "catalogue.json"
    drawn = tmp_path / "cache" / "work" / "model" / "0.png"
    for path in (listing, drawn):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    parts = json.loads(call(app, "cache", "info", "--json").stdout)["parts"]
    assert {part["name"]: part["files"] for part in parts} == {
        "specifications": 0,
        "digests of weights": 0,
        "listings of hubs": 1,
        "what was worked out for indexes": 0,
        "exported encoders": 0,
        "unfinished publications": 1,
    }
    assert call(app, "cache", "prune").stdout == "listings of hubs: 1 files, 2 bytes\n"
    assert drawn.exists()
    assert not listing.exists()


def worked_out(call) -> dict:
    parts = json.loads(call(app, "cache", "info", "--json").stdout)["parts"]
    (part,) = (part for part in parts if part["name"] == "what was worked out for indexes")
    return part


def test_what_was_worked_out_for_indexes(call, tmp_path):
    home = tmp_path / "cache"
    LocalDatabase(home).close()
    database = home / "stored-index-v2.sqlite"
    prefilter = home / "stored-index-prefilters" / "0123.safetensors"
    prefilter.parent.mkdir()
    prefilter.write_bytes(b"x" * 1000)
    frame = home / "stored-index-frames" / "0123.safetensors"  # of an earlier version
    frame.parent.mkdir()
    frame.write_bytes(b"x" * 500)
    size = database.stat().st_size + 1500
    part = worked_out(call)
    assert (part["files"], part["bytes"], part["prunable"]) == (3, size, True)
    folders = [str(prefilter.parent), str(frame.parent)]
    assert (part["database"], part["folders"]) == (str(database), folders)
    assert f"worked out for indexes: {size:,} bytes" in call(app, "cache", "info").stdout
    line = f"what was worked out for indexes: 3 files, {size:,} bytes\n"
    assert call(app, "cache", "prune", "--dry-run").stdout == line
    assert worked_out(call) == part
    assert call(app, "cache", "prune", "--older-than", "1h").stdout == ""
    assert call(app, "cache", "prune").stdout == line
    assert not database.exists()
    assert not prefilter.exists()
    assert not frame.exists()
    LocalDatabase(home).close()
    assert database.exists()


def test_a_database_that_is_written_stays(call, tmp_path):
    home = tmp_path / "cache"
    ledger = LocalDatabase(home)
    file = tmp_path / "file"
    file.write_text("part")
    with contextlib.closing(sqlite3.connect(home / "stored-index-v2.sqlite")) as writer:
        writer.execute("begin immediate")
        assert call(app, "cache", "prune").stdout == ""
        writer.rollback()
    ledger.set_checked("part", file, file.stat())
    assert "1 files" in call(app, "cache", "prune").stdout
    # Whoever has it open reads on.
    assert ledger.is_checked("part", file, file.stat())
    ledger.close()
    assert not list(home.glob("stored-index*"))


def test_a_damaged_database_goes_and_a_link_stays(call, tmp_path):
    database = tmp_path / "cache" / "stored-index-v2.sqlite"
    database.parent.mkdir()
    database.write_bytes(b"no database" * 1000)
    journal = database.with_name(f"{database.name}-journal")
    journal.write_bytes(b"x" * 10)
    assert worked_out(call)["bytes"] == 11_010
    assert "1 files, 11,010 bytes" in call(app, "cache", "prune").stdout
    assert not database.exists()
    assert not journal.exists()
    mine = tmp_path / "mine"
    mine.write_text("mine")
    database.symlink_to(mine)
    assert worked_out(call)["files"] == 0
    call(app, "cache", "prune")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [("--older-than", "soon"), ("--older-than", "3"), ("--max-size", "2 apples")]
)
def test_ages_and_sizes_that_are_none(call, arguments):
    done = call(app, "cache", "prune", *arguments)
    assert done.exit_code == 2
    assert arguments[1] in done.stderr


def test_an_empty_cache(call, tmp_path):
    done = call(app, "cache", "info", "--cache-dir", tmp_path / "nothing")
    assert done.exit_code == 0
    assert not (tmp_path / "nothing").exists()
