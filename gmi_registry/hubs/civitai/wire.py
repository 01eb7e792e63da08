"""What Civitai's API says, checked before anything else sees it: strangers wrote all of it.

Fields that are not used here are dropped, and so is a part of a list that makes no sense; what a
document cannot do without makes the whole of it invalid (pydantic's ValidationError).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from gmi_registry.sanitize import first_fault
from gmi_registry.spec.fields import unprintable

__all__ = ["Page", "WireFile", "WireModel", "WireVersion", "is_mature"]

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
            _log.warning(
                "a %s of Civitai is passed over: %s", kind.__name__, first_fault(error, 80)
            )


_IF_OBJECT = _if(lambda value: isinstance(value, dict | BaseModel))

Number = Annotated[int, Field(strict=True, ge=1, lt=10**15)]
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
    """One version of a model; ``model_id`` and ``air`` where it was asked for by itself."""

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
