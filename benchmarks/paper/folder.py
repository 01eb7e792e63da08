"""The results folder: finished parts of stages, tasks, and in files of their own the answers."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.errors import GenerationError, InputError, MissingExtraError
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring import PAPER_GAMMA
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.manifest import RelativePath

LIBRARIES = (
    "clip-interrogator",
    "diffusers",
    "numpy",
    "open_clip_torch",
    "peft",
    "pillow",
    "timm",
    "torch",
    "transformers",
)


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Name to version of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


Progress = Callable[[int, int], None]
"""Told how many of a stage's parts are done, and how many there are."""

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

    def make(
        self, stage: str, part: str, inputs: object, files: Callable[[], Sequence[tuple[str, str]]]
    ) -> bool:
        """Have ``files`` write those of a part (name and SHA-256) unless it is done; whether it
        was not."""
        if self.find(stage, part, inputs) is not None:
            return False
        start = time.perf_counter()
        written = files()
        self.keep(stage, part, inputs, written, time.perf_counter() - start)
        return True

    def write(self, name: str, data: bytes) -> tuple[str, str]:
        """Put a file into the folder; its name and SHA-256."""
        return name, put(self.folder / name, data)

    def adopt(self, path: Path, room: str) -> tuple[str, str]:
        """An image's place in ``room`` of the folder, where it now is, and its SHA-256.

        The name is the digest of the bytes: it must not say which model made the image.
        """
        digest = sha256_file(path)
        if digest is None:
            raise GenerationError(
                f"{path}: a generated image is missing", hint="run the same command again"
            )
        name = f"{room}/{digest[:32]}.png"
        target = self.folder / name
        if sha256_file(target) != digest:
            with placing(target) as scratch:
                try:
                    scratch.hardlink_to(path)
                except OSError:  # a disk without hard links
                    shutil.copyfile(path, scratch)
        return name, digest

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


_RUN_AGAIN = "run the same python -m benchmarks.paper run again, without --stage"

# What reading a damaged or forged archive runs into; TypeError where it is another kind of file.
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, TypeError, BadZipFile, zlib.error)


class _Part(BaseModel):
    # Fields of a later version are passed over, as its readers do with ours.
    model_config = ConfigDict(frozen=True, extra="ignore")


SPECS = "specs.json"


class _TaskFormat(_Part):
    name: Literal["gmi-bench-tasks"] = "gmi-bench-tasks"
    version: Literal[1] = 1


class _AnswerFormat(_Part):
    name: Literal["gmi-bench-labels"] = "gmi-bench-labels"
    version: Literal[1] = 1


class _SpecFormat(_Part):
    name: Literal["gmi-bench-specs"] = "gmi-bench-specs"
    version: Literal[1] = 1


class Described(_Part):
    """A model and the pictures of its specification, default block and own block."""

    name: str
    model: str
    downloads: Annotated[int, Field(ge=0)] | None
    images: tuple[RelativePath, ...]
    own_prompts: tuple[str, ...]
    own_images: tuple[RelativePath, ...]


class SpecFile(_Part):
    """``specs.json``: what every model drew for the default prompts. No task is in it."""

    format: _SpecFormat = _SpecFormat()
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    models: tuple[Described, ...]


class Task(_Part):
    """Images that ask together: one prompt, seed and PNG file for each, and the task's group."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    images: tuple[RelativePath, ...]
    group: str


class TaskFile(_Part):
    """The tasks of one split and protocol. ``models`` are those to choose from."""

    format: _TaskFormat = _TaskFormat()
    models: tuple[str, ...]
    tasks: tuple[Task, ...]

    def to_bytes(self) -> bytes:
        """The file's content; the same tasks give the same bytes."""
        return document_bytes(self.model_dump(mode="json"))


class _AnswerFile(_Part):
    format: _AnswerFormat = _AnswerFormat()
    truth: tuple[Annotated[int, Field(ge=0)], ...]


_File = TypeVar("_File", bound=BaseModel)


def task_path(folder: Path, split: str, protocol: str) -> Path:
    """Where the tasks of a protocol are."""
    return folder / "tasks" / split / f"{protocol}.json"


def answer_path(folder: Path, split: str, protocol: str) -> Path:
    """Where their answers are."""
    return folder / "labels" / split / f"{protocol}.json"


def answer_bytes(truth: Sequence[int]) -> bytes:
    """The content of a file of answers."""
    return document_bytes(_AnswerFile(truth=tuple(truth)).model_dump(mode="json"))


def read_specs(folder: Path) -> SpecFile:
    """The pictures of every specification. Raises InputError for a file that is not there."""
    return _read(folder / SPECS, SpecFile)


def read_tasks(folder: Path, split: str, protocol: str) -> TaskFile:
    """The tasks of one split and protocol. Raises InputError for a file that holds none."""
    return _read(task_path(folder, split, protocol), TaskFile)


def read_answers(folder: Path, split: str) -> dict[str, tuple[int, ...]]:
    """Protocol to the right model of each of its tasks, as indices into ``models``.

    The one way to the answers: fitting reads those of ``dev``, the report both, and nothing else
    any. Raises InputError where there are none.
    """
    paths = sorted((folder / "labels" / split).glob("*.json"))
    if not paths:
        raise InputError(
            f"{folder} holds no answers for {split}", hint="python -m benchmarks.paper run"
        )
    return {path.stem: _read(path, _AnswerFile).truth for path in paths}


def _read(path: Path, kind: type[_File]) -> _File:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint=_RUN_AGAIN) from None
    except ValidationError as error:
        raise InputError(
            f"{path} is damaged: {first_fault(error)}",
            hint="delete the file and run the same command again",
        ) from None


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of one ``.npz`` file; pickles are refused. Raises InputError without them."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise InputError(f"{path} is missing", hint=_RUN_AGAIN) from None
    except _BROKEN as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read: {error.strerror}", hint=_RUN_AGAIN) from None
        raise damaged(path, " ".join(str(error).split())) from None


def damaged(path: Path, reason: str) -> InputError:
    """The error for a file of arrays that says something else than it should."""
    return InputError(f"{path} is damaged: {reason}", hint=_RUN_AGAIN)


def missing_package(name: str, *, purpose: str) -> MissingExtraError:
    """The error where a package of the dependency group ``bench`` is not installed."""
    error = MissingExtraError(name, extra="bench", purpose=purpose)
    error.hint = "pip install --group bench"
    return error


# --- What a run is, and its scores ---------------------------------------------------------------


class _RunFormat(_Part):
    name: Literal["gmi-bench"]
    version: Literal[1]


class Run(_Part):
    """What ``bench.json`` says. ``digest`` is the benchmark's, ``seconds`` the wall time by
    stage, ``limit`` what the tasks were cut down to, ``gamma`` that of Eq. 9."""

    format: _RunFormat
    name: str
    digest: str
    encoder: str | dict[str, Any]
    interrogator: str = "none"
    gamma: float = Field(default=PAPER_GAMMA, gt=0)
    limit: int | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    protocols: tuple[RelativePath, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class ScoredTasks:
    """One split of one protocol: Q tasks over M models.

    ``truth`` [Q] are indices into ``tasks.models``; ``distances`` are float64 [Q, M] by method,
    lower is nearer, none of them NaN.
    """

    protocol: str
    tasks: TaskFile
    truth: NDArray[np.int64]
    distances: Mapping[str, NDArray[np.float64]]

    @property
    def models(self) -> tuple[str, ...]:
        """The M names."""
        return self.tasks.models


def read_run(folder: Path) -> Run:
    """Raises InputError for a folder that holds no finished run, or that of another version."""
    path = folder / SUMMARY
    try:
        return Run.model_validate_json(path.read_bytes())
    except OSError as error:
        said = f"{folder} holds no finished benchmark: {SUMMARY}: {error.strerror}"
    except ValidationError as error:
        said = f"{path} is not what this version reads: {first_fault(error)}"
    raise InputError(said, hint=f"python -m benchmarks.paper run FILE --out {folder}")


def read_scored(folder: Path, split: str, run: Run) -> list[ScoredTasks]:
    """The protocols of one split that were scored, in the order of ``run``.

    Dev tasks may be missing for some. Raises InputError for files that are damaged or disagree
    about the number of tasks or models.
    """
    if split != "test" and not (folder / "scores" / split).is_dir():
        return []
    labels = read_answers(folder, split)
    found = []
    for protocol in run.protocols:
        path = folder / "scores" / split / f"{protocol}.npz"
        if split != "test" and not path.exists():
            continue
        if protocol not in labels:
            raise InputError(f"{folder} holds no answers for {split}/{protocol}", hint=_RUN_AGAIN)
        tasks = read_tasks(folder, split, protocol)
        truth = np.array(labels[protocol], dtype=np.int64)
        shape = (len(tasks.tasks), len(tasks.models))
        if truth.shape != shape[:1] or (truth >= shape[1]).any() or 0 in shape or shape[1] < 2:
            raise damaged(path, f"{len(truth)} answers do not fit {shape} tasks x models")
        arrays = load_arrays(path)
        distances = {name: arrays[name] for name in run.methods if name in arrays}
        _check_distances(path, distances, shape)
        found.append(ScoredTasks(protocol, tasks, truth, distances))
    return found


def _check_distances(
    path: Path, distances: Mapping[str, NDArray[Any]], shape: tuple[int, int]
) -> None:
    if not distances:
        raise damaged(path, f"it holds no method of {SUMMARY}")
    for name, array in distances.items():
        if array.dtype != np.float64 or array.shape != shape:
            raise damaged(path, f"{name} is {array.dtype} {array.shape}, not {shape}")
        if np.isnan(array).any():
            raise damaged(path, f"{name} holds a distance that is not a number")
