"""What the server answers, and the refusals with the headers that the client reads."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Refusal", "Reply"]


@dataclass
class Reply:
    """Status, headers and body of an answer. ``length`` is announced where it is not the body's."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        """``value`` as JSON; underscores in names of headers stand for hyphens."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        body = json.dumps(value, separators=(",", ":")).encode()
        return cls(status, body, {"Content-Type": "application/json; charset=utf-8", **named})


class Refusal(Exception):  # noqa: N818, it is an answer
    """An answer of 400 and above, raised from wherever the reason is found.

    ``code`` goes into X-Error-Code; ``message`` into X-Error-Message and the body.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.reply = Reply.json({"error": message}, status)
        self.reply.headers |= {"X-Error-Message": message, **named}
        if code:
            self.reply.headers["X-Error-Code"] = code
