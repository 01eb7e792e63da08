"""The answer of an index to a question: one ranking for each group."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gmi_registry.errors import IncomparableSpecsError
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.question import Question
from gmi_registry.index.ranked import ranked
from gmi_registry.index.result import GroupRanking, Ranking, SkippedSpec, Universal
from gmi_registry.index.selection import Index, Selection, as_rows
from gmi_registry.index.stack import Stack
from gmi_registry.spec import ModelRef

__all__ = ["answer"]


def answer(
    index: Index,
    selections: Sequence[Selection],
    question: Question,
    *,
    top: int | None = 10,
    best_prompts: int = 3,
    repeats: bool = False,
    universal: Callable[[Stack], Mapping[str, Universal]] | None = None,
) -> Ranking:
    """Compare the question with every model that was selected in ``index``, nearest first.

    ``top`` is the most hits that each group shows, None for all; ``best_prompts`` the most prompts
    that each hit names. With ``repeats`` models whose specifications repeat each other take room
    from others. ``universal`` knows the members of a group that are near everything, by name.
    Specifications of another encoder are skipped with a reason, and so is a hit whose arrays cannot
    be what they are said to be; the next takes its place. No selection gives a result without hits.

    Raises IncomparableSpecsError where models were selected and none of them can be compared with
    the question.
    """
    groups, refused = [], []
    for selection in selections:
        stack = selection.stack
        if stack.key.encoder_id != question.encoder_id:
            reason = _other_encoder(selection.first, question)
            # Names, not entries: those of half a hub would have to be read one by one.
            refs = [ModelRef.parse(stack.names[row]) for row in selection.rows]
            refused += [SkippedSpec(ref, reason) for ref in refs]
            continue
        while len(selection.rows):
            ranking = ranked(
                selection,
                question,
                top=top,
                best_prompts=best_prompts,
                standing=index.standing,
                repeats=repeats,
            )
            unfit = _unfit(selection, question, ranking)
            if not unfit:
                if universal is not None:
                    known = universal(stack)
                    hits = (replace(hit, universal=known.get(str(hit.ref))) for hit in ranking.hits)
                    ranking = replace(ranking, hits=tuple(hits)) if known else ranking
                groups.append((-len(selection.rows), -len(stack.names), stack.key, ranking))
                break
            refused += unfit.values()
            rows = as_rows(selection.rows)
            left = rows[~np.isin(rows, list(unfit))]
            selection = replace(selection, rows=left.tolist())
    matched = sum(map(len, selections))
    if refused and not groups:
        raise IncomparableSpecsError(
            f"none of the {matched} models that match can be compared with the query; "
            f"the first is {refused[0].model}: {refused[0].reason}",
            hint="search with the encoder that the specifications name, or publish them "
            "again with yours",
        )
    groups.sort(key=lambda group: group[:3])
    skipped = (*index.skipped, *refused)
    return Ranking(tuple(group[3] for group in groups), skipped, len(index), matched)


def _unfit(
    selection: Selection, question: Question, ranking: GroupRanking
) -> dict[int, SkippedSpec]:
    """Of the hits, by their rows, those whose arrays cannot be what they are said to be."""
    stack = selection.stack
    rows = [bisect_left(stack.names, str(hit.ref)) for hit in ranking.hits]
    # Nobody waits for the images of half a hub because of them.
    if not stack.at_hand(rows):
        return {}
    reasons = zip(rows, ranking.hits, question.faults(stack, rows), strict=True)
    return {row: SkippedSpec(hit.ref, reason) for row, hit, reason in reasons if reason}


def _other_encoder(entry: IndexEntry, question: Question) -> str:
    return (
        f"made with the encoder {entry.encoder} ({entry.key.encoder_id[:8]}), "
        f"the query with {question.encoder_id[:8]}"
    )
