"""Pictures from files that nobody vouches for, made safe to embed in a page."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from gmi_registry.errors import InputError
from gmi_registry.report.page import Picture
from gmi_registry.spec.files import UnusableFileError, held_folder

__all__ = ["embed", "embed_preview"]

PREVIEW_BYTES = 8 * 1024 * 1024
"""A contact sheet may be this large, as SPEC.md says."""

PREVIEW_PIXELS = 40_000_000
"""A contact sheet may have this many pixels: 160 MB once decoded."""

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
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on and refuses from 179; the limit here is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
                if image.width * image.height > PREVIEW_PIXELS:
                    raise InputError(f"{path}: has {image.width} x {image.height} pixels")
                image.load()
                return embed(image, side=_PREVIEW_SIDE)
    except UnidentifiedImageError:
        raise InputError(f"{path}: is not a WebP picture") from None
    except InputError:
        raise
    except Exception as error:  # a decoder raises whatever the broken bytes run it into
        raise InputError(f"{path}: is a damaged picture") from error


def embed(image: Image.Image, *, side: int = _QUERY_SIDE) -> Picture:
    """``image`` as a picture of the page, made smaller where a side is longer than ``side``."""
    shown = image.convert("RGBA" if image.has_transparency_data else "RGB")
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    # A fresh image without info: what is not written cannot leak.
    bare = Image.new(shown.mode, shown.size)
    bare.paste(shown)
    bare.save(encoded, "WEBP", quality=84, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
    return Picture(uri, shown.width, shown.height)
