"""A run: what a plan found to be due, one model after the other or many at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

from gmi_registry.regeneration.executor import Executor, Options, Result, Work
from gmi_registry.regeneration.ledger import Ledger
from gmi_registry.regeneration.plan import PlannedModel, RegenerationPlan
from gmi_registry.regeneration.summary import Left, Summary

__all__ = ["Progress", "regenerate"]

Progress = Callable[[int, int, str], None]
"""Told (ended, due, model): how many models have ended, and which one begins or ended now."""

_ENDS_RUN = frozenset({"RateLimitError", "OfflineError"})
_LIMIT_MODELS = "--max-models was reached"
_LIMIT_SECONDS = "--max-seconds had passed"
_REFUSED = "the hub asked to stop"
_INTERRUPTED = "the run was interrupted"


def regenerate(
    plan: RegenerationPlan,
    executor: Executor,
    *,
    options: Options,
    ledger: Ledger,
    max_models: int | None = None,
    max_seconds: float | None = None,
    progress: Progress = lambda ended, due, model: None,
) -> Summary:
    """Work through what is due in ``plan``, and tell what became of it.

    No model is begun after ``max_models`` were, not counting those with which there was nothing to
    do, nor ``max_seconds`` after the beginning; what is begun is ended. A failure is noted in
    ``ledger`` and the next model goes on; where a hub asks for fewer requests, or is out of reach
    by setting, no further one is begun. Ctrl-C ends the run: the summary says so, and nothing is
    raised. Killed at any point, the same call goes on from there.

    Raises InputError where the ledger cannot be written.
    """
    ledger.forget(str(it.ref) for it in plan.models if it.state == "fresh")
    run = _Run(plan, options, ledger, max_models, max_seconds, progress)
    try:
        # An executor's iterator is a generator, which ends its workers when it is closed.
        with closing(cast("Any", executor.run(run.works()))) as results:
            for result in results:
                run.take(result)
    except KeyboardInterrupt:
        run.interrupted = True
        run.stop(_INTERRUPTED)
    return run.summary()


@dataclass
class _Run:
    plan: RegenerationPlan
    options: Options
    ledger: Ledger
    max_models: int | None
    max_seconds: float | None
    progress: Progress
    interrupted: bool = False
    _start: float = field(default_factory=time.monotonic)
    _begun: dict[str, PlannedModel] = field(default_factory=dict)
    _results: list[Result] = field(default_factory=list)
    _failures: dict[str, int] = field(default_factory=dict)
    _counted: int = 0
    _stopped: str | None = None

    def works(self) -> Iterator[Work]:
        """One after the other, each begun when it is taken, until a bound is reached."""
        for model in self.plan.due:
            self._bound()
            if self._stopped is not None:
                return
            name = str(model.ref)
            self._begun[name] = model
            self._counted += 1
            self.ledger.begin(name, model.key)
            self.progress(len(self._results), len(self.plan.due), name)
            yield Work(self.plan.hub, name, model.reason, self.options, model.to_registry)

    def take(self, result: Result) -> None:
        """Note one result."""
        model = self._begun[result.model]
        self._results.append(result)
        standing = self.ledger.settle(result.model, model.key, result)
        if result.outcome in ("failed", "lost"):
            self._failures[result.model] = len(standing.failures)
        if result.outcome in ("fresh", "busy"):
            self._counted -= 1
        if result.error in _ENDS_RUN:
            self.stop(_REFUSED)
        self.progress(len(self._results), len(self.plan.due), result.model)

    def stop(self, why: str) -> None:
        """Begin no further model."""
        self._stopped = self._stopped or why

    def summary(self) -> Summary:
        """What was done; notes of what was begun and did not end are taken back."""
        ended = {result.model for result in self._results}
        for name, model in self._begun.items():
            if name not in ended:
                self.ledger.settle(name, model.key, None)
        return Summary(
            hub=self.plan.hub,
            results=tuple(sorted(self._results, key=lambda it: it.model)),
            set_aside=tuple(it for it in self.plan.models if it.state == "set aside"),
            left=tuple(
                Left(it, self._stopped or "its worker gave no result")
                for it in self.plan.models
                if it.is_due and str(it.ref) not in ended
            ),
            fresh=self.plan.count("fresh"),
            failures=self._failures,
            interrupted=self.interrupted,
            seconds=time.monotonic() - self._start,
        )

    def _bound(self) -> None:
        if self.max_models is not None and self._counted >= self.max_models:
            self.stop(_LIMIT_MODELS)
        if self.max_seconds is not None and time.monotonic() - self._start >= self.max_seconds:
            self.stop(_LIMIT_SECONDS)
