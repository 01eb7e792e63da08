"""How far long work has come: bars on a terminal, a line for each stage elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from gmi_registry.cli.screen import progress_is_wanted, remark

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["StageProgress"]


class StageProgress:
    """A context manager to be called with (stage, done, total).

    ``labels`` are the words for the stages; a stage without one is not shown. With ``quiet``
    nothing is written at all.
    """

    def __init__(self, labels: dict[str, str], *, quiet: bool) -> None:
        self._labels = labels
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._announced: set[str] = set()

    def __enter__(self) -> Self:
        if progress_is_wanted(self._quiet):
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        label = self._labels.get(stage)
        if label is None or self._quiet:
            return
        if self._bars is None:
            if stage not in self._announced:
                self._announced.add(stage)
                remark(f"{label} ({total})" if total > 1 else label)
            return
        if stage not in self._tasks:
            # Work that an earlier run has done must not count into the speed of this one.
            self._tasks[stage] = self._bars.add_task(label, total=total, completed=done)
        self._bars.update(self._tasks[stage], completed=done, total=total)


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        # Finished bars would stand between the person and the answer.
        transient=True,
    )
