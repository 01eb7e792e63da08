"""Work done by a few threads at the same time, its results in the order of the work."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_LOOK_AGAIN = 0.5
_GRACE = 1.0
"""Seconds that readings under way get to end by themselves once nobody waits for them."""


def map_in_order(
    work: Callable[[T], R], items: Sequence[T], workers: int
) -> Generator[R, None, None]:
    """``work`` of each of ``items``, ``workers`` at a time, in the order of ``items``.

    What ``work`` raises is raised at its place, and ends the iteration. No new work begins once the
    iterator is closed, and none that hangs keeps the program from ending: a pool of the standard
    library would wait for a stalled download after Ctrl-C.
    """
    if workers <= 1 or len(items) <= 1:
        # A loop is easier to follow in a traceback.
        yield from map(work, items)
        return
    crew = _Threads(work, items, min(workers, len(items)))
    try:
        yield from crew.results()
    finally:
        crew.dismiss()


class _Threads(Generic[T, R]):
    def __init__(self, work: Callable[[T], R], items: Sequence[T], workers: int) -> None:
        self._work, self._items = work, items
        self._next = iter(range(len(items)))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = (
            queue.SimpleQueue()
        )
        # Daemons: the interpreter does not wait for them when it ends. The command line knows them
        # by their names.
        self._threads = [
            threading.Thread(target=self._run, name=f"gmi-reader-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[R]:
        early: dict[int, tuple[R | None, BaseException | None]] = {}
        for position in range(len(self._items)):
            while position not in early:
                # A wait without an end cannot be interrupted on every system.
                with contextlib.suppress(queue.Empty):
                    number, result, error = self._done.get(timeout=_LOOK_AGAIN)
                    early[number] = (result, error)
            result, error = early.pop(position)
            if error is not None:
                raise error
            yield result  # type: ignore[misc]

    def dismiss(self) -> None:
        self._stopped.set()
        until = time.monotonic() + _GRACE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                number = next(self._next, None)
            if number is None:
                return
            try:
                self._done.put((number, self._work(self._items[number]), None))
            except BaseException as error:  # the thread that waits is to hear of it
                self._done.put((number, None, error))
