"""The specification of a model: what it would take, and how it is made from the images.

A plan says beforehand what publishing would do and which room it needs. While images are generated,
their embeddings and the contact sheet are made of them; then the specification is put together.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from pydantic import ValidationError

from gmi_registry.errors import InputError
from gmi_registry.model import BaseOrigin, Kind, ModelFiles
from gmi_registry.sanitize import first_fault, one_line
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    ModelRef,
    PromptSet,
    Spec,
    WeightFile,
    encode_spec,
)
from gmi_registry.spec import build_spec as assemble
from gmi_registry.spec.files import first_uncopied

_AT_ONCE = 16

_MAX_TAGS, _MAX_TAG = 200, 200
_WEB = re.compile(r"https?://[!-~]+")
_CELL_BYTES = 6_000
"""What one picture takes on a contact sheet: an estimate, on the large side."""
_PNG_OVERHEAD = 4_096
_CELL = 128
_GAP = 8
_MARGIN = 16
_BETWEEN = 24
_PAPER = (255, 255, 255)
_SHAPE = 16 / 9
_MOST = 200
_QUALITY = 82


class Towers(Protocol):
    """The part of an encoder that is needed here; ``encoders.Encoder`` has it.

    Of its own, since generation and encoders do not import each other.
    """

    @property
    def ref(self) -> EncoderRef: ...

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """B RGB images to [B, D]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """B texts to [B, E]."""
        ...


@runtime_checkable
class TowersWithPixels(Towers, Protocol):
    """An encoder whose pixels can be made apart, by a thread that keeps off the model.

    ``encode_pixels(pixels(images))`` are the bytes of ``encode_images(images)``.
    """

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """B RGB images to [B, 3, S, S], each by itself."""
        ...

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B, 3, S, S] to [B, D]."""
        ...


class Encoding:
    """The embeddings of ``total`` pictures (the paper's Eq. 5), 16 at a time from the first on.

    The same pictures in the same order give the same bytes, however many come at once: an encoder
    may round by the size of its batch. ``prepare`` may be called on another thread than the rest;
    the image tower runs only in ``advance`` and ``rows``. ``progress`` is told (pictures encoded,
    pictures in all) as the first group begins and after each.
    """

    def __init__(
        self,
        encoder: Towers,
        total: int,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._total = total
        self._progress = progress
        self._prepared: Callable[[Sequence[Image.Image]], Iterable[Any]]
        self._embedded: Callable[[Sequence[Any]], NDArray[np.float32]]
        if isinstance(encoder, TowersWithPixels):
            self._prepared = encoder.pixels
            self._embedded = lambda pixels: encoder.encode_pixels(np.stack(pixels))
        else:
            self._prepared = iter
            self._embedded = encoder.encode_images
        # Filled at one end by prepare(), emptied at the other, on two threads.
        self._waiting: deque[Any] = deque()
        self._encoded: list[NDArray[np.float32]] = []
        self._done = 0

    def prepare(self, images: Sequence[Image.Image]) -> None:
        """Take the next RGB pictures, and make what the tower reads where that can be apart."""
        self._waiting.extend(self._prepared(images))

    def advance(self) -> None:
        """Encode the whole groups that are prepared."""
        while len(self._waiting) >= _AT_ONCE:
            self._encode(_AT_ONCE)

    def rows(self) -> NDArray[np.float32]:
        """[total, D], with those encoded that did not fill a group.

        Raises ValueError unless ``total`` pictures were prepared.
        """
        self.advance()
        if self._waiting:
            self._encode(len(self._waiting))
        if self._done != self._total:
            raise ValueError(f"{self._done} pictures were prepared, not {self._total}")
        return np.concatenate(self._encoded)

    def _encode(self, count: int) -> None:
        if not self._done:
            self._progress(0, self._total)
        self._encoded.append(self._embedded([self._waiting.popleft() for _ in range(count)]))
        self._done += count
        self._progress(self._done, self._total)


def build_spec(
    model: ModelFiles,
    image_embeddings: NDArray[np.float32],
    encoder: Towers,
    prompt_sets: Sequence[PromptSet],
    recipe: GenerationRecipe,
    *,
    previous: str | None = None,
) -> Spec:
    """Encode P prompts (the paper's Eq. 6) and put the specification together.

    ``image_embeddings`` [N, D] are the rows of an :class:`Encoding` with ``encoder`` and stand in
    the order of ``prompt_sets``, prompt by prompt, seed by seed. Embeddings are raw and rounded to
    float16. ``previous`` is the digest of the specification that this one replaces. Raises
    SpecFormatError for embeddings that no specification may hold, InputError for a card that it
    cannot.
    """
    prompts = list(chain.from_iterable(prompt_set.prompts for prompt_set in prompt_sets))
    return assemble(
        model=describe(model),
        encoder=encoder.ref,
        prompt_sets=prompt_sets,
        recipe=recipe,
        image_embeddings=image_embeddings,
        prompt_embeddings=encoder.encode_texts(prompts),
        image_prompt=image_prompts(prompt_sets, recipe),
        previous=previous,
    )


def draft_spec(
    model: ModelFiles,
    encoder: EncoderRef,
    prompt_sets: Sequence[PromptSet],
    recipe: GenerationRecipe,
    *,
    previous: str | None = None,
) -> Spec:
    """The specification with made-up embeddings: as large as the real one, known beforehand.

    Raises what :func:`build_spec` would raise for a card, prompts or a number of pictures that
    the format has no room for.
    """
    rows = image_prompts(prompt_sets, recipe)
    prompts = sum(map(len, prompt_sets))
    return assemble(
        model=describe(model),
        encoder=encoder,
        prompt_sets=prompt_sets,
        recipe=recipe,
        image_embeddings=np.full((len(rows), encoder.image_dim), encoder.image_dim**-0.5),
        prompt_embeddings=np.full((prompts, encoder.text_dim), encoder.text_dim**-0.5),
        image_prompt=rows,
        previous=previous,
    )


def redescribe(existing: Spec, model: ModelFiles, *, previous: str | None = None) -> Spec:
    """``existing`` with what the model card says now; embeddings and recipe stay."""
    manifest = existing.manifest
    return assemble(
        model=describe(model),
        encoder=manifest.encoder,
        prompt_sets=[block.prompt_set for block in manifest.prompt_sets],
        recipe=manifest.generation.recipe,
        image_embeddings=existing.image_embeddings,
        prompt_embeddings=existing.prompt_embeddings,
        image_prompt=existing.image_prompt,
        gamma=manifest.kernel.gamma,
        previous=previous,
    )


def image_prompts(prompt_sets: Sequence[PromptSet], recipe: GenerationRecipe) -> NDArray[np.int32]:
    """[N]: which of the P prompts (all sets, one after the other) each picture answers."""
    prompts = sum(map(len, prompt_sets))
    return np.repeat(np.arange(prompts, dtype=np.int32), len(recipe.seeds))


def describe(model: ModelFiles) -> DescribedModel:
    """The manifest's description of a model.

    Of the base only its own files are listed, not those of a model that it was made from in turn.
    It goes by the name under which the hub gave it, whatever the card calls it.
    Left out are tags that appear twice or are too long, and an address that is not on the web.
    Raises InputError for a card that breaks the format's rules, such as an overlong title, and for
    more than 200 weight files of the model or its base.
    """
    card = model.card
    tags = dict.fromkeys(tag for tag in card.tags if 0 < len(tag) <= _MAX_TAG)
    try:
        return DescribedModel(
            hub=model.ref.hub,
            id=model.ref.id,
            revision=model.ref.revision,
            title=card.title,
            url=model.url if model.url is not None and _WEB.fullmatch(model.url) else None,
            kind=model.kind,
            base_model=base_name(model),
            base_origin=_base_origin(model),
            base_revision=model.base_revision if _base_origin(model) == "option" else None,
            weights=_by_path(model.weights),
            base_weights=_base_weights(model),
            tags=tuple(tags)[:_MAX_TAGS],
            licence=card.licence,
            nsfw=card.nsfw,
            downloads=card.downloads,
        )
    except ValidationError as error:
        fault = first_fault(error)
        of_files = fault.startswith(("weights", "base_weights"))
        raise InputError(
            f"{model.ref}: its {'weight files' if of_files else 'model card'} cannot be described: "
            f"{fault}",
            hint="name 1 to 200 weight files, each of them once"
            if of_files
            else "correct the model card",
        ) from error


def base_name(model: ModelFiles) -> str | None:
    """What the base is called that was used; what the card says where none was, or where it is of
    another hub than the model, whose words for bases are its own."""
    base = model.base
    if base is None or model.kind == "checkpoint":
        return model.card.base_model
    named = base.ref.hub == model.ref.hub or model.base_origin == "option"
    return base.ref.id if named else model.card.base_model


def _base_origin(model: ModelFiles) -> Literal["option", "metadata", "architecture"] | None:
    """Who named the base, for the manifest: absent where the card or the hub did."""
    if model.base is None or model.kind == "checkpoint" or model.base_origin == "card":
        return None
    # Of another hub's base the hub's own word is recorded, which stays the same.
    if model.base_origin != "option" and model.base.ref.hub != model.ref.hub:
        return None
    return model.base_origin


def _base_weights(model: ModelFiles) -> tuple[WeightFile, ...] | None:
    if model.kind == "checkpoint" or model.base is None:
        return None
    # A hub may deliver a single file's base as configuration alone: then no weights of it are used.
    return _by_path(model.base.weights) or None


def _by_path(weights: Sequence[WeightFile]) -> tuple[WeightFile, ...]:
    return tuple(sorted(weights, key=lambda weight: weight.path))


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
    be generated, as they lie finished in the cache of an interrupted run, or as a specification
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

    ``draft`` (of :func:`draft_spec`) has the size of the real specification; ``existing`` is what
    lies at the target now; ``kept`` as ``images_kept``.
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
        raise InputError(f"{place} cannot be written", hint="choose a place that you can write to")


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
            f"{other} cannot be kept beside the specification: it is not a file that can be read",
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
        found.append(
            "the model card states no licence, so people do not know what they are allowed to do"
        )
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


class ContactSheet:
    """A picture with one grid a block, all of one column width, on white, filled as pictures come.

    ``blocks`` are the numbers of pictures, in the order of their prompts, e.g. one block a prompt
    set; of more than 200 pictures in a block the first 200 are shown. Pictures are fitted into
    squares of 128 pixels. Raises InputError without a picture.
    """

    def __init__(self, blocks: Sequence[int]) -> None:
        shown = [min(count, _MOST) for count in blocks if count]
        if not shown:
            raise InputError("a contact sheet needs at least one picture")
        columns = _columns(shown[0])
        rows = [math.ceil(count / columns) for count in shown]
        step = _CELL + _GAP
        self._sheet = Image.new(
            "RGB",
            (
                2 * _MARGIN + columns * step - _GAP,
                2 * _MARGIN
                + sum(count * step - _GAP for count in rows)
                + _BETWEEN * (len(rows) - 1),
            ),
            _PAPER,
        )
        self._places = self._cells(blocks, columns)

    def place(self, image: Image.Image) -> None:
        """Show the next picture, of the first block or else of the one that is not full yet."""
        cell = next(self._places)
        if cell is not None:
            _place(self._sheet, image, *cell)

    def to_bytes(self) -> bytes:
        """WebP. The same pictures give the same bytes (under one version of Pillow)."""
        stream = BytesIO()
        self._sheet.save(stream, "WEBP", quality=_QUALITY, method=4)
        return stream.getvalue()

    @staticmethod
    def _cells(blocks: Sequence[int], columns: int) -> Iterator[tuple[int, int] | None]:
        """Left and top of each picture in turn; None for one that is not shown."""
        step = _CELL + _GAP
        top = _MARGIN
        for count in filter(None, blocks):
            shown = min(count, _MOST)
            for position in range(shown):
                row, column = divmod(position, columns)
                yield _MARGIN + column * step, top + row * step
            yield from repeat(None, count - shown)
            top += math.ceil(shown / columns) * step - _GAP + _BETWEEN


def require_webp() -> None:
    """Raise InputError where Pillow was built without WebP, in which a sheet is kept."""
    if not features.check("webp"):
        raise InputError(
            "Pillow was built without WebP here, and the contact sheet is kept in it",
            hint="pip install --force-reinstall pillow",
        )


def contact_sheet(blocks: Sequence[Sequence[Image.Image]]) -> bytes:
    """A whole :class:`ContactSheet` of pictures that are all there, as WebP."""
    sheet = ContactSheet([len(block) for block in blocks])
    for image in chain.from_iterable(blocks):
        sheet.place(image)
    return sheet.to_bytes()


def _columns(count: int) -> int:
    """Few empty cells first, then a sheet near 16:9: 55 pictures make 11 columns by 5 rows."""

    def fault(columns: int) -> float:
        rows = math.ceil(count / columns)
        empty = (rows * columns - count) / count
        return 3 * empty + abs(math.log(columns / rows / _SHAPE))

    return min(range(1, count + 1), key=fault)


def _place(sheet: Image.Image, image: Image.Image, left: int, top: int) -> None:
    """Fit ``image`` into one cell, in its own proportions and centred."""
    scale = _CELL / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # A small picture grows by whole pixels where it can, so that its edges stay crisp.
    whole = scale >= 1 and float(scale).is_integer()
    method = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    small = image.convert("RGB").resize((size[0], size[1]), method)
    sheet.paste(small, (left + (_CELL - size[0]) // 2, top + (_CELL - size[1]) // 2))
