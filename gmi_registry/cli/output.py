"""How a command speaks: data on stdout, messages and progress on stderr, an exit code at the end.

Exit codes: 0 done · 1 a known error · 2 wrong usage (typer's own) · 130 interrupted · 141 nobody
reads stdout any more, as other programs report it.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self

import typer

from gmi_registry.errors import GmiError
from gmi_registry.sanitize import escaped, traceback_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from gmi_registry.hubs.protocol import Hub


def terminal() -> Console | None:
    """A console on stdout where that is a terminal, else None.

    Whether it is one, its colours and its width are rich's to find out (FORCE_COLOR, NO_COLOR,
    COLUMNS), which is imported where there may be one.
    """
    forced = any(name in os.environ for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    if not (forced or sys.stdout.isatty()):
        return None
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else None


def write_line(text: str) -> None:
    """One line of data."""
    sys.stdout.write(escaped(text) + "\n")


def write_rows(rows: Iterable[Sequence[str]]) -> None:
    """Rows for other programs: one a line, a tab between the cells."""
    for row in rows:
        sys.stdout.write("\t".join(escaped(cell) for cell in row) + "\n")


def write_json(document: object) -> None:
    """One JSON document. ASCII, so that it survives every terminal and pipe.

    Results of this package may stand in it as they are: dataclasses and pydantic's models with
    their fields, models and paths by their names.
    """
    text = json.dumps(document, indent=2, allow_nan=False, default=_json_value)
    sys.stdout.write(text + "\n")


def _json_value(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return fields_of(value, *(field.name for field in fields(value)))
    return dict(value) if isinstance(value, Mapping) else str(value)


def fields_of(value: object, *names: str) -> dict[str, Any]:
    """Attributes as an object of a JSON document; one text may hold several names."""
    return {name: getattr(value, name) for name in " ".join(names).split()}


def write_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Labels and values: two columns on a terminal, else ``label: value`` lines."""
    console = terminal()
    if console is None:
        for label, value in pairs:
            write_line(f"{label}: {value}")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in pairs:
        # Text, not str: a title with [brackets] is a title, not markup.
        table.add_row(label, Text(escaped(value)))
    console.print(table)


def write_findings(findings: Iterable[Any]) -> None:
    """The outcomes of checks, one a line, with a hint below those that failed."""
    for it in findings:
        write_line(f"{it.check:9} {it.status:8} {it.detail}")
        if it.hint and it.status == "failed":
            write_line(f"{'':18} hint: {it.hint}")


def write_message(text: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(escaped(text) + "\n")


def announce_waits(hub: Hub) -> None:
    """Say so when the hub is busy or does not answer, and this program waits."""
    from gmi_registry.search.run import Remote

    if isinstance(hub, Remote):
        hub.traffic.on_wait = lambda seconds: write_message(f"trying again in {seconds:.0f} s")


def is_switched_on(variable: str) -> bool:
    """Whether an environment variable is switched on, read as huggingface_hub reads its own."""
    return os.environ.get(variable, "").strip().upper() in ("1", "ON", "YES", "TRUE")


def shows_progress(quiet: bool) -> bool:
    """Whether to draw progress bars: on a terminal, unless told otherwise."""
    return not quiet and sys.stderr.isatty() and not is_switched_on("HF_HUB_DISABLE_PROGRESS_BARS")


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
        if shows_progress(self._quiet):
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
                write_message(f"{label} ({total})" if total > 1 else label)
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


@contextmanager
def without_future_warnings() -> Iterator[None]:
    """Drop FutureWarnings in the block, unless ``python -W`` or PYTHONWARNINGS asks for them."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore", FutureWarning)
        yield


P = ParamSpec("P")

FAILED = 1
INTERRUPTED = 130
READER_GONE = 141
READER_PREFIX = "gmi-reader-"
"""Names of the threads of :mod:`gmi_registry.threads`, which is too heavy to import here."""


def handle_errors(
    *, interrupted: str = "interrupted"
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Let a command end with one clear line and the right exit code, whatever happens in it.

    ``interrupted`` is what Ctrl-C prints. An error that is not a GmiError is a fault of this
    program: it passes through with its traceback.
    """

    def around(command: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                command(*args, **kwargs)
                sys.stdout.flush()
            except GmiError as error:
                if is_switched_on("HF_DEBUG"):
                    sys.stderr.write(traceback_text(error))
                write_message(f"error: {error.message}")
                if error.hint:
                    write_message(f"hint: {error.hint}")
                raise typer.Exit(FAILED) from None
            except KeyboardInterrupt:
                write_message(interrupted)
                _leave_stalled_readers()
                raise typer.Exit(INTERRUPTED) from None
            except BrokenPipeError:
                _forget_stdout()
                raise typer.Exit(READER_GONE) from None

        return run

    return around


def _leave_stalled_readers() -> None:
    # A thread that is still inside a library's code, waiting for a hub, may abort the interpreter
    # while it shuts down; and nothing is left to do but to end. Files are written whole or not.
    if any(thread.name.startswith(READER_PREFIX) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _forget_stdout() -> None:
    # Python flushes stdout once more when it exits, and would complain then.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
