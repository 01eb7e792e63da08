"""The paper's tables, ours and theirs, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gmi_registry.bench import published
from gmi_registry.bench.measure import TOP
from gmi_registry.bench.protocol import HALVES, OWN_PROMPTS
from gmi_registry.bench.results import ProtocolResult, Results
from gmi_registry.bench.supplement import supplement
from gmi_registry.bench.table import Cell, Row, Table, escaped, measured, published_row
from gmi_registry.bench.title import method_title, protocol_title

__all__ = ["tables", "tables_markdown"]


def tables(results: Results) -> list[Table]:
    """Those of the paper's tables that the run has tasks and methods for, then those of our own.

    The paper's figures stand below ours where its number of models is the same.
    """
    found: list[Table] = []
    one = results.protocol("images-1")
    if one is not None:
        found += _single(one)
    found += _splits(results)
    found += _several(results)
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
        rows.append(measured(method_title(it.method), [*it.top, it.rank]))
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
            rows.append(measured(method_title(name), [*found.top[:2], found.rank]))
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
            rows.append(measured(method_title(name), found.top[:4]))
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
            prompts = "split 1, all default prompts" if split == 1 else protocol_title(names[split])
            title = f"{method_title(name)}, {prompts}"
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


def _several(results: Results) -> list[Table]:
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
            title = f"{method_title(name)}, {protocol_title(protocol.protocol)}"
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
                f"{method_title(name)}, {protocol_title(protocol.protocol)}",
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
