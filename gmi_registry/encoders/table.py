"""The encoders known by name, and the one way to load any of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gmi_registry.errors import InputError

if TYPE_CHECKING:
    from gmi_registry.encoders.protocol import Encoder

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class EncoderName(NamedTuple):
    """What people call an encoder: architecture and weights tag, ``ViT-L-14/openai`` as text.

    ``parse`` and ``str()`` are inverse. An :class:`~gmi_registry.spec.EncoderRef` says which bytes.
    """

    name: str
    pretrained: str

    @classmethod
    def parse(cls, text: str) -> EncoderName:
        """Read ``NAME/PRETRAINED``. Raises InputError for anything else."""
        name, slash, pretrained = text.partition("/")
        if not slash or not _PART.fullmatch(name) or not _PART.fullmatch(pretrained):
            raise InputError(
                f"{text[:120]!r} does not name an encoder",
                hint=f"write NAME/PRETRAINED, such as {DEFAULT_ENCODER}",
            )
        return cls(name, pretrained)

    def __str__(self) -> str:
        return f"{self.name}/{self.pretrained}"


@dataclass(frozen=True)
class KnownEncoder:
    """One row: ``dim`` is D = E; ``parameters`` are in millions, each 4 bytes in memory."""

    name: EncoderName
    dim: int
    parameters: int
    note: str


DEFAULT_ENCODER = EncoderName("ViT-L-14", "openai")
"""The encoder of a model whose card names no other."""

KNOWN_ENCODERS: tuple[KnownEncoder, ...] = (
    KnownEncoder(DEFAULT_ENCODER, 768, 428, "the default; what clip-interrogator uses too"),
    KnownEncoder(EncoderName("ViT-B-32", "laion2b_s34b_b79k"), 512, 151, "small and quick"),
    KnownEncoder(EncoderName("ViT-B-16", "laion2b_s34b_b88k"), 512, 150, "small, finer patches"),
    KnownEncoder(EncoderName("ViT-L-14", "datacomp_xl_s13b_b90k"), 768, 428, "newer data"),
    KnownEncoder(EncoderName("ViT-H-14", "laion2b_s32b_b79k"), 1024, 986, "large"),
)
"""Encoders worth naming. Any other that open_clip lists with safetensors weights loads as well."""


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
        name,
        pretrained,
        cache_dir=cache_dir,
        offline=offline,
        device=device,
        batch_size=batch_size,
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
    from gmi_registry.encoders.weights import missing_bytes, read_layout

    if folder is not None:
        read_layout(folder)
        return 0
    return missing_bytes(name, pretrained, cache_dir, offline=offline, beside=beside)
