"""What there is to do on a hub: every model's specification against the model as it is now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmi_registry.errors import GmiError, InputError, OfflineError, RateLimitError
from gmi_registry.filters import Filters, Traits
from gmi_registry.hubs.open import find_model
from gmi_registry.hubs.protocol import Hub, Listing, knows_names
from gmi_registry.regeneration.store import FailureStore, ModelHistory
from gmi_registry.regeneration.verdict import DUE, State, Survey, Verdict, judge
from gmi_registry.spec import ModelRef
from gmi_registry.threads import map_in_order

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told (done, all) models that were looked at."""


@dataclass(frozen=True)
class PlannedModel:
    """One model and its state, with the ``reason`` in words.

    ``ref`` has no commit. ``key`` and ``digest`` are as in :class:`.Verdict`. ``to_registry``: the
    specification is an entry of the registry, and not beside the model. ``unfinished``: an earlier
    runner began it and did not come back.
    """

    ref: ModelRef
    state: State
    reason: str
    key: str
    digest: str | None = None
    to_registry: bool = False
    unfinished: bool = False

    @property
    def is_due(self) -> bool:
        """Whether it is to be described again."""
        return self.state in DUE


@dataclass(frozen=True)
class RegenerationPlan:
    """``models`` are in the order of their references. ``hub`` opens the hub in another process."""

    hub: str
    models: tuple[PlannedModel, ...]

    @property
    def due(self) -> tuple[PlannedModel, ...]:
        """Those to be described again, in the order of work.

        What an earlier runner did not come back from is last: it may be what ended it, and the
        others do not wait for it.
        """
        return tuple(sorted((it for it in self.models if it.is_due), key=lambda it: it.unfinished))

    def count(self, state: State) -> int:
        """How many models are in that state."""
        return sum(it.state == state for it in self.models)

    def to_json(self) -> dict[str, Any]:
        """``{"hub": ..., "models": [{"model", "state", "reason", "digest"}, ...]}``."""
        return {
            "hub": self.hub,
            "models": [
                {"model": str(it.ref), "state": it.state, "reason": it.reason, "digest": it.digest}
                for it in self.models
            ],
        }


def make_plan(
    hub: Hub,
    *,
    repos: Sequence[str] = (),
    tags: Sequence[str] = (),
    since: datetime | None = None,
    failures: FailureStore | None = None,
    retry: bool = False,
    workers: int = 8,
    progress: Progress = lambda done, total: None,
) -> RegenerationPlan:
    """Look at every model of ``hub`` that has a specification and all of ``tags``.

    ``repos`` are names of models to look at in their stead, whether they have a specification or
    not. ``since`` leaves out what has not changed from then on, as far as the hub says when.
    ``failures`` knows what is set aside, which ``retry`` takes up again. Nothing is generated and,
    but for a folder's hub, no weights are read; a model costs a few small requests, and fewer where
    nothing has changed since the last plan. ``workers`` models are looked at a time.

    A listed model that cannot be looked at is set aside with the reason. Raises what the hub raises
    for its listing and for ``repos``, InputError for what is no name of a model; RateLimitError and
    OfflineError.
    """
    survey = Survey(hub)
    named = [_named(find_model(text, hub), hub) for text in repos]
    wanted = Filters() if named else Filters(tags=tuple(tags))
    listings = named or list(hub.list_specs(wanted))
    if since is not None:
        moment = since if since.tzinfo is not None else since.replace(tzinfo=UTC)
        listings = [it for it in listings if survey.is_newer(it, moment)]
    found: dict[ModelRef, PlannedModel] = {}
    known = {} if failures is None else failures.histories()
    progress(0, len(listings))

    def look(listing: Listing) -> PlannedModel | None:
        return _planned(survey, listing, wanted, strict=bool(named))

    # A folder's hub reads and hashes, which goes no faster by many.
    models = map_in_order(look, listings, 1 if hub.name == "local" else workers)
    for done, model in enumerate(models, 1):
        if model is not None:
            found.setdefault(model.ref, _recalled(model, known.get(str(model.ref)), retry=retry))
        progress(done, len(listings))
    ordered = sorted(found.values(), key=lambda it: str(it.ref))
    return RegenerationPlan(_hub_text(hub), tuple(ordered))


def _hub_text(hub: Hub) -> str:
    """What :func:`gmi_registry.hubs.open_hub` takes to open the same hub in another process.

    The path of a folder is absolute. An endpoint is not in it: that is the environment's.
    """
    root = getattr(hub, "root", None)
    return str(root.absolute()) if isinstance(root, Path) else hub.name


def _named(ref: ModelRef, hub: Hub) -> Listing:
    """A model that somebody named, by its present name; of a registry's entry, that entry."""
    if ref.hub == "hf" and ref.is_entry:
        return Listing(ref, (), trust="self-published")
    if ref.identity == ref:
        return Listing(_by_present_name(ref, hub), ())
    if not ref.is_pinned:
        raise InputError(
            f"{ref} names a revision, and a specification follows what the hub serves now",
            hint=f"gmi regenerate --repo {ref.identity}, or gmi-publish {ref}",
        )
    _log.warning(
        "%s names one revision of the model; the model is checked as its hub has it now", ref
    )
    return Listing(_by_present_name(ref.identity, hub), ())


def _by_present_name(ref: ModelRef, hub: Hub) -> ModelRef:
    names = knows_names(hub)
    return ref if names is None else names.current(ref)


def _planned(
    survey: Survey, listing: Listing, wanted: Filters, *, strict: bool
) -> PlannedModel | None:
    """None where the specification tells that the model does not pass, as a listing could not."""
    to_registry = survey.hub.name == "hf" and listing.trust in ("verified", "self-published")
    # A listing pins a commit, which a folder's hub does not keep, and an entry of the registry
    # the weights that it describes.
    place = listing.ref if survey.hub.name != "local" else listing.ref.identity
    ref = place.identity if to_registry else place
    try:
        verdict = judge(survey, ref, place=place, listed=listing.has_spec)
    except (RateLimitError, OfflineError):
        raise
    except GmiError as error:
        if strict:
            raise
        verdict = Verdict("set aside", error.message, "")
    if verdict.manifest is not None:
        described = verdict.manifest.model
        traits = Traits.of(
            ref.hub,
            tags=described.tags,
            base_model=described.base_model,
            kind=described.kind,
            nsfw=described.nsfw if listing.nsfw is None else listing.nsfw,
            hub_tags=listing.tags,
        )
        if not wanted.admits(traits):
            return None
    return PlannedModel(
        ref=_of_file(ref.identity, verdict.file),
        state=verdict.state,
        reason=verdict.reason,
        key=verdict.key,
        digest=verdict.digest,
        to_registry=to_registry,
    )


def _of_file(ref: ModelRef, file: str | None) -> ModelRef:
    return ref if file is None or ref.file is not None else replace(ref, file=file)


def _recalled(model: PlannedModel, known: ModelHistory | None, *, retry: bool) -> PlannedModel:
    """With what is known of earlier runs."""
    if known is None or known.key != model.key or not model.is_due:
        return model
    model = replace(model, unfinished=known.unfinished)
    if retry or known.reason is None:
        return model
    return replace(model, state="set aside", reason=known.reason)
