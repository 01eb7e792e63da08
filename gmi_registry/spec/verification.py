"""Every check that a folder with a specification can undergo, each with its outcome."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gmi_registry.errors import GmiError
from gmi_registry.spec.files import (
    PREVIEW_LIMIT,
    PREVIEW_NAME,
    SPEC_DIR,
    Links,
    UnusableFileError,
    held_folder,
    read_manifest,
    read_spec,
)
from gmi_registry.spec.manifest import Manifest, OwnWeights, WeightFile
from gmi_registry.spec.reference import ModelRef

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; ``detail`` is one line, ``hint`` the next thing to do or None."""

    check: Literal["manifest", "tensors", "preview", "weights", "signature"]
    status: Literal["ok", "failed", "skipped"]
    detail: str
    hint: str | None = None


def verify(
    directory: str | Path,
    *,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
    follow_links: Links = False,
    weights: bool = True,
) -> list[Finding]:
    """Check ``directory``/gmi, and the weight files beside it where they are there.

    Never raises for what it finds: a broken specification is a finding with status ``failed``.
    ``skipped`` means that there was nothing to look at (a weight file or preview that is not in
    ``directory``), or that an earlier failure left nothing to compare with. ``expected`` and
    ``own_weights`` are as for :func:`~gmi_registry.spec.read_spec`. With
    ``weights=False`` weight files, which can be gigabytes, are not read. The base model's weights
    lie elsewhere and are not looked at.
    """
    directory = Path(directory)
    try:
        manifest = read_manifest(
            directory, expected=expected, own_weights=own_weights, follow_links=follow_links
        )
    except GmiError as error:
        unread = "spec.json could not be read"
        return [
            Finding("manifest", "failed", error.message, error.hint),
            Finding("tensors", "skipped", unread),
            _preview(directory, follow_links),
            Finding("weights", "skipped", unread),
        ]
    described = f"format {manifest.format.version}, describes {manifest.model.ref}"
    if expected is not None and expected.id != manifest.model.id:
        described += f"; found at {expected.repository}, whose weights these are"
    return [
        Finding("manifest", "ok", described),
        # Whose it is has been judged.
        _tensors(directory, follow_links),
        _preview(directory, follow_links),
        *_weights(directory, manifest, follow_links, weights),
    ]


def _tensors(directory: Path, follow_links: Links) -> Finding:
    try:
        spec = read_spec(directory, follow_links=follow_links)
    except GmiError as error:
        return Finding("tensors", "failed", error.message, error.hint)
    images, width = spec.image_embeddings.shape
    return Finding("tensors", "ok", f"{images} images, {width} numbers each; digest agrees")


def _preview(directory: Path, follow_links: Links) -> Finding:
    path = directory / SPEC_DIR / PREVIEW_NAME
    try:
        with (
            held_folder(directory, follow_links) as parent,
            parent.folder(SPEC_DIR) as folder,
            folder.file(PREVIEW_NAME) as stream,
        ):
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(12)
    except UnusableFileError as error:
        if "link" not in str(error):
            return Finding("preview", "skipped", f"there is no {SPEC_DIR}/{PREVIEW_NAME}")
        return Finding("preview", "failed", f"{path} {error}")
    except OSError:
        return Finding("preview", "skipped", f"there is no {SPEC_DIR}/{PREVIEW_NAME}")
    if size > PREVIEW_LIMIT:
        return Finding("preview", "failed", f"{path} has {size:,} bytes, over {PREVIEW_LIMIT:,}")
    if start[:4] != b"RIFF" or start[8:] != b"WEBP":
        return Finding("preview", "failed", f"{path} is not a WebP picture")
    return Finding("preview", "ok", f"{size:,} bytes")


def _weights(
    directory: Path, manifest: Manifest, follow_links: Links, wanted: bool
) -> list[Finding]:
    if not wanted:
        return [Finding("weights", "skipped", "not asked for")]
    return [_weight(directory, weight, follow_links) for weight in manifest.model.weights]


def _weight(directory: Path, weight: WeightFile, follow_links: Links) -> Finding:
    path = directory / weight.path  # a RelativePath: no "..", no root, no drive
    try:
        # A hub's models may share a file; what somebody hands over holds its own.
        inside = directory if follow_links is False else follow_links
        place = path if inside is True else path.resolve()
        if not path.is_file():
            return Finding("weights", "skipped", f"{weight.path} is not here")
        digest = hashlib.sha256()
        with (
            held_folder(place.parent, inside) as folder,
            folder.file(place.name, second_names=True) as stream,
        ):
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except UnusableFileError:
        return Finding("weights", "failed", f"{weight.path} leads out of {directory}")
    except OSError as error:
        return Finding("weights", "failed", f"{weight.path} cannot be read: {error.strerror}")
    if digest.hexdigest() != weight.sha256:
        return Finding(
            "weights",
            "failed",
            f"{weight.path} is not the file that was described",
            "the model changed after its specification was made: publish it again",
        )
    return Finding("weights", "ok", f"{weight.path} agrees")
