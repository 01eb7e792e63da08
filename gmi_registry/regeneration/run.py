"""A run over a hub: compare all its models, describe what is out of date, update an index.

Its summary says what was done, set aside, and left for the next run, as JSON and as Markdown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from gmi_registry.errors import InputError
from gmi_registry.filters import Filters
from gmi_registry.hubs.protocol import Hub
from gmi_registry.indexing import Indexing, index_hubs
from gmi_registry.regeneration.plan import PlannedModel, RegenerationPlan, make_plan
from gmi_registry.regeneration.plan import Progress as PlanProgress
from gmi_registry.regeneration.store import FailureStore
from gmi_registry.regeneration.work import Executor, Options, Result, Work
from gmi_registry.sanitize import in_markdown

if TYPE_CHECKING:
    from gmi_registry.publish import Progress as PublicationProgress


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


Progress = Callable[[int, int, str], None]
"""Told (ended, due, model): how many models have ended, and which one begins or ended now."""

_ENDS_RUN = frozenset({"RateLimitError", "OfflineError"})
_LIMIT_MODELS = "--max-models was reached"
_LIMIT_SECONDS = "--max-seconds had passed"
_REFUSED = "the hub asked the program to stop"
_INTERRUPTED = "the run was interrupted"


def regenerate(
    plan: RegenerationPlan,
    executor: Executor,
    *,
    options: Options,
    failures: FailureStore,
    max_models: int | None = None,
    max_seconds: float | None = None,
    progress: Progress = lambda ended, due, model: None,
) -> Summary:
    """Work through what is due in ``plan``, and tell what became of it.

    No model is begun after ``max_models`` were, not counting those with which there was nothing to
    do, nor ``max_seconds`` after the beginning; what is begun is ended. A failure is noted in
    ``failures`` and the next model goes on; where a hub asks for fewer requests, or is out of reach
    by setting, no further one is begun. Ctrl-C ends the run: the summary says so, and nothing is
    raised. Killed at any point, the same call goes on from there.

    Raises InputError where that cannot be written.
    """
    failures.forget(str(it.ref) for it in plan.models if it.state == "fresh")
    run = _Run(plan, options, failures, max_models, max_seconds, progress)
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
    failures: FailureStore
    max_models: int | None
    max_seconds: float | None
    progress: Progress
    interrupted: bool = False
    _start: float = field(default_factory=time.monotonic)
    _begun: dict[str, PlannedModel] = field(default_factory=dict)
    _results: list[Result] = field(default_factory=list)
    _failed: dict[str, int] = field(default_factory=dict)
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
            self.failures.begin(name, model.key)
            self.progress(len(self._results), len(self.plan.due), name)
            yield Work(self.plan.hub, name, model.reason, self.options, model.to_registry)

    def take(self, result: Result) -> None:
        """Note one result."""
        model = self._begun[result.model]
        self._results.append(result)
        standing = self.failures.record(result.model, model.key, result)
        if result.outcome in ("failed", "lost"):
            self._failed[result.model] = len(standing.failures)
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
                self.failures.record(name, model.key, None)
        return Summary(
            hub=self.plan.hub,
            results=tuple(sorted(self._results, key=lambda it: it.model)),
            set_aside=tuple(it for it in self.plan.models if it.state == "set aside"),
            left=tuple(
                Postponed(it, self._stopped or "its worker gave no result")
                for it in self.plan.models
                if it.is_due and str(it.ref) not in ended
            ),
            fresh=self.plan.count("fresh"),
            failures=self._failed,
            interrupted=self.interrupted,
            seconds=time.monotonic() - self._start,
        )

    def _bound(self) -> None:
        if self.max_models is not None and self._counted >= self.max_models:
            self.stop(_LIMIT_MODELS)
        if self.max_seconds is not None and time.monotonic() - self._start >= self.max_seconds:
            self.stop(_LIMIT_SECONDS)


class SequentialExecutor:
    """One model after the other, in this process.

    ``hub`` is one that is open already; with None each work opens its own. ``progress`` is told
    what :func:`gmi_registry.publish.publish` tells.
    """

    def __init__(
        self, hub: Hub | None = None, *, progress: PublicationProgress | None = None
    ) -> None:
        self._hub = hub
        self._progress = progress

    def run(self, works: Iterator[Work]) -> Iterator[Result]:
        """The results in the order of ``works``."""
        from gmi_registry.regeneration.describe import perform

        for work in works:
            yield perform(work, hub=self._hub, progress=self._progress)


ExecutorName = Literal["local", "ray", "hf-jobs"]

EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)
"""What ``--executor`` may be."""


def executor_named(
    name: str,
    workers: int = 1,
    *,
    address: str | None = None,
    namespace: str | None = None,
    flavor: str | None = None,
    timeout: int | str | None = None,
    token: str | None = None,
    civitai_token: str | None = None,
) -> Executor:
    """The executor called ``name``, for ``workers`` models at a time.

    ``address`` is of a Ray cluster, and for ``ray`` alone. ``namespace``, ``flavor``, ``timeout``
    (seconds, or a text such as ``2h``) and the tokens are for ``hf-jobs`` alone; the others find
    tokens in the works. Nothing is imported, started or asked that this executor does not need.

    Raises InputError for another name, or fewer than one worker; MissingExtraError for ``ray``
    without its extra.
    """
    if name == "local":
        from gmi_registry.regeneration.processes import LocalExecutor

        return LocalExecutor(workers)
    if name == "ray":
        from gmi_registry.regeneration.ray_executor import RayExecutor

        return RayExecutor(workers, address=address)
    if name == "hf-jobs":
        from gmi_registry.regeneration.job_executor import HfJobsExecutor

        return HfJobsExecutor(
            workers,
            namespace=namespace,
            flavor=flavor,
            timeout=timeout,
            token=token,
            civitai_token=civitai_token,
        )
    raise InputError(
        f"{name[:80]!r} is not an executor", hint=f"use --executor {' or '.join(EXECUTORS)}"
    )


class Round:
    """One round over ``hub``: :meth:`plan`, :meth:`run`, :meth:`index`.

    ``options`` say where the work is kept, with what failed before. ``repos``,
    ``tags``, ``since`` and ``retry`` are as for :func:`.make_plan`.
    """

    def __init__(
        self,
        hub: Hub,
        options: Options,
        *,
        repos: Sequence[str] = (),
        tags: Sequence[str] = (),
        since: datetime | None = None,
        retry: bool = False,
    ) -> None:
        self.hub = hub
        self.options = options
        self.failures = FailureStore.about(Path(options.work), hub)
        self._repos, self._tags = tuple(repos), tuple(tags)
        self._since, self._retry = since, retry

    def plan(self, *, progress: PlanProgress = lambda done, total: None) -> RegenerationPlan:
        """What there is to do. Writes nothing. Raises as :func:`.make_plan`."""
        return make_plan(
            self.hub,
            repos=self._repos,
            tags=self._tags,
            since=self._since,
            failures=self.failures,
            retry=self._retry,
            progress=progress,
        )

    def run(
        self,
        plan: RegenerationPlan,
        executor: Executor | None = None,
        *,
        max_models: int | None = None,
        max_seconds: float | None = None,
        progress: Progress = lambda ended, due, model: None,
    ) -> Summary:
        """Do it, in this process unless there is an ``executor``. As :func:`.regenerate`."""
        return regenerate(
            plan,
            executor or SequentialExecutor(self.hub),
            options=self.options,
            failures=self.failures,
            max_models=max_models,
            max_seconds=max_seconds,
            progress=progress,
        )

    def index(self, summary: Summary, folder: Path, *, cache_dir: Path) -> Summary:
        """Bring the index in ``folder`` to what the hub holds, and ``summary`` with it.

        With ``tags`` it is an index of the models that have them, whichever models were named.
        ``cache_dir`` and what is raised are as for :func:`~gmi_registry.indexing.index_hubs`.
        """
        if folder.exists() and not folder.is_dir():
            raise InputError(
                f"{folder} is not a folder", hint="name one: gmi regenerate --index DIR"
            )
        wanted = Filters(tags=self._tags)
        done = index_hubs(folder, [self.hub], cache_dir=cache_dir, filters=wanted)
        return replace(summary, index=done)
