"""What is done with one model: the work, its options, its result, and who does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pydantic import ConfigDict

from gmi_registry.errors import GmiError, InputError
from gmi_registry.hubs.open import HubAccess
from gmi_registry.sanitize import add_secret, one_line

Outcome = Literal["published", "proposed", "fresh", "busy", "set aside", "failed", "lost"]
"""What became of one model.

``published`` and ``proposed``: described again, and put there or proposed to its owner. ``fresh``:
by the time it was its turn there was nothing to do. ``busy``: another runner has it. ``set aside``:
it must not be touched. ``failed``: an error, which is in the reason. ``lost``: whoever had it is
gone, and nothing is known; it is the next run's, and no failure of the model.
"""


_NOTHING_ELSE: ConfigDict = {"extra": "forbid"}
"""Where it is read from a text: what a later version added is not passed over."""


@dataclass(frozen=True)
class Options:
    """What is the same for every model of a run. Strings and truth values only: it is pickled.

    ``work`` and ``cache_dir`` are folders (None: the usual cache). ``create_pr`` None is what is
    usual at the hub. Tokens are not shown by ``repr``; where they are None, those of the
    environment count, and an executor on another machine should send them no other way.
    """

    __pydantic_config__ = _NOTHING_ELSE

    work: str
    cache_dir: str | None = None
    registry: str | None = None
    create_pr: bool | None = None
    device: str | None = None
    token: str | None = field(default=None, repr=False)
    civitai_token: str | None = field(default=None, repr=False)

    @property
    def access(self) -> HubAccess:
        """How hubs and the registry are reached."""
        cache_dir = None if self.cache_dir is None else Path(self.cache_dir)
        return HubAccess(cache_dir, self.token, None, self.registry, self.civitai_token)


@dataclass(frozen=True)
class Work:
    """One model to be described again, in plain values that can be pickled.

    ``hub`` is what :func:`gmi_registry.hubs.open_hub` takes: ``hf``, ``civitai`` or the path of a
    folder. ``model`` is what :meth:`.ModelRef.parse` reads, without a commit. ``reason`` says why.
    ``to_registry``: the specification lies in the registry, and not beside the model.
    """

    __pydantic_config__ = _NOTHING_ELSE

    hub: str
    model: str
    reason: str
    options: Options
    to_registry: bool = False


@dataclass(frozen=True)
class Result:
    """What became of one :class:`Work`; ``model`` is its.

    ``digest`` is the SHA-256 (hex) of the ``spec.json`` that the model has now, where it is known;
    ``where`` its address. ``reason`` is one line, ``hint`` the next thing to do, ``error`` the name
    of the error's class. ``passing``: the failure is the hub's or the network's, and says nothing
    of the model. ``images`` were drawn, in ``seconds`` of wall time in all.
    """

    model: str
    outcome: Outcome
    reason: str
    digest: str | None = None
    where: str | None = None
    hint: str | None = None
    error: str | None = None
    passing: bool = False
    images: int = 0
    seconds: float = 0.0


def require_workers(workers: int) -> None:
    """Raises InputError for fewer than one worker."""
    if workers < 1:
        raise InputError(f"{workers} workers do nothing", hint="use --workers 1 or more")


class Executor(Protocol):
    """Does works through :func:`gmi_registry.regeneration.describe.perform`, here or elsewhere."""

    def run(self, works: Iterator[Work]) -> Iterator[Result]:
        """One result for each work, in whatever order they end.

        The next work is taken only when there is somebody to begin it at once: taking one begins
        it, and the iterator ends where the run's bounds are reached. Results are given as soon as
        they are there. A work whose worker died is ``lost``. Nothing is raised for one model;
        closing the iterator (or Ctrl-C in it) ends the workers and leaves none behind.
        """
        ...


Perform = Callable[[Work], Result]
"""What is done with a work. Other processes find it by its name, so it stands in a module."""

_LONGEST = 300
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CIVITAI_TOKEN", "GMI_WEBHOOK_SECRET")


def performed(perform: Perform, work: Work) -> Result:
    """``perform(work)``, and where it raises, or gives something else, a ``failed`` result."""
    try:
        result = perform(work)
    except Exception as error:  # one model's fault must not cost another's
        return failed(work, error)
    if not isinstance(result, Result) or result.model != work.model:
        return Result(work.model, "failed", "the process gave no result for this model")
    return result


def failed(work: Work, error: Exception, *, passing: bool = False) -> Result:
    """The error as a result: one line, without tokens and control characters."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, GmiError):
        reason = _clean(error.message, work) or name
        return Result(work.model, "failed", reason, hint=error.hint, error=name, passing=passing)
    reason = _clean(f"{name}: {text}" if text.strip() else name, work)
    return Result(work.model, "failed", reason, error=name, passing=passing)


def lost(work: Work, why: str, *, hint: str | None = None, where: str | None = None) -> Result:
    """``why`` nothing is known of the work."""
    return Result(work.model, "lost", _clean(why, work), hint=hint, where=where)


def _clean(line: str, work: Work) -> str:
    for secret in (work.options.token, work.options.civitai_token, *map(os.environ.get, _SECRETS)):
        add_secret(secret)
    return one_line(line, _LONGEST)
