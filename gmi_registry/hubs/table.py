"""Hubs by the names that people type."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import UnsupportedOperationError
from gmi_registry.hubs.local import LocalHub
from gmi_registry.hubs.protocol import Hub

__all__ = ["open_hub"]

_HUGGING_FACE = "hf"
_UNREACHED = {"civitai": "Civitai"}
_PREFIX = "local:"


def open_hub(
    text: str,
    cache_dir: Path | None = None,
    *,
    token: str | bool | None = None,
    offline: bool | None = None,
) -> Hub:
    """The hub called ``text``: ``hf``, or a folder with ``hub.json``, plain or after ``local:``.

    ``hf`` is Hugging Face, or the hub that HF_ENDPOINT names; ``token`` and ``offline`` are for it.
    ``cache_dir`` is where the hub may keep what it downloads and works out; None is its usual
    place. Raises InputError or HubError where the folder is no hub, or HF_ENDPOINT no address, and
    UnsupportedOperationError for ``civitai``, which this version does not reach; a folder of such
    a name is ``./hf``.
    """
    if text == _HUGGING_FACE:
        # Half a second to import, which a folder can do without.
        from gmi_registry.hubs.huggingface import HuggingFaceHub

        return HuggingFaceHub(token=token, cache_dir=cache_dir, offline=offline)
    if text in _UNREACHED:
        raise UnsupportedOperationError(
            f"this version searches Hugging Face and folders, not {_UNREACHED[text]}",
            hint="--hub hf, or name a folder that holds hub.json: --hub local:/path/to/hub",
        )
    return LocalHub(Path(text.removeprefix(_PREFIX)).expanduser(), cache_dir)
