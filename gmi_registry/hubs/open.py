"""Hubs by the names that people type."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

from gmi_registry.hubs.access import HubAccess

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub, SearchableHub

DEFAULT_HUB = "hf"
"""The hub that is meant where neither the caller nor GMI_HUB names one."""

_CIVITAI = "civitai"
_PREFIX = "local:"


@runtime_checkable
class Closable(Protocol):
    """A hub that holds something while it is open."""

    def close(self) -> None: ...


@overload
def open_hub(name: str | Path | Hub | None = None, access: HubAccess | None = None) -> Hub: ...
@overload
def open_hub(
    name: str | Path | SearchableHub | None, access: HubAccess | None
) -> SearchableHub: ...
def open_hub(
    name: str | Path | SearchableHub | None = None, access: HubAccess | None = None
) -> SearchableHub:
    """The hub called ``name`` (None: GMI_HUB, else Hugging Face), or ``name`` itself if it is one.

    ``hf`` is Hugging Face, or the hub that HF_ENDPOINT names. ``civitai`` is Civitai, or what
    CIVITAI_ENDPOINT names. What is not beside its model, as nothing of Civitai's is, comes from the
    registry on Hugging Face. Anything else is a folder with ``hub.json``, plain or after
    ``local:``; a folder of such a name is ``./hf``, or a Path. ``access`` is for a hub that is
    opened here (None: all as is usual). Raises InputError or HubError where there is no such hub.
    """
    if name is None:
        name = os.environ.get("GMI_HUB") or DEFAULT_HUB
    if not isinstance(name, str | Path):
        return name
    access = access or HubAccess()
    if name == DEFAULT_HUB:
        # Half a second to import, which a folder can do without.
        from gmi_registry.hubs.huggingface import HuggingFaceHub
        from gmi_registry.hubs.registry import Registry
        from gmi_registry.hubs.registry.supplement import SupplementedHub

        return SupplementedHub(
            HuggingFaceHub(token=access.token, cache_dir=access.cache_dir, offline=access.offline),
            Registry.open(access),
        )
    if name == _CIVITAI:
        from gmi_registry.hubs.civitai import CivitaiHub
        from gmi_registry.hubs.huggingface import HuggingFaceHub
        from gmi_registry.hubs.registry import Registry

        return CivitaiHub(
            Registry.open(access),
            token=access.civitai_token,
            cache_dir=access.cache_dir,
            offline=access.offline,
            bases=HuggingFaceHub(
                token=access.token, cache_dir=access.cache_dir, offline=access.offline
            ),
        )
    from gmi_registry.hubs.local import LocalHub

    folder = name if isinstance(name, Path) else Path(name.removeprefix(_PREFIX))
    return LocalHub(folder.expanduser(), access.cache_dir)


@overload
def opened_hub(
    name: str | Path | Hub | None = None, access: HubAccess | None = None
) -> AbstractContextManager[Hub]: ...
@overload
def opened_hub(
    name: str | Path | SearchableHub | None, access: HubAccess | None = None
) -> AbstractContextManager[SearchableHub]: ...
@contextmanager
def opened_hub(
    name: str | Path | SearchableHub | None = None, access: HubAccess | None = None
) -> Iterator[Any]:
    """Like :func:`open_hub`, closed at the end of the block unless it was open before."""
    opened = open_hub(name, access)
    try:
        yield opened
    finally:
        if opened is not name and isinstance(opened, Closable):
            opened.close()
