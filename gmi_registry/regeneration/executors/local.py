"""Worker processes on this machine, as many as are wanted and as memory allows."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.regeneration.executor import Result, Work
from gmi_registry.regeneration.executors.failure import Perform, usual_perform
from gmi_registry.regeneration.executors.memory import BASE, estimated_need, free_memory
from gmi_registry.regeneration.executors.process import WorkerProcess, stop_all

__all__ = ["LocalExecutor"]

# No system but some can wait for whichever of several processes ends first.
_LOOK_AGAIN = 0.05


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
        if workers < 1:
            raise InputError(f"{workers} workers do nothing", hint="use --workers 1 or more")
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
                        time.sleep(_LOOK_AGAIN)
            finally:
                stop_all(running)

    def _begin(self, work: Work, need: int, perform: Perform, place: Path) -> WorkerProcess:
        threads = max(1, (os.cpu_count() or 1) // self._workers)
        return WorkerProcess(work, perform, place, need=need, threads=threads)

    def _fits(self, need: int, running: list[WorkerProcess]) -> bool:
        claimed = sum(max(0, process.need - process.resident()) for process in running)
        return need <= self._free() - claimed
