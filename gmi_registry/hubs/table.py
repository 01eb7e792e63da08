"""Hubs by the names that people type."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.hubs.local import LocalHub
from gmi_registry.hubs.protocol import Hub

__all__ = ["open_hub"]

_HUGGING_FACE = "hf"
_CIVITAI = "civitai"
_PREFIX = "local:"


def open_hub(
    text: str,
    cache_dir: Path | None = None,
    *,
    token: str | bool | None = None,
    offline: bool | None = None,
    registry: str | None = None,
    civitai_token: str | None = None,
) -> Hub:
    """The hub called ``text``: ``hf``, ``civitai``, or a folder with ``hub.json``, plain or after
    ``local:``.

    ``hf`` is Hugging Face, or the hub that HF_ENDPOINT names; ``token`` and ``offline`` are for it.
    ``civitai`` is Civitai, or what CIVITAI_ENDPOINT names, by ``civitai_token``. What is
    not beside its model, as nothing of Civitai's is, comes from the dataset ``registry`` (None:
    GMI_REGISTRY) on Hugging Face. ``cache_dir``
    is where the hub may keep what it downloads and works out; None is its usual place. Raises
    InputError or HubError where the folder is no hub, or an endpoint no address; a folder of such a
    name is ``./hf``.
    """
    if text == _HUGGING_FACE:
        # Half a second to import, which a folder can do without.
        from gmi_registry.hubs.huggingface import HuggingFaceHub
        from gmi_registry.hubs.registry import Registry
        from gmi_registry.hubs.registry.supplement import SupplementedHub

        return SupplementedHub(
            HuggingFaceHub(token=token, cache_dir=cache_dir, offline=offline),
            Registry(registry, token=token, cache_dir=cache_dir, offline=offline),
        )
    if text == _CIVITAI:
        from gmi_registry.hubs.civitai import CivitaiHub
        from gmi_registry.hubs.huggingface import HuggingFaceHub
        from gmi_registry.hubs.registry import Registry

        return CivitaiHub(
            Registry(registry, token=token, cache_dir=cache_dir, offline=offline),
            token=civitai_token,
            cache_dir=cache_dir,
            offline=offline,
            bases=HuggingFaceHub(token=token, cache_dir=cache_dir, offline=offline),
        )
    return LocalHub(Path(text.removeprefix(_PREFIX)).expanduser(), cache_dir)
