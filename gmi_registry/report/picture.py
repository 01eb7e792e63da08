"""Pictures from files that nobody vouches for, made safe to embed in a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from gmi_registry.errors import InputError
from gmi_registry.images import load_image
from gmi_registry.report.page import Picture
from gmi_registry.spec.files import UnusableFileError, held_folder

__all__ = ["embed", "embed_preview"]

PREVIEW_BYTES = 8 * 1024 * 1024
"""A contact sheet may be this large, as SPEC.md says."""

PREVIEW_PIXELS = 40_000_000
"""A contact sheet may have this many pixels, and fewer where that takes too much memory."""

_PREVIEW_SIDE = 1280
_QUERY_SIDE = 640


def embed_preview(path: Path) -> Picture:
    """A model's contact sheet as a picture of the page.

    The bytes of the file never reach the page: they are decoded within limits and encoded anew,
    which also drops metadata and whatever else the file carries. Raises InputError.
    """
    try:
        # Links are those of a download cache; a pipe in a file's place would not end.
        with held_folder(path.parent, True) as folder, folder.file(path.name) as stream:
            data = stream.read(PREVIEW_BYTES + 1)
    except UnusableFileError as error:
        raise InputError(f"{path} {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > PREVIEW_BYTES:
        raise InputError(f"{path}: has more than {PREVIEW_BYTES:,} bytes")
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise InputError(f"{path}: is not a WebP picture")
    try:
        return embed(load_image(data, max_pixels=PREVIEW_PIXELS), side=_PREVIEW_SIDE)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error


def embed(image: Image.Image, *, side: int = _QUERY_SIDE) -> Picture:
    """``image`` as a picture of the page, made smaller where a side is longer than ``side``."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    # Made smaller first where that is the same, so that nothing large is there twice.
    shown = image.convert(mode) if image.mode != mode else _view(image)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    # A fresh image without info: what is not written cannot leak.
    bare = Image.new(shown.mode, shown.size)
    bare.paste(shown)
    bare.save(encoded, "WEBP", quality=84, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
    return Picture(uri, shown.width, shown.height)


def _view(image: Image.Image) -> Image.Image:
    """The same pixels as another picture: one that can become a thumbnail, and ``image`` stays."""
    image.load()
    return image._new(image.im)
