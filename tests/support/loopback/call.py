"""One request, taken apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .reply import Refusal
from .state import State
from .user import User

__all__ = ["Call"]


@dataclass
class Call:
    """``target`` is the path with its query, as it came; ``user`` is None without a token."""

    state: State
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    user: User | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        # Split before unquoting: a revision may hold slashes, which come quoted.
        self.segments = [unquote(part) for part in parts.path.strip("/").split("/")]
        self.query = parse_qs(parts.query, keep_blank_values=True)

    def many(self, name: str) -> list[str]:
        return self.query.get(name, []) + self.query.get(f"{name}[]", [])

    def one(self, name: str) -> str | None:
        return next(iter(self.many(name)), None)

    def flag(self, name: str) -> bool:
        return (self.one(name) or "").lower() in ("1", "true")

    def count(self, name: str, default: int) -> int:
        text = self.one(name)
        if text is None:
            return default
        if not text.isdigit():
            raise Refusal(400, f'"{name}" must be a number')
        return int(text)

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise Refusal(400, "Invalid JSON body") from None
