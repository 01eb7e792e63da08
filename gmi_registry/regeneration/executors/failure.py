"""Results for works that did not give one themselves."""

from __future__ import annotations

import os
from collections.abc import Callable

from gmi_registry.errors import GmiError
from gmi_registry.regeneration.executor import Result, Work
from gmi_registry.sanitize import add_secret, one_line

__all__ = ["Perform", "failed", "lost", "performed", "usual_perform"]

Perform = Callable[[Work], Result]
"""What is done with a work. Other processes find it by its name, so it stands in a module."""

_LONGEST = 300
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CIVITAI_TOKEN", "GMI_WEBHOOK_SECRET")


def usual_perform() -> Perform:
    """The worker's own, which brings torch and diffusers along."""
    from gmi_registry.regeneration.worker import perform

    return perform


def performed(perform: Perform, work: Work) -> Result:
    """``perform(work)``, and where it raises, or gives something else, a ``failed`` result."""
    try:
        result = perform(work)
    except Exception as error:  # one model's fault must not cost another's
        return failed(work, error)
    if not isinstance(result, Result) or result.model != work.model:
        return Result(work.model, "failed", "what did the work gave no result of it")
    return result


def failed(work: Work, error: Exception, *, passing: bool = False) -> Result:
    """The error as a result: its first line, without tokens and control characters."""
    lines = (error.message if isinstance(error, GmiError) else str(error)).strip().splitlines()
    said = _clean(lines[0], work) if lines else ""
    name = type(error).__name__
    hint = error.hint if isinstance(error, GmiError) else None
    known = isinstance(error, GmiError)
    reason = said if known and said else f"{name}: {said}" if said else name
    return Result(work.model, "failed", reason, hint=hint, error=name, passing=passing)


def lost(work: Work, why: str, *, hint: str | None = None, where: str | None = None) -> Result:
    """``why`` nothing is known of the work."""
    return Result(work.model, "lost", _clean(why, work), hint=hint, where=where)


def _clean(line: str, work: Work) -> str:
    for secret in (work.options.token, work.options.civitai_token, *map(os.environ.get, _SECRETS)):
        add_secret(secret)
    return one_line(line, _LONGEST)
