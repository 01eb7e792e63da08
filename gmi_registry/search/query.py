"""From what a user brings, a few images or words, to what models can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.encoders.encoder import Encoder, Matched
from gmi_registry.errors import IncomparableSpecsError, InputError
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

if TYPE_CHECKING:
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
    phrases: Sequence[str] | None = None,
) -> Query:
    """Eq. 8 for one or several images that together are one query.

    ``prompt`` stands for every image and bypasses the interrogator, a mode of
    :data:`gmi_registry.interrogators.MODES` or an object of the protocol. ``phrases`` are tried by
    the mode ``phrases`` beside those that come with the package.

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

            interrogator = load_interrogator(interrogator, phrases=phrases or ())
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
