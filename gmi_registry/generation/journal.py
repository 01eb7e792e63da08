"""Finished batches of one generation run on disk, so that an interrupted run goes on."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from operator import sub
from pathlib import Path
from statistics import median

from PIL import Image

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.errors import GenerationError
from gmi_registry.model import ModelFiles
from gmi_registry.spec import GenerationRecipe
from gmi_registry.spec.canonical import canonical_digest

__all__ = ["Journal"]

_UNFINISHED = ".unfinished-"
_SUMS = "sha256"
"""The file of a batch with the digests of its pictures."""


class Journal:
    """A folder of finished batches, each a folder of PNG files that appeared as one.

    A batch is found again by everything that decides its bytes: the recipe with its library
    versions, the weights of the model and its base, and the batch's own prompts and seeds.
    """

    def __init__(self, folder: Path, model: ModelFiles, recipe: GenerationRecipe) -> None:
        """``folder`` may hold the journals of many runs; it is made when a batch is kept."""
        weights: list[list[list[str]]] = []
        part: ModelFiles | None = model
        while part is not None:
            weights.append([[weight.path, weight.sha256] for weight in part.weights])
            part = part.base
        self.folder = folder / canonical_digest([recipe.known(), weights])[:32]

    def find(self, batch: Sequence[tuple[str, int]]) -> tuple[Path, ...] | None:
        """The PNG files of a batch of (prompt, seed) pairs, or None unless all are there, whole."""
        paths = self.paths(batch)
        # A decoder does not notice everything: a picture with other pixels would be published.
        sums = read_sealed(paths[0].parent / _SUMS)
        try:
            whole = sums is not None and sums == _sums(paths)
        except OSError:
            return None
        return paths if whole else None

    def keep(
        self, batch: Sequence[tuple[str, int]], images: Sequence[Image.Image]
    ) -> tuple[Path, ...]:
        """Write a batch; it appears whole or not at all.

        Raises GenerationError where the disk is full or the folder cannot be written.
        """
        paths = self.paths(batch)
        scratch: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.folder))
            for path, image in zip(paths, images, strict=True):
                # Not forced to the disk: after a power cut find() sees what is not whole.
                with (scratch / path.name).open("xb") as stream:
                    image.save(stream, "PNG", compress_level=1)
            write_sealed(scratch / _SUMS, _sums([scratch / path.name for path in paths]))
            # What stands there is not whole (find would have seen it): it makes way.
            shutil.rmtree(paths[0].parent, ignore_errors=True)
            scratch.rename(paths[0].parent)
        except OSError as error:
            raise self._cannot_keep(error) from error
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
        return paths

    def pace(self) -> float | None:
        """Seconds a batch, by when those that are here were kept; None where fewer than two are.

        The median, so that a pause between two runs does not count.
        """
        try:
            kept = sorted(
                path.stat().st_mtime
                for path in self.folder.iterdir()
                if not path.name.startswith(_UNFINISHED)
            )
        except OSError:
            return None
        return median(map(sub, kept[1:], kept)) if len(kept) > 1 else None

    def discard(self) -> None:
        """Remove all batches of this run, and what a killed run left unfinished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def paths(self, batch: Sequence[tuple[str, int]]) -> tuple[Path, ...]:
        """Where the PNG files of a batch lie, once they are there."""
        # The whole batch names the folder: its make-up can change the last bits of a picture.
        folder = self.folder / canonical_digest([list(pair) for pair in batch])[:32]
        return tuple(folder / f"{position:04d}.png" for position in range(len(batch)))

    def _cannot_keep(self, error: OSError) -> GenerationError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return GenerationError(
                f"{self.folder}: the disk is full; finished batches are kept",
                hint="free some space and run the same command again: it goes on from here",
            )
        return GenerationError(
            f"{self.folder} cannot be written: {error.strerror or error}",
            hint="choose a work folder that you may write to",
        )


def _sums(paths: Sequence[Path]) -> bytes:
    """The digests of files, in order, a line each."""
    found = []
    for path in paths:
        with path.open("rb") as stream:
            found.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return "".join(f"{digest}\n" for digest in found).encode()
