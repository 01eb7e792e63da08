"""A finished run as it lies in its folder: what was asked, the right answers, all distances."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.bench.tasks import TaskFile, read_labels, read_tasks
from gmi_registry.errors import InputError
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring import PAPER_GAMMA
from gmi_registry.spec.fields import RelativePath

__all__ = ["Run", "Scored", "read_run", "read_scored"]

_HINT = "gmi bench run FILE --out {folder}"

# What reading a damaged or forged archive runs into; TypeError where it is another kind of file.
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error)


class _Format(BaseModel):
    name: Literal["gmi-bench"]
    version: Literal[1]


class Run(BaseModel):
    """What ``bench.json`` says. ``digest`` is the benchmark's, ``seconds`` the wall time by
    stage, ``limit`` what the tasks were cut down to, ``gamma`` that of Eq. 9."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: _Format
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
class Scored:
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
    path = folder / "bench.json"
    hint = _HINT.format(folder=folder)
    try:
        return Run.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder} holds no finished benchmark: bench.json: {error.strerror}", hint=hint
        ) from None
    except ValidationError as error:
        raise InputError(
            f"{path} is not what this version reads: {first_fault(error)}", hint=hint
        ) from None


def read_scored(folder: Path, split: str, run: Run) -> list[Scored]:
    """The protocols of one split that were scored, in the order of ``run``.

    Dev tasks may be missing for some. Raises InputError for files that are damaged or disagree
    about the number of tasks or models.
    """
    if split != "test" and not (folder / "scores" / split).is_dir():
        return []
    labels = read_labels(folder, split)
    found = []
    for protocol in run.protocols:
        path = folder / "scores" / split / f"{protocol}.npz"
        if split != "test" and not path.exists():
            continue
        if protocol not in labels:
            raise InputError(
                f"{folder} holds no answers for {split}/{protocol}",
                hint=_HINT.format(folder=folder),
            )
        tasks = read_tasks(folder, split, protocol)
        truth = np.array(labels[protocol], dtype=np.int64)
        shape = (len(tasks.tasks), len(tasks.models))
        if truth.shape != shape[:1] or (truth >= shape[1]).any() or 0 in shape or shape[1] < 2:
            raise _damaged(path, folder, f"{len(truth)} answers do not fit {shape} tasks x models")
        distances = _read_distances(path, folder, run.methods, shape)
        found.append(Scored(protocol, tasks, truth, distances))
    return found


def _read_distances(
    path: Path, folder: Path, methods: tuple[str, ...], shape: tuple[int, int]
) -> dict[str, NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in methods if name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path} is missing", hint=_HINT.format(folder=folder)) from None
    except _BROKEN as error:
        raise _damaged(path, folder, " ".join(str(error).split())) from None
    if not arrays:
        raise _damaged(path, folder, "it holds no method of bench.json")
    for name, array in arrays.items():
        if array.dtype != np.float64 or array.shape != shape:
            raise _damaged(path, folder, f"{name} is {array.dtype} {array.shape}, not {shape}")
        if np.isnan(array).any():
            raise _damaged(path, folder, f"{name} holds a distance that is not a number")
    return arrays


def _damaged(path: Path, folder: Path, reason: str) -> InputError:
    return InputError(f"{path} is damaged: {reason}", hint=_HINT.format(folder=folder))
