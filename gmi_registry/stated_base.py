"""The base model of a weight file, as the file itself tells it: by its metadata, or its layers.

All of it is strangers' text. Trainers write where they read their base; nobody checks it, so that
what the layers contradict is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gmi_registry.bases import (
    BASE_HINT,
    BaseFamily,
    claimed_family,
    family_of_file,
    family_of_hash,
    family_of_layers,
    family_of_variant,
    require_repository,
)
from gmi_registry.errors import HubError
from gmi_registry.model import BaseOrigin
from gmi_registry.sanitize import one_line
from gmi_registry.weights import WeightsFile, architecture_title

__all__ = ["StatedBase", "base_of_file", "repository_of", "require_made_for", "stated_base"]

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_FILES = (".safetensors", ".ckpt", ".pt", ".bin", ".gguf")
# Adapters of these have layers of the same names and, in part, sizes.
_LOOK_ALIKE = (
    frozenset({"flux1", "chroma", "qwen-image"}),
    frozenset({"z-image", "lumina2"}),
    frozenset({"sdxl", "kolors"}),
)


class StatedBase(NamedTuple):
    """The base that a file was made for, as the file tells it.

    ``repository`` is the one that its metadata name; else ``family`` has the answer. ``words`` say
    where it stands in the file, for people, and hold strangers' text, escaped.
    """

    family: BaseFamily | None
    repository: str | None
    words: str
    origin: BaseOrigin = "metadata"

    @property
    def title(self) -> str:
        """What people call the base."""
        return self.repository or (self.family.title if self.family is not None else "")


def stated_base(
    metadata: Mapping[str, str], prediction_type: str | None = None
) -> StatedBase | None:
    """What the metadata of a safetensors file say of the base, the surest word first.

    That is the repository, the hash of the base's file, or its name (``ss_sd_model_name``,
    ``ss_sd_model_hash``, ``ss_new_sd_model_hash``), then ``ss_base_model_version`` and
    ``modelspec.architecture``. ``prediction_type`` is what the file says of that. None where they
    say nothing that is known here. The family may be one that is refused.
    """
    claims = [
        (key, metadata[key], family)
        for key in ("ss_base_model_version", "modelspec.architecture")
        if key in metadata and (family := claimed_family(metadata[key])) is not None
    ]
    claimed = claims[0][2] if claims else None
    name = metadata.get("ss_sd_model_name", "").strip()
    if _REPOSITORY.fullmatch(name) and not name.casefold().endswith(_FILES):
        return StatedBase(claimed, name, f"ss_sd_model_name in its metadata is {name}")
    for key in ("ss_new_sd_model_hash", "ss_sd_model_hash"):
        family = family_of_hash(metadata.get(key, ""))
        if family is not None:
            return StatedBase(family, None, f"{key} in its metadata is that of {family.title}")
    named = family_of_file(name)
    if named is not None and (claimed is None or claimed.architecture == named.architecture):
        return StatedBase(
            named.with_prediction(prediction_type),
            None,
            f"ss_sd_model_name in its metadata is {one_line(name, 80)}",
        )
    if claimed is None:
        return None
    key, value, family = claims[0]
    words = f"{key} in its metadata is {one_line(value, 80)}"
    if name:
        words += f" (and the file that it was trained on {one_line(name, 80)})"
    return StatedBase(family.with_prediction(prediction_type), None, words)


def base_of_file(what: str, file: WeightsFile, metadata: Mapping[str, str]) -> StatedBase:
    """The base of the model ``what``, whose weights are ``file``, as the file alone tells it.

    Its metadata count first, then the layers of its network, by which the usual base of such
    networks is taken. Raises HubError where neither tells, where they contradict each other, and
    for a base that is refused; ``--base REPO`` is the way out.
    """
    stated = stated_base(metadata, file.prediction_type)
    if stated is not None:
        claimed = None if stated.family is None else stated.family.architecture
        if claimed is not None and not _alike(claimed, file.architecture):
            raise HubError(
                f"{what} says that it was made for {stated.title} ({stated.words}), and its layers "
                f"are those of {_kind_title(file.architecture)}",
                hint=BASE_HINT,
            )
        if stated.repository is not None or stated.family is None:
            return stated
        if stated.family.repository is not None:
            return stated
        # Layers may tell what the name leaves open, such as the size.
        told = family_of_variant(file.architecture, file.variant)
        if told is not None and told.architecture == stated.family.architecture:
            words = f"{stated.words}, and its layers are those of {told.title}"
            return StatedBase(told, None, words)
        require_repository(stated.family, what)
    if file.architecture is None:
        raise HubError(
            f"{what} is {file.title}; its card names no base model, and the file does not say "
            "which it was made for",
            hint=f"{BASE_HINT}; or add base_model to the model card",
        )
    family = family_of_layers(file.architecture, file.variant, file.prediction_type, what)
    return StatedBase(
        family, None, f"its layers are those of {family.title}", origin="architecture"
    )


def require_made_for(
    what: str,
    file: WeightsFile,
    metadata: Mapping[str, str],
    base: str,
    architectures: Iterable[str],
) -> None:
    """Raise HubError where the model ``what`` was made for another kind of network than its base.

    ``base`` says in words which that is and who named it, ``architectures`` are those that it may
    be; nothing is refused where they are not known. Layers count, and metadata where those do not
    tell.
    """
    wanted = frozenset(architectures)
    if not wanted:
        return
    made, words = file.architecture, ""
    if made is None:
        stated = stated_base(metadata, file.prediction_type)
        if stated is not None and stated.family is not None:
            made = stated.family.architecture  # type: ignore[assignment]
            words = f" ({stated.words})"
    if made is None or any(_alike(one, made) for one in wanted):
        return
    kinds = " or ".join(_kind_title(one) for one in sorted(wanted))
    raise HubError(
        f"{what} was made for {_kind_title(made)}{words}, while {base} is {kinds}",
        hint=f"{BASE_HINT}; or correct base_model in the model card",
    )


def repository_of(stated: StatedBase, what: str, *, whole: bool) -> str:
    """The repository of a base: for a whole model in one file the one whose configuration describes
    it. Raises HubError for a family that is refused."""
    if stated.family is None:
        return str(stated.repository)
    repository = stated.repository or require_repository(stated.family, what)
    return stated.family.layout or repository if whole else repository


def _alike(one: str, other: str | None) -> bool:
    """Whether a file of one architecture may be told to be one of the other."""
    return other is None or one == other or any({one, other} <= group for group in _LOOK_ALIKE)


def _kind_title(architecture: str | None) -> str:
    return "an unknown kind" if architecture is None else architecture_title(architecture)
