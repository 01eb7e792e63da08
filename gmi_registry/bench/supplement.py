"""Tables that the paper does not have."""

from __future__ import annotations

from dataclasses import replace

from gmi_registry.bench.results import (
    Late,
    Mixture,
    ProtocolResult,
    QuestionResult,
    Resemblance,
    Results,
)
from gmi_registry.bench.table import Cell, Row, Table, cell, measured
from gmi_registry.bench.title import method_title

__all__ = ["supplement"]

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
        found += [_versus(one), _confidence(one), _thirds(one), _extremes(one), _firsts(one)]
    if results.resemblance is not None:
        found.append(_resemblance(results.resemblance))
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
            rows.append(measured(method_title(it.method), known, signed=True))
    return Table(
        "Against Eq. 9 on the same tasks",
        "Each method minus Eq. 9, one image a query; for rank less is better. An interval that "
        "holds 0 shows no difference.",
        ("method", "top-1", *(["top-4"] if len(one.models) > 3 else []), "rank"),
        tuple(rows),
    )


def _confidence(one: ProtocolResult) -> Table:
    rows = [
        Row(
            method_title(it.method),
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
        measured(f"{method_title(name)}, third {group.group}", [*found.top[:4], found.rank])
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
                method_title(it.method),
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
        ("model", *(method_title(method.method) for method in methods)),
        tuple(rows),
    )


def _resemblance(it: Resemblance) -> Table:
    rows = [Row("The right model", (cell(it.right, digits=4), Cell("1.000")))]
    for method in it.methods:
        closed = "–" if method.closed is None else f"{method.closed:.3f}".replace("-", "−")
        distance = cell(method.squared_mmd, digits=4)
        rows.append(Row(method_title(method.method), (distance, Cell(closed))))
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
        row = measured(method_title(it.method), [it.top_1, it.late])
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
        title = f"{method_title(it.method)}, {_SPECIFICATIONS[it.specifications]}"
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
