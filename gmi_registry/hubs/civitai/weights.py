"""Which of a version's files is described, and what kind of model it makes."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import HubError
from gmi_registry.hubs.civitai.refusal import Asked
from gmi_registry.hubs.civitai.wire import WireFile, WireVersion
from gmi_registry.model import Kind
from gmi_registry.sanitize import one_line

__all__ = ["AIR_TYPES", "TYPES", "digests_of", "kind_of", "require_loadable", "select_file"]

TYPES: dict[Kind, tuple[str, ...]] = {
    "single-file": ("Checkpoint",),
    "lora": ("LORA", "LoCon", "DoRA"),
}
"""Civitai's types of models that are described, by the kind that they are here."""

AIR_TYPES = {"checkpoint": "checkpoint", "lora": "lora", "locon": "lycoris", "dora": "dora"}
"""Their words in an AIR, by Civitai's in lower case."""

_KINDS = {name.casefold(): kind for kind, names in TYPES.items() for name in names}
_WEIGHTS = frozenset({"model", "pruned model"})
_PARTS = frozenset({"diffusion model", "unet"})
_SAFE = "safetensor"
_SUFFIX = ".safetensors"
_DANGER = "danger"
# Adapters of the LyCORIS family that are no sum of two factors.
_FOREIGN = (".hada_", ".lokr_", ".oft_", ".glora_", ".ia3_")


def kind_of(type_name: str) -> Kind | None:
    """The kind of a model of that type; None for one that is not described."""
    return _KINDS.get(type_name.casefold())


def select_file(version: WireVersion, asked: Asked) -> WireFile:
    """The safetensors file with the weights: the primary one where it is, else the first by number.

    Raises HubError where there are only pickles, which can run any program, only parts of a model,
    or none at all; where the file was found to be dangerous, or has no digest yet.
    """
    safe = _weights(version)
    if not safe:
        raise _none(version, asked)
    file = next((file for file in safe if file.primary), safe[0])
    scans = (file.pickle_scan_result, file.virus_scan_result)
    if any((scan or "").casefold() == _DANGER for scan in scans):
        raise HubError(
            f"{asked.name}: Civitai found {_named(file)} to be dangerous", hint=f"see {asked.page}"
        )
    if file.sha256 is None:
        raise HubError(
            f"{asked.name}: Civitai has not worked out the digest of {_named(file)} yet",
            hint="run the same command again in an hour",
        )
    return file


def digests_of(version: WireVersion) -> dict[str, str | None]:
    """Path to SHA-256 of all safetensors weights, sorted by path."""
    return {
        file.path: file.sha256 for file in sorted(_weights(version), key=lambda file: file.path)
    }


def require_loadable(place: Path, kind: Kind, asked: Asked) -> None:
    """Raises HubError where a file holds no tensors, or an adapter's that diffusers cannot load.

    Only the names are read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(place, framework="numpy") as tensors:
            names = list(tensors.keys())
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        reason = one_line(str(error), 120)
        raise HubError(
            f"{asked.name}: its file is no safetensors file, whatever it is called: {reason}",
            hint=f"its author must upload it again as safetensors: {asked.page}",
        ) from None
    foreign = next((mark for name in names for mark in _FOREIGN if mark in name), None)
    if kind == "lora" and foreign is not None:
        raise HubError(
            f"{asked.name} is a LyCORIS adapter ({foreign.strip('._')}), and diffusers loads none",
            hint="publish a plain LoRA, such as the kohya scripts make by default",
        )


def _weights(version: WireVersion) -> list[WireFile]:
    return sorted(
        (file for file in version.files if file.type.casefold() in _WEIGHTS and _is_safe(file)),
        key=lambda file: file.id,
    )


def _is_safe(file: WireFile) -> bool:
    stated = None if file.metadata is None else file.metadata.format
    named = file.name.casefold().endswith(_SUFFIX)
    return named if stated is None else named and stated.casefold() == _SAFE


def _named(file: WireFile) -> str:
    return repr(file.name[:80])


def _none(version: WireVersion, asked: Asked) -> HubError:
    pickled = [file for file in version.files if file.type.casefold() in _WEIGHTS]
    parts = [file for file in version.files if file.type.casefold() in _PARTS and _is_safe(file)]
    if pickled:
        return HubError(
            f"{asked.name} holds weights only as a pickle, {_named(pickled[0])}, which can run any "
            "program when it is loaded",
            hint=f"its author must add a safetensors file: {asked.page}",
        )
    if parts:
        return HubError(
            f"{asked.name} holds a part of a model alone, {_named(parts[0])} without text encoders",
            hint=f"choose a version that is a whole checkpoint: {asked.page}",
        )
    return HubError(
        f"{asked.name} gives out no weights; the model may be archived", hint=f"see {asked.page}"
    )
