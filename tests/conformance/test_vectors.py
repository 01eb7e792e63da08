"""Every vector of the format gets the verdict that the table gives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gmi_registry import errors
from gmi_registry.spec import ModelRef, read_spec, write_spec
from gmi_registry.spec.manifest import manifest_schema
from tests.conformance import independent_reader
from tests.conformance.generate_vectors import CASES, VECTORS, lay_out, vector_files

ROWS: list[dict[str, Any]] = json.loads((VECTORS / "table.json").read_text("utf-8"))
CLUES = {f"{case.group}/{case.name}": case.clue for case in CASES}
COMPUTED = {"digest", "encoder_id", "weights_digest", "base_weights_digest"}
MEASURE = Path(__file__).with_name("measure_refusals.py")

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs links, pipes and fork")


def rows(group: str) -> list[Any]:
    return [
        pytest.param(row, id=row["case"]) for row in ROWS if row["case"].startswith(group + "/")
    ]


def read_case(row: dict[str, Any], folder: Path) -> Any:
    lay_out(row, VECTORS / row["case"], folder)
    expected = ModelRef.parse(row["expected"]) if "expected" in row else None
    return read_spec(folder, expected=expected, own_weights=lambda: row.get("own_weights"))


def test_committed_vectors_are_what_the_generator_writes() -> None:
    committed = {
        path.relative_to(VECTORS).as_posix(): path.read_bytes()
        for path in VECTORS.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert committed == vector_files()


def test_committed_schema_is_the_model_s() -> None:
    committed = json.loads((VECTORS.parents[1] / "manifest.schema.json").read_text("utf-8"))
    assert committed == manifest_schema()


def test_vectors_are_many_and_small() -> None:
    counts = Counter(row["case"].split("/")[0] for row in ROWS)
    assert counts["valid"] >= 10
    assert counts["invalid"] >= 25
    assert counts["hostile"] >= 15
    assert len({row["case"] for row in ROWS}) == len(ROWS)
    assert sum(path.stat().st_size for path in VECTORS.rglob("*") if path.is_file()) < 1_500_000


@pytest.mark.parametrize("row", rows("valid"))
def test_valid_is_read_and_written_back_to_the_same_bytes(
    row: dict[str, Any], tmp_path: Path
) -> None:
    spec = read_case(row, tmp_path / "model")
    assert spec.digest == row["digest"]
    assert spec.manifest.encoder.id == row["encoder_id"]
    assert spec.manifest.model.weights_digest == row["weights_digest"]
    assert spec.manifest.model.base_weights_digest == row.get("base_weights_digest")
    source = VECTORS / row["case"] / "gmi"
    committed = {path.name: path.read_bytes() for path in source.iterdir()}
    written = write_spec(spec, tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in written.iterdir()} == committed


@posix
@pytest.mark.parametrize("row", [*rows("invalid"), *rows("hostile")])
def test_refused_for_its_own_reason(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(errors.GmiError) as caught:
        read_case(row, tmp_path / "model")
    assert type(caught.value).__name__ == row["verdict"], caught.value
    assert CLUES[row["case"]] in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.message.isprintable()


@posix
@pytest.mark.parametrize("row", [*rows("valid"), *rows("invalid"), *rows("hostile")])
def test_a_reader_written_from_the_page_agrees(row: dict[str, Any], tmp_path: Path) -> None:
    lay_out(row, VECTORS / row["case"], tmp_path / "model")
    verdict, found = independent_reader.judge(
        tmp_path / "model", row.get("expected"), row.get("own_weights")
    )
    assert verdict == row["verdict"]
    assert found == {name: value for name, value in row.items() if name in COMPUTED}


@posix
def test_hostile_files_are_refused_quickly_and_in_little_memory(tmp_path: Path) -> None:
    hostile = [row for row in ROWS if row["case"].startswith("hostile/")]
    for row in hostile:
        lay_out(row, VECTORS / row["case"], tmp_path / row["case"])
    folders = [str(tmp_path / row["case"]) for row in hostile]
    done = subprocess.run(
        [sys.executable, str(MEASURE), *folders],
        env={**os.environ, "PYTHONPATH": str(VECTORS.parents[2])},
        capture_output=True,
        check=True,
        text=True,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(hostile)
    for result in results:
        assert result["refused"], result
        assert result["seconds"] < 0.1, result
        assert result["megabytes"] < 50, result
