"""What earlier listings said of versions with a specification, kept for searches offline."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.errors import InputError
from gmi_registry.hubs.civitai.listing import ListedVersion
from gmi_registry.sanitize import holds_secret
from gmi_registry.sealed import read_sealed, write_sealed
from gmi_registry.spec import ModelRef

__all__ = ["Catalogue"]

_LIMIT = 512 * 1024 * 1024
_VERSION = 2

_log = logging.getLogger(__name__)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    ref: str
    tags: list[str]
    mature: bool
    weights: dict[str, str | None]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[2]
    listed: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    versions: list[_Entry]


class Catalogue:
    """The last listing of one endpoint, in the file ``place``; deleting it is always safe.

    It is replaced whole. What is damaged counts as empty, and where it cannot be written
    nothing is remembered.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._lock = threading.Lock()

    @property
    def listed(self) -> float | None:
        """When the last complete listing was, in seconds since 1970; None where there was none."""
        document = self._read()
        return None if document is None else document.listed

    def versions(self) -> list[ListedVersion]:
        """All that are known, in the order of their references."""
        document = self._read()
        found = []
        for entry in () if document is None else document.versions:
            with contextlib.suppress(InputError):
                found.append(
                    ListedVersion(
                        ModelRef.parse(entry.ref),
                        tuple(entry.tags),
                        entry.mature,
                        entry.weights,
                    )
                )
        return found

    def keep(self, listed: Iterable[ListedVersion]) -> None:
        """Keep a complete listing in place of the one before."""
        with self._lock:
            kept = {item.ref: item for item in listed}
            document = {
                "version": _VERSION,
                "listed": time.time(),
                "versions": [
                    asdict(kept[ref]) | {"ref": str(ref), "weights": dict(kept[ref].weights)}
                    for ref in sorted(kept)
                ],
            }
            self._write(json.dumps(document, ensure_ascii=False))

    def _read(self) -> _Document | None:
        content = read_sealed(self.place, limit=_LIMIT)
        try:
            return None if content is None else _Document.model_validate_json(content)
        except ValidationError as error:
            _log.debug("%s cannot be read, and counts as empty: %s", self.place, error)
            return None

    def _write(self, text: str) -> None:
        if holds_secret(text):
            return  # which the hub has echoed
        try:
            write_sealed(self.place, text.encode("utf-8", "surrogatepass"))
        except OSError as error:
            _log.debug("%s cannot be written: %s", self.place, error)
