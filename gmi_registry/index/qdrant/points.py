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

An index is loaded into collections of its own, which take over the name once all is there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from gmi_registry.errors import (
    HubError,
    InputError,
    SpecFormatError,
    UnsupportedVersionError,
    upgrade_hint,
)
from gmi_registry.index.entry import (
    ComparabilityKey,
    IndexEntry,
    ModelMetadata,
    SpecStatus,
    image_prompts,
    load_constraints,
)
from gmi_registry.index.groups import ModelGroup, agreed_prompts
from gmi_registry.index.qdrant.connection import Connection, Location, load_again
from gmi_registry.index.stored.format import KeyMetadata
from gmi_registry.model import Trust
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.spec import EncoderRef, ModelRef
from gmi_registry.spec.manifest import Count, Name, Part, Prompt, Sha256

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import AliasOperations, PointStruct

FORMAT = "1.0"
"""A newer major is refused; a newer minor may say more, and what it says is left alone."""

_NAMESPACE = uuid.UUID("5b1d7f0a-94c3-5e2e-8a57-2c60e1d9b7f3")
_PART_BYTES = 4 << 20
_MOST_PARTS = 128
_POINTS_AT_ONCE = 4


class CollectionHeader(Part):
    """What all models of a collection share, less the arrays, which have that ``sha256`` and lie in
    so many ``parts``. The encoder is here in full, so that whoever searches can load it without
    having any specification. ``collection`` is the collection's own name, which no alias moves;
    ``models`` is how many it holds."""

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

    @classmethod
    def read(cls, payload: object, server: str) -> CollectionHeader:
        """From the first point. Raises SpecFormatError for what this package did not write,
        UnsupportedVersionError for what a newer one did."""
        version = payload.get("format") if isinstance(payload, dict) else None
        major = str(version).partition(".")[0]
        if major.isdecimal() and int(major) > int(FORMAT.partition(".")[0]):
            raise UnsupportedVersionError(
                f"{server} holds an index of format {str(version)[:20]}, this version reads "
                f"{FORMAT}",
                hint=upgrade_hint(),
            )
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            raise SpecFormatError(
                f"{server} holds something that is not an index ({first_fault(error, 200)})",
                hint=load_again(server),
            ) from None


@dataclass(frozen=True, eq=False)
class CollectionMetadata:
    """``whitening`` F [D, D] float32, ``centre`` c [D] float32 and the ``header``'s excess make
    distances: d_m = ‖Fᵀ(μ_m - c) - Fᵀ(z - c)‖² - excess. Taking c off both, which changes nothing,
    leaves small numbers whose differences are exact. ``prompt_embeddings`` [P, E] float16."""

    header: CollectionHeader
    centre: NDArray[np.float32]
    whitening: NDArray[np.float32]
    prompt_embeddings: NDArray[np.float16]

    @classmethod
    def of(cls, group: ModelGroup, encoder: EncoderRef, collection: str) -> CollectionMetadata:
        """Of all members of ``group``, which has one at least and was made with ``encoder``, to be
        kept in ``collection``."""
        first, scatter = group.entries[0], group.scatter
        everybody = range(len(group.names))
        centre = np.asarray(np.mean(group.means, axis=0, dtype=np.float64), np.float32)
        whitening = scatter.whitening(SHRINKAGE).astype(np.float32)
        prompts = agreed_prompts([held for held, _ in group.prompts_held(everybody)])
        data = _packed(centre, whitening, prompts)
        header = CollectionHeader(
            format=FORMAT,
            collection=collection,
            models=len(group.entries),
            key=KeyMetadata.of(group.key),
            encoder=encoder,
            prompt_set=first.prompt_set,
            prompts=first.prompts,
            excess=scatter.spread(SHRINKAGE) / len(group.image_prompt),
            temperature=group.temperature,
            byte_order="little",
            sha256=hashlib.sha256(data).hexdigest(),
            parts=-(-len(data) // _PART_BYTES),
        )
        return cls(header, centre, whitening, prompts)

    def styles(self, means: Floats) -> NDArray[np.float64]:
        """Fᵀ(μ - c) of embeddings ``means`` [R, D]: [R, D], to be compared as they are."""
        return np.asarray((means.astype(np.float64) - self.centre) @ self.whitening)

    @property
    def key(self) -> ComparabilityKey:
        """What all models share."""
        return self.header.key.key

    @property
    def image_dim(self) -> int:
        """D."""
        return len(self.centre)

    @property
    def encoder_name(self) -> str:
        """For people."""
        return f"{self.header.encoder.name}/{self.header.encoder.pretrained}"

    @property
    def image_prompt(self) -> NDArray[np.int32]:
        """[N]: the prompt of each image."""
        return image_prompts(len(self.header.prompts), self.key)

    def payloads(self) -> list[dict[str, Any]]:
        """What the points of :func:`metadata_ids` carry, in their order."""
        data = _packed(self.centre, self.whitening, self.prompt_embeddings)
        starts = range(0, len(data), _PART_BYTES)
        parts = [base64.b64encode(data[it : it + _PART_BYTES]).decode() for it in starts]
        return [self.header.model_dump(mode="json"), *({"part": part} for part in parts)]

    @classmethod
    def read(
        cls, header: CollectionHeader, parts: Sequence[object], server: str
    ) -> CollectionMetadata:
        """From what the points after the first carry. Raises SpecFormatError."""
        damaged = SpecFormatError(
            f"{server} holds an index whose arrays are damaged", hint=load_again(server)
        )
        dim, prompts = header.encoder.image_dim, len(header.prompts)
        try:
            data = b"".join(base64.b64decode(it["part"], validate=True) for it in parts)  # type: ignore[index]
        except (TypeError, KeyError, binascii.Error):
            raise damaged from None
        sizes = (4 * dim, 4 * dim * dim, 2 * prompts * header.encoder.text_dim)
        if len(data) != sum(sizes) or hashlib.sha256(data).hexdigest() != header.sha256:
            raise damaged
        centre = np.frombuffer(data, "<f4", dim)
        whitening = np.frombuffer(data, "<f4", dim * dim, sizes[0]).reshape(dim, dim)
        embeddings = np.frombuffer(data, "<f2", offset=sizes[0] + sizes[1]).reshape(prompts, -1)
        if not all(np.isfinite(array).all() for array in (centre, whitening, embeddings)):
            raise damaged
        return cls(
            header,
            centre.astype(np.float32),
            whitening.astype(np.float32),
            embeddings.astype(np.float16),
        )


def _packed(
    centre: NDArray[np.float32], whitening: NDArray[np.float32], prompts: NDArray[np.float16]
) -> bytes:
    arrays = centre.astype("<f4"), whitening.astype("<f4"), prompts.astype("<f2")
    return b"".join(array.tobytes() for array in arrays)


def metadata_ids(parts: int) -> list[str]:
    """The ids of the points that hold what all models share, of which ``parts`` hold arrays."""
    return [str(uuid.uuid5(_NAMESPACE, str(number))) for number in range(parts + 1)]


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
            prompt_set=collection.header.prompt_set,
            prompts=collection.header.prompts,
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
    header = CollectionHeader.read(records[0].payload, address)
    own = header.collection
    if collection != own and not own.startswith(f"{collection}--"):
        raise SpecFormatError(
            f"{address} holds an index under {collection!r} that says it is {own!r}",
            hint=load_again(address),
        )
    payloads: dict[str, object] = {}
    ids = metadata_ids(header.parts)[1:]
    for start in range(0, len(ids), _POINTS_AT_ONCE):
        # By the collection's own name: the alias may move between two requests.
        for record in connection.ask(retrieve, own, ids[start : start + _POINTS_AT_ONCE]):
            payloads[str(record.id)] = record.payload
    return CollectionMetadata.read(header, [payloads.get(name) for name in ids], address)


Progress = Callable[[int, int], None]

# A server takes 32 MB in one request. A number is up to 24 letters of JSON; what a model says of
# itself is small beside its images.
_REQUEST_BYTES = 8 << 20
_NUMBER_BYTES = 24
_WORDS_BYTES = 4096
_MOST_MODELS = 256
_IDS = 10_000


@dataclass(frozen=True)
class Upload:
    """What was done. ``collection`` is the name that searches use, ``own`` that of the collection
    behind it. Of ``models``, ``sent`` were sent now; the others were there already. ``replaced``
    are collections that were taken away: versions before this one, and uploads that nobody
    ended."""

    collection: str
    own: str
    models: int
    sent: int
    replaced: tuple[str, ...]


def serve_into(
    target: str | Location | QdrantClient,
    group: ModelGroup,
    status: Callable[[str], SpecStatus],
    *,
    encoder: EncoderRef,
    collection: str | None = None,
    progress: Progress | None = None,
) -> Upload:
    """Load the group ``group``, and what hubs say of its models, into a Qdrant server.

    ``target`` is a URL, ``qdrant://host:port/collection?tls=1``, or an open client, for which
    ``collection`` names where; ``status`` knows models by the names of their identities, as
    that of an index does; ``encoder`` is the one that the group was made with; ``progress`` is
    called with (done, all) models.

    What is there already is not sent again, so that loading goes on where an earlier try was
    interrupted. Everything goes into a collection of its own, to which the name that searches use
    is turned in one step at the end, so that no search sees half; then the one before it is taken
    away. Nobody else should load into the same name meanwhile.

    Raises InputError for an empty group, another encoder, a URL that cannot be, or a name that is
    that of a collection which this function did not make; MissingExtraError without qdrant-client;
    AuthError, RateLimitError or HubError where the server refuses or does not answer;
    SpecFormatError where the index holds what no specification may.
    """
    if not len(group.entries):
        raise InputError(
            "an index without models cannot be served", hint="add some: gmi index update"
        )
    if encoder.id != group.key.encoder_id:
        raise InputError(
            f"the group was made with encoder {group.key.encoder_id[:8]}, not with {encoder.name}",
            hint="name the encoder of one of its specifications: gmi spec show MODEL",
        )
    connection = Connection.to(target, collection)
    try:
        return _Uploading(connection, group, status, encoder).run(progress)
    finally:
        connection.close()


class _Uploading:
    def __init__(
        self,
        connection: Connection,
        group: ModelGroup,
        status: Callable[[str], SpecStatus],
        encoder: EncoderRef,
    ) -> None:
        self.encoder = encoder
        self.connection = connection
        self.client = connection.client
        self.group = group
        self.ids = [point_id(entry.ref) for entry in group.entries]
        self.rows = [
            PointPayload.of(entry, status(str(entry.ref.identity))) for entry in group.entries
        ]
        self.own = f"{connection.collection}--{_digest(group, self.rows)}"

    def run(self, progress: Progress | None) -> Upload:
        ask, name = self.connection.ask, self.connection.collection
        existing = {it.name for it in ask(self.client.get_collections).collections}
        if name in existing:
            raise InputError(
                f"{name!r} is a collection on {self.connection.address} that is not an index",
                hint="load into another name",
            )
        aliases = {it.alias_name: it.collection_name for it in ask(self.client.get_aliases).aliases}
        if self.own not in existing:
            self._create()
        shared = self._shared()
        sent = self._send(shared, progress)
        self._check(shared)
        if aliases.get(name) != self.own:
            self._turn(name, replaces=name in aliases)
        replaced = self._clear(existing)
        return Upload(
            collection=name,
            own=self.own,
            models=len(self.rows),
            sent=sent,
            replaced=replaced,
        )

    def _create(self) -> None:
        from qdrant_client import models

        size = self.group.means.shape[1]
        self.connection.ask(
            self.client.create_collection,
            self.own,
            vectors_config={
                "style": models.VectorParams(size=size, distance=models.Distance.EUCLID)
            },
        )

    def _shared(self) -> CollectionMetadata:
        """Those of an earlier try, if there was one: another machine rounds otherwise, and all
        models must be whitened alike."""
        from qdrant_client import models

        for name in FILTERED:
            self.connection.ask(
                self.client.create_payload_index,
                self.own,
                name,
                field_schema=models.PayloadSchemaType.KEYWORD,
            )
        known = fetch_metadata(self.connection, self.own)
        if known is not None:
            return known
        shared = CollectionMetadata.of(self.group, self.encoder, self.own)
        points = [
            models.PointStruct(id=name, payload=payload, vector={})
            for name, payload in zip(
                metadata_ids(shared.header.parts), shared.payloads(), strict=True
            )
        ]
        # The first says that the others are there, so it goes last.
        for point in reversed(points):
            self._upsert([point])
        return shared

    def _send(self, shared: CollectionMetadata, progress: Progress | None) -> int:
        there = set(self._there())
        missing = [row for row, name in enumerate(self.ids) if name not in there]
        done = len(self.ids) - len(missing)
        for points in self._batches(shared, missing):
            if progress is not None:
                progress(done, len(self.ids))
            self._upsert(points)
            done += len(points) // 2
        if progress is not None:
            progress(done, len(self.ids))
        return len(missing)

    def _batches(
        self, shared: CollectionMetadata, missing: Sequence[int]
    ) -> Iterator[list[PointStruct]]:
        from qdrant_client import models

        width = shared.image_dim
        each = width * (_NUMBER_BYTES + 3 * len(shared.image_prompt)) + _WORDS_BYTES
        step = max(1, min(_MOST_MODELS, _REQUEST_BYTES // each))
        for start in range(0, len(missing), step):
            chosen = missing[start : start + step]
            styles = shared.styles(self.group.means[np.asarray(chosen, np.intp)])
            images = self.group.images(chosen)
            points = []
            for row, style, shown in zip(chosen, styles, images, strict=True):
                payload = packed_images(shown)
                name = images_id(self.rows[row].ref)
                points.append(models.PointStruct(id=name, payload=payload, vector={}))
                vector = {"style": style.astype(np.float32).tolist()}
                payload = self.rows[row].payload()
                points.append(models.PointStruct(id=self.ids[row], payload=payload, vector=vector))
            yield points

    def _upsert(self, points: list[PointStruct]) -> None:
        self.connection.ask(self.client.upsert, self.own, points, wait=True)

    def _there(self) -> Iterator[str]:
        offset = None
        while True:
            records, offset = self.connection.ask(
                self.client.scroll,
                self.own,
                limit=_IDS,
                offset=offset,
                with_payload=False,
                with_vectors=False,
            )
            yield from (str(record.id) for record in records)
            if offset is None:
                return

    def _check(self, shared: CollectionMetadata) -> None:
        expected = 2 * len(self.ids) + 1 + shared.header.parts
        found = self.connection.ask(self.client.count, self.own, exact=True).count
        if found != expected:
            raise HubError(
                f"{self.connection.address} took {expected} points and holds {found}",
                hint="run the same command again",
            )

    def _turn(self, name: str, *, replaces: bool) -> None:
        from qdrant_client import models

        operations: list[AliasOperations] = [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=self.own, alias_name=name)
            )
        ]
        if replaces:
            gone = models.DeleteAlias(alias_name=name)
            operations.insert(0, models.DeleteAliasOperation(delete_alias=gone))
        self.connection.ask(self.client.update_collection_aliases, operations)

    def _clear(self, existing: set[str]) -> tuple[str, ...]:
        pattern = re.compile(rf"{re.escape(self.connection.collection)}--[0-9a-f]{{16}}")
        gone = sorted(it for it in existing if pattern.fullmatch(it) and it != self.own)
        for name in gone:
            self.connection.ask(self.client.delete_collection, name)
        return tuple(gone)


def _digest(group: ModelGroup, rows: Sequence[PointPayload]) -> str:
    """16 hex digits that change whenever what is served does."""
    key = group.key
    content = [
        FORMAT,
        [key.encoder_id, key.prompt_set_id, key.kernel, key.gamma, key.images_per_prompt],
        group.entries[0].prompt_set,
        [row.payload() for row in rows],
    ]
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
