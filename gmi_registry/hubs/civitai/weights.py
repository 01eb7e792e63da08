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
    "is_part",
    "kind_of",
    "not_described",
    "require_loadable",
    "select_file",
]

TYPES: dict[Kind, tuple[str, ...]] = {
    "single-file": ("Checkpoint",),
    "lora": ("LORA", "LoCon", "DoRA", "LyCORIS"),
    "textual-inversion": ("TextualInversion",),
}
"""Civitai's types of models that are described, by the kind that they are here."""

_NOT_DESCRIBED: dict[str, tuple[str, str]] = {
    "controlnet": ("a ControlNet", "controlnet"),
    "upscaler": ("an upscaler", "upscaler"),
    "vae": ("a VAE", "vae"),
    "motionmodule": ("a motion module", "motion-module"),
    "hypernetwork": ("a hypernetwork", "hypernetwork"),
    "aestheticgradient": ("an aesthetic gradient", "aesthetic-gradient"),
    "detection": ("a detector", "detector"),
    "poses": ("a set of poses", ""),
    "wildcards": ("a list of words for prompts", ""),
    "workflows": ("a workflow for another program", ""),
}
"""What Civitai's other types are, and the kind of file whose hint is the way out, where there is
one; by the type in lower case."""

AIR_TYPES = {
    "checkpoint": "checkpoint",
    "lora": "lora",
    "locon": "lycoris",
    "lycoris": "lycoris",
    "dora": "dora",
    "textualinversion": "embedding",
}
"""Their words in an AIR, by Civitai's in lower case."""

_KINDS = {name.casefold(): kind for kind, names in TYPES.items() for name in names}
_WEIGHTS = frozenset({"model", "pruned model"})
_PARTS = frozenset({"diffusion model", "unet"})
_WHOLE = _WEIGHTS | {"archive"}
_SAFE, _PICKLE, _GGUF, _OTHER = "safetensors", "pickle", "gguf", "other"
# The precision of a file, best first, where its author gives several and none is the primary one.
_PRECISIONS = ("", "fp32", "bf16", "fp16")
_FORMATS = {
    "safetensor": _SAFE,
    "safetensors": _SAFE,
    "pickletensor": _PICKLE,
    "gguf": _GGUF,
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
    ".gguf": _GGUF,
    ".onnx": "onnx",
    ".mlpackage": "coreml",
    ".mlmodel": "coreml",
}
FORMAT_TITLES = {
    _SAFE: "a safetensors file that cannot be used",
    _PICKLE: "a pickle",
    "archive": "a packed archive",
    _GGUF: "a GGUF file, whose weights are quantised",
    "diffusers": "an archive in the layout of diffusers",
    "coreml": "a file for Core ML",
    "onnx": "a file for ONNX",
    _OTHER: "a file of another kind",
}
"""What people call them, by the names of this module."""

_DANGER = "danger"


def format_named(name: str) -> str | None:
    """The kind of file, a key of :data:`FORMAT_TITLES`, that a name ends like; None for others."""
    return _ENDINGS.get(Path(name.strip()).suffix.casefold())


def kind_of(type_name: str) -> Kind | None:
    """The kind of a model of that type; None for one that is not described."""
    return _KINDS.get(type_name.casefold())


def not_described(type_name: str, what: str) -> HubError:
    """Why no specification is made of ``what``, which is of a type that :func:`kind_of` lacks."""
    from gmi_registry.weights.identify import HINTS

    title, kind = _NOT_DESCRIBED.get(type_name.casefold(), (None, ""))
    way_out = HINTS.get(kind, "name a model that generates images from texts")
    if title is not None:
        return HubError(f"{what} is {title}", hint=way_out)
    known = ", ".join(name for names in TYPES.values() for name in names)
    return HubError(
        f"{what} is of the type {one_line(type_name, 40)}, and only {known} are described",
        hint=way_out,
    )


def is_part(file: WireFile) -> bool:
    """Whether Civitai calls a file a network alone, without text encoders and VAE."""
    return file.type.casefold() in _PARTS


def select_file(version: WireVersion, asked: Asked, kind: Kind = "single-file") -> WireFile:
    """The file with the weights of a model of that ``kind``.

    A whole model in a safetensors file comes first, then a network alone, then a GGUF file, which
    holds one too. Of several the primary one is taken, else full precision, else the first by
    number. Raises HubError where there are only files of other kinds, which are called what they
    are (a pickle can run any program), or none at all; where the file was found to be dangerous, or
    has no digest.
    """
    usable = [
        [file for file in _weights(version) if not is_part(file) and not file.is_gguf],
        [file for file in _weights(version) if is_part(file) and not file.is_gguf],
        [file for file in _weights(version) if file.is_gguf],
    ]
    found = next(filter(None, usable if kind == "single-file" else usable[:1]), None)
    if found is None:
        raise _none(version, asked)
    file = next((file for file in found if file.primary), min(found, key=_by_precision))
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
    """Path to SHA-256 of all weights in safetensors and GGUF files, sorted by path."""
    return {
        file.path: file.sha256 for file in sorted(_weights(version), key=lambda file: file.path)
    }


def require_loadable(place: Path, asked: Asked) -> None:
    """Raise HubError where no specification can be made of a file that has arrived.

    It is called what it is, whatever its name or Civitai say. Only its header is read.
    """
    from gmi_registry.weights import identify_file, require_described

    require_described(identify_file(place), asked.name)


def _by_precision(file: WireFile) -> tuple[int, int]:
    stated = "" if file.metadata is None else (file.metadata.fp or "").casefold()
    rank = _PRECISIONS.index(stated) if stated in _PRECISIONS else len(_PRECISIONS)
    # What is not said is as good as full: most authors say nothing.
    return rank, file.id


def _weights(version: WireVersion) -> list[WireFile]:
    return sorted(
        (
            file
            for file in version.files
            if file.type.casefold() in _WEIGHTS | _PARTS and _format_of(file) in (_SAFE, _GGUF)
        ),
        key=lambda file: file.id,
    )


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
    whole = [file for file in version.files if file.type.casefold() in _WHOLE | _PARTS]
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
    if version.files:
        others = ", ".join(sorted({file.type[:40] for file in version.files})[:5])
        return HubError(
            f"{asked.name} gives out no weights, only: {others}", hint=f"see {asked.page}"
        )
    return HubError(
        f"{asked.name} gives out no files; the model may be archived", hint=f"see {asked.page}"
    )
