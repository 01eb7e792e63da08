"""Where in the registry each specification lies; names only, nothing is read.

::

    civitai/{model}/{version}/gmi/...            of a version of a Civitai model
    hf/{owner}/{name}/{weights-digest}/gmi/...   of a Hugging Face model with those weights
    verified.json                                the specifications that maintainers drew again
    index/...                                    aggregated from the rest

A reference to an entry is pinned: on Civitai by the version, on Hugging Face by the digest of the
weights, 64 hex digits in the place of a revision. No commit looks like that, which has 40.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from gmi_registry.errors import (
    HubError,
    InputError,
    SpecError,
    SpecFormatError,
    UnsupportedOperationError,
)
from gmi_registry.hubs.selection import RepoFile, select_pipeline
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    DescribedModel,
    Manifest,
    ModelRef,
)
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.files import PREVIEW_LIMIT, SIGNATURE_LIMIT
from gmi_registry.spec.manifest import MANIFEST_LIMIT
from gmi_registry.spec.reference import HubName
from gmi_registry.spec.tensors import TENSORS_LIMIT

__all__ = [
    "ENTRY_FILES",
    "VERIFIED_NAME",
    "entry_file",
    "entry_of",
    "entry_path",
    "hub_folder",
    "is_entry",
    "model_folder",
    "parse_entry",
    "parse_file",
    "require_place",
    "weights_ids",
]

ENTRY_FILES = {
    MANIFEST_NAME: MANIFEST_LIMIT,
    TENSORS_NAME: TENSORS_LIMIT,
    PREVIEW_NAME: PREVIEW_LIMIT,
    SIGNATURE_NAME: SIGNATURE_LIMIT,
}
"""The files of an entry, below its ``gmi``, and the most bytes that each may have."""

VERIFIED_NAME = "verified.json"
"""At the root, and the maintainers' alone."""

_HUBS: tuple[HubName, ...] = ("civitai", "hf")


def is_entry(ref: ModelRef) -> bool:
    """Whether ``ref`` is pinned as the registry pins: to a version, or to the digest of weights."""
    return ref.is_entry


def entry_of(model: DescribedModel) -> ModelRef:
    """The entry of a model, by what a manifest says of it.

    On Hugging Face it is pinned to :attr:`~gmi_registry.spec.DescribedModel.weights_digest`, the
    SHA-256 of the canonical JSON list of [path, sha256] of the weight files, sorted by path. Raises
    InputError for a Civitai model without a version, and as :func:`entry_path`.
    """
    if model.hub == "civitai" and model.revision is None:
        raise InputError(
            f"{model.ref} names no version, and each has a specification of its own",
            hint=f"name one: {model.ref}@VERSION",
        )
    revision = model.weights_digest if model.hub == "hf" else model.revision
    ref = ModelRef(model.hub, model.id, revision)
    entry_path(ref)
    return ref


def weights_ids(own: Mapping[str, str | None]) -> set[str]:
    """The ids that a specification of a model may give its weights (SPEC.md section 2).

    ``own`` is path to SHA-256 (hex) of all weight files in its repository. A specification is of
    one file, of the shards in one folder, or of one set of the files in folders; other choices are
    not looked for.
    """
    files = [RepoFile(path, sha256=digest) for path, digest in own.items() if digest is not None]
    chosen: list[tuple[RepoFile, ...]] = [(file,) for file in files]
    by_folder: dict[str, list[RepoFile]] = {}
    for file in files:
        by_folder.setdefault(file.path.rpartition("/")[0], []).append(file)
    chosen += [tuple(sorted(each, key=lambda file: file.path)) for each in by_folder.values()]
    folders = {file.path.partition("/")[0] for file in files if file.path.count("/") == 1}
    if folders:
        index = {folder: ["", ""] for folder in folders}
        with contextlib.suppress(HubError):
            chosen.append(select_pipeline("", files, index).weights)
    return {canonical_digest([[file.path, file.sha256] for file in each]) for each in chosen}


def require_place(manifest: bytes, ref: ModelRef) -> None:
    """Raise SpecFormatError where the content of a ``spec.json`` belongs to another entry.

    What is wrong with it otherwise is for whoever reads it.
    """
    try:
        right = entry_of(Manifest.from_bytes(manifest).model)
    except SpecError:
        return
    except (InputError, UnsupportedOperationError) as error:
        raise SpecFormatError(f"{ref}: {error.message}", hint=error.hint) from error
    if right != ref:
        raise SpecFormatError(
            f"the specification describes {right}, but was found at {ref}",
            hint="a maintainer of the registry must remove it",
        )


def entry_path(ref: ModelRef) -> str:
    """The folder of an entry, which holds ``gmi``: the inverse of :func:`parse_entry`.

    Raises UnsupportedOperationError for a model of another hub, or without an owner, InputError for
    a reference that is not pinned.
    """
    folder = model_folder(ref)
    if not is_entry(ref):
        pin = "the version" if ref.hub == "civitai" else "the 64 digits of its weights' digest"
        raise InputError(
            f"{ref} does not say which of the model's specifications is meant",
            hint=f"name {pin} after an @",
        )
    return f"{folder}/{ref.revision}"


def model_folder(ref: ModelRef) -> str:
    """The folder of all entries of a model. Raises UnsupportedOperationError as entry_path does."""
    if ref.hub not in _HUBS:
        raise UnsupportedOperationError(
            f"{ref}: the registry holds models of Hugging Face and Civitai",
            hint=f"put the specification beside the model: gmi-publish {ref.without_revision}",
        )
    if ref.hub == "hf" and "/" not in ref.id:
        raise UnsupportedOperationError(
            f"{ref} has no owner in its name, and so no place in the registry",
            hint="write hf:owner/name",
        )
    return f"{ref.hub}/{ref.id}"


def hub_folder(hub: HubName) -> str | None:
    """The folder of all entries of a hub, or None where the registry has none for it."""
    return hub if hub in _HUBS else None


def parse_entry(path: str) -> ModelRef | None:
    """The entry whose folder ``path`` is; None for every other path, however odd."""
    hub, _, rest = path.partition("/")
    folder, slash, pin = rest.rpartition("/")
    if not slash or hub not in _HUBS:
        return None
    try:
        ref = ModelRef(hub, folder, pin)
        # Whatever was read too generously is not spelled the same again.
        return ref if entry_path(ref) == path else None
    except (InputError, UnsupportedOperationError):
        return None


def entry_file(ref: ModelRef, name: str) -> str:
    """The path of one of an entry's files. Raises as :func:`entry_path`."""
    return f"{entry_path(ref)}/{SPEC_DIR}/{name}"


def parse_file(path: str) -> tuple[ModelRef, str] | None:
    """The entry and the name of a file that an entry may hold; None for every other path."""
    folder, _, name = path.rpartition("/")
    parent, _, gmi = folder.rpartition("/")
    ref = parse_entry(parent) if gmi == SPEC_DIR and name in ENTRY_FILES else None
    return None if ref is None else (ref, name)
