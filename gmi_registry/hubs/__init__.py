"""Hubs: where models are, and specifications beside them."""

from gmi_registry.filters import Filters
from gmi_registry.hubs.local import LocalHub
from gmi_registry.hubs.protocol import Hub, KnowsWeights, Listing, ListingFilter, is_stale
from gmi_registry.hubs.table import open_hub

__all__ = [
    "Filters",
    "Hub",
    "KnowsWeights",
    "Listing",
    "ListingFilter",
    "LocalHub",
    "is_stale",
    "open_hub",
]
