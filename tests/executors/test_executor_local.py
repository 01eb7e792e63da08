"""Worker processes: how many, what becomes of those that die, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gmi_registry.errors import InputError
from gmi_registry.regeneration import Options, Result, Work
from gmi_registry.regeneration.processes import BASE, LocalExecutor, WorkerProcess, stop_all
from tests.support import deeds

GIB = 2**30


def executor(workers: int, **settings) -> LocalExecutor:
    settings = {"need": lambda work: 0, "free": lambda: 64 * GIB} | settings
    return LocalExecutor(workers, perform=deeds.do, **settings)


def pids(folder: Path, ending: str) -> list[int]:
    return [int(path.read_text().split()[-1]) for path in folder.glob(f"*.{ending}")]


def test_each_model_has_a_process_and_so_many_run_at_once(tmp_path):
    works = deeds.works(tmp_path, *["meet 2"] * 2, *["sleep 0.2"] * 3)
    results = list(executor(2).run(iter(works)))
    assert {result.model for result in results} == {work.model for work in works}
    assert {result.outcome for result in results} == {"published"}
    processes = {int(result.reason) for result in results}
    assert len(processes) == 5
    assert os.getpid() not in processes
    assert deeds.most_at_once(tmp_path) == 2


def test_results_come_as_they_are_there(tmp_path):
    works = deeds.works(tmp_path, "sleep 3", "sleep 0")
    results = list(executor(2).run(iter(works)))
    assert [result.model for result in results] == ["hf:owner/model-1", "hf:owner/model-0"]


def test_what_dies_costs_itself_alone(tmp_path):
    works = deeds.works(tmp_path, "die", "sleep 0", "leave", "sleep 0", "die")
    results = {result.model: result for result in executor(2).run(iter(works))}
    assert Counter(result.outcome for result in results.values()) == {"lost": 3, "published": 2}
    assert "SIGKILL" in results["hf:owner/model-0"].reason
    assert "code 3 and no result" in results["hf:owner/model-2"].reason
    assert "--workers" in (results["hf:owner/model-0"].hint or "")


def test_errors_are_results_and_tell_no_token(tmp_path):
    works = deeds.works(tmp_path, "fail", "refuse", token="hf_abcdefghijkl")
    fault, refusal = executor(1).run(iter(works))
    assert (fault.outcome, fault.error) == ("failed", "ValueError")
    assert fault.reason == "ValueError: no such layer, token … and more"
    assert (refusal.outcome, refusal.reason, refusal.hint) == (
        "failed",
        "it draws nothing",
        "train it",
    )


@pytest.mark.parametrize(("need", "most"), [(4, 2), (6, 1), (900, 1)])
def test_memory_bounds_how_many_run(tmp_path, need, most):
    """10 GiB are free, whatever the workers have taken of it so far."""
    works = deeds.works(tmp_path, *[f"meet {most}"] * most, "sleep 0.5", "sleep 0.5")
    done = executor(3, need=lambda work: need * GIB, free=lambda: 10 * GIB).run(iter(works))
    assert [result.outcome for result in done] == ["published"] * len(works)
    assert deeds.most_at_once(tmp_path) == most


def test_no_work_is_taken_before_there_is_somebody_for_it(tmp_path):
    taken = []

    def source():
        for work in deeds.works(tmp_path, *["sleep 0.2"] * 4):
            taken.append(work)
            yield work

    run = executor(2).run(source())
    next(run)
    assert len(taken) == 2
    assert len(list(run)) == 3
    taken.clear()
    tight = executor(2, free=lambda: BASE - 1).run(source())
    next(tight)
    assert len(taken) == 1
    tight.close()


def test_ctrl_c_in_the_iterator_leaves_nobody_behind(tmp_path):
    run = executor(2).run(iter(deeds.works(tmp_path, "breed 60", "breed 60", "sleep 0")))

    # As Ctrl-C would, in the middle of the wait, once all of them are there.
    def interrupt(number, frame):
        if len(pids(tmp_path, "child")) == 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        with pytest.raises(KeyboardInterrupt):
            next(run)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    processes = pids(tmp_path, "began") + pids(tmp_path, "child")
    assert len(processes) == 4
    deeds.wait_for(lambda: not any(map(deeds.alive, processes)))
    assert not list(tmp_path.glob("*.ended"))


def test_closing_leaves_nobody_behind(tmp_path):
    run = executor(2).run(iter(deeds.works(tmp_path, "meet 2", "breed 60")))
    assert next(run).outcome == "published"
    deeds.wait_for(lambda: pids(tmp_path, "child"))
    run.close()
    processes = pids(tmp_path, "began") + pids(tmp_path, "child")
    assert len(processes) == 3
    deeds.wait_for(lambda: not any(map(deeds.alive, processes)))


def test_who_does_not_listen_is_ended(tmp_path):
    work = deeds.works(tmp_path, "hold-on 60")[0]
    process = WorkerProcess(work, deeds.do, tmp_path / "result")
    deeds.wait_for((tmp_path / "model-0.deaf").exists)
    start = time.monotonic()
    stop_all([process], grace=0.5)
    assert 0.4 < time.monotonic() - start < 3
    assert not deeds.alive(process.id)
    assert process.result().outcome == "lost"


_PROGRAM = """
import sys
from tests.support import deeds
from pathlib import Path
from gmi_registry.regeneration.processes import LocalExecutor
if __name__ == "__main__":
    works = deeds.works(Path(sys.argv[1]), "breed 60", "breed 60")
    run = LocalExecutor(2, perform=deeds.do, need=lambda work: 0).run(iter(works))
    list(run)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_the_end_of_the_parent(tmp_path, number):
    program = _PROGRAM
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=deeds.hear_ctrl_c,
    )
    deeds.wait_for(lambda: len(pids(tmp_path, "child")) == 2, 60)
    processes = pids(tmp_path, "began") + pids(tmp_path, "child")
    assert all(map(deeds.alive, processes))
    parent.send_signal(number)
    assert parent.wait(20) == -number
    deeds.wait_for(lambda: not any(map(deeds.alive, processes)), 10)
    said = parent.stderr.read()
    # One traceback of the parent's own, none of a worker's.
    assert said.count("Traceback") == (1 if number == signal.SIGINT else 0)


def test_tokens_are_on_no_command_line(tmp_path):
    work = deeds.works(tmp_path, "sleep 60", token="hf_abcdefghijkl")[0]
    process = WorkerProcess(work, deeds.do, tmp_path / "result")
    deeds.wait_for((tmp_path / "model-0.began").exists)
    for name in ("cmdline", "environ"):
        assert b"hf_abcdefghijkl" not in Path(f"/proc/{process.id}/{name}").read_bytes()
    assert process.resident() > 2**20
    stop_all([process], grace=2)
    assert not deeds.alive(process.id)


def test_no_workers_are_an_error():
    with pytest.raises(InputError, match="0 workers"):
        LocalExecutor(0)


def test_a_result_of_another_model_is_none(tmp_path):
    work = Work("hf", "hf:owner/name", "x", Options(str(tmp_path)))
    found = list(LocalExecutor(1, perform=_of_another, need=lambda _: 0).run(iter([work])))
    assert [(result.model, result.outcome) for result in found] == [("hf:owner/name", "failed")]


def _of_another(work: Work) -> Result:
    return Result("hf:owner/other", "published", "done")
