"""What there is to do on a hub: every model's specification against the model as it is now.

A verdict says whether one specification is still true, and if not, why; a plan holds all of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from gmi_registry import generation
from gmi_registry.bases import QUANTIZED
from gmi_registry.encoders import DEFAULT_ENCODER, EncoderName
from gmi_registry.errors import (
    AuthError,
    GmiError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedVersionError,
)
from gmi_registry.filters import Filters, Traits
from gmi_registry.generation.recommended_settings import recommended, recommending_model
from gmi_registry.hubs.local import LocalHub
from gmi_registry.hubs.open import find_model, makes_links, read_former
from gmi_registry.hubs.protocol import (
    Hub,
    KnowsWeights,
    Listing,
    SpecStore,
    is_stale,
    knows_names,
    own_weights,
)
from gmi_registry.hubs.selection import main_file
from gmi_registry.model import Kind, ModelCard, ModelFiles
from gmi_registry.regeneration.store import FailureStore, ModelHistory
from gmi_registry.spec import (
    SPEC_DIR,
    DescribedModel,
    Manifest,
    ModelRef,
    PromptSet,
    Spec,
    WeightFile,
    read_spec,
)
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.files import Links
from gmi_registry.spec.manifest import FORMAT_VERSION
from gmi_registry.threads import map_in_order

if TYPE_CHECKING:
    from gmi_registry.hubs.huggingface import HuggingFaceHub

Digests = Mapping[str, str | None]

_LONGEST_CHAIN = 8


@dataclass(frozen=True)
class CurrentModel:
    """A model as it is now.

    ``weights`` and ``base_weights`` are path to SHA-256 (hex; None where the hub has none) of its
    own files and its base model's, None where the hub cannot say. They are ``exact`` where they
    are the very files that a specification would be bound to, and else all that lie there.
    ``model`` has the cards of the model and its bases, and perhaps no files; None where the hub
    keeps no cards that advise anything.
    """

    weights: Digests | None
    base_weights: Digests | None
    exact: bool
    model: ModelFiles | None


class Survey:
    """Looks at the models of ``hub``. Base models are looked at once, whoever stands on them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._bases: dict[str, tuple[ModelFiles, Digests | None] | HubError | None] = {}
        # One at a time, so that nobody asks for what another is about to learn.
        self._asking = threading.RLock()

    def today(self, ref: ModelRef, described: DescribedModel | None) -> CurrentModel:
        """The model at the revision of ``ref``, or as it is now where that has none.

        ``described`` is what its specification says; with None, that of a hub whose models are not
        at hand, its base model is left out. A base that whoever published named counts, and one
        that was taken for want of a name as long as the card has none. Raises what the hub raises;
        SpecNotFoundError for a model that is not there, and HubError for a broken card.
        """
        if isinstance(self.hub, LocalHub):
            return _here(self._local(self.hub, ref.without_revision, described))
        weights = self.hub.weight_digests(ref) if isinstance(self.hub, KnowsWeights) else None
        if self.hub.name != "hf" or described is None:
            return CurrentModel(weights, None, False, None)
        card = self._remote.fetch_card(ref)
        kind, name = described.kind, card.base_model
        if described.base_model in card.other_bases:  # of several, the one that was taken
            name = described.base_model
        if described.base_origin is not None and (
            name is None or described.base_origin == "option"
        ):
            name = described.base_model
        if kind == "checkpoint" or name is None or described.base_revision is not None:
            return CurrentModel(weights, None, False, _described(ref, kind, card))
        base = self._base(name, (ref.id,))
        if base is None:
            return CurrentModel(weights, None, False, None)
        return CurrentModel(weights, base[1], False, _described(ref, kind, card, base[0]))

    def _local(self, hub: LocalHub, ref: ModelRef, described: DescribedModel | None) -> ModelFiles:
        """The model, and the file of it that is described where several could be meant."""
        named = None if described is None else described.named_base
        options = {} if named is None else {"base": named}
        file = None
        if described is not None and described.kind != "checkpoint" and ref.file is None:
            file = _own_file(ref, described)
        try:
            model = hub.fetch_model(ref, **options)
            if file is None or file.file in [weight.path for weight in model.weights]:
                return model
        except HubError:
            if file is None:
                raise
            return hub.fetch_model(file, **options)
        try:
            return hub.fetch_model(file, **options)
        except HubError:
            return model  # the file is gone, and another took its place

    def is_newer(self, listing: Listing, since: datetime) -> bool:
        """Whether the model changed at ``since`` or later; True where the hub does not say."""
        if isinstance(self.hub, LocalHub):
            return any(
                datetime.fromtimestamp(path.stat().st_mtime, UTC) >= since
                for path in (self.hub.root / "models" / listing.ref.id).rglob("*")
                if path.is_file()
            )
        return listing.modified is None or listing.modified >= since

    @property
    def _remote(self) -> HuggingFaceHub:
        # With a registry the hub itself is inside.
        return cast("HuggingFaceHub", getattr(self.hub, "hub", self.hub))

    def _base(self, name: str, above: tuple[str, ...]) -> tuple[ModelFiles, Digests | None] | None:
        """The base model's cards and weights; None where one of its own bases is not here.

        Why that is so, and of circles, whoever publishes the model learns.
        """
        name = name.removeprefix("hf:")
        if name in above or len(above) >= _LONGEST_CHAIN:
            return None
        if name not in self._bases:
            with self._asking:
                if name not in self._bases:
                    self._bases[name] = self._outcome(name, above)
        known = self._bases[name]
        if isinstance(known, HubError):
            raise known
        return known

    def _outcome(
        self, name: str, above: tuple[str, ...]
    ) -> tuple[ModelFiles, Digests | None] | HubError | None:
        """What :meth:`_found_base` gives, or raises: the next model is told the same."""
        try:
            return self._found_base(name, above)
        except RateLimitError:
            raise
        except HubError as error:
            return error

    def _found_base(
        self, name: str, above: tuple[str, ...]
    ) -> tuple[ModelFiles, Digests | None] | None:
        try:
            ref, weights = self._remote.base_weights(name)
            if ref.id in above:
                return None
            card = self._remote.fetch_card(ref)
        except (InputError, SpecNotFoundError, AuthError):
            return None
        # The parts of a checkpoint lie in folders, and what it was made from does not count.
        whole = any("/" in path for path in weights or ())
        copied = card.base_model if card.base_model_relation == QUANTIZED else None
        if copied is not None:  # the original is what a publication takes
            return self._base(copied, (*above, ref.id))
        if whole or card.base_model is None:
            return _described(ref, "checkpoint", card), weights
        further = self._base(card.base_model, (*above, ref.id))
        return None if further is None else (_described(ref, "lora", card, further[0]), weights)


def _own_file(ref: ModelRef, described: DescribedModel) -> ModelRef | None:
    main = main_file([weight.path for weight in described.weights])
    try:
        return None if main is None else replace(ref, file=main)
    except InputError:
        return None


def _here(model: ModelFiles) -> CurrentModel:
    base = model.base if model.kind != "checkpoint" else None
    return CurrentModel(
        weights={weight.path: weight.sha256 for weight in model.weights},
        base_weights=None if base is None else {w.path: w.sha256 for w in base.weights},
        exact=True,
        model=model,
    )


def _described(
    ref: ModelRef, kind: Kind, card: ModelCard, base: ModelFiles | None = None
) -> ModelFiles:
    return ModelFiles(ref=ref, kind=kind, path=Path(), card=card, weights=(), base=base)


State = Literal["fresh", "stale", "missing", "broken", "set aside"]

DUE: frozenset[State] = frozenset({"stale", "missing", "broken"})
"""States of models that are to be described again."""


@dataclass(frozen=True)
class Verdict:
    """``key`` is one text for all that a new specification would be bound to: weights, encoder and
    prompts. ``file`` is which of several models in one repository is described. ``digest`` is the
    SHA-256 (hex) of the ``spec.json`` that is there, and ``manifest`` what it says, both None where
    there is none that can be read. ``encoder`` is None where cards do not tell it beforehand.
    ``advised`` are those settings of :data:`_KEPT` that the cards state today.
    """

    state: State
    reason: str
    key: str
    digest: str | None = None
    manifest: Manifest | None = None
    encoder: EncoderName | None = None
    file: str | None = None
    advised: frozenset[str] = frozenset()


_KEPT = ("negative_prompt", "clip_skip", "true_cfg_scale", "guidance_scale")
"""Settings that are an author's own choice in an earlier recipe where no card states them, with the
one that true_cfg_scale is by another name."""


def judge(
    survey: Survey,
    ref: ModelRef,
    *,
    place: ModelRef | None = None,
    store: SpecStore | None = None,
    listed: bool = True,
) -> Verdict:
    """Compare the specification of ``ref`` with what its hub has of the model.

    ``place`` is under which reference the specification is fetched (None: ``ref``), from ``store``
    (None: the hub), which is not asked for it where it is not ``listed``. Compared are the digests
    of the weights, the base model's too, the format's major version, and the encoder and the
    default prompts that the card, or this package, names today. Where the hub cannot tell
    something, that counts as unchanged. No weights are read, except by a folder's hub, which hashes
    each file once.

    Raises what the hub raises, SpecNotFoundError for a model that is not there.
    """
    hub: Hub | SpecStore = survey.hub if store is None else store
    state, reason, spec = _MISSING
    if listed:
        state, reason, spec = _read(hub, place or ref, ref, follow_links=makes_links(survey.hub))
    manifest = None if spec is None else spec.manifest
    today = survey.today(ref, None if manifest is None else manifest.model)
    try:
        encoder, prompts = _advice(today)
    except InputError as error:
        # Publishing would stop for the same reason, and what is there may well be true.
        return Verdict("set aside", error.message, _key(today, None, None))
    key = _key(today, encoder, prompts)
    if spec is None or manifest is None:
        return Verdict(state, reason, key, encoder=encoder)
    file = _file(manifest, ref, today)
    stated = frozenset[str]()
    if today.model is not None:
        stated = frozenset(
            name for name in _KEPT if recommending_model(today.model, name) is not None
        )
    found = list(_differences(manifest, ref, today, encoder, prompts))
    if found:
        reasons = "; ".join(found)
        return Verdict("stale", reasons, key, spec.digest, manifest, encoder, file, stated)
    reason = "the same weights, format, encoder and prompts"
    if today.weights is None:
        reason = "the hub does not say which weights the model has now"
    return Verdict("fresh", reason, key, spec.digest, manifest, encoder, file)


_MISSING: tuple[State, str, Spec | None] = "missing", "it has no specification", None


def _read(
    hub: Hub | SpecStore, place: ModelRef, ref: ModelRef, *, follow_links: Links
) -> tuple[State, str, Spec | None]:
    folder = Path()
    try:
        folder = hub.fetch_spec(place)
        spec = read_spec(
            folder.parent if folder.name == SPEC_DIR else folder,
            expected=ref.repository,
            own_weights=own_weights(hub, place, folder),
            follow_links=follow_links,
        )
    except SpecNotFoundError:
        return _MISSING
    except UnsupportedVersionError as error:
        # An old program must not replace what it cannot read.
        return "set aside", f"{error.message} ({error.hint})", None
    except SpecFormatError as error:
        former = read_former(hub, folder.parent, ref)
        return ("broken", error.message, None) if former is None else ("fresh", "", former)
    return "fresh", "", spec


def _advice(today: CurrentModel) -> tuple[EncoderName | None, PromptSet | None]:
    """The encoder and the default prompts of a publication today; None where cards do not tell.

    Raises InputError for a card that names what there is not.
    """
    if today.model is None:
        return None, None
    named = recommended(today.model, "encoder")
    encoder = DEFAULT_ENCODER if named is None else EncoderName.parse(named)
    return encoder, generation.default_prompt_set(today.model)


def _key(today: CurrentModel, encoder: EncoderName | None, prompts: PromptSet | None) -> str:
    return canonical_digest(
        [
            [[path, digest] for path, digest in sorted((part or {}).items())]
            for part in (today.weights, today.base_weights)
        ]
        + [[encoder and str(encoder), prompts and prompts.id]]
    )


def _file(manifest: Manifest, ref: ModelRef, today: CurrentModel) -> str | None:
    """The file that is described, where the hub holds others and could take one of them."""
    described = [weight.path for weight in manifest.model.weights]
    if ref.hub == "local":
        return None if today.model is None else today.model.ref.file
    there = today.weights or {}
    main = None if manifest.model.kind == "checkpoint" else main_file(described)
    if ref.hub != "hf" or main is None or len(there) < 2 or main not in there:
        return None
    try:
        return replace(ref, file=main).file
    except InputError:
        return None


def _differences(
    manifest: Manifest,
    ref: ModelRef,
    today: CurrentModel,
    encoder: EncoderName | None,
    prompts: PromptSet | None,
) -> Iterator[str]:
    version = manifest.format.version
    if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        yield f"it has format version {version}, and {FORMAT_VERSION} is written now"
    model = manifest.model
    if ref.file is not None and ref.file not in [weight.path for weight in model.weights]:
        yield f"it describes another file than {ref.file}"
    else:
        yield from _changed("its weights", model.weights, today.weights, exact=today.exact)
    base = today.base_weights
    if base is not None or today.exact:
        yield from _changed(
            "the weights of its base model", model.base_weights or (), base, exact=today.exact
        )
    described = f"{manifest.encoder.name}/{manifest.encoder.pretrained}"
    if encoder is not None and described != str(encoder):
        yield f"its encoder is {described}, and {encoder} is wanted now"
    first = manifest.prompt_sets[0]
    if prompts is not None and first.id != prompts.id:
        yield (
            f"its prompts are {first.name} version {first.version}, and {prompts.name} version "
            f"{prompts.version} are wanted now"
        )


def _changed(
    what: str,
    described: tuple[WeightFile, ...],
    now: Mapping[str, str | None] | None,
    *,
    exact: bool,
) -> Iterator[str]:
    before = {weight.path: weight.sha256 for weight in described}
    current = dict(now or {})
    other = before != current if exact else is_stale(described, now) is True
    if other:
        paths = sorted(before.keys() | (current.keys() if exact else ()))
        changed = [path for path in paths if before.get(path) != current.get(path)]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        yield f"{what} have changed: {changed[0]}{more}"


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
