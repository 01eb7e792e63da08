"""What Civitai's API says of a model, checked and understood: files, kinds of model, and its card.

Strangers wrote all of it. Fields that are not used here are dropped, and so is a part of a list
that makes no sense; what a document cannot do without makes the whole of it invalid (pydantic's
ValidationError).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from gmi_registry.errors import HubError
from gmi_registry.hubs.civitai.errors import CivitaiRequest
from gmi_registry.model import Kind, ModelCard
from gmi_registry.sanitize import first_fault, one_line
from gmi_registry.spec.reference import unprintable

Part = TypeVar("Part", bound=BaseModel)

_LONGEST = 200
_MOST_TEXTS = 500
_MOST_FILES = 100
_MOST_VERSIONS = 1_000
_MOST_MODELS = 1_000
_MOST_KB = 500 * 10**6
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_AIR = re.compile(r"urn:air:[a-z0-9_-]{1,60}:[a-z0-9_-]{1,60}:civitai:[0-9]+@[0-9]+")
_EVERYBODY = 1
"""The bit of PG in a level, which has one bit for each rating."""

_log = logging.getLogger(__name__)

Number = Annotated[int, Field(strict=True, ge=1, lt=10**15)]
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
_MOST_TRIGGERS = 100
"""Letters: what goes before every prompt must leave room for the prompt."""
_WORD = re.compile(r"[A-Za-z]+")


def _line(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a text")
    line = " ".join(value[: 10 * _LONGEST].split())[:_LONGEST].strip()
    character = unprintable(line)
    if character:
        raise ValueError(f"holds the control character {character}")
    if not line:
        raise ValueError("is empty")
    return line


def _texts(value: object) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for item in value[:_MOST_TEXTS] if isinstance(value, list) else ():
        try:
            found[_line(item)] = None
        except ValueError:
            continue
    return tuple(found)


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0


def _if(check: Callable[[Any], bool]) -> BeforeValidator:
    """None in place of a value that ``check`` does not like."""
    return BeforeValidator(lambda value: value if check(value) else None)


def _list(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError("is no list")
    return value


def _each(kind: type[Part], most: int) -> BeforeValidator:
    return BeforeValidator(lambda value: tuple(_usable(kind, value, most)))


def _usable(kind: type[Part], value: object, most: int) -> Iterator[Part]:
    for item in value[:most] if isinstance(value, list) else ():
        try:
            yield kind.model_validate(item)
        except ValidationError as error:
            _log.warning("a %s of Civitai is skipped: %s", kind.__name__, first_fault(error, 80))


_IF_OBJECT = _if(lambda value: isinstance(value, dict | BaseModel))

Line = Annotated[str, BeforeValidator(_line)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
Time = Annotated[datetime | None, BeforeValidator(_time)]
Count = Annotated[int, BeforeValidator(_count)]
Flag = Annotated[bool | None, _if(lambda value: isinstance(value, bool))]
Level = Annotated[int | None, _if(lambda value: type(value) is int and 0 <= value < 2**31)]
Word = Annotated[
    str | None,
    _if(lambda value: isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()),
]
Digest = Annotated[
    str | None, _if(lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None)
]


class _Wire(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class _Stats(_Wire):
    download_count: Count = 0


class _Format(_Wire):
    format: Word = None
    fp: Word = None


class _Hashes(_Wire):
    sha256: Digest = Field(default=None, alias="SHA256")


class WireFile(_Wire):
    """One file of a version. ``size_kb`` is in units of 1,024 bytes.

    Its name is somebody's text, which changes with the model's: nothing is ever called by it.
    """

    id: Number
    name: Line
    type: Line
    size_kb: Annotated[float, Field(alias="sizeKB", ge=0, le=_MOST_KB)]
    metadata: Annotated[_Format | None, _IF_OBJECT] = None
    hashes: Annotated[_Hashes | None, _IF_OBJECT] = None
    pickle_scan_result: Word = None
    virus_scan_result: Word = None
    primary: Flag = None

    @property
    def sha256(self) -> str | None:
        """Lower-case hex, None where Civitai has not worked it out."""
        found = None if self.hashes is None else self.hashes.sha256
        return None if found is None else found.lower()

    @property
    def size(self) -> int:
        """Bytes, as near as Civitai says."""
        return round(self.size_kb * 1024)

    @property
    def path(self) -> str:
        """What the file is called here: its number, which stays when it is renamed."""
        return f"{self.id}.{'gguf' if self.is_gguf else 'safetensors'}"

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file, by its format or, where that says little, by its name."""
        stated = "" if self.metadata is None else (self.metadata.format or "").casefold()
        named = self.name.strip().casefold().endswith(".gguf")
        return stated == "gguf" or (named and stated in ("", "other", "safetensor", "safetensors"))


class WireVersion(_Wire):
    """One version of a model; ``model_id`` and ``air`` where it was requested by itself."""

    id: Number
    name: Line
    base_model: Line
    model_id: Number | None = None
    air: Annotated[
        str | None, _if(lambda value: isinstance(value, str) and _AIR.fullmatch(value) is not None)
    ] = None
    status: Word = None
    usage_control: Word = None
    nsfw_level: Level = None
    published_at: Time = None
    trained_words: Texts = ()
    stats: Annotated[_Stats | None, _IF_OBJECT] = None
    files: Annotated[tuple[WireFile, ...], _each(WireFile, _MOST_FILES)] = ()

    @property
    def downloads(self) -> int | None:
        """Downloads of this version, None where Civitai does not say."""
        return None if self.stats is None else self.stats.download_count


class WireModel(_Wire):
    """A model with its published versions. ``type`` is Civitai's word, such as ``LORA``."""

    id: Number
    name: Line
    type: Line
    nsfw: Flag = None
    nsfw_level: Level = None
    tags: Texts = ()
    allow_no_credit: Flag = None
    allow_commercial_use: object = None
    allow_derivatives: Flag = None
    allow_different_license: Flag = None
    model_versions: Annotated[tuple[WireVersion, ...], _each(WireVersion, _MOST_VERSIONS)] = ()


class _Metadata(_Wire):
    next_cursor: object = None


class Page(_Wire):
    """One page of a listing."""

    items: Annotated[tuple[WireModel, ...], _each(WireModel, _MOST_MODELS), BeforeValidator(_list)]
    metadata: Annotated[_Metadata | None, _IF_OBJECT] = None

    @property
    def cursor(self) -> str | None:
        """Where the next page begins; None on the last."""
        cursor = None if self.metadata is None else self.metadata.next_cursor
        if cursor is None or isinstance(cursor, bool) or not isinstance(cursor, str | int):
            return None
        text = str(cursor)
        return text if 0 < len(text) <= _LONGEST and text.isascii() and text.isprintable() else None


def is_mature(*, nsfw: bool | None, level: int | None) -> bool:
    """Whether something is not for everybody: it is marked so, or nothing of it is rated PG."""
    return bool(nsfw) or (level is not None and not level & _EVERYBODY)


def format_named(name: str) -> str | None:
    """The kind of file, a key of :data:`FORMAT_TITLES`, that a name ends like; None for others."""
    return _ENDINGS.get(Path(name.strip()).suffix.casefold())


def kind_of(type_name: str) -> Kind | None:
    """The kind of a model of that type; None for one that is not described."""
    return _KINDS.get(type_name.casefold())


def not_described(type_name: str, what: str) -> HubError:
    """Why no specification is made of ``what``, which is of a type that :func:`kind_of` lacks."""
    from gmi_registry.weights.identify import hints

    title, kind = _NOT_DESCRIBED.get(type_name.casefold(), (None, ""))
    way_out = hints().get(kind, "name a model that generates images from texts")
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


def select_file(
    version: WireVersion, asked: CivitaiRequest, kind: Kind = "single-file"
) -> WireFile:
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
            f"{asked.name}: Civitai names no SHA-256 of {_named(file)}, so a wrong file could "
            f"not be noticed",
            hint=f"it may come later: run the same command again in an hour, or see {asked.page}",
        )
    return file


def digests_of(version: WireVersion) -> dict[str, str | None]:
    """Path to SHA-256 of all weights in safetensors and GGUF files, sorted by path."""
    return {
        file.path: file.sha256 for file in sorted(_weights(version), key=lambda file: file.path)
    }


def require_loadable(place: Path, asked: CivitaiRequest) -> None:
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


def _none(version: WireVersion, asked: CivitaiRequest) -> HubError:
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
        return HubError(f"{asked.name} offers no weights, only: {others}", hint=f"see {asked.page}")
    return HubError(
        f"{asked.name} offers no files; the model may be archived", hint=f"see {asked.page}"
    )


def card_of(model: WireModel, version: WireVersion) -> ModelCard:
    """The card: title ``model · version``, the base under Civitai's own name.

    Of the words that an author names, which often stand for one thing each, the first go before
    every prompt, as long as they are 100 letters together.
    """
    levels = [version.nsfw_level, model.nsfw_level]
    level = next((level for level in levels if level is not None), None)
    return ModelCard(
        title=f"{model.name} · {version.name}"[:_LONGEST].strip(),
        tags=model.tags[:_LONGEST],
        licence=licence_of(model),
        base_model=version.base_model,
        nsfw=is_mature(nsfw=model.nsfw, level=level),
        downloads=version.downloads,
        trigger_words=_triggers(version),
    )


def licence_of(model: WireModel) -> str | None:
    """What others may do, in a few words; None where Civitai does not say."""
    uses = model.allow_commercial_use
    if not isinstance(uses, str | list):
        return None
    # A list, or a list as a database prints it: {Image,RentCivit}.
    text = uses if isinstance(uses, str) else " ".join(map(str, uses[:20]))
    words = dict.fromkeys(word for word in _WORD.findall(text[:_LONGEST]) if word != "None")
    parts = [f"commercial use: {', '.join(words) if words else 'none'}"]
    for flag, yes, no in (
        (model.allow_derivatives, "derivatives allowed", "no derivatives"),
        (model.allow_different_license, "any licence for them", "the same licence for them"),
        (model.allow_no_credit, "no credit needed", "credit required"),
    ):
        if flag is not None:
            parts.append(yes if flag else no)
    return f"Civitai: {'; '.join(parts)}"[:_LONGEST]


def _triggers(version: WireVersion) -> tuple[str, ...]:
    chosen: list[str] = []
    for word in version.trained_words:
        word = word.strip(" ,")
        if not word or sum(map(len, chosen)) + len(word) > _MOST_TRIGGERS:
            break
        chosen.append(word)
    return tuple(chosen)
