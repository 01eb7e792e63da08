"""One worker process, as its parent holds it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

from gmi_registry.regeneration.executor import Result, Work
from gmi_registry.regeneration.executors.failure import Perform, lost

__all__ = ["WorkerProcess", "stop_all"]

_MAIN = "from gmi_registry.regeneration.executors.child import main; main()"
_POSIX = os.name == "posix"
_GRACE = 5.0
# Several processes are waited for, up to a moment: no call does that on every system.
_LOOK_AGAIN = 0.02
_FEWER = "run it again, with fewer --workers if memory was short"


class WorkerProcess:
    """A new process that does ``work`` and ends, with whatever it started itself.

    ``place`` is a file that does not exist yet, for the result. ``need`` are the bytes of memory it
    is expected to take at most; ``threads`` what its arithmetic may use.
    """

    def __init__(
        self, work: Work, perform: Perform, place: Path, *, need: int = 0, threads: int = 1
    ) -> None:
        self.work = work
        self.need = need
        self._place = place
        self._ended: int | None = None
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        # Several at a time would draw their bars over one another, and over the run's own.
        said = None if environment.get("HF_DEBUG") else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
            # Out of reach of the terminal's Ctrl-C, and one group with all that it will start.
            start_new_session=_POSIX,
        )
        assert self._process.stdin is not None
        # It may have died already; then it is found dead.
        with contextlib.suppress(OSError):
            self._process.stdin.write(pickle.dumps((perform, work, str(place))))
            self._process.stdin.flush()

    @property
    def id(self) -> int:
        """The process id, of the group as well."""
        return self._process.pid

    def resident(self) -> int:
        """Bytes of memory that it has now; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self.id}/statm").read_text(encoding="ascii").split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0

    def ended(self) -> bool:
        """Whether it is over; what it started is then over too."""
        if self._ended is None and self._is_over():
            self._end_group()
            self._ended = self._process.wait()
            self._close()
        return self._ended is not None

    def result(self) -> Result:
        """What it wrote, once it has ended; ``lost`` where it came to no result."""
        try:
            found = pickle.loads(self._place.read_bytes())
        except FileNotFoundError:
            found = None
        if isinstance(found, Result):
            return found
        return lost(self.work, f"its process ended with {_named(self._ended)}", hint=_FEWER)

    def ask_to_stop(self) -> None:
        """Let it end in its own time."""
        if not self.ended():
            self._process.terminate()

    def stop(self) -> None:
        """End it now, with all that it started."""
        if self._ended is not None:
            return
        self._end_group()
        self._process.kill()
        self._ended = self._process.wait()
        self._close()

    def _is_over(self) -> bool:
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        # Left unreaped, so that its number is nobody else's while the group is ended.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.id, options) is not None
        except ChildProcessError:
            return True

    def _end_group(self) -> None:
        if _POSIX:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.id, signal.SIGKILL)

    def _close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


def stop_all(processes: list[WorkerProcess], *, grace: float = _GRACE) -> None:
    """Ask all of them to end, and end after ``grace`` seconds those that have not."""
    try:
        for process in processes:
            process.ask_to_stop()
        until = time.monotonic() + grace
        while time.monotonic() < until and not all(process.ended() for process in processes):
            time.sleep(_LOOK_AGAIN)
    finally:
        for process in processes:
            process.stop()


def _named(code: int | None) -> str:
    if code is None or code >= 0:
        return f"code {code} and no result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    out_of_memory = ", as where memory runs out" if name == "SIGKILL" else ""
    return f"signal {-code} ({name}){out_of_memory}"
