"""Hubs by the names that people type."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import UnsupportedOperationError
from gmi_registry.hubs.local import LocalHub
from gmi_registry.hubs.protocol import Hub

__all__ = ["open_hub"]

_ELSEWHERE = {"hf": "Hugging Face", "civitai": "Civitai"}
_PREFIX = "local:"


def open_hub(text: str, cache_dir: Path | None = None) -> Hub:
    """The hub called ``text``: a folder that holds ``hub.json``, with or without ``local:`` before.

    ``cache_dir`` is where it may keep what it worked out; None is this user's cache. Raises
    InputError or HubError where the folder is no hub, and UnsupportedOperationError for ``hf`` and
    ``civitai``, which this version does not reach; a folder of that name is ``./hf``.
    """
    if text in _ELSEWHERE:
        raise UnsupportedOperationError(
            f"this version searches hubs in folders only, not {_ELSEWHERE[text]}",
            hint="name a folder that holds hub.json: --hub local:/path/to/hub",
        )
    return LocalHub(Path(text.removeprefix(_PREFIX)).expanduser(), cache_dir)
