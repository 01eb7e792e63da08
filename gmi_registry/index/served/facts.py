"""What all models of a collection share, kept in a few points of the same collection.

These points have no vectors, so that no search finds them. Qdrant could keep facts as metadata of
the collection, but hands that around in its consensus log, where megabytes of a whitening matrix
have no place. The first point holds a JSON object; the arrays follow in as many points as keep
each far below the 32 MB that a server takes in one request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, ValidationError, model_validator

from gmi_registry.errors import SpecFormatError, UnsupportedVersionError
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.served.place import again
from gmi_registry.index.stack import Stack
from gmi_registry.index.stored.draft import agreed
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.fields import Count, Name, Part, Prompt, Sha256

__all__ = ["FORMAT", "Facts", "fact_ids"]

FORMAT = "1.0"
"""A newer major is refused; a newer minor may say more, and what it says is left alone."""

_NAMESPACE = uuid.UUID("5b1d7f0a-94c3-5e2e-8a57-2c60e1d9b7f3")
_PART_BYTES = 4 << 20
_MOST_PARTS = 128

_Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]


class _Key(Part):
    encoder_id: _Id
    prompt_set_id: _Id
    kernel: Name
    gamma: Annotated[float, Field(gt=0)]
    images_per_prompt: Annotated[int, Field(ge=1, le=10_000)]


class _Header(Part):
    format: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
    collection: Name
    models: Count
    key: _Key
    encoder: EncoderRef
    prompt_set: Name
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=10_000)]
    excess: float
    temperature: Annotated[float, Field(gt=0)]
    byte_order: Literal["little"]
    sha256: Sha256
    parts: Annotated[int, Field(ge=1, le=_MOST_PARTS)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.encoder.id != self.key.encoder_id:
            raise ValueError("the encoder is not the one that the key names")
        return self


@dataclass(frozen=True, eq=False)
class Facts:
    """``whitening`` F [D, D] float32, ``centre`` c [D] float32 and ``excess`` make distances:
    d_m = ‖Fᵀ(μ_m - c) - Fᵀ(z - c)‖² - excess. Taking c off both, which changes nothing, leaves
    small numbers whose differences are exact.

    ``encoder`` is here in full, so that whoever searches can load it without having any
    specification; ``prompt_embeddings`` [P, E] float16. ``collection`` is the collection's own
    name, which no alias moves; ``models`` is how many it holds.
    """

    collection: str
    models: int
    key: ComparabilityKey
    encoder: EncoderRef
    prompt_set: str
    prompts: tuple[str, ...]
    excess: float
    temperature: float
    centre: NDArray[np.float32]
    whitening: NDArray[np.float32]
    prompt_embeddings: NDArray[np.float16]

    @classmethod
    def of(cls, stack: Stack, encoder: EncoderRef, collection: str) -> Facts:
        """Of all members of ``stack``, which has one at least and was made with ``encoder``, to be
        kept in ``collection``."""
        first = stack.entries[0]
        scatter = stack.scatter
        everybody = range(len(stack.names))
        return cls(
            collection=collection,
            models=len(stack.entries),
            key=stack.key,
            encoder=encoder,
            prompt_set=first.prompt_set,
            prompts=first.prompts,
            excess=scatter.spread(SHRINKAGE) / len(stack.image_prompt),
            temperature=stack.temperature,
            centre=np.asarray(np.mean(stack.means, axis=0, dtype=np.float64), np.float32),
            whitening=scatter.whitening(SHRINKAGE).astype(np.float32),
            prompt_embeddings=agreed([held for held, _ in stack.prompts_held(everybody)]),
        )

    def styles(self, means: Floats) -> NDArray[np.float64]:
        """Fᵀ(μ - c) of embeddings ``means`` [R, D]: [R, D], to be compared as they are."""
        return np.asarray((means.astype(np.float64) - self.centre) @ self.whitening)

    @property
    def image_dim(self) -> int:
        """D."""
        return len(self.centre)

    @property
    def encoder_name(self) -> str:
        """For people."""
        return f"{self.encoder.name}/{self.encoder.pretrained}"

    @property
    def image_prompt(self) -> NDArray[np.int32]:
        """[N]: the prompt of each image."""
        return np.repeat(np.arange(len(self.prompts), dtype=np.int32), self.key.images_per_prompt)

    @cached_property
    def _bytes(self) -> bytes:
        arrays = (
            self.centre.astype("<f4"),
            self.whitening.astype("<f4"),
            self.prompt_embeddings.astype("<f2"),
        )
        return b"".join(array.tobytes() for array in arrays)

    @property
    def ids(self) -> list[str]:
        """The ids of the points that hold this."""
        return fact_ids(-(-len(self._bytes) // _PART_BYTES))

    def payloads(self) -> list[dict[str, Any]]:
        """What the points of ``ids`` carry, in their order."""
        data = self._bytes
        pieces = [data[start : start + _PART_BYTES] for start in range(0, len(data), _PART_BYTES)]
        key = self.key
        header = _Header(
            format=FORMAT,
            collection=self.collection,
            models=self.models,
            key=_Key(
                encoder_id=key.encoder_id,
                prompt_set_id=key.prompt_set_id,
                kernel=key.kernel,
                gamma=key.gamma,
                images_per_prompt=key.images_per_prompt,
            ),
            encoder=self.encoder,
            prompt_set=self.prompt_set,
            prompts=self.prompts,
            excess=self.excess,
            temperature=self.temperature,
            byte_order="little",
            sha256=hashlib.sha256(data).hexdigest(),
            parts=len(pieces),
        )
        parts = [{"part": base64.b64encode(piece).decode()} for piece in pieces]
        return [header.model_dump(mode="json"), *parts]

    @staticmethod
    def parts(payload: object, server: str) -> tuple[str, int]:
        """From the first point: the collection's own name, and how many points hold arrays.

        Raises SpecFormatError for what this package did not write, UnsupportedVersionError for
        what a newer one did.
        """
        header = _header(payload, server)
        return header.collection, header.parts

    @classmethod
    def read(cls, payloads: Sequence[object], server: str) -> Facts:
        """The inverse of :meth:`payloads`. Raises as :meth:`parts` does."""
        header = _header(payloads[0], server)
        dim, prompts = header.encoder.image_dim, len(header.prompts)
        try:
            pieces = (base64.b64decode(it["part"], validate=True) for it in payloads[1:])  # type: ignore[index]
            data = b"".join(pieces)
        except (TypeError, KeyError, binascii.Error):
            raise _damaged(server) from None
        sizes = (4 * dim, 4 * dim * dim, 2 * prompts * header.encoder.text_dim)
        if len(data) != sum(sizes) or hashlib.sha256(data).hexdigest() != header.sha256:
            raise _damaged(server)
        centre = np.frombuffer(data, "<f4", dim)
        whitening = np.frombuffer(data, "<f4", dim * dim, sizes[0]).reshape(dim, dim)
        embeddings = np.frombuffer(data, "<f2", offset=sizes[0] + sizes[1])
        if not all(np.isfinite(array).all() for array in (centre, whitening, embeddings)):
            raise _damaged(server)
        key = header.key
        return cls(
            collection=header.collection,
            models=header.models,
            key=ComparabilityKey(
                key.encoder_id, key.prompt_set_id, key.kernel, key.gamma, key.images_per_prompt
            ),
            encoder=header.encoder,
            prompt_set=header.prompt_set,
            prompts=header.prompts,
            excess=header.excess,
            temperature=header.temperature,
            centre=centre.astype(np.float32),
            whitening=whitening.astype(np.float32),
            prompt_embeddings=embeddings.reshape(prompts, -1).astype(np.float16),
        )


def fact_ids(parts: int) -> list[str]:
    """The ids of the points that hold facts, of which ``parts`` hold arrays."""
    return [str(uuid.uuid5(_NAMESPACE, str(number))) for number in range(parts + 1)]


def _header(payload: object, server: str) -> _Header:
    version = payload.get("format") if isinstance(payload, dict) else None
    major = str(version).partition(".")[0]
    if major.isdecimal() and int(major) > int(FORMAT.partition(".")[0]):
        raise UnsupportedVersionError(
            f"{server} holds an index of format {str(version)[:20]}, this version reads {FORMAT}",
            hint="pip install --upgrade gmi-registry",
        )
    try:
        return _Header.model_validate(payload)
    except ValidationError as error:
        raise SpecFormatError(
            f"{server} holds something that is no index ({first_fault(error, 200)})",
            hint=again(server),
        ) from None


def _damaged(server: str) -> SpecFormatError:
    return SpecFormatError(f"{server} holds an index whose arrays are damaged", hint=again(server))
