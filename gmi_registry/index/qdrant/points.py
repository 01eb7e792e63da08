"""The points of a collection: models, their images, and what all models share.

**Models** carry their metadata and one vector, by which the server finds them.

**Images** of a model are the payload of a point of their own. They are read for the few models that
are shown, and never searched. As a multivector each number would cross the network as up to twelve
digits; as bytes in base64 the same takes a quarter. In the payload of the model itself a server
would read them for every model that it finds.

**What all models share** is kept in a few points without vectors, so that no search finds them.
Qdrant could keep it as metadata of the collection, but hands that around in its consensus log,
where megabytes of a whitening matrix have no place. The first point holds a JSON object; the arrays
follow in as many points as keep each far below the 32 MB that a server takes in one request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from gmi_registry.errors import SpecFormatError, UnsupportedVersionError
from gmi_registry.index.entry import (
    ComparabilityKey,
    IndexEntry,
    ModelMetadata,
    SpecStatus,
    image_prompts,
    load_constraints,
)
from gmi_registry.index.groups import ModelGroup, agreed_prompts
from gmi_registry.index.qdrant.connection import Connection, load_again
from gmi_registry.index.stored.format import KeyMetadata
from gmi_registry.model import Trust
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.spec import EncoderRef, ModelRef
from gmi_registry.spec.manifest import Count, Name, Part, Prompt, Sha256

FORMAT = "1.0"
"""A newer major is refused; a newer minor may say more, and what it says is left alone."""

_NAMESPACE = uuid.UUID("5b1d7f0a-94c3-5e2e-8a57-2c60e1d9b7f3")
_PART_BYTES = 4 << 20
_MOST_PARTS = 128
_POINTS_AT_ONCE = 4


class _Header(Part):
    format: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
    collection: Name
    models: Count
    key: KeyMetadata
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
class CollectionMetadata:
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
    def of(cls, group: ModelGroup, encoder: EncoderRef, collection: str) -> CollectionMetadata:
        """Of all members of ``group``, which has one at least and was made with ``encoder``, to be
        kept in ``collection``."""
        first = group.entries[0]
        scatter = group.scatter
        everybody = range(len(group.names))
        return cls(
            collection=collection,
            models=len(group.entries),
            key=group.key,
            encoder=encoder,
            prompt_set=first.prompt_set,
            prompts=first.prompts,
            excess=scatter.spread(SHRINKAGE) / len(group.image_prompt),
            temperature=group.temperature,
            centre=np.asarray(np.mean(group.means, axis=0, dtype=np.float64), np.float32),
            whitening=scatter.whitening(SHRINKAGE).astype(np.float32),
            prompt_embeddings=agreed_prompts([held for held, _ in group.prompts_held(everybody)]),
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
        return image_prompts(len(self.prompts), self.key)

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
        return metadata_ids(-(-len(self._bytes) // _PART_BYTES))

    def payloads(self) -> list[dict[str, Any]]:
        """What the points of ``ids`` carry, in their order."""
        data = self._bytes
        pieces = [data[start : start + _PART_BYTES] for start in range(0, len(data), _PART_BYTES)]
        header = _Header(
            format=FORMAT,
            collection=self.collection,
            models=self.models,
            key=KeyMetadata.of(self.key),
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
    def read(cls, payloads: Sequence[object], server: str) -> CollectionMetadata:
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
        return cls(
            collection=header.collection,
            models=header.models,
            key=header.key.key,
            encoder=header.encoder,
            prompt_set=header.prompt_set,
            prompts=header.prompts,
            excess=header.excess,
            temperature=header.temperature,
            centre=centre.astype(np.float32),
            whitening=whitening.astype(np.float32),
            prompt_embeddings=embeddings.reshape(prompts, -1).astype(np.float16),
        )


def metadata_ids(parts: int) -> list[str]:
    """The ids of the points that hold what all models share, of which ``parts`` hold arrays."""
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
            f"{server} holds something that is not an index ({first_fault(error, 200)})",
            hint=load_again(server),
        ) from None


def _damaged(server: str) -> SpecFormatError:
    return SpecFormatError(
        f"{server} holds an index whose arrays are damaged", hint=load_again(server)
    )


FILTERED = ("hub", "folded.tags", "folded.base_model", "folded.kind", "folded.marks")
"""Fields of the payload that filters look at, words all of them; each wants an index."""

# Names of models, as UUIDs: the same everywhere, and no one else's.
_MODELS = uuid.UUID("0f6a4c2e-6d0b-5d53-9b0a-7d1f3c5e8a42")
_IMAGES = uuid.UUID("c1d7e9b4-3f28-5a60-8e15-94b2a7f06d3c")


@dataclass(frozen=True, kw_only=True)
class PointPayload(ModelMetadata):
    """The payload of one model's point: its metadata, and what its hub said of it.

    Everything that a stranger's server says of a model passes through :meth:`read` before anyone
    sees it.
    """

    nsfw: bool = field()  # no server leaves it out
    stale: bool | None = None
    trust: Trust | None = None

    @classmethod
    def of(cls, entry: IndexEntry, status: SpecStatus) -> PointPayload:
        """Of a model, and what its hub says of it. Raises SpecFormatError where a field breaks
        the format's rules."""
        known = entry.to_plain() | {"stale": status.stale, "trust": status.trust}
        try:
            return _payload_check().validate_python(known)
        except ValidationError as error:
            raise SpecFormatError(
                f"the index says something about {entry.ref} that no specification can say: "
                f"{first_fault(error, 200)}",
                hint="build the index again: gmi index build",
            ) from None

    @classmethod
    def read(cls, payload: object, server: str) -> PointPayload:
        """The inverse of :meth:`payload`. Raises SpecFormatError."""
        try:
            return _payload_check().validate_python(payload)
        except ValidationError as error:
            raise SpecFormatError(
                f"{server} says something about a model that no index can say: "
                f"{first_fault(error, 200)}",
                hint=load_again(server),
            ) from None

    def payload(self) -> dict[str, Any]:
        """What the point carries, as plain JSON values.

        ``folded`` repeats what filters look at as :func:`~gmi_registry.filters.fold` spells it,
        since Qdrant compares letters as they are.
        """
        traits = self.traits()
        folded = {
            "tags": sorted(traits.tags or ()),
            "base_model": sorted(traits.base_models or ()),
            "kind": sorted(traits.kinds or ()),
            "marks": [mark for mark in ("nsfw", "stale") if getattr(self, mark)],
        }
        plain = self.to_plain() | {"stale": self.stale, "trust": self.trust}
        plain |= {"tags": list(self.tags), "hub_tags": list(self.hub_tags)}
        known = {name: value for name, value in plain.items() if value is not None}
        return known | {"hub": self.ref.hub, "folded": folded}

    @property
    def status(self) -> SpecStatus:
        """What its hub said of it."""
        return SpecStatus(self.stale, self.trust)

    def entry(self, collection: CollectionMetadata) -> IndexEntry:
        """With what all models of the collection share."""
        return IndexEntry(
            **self.metadata,
            encoder=collection.encoder_name,
            prompt_set=collection.prompt_set,
            prompts=collection.prompts,
            key=collection.key,
        )


@cache
def _payload_check() -> TypeAdapter[PointPayload]:
    load_constraints()
    return TypeAdapter(PointPayload)


def point_id(model: ModelRef) -> str:
    """The UUIDv5 of what one specification is of, which a new revision leaves as it is."""
    return str(uuid.uuid5(_MODELS, str(model.identity)))


def images_id(model: ModelRef) -> str:
    """That of the point that holds its images."""
    return str(uuid.uuid5(_IMAGES, str(model.identity)))


def packed_images(images: NDArray[np.float16]) -> dict[str, str]:
    """The payload for images [N, D]."""
    return {"images": base64.b64encode(images.astype("<f2").tobytes()).decode()}


def unpacked_images(payload: object, shape: tuple[int, int]) -> NDArray[np.float16] | None:
    """The inverse of :func:`packed_images`: images of that shape, or None where these are none."""
    try:
        text = payload["images"] if isinstance(payload, Mapping) else ""
        data = base64.b64decode(text, validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    if len(data) != 2 * shape[0] * shape[1]:
        return None
    images = np.frombuffer(data, "<f2").reshape(shape)
    return images.astype(np.float16) if np.isfinite(images).all() else None


def fetch_metadata(connection: Connection, collection: str) -> CollectionMetadata | None:
    """What all models of a collection share, by its own name or the alias that leads to it; None
    where it says nothing.

    Raises SpecFormatError or UnsupportedVersionError for what cannot be used, and as
    :meth:`~gmi_registry.index.qdrant.connection.Connection.ask` does.
    """
    retrieve, address = connection.client.retrieve, connection.address
    records = connection.ask(retrieve, collection, metadata_ids(0))
    if not records:
        return None
    own, parts = CollectionMetadata.parts(records[0].payload, address)
    if collection != own and not own.startswith(f"{collection}--"):
        raise SpecFormatError(
            f"{address} holds an index under {collection!r} that says it is {own!r}",
            hint=load_again(address),
        )
    payloads: dict[str, object] = {}
    ids = metadata_ids(parts)
    for start in range(0, len(ids), _POINTS_AT_ONCE):
        # By the collection's own name: the alias may move between two requests.
        for record in connection.ask(retrieve, own, ids[start : start + _POINTS_AT_ONCE]):
            payloads[str(record.id)] = record.payload
    return CollectionMetadata.read([payloads.get(name) for name in ids], address)
