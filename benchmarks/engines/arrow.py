"""LanceDB and Parquet, both written from and read into Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine, shaped
from .source import ARRAYS, COLUMNS, PART, Arrays


def arrow_table(
    source: Arrays, entries: list[Any], start: int, stop: int, names: Sequence[str], vectors: bool
) -> Any:
    """Metadata, and arrays as vectors or as bytes of fixed size."""
    import pyarrow as pa

    columns = {"row": pa.array(np.arange(start, stop))}
    columns |= {name: pa.array([one[name] for one in entries[start:stop]]) for name in COLUMNS}
    for name in names:
        block = np.ascontiguousarray(source[name][start:stop]).reshape(stop - start, -1)
        if vectors:
            columns[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(block.ravel()), block.shape[1]
            )
        else:
            width, data = block.nbytes // len(block), pa.py_buffer(block)
            kind = pa.binary(width)
            columns[name] = pa.FixedSizeBinaryArray.from_buffers(kind, len(block), [None, data])
    return pa.table(columns)


def from_arrow(table: Any, name: str) -> np.ndarray:
    parts = []
    for chunk in table.column(name).chunks:
        if hasattr(chunk, "flatten"):
            _, shape = ARRAYS[name]
            parts.append(chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *shape))
        else:
            width = chunk.type.byte_width
            parts.append(shaped(name, chunk.buffers()[1][chunk.offset * width :], len(chunk)))
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


class Lance(Engine):
    packages = ("lancedb",)

    def arrive(self) -> None:
        """It reads ``hf://`` itself."""

    def load(self) -> None:
        import lancedb

        self.database = lancedb.connect(str(self.folder))
        self.table = None

    def open(self) -> Any:
        self.table = self.table or self.database.open_table("specs")
        return self.table

    def put(self, source: Arrays, entries: list[Any], start: int, stop: int) -> None:
        for first in range(start, stop, PART):
            last = min(stop, first + PART)
            block = arrow_table(source, entries, first, last, tuple(ARRAYS), vectors=True)
            if first == 0:
                self.table = self.database.create_table("specs", block)
            else:
                self.open().add(block)

    def select(self, where: str | None, *names: str) -> Any:
        query = self.open().search().select(list(names))
        return query.where(where) if where else query

    def means(self, tag: str | None) -> tuple[np.ndarray, np.ndarray]:
        where = f"array_has(tags, '{tag}')" if tag else None
        found = self.select(where, "row", "mean").to_arrow()
        return found.column("row").to_numpy(), from_arrow(found, "mean")

    def blocks(self) -> Iterator[Arrays]:
        import pyarrow as pa

        for batch in self.select(None, "row", "images", "gram").to_batches(250):
            block = pa.Table.from_batches([batch])
            arrays = {name: from_arrow(block, name) for name in ("images", "gram")}
            yield arrays | {"row": block.column("row").to_numpy()}

    def taken(self, rows: list[int], name: str) -> Any:
        found = self.open().take_offsets(rows).select(["row", name]).to_arrow()
        order = {row: place for place, row in enumerate(found.column("row").to_pylist())}
        return found.take([order[row] for row in rows]).combine_chunks()

    def fetch(self, rows: list[int]) -> np.ndarray:
        return from_arrow(self.taken(rows, "images"), "images")

    def refs(self, rows: list[int]) -> list[str]:
        return list(self.taken(rows, "ref").column("ref").to_pylist())


class Parquet(Engine):
    """A file a part; arrays as bytes of fixed size, which are read without being decoded."""

    packages = ("pyarrow",)
    inside: tuple[str, ...] = tuple(ARRAYS)
    remote: Any = None

    def arrive(self) -> None:
        from huggingface_hub import HfFileSystem

        self.remote = HfFileSystem()

    def load(self) -> None:
        import pyarrow.parquet

        self.parquet = pyarrow.parquet

    def put(self, source: Arrays, entries: list[Any], start: int, stop: int) -> None:
        for first in range(start, stop, PART):
            last = min(stop, first + PART)
            block = arrow_table(source, entries, first, last, self.inside, vectors=False)
            plain = [name for name in COLUMNS if name not in ("ref", "digest", "weights")]
            self.parquet.write_table(
                block,
                Path(self.folder) / f"part-{first:07}.parquet",
                row_group_size=100 if "images" in self.inside else PART,
                use_dictionary=plain,
                write_statistics=["row"],
                compression="zstd",
            )

    def parts(self) -> list[str]:
        if self.remote:
            return sorted(self.remote.glob(f"{self.folder}/part-*.parquet"))
        return sorted(map(str, Path(self.folder).glob("part-*.parquet")))

    def table(self, part: str, names: list[str]) -> Any:
        return self.parquet.read_table(part, columns=names, filesystem=self.remote)

    def means(self, tag: str | None) -> tuple[np.ndarray, np.ndarray]:
        import pyarrow as pa
        import pyarrow.compute as pc

        names = ["row", "mean", "tags"] if tag else ["row", "mean"]
        found = pa.concat_tables([self.table(part, names) for part in self.parts()])
        if tag:
            tags = found.column("tags").combine_chunks()
            hits = pc.list_parent_indices(tags).filter(pc.equal(pc.list_flatten(tags), tag))
            found = found.take(hits)
        return found.column("row").to_numpy(), from_arrow(found, "mean")

    def blocks(self) -> Iterator[Arrays]:
        for part in self.parts():
            found = self.table(part, ["row", "images", "gram"])
            arrays = {name: from_arrow(found, name) for name in ("images", "gram")}
            yield arrays | {"row": found.column("row").to_numpy()}

    def taken(self, rows: list[int], name: str) -> list[Any]:
        found: dict[int, Any] = {}
        for part in self.parts():
            first = int(Path(part).stem[5:])
            file = self.parquet.ParquetFile(part, filesystem=self.remote)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                wanted = [row for row in rows if first <= row < first + count]
                if wanted:
                    column = file.read_row_group(group, columns=[name]).column(name)
                    found |= {row: column[row - first].as_py() for row in wanted}
                first += count
        return [found[row] for row in rows]

    def fetch(self, rows: list[int]) -> np.ndarray:
        return shaped("images", b"".join(self.taken(rows, "images")), len(rows))

    def refs(self, rows: list[int]) -> list[str]:
        return self.taken(rows, "ref")
