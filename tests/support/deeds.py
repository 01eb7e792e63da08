"""What workers do in these tests. Other processes find them by name, in this module.

``work.reason`` says what is to happen, ``work.options.work`` is a folder to leave traces in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gmi_registry.errors import GenerationError
from gmi_registry.regeneration import Options, Result, Work


def works(folder: Path, *deeds: str, token: str | None = None) -> list[Work]:
    return [
        Work("hf", f"hf:owner/model-{number}", deed, Options(str(folder), token=token))
        for number, deed in enumerate(deeds)
    ]


def do(work: Work) -> Result:
    """As ``work.reason`` says, with a line in a file when it begins and when it ends."""
    name = work.model.rpartition("/")[2]
    folder = Path(work.options.work)
    _note(folder / f"{name}.began", f"{time.time()} {os.getpid()}")
    deed, _, detail = work.reason.partition(" ")
    DEEDS[deed](folder, name, detail, work)
    _note(folder / f"{name}.ended", str(time.time()))
    return Result(work.model, "published", str(os.getpid()), images=3)


def _note(path: Path, text: str) -> None:
    """Whoever finds the file finds all of it."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(text)
    scratch.replace(path)


def _sleep(folder: Path, name: str, detail: str, work: Work) -> None:
    time.sleep(float(detail))


def _meet(folder: Path, name: str, detail: str, work: Work) -> None:
    """Wait until so many have begun, which nobody does who is alone."""
    wait_for(lambda: len(list(folder.glob("*.began"))) >= int(detail), 60)


def _die(folder: Path, name: str, detail: str, work: Work) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(folder: Path, name: str, detail: str, work: Work) -> None:
    mark = folder / f"{name}.died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _leave(folder: Path, name: str, detail: str, work: Work) -> None:
    os._exit(3)


def _fail(folder: Path, name: str, detail: str, work: Work) -> None:
    raise ValueError(f"no such layer, token {work.options.token}\nand more")


def _refuse(folder: Path, name: str, detail: str, work: Work) -> None:
    raise GenerationError("it draws nothing", hint="train it")


def _breed(folder: Path, name: str, detail: str, work: Work) -> None:
    """Start a process of its own, and sleep."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    _note(folder / f"{name}.child", str(child.pid))
    time.sleep(float(detail))


def _hold_on(folder: Path, name: str, detail: str, work: Work) -> None:
    """Sleep, and take no notice of being asked to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"{name}.deaf").touch()
    time.sleep(float(detail))


DEEDS = {
    "sleep": _sleep,
    "meet": _meet,
    "die": _die,
    "die-once": _die_once,
    "leave": _leave,
    "fail": _fail,
    "refuse": _refuse,
    "breed": _breed,
    "hold-on": _hold_on,
}


def most_at_once(folder: Path) -> int:
    """How many of those that began and ended did so at the same time."""
    moments = []
    for ended in folder.glob("*.ended"):
        began = ended.with_suffix(".began").read_text().split()[0]
        moments += [(float(began), 1), (float(ended.read_text()), -1)]
    most = now = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def alive(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of one."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def wait_for(condition, seconds: float = 30.0):
    """What ``condition`` returns, once it is true of it. Fails where that never happens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def descendants(pid: int) -> list[int]:
    """The processes that a process began, and those that they began."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(place.parent.name))
    found, at = [], [pid]
    while at:
        children = parents.get(at.pop(), [])
        found += children
        at += children
    return found


def hear_ctrl_c() -> None:
    """A shell starts what is in the background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def describe_and_die_once(work: Work) -> Result:
    """The worker's own, killed once, when two batches of ``ink`` are drawn, one of them kept."""
    from gmi_registry.regeneration.describe import perform

    mark = Path(work.options.work) / "died"
    drawn: list[int] = []

    def told(stage: str, done: int, total: int) -> None:
        if work.model.endswith("ink") and stage == "generate" and done:
            drawn.append(done)
        if len(drawn) == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return perform(work, progress=told)
