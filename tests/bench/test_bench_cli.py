"""``python -m benchmarks.paper`` as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.paper.__main__ import app
from tests.support.circle_bench import write_file

HEAVY = ("torch", "diffusers", "open_clip", "numpy", "PIL", "matplotlib", "huggingface_hub")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    for name in ("GMI_HUB", "HF_DEBUG", "HF_HUB_OFFLINE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GMI_CACHE_DIR", str(tmp_path / "cache"))


def call(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_run_says_what_it_did(tmp_path):
    out = tmp_path / "out"
    done = call("run", write_file(tmp_path), "--out", out, "--stage", "score")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"results: {out}\n"
    for line in ("generating images (44)", "scoring tasks (16)", "generate: done, ", "score: done"):
        assert line in done.stderr
    again = call("run", write_file(tmp_path), "--out", out, "--stage", "score", "--json")
    stages = json.loads(again.stdout)["stages"]
    assert [stage["name"] for stage in stages] == ["generate", "embed", "interrogate", "score"]
    assert not any(stage["made"] for stage in stages)
    quiet = call("run", write_file(tmp_path), "--out", out, "--stage", "score", "-q")
    assert (quiet.stdout, quiet.stderr) == (f"{out}\n", "")


def test_limit(tmp_path):
    out = tmp_path / "out"
    done = call("run", write_file(tmp_path), "--out", out, "--stage", "score", "--limit", 1)
    assert done.exit_code == 0, done.output
    summary = json.loads((out / "bench.json").read_bytes())
    assert (summary["limit"], summary["protocols"]) == (1, ["images-1"])
    refused = call("run", write_file(tmp_path), "--out", out)
    assert refused.exit_code == 1
    assert "error: " in refused.stderr
    assert "hint: name another folder: --out DIR" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.toml", "--out", "x"], "cannot read the benchmark"),
        (["show", "absent"], "absent"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "show":
        pytest.importorskip("matplotlib")
    done = call(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "f"], ["run", "f", "--out", "o", "--stage", "sing"]]
)
def test_wrong_usage(arguments):
    assert call(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [[], ["run"], ["show"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = {[*arguments, '--help']!r}\n"
        "try:\n    runpy.run_module('benchmarks.paper', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stderr == "[]\n"
    assert "Usage:" in done.stdout
