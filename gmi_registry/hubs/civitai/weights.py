"""Which of a version's files is described, and what kind of model it makes."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import HubError
from gmi_registry.hubs.civitai.refusal import Asked
from gmi_registry.hubs.civitai.wire import WireFile, WireVersion
from gmi_registry.model import Kind
from gmi_registry.sanitize import one_line

__all__ = [
    "AIR_TYPES",
    "FORMAT_TITLES",
    "TYPES",
    "digests_of",
    "format_named",
    "kind_of",
    "require_loadable",
    "select_file",
]

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
_WHOLE = _WEIGHTS | {"archive"}
_SAFE, _PICKLE, _OTHER = "safetensors", "pickle", "other"
_FORMATS = {
    "safetensor": _SAFE,
    "safetensors": _SAFE,
    "pickletensor": _PICKLE,
    "gguf": "gguf",
    "diffusers": "diffusers",
    "coreml": "coreml",
    "onnx": "onnx",
    "other": _OTHER,
}
"""Civitai's words in ``metadata.format``, in lower case and without spaces."""

_ENDINGS = {
    ".safetensors": _SAFE,
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"), _PICKLE),
    **dict.fromkeys((".zip", ".7z", ".rar", ".tar", ".gz", ".tgz"), "archive"),
    ".gguf": "gguf",
    ".onnx": "onnx",
    ".mlpackage": "coreml",
    ".mlmodel": "coreml",
}
FORMAT_TITLES = {
    _SAFE: "a safetensors file that cannot be used",
    _PICKLE: "a pickle",
    "archive": "a packed archive",
    "gguf": "a GGUF file, whose weights are quantised",
    "diffusers": "an archive in the layout of diffusers",
    "coreml": "a file for Core ML",
    "onnx": "a file for ONNX",
    _OTHER: "a file of another kind",
}
"""What people call them, by the names of this module."""

_MAGIC = {
    b"PK\x03\x04": "a packed archive (zip)",
    b"7z\xbc\xaf": "a packed archive (7z)",
    b"Rar!": "a packed archive (rar)",
    b"\x1f\x8b": "a packed archive (gzip)",
    b"GGUF": "a GGUF file",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
}
"""How files begin that are often found under the name of another kind."""
_DANGER = "danger"
# Adapters of the LyCORIS family that are no sum of two factors.
_FOREIGN = (".hada_", ".lokr_", ".oft_", ".glora_", ".ia3_")


def format_named(name: str) -> str | None:
    """The kind of file, a key of :data:`FORMAT_TITLES`, that a name ends like; None for others."""
    return _ENDINGS.get(Path(name.strip()).suffix.casefold())


def kind_of(type_name: str) -> Kind | None:
    """The kind of a model of that type; None for one that is not described."""
    return _KINDS.get(type_name.casefold())


def select_file(version: WireVersion, asked: Asked) -> WireFile:
    """The safetensors file with the weights: the primary one where it is, else the first by number.

    Raises HubError where there are only files of other kinds, which are called what they are (a
    pickle can run any program), only parts of a model, or none at all; where the file was found to
    be dangerous, or has no digest.
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
            f"{asked.name}: Civitai names no SHA-256 of {_named(file)}, so nothing would tell what "
            "arrives from another file",
            hint=f"it may follow: run the same command again in an hour, or see {asked.page}",
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
        reason = _beginning(place) or one_line(str(error), 120)
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


def _beginning(place: Path) -> str | None:
    """What a file is by its first bytes, where they tell."""
    try:
        with place.open("rb") as stream:
            head = stream.read(8)
    except OSError:
        return None
    return next((f"it is {what}" for magic, what in _MAGIC.items() if head.startswith(magic)), None)


def _weights(version: WireVersion) -> list[WireFile]:
    return sorted(
        (file for file in version.files if file.type.casefold() in _WEIGHTS and _is_safe(file)),
        key=lambda file: file.id,
    )


def _is_safe(file: WireFile) -> bool:
    return _format_of(file) == _SAFE


def _format_of(file: WireFile) -> str:
    """What kind of file it is: what Civitai says, unless the name plainly says otherwise.

    Names are their authors', and many have no ending, or what looks like one and is a version
    (``style_v1.5``); a name that ends like an archive is one though it is called a safetensors.
    """
    stated = "" if file.metadata is None else (file.metadata.format or "")
    named = format_named(file.name)
    said = _FORMATS.get(stated.casefold().replace(" ", ""), "")
    if said in ("", _OTHER) or (said == _SAFE and named not in (None, _SAFE)):
        return named or said or _OTHER
    return said


def _named(file: WireFile) -> str:
    return repr(file.name[:80])


def _none(version: WireVersion, asked: Asked) -> HubError:
    whole = [file for file in version.files if file.type.casefold() in _WHOLE]
    parts = [file for file in version.files if file.type.casefold() in _PARTS and _is_safe(file)]
    hint = f"its author must add a safetensors file: {asked.page}"
    if whole:
        kinds: dict[str, WireFile] = {}
        for file in sorted(whole, key=lambda file: file.id):
            kinds.setdefault(_format_of(file), file)
        shown = ", ".join(f"{FORMAT_TITLES[kind]} ({_named(file)})" for kind, file in kinds.items())
        danger = ", which can run any program when it is loaded" if set(kinds) == {_PICKLE} else ""
        return HubError(
            f"{asked.name} has no safetensors file with its weights, only {shown}{danger}",
            hint=hint,
        )
    if parts:
        return HubError(
            f"{asked.name} holds a part of a model alone, {_named(parts[0])} without text encoders",
            hint=f"choose a version that is a whole checkpoint: {asked.page}",
        )
    if version.files:
        others = ", ".join(sorted({file.type[:40] for file in version.files})[:5])
        return HubError(
            f"{asked.name} gives out no weights, only: {others}", hint=f"see {asked.page}"
        )
    return HubError(
        f"{asked.name} gives out no files; the model may be archived", hint=f"see {asked.page}"
    )
