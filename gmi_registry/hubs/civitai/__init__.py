"""Civitai as a hub: its models, and their specifications in a registry elsewhere."""

from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.hub import CivitaiHub
from gmi_registry.hubs.civitai.reference import find_civitai
from gmi_registry.hubs.civitai.snippet import description_snippet

__all__ = ["CivitaiClient", "CivitaiHub", "description_snippet", "find_civitai"]
