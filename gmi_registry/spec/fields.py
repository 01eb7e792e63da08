"""The building blocks of the manifest's fields: checked strings, and the base of every part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from gmi_registry.spec.prompts import MAX_PROMPT_LENGTH
from gmi_registry.spec.reference import unprintable


def _printable(text: str) -> str:
    character = unprintable(text)
    if character:
        raise ValueError(f"holds the control character {character}")
    return text


def _trimmed(text: str) -> str:
    if text != text.strip():
        raise ValueError("begins or ends with white space")
    return text


def _relative(path: str) -> str:
    if "\\" in path or ":" in path:
        raise ValueError("holds a backslash or a colon")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("is not a plain relative path")
    return path


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_printable)]
Prompt = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_PROMPT_LENGTH),
    AfterValidator(_printable),
    AfterValidator(_trimmed),
]
RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500),
    AfterValidator(_printable),
    AfterValidator(_relative),
]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Part(BaseModel):
    """One object of the manifest: frozen; fields of a newer minor version are kept.

    A field whose value is unknown is left out of the JSON, never written as null. Raises
    pydantic's ValidationError (a ValueError) when built from values that break a constraint.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )

    @model_serializer(mode="wrap")
    def _leave_out_unknown(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        written: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in written.items()
            if value is not None or name not in fields
        }

    def known(self) -> dict[str, object]:
        """The fields that this version defines, as plain JSON values: the input of every id.

        Fields of a newer minor are left out, so that old and new readers compute the same id.
        """
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: _plain(value) for name, value in values if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, Part):
        return value.known()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
