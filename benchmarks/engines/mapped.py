"""Engines for what is small, beside files that are mapped for what is large."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .arrow import Parquet
from .engine import Engine, shaped
from .source import ARRAYS, COLUMNS, PART, Arrays


class Mapped(Engine):
    """Arrays in files of their own, a part each, that are mapped and not read."""

    outside: tuple[str, ...] = ("images", "gram")

    def arrive(self) -> None:
        self.download("images-*", "gram-*")

    def put_arrays(self, source: Arrays, first: int, last: int) -> None:
        from safetensors.numpy import save_file

        for name in self.outside:
            block = np.ascontiguousarray(source[name][first:last])
            save_file({name: block}, Path(self.folder) / f"{name}-{first:07}.safetensors")

    def mapped(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        kind, _ = ARRAYS[name]
        for path in sorted(Path(self.folder).glob(f"{name}-*.safetensors")):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                stated = json.loads(file.read(length))[name]["shape"]
            array = np.memmap(path, kind, "r", 8 + length, tuple(stated))
            yield int(path.stem.rpartition("-")[2]), array

    def blocks(self) -> Iterator[Arrays]:
        for (first, images), (_, gram) in zip(
            self.mapped("images"), self.mapped("gram"), strict=True
        ):
            yield {"row": np.arange(first, first + len(images)), "images": images, "gram": gram}

    def fetch(self, rows: list[int]) -> np.ndarray:
        parts = list(self.mapped("images"))
        found = [
            next(array[row - first] for first, array in parts if first <= row < first + len(array))
            for row in rows
        ]
        return np.stack(found)


class ParquetMapped(Mapped, Parquet):
    inside = ("mean",)

    def put(self, source: Arrays, entries: list[Any], start: int, stop: int) -> None:
        super().put(source, entries, start, stop)
        for first in range(start, stop, PART):
            self.put_arrays(source, first, min(stop, first + PART))


class Duck(ParquetMapped):
    """The same files, read by DuckDB; they are written with pyarrow."""

    packages = ("duckdb",)

    def load(self) -> None:
        import duckdb

        self.duckdb = duckdb

    def put(self, source: Arrays, entries: list[Any], start: int, stop: int) -> None:
        Parquet.load(self)
        super().put(source, entries, start, stop)

    def rows(self, what: str, where: str, *values: Any) -> list[Any]:
        files = f"read_parquet('{self.folder}/part-*.parquet')"
        return self.duckdb.execute(f"select {what} from {files} {where}", values).fetchall()

    def means(self, tag: str | None) -> tuple[np.ndarray, np.ndarray]:
        where = ("where list_contains(tags, ?)", tag) if tag else ("",)
        found = self.rows("row, mean", *where)
        return np.array([row for row, _ in found]), shaped(
            "mean", b"".join(mean for _, mean in found), len(found)
        )

    def refs(self, rows: list[int]) -> list[str]:
        found = dict(self.rows("row, ref", f"where row in ({','.join(map(str, rows))})"))
        return [found[row] for row in rows]


class Sqlite(Mapped):
    """Metadata as lines of JSON beside the arrays; a reader makes a database of them once."""

    packages = ()
    local = ("index.sqlite",)
    outside = tuple(ARRAYS)

    def load(self) -> None:
        path = Path(self.folder, "index.sqlite")
        known = path.is_file()
        self.database = sqlite3.connect(path)
        if not known:
            self.compile()

    def put(self, source: Arrays, entries: list[Any], start: int, stop: int) -> None:
        for first in range(start, stop, PART):
            last = min(stop, first + PART)
            self.put_arrays(source, first, last)
            lines = (json.dumps(one, separators=(",", ":")) for one in entries[first:last])
            (Path(self.folder) / f"entries-{first:07}.jsonl").write_text("\n".join(lines))
        self.compile(start)

    def compile(self, start: int = 0) -> None:
        """Take in the lines of the parts that begin at ``start`` or later."""
        plain = [name for name in COLUMNS if name != "tags"]
        with self.database as database:
            database.execute(
                f"create table if not exists model (row integer primary key, {','.join(plain)})"
            )
            database.execute(
                "create table if not exists tag (tag text, row integer,"
                " primary key (tag, row)) without rowid"
            )
            for path in sorted(Path(self.folder).glob("entries-*.jsonl")):
                first = int(path.stem[8:])
                if first >= start:
                    lines = [json.loads(line) for line in path.read_text().splitlines()]
                    places = ",".join("?" * (1 + len(plain)))
                    database.executemany(
                        f"insert into model values ({places})",
                        (
                            (row, *(one[name] for name in plain))
                            for row, one in enumerate(lines, first)
                        ),
                    )
                    tags = sorted(
                        (tag, row) for row, one in enumerate(lines, first) for tag in one["tags"]
                    )
                    database.executemany("insert into tag values (?, ?)", tags)

    def means(self, tag: str | None) -> tuple[np.ndarray, np.ndarray]:
        parts = list(self.mapped("mean"))
        if tag is None:
            rows = np.concatenate([np.arange(first, first + len(part)) for first, part in parts])
            return rows, np.concatenate([part for _, part in parts])
        asked = self.database.execute("select row from tag where tag = ?", (tag,))
        rows = np.array([row for (row,) in asked])
        kept = [
            part[rows[(rows >= first) & (rows < first + len(part))] - first]
            for first, part in parts
        ]
        return rows, np.concatenate(kept)

    def refs(self, rows: list[int]) -> list[str]:
        asked = self.database.execute(
            f"select row, ref from model where row in ({','.join(map(str, rows))})"
        )
        found = dict(asked.fetchall())
        return [found[row] for row in rows]
