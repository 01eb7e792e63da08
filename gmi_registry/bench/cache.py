"""Which parts of a stage are done: known by what went in, and checked by what came out."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.spec.canonical import canonical_digest

__all__ = [
    "SUMMARY",
    "Record",
    "StageCache",
    "array_bytes",
    "document_bytes",
    "placing",
    "put",
    "sha256_file",
]

SUMMARY = "bench.json"
"""The file that says what a folder holds; it is there when the stage ``score`` is done."""


@dataclass(frozen=True)
class Record:
    """A finished part: its files with their SHA-256 in the order they were given, and seconds."""

    inputs: str
    files: tuple[tuple[str, str], ...]
    seconds: float


class StageCache:
    """Records in ``folder``/stages, one a part of a stage, for files anywhere in ``folder``.

    A part counts as done when its inputs have the recorded digest and every file of it has the
    recorded bytes. Only the stage that wrote a record reads it: those of ``generate`` say which
    model drew which picture, and so hold the answers of the tasks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seconds: dict[str, dict[str, float]] = defaultdict(dict)

    def find(self, stage: str, part: str, inputs: object) -> Record | None:
        """The record of a part that is done, else None.

        A part that is not done makes the whole folder unfinished again: its summary is removed,
        so that nobody reads old distances beside new tasks.
        """
        record = self._read(stage, part)
        if (
            record is None
            or record.inputs != canonical_digest(inputs)
            or any(sha256_file(self.folder / name) != digest for name, digest in record.files)
        ):
            (self.folder / SUMMARY).unlink(missing_ok=True)
            return None
        self._seconds[stage][part] = record.seconds
        return record

    def keep(
        self,
        stage: str,
        part: str,
        inputs: object,
        files: Sequence[tuple[str, str]],
        seconds: float,
    ) -> Record:
        """Record that a part is done; ``files`` (name and SHA-256) are in place already."""
        # Rounded at once, so that this run says what a later one reads.
        record = Record(canonical_digest(inputs), tuple(files), round(seconds, 3))
        document = {
            "inputs": record.inputs,
            "seconds": record.seconds,
            "files": [list(file) for file in record.files],
        }
        put(self._path(stage, part), document_bytes(document))
        self._seconds[stage][part] = record.seconds
        return record

    def seconds(self, stage: str) -> float:
        """What the parts that were found or kept took when they were made, all together."""
        return round(sum(self._seconds[stage].values()), 3)

    def _path(self, stage: str, part: str) -> Path:
        return self.folder / "stages" / stage / f"{part}.json"

    def _read(self, stage: str, part: str) -> Record | None:
        try:
            content = json.loads(self._path(stage, part).read_bytes())
            files = tuple((str(name), str(digest)) for name, digest in content["files"])
            return Record(str(content["inputs"]), files, float(content["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing or damaged: the part is made again


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """A scratch file that becomes ``path`` at the end. Raises InputError where it cannot be.

    It is always of the same name, so that the next run takes the place of what a killed one left.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.unlink(missing_ok=True)
        try:
            yield scratch
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="free some space or choose another --out, then run the same command again",
        ) from error


def put(path: Path, data: bytes) -> str:
    """Write a file whole or not at all; returns its SHA-256. Raises InputError where it cannot."""
    with placing(path) as scratch:
        scratch.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def document_bytes(document: object) -> bytes:
    """JSON for people and programs: the same document gives the same bytes."""
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def array_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """An ``.npz`` file; the same arrays in the same order give the same bytes."""
    stream = io.BytesIO()
    np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
    return stream.getvalue()


def sha256_file(path: Path) -> str | None:
    """SHA-256 (hex) of a file, None where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
