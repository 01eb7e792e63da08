"""Tiny models as a hub hands them over: the folder of an architecture with its card and digests."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from gmi_registry.model import Kind, ModelCard, ModelFiles
from gmi_registry.spec import ModelRef
from gmi_registry.spec.manifest import WeightFile
from tests.support.models.store import ModelStore, save

__all__ = ["architecture_folder", "model_files"]


def architecture_folder(store: ModelStore, name: str) -> Path:
    """The diffusers folder of one of ``architectures.ARCHITECTURES``. Read only."""

    def build(folder: Path) -> None:
        from tests.support.models.architectures import ARCHITECTURES

        with tempfile.TemporaryDirectory() as scratch:
            save(ARCHITECTURES[name](Path(scratch)), folder)

    return store.folder_of(name, build)


def model_files(
    path: Path, name: str, kind: Kind = "checkpoint", *, base: ModelFiles | None = None, **card: Any
) -> ModelFiles:
    """What a hub says of the model at ``path``; ``card`` holds fields of ModelCard."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    root = path.parent if path.is_file() else path
    weights = [
        WeightFile(
            path=file.relative_to(root).as_posix(),
            size=file.stat().st_size,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in files
    ]
    fields: dict[str, Any] = {"title": name, "tags": ("tiny",), "licence": "cc0-1.0", **card}
    if base is not None:
        fields.setdefault("base_model", base.ref.id)
    return ModelFiles(
        ref=ModelRef("local", f"tiny/{name}"),
        kind=kind,
        path=path,
        card=ModelCard(**fields),
        weights=tuple(sorted(weights, key=lambda weight: weight.path)),
        base=base,
    )
