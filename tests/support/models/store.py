"""Tiny models on the disk: built once, kept under a digest of the code that builds them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["ModelStore"]

_LIBRARIES = ("diffusers", "peft", "safetensors", "tokenizers", "torch", "transformers")
_DAY = 86_400.0


class ModelStore:
    """Folders of models, each made by a function the first time that it is needed.

    They lie in ``root``/DIGEST/NAME, where the digest is of the builders' code and the versions of
    the libraries: another state of either makes models of its own. Two processes may build the same
    model at once; one of the two copies stays. Nothing in the folders may be changed: a test
    that spoils a model copies it.
    """

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            if not path.name.startswith(("test_", "conftest")):
                digest.update(path.read_bytes())
        for name in _LIBRARIES:
            digest.update(f"{name} {version(name)}\n".encode())
        self.root = root
        self.folder = root / digest.hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._forget_others()

    def folder_of(self, name: str, build: Callable[[Path], None]) -> Path:
        """The folder of ``name``; ``build`` writes it where there is none yet."""
        target = self.folder / name
        if target.exists():
            return target
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=self.folder))
        try:
            build(work / "model")
            try:
                (work / "model").replace(target)
            except OSError:
                if not target.exists():  # another process has built it meanwhile
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return target

    def _forget_others(self) -> None:
        """Remove what other states of the code have built, once it is a day old."""
        os.utime(self.folder)
        for other in self.root.iterdir():
            if other != self.folder and other.stat().st_mtime < time.time() - _DAY:
                shutil.rmtree(other, ignore_errors=True)


def save(pipeline: Any, folder: Path, **options: Any) -> None:
    """Write ``pipeline`` as its users do, without what the libraries print meanwhile."""
    from gmi_registry.generation import pipelines

    with pipelines._quiet():
        pipeline.save_pretrained(folder, **options)
