"""One answer of Civitai, read as far as it may go and no further."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from gmi_registry.errors import HubError
from gmi_registry.hubs.civitai.refusal import (
    Asked,
    BusyError,
    answered_instead,
    stranger,
    unreachable,
)
from gmi_registry.sanitize import first_fault, one_line

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "BODY_LIMIT",
    "REFUSAL_LIMIT",
    "decoded",
    "origin",
    "parsed",
    "read",
    "without_query",
]

Document = TypeVar("Document", bound=BaseModel)

BODY_LIMIT = 48 * 1024 * 1024
"""Bytes: a hundred models with all that their authors wrote about them are some ten million."""

REFUSAL_LIMIT = 64 * 1024
"""Bytes of an answer that says why not."""

_PATIENCE = 120.0
"""Seconds for one answer that is no file."""


def parsed(kind: type[Document], content: object, asked: Asked) -> Document:
    """What a document holds. Raises HubError where it cannot be used."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise HubError(
            f"{asked.name}: what Civitai says of it cannot be used: {first_fault(error, 120)}",
            hint=f"see {asked.page}",
        ) from None


def read(response: httpx2.Response, limit: int, asked: Asked) -> bytes:
    """The body. Raises HubError for more than ``limit`` bytes, BusyError where it breaks off or
    takes too long."""
    import httpx2

    content = bytearray()
    start = time.monotonic()
    try:
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > limit:
                raise stranger(asked, f"its answer has more than {limit:,} bytes")
            if time.monotonic() - start > _PATIENCE:
                raise BusyError(f"{asked.endpoint} takes more than {_PATIENCE:.0f} s for an answer")
    except httpx2.HTTPError as error:
        raise unreachable(error, asked, reached=True) from error
    return bytes(content)


def decoded(content: bytes, response: httpx2.Response, asked: Asked, token: str | None) -> Any:
    """A body that is JSON and says so, and not why there is none. Raises an error of this package
    for any other."""
    error = answered_instead(content, response.url.path, asked, token)
    if error is not None:
        raise error
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise stranger(asked, f"it sends {one_line(kind, 60) or 'something'} in place of JSON")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise stranger(asked, "its JSON is broken") from None


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address: what a token is good for."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def without_query(record: logging.LogRecord) -> bool:
    """A filter of the HTTP library's log: an address with its query is a permission to download."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            str(part).partition("?")[0] if type(part).__name__ == "URL" else part
            for part in record.args
        )
    return True
