"""One page of a listing, and the Link header that leads to the next."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from .call import Call
from .reply import Refusal, Reply

__all__ = ["page"]

Item = TypeVar("Item")


def page(call: Call, items: Sequence[Item], show: Callable[[Item], Any]) -> Reply:
    """At most ``limit`` of ``items`` from the query's cursor on; only they are shown."""
    start = _offset(call.one("cursor"))
    stop = start + max(1, min(call.count("limit", call.state.page_size), call.state.page_size))
    reply = Reply.json([show(item) for item in items[start:stop]])
    if stop < len(items):
        query = {name: values for name, values in call.query.items() if name != "cursor"}
        query["cursor"] = [base64.urlsafe_b64encode(str(stop).encode()).decode()]
        address = f"{call.state.endpoint}{urlsplit(call.target).path}?{urlencode(query, True)}"
        reply.headers["Link"] = f'<{address}>; rel="next"'
    return reply


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError):
        raise Refusal(400, "Invalid cursor") from None
