"""The tables of a report: the paper's, ours beside theirs, and those that it does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.paper import published
from benchmarks.paper.definition import HALVES, OWN_PROMPTS
from benchmarks.paper.measure import TOP
from benchmarks.paper.methods import method_label, protocol_label
from benchmarks.paper.results import (
    Estimate,
    Late,
    Mixture,
    ProtocolResult,
    QuestionResult,
    Resemblance,
    Results,
)


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


_COMPARED = (
    "download",
    "rkme-basic",
    "rkme-clip",
    "rkme-concat",
    "paper",
    "modelverse",
    "default",
    "default-none",
)

_SPECIFICATIONS = {"beside": "own prompts beside the default ones", "alone": "own prompts alone"}


def supplement(results: Results) -> list[Table]:
    """Those that the run has figures for; some may have no rows."""
    found: list[Table] = []
    one = results.protocol("images-1")
    if one is not None:
        found += [_versus(one), _confidence_table(one), _thirds(one), _extremes(one), _firsts(one)]
    if results.resemblance is not None:
        found.append(_resemblance_table(results.resemblance))
    if results.late is not None:
        found.append(_late(results.late))
    for asked, what in (("like", "like the own prompts"), ("evaluation", "on other prompts")):
        found.append(_mixtures([it for it in results.mixtures if it.asked == asked], what))
    if results.questions:
        found.append(_questions(results.questions))
    return found


def _versus(one: ProtocolResult) -> Table:
    rows = []
    for it in one.methods:
        if it.versus_paper is not None:
            parts = (it.versus_paper.top_1, it.versus_paper.top_4, it.versus_paper.rank)
            known = [part for part in parts if part is not None]
            rows.append(measured(method_label(it.method), known, signed=True))
    return Table(
        "Against Eq. 9 on the same tasks",
        "Each method minus Eq. 9, one image a query; for rank less is better. An interval that "
        "holds 0 shows no difference.",
        ("method", "top-1", *(["top-4"] if len(one.models) > 3 else []), "rank"),
        tuple(rows),
    )


def _confidence_table(one: ProtocolResult) -> Table:
    rows = [
        Row(
            method_label(it.method),
            (
                cell(it.top[0]),
                Cell(f"{sum(b.confidence * b.tasks for b in it.confidence.bins) / one.tasks:.3f}"),
                Cell(f"{it.confidence.error:.3f}"),
                Cell(
                    "–"
                    if it.confidence.search_error is None
                    else f"{it.confidence.search_error:.3f}"
                ),
                Cell(f"{it.confidence.dev_tasks:,}"),
            ),
        )
        for it in one.methods
        if it.confidence is not None
    ]
    return Table(
        "Confidence",
        "The chance of being right that the margin over the runner-up speaks for, fitted on "
        "dev tasks and measured on test tasks, one image a query. The default score shows a chance "
        "in searches, by a formula; its calibration error is that of the formula.",
        (
            "method",
            "accuracy",
            "mean confidence",
            "calibration error",
            "of the chance in searches",
            "dev tasks",
        ),
        tuple(rows),
    )


def _thirds(one: ProtocolResult) -> Table:
    rows = [
        measured(f"{method_label(name)}, third {group.group}", [*found.top[:4], found.rank])
        for name in ("paper", "default")
        for group in one.groups
        for found in group.methods
        if found.method == name
    ]
    tops = tuple(f"top-{k}" for k in range(1, min(4, len(one.models)) + 1))
    return Table(
        "Thirds of the evaluation prompts",
        "How much the outcome hangs on what is asked for. One image a query.",
        ("method, tasks", *tops, "rank"),
        tuple(rows),
    )


def _extremes(one: ProtocolResult) -> Table:
    fair = 1 / len(one.models)
    rows = []
    for it in one.methods:
        order = sorted(range(len(one.models)), key=lambda model: (it.picked[model], -model))
        least, most = order[0], order[-1]
        rows.append(
            Row(
                method_label(it.method),
                (
                    Cell(f"{it.picked[most] / fair:.2f} × ({one.models[most]})"),
                    Cell(f"{it.picked[least] / fair:.2f} × ({one.models[least]})"),
                    Cell(str(sum(share == 0 for share in it.picked))),
                    Cell(f"{sum(max(0.0, share - fair) for share in it.picked):.3f}"),
                ),
            )
        )
    return Table(
        "Models that come first too often",
        "First places as a multiple of an equal share of the tasks, one image a query. Every model "
        "is the right one equally often, so that 1 × is fair. The last column is the share of "
        "tasks that models hold above theirs.",
        ("method", "most often", "least often", "models never first", "held too much"),
        tuple(rows),
    )


def _firsts(one: ProtocolResult) -> Table:
    found = [one.method(name) for name in _COMPARED]
    methods = [method for method in found if method is not None] or list(one.methods)
    rows = [
        Row(name, tuple(Cell(f"{method.picked[model]:.3f}") for method in methods))
        for model, name in enumerate(one.models)
    ]
    return Table(
        "How often each model comes first",
        f"Share of all {one.tasks:,} tasks of one image; ties are split. {1 / len(one.models):.3f} "
        "is fair.",
        ("model", *(method_label(method.method) for method in methods)),
        tuple(rows),
    )


def _resemblance_table(it: Resemblance) -> Table:
    rows = [Row("The right model", (cell(it.right, digits=4), Cell("1.000")))]
    for method in it.methods:
        closed = "–" if method.closed is None else f"{method.closed:.3f}".replace("-", "−")
        distance = cell(method.squared_mmd, digits=4)
        rows.append(Row(method_label(method.method), (distance, Cell(closed))))
    rows.append(Row("Any model, at random", (cell(it.random, digits=4), Cell("0.000"))))
    return Table(
        "Whether the picked models make what was asked with",
        "Squared maximum mean discrepancy between the query images of a model's tasks and what "
        f"the picked models make of the same prompts, {it.pictures} pictures on each side, on the "
        f"encoder's embeddings (RBF kernel, γ = {it.gamma:.3g}, pairs of one prompt left out); the "
        "mean over right models, and its interval over these. Less is better; what is alike is "
        "near 0, on either side of it. The last column is how much of the way from "
        "any model to the right one is covered: it gives credit for models that draw alike.",
        ("method", "MMD²", "way covered"),
        tuple(rows),
    )


def _late(late: Late) -> Table:
    rows = []
    for it in late.methods:
        row = measured(method_label(it.method), [it.top_1, it.late])
        lost = measured("", [it.lost_late, it.lost], signed=True)
        rows.append(replace(row, cells=row.cells + lost.cells))
    fours = len(late.choices)
    return Table(
        "Models that join late",
        f"What is pooled over models, and the shrinkage, without four of them, who then join; over "
        f"{fours} choices of four, {late.tasks:,} tasks whose right model was late. Accuracies are "
        "top-1 on one image. Lost is the accuracy with all models there from the start minus that "
        "with four late; above 0 joining late hurts.",
        ("method", "nobody late", "late models' tasks", "lost there", "lost on all tasks"),
        tuple(rows),
    )


def _mixtures(found: list[Mixture], what: str) -> Table:
    rows = []
    for it in found:
        share = cell(it.picked)
        # As a multiple of what is fair, so that 1 is fair whatever the number of models.
        multiple = Cell(f"{it.picked.value / it.fair:.2f} ×")
        title = f"{method_label(it.method)}, {_SPECIFICATIONS[it.specifications]}"
        rows.append(Row(title, (share, multiple, cell(it.top_1_own), cell(it.top_1_others))))
    fair = f"{found[0].fair:.3f}" if found else ""
    return Table(
        f"Mixed prompt sets: tasks {what}",
        "Every second model has developer's own prompts, the others only the default ones. The "
        f"models with own prompts are right in {fair} of the tasks, and come first in the share "
        "given: 1 × is fair. Accuracies are top-1 on one image.",
        ("method, specifications", "first", "of their fair share", "top-1 own", "top-1 others"),
        tuple(rows),
    )


def _questions(found: list[QuestionResult]) -> Table:
    tops = tuple(f"top-{k}" for k in (1, 2, 4) if k <= len(found[0].top))
    rows = []
    for it in found:
        kept = [it.top[k - 1] for k in (1, 2, 4) if k <= len(it.top)]
        row = measured(_asked(it), [*kept, it.rank])
        rows.append(replace(row, cells=(Cell(f"{it.tasks:,}"), *row.cells)))
    return Table(
        "Other questions",
        "Words, a model, or a picture with words or against another, by the scores that a search "
        "has for them. Pictures are single query images; the picture not wanted shows something "
        "else than the query, and the style's words are those of the right model.",
        ("asked with", "tasks", *tops, "rank"),
        tuple(rows),
    )


def _asked(it: QuestionResult) -> str:
    return {
        "picture": "a picture alone",
        "text": f"words alone, wording {it.variant}",
        "style": f"a picture, and its style in words, wording {it.variant}",
        "content": "a picture, and as style what it shows",
        "like": f"a model, compared on {'the same' if it.variant == 'same' else 'other'} prompts",
        "not-like": f"a picture, and not like one by {_wrong(it.variant)}",
    }[it.question]


def _wrong(variant: str) -> str:
    return "the nearest wrong model" if variant == "nearest" else "any wrong model"


def tables(results: Results) -> list[Table]:
    """Those of the paper's tables that the run has tasks and methods for, then those of our own.

    The paper's figures stand below ours where its number of models is the same.
    """
    found: list[Table] = []
    one = results.protocol("images-1")
    if one is not None:
        found += _single(one)
    found += _splits(results)
    found += _several_images(results)
    found += _own_prompts(results)
    found.sort(key=lambda table: table.title)
    found += supplement(results)
    return [table for table in found if table.rows]


def tables_markdown(results: Results) -> str:
    """``tables.md``: all tables, and what their figures mean."""
    share = f"{results.bootstrap.confidence:.0%}"
    head = (
        f"# Benchmark {escaped(results.name)}\n\n"
        "Accuracy is the share of test tasks whose right model is among the first k, rank its "
        f"mean place from 1; ties share places. ± is half the width of the {share} interval, by "
        f"drawing the tasks {results.bootstrap.resamples:,} times with replacement. Rows in "
        "italics are the paper's, on its own models and prompts: the same protocol, other data. "
        "The best of our rows is bold.\n"
    )
    return "\n".join([head, *(table.markdown() for table in tables(results))])


def _single(one: ProtocolResult) -> list[Table]:
    theirs = len(one.models) == published.MODELS
    tops = range(1, min(TOP, len(one.models)) + 1)
    rows = []
    for it in one.methods:
        rows.append(measured(method_label(it.method), [*it.top, it.rank]))
        if theirs and it.method in published.TABLE_1:
            rank = published.TABLE_2[it.method][2]
            rows.append(published_row(published.TABLE_1[it.method], rank))
    table_1 = Table(
        "Table 1: accuracy among the first k",
        f"One image a query, {one.tasks:,} tasks, {len(one.models)} models.",
        ("method", *(f"top-{k}" for k in tops), "rank"),
        _best(rows, len(tops)),
    )
    rows = []
    for name, figures in published.TABLE_2.items():
        found = one.method(name)
        if found is not None:
            rows.append(measured(method_label(name), [*found.top[:2], found.rank]))
            rows += [published_row(figures[:2], figures[2])] if theirs else []
    table_2 = Table(
        "Table 2: ablation",
        "What each part of the paper's method adds, one image a query.",
        ("method", "top-1", "top-2", "rank"),
        _best(rows, 2),
    )
    rows = []
    for name, accuracies in published.TABLE_6.items():
        found = one.method(name)
        if found is not None:
            rows.append(measured(method_label(name), found.top[:4]))
            rows += [published_row(accuracies)] if theirs else []
    table_6 = Table(
        "Table 6: a reduced set of one point",
        "Each model reduced to one point of the kernel's space, against all its images.",
        ("method", *_tops(one, 4)),
        _best(rows, 4) if one.method("size-1") else (),
    )
    return [table_1, table_2, table_6]


def _splits(results: Results) -> list[Table]:
    """The same tasks against all default prompts, and against each half of them."""
    names = {1: "images-1", 2: HALVES[0], 3: HALVES[1]}
    found = [(split, results.protocol(name)) for split, name in names.items()]
    halves = [(split, protocol) for split, protocol in found if protocol is not None]
    if len(halves) < 2:
        return []
    rows = []
    for name in ("rkme-clip", "paper", "default", "default-fitted", "default-none"):
        for split, protocol in halves:
            method = protocol.method(name)
            if method is None:
                continue
            prompts = "split 1, all default prompts" if split == 1 else protocol_label(names[split])
            title = f"{method_label(name)}, {prompts}"
            rows.append(measured(title, [*method.top[:4], method.rank]))
            if name == "paper" and len(protocol.models) == published.MODELS:
                rows.append(published_row((*published.TABLE_5[split], None)))
    return [
        Table(
            "Table 5: splits of the default prompts",
            "One image a query, against specifications on all default prompts and on two halves "
            "of them, which share none.",
            ("method, default prompts", *_tops(halves[0][1], 4), "rank"),
            tuple(rows),
        )
    ]


def _several_images(results: Results) -> list[Table]:
    found = []
    for count in range(1, 9):
        protocol = results.protocol(f"images-{count}")
        if protocol is not None:
            found.append((count, protocol))
    if len(found) < 2:
        return []
    rows = []
    for name in ("paper", "modelverse", "default", "default-fitted", "default-none"):
        for count, protocol in found:
            method = protocol.method(name)
            if method is None:
                continue
            title = f"{method_label(name)}, {protocol_label(protocol.protocol)}"
            rows.append(measured(title, [*method.top[:4], method.rank]))
            theirs = name == "paper" and len(protocol.models) == published.MODELS
            if theirs and count in published.TABLE_4:
                rows.append(published_row((*published.TABLE_4[count], None)))
    return [
        Table(
            "Table 4: several images a query",
            "All images of a query come from one model; each has its own weights.",
            ("method", *_tops(found[0][1], 4), "rank"),
            tuple(rows),
        )
    ]


def _own_prompts(results: Results) -> list[Table]:
    others = [it for it in results.protocols if it.protocol in OWN_PROMPTS]
    if not others:
        return []
    rows = []
    for name in ("rkme-clip", "paper", "modelverse", "default", "default-fitted", "default-none"):
        for protocol in others:
            method = protocol.method(name)
            if method is None:
                continue
            row = measured(
                f"{method_label(name)}, {protocol_label(protocol.protocol)}",
                [*method.top[:4], method.rank],
            )
            most = max(range(len(protocol.models)), key=method.picked.__getitem__)
            share = method.picked[most] * len(protocol.models)
            chosen = Cell(f"{share:.2f} × ({protocol.models[most]})")
            rows.append(replace(row, cells=(*row.cells, chosen)))
    return [
        Table(
            "Table 7: developers' own prompts",
            "Queries resemble what a developer's own prompts ask for. The last column names the "
            "model that comes first most often, as a multiple of an equal share of the tasks: "
            "far above 1 it wins whatever is asked. The paper's figures are not known here.",
            ("method, specifications", *_tops(others[0], 4), "rank", "chosen most"),
            tuple(rows),
        )
    ]


def _tops(protocol: ProtocolResult, count: int) -> tuple[str, ...]:
    return tuple(f"top-{k}" for k in range(1, min(count, len(protocol.models)) + 1))


def _best(rows: Sequence[Row], tops: int) -> tuple[Row, ...]:
    """Mark the best of our rows: the largest of the first ``tops`` columns, the smallest after."""
    ours = [row for row in rows if not row.published]
    if len(ours) < 2:
        return tuple(rows)
    best = []
    for column in range(len(ours[0].cells)):
        values = [float(row.cells[column].text) for row in ours]
        best.append(f"{max(values) if column < tops else min(values):.3f}")
    return tuple(
        row
        if row.published
        else replace(
            row,
            cells=tuple(
                replace(cell, best=cell.text == mark)
                for cell, mark in zip(row.cells, best, strict=True)
            ),
        )
        for row in rows
    )
