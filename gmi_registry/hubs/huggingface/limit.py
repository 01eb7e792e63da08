"""How long a hub that has had too many requests may make this program wait."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub.utils._http import parse_ratelimit_headers

__all__ = ["LONGEST_WAIT", "retry_after", "wait_after"]

LONGEST_WAIT = 310.0
"""Seconds. The hub counts requests over five minutes, so no honest wait is longer."""

# Thirty years. A hub may name a number that no float holds, and no clock either.
_MOST = 10.0**9


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal for too many requests says to wait, or None where it does not."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(min(limit.reset_in_seconds, _MOST))
    value = (headers.get("Retry-After") or headers.get("retry-after") or "").strip()
    return min(float(value), _MOST) if value.isascii() and value.isdigit() else None


def wait_after(headers: Mapping[str, str], otherwise: float) -> float | None:
    """Seconds to wait after such a refusal: what it says, else ``otherwise``.

    None where it asks for more than :data:`LONGEST_WAIT`, which is not waited for.
    """
    stated = retry_after(headers)
    # A second more, since the hub rounds.
    wait = otherwise if stated is None else stated + 1
    return None if wait > LONGEST_WAIT else wait
