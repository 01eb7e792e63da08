"""The paper's figures 3, 6 and 7 from a run, and two of our own, as PNG.

Colours are Okabe and Ito's, which people who see colour differently can tell apart; a method keeps
its colour, marker and line in every figure, so that neither has to do alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmarks.paper.folder import missing_package
from benchmarks.paper.methods import method_label
from benchmarks.paper.published import MODELS, TABLE_4
from benchmarks.paper.results import MethodResult, ProtocolResult, Results, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        raise missing_package("matplotlib", purpose="the report of a benchmark") from None


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


_COMPARED = ("download", "rkme-basic", "rkme-clip", "rkme-concat", "paper", "modelverse", "default")


@dataclass(frozen=True)
class ReportFigure:
    """One figure: the name of its file, what it is called, and how to read it."""

    name: str
    title: str
    note: str
    content: bytes


def figures(results: Results) -> list[ReportFigure]:
    """All figures that the run has data for. matplotlib must be installed."""
    one = results.protocol("images-1")
    found = []
    if one is not None:
        found += [_ranks(one), _confusions(one)]
    if results.sweeps:
        found.append(_sweep(results.sweeps, results.gamma))
    several = _several(results)
    found += [several] if several is not None else []
    sure = _reliability(one) if one is not None else None
    return [*found, sure] if sure is not None else found


def _chosen(one: ProtocolResult, names: Sequence[str] = _COMPARED) -> list[MethodResult]:
    methods = [one.method(name) for name in names]
    return [method for method in methods if method is not None] or list(one.methods)


def _ranks(one: ProtocolResult) -> ReportFigure:
    methods = _chosen(one)
    models = len(one.models)
    with sheet(11, max(3.4, 1.2 + 0.24 * models)) as figure:
        accuracy, rank, detail = figure.subplots(1, 3, width_ratios=(1, 1, 1.7))
        for axes, title in ((accuracy, "Top-1 accuracy"), (rank, "Mean rank")):
            _bars(axes, methods, title)
        plain(detail, grid="both")
        for method in methods:
            look = style(method.method)
            known = [(p, r) for p, r in enumerate(method.rank_by_model) if r is not None]
            detail.plot(
                [r for _, r in known],
                [p for p, _ in known],
                look.marker,
                color=look.colour,
                markersize=6,
                alpha=0.9,
                label=method_label(method.method),
            )
        detail.set_yticks(range(models), [_short(name) for name in one.models])
        detail.set_ylim(models - 0.5, -0.5)
        detail.set_xlim(0.5, models + 0.5)
        detail.set_title("Mean rank on the tasks of each model")
        figure.legend(*detail.get_legend_handles_labels(), loc="outside lower center", ncols=7)
        content = png(figure)
    return ReportFigure(
        "figure-3.png",
        "Figure 3: accuracy and rank",
        f"{one.tasks:,} tasks of one image. Lines on bars are the bootstrap interval. "
        "Rank 1 is best; at the right one row for each right model.",
        content,
    )


def _bars(axes: Axes, methods: Sequence[MethodResult], title: str) -> None:
    plain(axes, grid="x")
    for place, method in enumerate(methods):
        it = method.top[0] if title.startswith("Top") else method.rank
        axes.barh(place, it.value, height=0.68, color=style(method.method).colour)
        axes.plot([it.low, it.high], [place, place], color=INK, linewidth=1.4)
        text = f" {it.value:.3f}" if title.startswith("Top") else f" {it.value:.2f}"
        axes.text(max(it.value, it.high), place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(methods)), [method_label(method.method) for method in methods])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_title(title)


def _confusions(one: ProtocolResult) -> ReportFigure:
    from matplotlib.colors import LinearSegmentedColormap

    wanted = ("download", "rkme-basic", "rkme-clip", "rkme-concat", "paper", "default")
    methods = _chosen(one, wanted)[:6]
    models = len(one.models)
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    shades = LinearSegmentedColormap.from_list(
        "shades", ["#ffffff", "#7fb8da", "#0072B2", "#00283f"]
    )
    with sheet(1.4 + 3.1 * columns, 0.7 + 3.1 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        names = [_short(name) for name in one.models]
        for axes in grid.flat[len(methods) :]:
            axes.set_visible(False)
        for axes, method in zip(grid.flat, methods, strict=False):
            picture = axes.imshow(method.confusion or [], cmap=shades, vmin=0, vmax=1)
            axes.set_title(f"{method_label(method.method)}  {method.top[0].value:.3f}")
            axes.set_xticks(range(models), names, rotation=90, fontsize=6.5)
            axes.set_yticks(range(models), names, fontsize=6.5)
            axes.tick_params(length=0)
            axes.spines[:].set_color("#b9b4a8")
        figure.supxlabel("model that came first", fontsize=9, color=SOFT)
        figure.supylabel("right model", fontsize=9, color=SOFT)
        figure.colorbar(
            picture, ax=grid.ravel().tolist(), shrink=0.6, label="share of the right model's tasks"
        )
        content = png(figure)
    return ReportFigure(
        "figure-6.png",
        "Figure 6: which model is taken for which",
        "A row for each right model, a column for each that came first; on the diagonal the answer "
        "is right. A dark column is a model that comes first whatever is asked.",
        content,
    )


def _sweep(sweeps: Sequence[Sweep], gamma: float) -> ReportFigure:
    with sheet(9.5, 3.6) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, features in zip(panels, ("raw", "unit"), strict=True):
            plain(axes, grid="both")
            for it in sweeps:
                if it.features != features:
                    continue
                _curve(axes, it.method, it.gammas, it.top_1)
            axes.axvline(gamma, color=SOFT, linewidth=0.9, linestyle=":")
            axes.set_xscale("log")
            axes.set_xlabel("γ")
            title = "features as the encoder gives them"
            axes.set_title(title if features == "raw" else "features of length 1")
        panels[0].set_ylim(0, 1)
        panels[0].set_ylabel("top-1 accuracy")
        panels[0].text(gamma, 0.98, f" γ = {gamma:g}", color=SOFT, va="top", fontsize=8)
        panels[1].legend(loc="upper right")
        content = png(figure)
    return ReportFigure(
        "figure-7.png",
        "Figure 7: the choice of γ",
        "Top-1 accuracy on one image for γ from .001 to 10. The dotted line is the run's own γ. "
        "Once the kernel has fallen to 0 everywhere, all models tie and accuracy is chance.",
        content,
    )


def _several(results: Results) -> ReportFigure | None:
    names = ("paper", "modelverse", "default", "default-fitted")
    curves: dict[str, list[tuple[int, MethodResult]]] = {name: [] for name in names}
    for count in range(1, 9):
        protocol = results.protocol(f"images-{count}")
        for name in names:
            method = protocol.method(name) if protocol is not None else None
            if method is not None:
                curves[name].append((count, method))
    if max(map(len, curves.values())) < 2:
        return None
    with sheet(6.4, 3.8) as figure:
        axes = figure.subplots()
        plain(axes, grid="both")
        for name, points in curves.items():
            if not points:
                continue
            counts = [count for count, _ in points]
            tops = [method.top[0] for _, method in points]
            low, high = [top.low for top in tops], [top.high for top in tops]
            axes.fill_between(counts, low, high, color=style(name).colour, alpha=0.15, linewidth=0)
            _curve(axes, name, counts, [top.value for top in tops])
        protocol = results.protocol("images-1")
        if protocol is not None and len(protocol.models) == MODELS:
            values = [figures[0] for figures in TABLE_4.values()]
            axes.plot(list(TABLE_4), values, ":", color=SOFT, label="Eq. 9, as published")
        axes.set_ylim(0, 1.03)
        axes.set_xticks(sorted({count for points in curves.values() for count, _ in points}))
        axes.set_xlabel("images a query")
        axes.set_ylabel("top-1 accuracy")
        axes.legend(loc="lower right")
        content = png(figure)
    return ReportFigure(
        "images.png",
        "More images, fewer mistakes",
        "Top-1 accuracy by the number of images in a query, with the bootstrap interval.",
        content,
    )


def _reliability(one: ProtocolResult) -> ReportFigure | None:
    methods = [it for it in _chosen(one, ("paper", "modelverse", "default")) if it.confidence]
    if not methods:
        return None
    with sheet(4.6, 4.2) as figure:
        axes = figure.subplots()
        plain(axes, grid="both")
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=":")
        for method in methods:
            assert method.confidence is not None
            bins = method.confidence.bins
            said, right = [part.confidence for part in bins], [part.accuracy for part in bins]
            _curve(axes, method.method, said, right, f" (error {method.confidence.error:.3f})")
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that was right")
        axes.legend(loc="upper left")
        content = png(figure)
    return ReportFigure(
        "confidence.png",
        "Does the confidence mean what it says?",
        "Test tasks in bins of like confidence. On the dotted line the confidence is the chance.",
        content,
    )


def _curve(
    axes: Axes, method: str, across: Sequence[float], up: Sequence[float], more: str = ""
) -> None:
    """A method's line, in its own look."""
    look = style(method)
    label = f"{method_label(method)}{more}"
    axes.plot(across, up, color=look.colour, marker=look.marker, linestyle=look.line, label=label)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
