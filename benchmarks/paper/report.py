"""The report on a finished run: figures, tables, examples, one page without scripts.

The figures are the paper's figures 3, 6 and 7, and two of our own, as PNG. Colours are Okabe and
Ito's, which people who see colour differently can tell apart; a method keeps its colour, marker and
line in every figure, so that neither has to do alone.
"""

from __future__ import annotations

import base64
import io
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmarks.paper.definition import SINGLE
from benchmarks.paper.folder import (
    ScoredTasks,
    Task,
    document_bytes,
    load_arrays,
    missing_package,
    put,
    read_run,
    read_scored,
)
from benchmarks.paper.generate import chosen_tasks, first_model, guesses, read_drawn, shown_methods
from benchmarks.paper.methods import method_label
from benchmarks.paper.results import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Bootstrap,
    MethodResult,
    ProtocolResult,
    Results,
    Sweep,
    measure,
)
from benchmarks.paper.score import read_held_out
from benchmarks.paper.studies import held_out_loss
from benchmarks.paper.tables import PUBLISHED_MODELS, TABLE_4, tables
from gmi_registry import __version__
from gmi_registry.errors import InputError
from gmi_registry.images import load_image
from gmi_registry.report.figures import Picture, embed
from gmi_registry.report.page import STYLE_SHEET, fill_template
from gmi_registry.scoring.confidence import TEMPERATURE, fitted_temperature

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# --- How figures look ----------------------------------------------------------------------------

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


# --- The figures ---------------------------------------------------------------------------------

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
    one = results.protocol(SINGLE)
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
        protocol = results.protocol(SINGLE)
        if protocol is not None and len(protocol.models) == PUBLISHED_MODELS:
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


# --- Examples ------------------------------------------------------------------------------------

_SIDE = 224  # pixels of a picture in the page
_PIXELS = 16_000_000


@dataclass(frozen=True)
class Pick:
    """The model that came first by one method, and a picture of its own; None where none is.

    ``guessed`` says of which prompt the picture was made: the guessed one, or else the true one.
    """

    method: str
    model: str
    right: bool
    picture: Picture | None
    guessed: bool


@dataclass(frozen=True)
class Example:
    """One query. ``guessed`` is the pseudo-prompt, None where none was made."""

    picture: Picture | None
    prompt: str
    guessed: str | None
    model: str
    picks: tuple[Pick, ...]


def examples(folder: Path, test: ScoredTasks) -> list[Example]:
    """A example for each of ``chosen_tasks``, with the methods that are shown.

    A pick's picture is what the stage ``draw`` had the picked model make of the pseudo-prompt.
    Where that is missing or damaged, it is one that the model drew for the query's true prompt,
    with another seed where there is one, so that the right model does not merely repeat the query.
    """
    made = _Made(folder, test)
    guessed = guesses(folder)
    found = []
    for number in chosen_tasks(len(test.truth)):
        task, truth = test.tasks.tasks[number], int(test.truth[number])
        guess = guessed.get(task.images[0])
        picks = []
        for method in shown_methods(test.distances):
            first = first_model(test.distances[method][number], test.models)
            picture = made.of_guess(first, guess)
            picks.append(
                Pick(
                    method_label(method),
                    test.models[first],
                    first == truth,
                    made.of_truth(first, task) if picture is None else picture,
                    picture is not None,
                )
            )
        query = _example_picture(folder, task.images[0])
        found.append(Example(query, task.prompts[0], guess, test.models[truth], tuple(picks)))
    return found


class _Made:
    """What the models made, of pseudo-prompts and of true ones."""

    def __init__(self, folder: Path, test: ScoredTasks) -> None:
        self._folder = folder
        self._models = test.models
        self._of_guesses = read_drawn(folder)
        self._of_truths: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)
        for task, model in zip(test.tasks.tasks, test.truth, strict=True):
            self._of_truths[int(model), task.prompts[0]].append((task.seeds[0], task.images[0]))

    def of_guess(self, model: int, prompt: str | None) -> Picture | None:
        """What the model drew of a pseudo-prompt."""
        if prompt is None:
            return None
        return _example_picture(self._folder, self._of_guesses.get((self._models[model], prompt)))

    def of_truth(self, model: int, task: Task) -> Picture | None:
        """What it drew of the prompt that made the query, rather with another seed."""
        pictures = sorted(self._of_truths[model, task.prompts[0]])
        others = [image for seed, image in pictures if seed != task.seeds[0]]
        return _example_picture(
            self._folder, next(iter(others), pictures[0][1] if pictures else None)
        )


def _example_picture(folder: Path, image: str | None) -> Picture | None:
    if image is None:
        return None
    path = folder / image
    # Relative by the file's own rule, but a link could still lead elsewhere.
    if not path.resolve().is_relative_to(folder.resolve()):
        return None
    try:
        return embed(load_image(path, max_pixels=_PIXELS), side=_SIDE)
    except InputError:
        return None


# --- The page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A figure inside the page."""

    title: str
    note: str
    picture: Picture


def page(results: Results, drawings: Sequence[ReportFigure], examples: Sequence[Example]) -> str:
    """The whole page. Every text is escaped: prompts and models' names are other people's."""
    return fill_template(
        "benchmarks.paper",
        "report.html.j2",
        [STYLE_SHEET, ("benchmarks.paper", "report.css")],
        results=results,
        facts=_facts(results),
        figures=[Shown(it.title, it.note, _embedded_figure(it.content)) for it in drawings],
        tables=tables(results),
        examples=examples,
        guessed={pick.guessed for it in examples for pick in it.picks},
        seconds=[(stage, _time(seconds)) for stage, seconds in results.seconds.items()],
        version=__version__,
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    one = results.protocol(SINGLE) or results.protocols[0]
    encoder = results.encoder
    named = encoder if isinstance(encoder, str) else encoder.get("name", "see results.json")
    facts = [
        ("models", str(len(one.models))),
        ("tasks of one image", f"{one.tasks:,}"),
        ("encoder", str(named)),
        ("interrogator", results.interrogator),
        ("γ of Eq. 9", f"{results.gamma:g}"),
        ("benchmark", results.digest[:12]),
    ]
    if results.limit is not None:
        facts.append(("cut down", f"--limit {results.limit}: not for quoting"))
    return facts + [(name, version) for name, version in results.libraries.items()]


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _embedded_figure(content: bytes) -> Picture:
    """A PNG of this package's own making: its size stands in the first chunk."""
    width, height = struct.unpack(">II", content[16:24])
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return Picture(uri, width, height)


# --- All files of a report -----------------------------------------------------------------------

REPORT = "report"
"""The folder of a report, within that of its run."""


@dataclass(frozen=True)
class Report:
    """What was measured, and the files that say so, ``page`` for people first of all."""

    results: Results
    page: Path
    tables: Path
    document: Path
    figures: tuple[Path, ...]


def write_report(folder: Path) -> Report:
    """Measure the run in ``folder`` and write ``folder``/report.

    Written are ``results.json`` (described by :func:`~benchmarks.paper.results.results_schema`),
    ``tables.md``, the figures and ``report.html``, each whole or not at all; the same run gives the
    same bytes. What needs pictures or embeddings is left out where the run no longer holds them.
    Raises InputError where the run is not finished or damaged, before anything is written, and
    MissingExtraError without matplotlib.
    """
    require_matplotlib()

    from benchmarks.paper.tables import tables_markdown

    results, single = _results(folder)
    drawn = figures(results)
    shown = examples(folder, single) if single is not None else []
    html = page(results, drawn, shown)

    target = folder / REPORT
    paths = tuple(target / drawing.name for drawing in drawn)
    for path, drawing in zip(paths, drawn, strict=True):
        put(path, drawing.content)
    document = target / "results.json"
    put(document, document_bytes(results.model_dump(mode="json")))
    put(target / "tables.md", tables_markdown(results).encode("utf-8"))
    # A file name or prompt may hold half of a surrogate pair, which is no text.
    put(target / "report.html", html.encode("utf-8", "backslashreplace"))
    return Report(results, target / "report.html", target / "tables.md", document, paths)


def _results(folder: Path) -> tuple[Results, ScoredTasks | None]:
    """The figures, and the test tasks of single images where there are any."""
    from benchmarks.paper.studies import MIXED, gamma_sweep, mixtures, questions, resemblance

    run = read_run(folder)
    test = read_scored(folder, "test", run)
    dev = {part.protocol: part for part in read_scored(folder, "dev", run)}
    by_name = {part.protocol: part for part in test}
    single = by_name.get(SINGLE)
    late = None
    if single is not None:
        late = read_held_out(folder, len(single.truth), len(single.models))
    temperature = _temperature(folder)
    results = Results(
        name=run.name,
        digest=run.digest,
        encoder=run.encoder,
        interrogator=run.interrogator,
        gamma=run.gamma,
        limit=run.limit,
        libraries=run.libraries,
        seconds=run.seconds,
        bootstrap=Bootstrap(resamples=RESAMPLES, confidence=CONFIDENCE, seed=SEED),
        protocols=[measure(part, dev.get(part.protocol), temperature=temperature) for part in test],
        sweeps=gamma_sweep(folder, single, run.gamma) if single is not None else [],
        resemblance=resemblance(folder, single) if single is not None else None,
        late=held_out_loss(single, late) if single is not None and late is not None else None,
        mixtures=mixtures(folder, run.gamma, by_name.get(MIXED), single),
        questions=questions(folder, run, single, temperature) if single is not None else [],
    )
    return results, single


def _temperature(folder: Path) -> float:
    """What a search over the run's specifications would work out; the usual one without them."""
    place = folder / "embeddings" / "specs.npz"
    if not place.is_file():
        return TEMPERATURE
    arrays = load_arrays(place)
    return fitted_temperature(arrays["image_embeddings"], arrays["image_prompt"])
