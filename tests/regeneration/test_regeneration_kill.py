"""Killed runners and several at once, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from gmi_registry.spec import read_spec
from tests.support.regeneration_world import WEIGHTS, fill_folder, other_weights

POINTS = 4
_GMI = "import sys; from gmi_registry.cli.main import main; sys.exit(main())"

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def test_killed_at_seeded_points_the_old_or_the_new_is_there_and_the_next_run_ends_it():
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_run", str(POINTS), "--json"],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    points = json.loads(done.stdout)
    assert [point["fault"] for point in points] == [None] * POINTS
    assert {point["hub"] for point in points} == {"local", "hf"}
    assert {point["left"] for point in points} <= {"old", "new"}


def test_two_runners_at_once_do_it_once(models, tmp_path):
    hub = fill_folder(models, tmp_path / "hub")
    command = [
        *(sys.executable, "-c", _GMI, "regenerate", "--hub", str(hub.root), "--repo", "ink"),
        *("--work", str(tmp_path / "work"), "--cache-dir", str(tmp_path / "cache"), "--json"),
    ]

    def both():
        runners = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            for _ in range(2)
        ]
        answers = [(*runner.communicate(timeout=600), runner.returncode) for runner in runners]
        assert [status for _, _, status in answers] == [0, 0], answers
        documents = [json.loads(stdout) for stdout, _, _ in answers]
        return [result["outcome"] for it in documents for result in it["done"] + it["passed"]]

    first = both()
    assert first.count("published") == 1, first
    assert set(first) <= {"published", "busy", "fresh"}
    before = read_spec(hub.root / "models" / "ink")
    (hub.root / "models" / "ink" / WEIGHTS).write_bytes(other_weights(models))
    second = both()
    assert second.count("published") == 1, second
    assert read_spec(hub.root / "models" / "ink").manifest.previous == before.digest
