"""Loading an index into a Qdrant server."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gmi_registry.errors import HubError, InputError
from gmi_registry.index.entry import SpecStatus
from gmi_registry.index.groups import ModelGroup
from gmi_registry.index.qdrant.connection import Connection, Location
from gmi_registry.index.qdrant.points import (
    FILTERED,
    FORMAT,
    CollectionMetadata,
    PointPayload,
    fetch_metadata,
    images_id,
    packed_images,
    point_id,
)
from gmi_registry.spec import EncoderRef

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import AliasOperations, PointStruct

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

        for field in FILTERED:
            self.connection.ask(
                self.client.create_payload_index,
                self.own,
                field,
                field_schema=models.PayloadSchemaType.KEYWORD,
            )
        known = fetch_metadata(self.connection, self.own)
        if known is not None:
            return known
        shared = CollectionMetadata.of(self.group, self.encoder, self.own)
        points = [
            models.PointStruct(id=name, payload=payload, vector={})
            for name, payload in zip(shared.ids, shared.payloads(), strict=True)
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
        expected = 2 * len(self.ids) + len(shared.ids)
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
