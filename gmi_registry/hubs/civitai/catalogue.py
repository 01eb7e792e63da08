"""What earlier listings said of versions with a specification, kept for searches offline."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.errors import InputError
from gmi_registry.hubs.civitai.listing import ListedVersion
from gmi_registry.sanitize import holds_secret
from gmi_registry.spec import ModelRef

__all__ = ["Catalogue"]

_LIMIT = 512 * 1024 * 1024
_VERSION = 1

_log = logging.getLogger(__name__)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    ref: str
    tags: list[str]
    base_model: str
    kind: Literal["lora", "single-file"]
    mature: bool
    weights: dict[str, str | None]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    listed: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    versions: list[_Entry]


class Catalogue:
    """All listings of one endpoint, merged, in the file ``place``; deleting it is always safe.

    It is replaced whole. What cannot be read counts as empty, and where it cannot be written
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
                        entry.base_model,
                        entry.kind,
                        entry.mature,
                        entry.weights,
                    )
                )
        return found

    def merge(
        self, fresh: Iterable[ListedVersion], covers: Callable[[ListedVersion], bool]
    ) -> None:
        """Keep a complete listing; a version that it ``covers`` and does not hold is gone."""
        with self._lock:
            kept = {item.ref: item for item in self.versions() if not covers(item)}
            kept.update((item.ref, item) for item in fresh)
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
        try:
            with self.place.open("rb") as stream:
                return _Document.model_validate_json(stream.read(_LIMIT))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            _log.debug("%s cannot be read, and counts as empty: %s", self.place, error)
            return None

    def _write(self, text: str) -> None:
        if holds_secret(text):
            return  # which the hub has echoed
        scratch = self.place.with_name(f".{self.place.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(self.place)
        except OSError as error:
            _log.debug("%s cannot be written: %s", self.place, error)
            with contextlib.suppress(OSError):
                scratch.unlink()
