"""Measure how often the right model is found, and show what was measured.

``python -m benchmarks.paper run FILE --out DIR`` and ``python -m benchmarks.paper show DIR``.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.main import run_program
from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    Device,
    Offline,
    Quiet,
    Token,
    Verbose,
    new_app,
    show_log,
)
from gmi_registry.cli.output import (
    StageProgress,
    handle_errors,
    terminal,
    without_future_warnings,
    write_json,
    write_line,
    write_message,
    write_pairs,
)
from gmi_registry.sanitize import escaped

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.paper.run import Outcome
    from benchmarks.paper.tables import Table

app: typer.Typer = new_app("Measure how well models are found, on tasks with known answers.")

_LABELS = {
    "models": "fetching models",
    "generate": "generating images",
    "embed": "encoding images",
    "interrogate": "guessing prompts",
    "score": "scoring tasks",
    "draw": "generating with the picked models",
    "report": "writing the report",
}
_AGAIN = "interrupted: what is done is kept, run the same command again to go on from it"


class StageChoice(StrEnum):
    """The stages in their order."""

    GENERATE = "generate"
    EMBED = "embed"
    INTERROGATE = "interrogate"
    SCORE = "score"
    DRAW = "draw"
    REPORT = "report"


@app.command()
@handle_errors(interrupted=_AGAIN)
def run(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The benchmark, such as benchmarks/zoo16.toml.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The results; made if it is not there.")
    ],
    stage: Annotated[
        StageChoice, typer.Option("--stage", help="Stop when this stage is done.")
    ] = StageChoice.REPORT,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            help="A quick look: N prompts and N seeds of each kind of task.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Bring results up to date with a benchmark file.

    Only what depends on something that changed is done again, and an interrupted run goes on
    where it stopped. The answers to the test tasks are read by the last stage alone.
    """
    show_log(verbose)
    from benchmarks.paper.definition import load_benchmark

    # Before the imports that take seconds: a mistake in the file shows at once.
    benchmark = load_benchmark(file).limited(limit)
    from benchmarks.paper.run import run_benchmark
    from gmi_registry.hubs import HubAccess

    with StageProgress(_LABELS, quiet=quiet) as progress, without_future_warnings():
        outcome = run_benchmark(
            benchmark,
            out,
            last=stage.value,
            device=device,
            access=HubAccess(cache_dir, token, offline or None),
            progress=progress,
        )
    if as_json:
        write_json(_document(outcome))
    elif quiet:
        write_line(str(outcome.folder))
    else:
        for name, seconds in outcome.seconds.items():
            state = "done" if outcome.made[name] else "up to date"
            write_message(f"{name}: {state}, {seconds:,.1f} s")
        write_pairs([("results", str(outcome.folder))])


@app.command()
@handle_errors()
def show(folder: Annotated[Path, typer.Argument(metavar="DIR", help="What run left.")]) -> None:
    """Print the tables of finished results, and write the report beside them anew.

    In a terminal they fit its width; a file or another program gets them as Markdown.
    """
    from benchmarks.paper.report import write_report

    report = write_report(folder)
    console = terminal()
    if console is not None:
        from benchmarks.paper.tables import tables

        for table in tables(report.results):
            _print(console, table)
    else:
        for line in report.tables.read_text(encoding="utf-8").splitlines():
            write_line(line)
    write_message(f"the report: {report.page}")


def _print(console: Console, table: Table) -> None:
    from rich.table import Table as Grid
    from rich.text import Text

    # Text, not str: a model's name with [brackets] is a name, not markup.
    console.print(Text(escaped(table.title), style="bold"))
    console.print(Text(escaped(table.note), style="dim"))
    grid = Grid(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for place, name in enumerate(table.head):
        grid.add_column(Text(escaped(name)), justify="right" if place else "left", overflow="fold")
    for row in table.rows:
        cells = [Text(escaped(row.title))]
        for it in row.cells:
            cell = Text(escaped(it.text), style="bold" if it.best else "")
            # No space before the figure: where a column is narrow, the two stand one on the other.
            cells.append(cell.append(f" ±{it.spread}", style="dim") if it.spread else cell)
        grid.add_row(*cells, style="italic dim" if row.published else "")
    console.print(grid)
    console.print()


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "folder": str(outcome.folder),
        "stages": [
            {"name": name, "made": made, "seconds": outcome.seconds[name]}
            for name, made in outcome.made.items()
        ],
    }


if __name__ == "__main__":
    run_program(app)
