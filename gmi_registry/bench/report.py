"""The report on a finished run: figures, tables, pictures, one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmi_registry.bench.bootstrap import CONFIDENCE, RESAMPLES, SEED
from gmi_registry.bench.cache import document_bytes, put
from gmi_registry.bench.chart import require_matplotlib
from gmi_registry.bench.gallery import load_arrays
from gmi_registry.bench.latecomer import read_latecomers
from gmi_registry.bench.loss import late_loss
from gmi_registry.bench.measure import measure
from gmi_registry.bench.results import Bootstrap, Results
from gmi_registry.bench.scored import Scored, read_run, read_scored
from gmi_registry.scoring.confidence import TEMPERATURE, fitted_temperature

__all__ = ["Report", "write_report"]

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

    Written are ``results.json`` (described by :func:`~gmi_registry.bench.results.results_schema`),
    ``tables.md``, the figures and ``report.html``, each whole or not at all; the same run gives the
    same bytes. What needs pictures or embeddings is left out where the run no longer holds them.
    Raises InputError where the run is not finished or damaged, before anything is written, and
    MissingExtraError without matplotlib.
    """
    require_matplotlib()
    from gmi_registry.bench.figures import drawings
    from gmi_registry.bench.page import page
    from gmi_registry.bench.specimen import specimens
    from gmi_registry.bench.tables import tables_markdown

    results, single = _results(folder)
    drawn = drawings(results)
    shown = specimens(folder, single) if single is not None else []
    html = page(results, drawn, shown)

    target = folder / REPORT
    figures = tuple(target / drawing.name for drawing in drawn)
    for path, drawing in zip(figures, drawn, strict=True):
        put(path, drawing.content)
    document = target / "results.json"
    put(document, document_bytes(results.model_dump(mode="json")))
    put(target / "tables.md", tables_markdown(results).encode("utf-8"))
    # A file name or prompt may hold half of a surrogate pair, which is no text.
    put(target / "report.html", html.encode("utf-8", "backslashreplace"))
    return Report(results, target / "report.html", target / "tables.md", document, figures)


def _results(folder: Path) -> tuple[Results, Scored | None]:
    """The figures, and the test tasks of single images where there are any."""
    from gmi_registry.bench.mixture import MIXED, mixtures
    from gmi_registry.bench.question import questions
    from gmi_registry.bench.resemblance import resemblance
    from gmi_registry.bench.sweep import gamma_sweep

    run = read_run(folder)
    test = read_scored(folder, "test", run)
    dev = {part.protocol: part for part in read_scored(folder, "dev", run)}
    by_name = {part.protocol: part for part in test}
    single = by_name.get("images-1")
    late = None
    if single is not None:
        late = read_latecomers(folder, len(single.truth), len(single.models))
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
        late=late_loss(single, late) if single is not None and late is not None else None,
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
