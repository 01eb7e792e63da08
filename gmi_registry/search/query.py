"""From what a user brings, a few images or words, to what models can be compared with.

The encoder and the interrogator of a search are loaded when they are needed.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.device import require_device
from gmi_registry.encoders.encoder import Encoder, Matched
from gmi_registry.errors import GmiError, IncomparableSpecsError, InputError
from gmi_registry.hubs.open import makes_links
from gmi_registry.images import load_image, to_rgb
from gmi_registry.index import (
    ComparabilityKey,
    ImageQuery,
    IndexQuery,
    SpecCache,
    TextQuery,
    Wording,
)
from gmi_registry.scoring.query import Query
from gmi_registry.scoring.scores import SCORES
from gmi_registry.search.request import (
    NO_INTERROGATOR,
    ImageSource,
    SearchRequest,
    checked_prompt,
)
from gmi_registry.search.result import PROMPT_MODE
from gmi_registry.search.source import HasRegistry

if TYPE_CHECKING:
    from gmi_registry.encoders import EncoderName
    from gmi_registry.hubs.protocol import SearchableHub
    from gmi_registry.index import IndexEntry, Selection
    from gmi_registry.interrogators import Interrogator
    from gmi_registry.spec import EncoderRef


@runtime_checkable
class StatesReference(Protocol):
    """An encoder that knows its reference without pydantic, whose import takes as long as a search:
    the id, and the values that it is made of."""

    @property
    def encoder_id(self) -> str: ...

    @property
    def stated_ref(self) -> EncoderRef | dict[str, Any]: ...


def open_images(sources: Sequence[ImageSource]) -> tuple[Image.Image, ...]:
    """The images of a request, decoded. Raises InputError for one that cannot be used."""
    return tuple(
        to_rgb(source) if isinstance(source, Image.Image) else load_image(source)
        for source in sources
    )


def make_query(
    request: SearchRequest,
    images: Sequence[Image.Image],
    unwanted: Sequence[Image.Image],
    encoder: Encoder,
    interrogator: Interrogator | None,
    cache: SpecCache,
) -> IndexQuery:
    """The query of a ``request`` for images or a text, whose ``images`` are decoded.

    ``interrogator`` guesses what images show where the request does not say it. Raises as
    :func:`build_query`, :func:`embed_text` and :func:`logit_scale`.
    """
    prompts = OwnPrompts(encoder, cache)
    if request.text is not None:
        return TextQuery(embed_text(request.text, encoder), reference_id(encoder), prompts)
    style = None
    if request.style is not None:
        style = Wording(embed_text(request.style, encoder), logit_scale(encoder))

    def query(pictures: Sequence[Image.Image]) -> Query:
        return build_query(
            pictures, encoder, interrogator=interrogator or NO_INTERROGATOR, prompt=request.prompt
        )

    return ImageQuery(
        query(images),
        SCORES[request.score],
        query(unwanted) if unwanted else None,
        style,
        prompts,
    )


def build_query(
    images: Sequence[str | Path | Image.Image],
    encoder: Encoder,
    *,
    interrogator: str | Interrogator = NO_INTERROGATOR,
    prompt: str | None = None,
) -> Query:
    """Eq. 8 for one or several images that together are one query.

    ``prompt`` stands for every image and bypasses the interrogator, a mode of
    :data:`gmi_registry.interrogators.MODES` or an object of the protocol.

    Raises InputError for no images, for an image or a prompt that cannot be used and for an unknown
    mode; MissingExtraError and OfflineError as :func:`load_interrogator`.
    """
    if not images:
        raise InputError("a query needs an image", hint="name at least one image file")
    if prompt is not None:
        prompt = checked_prompt(prompt)
    pictures = open_images(images)
    pseudo_prompts: tuple[str | None, ...]
    if prompt is not None:
        mode, pseudo_prompts = PROMPT_MODE, (prompt,) * len(pictures)
    elif interrogator == NO_INTERROGATOR:
        mode, pseudo_prompts = NO_INTERROGATOR, (None,) * len(pictures)
    else:
        if isinstance(interrogator, str):
            from gmi_registry.interrogators import load_interrogator

            interrogator = load_interrogator(interrogator)
        mode = interrogator.mode
        pseudo_prompts = tuple(interrogator(picture, encoder) for picture in pictures)
    return Query(
        image_embeddings=encoder.encode_images(pictures),
        prompt_embeddings=_prompt_embeddings(pseudo_prompts, encoder),
        pseudo_prompts=pseudo_prompts,
        interrogator=mode,
        encoder_id=reference_id(encoder),
    )


class OwnPrompts:
    """Embeds the prompts that groups of specifications answered, by the reader's own encoder.

    Specifications bring such embeddings along, which whoever published them could choose. Those
    that queries are compared with are these: of one prompt set they are worked out once, rounded
    as specifications store them, and kept in ``cache``.
    """

    def __init__(self, encoder: Encoder, cache: SpecCache | None = None) -> None:
        self._encoder = encoder
        self._cache = cache
        self._known: dict[str, NDArray[np.float16]] = {}

    def __call__(self, key: ComparabilityKey, prompts: tuple[str, ...]) -> NDArray[np.float16]:
        """[P, E] of the ``prompts`` of a group with that ``key``.

        Raises IncomparableSpecsError where the group's encoder is another one.
        """
        ref = self._encoder.ref
        if key.encoder_id != ref.id:
            raise IncomparableSpecsError(
                f"the prompts of encoder {key.encoder_id[:8]} cannot be embedded by {ref.id[:8]}",
                hint="search with the encoder that the specifications name",
            )
        known = self._known.get(key.prompt_set_id)
        name, shape = f"{ref.id}/{key.prompt_set_id}", (len(prompts), ref.text_dim)
        if known is None and self._cache is not None:
            body = self._cache.kept("prompts", name)
            if body is not None and len(body) == 2 * shape[0] * shape[1]:
                known = np.frombuffer(body, "<f2").reshape(shape).astype(np.float16)
        if known is None:
            known = self._encoder.encode_texts(list(prompts)).astype(np.float16)
            if self._cache is not None:
                self._cache.keep("prompts", name, np.ascontiguousarray(known, "<f2").tobytes())
        self._known[key.prompt_set_id] = known
        return known


def reference_id(encoder: Encoder) -> str:
    """The id of an encoder's reference."""
    return encoder.encoder_id if isinstance(encoder, StatesReference) else encoder.ref.id


def stated_reference(encoder: Encoder) -> EncoderRef | dict[str, Any]:
    """An encoder's reference, or the values that it is made of."""
    return encoder.stated_ref if isinstance(encoder, StatesReference) else encoder.ref


def embed_text(text: str, encoder: Encoder) -> NDArray[np.float32]:
    """T(text) [E], raw, for a question by a text alone, which is compared with images.

    Raises InputError for a text that cannot be used, and for an encoder whose towers have outputs
    of two lengths, which have no space in common.
    """
    text = checked_prompt(text)
    ref = encoder.ref
    require_shared_space(f"{ref.name}/{ref.pretrained}", ref.image_dim, ref.text_dim)
    row: NDArray[np.float32] = encoder.encode_texts([text])[0]
    return row


def require_shared_space(encoder: str, image_dim: int, text_dim: int) -> None:
    """Raise InputError where texts and images have embeddings of two lengths, D and E."""
    if image_dim != text_dim:
        raise InputError(
            f"words without a picture cannot be compared with images: {encoder} gives texts "
            f"{text_dim} values "
            f"and images {image_dim}",
            hint="search with an image: gmi-search IMAGE --prompt TEXT",
        )


def logit_scale(encoder: Encoder) -> float:
    """How much a cosine between a text and an image counts. Raises InputError where none is."""
    scale = encoder.logit_scale if isinstance(encoder, Matched) else 0.0
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(
            f"{encoder.ref.name}/{encoder.ref.pretrained} was not trained to match texts with "
            "images, so words cannot be combined with a picture",
            hint="search only with the image, or only with --prompt",
        )
    return scale


def _prompt_embeddings(
    prompts: tuple[str | None, ...], encoder: Encoder
) -> NDArray[np.float32] | None:
    """[B, E], a row of zeros for None; each different prompt is encoded once."""
    texts = list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))
    if not texts:
        return None
    rows = dict(zip(texts, encoder.encode_texts(texts), strict=True))
    nothing = np.zeros(encoder.ref.text_dim, dtype=np.float32)
    return np.stack([nothing if prompt is None else rows[prompt] for prompt in prompts])


_NEEDS_TORCH = frozenset({"clip_interrogator"})
"""Interrogators that are given the encoder, and build on what open_clip made of it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelLoader:
    """How encoders and interrogators are loaded; ``cache_dir`` None is the libraries' own place.

    An encoder on the processor is loaded from an export where there is one of the wanted id, which
    spares seconds; else by open_clip.
    """

    cache_dir: Path | None
    offline: bool
    device: str
    _folders: dict[EncoderName, Path | None] = field(default_factory=dict, compare=False)

    @classmethod
    def checked(
        cls, request: SearchRequest, encoder: Encoder | None, cache_dir: Path | None, offline: bool
    ) -> ModelLoader:
        """One for ``request``, where nothing will be missing, as far as the hub need not tell that.

        ``encoder`` is the caller's own, ``cache_dir`` its cache. Raises InputError for a device
        that cannot be used, and as :func:`.require_interrogator`.
        """
        device = request.device if request.device == "cpu" else require_device(request.device)
        if device != "cpu" and encoder is None and request.like is None:
            from gmi_registry.encoders.onnx import require_processor

            require_processor(device)
        loader = cls(None if cache_dir is None else cache_dir / "hub", offline, device)
        mode = request.interrogator
        if request.images and request.prompt is None and mode != NO_INTERROGATOR:
            from gmi_registry.interrogators import require_interrogator

            require_interrogator(mode, cache_dir=loader.cache_dir, offline=offline)
        return loader

    def interrogator(self, request: SearchRequest, phrases: Sequence[str]) -> Interrogator | None:
        """What guesses the prompts of a request's images, and tries ``phrases`` first; None where
        nothing is to be guessed. Raises as :func:`.load_interrogator`."""
        mode = request.interrogator
        if mode == NO_INTERROGATOR or request.prompt is not None:
            return None
        from gmi_registry.interrogators import load_interrogator

        found = load_interrogator(
            mode,
            phrases=phrases,
            cache_dir=self.cache_dir,
            offline=self.offline,
            device=self.device,
        )
        return _WithTorch(found, self._by_open_clip) if mode in _NEEDS_TORCH else found

    def encoder_of(
        self, selections: Sequence[Selection], hub: SearchableHub, *, text_alone: bool = False
    ) -> Encoder:
        """The encoder of the largest group of comparable models, the hub's own copy if it has one.

        Raises InputError, before anything is loaded, where a ``text_alone`` is to be compared with
        images and the encoder's towers share no space; IncomparableSpecsError where what that name
        loads is not what made the specifications.
        """
        chosen = max(selections, key=lambda it: (len(it), str(it.group.key)))
        first = chosen.first
        if text_alone:
            group = chosen.group
            require_shared_space(first.encoder, group.image_dim, group.text_dim)
        who = f"{first.ref} and {len(chosen) - 1} others name"
        encoder = self._loaded(first.encoder, who, hub, chosen.group.key.encoder_id)
        if reference_id(encoder) != chosen.group.key.encoder_id:
            raise _another_encoder(first.encoder, _difference(encoder.ref, first, hub))
        return encoder

    def encoder_like(self, stated: EncoderRef, who: str, hub: SearchableHub) -> Encoder:
        """The encoder that ``who`` states. Raises as :meth:`encoder_of`."""
        name = f"{stated.name}/{stated.pretrained}"
        encoder = self._loaded(name, f"{who} names", hub, stated.id)
        if reference_id(encoder) != stated.id:
            raise _another_encoder(name, _differences(encoder.ref, stated))
        return encoder

    def _loaded(self, text: str, who_names: str, hub: SearchableHub, encoder_id: str) -> Encoder:
        from gmi_registry.encoders import EncoderName

        try:
            name = EncoderName.parse(text)
        except InputError as error:
            raise IncomparableSpecsError(
                f"{who_names} an encoder that cannot be loaded: {error.message}",
                hint="give the encoder that made them: search(..., encoder=...)",
            ) from None
        self._folders[name] = hub.fetch_encoder(*name)
        return self._by_export(name, encoder_id, hub) or self._by_name(name)

    def _by_name(self, name: EncoderName) -> Encoder:
        from gmi_registry.encoders import load_encoder

        return load_encoder(
            *name,
            self._folders.get(name),
            cache_dir=self.cache_dir,
            offline=self.offline,
            device=self.device,
        )

    def _by_open_clip(self, ref: EncoderRef) -> Encoder:
        from gmi_registry.encoders import EncoderName

        return self._by_name(EncoderName(ref.name, ref.pretrained))

    def _by_export(self, name: EncoderName, encoder_id: str, hub: SearchableHub) -> Encoder | None:
        """An export of exactly that encoder, or None."""
        from gmi_registry.encoders import onnx

        if self.device != "cpu" and onnx.has_torch():
            return None
        for path in onnx.exports_of(*name, self._folders.get(name), self.cache_dir):
            try:
                found = onnx.open_export(path, self.cache_dir)
            except GmiError as error:
                if not onnx.has_torch():
                    raise
                _log.warning("not used: %s", error.message)
                continue
            if found.encoder_id == encoder_id:
                return found
        # Who has torch has the weights, or fetches them from where they were published.
        if onnx.has_torch() or self.offline:
            return None
        fetched = self._from_registry(name, encoder_id, hub)
        if fetched is None:
            return None
        try:
            return onnx.open_export(fetched, self.cache_dir)
        except GmiError:
            # Kept, it would stand in the way of every later search.
            shutil.rmtree(fetched, ignore_errors=True)
            raise

    def _from_registry(self, name: EncoderName, encoder_id: str, hub: SearchableHub) -> Path | None:
        from gmi_registry.encoders.encoder import LIMITS
        from gmi_registry.encoders.onnx import kept_export
        from gmi_registry.encoders.onnx_files import OnnxFolder

        if not isinstance(hub, HasRegistry):
            return None
        from gmi_registry.hubs.registry.dataset import fetch_encoder_files
        from gmi_registry.hubs.registry.registry import Registry

        if not isinstance(hub.registry, Registry) or hub.registry.id is None:
            return None

        def accepts(folder: Path) -> bool:
            with contextlib.suppress(GmiError):
                return OnnxFolder(folder).description.encoder.id == encoder_id
            return False

        try:
            return fetch_encoder_files(
                hub.registry.dataset,
                *name,
                kept_export(*name, encoder_id, self.cache_dir),
                limits=LIMITS,
                accepts=accepts,
            )
        except GmiError as error:
            _log.warning("the registry gives no encoder: %s", error.message)
            return None


class _WithTorch:
    """An interrogator that builds on open_clip's own model, beside an encoder that has none."""

    def __init__(self, inner: Interrogator, load: Callable[[EncoderRef], Encoder]) -> None:
        self.mode = inner.mode
        self._inner = inner
        self._load = load
        self._loaded: dict[str, Encoder] = {}

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        from gmi_registry.encoders.onnx import OnnxEncoder

        if not isinstance(encoder, OnnxEncoder):
            return self._inner(image, encoder)
        if encoder.ref.id not in self._loaded:
            self._loaded[encoder.ref.id] = self._load(encoder.ref)
        return self._inner(image, self._loaded[encoder.ref.id])


def _another_encoder(name: str, difference: str) -> IncomparableSpecsError:
    return IncomparableSpecsError(
        f"the encoder {name} that was loaded is not the one that made the specifications: "
        f"{difference}",
        hint="put the encoder that they name into the hub, or publish the models again",
    )


def _difference(found: EncoderRef, entry: IndexEntry, hub: SearchableHub) -> str:
    """In what the encoder differs from the one that the specification of ``entry`` names."""
    from gmi_registry.spec import read_manifest

    try:
        folder = hub.fetch_spec(entry.ref).parent
        stated = read_manifest(folder, follow_links=makes_links(hub)).encoder
    except GmiError:  # it was there a moment ago, and is wanted for this message alone
        return f"id {found.id}, not {entry.key.encoder_id}"
    return _differences(found, stated)


def _differences(found: EncoderRef, stated: EncoderRef) -> str:
    if found.weights_sha256 != stated.weights_sha256:
        return f"weights {found.weights_sha256[:12]}, not {stated.weights_sha256[:12]}"
    ours, theirs = found.known(), stated.known()
    return "the same weights with another " + ", ".join(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
