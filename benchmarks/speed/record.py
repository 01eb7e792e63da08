"""What a benchmark measured, as rows, and where: the form that ``growth.json`` has."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.blas import blas_kernels
from gmi_registry.atomic import write_text
from gmi_registry.scoring.kernels import cores


@dataclass(frozen=True)
class Row:
    """One work at one number of models; times are of one query.

    ``timed_models``: of so many models it was timed, and the rest is their share. ``kept_mb`` is
    what has to stay in memory, ``build_s`` what an index took to make, ``recall`` the share of the
    first ten by the same score that it finds; ``loop_ratio`` how many times as long the plain loop
    took, the median over turns.
    """

    work: str
    models: int
    median_ms: float
    least_ms: float
    timed_models: int | None = None
    kept_mb: float | None = None
    build_s: float | None = None
    recall: float | None = None
    loop_ratio: float | None = None

    @classmethod
    def of(cls, work: str, models: int, seconds: Sequence[float], **others: Any) -> Row:
        """Of ``seconds`` that the same query took, one a round."""
        times = [second * 1e3 for second in seconds]
        return cls(work, models, _short(statistics.median(times)), _short(min(times)), **others)


def machine(packages: Sequence[str], others: Mapping[str, str]) -> dict[str, Any]:
    """What of the machine bears on times, and versions."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "cores": cores(),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": versions | dict(others),
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "as they come"),
        "blas_kernels": blas_kernels(),
    }


def written(path: Path, rows: Sequence[Row], **facts: Any) -> Path:
    """``rows`` and ``facts`` as JSON with sorted keys, whole or not at all."""
    kept = [
        {name: _short(value) for name, value in asdict(row).items() if value is not None}
        for row in rows
    ]
    lines = ",\n    ".join(json.dumps(row, sort_keys=True) for row in kept)
    head = json.dumps(facts | {"rows": []}, sort_keys=True, indent=2, ensure_ascii=False)
    return write_text(
        path, head.replace('"rows": []', f'"rows": [\n    {lines}\n  ]') + "\n", "record"
    )


def read(path: Path) -> list[Row]:
    """The rows of a file of this form; what else they hold is left out.

    Raises SystemExit for a file that is none.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        known = Row.__dataclass_fields__
        return [Row(**{name: row[name] for name in row if name in known}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"{path} cannot be read ({error}): name a file as benchmarks.speed.growth writes it"
        ) from None


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _processor() -> str:
    place = Path("/proc/cpuinfo")
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
