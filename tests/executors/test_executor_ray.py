"""A real Ray, small and on this machine: what becomes of works, of tasks that die, and of Ray."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gmi_registry.errors import InputError, MissingExtraError, install_command
from gmi_registry.regeneration import Work
from gmi_registry.regeneration.ray_executor import RayExecutor
from gmi_registry.regeneration.run import executor_named
from tests.support import deeds

ray = pytest.importorskip("ray")


def executor(workers: int = 2, **settings) -> RayExecutor:
    settings = {"need": lambda work: 0, "num_gpus": 0} | settings
    return RayExecutor(workers, perform=deeds.do, **settings)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """One run of several fates, and the folder with its traces."""
    folder = tmp_path_factory.mktemp("ray")
    fates = ("sleep 0.5", "die", "die-once", "fail", "refuse", "sleep 0.6", "leave")
    works = deeds.works(folder, *fates, token="hf_abcdefghijkl")
    results = list(executor().run(iter(works)))
    assert not ray.is_initialized()
    return folder, dict(zip(fates, (_of(work, results) for work in works), strict=True))


def _of(work: Work, results):
    (found,) = [result for result in results if result.model == work.model]
    return found


def test_one_result_a_work(outcomes):
    found = {fate: result.outcome for fate, result in outcomes[1].items()}
    assert found == {
        "sleep 0.5": "published",
        "die": "lost",
        "die-once": "published",
        "fail": "failed",
        "refuse": "failed",
        "sleep 0.6": "published",
        "leave": "lost",
    }


def test_works_are_done_in_other_processes_two_at_a_time(outcomes):
    folder, results = outcomes
    assert int(results["sleep 0.5"].reason) != os.getpid()
    assert deeds.most_at_once(folder) <= 2


def test_errors_tell_no_token(outcomes):
    assert outcomes[1]["fail"].reason == "ValueError: no such layer, token … and more"
    assert outcomes[1]["refuse"].hint == "train it"


def test_a_dead_worker_is_named(outcomes):
    assert outcomes[1]["die"].reason.startswith("its Ray task ended with ")
    assert "--workers" in outcomes[1]["die"].hint


_PROGRAM = """
import sys
from tests.support import deeds
from pathlib import Path
from gmi_registry.regeneration.ray_executor import RayExecutor
works = deeds.works(Path(sys.argv[1]), "sleep 60", "sleep 60")
run = RayExecutor(2, perform=deeds.do, need=lambda work: 0, num_gpus=0).run(iter(works))
list(run)
"""


def test_ctrl_c_ends_ray_too(tmp_path):
    program = _PROGRAM
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stderr=subprocess.DEVNULL,
        preexec_fn=deeds.hear_ctrl_c,
        start_new_session=True,
    )
    deeds.wait_for(lambda: len(list(tmp_path.glob("*.began"))) == 2, 90)
    workers = [int(path.read_text().split()[-1]) for path in tmp_path.glob("*.began")]
    family = deeds.descendants(parent.pid)
    assert len(family) > 2
    parent.send_signal(2)
    assert parent.wait(60) != 0
    deeds.wait_for(lambda: not any(map(deeds.alive, [*workers, *family])), 30)
    assert not list(tmp_path.glob("*.ended"))


def test_a_cluster_that_does_not_answer(tmp_path):
    run = executor(address="127.0.0.1:1").run(iter(deeds.works(tmp_path, "sleep 0")))
    with pytest.raises(InputError, match="no Ray cluster answers"):
        next(run)


def test_tokens_are_not_sent_to_a_cluster(tmp_path):
    work = deeds.works(tmp_path, "sleep 0", token="hf_abcdefghijkl")[0]
    sent = executor(address="127.0.0.1:6379")._sent(work)
    assert sent.options.token is None
    assert sent.model == work.model
    assert executor()._sent(work) == work


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError) as caught:
        executor_named("ray", 2)
    assert caught.value.hint == install_command("ray")


def test_without_works_no_ray_is_started():
    assert list(executor().run(iter([]))) == []
    assert not ray.is_initialized()
