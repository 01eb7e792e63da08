"""What looking at one model comes to: what a worker and a job call for each delivery."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gmi_registry.regeneration.executor import Result

__all__ = ["RIGHTS_SECONDS", "Look", "Looked", "look_with", "looked_at"]

RIGHTS_SECONDS = 600.0
"""Until a model is looked at again for which rights were missing.

A token that has run out is the fault of none of the models that come meanwhile.
"""

_COMMIT = re.compile(r"/commit/([0-9a-f]{40})")


@dataclass(frozen=True)
class Looked:
    """What a look came to; ``reason`` is one line.

    ``done``: there is nothing more to do, by the commit ``commit`` (40 hex digits) where one was
    made. ``failed``: the model's fault. ``passing``: a fault of the hub, the network or somebody
    else's, to be tried again, in ``after`` seconds where that is known.
    """

    outcome: Literal["done", "failed", "passing"]
    reason: str
    commit: str | None = None
    after: float | None = None


Look = Callable[[str], Looked]
"""Looks at the model ``owner/name`` as it is now, and describes it anew if need be.

A GmiError that it raises counts as ``failed``; an AuthError, an OfflineError and a RateLimitError
as ``passing``.
"""


def look_with(
    work: Path,
    *,
    cache_dir: Path | None = None,
    device: str | None = None,
    create_pr: bool | None = None,
) -> Look:
    """A look that is one round of regeneration over one model of Hugging Face.

    ``work`` is where unfinished work and the ledger of failures are kept, and the rest as for
    :class:`~gmi_registry.regeneration.Options`. The token is the one of the environment.
    """

    def look(repo: str) -> Looked:
        from gmi_registry.hubs.open import opened_hub
        from gmi_registry.regeneration.executor import Options
        from gmi_registry.regeneration.round import Round

        options = Options(
            work=str(work),
            cache_dir=None if cache_dir is None else str(cache_dir),
            create_pr=create_pr,
            device=device,
        )
        with opened_hub("hf", options.access) as hub:
            runner = Round(hub, options, repos=[f"hf:{repo}"])
            plan = runner.plan()
            summary = runner.run(plan)
        if summary.interrupted:
            raise KeyboardInterrupt
        if summary.results:
            return looked_at(summary.results)
        states = [f"{model.state}: {model.reason}" for model in plan.models]
        return Looked("done", "; ".join(states))

    return look


def looked_at(results: Sequence[Result]) -> Looked:
    """What a look came to whose run gave these ``results``, of which there is at least one.

    The first that went wrong decides.
    """
    for result in results:
        if result.outcome in ("busy", "lost") or (result.outcome == "failed" and result.passing):
            return Looked("passing", result.reason)
        if result.error == "AuthError":
            return Looked("passing", result.reason, after=RIGHTS_SECONDS)
        if result.outcome == "failed":
            return Looked("failed", result.reason)
    last = results[-1]
    commit = _COMMIT.search(last.where or "")
    return Looked(
        "done",
        f"{last.outcome}: {last.reason}",
        commit=commit[1] if commit is not None and last.outcome == "published" else None,
    )
