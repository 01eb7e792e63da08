"""The look that all figures share, and how they become bytes.

Colours are Okabe and Ito's, which people who see colour differently can tell apart; a method keeps
its colour, marker and line in every figure, so that neither has to do alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gmi_registry.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["INK", "LINE", "SOFT", "Style", "plain", "png", "require_matplotlib", "sheet", "style"]

INK, SOFT, LINE = "#1d1c1a", "#66625a", "#e2ded5"
"""Text, secondary text and rules, as in the style sheet of the reports."""

_DPI = 160
_LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


class Style(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str
    line: str


_STYLES = {
    "download": Style("#8c8880", "x", ":"),
    "rkme-basic": Style("#E69F00", "v", ":"),
    "rkme-clip": Style("#56B4E9", "s", "--"),
    "rkme-concat": Style("#CC79A7", "P", "--"),
    "size-1": Style("#8c8880", "d", "-."),
    "paper": Style("#0072B2", "o", "-"),
    "modelverse": Style("#009E73", "^", "-."),
    "default": Style("#D55E00", "D", "-"),
    "default-fitted": Style("#7a2e00", "*", "--"),
}


def style(method: str) -> Style:
    """The method's own, or black for those that no figure tells apart from others."""
    return _STYLES.get(method, Style(INK, ".", "-"))


def require_matplotlib() -> None:
    """Raises MissingExtraError without matplotlib: better at once than after the measuring."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            "matplotlib", extra="bench", purpose="the report of a benchmark"
        ) from None


@contextmanager
def sheet(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in inches, whatever this machine's own settings for figures are."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_LOOK)
        # Titles would touch the edge of the picture.
        engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(width, height), layout=engine)
        FigureCanvasAgg(figure)
        yield figure


def plain(axes: Axes, *, grid: Literal["x", "y", "both"] = "y") -> None:
    """Only the two sides that carry numbers, and quiet lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, linewidth=0.8)


def png(figure: Figure) -> bytes:
    """The figure as PNG: the same figure and libraries give the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()
