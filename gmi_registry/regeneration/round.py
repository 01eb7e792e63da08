"""One round over a hub, from the look at it to its index: what every runner calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.filters import Filters
from gmi_registry.hubs.protocol import Hub
from gmi_registry.indexing import index_hubs
from gmi_registry.regeneration.executor import Executor, Options, SequentialExecutor
from gmi_registry.regeneration.ledger import Ledger
from gmi_registry.regeneration.plan import Progress as PlanProgress
from gmi_registry.regeneration.plan import RegenerationPlan, make_plan
from gmi_registry.regeneration.run import Progress as RunProgress
from gmi_registry.regeneration.run import regenerate
from gmi_registry.regeneration.summary import Summary

__all__ = ["Round"]


class Round:
    """One round over ``hub``: :meth:`plan`, :meth:`run`, :meth:`index`.

    ``options`` say where the work is kept, with the ledger of what failed before. ``repos``,
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
        self.ledger = Ledger.about(Path(options.work), hub)
        self._repos, self._tags = tuple(repos), tuple(tags)
        self._since, self._retry = since, retry

    def plan(self, *, progress: PlanProgress = lambda done, total: None) -> RegenerationPlan:
        """What there is to do. Writes nothing. Raises as :func:`.make_plan`."""
        return make_plan(
            self.hub,
            repos=self._repos,
            tags=self._tags,
            since=self._since,
            ledger=self.ledger,
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
        progress: RunProgress = lambda ended, due, model: None,
    ) -> Summary:
        """Do it, in this process unless there is an ``executor``. As :func:`.regenerate`."""
        return regenerate(
            plan,
            executor or SequentialExecutor(self.hub),
            options=self.options,
            ledger=self.ledger,
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
            raise InputError(f"{folder} is no folder", hint="name one: gmi regenerate --index DIR")
        wanted = Filters(tags=self._tags)
        done = index_hubs(folder, [self.hub], cache_dir=cache_dir, wanted=wanted)
        return replace(summary, index=done)
