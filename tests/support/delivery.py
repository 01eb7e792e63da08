"""Deliveries as a hub sends them."""

from __future__ import annotations

import json
from typing import Any

MAIN = "refs/heads/main"
SECRET = "0123456789abcdef0123456789abcdef"
OWNER = {"id": "5e9ecfc04957053f60648a3e"}


def payload(
    model: str = "ada/style",
    new: str | None = "b" * 40,
    *,
    old: str | None = "a" * 40,
    ref: str = MAIN,
    action: str = "update",
    scope: str = "repo.content",
    kind: str = "model",
    **changes: Any,
) -> dict[str, Any]:
    """What a push to ``ref`` sends; None leaves a commit out, as for a new branch."""
    shown: dict[str, Any] = {
        "event": {"action": action, "scope": scope},
        "repo": {
            "type": kind,
            "name": model,
            "id": "66a0c1f3d9e5b7a8c9d0e1f2",
            "private": False,
            "url": {
                "web": f"https://hub.example/{model}",
                "api": f"https://hub.example/api/models/{model}",
            },
            "headSha": new,
            "owner": OWNER,
        },
        "webhook": {"id": "66a0c1f3d9e5b7a8c9d0e1f3", "version": 3},
        "updatedRefs": [{"ref": ref, "oldSha": old, "newSha": new}],
    }
    return shown | changes


def body(*args: Any, **changes: Any) -> bytes:
    return json.dumps(payload(*args, **changes)).encode()
