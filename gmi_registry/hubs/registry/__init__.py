"""The registry: specifications that do not lie beside their models, in one dataset."""

from gmi_registry.hubs.registry.registry import Registry

__all__ = ["Registry"]
