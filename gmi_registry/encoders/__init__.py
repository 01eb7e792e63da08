"""Encoders: the protocol, and the table of those known here. Importing this never imports torch."""

from gmi_registry.encoders.protocol import Encoder
from gmi_registry.encoders.table import (
    DEFAULT_ENCODER,
    KNOWN_ENCODERS,
    EncoderName,
    KnownEncoder,
    check_encoder,
    load_encoder,
)

__all__ = [
    "DEFAULT_ENCODER",
    "KNOWN_ENCODERS",
    "Encoder",
    "EncoderName",
    "KnownEncoder",
    "check_encoder",
    "load_encoder",
]
