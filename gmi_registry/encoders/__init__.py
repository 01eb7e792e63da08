"""Encoders: what they are, those known by name, and the one way to load any of them.

Importing this never imports torch.
"""

from __future__ import annotations

from pathlib import Path

from gmi_registry.encoders.encoder import (
    DEFAULT_ENCODER,
    KNOWN_ENCODERS,
    Encoder,
    EncoderName,
    KnownEncoder,
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


def load_encoder(
    name: str,
    pretrained: str,
    folder: Path | None = None,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    device: str = "cpu",
    batch_size: int = 32,
) -> Encoder:
    """The encoder ``name/pretrained``: from ``folder`` where a hub has it, else open_clip's own.

    Without a folder the weights come from the Hugging Face cache (``cache_dir``, or its usual
    place), and from the network only where they are not there and ``offline`` is False. Where
    open_clip is not installed, an export takes its place that lies in ``folder`` or that
    ``gmi encoder export`` left on this machine.

    Raises InputError for a name that open_clip does not know, for a folder that is not in its
    layout and for weights that are published as a pickle only; OfflineError where the network would
    be needed and is off or does not answer; HubError or AuthError where the hub says no;
    MissingExtraError where open_clip would be needed and is not installed. An export runs on the
    processor, and InputError is raised for another device.
    """
    from gmi_registry.encoders import onnx

    if not onnx.has_torch():
        onnx.require_processor(device)
        return onnx.sole_export(name, pretrained, folder, cache_dir, batch_size=batch_size)
    # torch and open_clip take seconds to import: only now, when an encoder is really wanted.
    from gmi_registry.encoders.open_clip import OpenClipEncoder

    if folder is not None:
        return OpenClipEncoder.from_folder(
            folder, name, pretrained, device=device, batch_size=batch_size
        )
    return OpenClipEncoder.from_pretrained(
        name, pretrained, cache_dir=cache_dir, offline=offline, device=device, batch_size=batch_size
    )


def check_encoder(
    name: str,
    pretrained: str,
    folder: Path | None = None,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    beside: int = 0,
) -> int:
    """How many bytes :func:`load_encoder` would download; nothing is loaded.

    At most one request. ``beside`` are bytes that something else is going to download. Raises what
    it would raise before it reads any weights: for a name that open_clip does not know, a folder
    that is not in its layout, weights that are published as a pickle only or cannot be had, where
    the disk has no room for them, and where open_clip is missing and no export takes its place.
    """
    from gmi_registry.encoders import onnx

    if not onnx.has_torch():
        onnx.require_export(name, pretrained, folder, cache_dir)
        return 0
    from gmi_registry.encoders.open_clip import missing_bytes, read_layout

    if folder is not None:
        read_layout(folder)
        return 0
    return missing_bytes(name, pretrained, cache_dir, offline=offline, beside=beside)
