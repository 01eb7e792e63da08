"""Work that the generating thread need not wait for, done on a second thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

__all__ = ["Backlog"]


class Backlog:
    """A context manager that does one piece of work at a time, in the order given.

    At most one piece is not done yet, so what waits holds the memory of one batch. Whatever ends
    the block, Ctrl-C too, what was put is finished first. An error of the work is raised by the
    next :meth:`put`, or at the end of a block that has no error of its own.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backlog")
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def put(self, work: Callable[[], None]) -> None:
        """Wait until the piece before is done, and start this one. Raises what that one raised."""
        self.wait()
        self._last = self._thread.submit(work)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

    def wait(self) -> None:
        """Wait until all is done that was put. Raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
