"""What describing a model would do, known before any image is made, and the room that it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.generation.builder import base_name
from gmi_registry.model import BaseOrigin, Kind, ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    EncoderRef,
    GenerationRecipe,
    ModelRef,
    PromptSet,
    Spec,
    encode_spec,
)
from gmi_registry.spec.files import first_uncopied

__all__ = [
    "Plan",
    "PlannedDownload",
    "PlannedFile",
    "has_same_images",
    "is_same",
    "make_plan",
    "require_room",
    "require_spec_place",
    "require_writable",
]

_CELL_BYTES = 6_000
"""What one picture takes on a contact sheet: an estimate, on the large side."""

_PNG_OVERHEAD = 4_096


@dataclass(frozen=True)
class PlannedFile:
    """A file that publishing writes. ``exact`` is false where ``size`` (bytes) is an estimate."""

    path: str
    size: int
    exact: bool


@dataclass(frozen=True)
class PlannedDownload:
    """What is fetched: ``size`` is in bytes, of a model whose kind is not known yet at least."""

    what: str
    name: str
    size: int


@dataclass(frozen=True)
class Plan:
    """What publishing would do.

    ``images`` is the number of pictures in the specification; ``images_kept`` of them need not
    be generated, as they lie finished in the journal of an interrupted run, or as a specification
    from the same weights (the base model's too), recipe, encoder and prompts is at the target:
    ``reuses_images`` says that only its description of the model is out of date, ``up_to_date``
    that nothing is. ``scratch`` is the space in bytes that the work folder needs, ``target``
    where the files go, ``previous`` the digest of the specification that is replaced.
    ``warnings`` are one line each and stop nothing.

    ``base`` is the base model, ``base_origin`` who named it. ``origins`` says of each field of the
    recipe where its value comes from, ``downloads`` what had to be fetched to know all of this.
    ``destination`` is where exactly the files go, and how. ``proposal`` is the address of this
    account's open pull request that has
    the same specification. ``seconds`` is how long the images that are left take, by those that are
    done; None where there is nothing to tell it by.
    """

    ref: ModelRef
    title: str
    kind: Kind
    prompt_sets: tuple[PromptSet, ...]
    recipe: GenerationRecipe
    encoder: EncoderRef
    images: int
    images_kept: int
    files: tuple[PlannedFile, ...]
    scratch: int
    target: str
    previous: str | None
    up_to_date: bool
    reuses_images: bool
    warnings: tuple[str, ...]
    base: ModelRef | None = None
    base_origin: BaseOrigin | None = None
    device: str = "cpu"
    origins: Mapping[str, str] = field(default_factory=dict)
    downloads: tuple[PlannedDownload, ...] = ()
    destination: str | None = None
    proposal: str | None = None
    seconds: float | None = None


def make_plan(
    model: ModelFiles, draft: Spec, *, kept: int, existing: Spec | None, target: str
) -> Plan:
    """The plan for ``model``.

    ``draft`` (of :func:`~gmi_registry.generation.builder.draft_spec`) has the size of the real
    specification; ``existing`` is what lies at the target now; ``kept`` as ``images_kept``.
    """
    manifest, tensors = encode_spec(draft)
    recipe = draft.manifest.generation.recipe
    prompt_sets = tuple(block.prompt_set for block in draft.manifest.prompt_sets)
    images = len(draft.image_prompt)
    same_images = existing is not None and has_same_images(existing, draft)
    same = same_images and existing is not None and is_same(existing, draft)
    kept = images if same_images else kept
    preview = _CELL_BYTES * sum(map(len, prompt_sets))
    files = (
        PlannedFile(f"{SPEC_DIR}/{MANIFEST_NAME}", len(manifest), True),
        PlannedFile(f"{SPEC_DIR}/{TENSORS_NAME}", len(tensors), True),
        PlannedFile(f"{SPEC_DIR}/{PREVIEW_NAME}", preview, False),
    )
    picture = 3 * recipe.width * recipe.height + _PNG_OVERHEAD
    return Plan(
        ref=model.ref,
        title=model.card.title,
        kind=model.kind,
        prompt_sets=prompt_sets,
        recipe=recipe,
        encoder=draft.manifest.encoder,
        images=images,
        images_kept=kept,
        files=files,
        scratch=(images - kept) * picture + sum(file.size for file in files),
        target=target,
        previous=draft.manifest.previous,
        up_to_date=same,
        reuses_images=same_images and not same,
        warnings=tuple(_warnings(model)),
        base=None if model.base is None else model.base.ref,
        base_origin=None if model.base is None else model.base_origin,
    )


def has_same_images(one: Spec, other: Spec) -> bool:
    """Whether two specifications have the same images: by weights, recipe, encoder and prompts."""
    return _inputs(one) == _inputs(other)


def is_same(one: Spec, other: Spec) -> bool:
    """Whether they describe the model in the same words, too."""
    return has_same_images(one, other) and _say_the_same(one, other)


def require_writable(folder: Path) -> None:
    """Raise InputError unless files can be put into ``folder``, which may not exist yet."""
    try:
        place = _existing(folder)
    except (OSError, ValueError) as error:  # too long for the disk, or with a character it lacks
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{one_line(str(folder), 100)} cannot be a folder: {reason}",
            hint="choose another place",
        ) from None
    if not place.is_dir():
        raise InputError(f"{place} is not a folder", hint="choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{place} cannot be written", hint="choose a place that you may write to")


def require_spec_place(folder: Path) -> None:
    """Raise InputError unless a specification can be put into ``folder``, as ``folder``/gmi."""
    require_writable(folder)
    target = folder / SPEC_DIR
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target} is not a folder", hint="remove it, or choose another place")
    if not target.exists():
        return
    require_writable(target)
    other = first_uncopied(target)
    if other is not None:
        raise InputError(
            f"{other} cannot be kept beside the specification: it is no file that can be read",
            hint="remove it, or choose another place",
        )


def require_room(folder: Path, needed: int) -> None:
    """Raise InputError where the disk of ``folder`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise InputError(
            f"{folder}: the disk has {free:,} bytes free, and {needed:,} are needed",
            hint="free some space, or choose another work folder",
        )


def _inputs(spec: Spec) -> tuple[object, ...]:
    """What decides the embeddings of a specification."""
    manifest = spec.manifest
    return (
        manifest.model.weights_digest,
        manifest.model.base_weights_digest,
        manifest.generation.id,
        manifest.encoder.id,
        tuple(block.id for block in manifest.prompt_sets),
    )


def _described(spec: Spec) -> dict[str, object]:
    """What people and filters read; a revision or a download count changes all the time."""
    described = spec.manifest.model.known()
    return {name: described[name] for name in described.keys() - {"revision", "downloads"}}


def _say_the_same(existing: Spec, draft: Spec) -> bool:
    """Whether people and filters read the same in both.

    What follows from the model's name may differ where that is another one now: the specification
    is still of this model, and stays as it is, with its signature.
    """
    before, now = _described(existing), _described(draft)
    if before["id"] != now["id"]:
        for described in (before, now):
            name = str(described["id"]).rpartition("/")[2]
            if described["title"] == name:  # where the card has none
                del described["title"]
            del described["id"]
            described.pop("url", None)
    return before == now


def _warnings(model: ModelFiles) -> list[str]:
    found = [*model.card.notes, *_base_notes(model)]
    if model.card.licence is None:
        found.append("the model card states no licence: people will not know what they may do")
    if not model.card.tags:
        found.append("the model card has no tags: no search by tag will find the model")
    return found


def _base_notes(model: ModelFiles) -> Iterator[str]:
    """How the base was found, and its own base, where that is not plain."""
    part: ModelFiles | None = model
    while part is not None:
        yield from part.notes
        part = part.base
    yield from _base_warnings(model)


def _base_warnings(model: ModelFiles) -> Iterator[str]:
    """What was taken for the base, where a card says something else; of its base as well."""
    while model.base is not None and model.kind != "checkpoint":
        named, used = model.card.base_model, base_name(model)
        said = model.base_origin == "option" or bool(model.notes or model.base.notes)
        differs = named is not None and used is not None and named != used
        if differs and not said and not _spells(str(named), str(used)):
            yield (
                f"{model.ref.repository}: its base model {named} is not there under that name; "
                f"{used} is used, and named in the specification"
            )
        model = model.base


def _spells(named: str, used: str) -> bool:
    """Whether ``named`` is ``used``, perhaps behind the hub's name, or as its page's address."""
    named = named.partition("/tree/")[0].rstrip("/")
    return named.endswith(used) and named.removesuffix(used)[-1:] in ("", ":", "/")


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that is there."""
    folder = folder.absolute()
    if "\0" in str(folder):  # pathlib calls it a folder that is not there yet
        raise ValueError("it holds the character U+0000")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
