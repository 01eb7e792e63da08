"""Write ``spec_format/vectors/v1``: ``python -m tests.conformance.generate_vectors [FOLDER]``.

A test compares the committed files with what this writes, so neither can drift. Cases of a
released version must not change; a new case is appended to its group.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from gmi_registry.spec import decode_spec
from tests.conformance import hostile_cases, invalid_cases, valid_cases
from tests.conformance.vector_base import JSON, TENSORS, Case

VECTORS = Path(__file__).parents[2] / "spec_format" / "vectors" / "v1"
CASES: list[Case] = [*valid_cases.CASES, *invalid_cases.CASES, *hostile_cases.CASES]


def vector_files() -> dict[str, bytes]:
    """Every file of the folder but README.md, by its path."""
    files = {"table.json": table()}
    for case in CASES:
        for path, data in case.files.items():
            files[f"{case.group}/{case.name}/{path}"] = data
    return files


def table() -> bytes:
    """One object a case; documented in README.md beside it."""
    return (json.dumps([_row(case) for case in CASES], indent=1, ensure_ascii=True) + "\n").encode()


def _row(case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": f"{case.group}/{case.name}",
        "verdict": case.verdict,
        "why": case.why,
    }
    if case.expected:
        row["expected"] = case.expected
    if case.own_weights is not None:
        row["own_weights"] = case.own_weights
    if case.steps:
        row["steps"] = case.steps
    if case.verdict == "accept":
        spec = decode_spec(case.files[JSON], case.files[TENSORS])
        model = spec.manifest.model
        row["digest"] = spec.digest
        row["encoder_id"] = spec.manifest.encoder.id
        row["weights_digest"] = model.weights_digest
        if model.base_weights_digest is not None:
            row["base_weights_digest"] = model.base_weights_digest
    return row


def lay_out(row: dict[str, Any], source: Path, target: Path) -> None:
    """Make the case of ``row`` in ``target``: its committed files, then its steps."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for step in row.get("steps", ()):
        path = target / step["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        match step["do"]:
            case "write":
                path.write_bytes(
                    "".join(piece * n for piece, n in step["pieces"]).encode("latin-1")
                )
            case "sparse":
                with path.open("wb") as stream:
                    stream.write(bytes.fromhex(step["start_hex"]))
                    stream.truncate(step["size"])
            case "link":
                path.symlink_to(step["target"])
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case unknown:
                raise ValueError(f"unknown step {unknown}")


def main(folder: Path) -> None:
    for path, data in vector_files().items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    sys.stdout.write(f"{len(CASES)} cases in {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else VECTORS)
