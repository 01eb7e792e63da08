"""Find the text-to-image model that would make an image like yours."""

__version__ = "0.1.0"
