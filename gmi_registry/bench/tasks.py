"""Tasks without their answers, and the answers in files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.bench.cache import document_bytes
from gmi_registry.errors import InputError
from gmi_registry.sanitize import first_fault
from gmi_registry.spec.fields import RelativePath

__all__ = [
    "Task",
    "TaskFile",
    "label_bytes",
    "label_path",
    "read_labels",
    "read_tasks",
    "task_path",
]


class _Part(BaseModel):
    # Fields of a later version are passed over, as its readers do with ours.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _TaskFormat(_Part):
    name: Literal["gmi-bench-tasks"] = "gmi-bench-tasks"
    version: Literal[1] = 1


class _LabelFormat(_Part):
    name: Literal["gmi-bench-labels"] = "gmi-bench-labels"
    version: Literal[1] = 1


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


class _LabelFile(_Part):
    format: _LabelFormat = _LabelFormat()
    truth: tuple[Annotated[int, Field(ge=0)], ...]


_File = TypeVar("_File", bound=BaseModel)


def task_path(folder: Path, split: str, protocol: str) -> Path:
    """Where the tasks of a protocol are."""
    return folder / "tasks" / split / f"{protocol}.json"


def label_path(folder: Path, split: str, protocol: str) -> Path:
    """Where their answers are."""
    return folder / "labels" / split / f"{protocol}.json"


def label_bytes(truth: Sequence[int]) -> bytes:
    """The content of a file of answers."""
    return document_bytes(_LabelFile(truth=tuple(truth)).model_dump(mode="json"))


def read_tasks(folder: Path, split: str, protocol: str) -> TaskFile:
    """The tasks of one split and protocol. Raises InputError for a file that holds none."""
    return _read(task_path(folder, split, protocol), TaskFile)


def read_labels(folder: Path, split: str) -> dict[str, tuple[int, ...]]:
    """Protocol to the right model of each of its tasks, as indices into ``models``.

    The one way to the answers: fitting reads those of ``dev``, the report both, and nothing else
    any. Raises InputError where there are none.
    """
    paths = sorted((folder / "labels" / split).glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no answers for {split}", hint="gmi bench run")
    return {path.stem: _read(path, _LabelFile).truth for path in paths}


def _read(path: Path, kind: type[_File]) -> _File:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}", hint="gmi bench run, with the same --out"
        ) from None
    except ValidationError as error:
        raise InputError(
            f"{path} is damaged: {first_fault(error)}",
            hint="delete the file and run the same command again",
        ) from None
