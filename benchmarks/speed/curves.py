"""``python -m benchmarks.speed.curves FILE... --out DIR``: time against models, as SVG.

The files hold rows in the form of :mod:`benchmarks.speed.record`; a work that several have is one
line. Works named ``family: label`` are drawn into ``growth-family.svg``, all others into
``growth.svg``. Hollow points were timed on a part of the models and scaled.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.paper.report import INK, LINE, SOFT, plain, require_matplotlib, sheet
from benchmarks.speed.record import Row, read
from gmi_registry.atomic import write_text
from gmi_registry.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (7.5, 5.0)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#a8457d", "#8c6d00", "#5b4fa3", "#2a8c9c", INK)
_MARKERS = "osD^vPXd"
_APART = 0.046
"""The least distance of two labels, as a share of the axis."""
_ROOM = 0.3
"""What is left free on the right for labels, as a share of the width."""
_LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "growth",
    "font.family": "sans-serif",
    "font.size": 10,
}


def drawn(paths: Sequence[Path], out: Path) -> list[Path]:
    """A picture of each family of works in the files. The same files give the same bytes.

    Raises SystemExit for a file of another form and without matplotlib.
    """
    ready()
    families: dict[str, dict[str, list[Row]]] = {}
    for row in (row for path in paths for row in read(path)):
        family, _, label = row.work.rpartition(": ")
        families.setdefault(family, {}).setdefault(label, []).append(row)
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for family, works in sorted(families.items()):
        path = out / (f"growth-{family}.svg" if family else "growth.svg")
        pictures.append(write_text(path, picture(family, works), "picture"))
    return pictures


def ready() -> None:
    """Raises SystemExit without matplotlib, which is better said before the measuring."""
    try:
        require_matplotlib()
    except MissingExtraError as error:
        raise SystemExit(f"{error}: {error.hint}") from None


def picture(family: str, works: Mapping[str, Sequence[Row]]) -> str:
    """One family's works as lines, each with its name at its end, as SVG."""
    import matplotlib as mpl

    stream = io.StringIO()
    with sheet(*_SIZE) as figure:
        mpl.rcParams.update(_LOOK)
        axes = figure.subplots()
        ends = {}
        for number, (label, rows) in enumerate(sorted(works.items())):
            ends[label] = _line(axes, sorted(rows, key=lambda row: row.models), number)
        _frame(axes, [row for rows in works.values() for row in rows], family)
        _names(axes, ends)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    # Trailing blanks say nothing, and whoever keeps the file would have them removed.
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def spread(heights: Mapping[str, float], apart: float) -> dict[str, float]:
    """``heights`` moved as little as it takes for any two to be ``apart``, in the same order.

    Heights that come too close become a block around the mean of what they were.
    """
    blocks: list[tuple[list[str], float]] = []
    for name in sorted(heights, key=lambda name: (heights[name], name)):
        names, middle = [name], heights[name]
        while blocks and middle - blocks[-1][1] < apart * (len(names) + len(blocks[-1][0])) / 2:
            names = blocks.pop()[0] + names
            middle = math.fsum(heights[each] for each in names) / len(names)
        blocks.append((names, middle))
    return {
        name: middle + (place - (len(names) - 1) / 2) * apart
        for names, middle in blocks
        for place, name in enumerate(names)
    }


def _line(axes: Axes, rows: Sequence[Row], number: int) -> tuple[Row, str]:
    """Draws the medians and the reach down to the least; gives the last row and the colour."""
    colour = _COLOURS[number % len(_COLOURS)]
    marker = _MARKERS[number % len(_MARKERS)]
    models = [row.models for row in rows]
    medians = [row.median_ms for row in rows]
    axes.plot(models, medians, color=colour, linewidth=1.6)
    axes.vlines(models, [row.least_ms for row in rows], medians, color=colour, linewidth=1)
    for row in rows:
        axes.plot(
            row.models,
            row.median_ms,
            marker=marker,
            markersize=5.5,
            color=colour,
            markerfacecolor="white" if _scaled(row) else colour,
            linestyle="none",
        )
    return rows[-1], colour


def _scaled(row: Row) -> bool:
    return row.timed_models is not None and row.timed_models < row.models


def _frame(axes: Axes, rows: Sequence[Row], family: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = min(row.models for row in rows), max(row.models for row in rows)
    decades = max(math.log10(high / low), 0.5)
    axes.set_xlim(low / 10 ** (0.04 * decades), high * 10 ** (decades * _ROOM / (1 - _ROOM)))
    ticks = sorted({row.models for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    partly = any(_scaled(row) for row in rows)
    note = "; hollow: timed on a part of them and scaled" if partly else ""
    axes.set_xlabel(f"specifications{note}", loc="left")
    axes.set_ylabel("ms a query: median, and the line down to the least")
    axes.set_title(f"Time of one query over {family}" if family else "Time of one query")
    plain(axes, grid="both")
    axes.grid(color=LINE)
    axes.tick_params(colors=SOFT, labelcolor=INK)


def _names(axes: Axes, ends: Mapping[str, tuple[Row, str]]) -> None:
    """Every line's name to the right of its end, moved up or down where two would touch."""
    bottom, top = (math.log10(limit) for limit in axes.get_ylim())
    heights = {
        label: (math.log10(row.median_ms) - bottom) / (top - bottom)
        for label, (row, _) in ends.items()
    }
    for label, height in spread(heights, _APART).items():
        row, colour = ends[label]
        axes.annotate(
            label,
            (row.models, row.median_ms),
            xytext=(1 - _ROOM + 0.03, height),
            textcoords="axes fraction",
            va="center",
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "linestyle": ":"},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    chosen = parser.parse_args()
    for path in drawn(chosen.files, chosen.out):
        print(path)


if __name__ == "__main__":
    main()
