"""Civitai as a hub: its models, and their specifications in a registry elsewhere."""

from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.hub import CivitaiHub, description_snippet
from gmi_registry.hubs.civitai.models import find_civitai

__all__ = ["CivitaiClient", "CivitaiHub", "description_snippet", "find_civitai"]
