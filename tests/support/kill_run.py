"""Regeneration killed at seeded points: ``python -m tests.support.kill_run [POINTS]``.

A child regenerates one model, on a folder's hub and on a loopback hub in turn, and is killed with
SIGKILL just before it makes, moves or removes a file, or sends a request, or just after an answer
to one came. Then the model must hold its old specification or the new one, whole, and the next run
must finish with the new one and one commit in all. A third finds nothing to do. Prints a table and
exits with 1 where something did not hold. A seed draws a point; in another run the same number may
lie a few steps away, since what is remembered of files depends on their age.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.kill_steps import COMMITTING, NOTE, PROMPTS, Steps, stages
from tests.support.kill_world import FolderWorld, LoopbackWorld
from tests.support.regeneration_world import encoder_from, other_weights, round_over, save_models

# isort: split
import pytest

from gmi_registry import generation
from gmi_registry.regeneration import FailureStore, describe
from tests.support.loopback import LoopbackHub, fixtures

__all__ = ["Point", "main"]

_POINTS = 30
_PATIENCE = 300.0  # seconds that a child may take


@dataclass(frozen=True)
class Point:
    """One kill, and what was found. ``left`` is the specification that the model had then."""

    seed: int
    hub: str
    stage: str
    step: int
    steps: int
    before: str
    left: str
    next_run: str
    drawn_again: int
    commits: int
    fault: str | None = None


def _child(work: Callable[[], None]) -> int:
    """The exit status of a forked process that does ``work``, or minus the signal that ended it."""
    number = os.fork()
    if number == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # into the status, and never into the parent's code
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    raise AssertionError(f"the child did not end within {_PATIENCE:.0f} s")


def _regenerate(world: Any, run: Path, last: int | str | None, answer: Path) -> int:
    """One run in a child, which writes what it did to ``answer``."""

    def work() -> None:
        steps = Steps(last)
        name = "ink" if world.name == "local" else "alice/ink"
        this = round_over(world.open(), run / "work", repos=[name])
        os.environ[NOTE] = str(answer.with_suffix(".note"))
        steps.watch()
        summary = this.run(this.plan())
        steps.stop()
        answer.write_text(json.dumps({"steps": steps.names, **summary.to_json()}), encoding="utf-8")

    answer.unlink(missing_ok=True)
    return _child(work)


def _world_run(world: Any, run: Path) -> None:
    """A new copy of the world in ``run``, with an old specification and new weights."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    world.begin(run)
    assert _regenerate(world, run, None, run / "first.json") == 0
    assert json.loads((run / "first.json").read_text())["done"], "nothing was published"
    world.change()


def _point(world: Any, run: Path, seed: int, names: list[str]) -> Point:
    draw = random.Random(seed)
    # Most lie where files and commits are put in their place.
    stage = draw.choice(["looking", "drawing", "putting", "putting", "committing", "cleaning"])
    step: int | str
    if stage == "committing" and world.name == "hf":
        step = draw.choice(COMMITTING)
    else:
        step = draw.choice(stages(names)["putting" if stage == "committing" else stage])
    _world_run(world, run)
    old, commits = world.spec(), world.commits()
    answer = run / "second.json"
    assert _regenerate(world, run, step, answer) == -signal.SIGKILL, "the child was not killed"
    killed = json.loads(answer.with_suffix(".note").read_text())
    left = world.spec()  # raises for one that is not whole
    assert world.commits() <= commits + (world.name == "hf")

    assert _regenerate(world, run, None, answer) == 0
    said = json.loads(answer.read_text())
    assert not any(said[part] for part in ("failed", "set_aside", "left")), said
    new = world.spec()
    assert new is not None
    assert old is not None
    assert new.digest != old.digest
    assert new.manifest.previous == old.digest
    assert left is None or left.digest in (old.digest, new.digest), "neither the old nor the new"
    if world.name == "hf":
        assert world.commits() == commits + 1, "not one commit in all"
        assert left is not None

    assert _regenerate(world, run, None, answer) == 0
    last = json.loads(answer.read_text())
    assert (last["fresh"], last["done"]) == (1, []), last
    rooms = run / "work" / "regeneration"
    assert not list(rooms.glob("*/work/*/*")), "pictures were left"
    (kept,) = rooms.glob("*/failures.sqlite3")
    assert FailureStore(kept.parent).histories() == {}, "what failed was not cleared"
    assert not list(rooms.glob("*/failures.sqlite3-*")), "a journal was left"
    seen = "none" if left is None else "old" if left.digest == old.digest else "new"
    what = said["done"] or said["passed"]
    return Point(
        seed=seed,
        hub=world.name,
        stage=killed["stage"],
        step=killed["step"],
        steps=len(names),
        before=_short(killed["name"], run),
        left=seen,
        next_run=what[0]["outcome"] if what else "nothing to do",
        drawn_again=sum(result["images"] for result in what),
        commits=world.commits() - commits,
    )


def _short(text: str, run: Path) -> str:
    text = text.replace(str(run), "")
    return "".join(letter if letter.isprintable() else "?" for letter in text)[-60:]


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", nargs="?", type=int, default=_POINTS)
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", action="store_true", help="print the points as JSON")
    options = parser.parse_args(arguments)
    # Children are forked: a library's threads would not live on in them.
    import torch

    torch.set_num_threads(1)
    points: list[Point] = []
    with (
        tempfile.TemporaryDirectory(prefix="gmi-kill-") as folder,
        pytest.MonkeyPatch.context() as patch,
        LoopbackHub() as hub,
    ):
        room = Path(folder)
        fixtures.turn_client(patch, hub.endpoint, room / "home")
        models = save_models(room / "models")
        other_weights(models)
        load = encoder_from(models)
        patch.setattr(generation, "default_prompt_set", lambda model: PROMPTS)
        patch.setattr(describe, "load_encoder", load)
        publishing = importlib.import_module("gmi_registry.publish_plan")
        patch.setattr(publishing, "load_encoder", load)
        patch.setattr(publishing, "check_encoder", lambda *_, **__: 0)
        worlds = [FolderWorld(room, models), LoopbackWorld(hub, models)]
        steps = []
        for world in worlds:
            run = room / "count"
            _world_run(world, run)
            assert _regenerate(world, run, None, run / "count.json") == 0
            steps.append(json.loads((run / "count.json").read_text())["steps"])
        for seed in range(options.first, options.first + options.points):
            world, names = worlds[seed % 2], steps[seed % 2]
            start = time.monotonic()
            try:
                point = _point(world, room / "run", seed, names)
            except Exception:  # of whatever kind: it is the finding
                fault = traceback.format_exc()
                point = Point(seed, world.name, "", 0, len(names), "", "", "", 0, 0, fault)
            points.append(point)
            print(f"{seed}: {time.monotonic() - start:.1f} s", point, file=sys.stderr, flush=True)
        assert not hub.failures, hub.failures
    _write(points, as_json=options.json)
    return 1 if any(point.fault for point in points) else 0


def _write(points: list[Point], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(point) for point in points], indent=2))
        return
    print("| seed | hub | while | step | killed before | left | next run | drawn again | commits |")
    print("|---|---|---|---|---|---|---|---|---|")
    for it in points:
        if it.fault:
            print(f"| {it.seed} | {it.hub} | | FAILED | {it.fault.splitlines()[-1]} | | | | |")
            continue
        print(
            f"| {it.seed} | {it.hub} | {it.stage} | {it.step} of {it.steps} | {it.before} | "
            f"{it.left} | {it.next_run} | {it.drawn_again} | {it.commits} |"
        )


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
