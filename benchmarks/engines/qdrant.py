"""qdrant-client in its embedded mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .engine import Engine
from .mapped import Mapped
from .source import ARRAYS, PAIRS, PART, Arrays, D


class Qdrant(Engine):
    """qdrant-client's embedded mode, all arrays in it: images are a multivector."""

    packages = ("qdrant-client",)

    def load(self) -> None:
        from qdrant_client import QdrantClient, models

        self.client, self.models = QdrantClient(path=str(self.folder)), models

    def vectors(self, source: Arrays, row: int) -> Arrays:
        return {name: source[name][row].astype(np.float32).tolist() for name in ARRAYS}

    def config(self) -> Arrays:
        def of(size: int, **more: Any) -> Any:
            return self.models.VectorParams(size=size, distance=self.models.Distance.EUCLID, **more)

        several = self.models.MultiVectorConfig(
            comparator=self.models.MultiVectorComparator.MAX_SIM
        )
        return {"mean": of(D), "gram": of(PAIRS), "images": of(D, multivector_config=several)}

    def put(self, source: Arrays, entries: list[Any], start: int, stop: int) -> None:
        if start == 0:
            self.client.create_collection("specs", vectors_config=self.config())
        for first in range(start, stop, 100):
            self.client.upsert(
                "specs",
                [
                    self.models.PointStruct(
                        id=row, payload=entries[row], vector=self.vectors(source, row)
                    )
                    for row in range(first, min(stop, first + 100))
                ],
            )

    def scroll(self, names: list[str], tag: str | None = None, offset: int = 0) -> list[Any]:
        match = self.models.MatchValue(value=tag) if tag else None
        must = [self.models.FieldCondition(key="tags", match=match)] if tag else []
        found, _ = self.client.scroll(
            "specs",
            self.models.Filter(must=must),
            10**7 if names == ["mean"] else 250,
            offset=offset,
            with_vectors=names,
            with_payload=False,
        )
        return found

    def means(self, tag: str | None) -> tuple[np.ndarray, np.ndarray]:
        found = self.scroll(["mean"], tag)
        rows = np.array([point.id for point in found])
        return rows, np.array([point.vector["mean"] for point in found], np.float32)

    def blocks(self) -> Iterator[Arrays]:
        offset = 0
        while found := self.scroll(["images", "gram"], offset=offset):
            block = {
                name: np.array([point.vector[name] for point in found], ARRAYS[name][0])
                for name in ("images", "gram")
            }
            offset = found[-1].id + 1
            yield block | {"row": np.array([point.id for point in found])}

    def fetch(self, rows: list[int]) -> np.ndarray:
        found = {
            point.id: point.vector["images"]
            for point in self.client.retrieve("specs", rows, with_vectors=["images"])
        }
        return np.array([found[row] for row in rows], np.float16)

    def refs(self, rows: list[int]) -> list[str]:
        found = {point.id: point.payload["ref"] for point in self.client.retrieve("specs", rows)}
        return [found[row] for row in rows]


class QdrantMapped(Mapped, Qdrant):
    """Means and metadata in Qdrant, what is larger mapped beside it."""

    def config(self) -> Arrays:
        return {"mean": Qdrant.config(self)["mean"]}

    def vectors(self, source: Arrays, row: int) -> Arrays:
        return {"mean": source["mean"][row].tolist()}

    def put(self, source: Arrays, entries: list[Any], start: int, stop: int) -> None:
        Qdrant.put(self, source, entries, start, stop)
        for first in range(start, stop, PART):
            self.put_arrays(source, first, min(stop, first + PART))
