"""``gmi regenerate`` as its users meet it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gmi_registry.cli.main import app
from tests.support.regeneration_world import (
    SECRET,
    UNFIT,
    WEIGHTS,
    card,
    fill_folder,
    other_weights,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(tmp_path):
    def run(hub, *arguments):
        words = ["regenerate", "--hub", hub.root, "--work", tmp_path / "work", *arguments]
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


@pytest.fixture
def stale(published, models):
    (published.root / "models" / "ink" / WEIGHTS).write_bytes(other_weights(models))
    return published


def test_the_plan_says_what_and_why_and_does_nothing(call, stale, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in stale.root.rglob("*")}
    done = call(stale, "--plan", "--repo", "ink", "--repo", "base")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "local:base\tmissing\tit has no specification",
        f"local:ink\tstale\tits weights have changed: {WEIGHTS}",
    ]
    assert "0 fresh, 1 stale, 1 missing, 0 broken, 0 set aside; nothing was done" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in stale.root.rglob("*")} == before
    assert not list((tmp_path / "work").iterdir())

    document = json.loads(call(stale, "--plan", "--json").stdout)
    (model,) = document["models"]
    assert (model["model"], model["state"]) == ("local:ink", "stale")
    assert call(stale, "--plan", "-q").stdout == "local:ink\n"


def test_a_round_a_page_and_an_index(call, stale, tmp_path):
    page, index = tmp_path / "done.md", tmp_path / "index"
    done = call(stale, "--summary", page, "--index", index)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("local:ink\tpublished\t")
    assert f"1 of 1: local:ink: its weights have changed: {WEIGHTS}" in done.stderr
    assert "the index has 1 models" in done.stderr
    text = page.read_text()
    assert "1 described again, 0 failed, 0 set aside, 0 left for next time, 0 fresh" in text
    assert "| local:ink | its weights have changed: pytorch\\_lora\\_weights.safetensors |" in text
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []

    again = call(stale)
    assert (again.exit_code, again.stdout) == (0, "nothing to do: 1 are fresh\n")
    assert call(stale, "-q").output == ""


def test_a_failure_is_an_error_with_its_hint_and_status_1(call, stale):
    (stale.root / "models" / "ink" / "README.md").write_text("---\ntags: [\n---\n")
    # Its card is broken, so that it cannot be looked at: nothing failed.
    done = call(stale)
    assert done.exit_code == 0
    assert "local:ink: set aside: " in done.stderr

    (stale.root / "models" / "ink" / "README.md").write_text(card("base"))
    (stale.root / "models" / "ink" / WEIGHTS).write_bytes(UNFIT)
    for times in (1, 2, 3):
        done = call(stale, "--json")
        assert done.exit_code == 1
        (failed,) = json.loads(done.stdout)["failed"]
        assert failed["failures"] == times
        assert f"error: local:ink: {failed['reason']}" in done.stderr
    done = call(stale)
    assert done.exit_code == 0
    assert "local:ink: set aside: failed 3 times, last on " in done.stderr
    assert "hint: gmi regenerate --retry" in done.stderr
    assert call(stale, "--retry").exit_code == 1


def test_bounds_are_said(call, models, tmp_path):
    hub = fill_folder(models, tmp_path / "hub", ("ink", "oil"))
    done = call(hub, "--repo", "ink", "--repo", "oil", "--max-models", "1")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("local:ink\tpublished")
    assert "local:oil: left for next time: --max-models was reached" in done.stderr


def test_ctrl_c_writes_the_page_and_ends_with_130(call, stale, monkeypatch, tmp_path):
    module = import_module("gmi_registry.cli.regenerate")

    class Interrupted(module.StageProgress):
        def __call__(self, stage, done, total):
            super().__call__(stage, done, total)
            if stage == "encode":
                raise KeyboardInterrupt

    page = tmp_path / "done.md"
    with monkeypatch.context() as patched:
        patched.setattr(module, "StageProgress", Interrupted)
        done = call(stale, "--summary", page)
    assert done.exit_code == 130
    assert "local:ink: left for next time: the run was interrupted" in done.stderr
    assert ", interrupted" in page.read_text()
    assert call(stale).exit_code == 0


@pytest.mark.parametrize("date", ["yesterday", "2026-13-01", "01.02.2026"])
def test_dates_that_are_none(call, stale, date):
    done = call(stale, "--since", date)
    assert done.exit_code == 2
    assert "--since" in done.stderr


def test_dates(call, stale):
    assert call(stale, "--plan", "-q", "--since", "2999-01-01").stdout == ""
    assert call(stale, "--plan", "-q", "--since", "2020-01-01T08:00").stdout == "local:ink\n"


def test_a_folder_that_is_no_hub_and_a_page_that_cannot_be_written(call, stale, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = call(stale, "--summary", tmp_path / "file" / "done.md")
    assert done.exit_code == 1
    assert "hint: name another file: --summary FILE.md" in done.stderr
    words = ["regenerate", "--hub", str(tmp_path / "nothing")]
    assert CliRunner().invoke(app, words).exit_code == 1


@pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])
def test_all_of_a_hub_is_proposed_to_nobody_by_accident(remote, tmp_path):
    words = ["regenerate", "--hub", "hf", "--work", str(tmp_path / "work"), "--token", SECRET]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "hint: name models: --repo owner/model" in done.stderr
    assert remote.requests == []
    done = CliRunner().invoke(app, [*words, "--repo", "alice/ink", "-q"])
    assert (done.exit_code, done.stdout) == (0, "hf:alice/ink\n"), done.stderr
    assert SECRET not in done.output
    done = CliRunner().invoke(app, [*words, "--plan"])
    assert done.stdout.startswith("hf:alice/ink\tfresh\t")


def test_the_runners_script_passes_everything_on(stale, tmp_path):
    """What a timer calls."""
    script = ROOT / "ci" / "regenerate.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    environment = os.environ | {
        "GMI": f"{sys.executable} -m gmi_registry_gmi",
        "GMI_REGENERATE_DIR": str(tmp_path / "kept"),
        "HF_TOKEN": SECRET,
    }
    (tmp_path / "gmi_registry_gmi.py").write_text(
        "import sys\nfrom gmi_registry.cli.main import main\nsys.exit(main())\n"
    )

    def run(*arguments):
        return subprocess.run(
            [script, "--hub", str(stale.root), *arguments],
            capture_output=True,
            text=True,
            env=environment | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )

    planned = run("--plan")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("local:ink\tstale\t")
    (stale.root / "models" / "ink" / WEIGHTS).write_bytes(UNFIT)
    failed = run("--json")
    assert failed.returncode == 1
    assert len(json.loads(failed.stdout)["failed"]) == 1
    (page,) = (tmp_path / "kept" / "summaries").iterdir()
    assert "1 failed" in page.read_text()
    assert SECRET not in planned.stdout + failed.stdout + failed.stderr + page.read_text()


def test_several_at_a_time_and_by_whom(call, stale, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = call(stale, "--executor", "local", "--workers", 2)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("local:ink\tpublished\t")
    assert call(stale, "--executor", "cloud").exit_code == 2
    assert call(stale, "--workers", 0).exit_code == 2
