"""Pictures from outside: any common file format to upright 8-bit RGB, or one clear error."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gmi_registry.errors import InputError

__all__ = ["MAX_PIXELS", "load_image", "to_rgb"]

MAX_PIXELS = 64_000_000
"""Width times height of the largest picture that is decoded."""

_MAX_RATIO = 200
"""Long side over short side. An encoder that scales the short side up to its own input size would
need gigabytes for a longer strip, whatever its number of pixels."""

# Formats whose decoders are in Pillow itself: none that starts another program (EPS) or exists for
# something other than pictures.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
_FORMAT_HINT = "give a PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF picture"
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def load_image(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """One picture from a file or from a file's bytes, as :func:`to_rgb` returns it.

    Of an animation or a document the first frame. The size is read from the header and checked
    before any pixel is decoded. Colour profiles are ignored, as CLIP's training ignored them.

    Raises InputError, naming the file, for a file that is missing, a folder, unreadable, empty,
    cut short or not a picture; for more than ``max_pixels`` pixels; for no pixels; and for a strip
    more than 200 times as long as it is wide.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "the image", max_pixels)
    path = Path(source)
    try:
        with path.open("rb") as stream:
            return _decode(stream, str(path), max_pixels)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", hint="check the path of the image") from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: a folder, not an image", hint="name the image files one by one"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror or error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture as 8-bit RGB: turned as its EXIF says, transparency on white.

    16-bit grey keeps its top 8 bits, rounded; CMYK and other colour spaces are converted by
    Pillow's plain formulas. Raises InputError for float pixels and for integers over 16 bits.
    """
    image = _upright(image)
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image)
    if image.mode == "F":
        raise InputError(
            "floating-point pixels have no agreed white", hint="save the picture as a PNG"
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _decode(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of sizes that are refused here or that the caller
        # allowed; what matters becomes an error, and an error is one line.
        warnings.simplefilter("ignore")
        image = _open(stream, name)
        _check_size(image, name, max_pixels)
        try:
            image.load()
            return to_rgb(image)
        except InputError as error:
            raise InputError(f"{name}: {error.message}", hint=error.hint) from None
        except Exception as error:  # a decoder raises whatever the broken bytes run it into
            raise InputError(
                f"{name}: the image is damaged or cut short: {_first_line(error)}",
                hint="open it in a viewer and save it again",
            ) from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"{name}: {width:,} x {height:,} pixels, more than {max_pixels:,}",
            hint="scale the picture down first",
        )
    if min(width, height) < 1:
        raise InputError(f"{name}: the picture has no pixels")
    if max(width, height) > _MAX_RATIO * min(width, height):
        raise InputError(
            f"{name}: {width:,} x {height:,} pixels is too long a strip",
            hint=f"crop it until one side is at most {_MAX_RATIO} times the other",
        )


def _open(stream: BinaryIO, name: str) -> Image.Image:
    if not stream.read(1):
        raise InputError(f"{name}: the file is empty", hint=_FORMAT_HINT)
    stream.seek(0)
    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        return Image.open(stream, formats=formats)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name}: {_first_line(error)}", hint="scale the picture down first"
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image", hint=_FORMAT_HINT) from None
    except Exception as error:  # as above, while the header is parsed
        raise InputError(
            f"{name}: not a readable image: {_first_line(error)}", hint=_FORMAT_HINT
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels: they stand as they are
        return image


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise InputError("pixels of more than 16 bits", hint="save the picture as a PNG")
    grey = ((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
