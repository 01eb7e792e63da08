"""A folder that is about to be published, read and checked before anything is changed."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import HubError, InputError
from gmi_registry.hubs.confinement import read_plain
from gmi_registry.spec import MANIFEST_NAME, TENSORS_NAME, Manifest, ModelRef, decode_spec
from gmi_registry.spec.tensors import TENSORS_LIMIT

__all__ = ["read_upload"]


def read_upload(folder: Path, ref: ModelRef) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the content of every file in ``folder`` (hidden ones left out).

    Raises InputError where ``folder`` holds anything but plain files, or one of the two is
    missing; SpecError where they are no specification of ``ref``.
    """
    contents: dict[str, bytes] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            # Nothing in a specification is larger than the tensors may be.
            contents[path.name] = read_plain(path, TENSORS_LIMIT)
        except (HubError, FileNotFoundError) as error:
            reason = error.message if isinstance(error, HubError) else f"{path} is gone"
            raise InputError(f"{reason}, so the folder cannot be published") from None
    for name in (MANIFEST_NAME, TENSORS_NAME):
        if name not in contents:
            raise InputError(f"{folder} holds no {name}", hint="make it with gmi-publish --output")
    spec = decode_spec(contents[MANIFEST_NAME], contents[TENSORS_NAME], expected=ref)
    return spec.manifest, contents
