"""The report on a finished run: figures, tables, examples, one page without scripts."""

from __future__ import annotations

import base64
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper.draw import chosen_tasks, first_model, guesses, read_drawn, shown_methods
from benchmarks.paper.figures import ReportFigure, require_matplotlib
from benchmarks.paper.fitting import read_held_out
from benchmarks.paper.folder import Task, document_bytes, load_arrays, put
from benchmarks.paper.measure import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    ScoredTasks,
    measure,
    read_run,
    read_scored,
)
from benchmarks.paper.methods import method_label
from benchmarks.paper.results import Bootstrap, Results
from benchmarks.paper.studies import held_out_loss
from benchmarks.paper.tables import tables
from gmi_registry import __version__
from gmi_registry.errors import InputError
from gmi_registry.images import load_image
from gmi_registry.report.page import STYLE_SHEET, fill_template
from gmi_registry.report.pictures import Picture, embed
from gmi_registry.scoring.confidence import TEMPERATURE, fitted_temperature

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
    one = results.protocol("images-1") or results.protocols[0]
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
    from benchmarks.paper.figures import figures
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
    single = by_name.get("images-1")
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
