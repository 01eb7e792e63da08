"""What a run did, what it set aside, and what it left for the next: as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gmi_registry.indexing import Indexing
from gmi_registry.regeneration.plan import PlannedModel
from gmi_registry.regeneration.work import Result
from gmi_registry.sanitize import in_markdown


@dataclass(frozen=True)
class Postponed:
    """A model for the next run, and ``why`` it is."""

    model: PlannedModel
    why: str


@dataclass(frozen=True)
class Summary:
    """One run on ``hub``.

    ``results`` are in the order of the models. ``set_aside`` were not touched, ``left`` were not
    reached; ``fresh`` is how many had nothing to be done. ``failures`` counts how often each model
    that failed has failed with the weights it has. ``seconds`` is wall time, ``index`` what became
    of an index, where one was to be brought up to date.
    """

    hub: str
    results: tuple[Result, ...]
    set_aside: tuple[PlannedModel, ...]
    left: tuple[Postponed, ...]
    fresh: int
    failures: dict[str, int]
    interrupted: bool
    seconds: float
    index: Indexing | None = None

    @property
    def done(self) -> tuple[Result, ...]:
        """Models with a new specification, put there or proposed."""
        return self._of("published", "proposed")

    @property
    def failed(self) -> tuple[Result, ...]:
        """Models that failed, or whose worker was lost."""
        return self._of("failed", "lost")

    @property
    def passed(self) -> tuple[Result, ...]:
        """Models with which, by the time of their turn, there was nothing to do."""
        return self._of("fresh", "busy", "set aside")

    @property
    def is_well(self) -> bool:
        """Whether no model failed."""
        return not self.failed

    def _of(self, *outcomes: str) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.outcome in outcomes)

    def to_json(self) -> dict[str, Any]:
        """The document of ``gmi regenerate --json``, which docs/how-to/regenerate.md describes."""
        return {
            "hub": self.hub,
            "done": [_result(result) for result in self.done],
            "passed": [_result(result) for result in self.passed],
            "failed": [
                _result(result)
                | {
                    "hint": result.hint,
                    "error": result.error,
                    "passing": result.passing,
                    "failures": self.failures.get(result.model, 0),
                }
                for result in self.failed
            ],
            "set_aside": [
                {"model": str(model.ref), "reason": model.reason} for model in self.set_aside
            ],
            "left": [
                {
                    "model": str(it.model.ref),
                    "state": it.model.state,
                    "reason": it.model.reason,
                    "why": it.why,
                }
                for it in self.left
            ],
            "fresh": self.fresh,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "index": None if self.index is None else _index(self.index),
        }

    def to_markdown(self) -> str:
        """A page for people: what was done first, then what somebody should look at."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"# Regeneration of {in_markdown(self.hub)}"
        yield ""
        yield (
            f"{len(self.done)} described again, {len(self.failed)} failed, {len(self.set_aside)} "
            f"set aside, {len(self.left)} left for next time, {self.fresh} fresh; "
            f"{self.seconds:,.0f} s" + (", interrupted" if self.interrupted else "")
        )
        yield from _table(
            "Described anew",
            ("model", "why", "where", "images", "s"),
            (
                (it.model, it.reason, it.where or "", str(it.images), f"{it.seconds:.1f}")
                for it in self.done
            ),
        )
        yield from _table(
            "Failed",
            ("model", "why", "so often", "next"),
            (
                (it.model, it.reason, str(self.failures.get(it.model, 0)), it.hint or "")
                for it in self.failed
            ),
        )
        yield from _table(
            "Set aside",
            ("model", "why"),
            ((str(model.ref), model.reason) for model in self.set_aside),
        )
        yield from _table(
            "Left for next time",
            ("model", "state", "why"),
            ((str(it.model.ref), it.model.state, it.why) for it in self.left),
        )
        yield from _table(
            "Nothing to do after all",
            ("model", "why"),
            ((it.model, it.reason) for it in self.passed),
        )
        if self.index is not None:
            change = self.index.change
            yield ""
            yield (
                f"The index has {change.rows:,} models: {change.added:,} added, "
                f"{change.replaced:,} replaced, {change.removed:,} removed."
            )


def _result(result: Result) -> dict[str, Any]:
    return {
        "model": result.model,
        "outcome": result.outcome,
        "reason": result.reason,
        "digest": result.digest,
        "where": result.where,
        "images": result.images,
        "seconds": result.seconds,
    }


def _index(done: Indexing) -> dict[str, Any]:
    change = done.change
    return {
        "models": change.rows,
        "added": change.added,
        "replaced": change.replaced,
        "removed": change.removed,
        "skipped": [{"model": str(it.model), "reason": it.reason} for it in done.skipped],
    }


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    found = list(rows)
    if not found:
        return
    yield from ("", f"## {title}", "")
    yield _row(head)
    yield _row(["---"] * len(head))
    for row in found:
        yield _row([in_markdown(cell) for cell in row])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
