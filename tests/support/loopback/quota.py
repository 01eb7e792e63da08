"""How many requests are allowed, counted as the Hub does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .reply import Refusal

__all__ = ["Quota"]


@dataclass
class Quota:
    """Requests in ``window`` seconds to the API, and to files (the storage behind it is free).

    The Hub's own numbers are 500 and 3,000 in 300 seconds for somebody without a token.
    """

    api: int = 500
    resolvers: int = 3000
    window: int = 300
    _spent: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def count(self, word: str, who: str) -> dict[str, str]:
        """Count a request of ``who`` whose path begins with ``word``; the headers for its answer.

        Raises Refusal (429) over the limit.
        """
        kind = "api" if word == "api" else "resolvers"
        if word in ("storage", "upload"):
            return {}
        limit = self.api if kind == "api" else self.resolvers
        now = time.monotonic()
        start, spent = self._spent.get((kind, who), (now, 0))
        if now - start >= self.window:
            start, spent = now, 0
        self._spent[kind, who] = start, spent + 1
        left = max(0, limit - spent - 1)
        wait = max(1, round(start + self.window - now))
        headers = {
            "RateLimit": f'"{kind}";r={left};t={wait}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={limit};w={self.window}',
        }
        if spent >= limit:
            refusal = Refusal(429, "We had to rate limit you")
            refusal.reply.headers |= headers
            raise refusal
        return headers
