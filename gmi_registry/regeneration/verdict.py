"""Whether a model's specification is still true, and if not, in what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gmi_registry import generation
from gmi_registry.encoders import DEFAULT_ENCODER, EncoderName
from gmi_registry.errors import (
    InputError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedVersionError,
)
from gmi_registry.generation.advice import advised, adviser
from gmi_registry.hubs.protocol import Hub, SpecStore, is_stale, own_weights
from gmi_registry.hubs.resolve import makes_links, read_former
from gmi_registry.hubs.selection import main_file
from gmi_registry.regeneration.today import Survey, Today
from gmi_registry.spec import SPEC_DIR, Manifest, ModelRef, PromptSet, Spec, WeightFile, read_spec
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.files import Links
from gmi_registry.spec.manifest import FORMAT_VERSION

__all__ = ["DUE", "State", "Verdict", "judge"]

State = Literal["fresh", "stale", "missing", "broken", "set aside"]

DUE: frozenset[State] = frozenset({"stale", "missing", "broken"})
"""States of models that are to be described anew."""


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
    shelf: SpecStore | None = None,
    listed: bool = True,
) -> Verdict:
    """Compare the specification of ``ref`` with what its hub has of the model.

    ``place`` is under which reference the specification is fetched (None: ``ref``), from ``shelf``
    (None: the hub), which is not asked for it where it is not ``listed``. Compared are the digests
    of the weights, the base model's too, the format's major version, and the encoder and the
    default prompts that the card, or this package, names today. Where the hub cannot tell
    something, that counts as unchanged. No weights are read, except by a folder's hub, which hashes
    each file once.

    Raises what the hub raises, SpecNotFoundError for a model that is not there.
    """
    hub: Hub | SpecStore = survey.hub if shelf is None else shelf
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
        stated = frozenset(name for name in _KEPT if adviser(today.model, name) is not None)
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


def _advice(today: Today) -> tuple[EncoderName | None, PromptSet | None]:
    """The encoder and the default prompts of a publication today; None where cards do not tell.

    Raises InputError for a card that names what there is not.
    """
    if today.model is None:
        return None, None
    named = advised(today.model, "encoder")
    encoder = DEFAULT_ENCODER if named is None else EncoderName.parse(named)
    return encoder, generation.default_prompt_set(today.model)


def _key(today: Today, encoder: EncoderName | None, prompts: PromptSet | None) -> str:
    return canonical_digest(
        [
            [[path, digest] for path, digest in sorted((part or {}).items())]
            for part in (today.weights, today.base_weights)
        ]
        + [[encoder and str(encoder), prompts and prompts.id]]
    )


def _file(manifest: Manifest, ref: ModelRef, today: Today) -> str | None:
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
    today: Today,
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
