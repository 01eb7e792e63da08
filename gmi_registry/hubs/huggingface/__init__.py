"""Hugging Face as a hub: models and the specifications in their repositories."""

from gmi_registry.hubs.huggingface.hub import HuggingFaceHub

__all__ = ["HuggingFaceHub"]
