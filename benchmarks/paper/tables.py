"""The tables of a report: the paper's, ours beside theirs, and those that it does not have.

What the paper reports stands beside a run: other models, other prompts, the same protocol. Source:
"You Only Submit One Image to Find the Most Suitable Generative Model". Sixteen Stable Diffusion
models, 55 default prompts, 2,880 tasks. Accuracies lie in 0..1, ranks in 1..16. Methods are called
as in :mod:`benchmarks.paper.methods`. Table 7 is missing: its figures are not in the text of the
paper that this project has. Tables of another number of models are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from benchmarks.paper.definition import HALVES, OWN_PROMPTS, SINGLE
from benchmarks.paper.methods import method_label, protocol_label
from benchmarks.paper.results import (
    TOP,
    Estimate,
    Late,
    MethodResult,
    Mixture,
    ProtocolResult,
    QuestionResult,
    Resemblance,
    Results,
)

# --- What the paper measured ---------------------------------------------------------------------

PUBLISHED_MODELS = 16
"""How many models the paper's tables are about."""

TABLE_1: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "download": (0.062, 0.125, 0.188, 0.250, 0.312, 0.375, 0.438, 0.500),
        "rkme-basic": (0.062, 0.125, 0.188, 0.250, 0.312, 0.375, 0.438, 0.500),
        "rkme-clip": (0.419, 0.576, 0.688, 0.770, 0.832, 0.870, 0.905, 0.934),
        "paper": (0.455, 0.614, 0.734, 0.812, 0.863, 0.899, 0.922, 0.943),
    }
)
"""Top-1 to top-8 accuracy."""

TABLE_2: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "download": (0.062, 0.125, 8.500),
        "rkme-basic": (0.062, 0.125, 8.500),
        "rkme-clip": (0.419, 0.576, 3.130),
        "rkme-concat": (0.433, 0.602, 2.938),
        "paper": (0.455, 0.614, 2.852),
    }
)
"""Top-1 and top-2 accuracy, and the mean rank."""

TABLE_4: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {
        1: (0.455, 0.614, 0.734, 0.812),
        2: (0.578, 0.743, 0.840, 0.908),
        3: (0.658, 0.791, 0.883, 0.950),
        4: (0.709, 0.854, 0.929, 0.969),
        5: (0.755, 0.873, 0.946, 0.979),
    }
)
"""Images a query to top-1 to top-4 accuracy of Eq. 9."""

TABLE_5: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {
        1: (0.455, 0.614, 0.734, 0.812),
        2: (0.442, 0.609, 0.729, 0.810),
        3: (0.460, 0.617, 0.732, 0.808),
    }
)
"""Split of the *default* prompts to top-1 to top-4 accuracy of Eq. 9: all 55, then two halves."""

TABLE_6: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"size-1": (0.434, 0.592, 0.707, 0.789), "paper": (0.455, 0.614, 0.734, 0.812)}
)
"""Top-1 to top-4 accuracy."""


# --- The table model -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """``spread`` is half the width of the interval, empty where there is none; ``best`` that of
    our rows in this column."""

    text: str
    spread: str = ""
    best: bool = False

    @classmethod
    def of(cls, value: Estimate | float | str | None, *, digits: int = 3, sign: str = "") -> Self:
        """An estimate or figure to so many decimals, with ``sign`` "+" for a difference; a text as
        it is; a dash for None."""
        if isinstance(value, Estimate):
            half = (value.high - value.low) / 2
            return cls(_figure(value.value, digits, sign), f"{half:.{digits}f}")
        if isinstance(value, str):
            return cls(value)
        return cls("–" if value is None else _figure(value, digits, sign))


def _figure(value: float, digits: int, sign: str) -> str:
    return f"{value:{sign}.{digits}f}".replace("-", "−")


@dataclass(frozen=True)
class Row:
    """``published``: the figures are the paper's and not of this run."""

    title: str
    cells: tuple[Cell, ...]
    published: bool = False

    @classmethod
    def of(
        cls, title: str, *values: Estimate | float | str | None, digits: int = 3, sign: str = ""
    ) -> Self:
        """A cell for each value, as :meth:`Cell.of` makes them."""
        return cls(title, tuple(Cell.of(value, digits=digits, sign=sign) for value in values))

    def __add__(self, other: Self) -> Self:
        """With the cells of another row after its own."""
        return replace(self, cells=self.cells + other.cells)


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


def escaped(text: str) -> str:
    """Text for Markdown, where models' names and prompts are other people's."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _published(figures: Iterable[float | None]) -> Row:
    return replace(Row.of("as published", *figures), published=True)


def _top_names(models: int, count: int) -> tuple[str, ...]:
    return tuple(f"top-{k}" for k in range(1, min(count, models) + 1))


# --- All of them ---------------------------------------------------------------------------------


def tables(results: Results) -> list[Table]:
    """Those of the paper's tables that the run has tasks and methods for, then those of our own.

    The paper's figures stand below ours where its number of models is the same.
    """
    found = [*_splits(results), *_several_images(results), *_own_prompts(results)]
    one = results.protocol(SINGLE)
    if one is not None:
        found += _single(one)
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


# --- The paper's ---------------------------------------------------------------------------------


def _single(one: ProtocolResult) -> list[Table]:
    """Tables 1, 2 and 6: one image a query."""
    ranks = {name: figures[2] for name, figures in TABLE_2.items()}
    accuracies = {name: (*it, ranks[name]) for name, it in TABLE_1.items()}
    tops = _top_names(len(one.models), TOP)
    return [
        Table(
            "Table 1: accuracy among the first k",
            f"One image a query, {one.tasks:,} tasks, {len(one.models)} models.",
            ("method", *tops, "rank"),
            _best(_beside(one, [it.method for it in one.methods], accuracies, TOP), len(tops)),
        ),
        Table(
            "Table 2: ablation",
            "What each part of the paper's method adds, one image a query.",
            ("method", "top-1", "top-2", "rank"),
            _best(_beside(one, TABLE_2, TABLE_2, 2), 2),
        ),
        Table(
            "Table 6: a reduced set of one point",
            "Each model reduced to one point of the kernel's space, against all its images.",
            ("method", *_top_names(len(one.models), 4)),
            _best(_beside(one, TABLE_6, TABLE_6, 4, rank=False), 4) if one.method("size-1") else (),
        ),
    ]


def _beside(
    one: ProtocolResult,
    names: Iterable[str],
    theirs: Mapping[str, Sequence[float]],
    tops: int,
    *,
    rank: bool = True,
) -> Iterator[Row]:
    """A row for each method, and the paper's below it where it has one of as many models."""
    for method in filter(None, map(one.method, names)):
        figures = [*method.top[:tops], *([method.rank] if rank else [])]
        yield Row.of(method_label(method.method), *figures)
        if len(one.models) == PUBLISHED_MODELS and method.method in theirs:
            yield _published(theirs[method.method])


def _best(found: Iterable[Row], tops: int) -> tuple[Row, ...]:
    """Mark the best of our rows: the largest of the first ``tops`` columns, the smallest after."""
    rows = tuple(found)
    ours = [row for row in rows if not row.published]
    if len(ours) < 2:
        return rows
    columns = zip(*([float(it.text) for it in row.cells] for row in ours), strict=True)
    best = [
        f"{max(values) if column < tops else min(values):.3f}"
        for column, values in enumerate(columns)
    ]

    def marked(row: Row) -> Row:
        pairs = zip(row.cells, best, strict=True)
        return replace(row, cells=tuple(replace(it, best=it.text == mark) for it, mark in pairs))

    return tuple(row if row.published else marked(row) for row in rows)


_Protocols = Sequence[tuple[ProtocolResult, str, Sequence[float] | None]]
"""Protocols to be compared, each with its label and the paper's figures for Eq. 9."""


def _compared(
    names: Iterable[str], protocols: _Protocols
) -> Iterator[tuple[Row, MethodResult | None]]:
    """Method by method a row for each protocol, with the result; None for a row of the paper."""
    for name in names:
        for protocol, label, theirs in protocols:
            method = protocol.method(name)
            if method is None:
                continue
            yield Row.of(f"{method_label(name)}, {label}", *method.top[:4], method.rank), method
            if name == "paper" and theirs and len(protocol.models) == PUBLISHED_MODELS:
                yield _published((*theirs, None)), None


def _splits(results: Results) -> list[Table]:
    """The same tasks against all default prompts, and against each half of them."""
    found = []
    for split, name in enumerate((SINGLE, *HALVES), 1):
        label = "split 1, all default prompts" if split == 1 else protocol_label(name)
        found.append((results.protocol(name), label, TABLE_5[split]))
    note = (
        "One image a query, against specifications on all default prompts and on two halves of "
        "them, which share none."
    )
    names = ("rkme-clip", "paper", "default", "default-fitted", "default-none")
    return _comparison(
        "Table 5: splits of the default prompts", note, "default prompts", names, found
    )


def _several_images(results: Results) -> list[Table]:
    found = [
        (results.protocol(f"images-{count}"), protocol_label(f"images-{count}"), theirs)
        for count in range(1, 9)
        for theirs in [TABLE_4.get(count)]
    ]
    note = "All images of a query come from one model; each has its own weights."
    names = ("paper", "modelverse", "default", "default-fitted", "default-none")
    return _comparison("Table 4: several images a query", note, "", names, found)


def _comparison(
    title: str,
    note: str,
    what: str,
    names: Iterable[str],
    found: Sequence[tuple[ProtocolResult | None, str, Sequence[float] | None]],
) -> list[Table]:
    """The table of the protocols that were run, at least two of them."""
    protocols = [(it, label, theirs) for it, label, theirs in found if it is not None]
    if len(protocols) < 2:
        return []
    tops = _top_names(len(protocols[0][0].models), 4)
    head = (f"method, {what}" if what else "method", *tops, "rank")
    return [Table(title, note, head, tuple(row for row, _ in _compared(names, protocols)))]


def _own_prompts(results: Results) -> list[Table]:
    found = [it for it in results.protocols if it.protocol in OWN_PROMPTS]
    if not found:
        return []
    names = ("rkme-clip", "paper", "modelverse", "default", "default-fitted", "default-none")
    protocols = [(it, protocol_label(it.protocol), None) for it in found]
    rows = [
        row + Row.of("", _multiple(found[0], method, _by_picks(method.picked)[-1]))
        for row, method in _compared(names, protocols)
        if method is not None
    ]
    return [
        Table(
            "Table 7: developers' own prompts",
            "Queries resemble what a developer's own prompts ask for. The last column names the "
            "model that comes first most often, as a multiple of an equal share of the tasks: "
            "far above 1 it wins whatever is asked. The paper's figures are not known here.",
            ("method, specifications", *_top_names(len(found[0].models), 4), "rank", "chosen most"),
            tuple(rows),
        )
    ]


def _by_picks(picked: Sequence[float]) -> list[int]:
    """The models from that which comes first least often to that which does most."""
    return sorted(range(len(picked)), key=lambda model: (picked[model], -model))


def _multiple(one: ProtocolResult, method: MethodResult, model: int) -> str:
    """How often a model comes first, as a multiple of an equal share of the tasks."""
    return f"{method.picked[model] * len(one.models):.2f} × ({one.models[model]})"


# --- Those that it does not have -----------------------------------------------------------------

_FIRSTS = (
    *("download", "rkme-basic", "rkme-clip", "rkme-concat", "paper", "modelverse"),
    *("default", "default-none"),
)
_SPECIFICATIONS = {"beside": "own prompts beside the default ones", "alone": "own prompts alone"}


def supplement(results: Results) -> list[Table]:
    """Those that the run has figures for; some may have no rows."""
    found: list[Table] = []
    one = results.protocol(SINGLE)
    if one is not None:
        found += [_versus(one), _confidence(one), _thirds(one), _extremes(one), _firsts(one)]
    if results.resemblance is not None:
        found.append(_resemblance(results.resemblance))
    if results.late is not None:
        found.append(_held_out(results.late))
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
            rows.append(Row.of(method_label(it.method), *known, sign="+"))
    return Table(
        "Against Eq. 9 on the same tasks",
        "Each method minus Eq. 9, one image a query; for rank less is better. An interval that "
        "holds 0 shows no difference.",
        ("method", "top-1", *(["top-4"] if len(one.models) > 3 else []), "rank"),
        tuple(rows),
    )


def _confidence(one: ProtocolResult) -> Table:
    rows = []
    for it in one.methods:
        sure = it.confidence
        if sure is not None:
            mean = sum(part.confidence * part.tasks for part in sure.bins) / one.tasks
            figures = (it.top[0], mean, sure.error, sure.search_error, f"{sure.dev_tasks:,}")
            rows.append(Row.of(method_label(it.method), *figures))
    return Table(
        "Confidence",
        "The chance of being right that the margin over the runner-up speaks for, fitted on "
        "dev tasks and measured on test tasks, one image a query. The default score shows a chance "
        "in searches, by a formula; its calibration error is that of the formula.",
        (
            *("method", "accuracy", "mean confidence", "calibration error"),
            *("of the chance in searches", "dev tasks"),
        ),
        tuple(rows),
    )


def _thirds(one: ProtocolResult) -> Table:
    rows = [
        Row.of(f"{method_label(name)}, third {group.group}", *found.top[:4], found.rank)
        for name in ("paper", "default")
        for group in one.groups
        for found in group.methods
        if found.method == name
    ]
    return Table(
        "Thirds of the evaluation prompts",
        "How much the outcome hangs on what is asked for. One image a query.",
        ("method, tasks", *_top_names(len(one.models), 4), "rank"),
        tuple(rows),
    )


def _extremes(one: ProtocolResult) -> Table:
    fair = 1 / len(one.models)
    rows = []
    for it in one.methods:
        order = _by_picks(it.picked)
        most, least = (_multiple(one, it, model) for model in (order[-1], order[0]))
        never = str(sum(share == 0 for share in it.picked))
        held = sum(max(0.0, share - fair) for share in it.picked)
        rows.append(Row.of(method_label(it.method), most, least, never, held))
    return Table(
        "Models that come first too often",
        "First places as a multiple of an equal share of the tasks, one image a query. Every model "
        "is the right one equally often, so that 1 × is fair. The last column is the share of "
        "tasks that models hold above theirs.",
        ("method", "most often", "least often", "models never first", "held too much"),
        tuple(rows),
    )


def _firsts(one: ProtocolResult) -> Table:
    methods = list(filter(None, map(one.method, _FIRSTS))) or list(one.methods)
    rows = [
        Row.of(name, *(method.picked[model] for method in methods))
        for model, name in enumerate(one.models)
    ]
    return Table(
        "How often each model comes first",
        f"Share of all {one.tasks:,} tasks of one image; ties are split. {1 / len(one.models):.3f} "
        "is fair.",
        ("model", *(method_label(method.method) for method in methods)),
        tuple(rows),
    )


def _resemblance(it: Resemblance) -> Table:
    found: list[tuple[str, Estimate, float | None]] = [("The right model", it.right, 1.0)]
    found += [(method_label(each.method), each.squared_mmd, each.closed) for each in it.methods]
    found += [("Any model, at random", it.random, 0.0)]
    return Table(
        "Whether the picked models make what was asked with",
        "Squared maximum mean discrepancy between the query images of a model's tasks and what "
        f"the picked models make of the same prompts, {it.pictures} pictures on each side, on the "
        f"encoder's embeddings (RBF kernel, γ = {it.gamma:.3g}, pairs of one prompt left out); the "
        "mean over right models, and its interval over these. Less is better; what is alike is "
        "near 0, on either side of it. The last column is how much of the way from "
        "any model to the right one is covered: it gives credit for models that draw alike.",
        ("method", "MMD²", "way covered"),
        tuple(
            Row.of(title, distance, digits=4) + Row.of("", closed)
            for title, distance, closed in found
        ),
    )


def _held_out(late: Late) -> Table:
    rows = [
        Row.of(method_label(it.method), it.top_1, it.late)
        + Row.of("", it.lost_late, it.lost, sign="+")
        for it in late.methods
    ]
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
        # As a multiple of what is fair, so that 1 is fair whatever the number of models.
        multiple = f"{it.picked.value / it.fair:.2f} ×"
        title = f"{method_label(it.method)}, {_SPECIFICATIONS[it.specifications]}"
        rows.append(Row.of(title, it.picked, multiple, it.top_1_own, it.top_1_others))
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
    shown = [k for k in (1, 2, 4) if k <= len(found[0].top)]
    return Table(
        "Other questions",
        "Words, a model, or a picture with words or against another, by the scores that a search "
        "has for them. Pictures are single query images; the picture not wanted shows something "
        "else than the query, and the style's words are those of the right model.",
        ("asked with", "tasks", *(f"top-{k}" for k in shown), "rank"),
        tuple(
            Row.of(_asked(it), f"{it.tasks:,}", *(it.top[k - 1] for k in shown), it.rank)
            for it in found
        ),
    )


def _asked(it: QuestionResult) -> str:
    wrong = "the nearest wrong model" if it.variant == "nearest" else "any wrong model"
    return {
        "picture": "a picture alone",
        "text": f"words alone, wording {it.variant}",
        "style": f"a picture, and its style in words, wording {it.variant}",
        "content": "a picture, and as style what it shows",
        "like": f"a model, compared on {'the same' if it.variant == 'same' else 'other'} prompts",
        "not-like": f"a picture, and not like one by {wrong}",
    }[it.question]
