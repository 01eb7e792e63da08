"""Hubs: where models are, and specifications beside them."""

from gmi_registry.hubs.local import LocalHub
from gmi_registry.hubs.protocol import Hub, Listing, ListingFilter
from gmi_registry.hubs.table import open_hub

__all__ = ["Hub", "Listing", "ListingFilter", "LocalHub", "open_hub"]
