"""Regeneration killed at seeded points: ``python tests/regeneration/kill_run.py [POINTS]``.

A child regenerates one model, on a folder's hub and on a loopback hub in turn, and is killed with
SIGKILL just before it makes, moves or removes a file, or sends a request, or just after an answer
to one came. Then the model must hold its old specification or the new one, whole, and the next run
must finish with the new one and one commit in all. A third finds nothing to do. Prints a table and
exits with 1 where something did not hold. Deterministic: a seed is a point.
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

from regeneration_world import (
    WEIGHTS,
    encoder_from,
    fill_folder,
    fill_loopback,
    open_loopback,
    other_weights,
    round_over,
    save_models,
    specification,
)

# isort: split
import pytest
from loopback import LoopbackHub, fixtures

from gmi_registry import generation
from gmi_registry.hubs.local import LocalHub
from gmi_registry.regeneration import worker
from gmi_registry.spec import PromptSet, Spec, read_spec

__all__ = ["Point", "main"]

_POINTS = 30
_PATIENCE = 300.0  # seconds that a child may take
_PROMPTS = PromptSet("few", 1, tuple(f"a picture of thing number {n}" for n in range(20)))
_CHANGES = frozenset(
    {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.truncate"}
)
_COMMIT = "POST /api/models/alice/ink/commit/main"
_COMMITTING = (_COMMIT, f"the answer to {_COMMIT} is used")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


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


class _Steps:
    """Notes what a process changes, and kills it at a step: the number, or the first so named."""

    def __init__(self, last: int | str | None) -> None:
        self.names: list[str] = []
        self._last = last
        self._open = False

    def watch(self) -> None:
        import httpx2

        real = httpx2.Client.send

        def send(client: Any, request: Any, **settings: Any) -> Any:
            path = request.url.path
            self.step(f"{request.method} {path}")
            answer = real(client, request, **settings)
            self.step(f"the answer to {request.method} {path} is used")
            return answer

        httpx2.Client.send = send
        self._open = True
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._open:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            self.step(f"open {arguments[0]}")
        elif event in _CHANGES:
            self.step(f"{event} {arguments[0]}")

    def step(self, name: str) -> None:
        if not self._open:
            return
        self.names.append(name)
        if self._last in (name, len(self.names)):
            self._open = False
            found = {"step": len(self.names), "stage": self._stage(), "name": name}
            _note(Path(os.environ["KILL_NOTE"]), json.dumps(found))
            os.kill(os.getpid(), signal.SIGKILL)

    def _stage(self) -> str:
        """What the process was at; another run may do the same a step earlier or later."""
        if self.names[-1] in _COMMITTING:
            return "committing"
        pictures = [name for name in self.names if name.endswith(".png")]
        if any(name.startswith("os.remove") for name in pictures):
            return "cleaning"
        whole = len(pictures) == len(_PROMPTS) and not self.names[-1].endswith(".png")
        return "putting" if whole else "drawing" if pictures else "looking"

    def stop(self) -> None:
        self._open = False


def _note(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


class _Folder:
    """The folder's hub."""

    name = "local"

    def __init__(self, room: Path, models: Path) -> None:
        self._room, self._models = room, models
        self._base = fill_folder(models, room / "first" / "hub").root

    def begin(self, run: Path) -> None:
        shutil.copytree(self._base, run / "hub")
        self._run = run

    def open(self) -> LocalHub:
        return LocalHub(self._run / "hub", self._run / "cache")

    def change(self) -> None:
        place = self._run / "hub" / "models" / "ink" / WEIGHTS
        place.write_bytes(other_weights(self._models))

    def spec(self) -> Spec | None:
        folder = self._run / "hub" / "models" / "ink"
        # A reader sees the one or the other, or between two renames none: see replacement.py.
        return read_spec(folder) if (folder / "gmi").exists() else None

    def commits(self) -> int:
        return 0


class _Loopback:
    """The loopback hub, with the real client."""

    name = "hf"

    def __init__(self, hub: LoopbackHub, models: Path) -> None:
        self._hub, self._models = hub, models

    def begin(self, run: Path) -> None:
        self._hub.clear()
        fill_loopback(self._hub, self._models)
        self._run = run

    def open(self) -> Any:
        return open_loopback(self._hub, self._run / "cache")

    def change(self) -> None:
        self._hub.commit("alice/ink", {WEIGHTS: other_weights(self._models)})

    def spec(self) -> Spec | None:
        folder = specification(self._hub, "ink", self._run / "seen")
        return None if folder is None else read_spec(folder)

    def commits(self) -> int:
        return len(self._hub.history("alice/ink"))


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
        steps = _Steps(last)
        name = "ink" if world.name == "local" else "alice/ink"
        this = round_over(world.open(), run / "work", repos=[name])
        os.environ["KILL_NOTE"] = str(answer.with_suffix(".note"))
        steps.watch()
        summary = this.run(this.plan())
        steps.stop()
        _note(answer, json.dumps({"steps": steps.names, **summary.to_json()}))

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


def _stages(names: list[str]) -> dict[str, range]:
    """The steps of a run, counted from 1, by what it does then."""
    pictures = [number for number, name in enumerate(names, 1) if name.endswith(".png")]
    drawn = [number for number in pictures if names[number - 1].startswith("open ")]
    gone = [number for number in pictures if names[number - 1].startswith("os.remove")]
    # A step more or less in another run: what is remembered of files depends on their age.
    end = len(names) - 4
    return {
        "looking": range(1, drawn[0]),
        "drawing": range(drawn[0], drawn[-1] + 1),
        "putting": range(drawn[-1] + 1, gone[0]),
        "cleaning": range(gone[0], end),
    }


def _point(world: Any, run: Path, seed: int, names: list[str]) -> Point:
    draw = random.Random(seed)
    # Most lie where files and commits are put in their place.
    stage = draw.choice(["looking", "drawing", "putting", "putting", "committing", "cleaning"])
    step: int | str
    if stage == "committing" and world.name == "hf":
        step = draw.choice(_COMMITTING)
    else:
        step = draw.choice(_stages(names)["putting" if stage == "committing" else stage])
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
    (ledger,) = rooms.glob("*/ledger.json")
    assert json.loads(ledger.read_text())["models"] == {}, "the ledger was not cleared"
    assert not list(rooms.glob("*/.*")), "a scratch file of the ledger was left"
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
        patch.setattr(generation, "default_prompt_set", lambda model: _PROMPTS)
        patch.setattr(worker, "load_encoder", load)
        patch.setattr(importlib.import_module("gmi_registry.publish"), "load_encoder", load)
        worlds = [_Folder(room, models), _Loopback(hub, models)]
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
