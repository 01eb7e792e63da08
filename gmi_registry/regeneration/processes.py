"""Worker processes on this machine, as many as are wanted and as memory allows."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gmi_registry.atomic import write_file
from gmi_registry.errors import GmiError
from gmi_registry.regeneration.work import Perform, Result, Work, lost, performed, require_workers
from gmi_registry.sanitize import guarded_output

# --- Memory --------------------------------------------------------------------------------------

BASE = 3 * 2**30
"""Bytes for the libraries (some 1 GiB) and an encoder such as ViT-L-14 in float32 (1.7 GB)."""

FACTOR = 3.0
"""Weights in memory to weights on disk, at their most.

A network of 840 million weights, as that of Stable Diffusion 1.5, came to 2.9 where it was stored
in 16 bits and drew in 32, while both are held; where it was stored in 32 bits it came to 1.
"""

UNKNOWN = 8 * 2**30
"""Bytes of weights where nobody says how many there are: a model of the larger kind."""

_PROC = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_WEIGHTS = (".safetensors", ".gguf")


def estimated_need(work: Work) -> int:
    """Bytes of memory that describing the model takes, by the sizes of its weights.

    They are those that its present specification names, the base's included: other weights of a
    model are most often of the same size. Where it has none they are those in its folder; else the
    model counts as a large one. At most a few requests, and nothing is raised.
    """
    weights = _described(work)
    if weights is None:
        weights = _in_folder(work)
    return BASE + int(FACTOR * (UNKNOWN if weights is None else weights))


def free_memory() -> int:
    """Bytes that new processes may take, within the limit of this container where it has one."""
    bounds = [bound for bound in (_of_machine(), _of_container(_CGROUP)) if bound is not None]
    # Where nothing is known, nothing can be bounded.
    return min(bounds, default=2**63)


def _described(work: Work) -> int | None:
    from gmi_registry.hubs.open import makes_links, opened_hub
    from gmi_registry.spec import SPEC_DIR, ModelRef, read_manifest

    access = work.options.access
    try:
        ref = ModelRef.parse(work.model)
        if work.to_registry and work.hub == "hf":
            from gmi_registry.hubs.open import open_registry

            with open_registry(access) as registry:
                model = read_manifest(registry.fetch_spec(ref).parent, follow_links=True).model
        else:
            with opened_hub(work.hub, access) as hub:
                folder = hub.fetch_spec(ref)
                parent = folder.parent if folder.name == SPEC_DIR else folder
                model = read_manifest(parent, follow_links=makes_links(hub)).model
    except GmiError:
        return None
    return sum(file.size for file in (*model.weights, *(model.base_weights or ())))


def _in_folder(work: Work) -> int | None:
    folder = Path(work.hub.removeprefix("local:")) / "models" / work.model.partition(":")[2]
    if work.hub in ("hf", "civitai") or not folder.is_dir():
        return None
    files = (path for path in folder.rglob("*") if path.suffix in _WEIGHTS and path.is_file())
    sizes = [path.stat().st_size for path in files]
    return sum(sizes) if sizes else None


def _of_machine() -> int | None:
    try:
        for line in _PROC.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        # Of the libraries that draw, accelerate requires it.
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _of_container(root: Path) -> int | None:
    """What the control group has left; memory of cached files is given back where it is wanted."""
    pairs = (
        (root / "memory.max", root / "memory.current", root / "memory.stat", "inactive_file"),
        (
            root / "memory" / "memory.limit_in_bytes",
            root / "memory" / "memory.usage_in_bytes",
            root / "memory" / "memory.stat",
            "total_inactive_file",
        ),
    )
    for limit, usage, statistics, cached in pairs:
        try:
            most = limit.read_text(encoding="ascii").strip()
            if most == "max":
                return None
            used = int(usage.read_text(encoding="ascii"))
            lines = statistics.read_text(encoding="ascii").splitlines()
            given_back = sum(int(line.split()[1]) for line in lines if line.split()[0] == cached)
            return max(0, int(most) - used + given_back)
        except (OSError, ValueError, IndexError):
            continue
    return None


# --- Processes that end with this one ------------------------------------------------------------

_POSIX = os.name == "posix"
_GRACE = 5.0
# Several processes are waited for, up to a moment: no call does that on every system.
_STOP_POLL_SECONDS = 0.02


class ChildProcess:
    """A Python process with ``arguments``, which ends with this one, and with it all it started.

    It gets ``orders`` on its standard input, which stays open as long as this process lives: see
    :func:`end_with_parent`. It hears no Ctrl-C of a terminal.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        orders: bytes = b"",
        silent: bool = False,
    ) -> None:
        self._code: int | None = None
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if silent else None,
            stderr=subprocess.DEVNULL if silent and not environment.get("HF_DEBUG") else None,
            env=environment,
            # One group with all that it will start.
            start_new_session=_POSIX,
        )
        assert self._process.stdin is not None
        self._orders = self._process.stdin
        # It may have died already; then it is found dead.
        with contextlib.suppress(OSError):
            self._orders.write(orders)
            self._orders.flush()

    @property
    def id(self) -> int:
        """The process id, of the group as well."""
        return self._process.pid

    def is_over(self) -> bool:
        """Whether it has ended; what it started may go on."""
        if self._code is not None:
            return True
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        # Left unreaped, so that its number is nobody else's while the group is ended.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.id, options) is not None
        except ChildProcessError:
            return True

    def ended(self) -> bool:
        """Whether it is over; what it started is then over too."""
        if self._code is None and self.is_over():
            self.stop()
        return self._code is not None

    def ask_to_stop(self) -> None:
        """Let it end in its own time."""
        if not self.ended():
            self._process.terminate()

    def stop(self) -> None:
        """End it now, with all that it started."""
        if self._code is not None:
            return
        if _POSIX:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.id, signal.SIGKILL)
        self._process.kill()
        self._code = self._process.wait()
        with contextlib.suppress(OSError):
            self._orders.close()

    def fate(self) -> str:
        """How it ended, for people."""
        code = self._code
        if code is None or code >= 0:
            return f"code {code} and no result"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        out_of_memory = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"signal {-code} ({name}){out_of_memory}"


def end_with_parent(orders: IO[bytes]) -> None:
    """In a :class:`ChildProcess` that has read what it was sent: end when its parent does.

    The parent never writes again, so that the pipe ends with it, however it ends.
    """

    def wait() -> None:
        while orders.read(1):
            pass
        if _POSIX and os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, name="gmi-parent", daemon=True).start()


def stop_all(processes: Sequence[ChildProcess], *, grace: float = _GRACE) -> None:
    """Ask all of them to end, and end after ``grace`` seconds those that have not."""
    try:
        for process in processes:
            process.ask_to_stop()
        until = time.monotonic() + grace
        while time.monotonic() < until and not all(process.ended() for process in processes):
            # Their ends can be waited for one by one, and not by every system all at once.
            time.sleep(_STOP_POLL_SECONDS)
    finally:
        for process in processes:
            process.stop()


# --- One work, one process -----------------------------------------------------------------------

_MAIN = "from gmi_registry.regeneration.processes import main; main()"
_FEWER = "run it again, with fewer --workers if memory was short"


class WorkerProcess(ChildProcess):
    """A new process that does ``work`` and ends.

    ``place`` is a file that does not exist yet, for the result. ``need`` are the bytes of memory it
    is expected to take at most; ``threads`` what its arithmetic may use.
    """

    def __init__(
        self, work: Work, perform: Perform, place: Path, *, need: int = 0, threads: int = 1
    ) -> None:
        self.work = work
        self.need = need
        self._place = place
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        orders = pickle.dumps((perform, work, str(place)))
        # Several at a time would draw their bars over one another, and over the run's own.
        super().__init__(["-P", "-c", _MAIN], environment, orders=orders, silent=True)

    def resident(self) -> int:
        """Bytes of memory that it has now; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self.id}/statm").read_text(encoding="ascii").split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0

    def result(self) -> Result:
        """What it wrote, once it has ended; ``lost`` where it came to no result."""
        try:
            found = pickle.loads(self._place.read_bytes())
        except FileNotFoundError:
            found = None
        if isinstance(found, Result):
            return found
        return lost(self.work, f"its process ended with {self.fate()}", hint=_FEWER)


def main() -> None:
    """What a :class:`WorkerProcess` runs: one work from its input, one result into a file.

    SIGTERM ends it early, as Ctrl-C would; so does the parent's end.
    """
    signal.signal(signal.SIGTERM, _stop)
    # Where a terminal reaches it all the same: who stops what is the parent's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = sys.stdin.buffer
    # From the parent, which is this user's own process, over a pipe that nobody else has.
    perform, work, place = pickle.load(orders)
    end_with_parent(orders)
    with guarded_output():
        result = pickle.dumps(performed(perform, work))
        # Whole or not at all: a process may be killed at any moment.
        write_file(Path(place), result, flush=False)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


# No system but some can wait for whichever of several processes ends first.
_POLL_SECONDS = 0.05


def usual_perform() -> Perform:
    """What describes a model, which brings torch and diffusers along."""
    from gmi_registry.regeneration.describe import perform

    return perform


class LocalExecutor:
    """Up to ``workers`` processes, each of which does one model and ends.

    Another is begun only while what its model is estimated to ``need`` (bytes) fits into what is
    ``free``, less what those under way have still to claim. One is begun in any case, since an
    estimate is no reason to do nothing. A work that has been taken and does not fit yet waits; none
    is taken while there is no room for the smallest. Graphics memory is not looked at: on one card
    use one worker.

    A worker that is killed is a ``lost`` result. Closing the iterator, or Ctrl-C in it, asks the
    workers to end, and ends those that have not within five seconds, with all that they started;
    where this process is killed they end by themselves. The processor's cores are shared out among
    them, unless OMP_NUM_THREADS is set; on another number of threads the last bits of an embedding
    may differ. Raises InputError for fewer than one worker.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        perform: Perform | None = None,
        need: Callable[[Work], int] = estimated_need,
        free: Callable[[], int] = free_memory,
    ) -> None:
        require_workers(workers)
        self._workers = workers
        self._perform = perform
        self._need = need
        self._free = free

    def run(self, works: Iterator[Work]) -> Iterator[Result]:
        """The results in the order in which the models are done."""
        perform = self._perform or usual_perform()
        running: list[WorkerProcess] = []
        waiting: tuple[Work, int] | None = None
        begun, more = 0, True
        with tempfile.TemporaryDirectory(prefix="gmi-results-") as folder:
            try:
                while more or waiting or running:
                    while len(running) < self._workers and (more or waiting):
                        if waiting is None:
                            if running and not self._fits(BASE, running):
                                break
                            work = next(works, None)
                            if work is None:
                                more = False
                                break
                            waiting = (work, self._need(work))
                        if running and not self._fits(waiting[1], running):
                            break
                        place = Path(folder) / f"{begun}.result"
                        running.append(self._begin(*waiting, perform, place))
                        begun, waiting = begun + 1, None
                    ended = [process for process in running if process.ended()]
                    for process in ended:
                        running.remove(process)
                        yield process.result()
                    if running and not ended:
                        # As in stop_all; and memory that gets free tells nobody either.
                        time.sleep(_POLL_SECONDS)
            finally:
                stop_all(running)

    def _begin(self, work: Work, need: int, perform: Perform, place: Path) -> WorkerProcess:
        threads = max(1, (os.cpu_count() or 1) // self._workers)
        return WorkerProcess(work, perform, place, need=need, threads=threads)

    def _fits(self, need: int, running: list[WorkerProcess]) -> bool:
        claimed = sum(max(0, process.need - process.resident()) for process in running)
        return need <= self._free() - claimed
