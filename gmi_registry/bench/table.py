"""A table of figures, ours and published ones, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gmi_registry.bench.results import Estimate

__all__ = ["Cell", "Row", "Table", "cell", "escaped", "measured", "published_row"]


@dataclass(frozen=True)
class Cell:
    """``spread`` is half the width of the interval, empty where there is none; ``best`` that of
    our rows in this column."""

    text: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """``published``: the figures are the paper's and not of this run."""

    title: str
    cells: tuple[Cell, ...]
    published: bool = False


@dataclass(frozen=True)
class Table:
    """``head`` are the columns' names, the first that of the rows' titles."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """A heading, the note and a table in GitHub's dialect, its columns under each other."""
        lines = [[escaped(name) for name in self.head]]
        for row in self.rows:
            title = escaped(row.title)
            cells = [f"*{title}*" if row.published else title]
            for it in row.cells:
                text = f"**{escaped(it.text)}**" if it.best else escaped(it.text)
                cells.append(f"{text} ± {it.spread}" if it.spread else text)
            lines.append(cells)
        widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        laid = [_laid(cells, widths) for cells in (lines[0], rule, *lines[1:])]
        return "\n".join([f"## {self.title}", "", self.note, "", *laid]) + "\n"


def _laid(cells: Sequence[str], widths: Sequence[int]) -> str:
    title, *figures = cells
    numbers = [text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)]
    return f"| {' | '.join([title.ljust(widths[0]), *numbers])} |"


def measured(title: str, estimates: Sequence[Estimate], *, signed: bool = False) -> Row:
    """A row of this run; ``signed`` for differences."""
    return Row(title, tuple(cell(estimate, signed=signed) for estimate in estimates))


def cell(estimate: Estimate, *, signed: bool = False, digits: int = 3) -> Cell:
    """The value to so many decimals, and half the width of the interval."""
    sign = "+" if signed else ""
    text = f"{estimate.value:{sign}.{digits}f}".replace("-", "−")
    return Cell(text, f"{(estimate.high - estimate.low) / 2:.{digits}f}")


def published_row(
    figures: Sequence[float | None], rank: float | None = None, *, title: str = "as published"
) -> Row:
    """A row of the paper; None where it says nothing."""
    values = [*figures, *([rank] if rank is not None else [])]
    cells = tuple(Cell("–" if value is None else f"{value:.3f}") for value in values)
    return Row(title, cells, published=True)


def escaped(text: str) -> str:
    """Text for Markdown, where models' names and prompts are other people's."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
