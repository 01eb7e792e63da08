"""Hubs: where models are, and specifications beside them.

What is named here is loaded when it is first named, so that whoever only resolves the name of a hub
does without the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmi_registry.filters import Filters
    from gmi_registry.hubs.local import LocalHub
    from gmi_registry.hubs.open import HubAccess, open_hub, opened_hub
    from gmi_registry.hubs.protocol import Hub, KnowsWeights, Listing, SearchableHub, is_stale

__all__ = [
    "Filters",
    "Hub",
    "HubAccess",
    "KnowsWeights",
    "Listing",
    "LocalHub",
    "SearchableHub",
    "is_stale",
    "open_hub",
    "opened_hub",
]

_MODULES = {
    "Filters": "gmi_registry.filters",
    "HubAccess": "gmi_registry.hubs.open",
    "LocalHub": "gmi_registry.hubs.local",
    "open_hub": "gmi_registry.hubs.open",
    "opened_hub": "gmi_registry.hubs.open",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_MODULES.get(name, "gmi_registry.hubs.protocol")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
