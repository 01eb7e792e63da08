"""Pictures from outside: any common file format to upright 8-bit RGB, or one clear error.

Whatever the picture, a process that has loaded nothing else stays below 400 MB: what each way of
decoding takes at its peak is known beforehand (``_decoding``, ``_finishing``), and a picture that
would take more is refused from its header.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from gmi_registry.errors import InputError
from gmi_registry.image_formats import (
    HEAD_BYTES,
    SAVE_AGAIN,
    JpegHeader,
    camera_raw,
    file_kind,
    has_all_scans,
    jpeg_header,
    png_parts,
)
from gmi_registry.sanitize import one_line

MAX_PIXELS = 64_000_000
"""Width times height of the largest picture that is decoded."""

_MAX_RATIO = 200
"""Long side over short side. An encoder that scales the short side up to its own input size would
need gigabytes for a longer strip, whatever its number of pixels."""

_BUDGET = 350 * 1024**2
"""Bytes that one picture may take while it is read: 400 MB less Python, numpy and Pillow."""

# Pillow's own log would be lines of their own beside the one error, where nobody set up a log.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Formats whose decoders are in Pillow itself: none that starts another program (EPS) or exists for
# something other than pictures.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
# How files begin that Pillow reads without being told to load more, and what reads the others.
_USUAL_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")
_OTHER_PLUGINS = ("Mpo", "WebP", "Tiff", "Avif")
_FORMAT_HINT = "give a PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF picture"
_SMALLER = "scale the picture down first"
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ONE_BYTE = ("1", "L", "P")

# Pixels that are converted together.
_AT_ONCE = 1 << 18
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation that EXIF knows."""


def load_image(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """One picture from a file or from a file's bytes, as :func:`to_rgb` returns it.

    Of an animation or a document the first frame; of an APNG not the default image that stands in
    for programs without animations. The size is read from the header and checked before any pixel
    is decoded. Colour profiles are ignored, as CLIP's training ignored them; so are texts and other
    things that a PNG carries along. A JPEG that lacks its last bytes is read like any other, if no
    more than its lowest rows can be missing; one scan's data that end too soon, before a mark of
    the end, are found as well.

    Raises InputError, naming the file, for a file that is missing, no regular file (at once:
    nothing is waited for), unreadable, empty, cut short or of a format that is not read, which is
    then named; for more than ``max_pixels`` pixels, or so many that decoding this kind of picture
    would take too much memory; for no pixels; and for a strip more than 200 times as long as it is
    wide.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "the image", max_pixels)
    name = str(source)
    try:
        with _opened(Path(source), name) as stream:
            return _decode(stream, name, max_pixels)
    except FileNotFoundError:
        hint = "check the path of the image"
        if str(source) == "-":
            hint = "standard input is not read: save the picture to a file, and name that"
        raise InputError(f"{name}: no such file", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or _words(error)
        raise InputError(
            f"{name}: cannot read the image: {reason}",
            hint="check the path, and that you can read the file",
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture as 8-bit RGB: turned as its EXIF says, transparency on white.

    16-bit grey keeps its top 8 bits, rounded; CMYK and other colour spaces are converted by
    Pillow's plain formulas. Raises InputError for float pixels and for integers over 16 bits.
    """
    image.load()
    done = _finished([image])
    return done.copy() if done is image else done


def _opened(path: Path, name: str) -> BinaryIO:
    """A regular file. A pipe would keep the reader waiting for ever; opening a device may do
    something."""
    _require_regular(path.stat().st_mode, name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    stream = os.fdopen(os.open(path, flags), "rb")
    try:
        _require_regular(os.fstat(stream.fileno()).st_mode, name)
    except BaseException:
        stream.close()
        raise
    return stream


def _require_regular(mode: int, name: str) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise InputError(
            f"{name}: a folder, not an image", hint="name the image files one by one"
        ) from None
    kinds = (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    kind = next((kind for test, kind in kinds if test(mode)), "no regular file")
    raise InputError(
        f"{name}: {kind}, not an image file", hint="save the picture to a file, and name that"
    )


def _decode(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of sizes that are refused here or that the caller
        # allowed; what matters becomes an error, and an error is one line.
        warnings.simplefilter("ignore")
        head = stream.read(HEAD_BYTES)
        try:
            return _decoded(stream, head, max_pixels)
        except InputError as error:
            raise InputError(f"{name}: {error.message}", hint=error.hint) from None
        except Exception as error:  # a decoder raises whatever the broken bytes run it into
            raise InputError(
                f"{name}: the image is damaged or cut short: {_words(error)}", hint=SAVE_AGAIN
            ) from error


def _decoded(stream: BinaryIO, head: bytes, max_pixels: int) -> Image.Image:
    if not head:
        raise InputError("the file is empty", hint=_FORMAT_HINT)
    size = stream.seek(0, io.SEEK_END)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(stream, size, head, max_pixels)
    kind = file_kind(head)
    if kind is not None and not kind.readable:
        raise InputError(f"{kind.name}, which is not read here", hint=kind.hint)
    jpeg = jpeg_header(stream) if head.startswith(b"\xff\xd8") else None
    if jpeg is not None and (jpeg.bits != 8 or jpeg.process in (3, 5, 6, 7, 11, 13, 14, 15)):
        sort = f"of {jpeg.bits} bits" if jpeg.bits != 8 else "lossless or hierarchical"
        raise InputError(f"a JPEG picture that is {sort}, which is not read here", hint=SAVE_AGAIN)
    image = _open(stream, head)
    raw = camera_raw(cast("Any", image).tag_v2) if image.format == "TIFF" else None
    if raw is not None:
        raise InputError(f"{raw.name}, which is not read here", hint=raw.hint)
    _check_size(image.size, max_pixels)
    pixels = image.width * image.height
    _check_mode(image)
    turned = image.format != "TIFF" and _orientation(image) in _TURNS
    _check_memory(image, max(_decoding(image, size, jpeg), _finishing(image, turned) * pixels))
    if jpeg is not None:
        try:
            image.load()
        except OSError:
            mended = _with_its_end(stream, size, jpeg, pixels)
            if mended is None:
                raise
            image = mended
        else:
            _require_all_rows(stream, jpeg, image.height)
    else:
        _load(image)
    owned = [image]
    del image
    return _finished(owned)


def _open(stream: BinaryIO, head: bytes) -> Image.Image:
    """The picture with its header read."""
    stream.seek(0)
    _load_plugins(head)
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        return Image.open(stream, formats=formats)
    except Image.DecompressionBombError as error:
        raise InputError(_words(error), hint=_SMALLER) from None
    except UnidentifiedImageError:
        raise _unreadable(head, None, avif="AVIF" in formats) from None
    except Exception as error:  # a parser raises whatever the broken bytes run it into
        raise _unreadable(head, error) from error


def _unreadable(head: bytes, error: Exception | None, *, avif: bool = True) -> InputError:
    """What to say of a file that no reader of Pillow takes (None), or that one fails with."""
    kind = file_kind(head)
    if kind is not None and kind.name == "an AVIF picture" and not avif:
        return InputError(
            "an AVIF picture, which this Pillow does not read",
            hint="pip install --upgrade pillow, or convert it to PNG or JPEG",
        )
    if kind is None:
        reason, hint = "not an image" if error is None else "not a readable image", _FORMAT_HINT
    else:
        reason, hint = f"{kind.name} that is damaged, cut short or of a rare sort", kind.hint
    return InputError(reason if error is None else f"{reason}: {_words(error)}", hint=hint)


def _load_plugins(head: bytes) -> None:
    """Pillow's readers of a file that begins so. It has some forty, few of which are used here."""
    Image.preinit()
    if not head.startswith(_USUAL_STARTS):
        for name in _OTHER_PLUGINS:
            import_module(f"PIL.{name}ImagePlugin")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InputError(f"{width:,} x {height:,} pixels, more than {max_pixels:,}", hint=_SMALLER)
    if min(width, height) < 1:
        raise InputError("the picture has no pixels", hint=SAVE_AGAIN)
    if max(width, height) > _MAX_RATIO * min(width, height):
        raise InputError(
            f"{width:,} x {height:,} pixels is too long a strip",
            hint=f"crop it until one side is at most {_MAX_RATIO} times the other",
        )


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise InputError(
            "floating-point pixels have no agreed white", hint="save the picture as a PNG"
        )


def _check_memory(image: Image.Image, needed: float) -> None:
    if needed <= _BUDGET:
        return
    pixels = image.width * image.height
    most = int(pixels * _BUDGET / needed) // 1_000_000
    smaller = f"scale the picture down to at most {most} million pixels, or " if most else ""
    raise InputError(
        f"{image.width:,} x {image.height:,} pixels of this kind ({image.format} {image.mode}) "
        f"take {needed / 1024**2:,.0f} MB to read, more than {_BUDGET // 1024**2}",
        hint=f"{smaller}save it as a plain JPEG or RGB PNG",
    )


# ------------------------------------------------------------------ what a picture takes


def _stored(mode: str) -> int:
    """Bytes of a pixel in Pillow's memory."""
    if mode in _ONE_BYTE:
        return 1
    return 2 if mode.startswith("I;16") else 4


def _decoding(image: Image.Image, size: int, jpeg: JpegHeader | None) -> float:
    """Bytes at most while the decoder works: measured for each, and explained by what it holds."""
    pixels = image.width * image.height
    stored = _stored(image.mode) * pixels
    if image.format == "WEBP":
        # Two canvases of the decoder, what it hands over, and, where the decoder stays, Pillow's
        # own; the file itself.
        return (12.5 if hasattr(image, "_decoder") else 16.5) * pixels + size
    if image.format == "AVIF":
        return 13 * pixels + 2 * size
    if image.format == "TIFF":
        return stored + _tiff_buffers(image, stored, size)
    if image.format == "BMP":
        # Run lengths are decoded in Python, into bytes that are then copied.
        tiles = cast("Any", image).tile
        packed = tiles and tiles[0][0] == "bmp_rle"
        return stored + (3 * pixels if packed else 0)
    if jpeg is not None and jpeg.whole:
        return stored + 2 * jpeg.samples * pixels
    return stored


def _tiff_buffers(image: Any, stored: int, size: int) -> float:
    """Bytes of the strip or tile that is decoded at a time, and of the file, which libtiff maps;
    or else of the turned picture, which Pillow makes while it loads."""
    tags = image.tag_v2

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return int(max(value, default=default) if isinstance(value, tuple) else value)

    turned = stored if number(_ORIENTATION, 1) in _TURNS else 0
    if number(259, 1) == 1:  # not compressed: read as it is
        return turned
    width, rows = number(322, image.width), number(323, number(278, image.height))
    if 323 not in tags:
        rows = min(rows, image.height)
    samples = 1 if number(284, 1) == 2 else number(277, 1)
    counts = tags.get(279, tags.get(325, size))
    packed = min(size, sum(counts) if isinstance(counts, tuple) else int(counts))
    return max(rows * width * max(4, samples * number(258, 1) / 8) + packed, turned)


def _finishing(image: Image.Image, turned: bool) -> float:
    """Bytes a pixel at most that :func:`_finished` will hold."""
    if image.mode in _ONE_BYTE:
        return 5
    if image.mode in _SIXTEEN_BIT:
        return max(5, _stored(image.mode) + 1)
    plain = image.mode == "RGB" and not image.has_transparency_data and not turned
    return 4 if plain else 7


# ------------------------------------------------------------------ decoded to upright RGB


def _finished(owned: list[Image.Image]) -> Image.Image:
    """The one decoded picture in ``owned``, which is taken out, as :func:`to_rgb` describes.

    Strip by strip, so that nothing is there twice at full width: its memory is let go on the way.
    """
    image = owned.pop()
    _check_mode(image)
    turn = _TURNS.get(_orientation(image))
    if image.mode in _SIXTEEN_BIT:
        image = _from_sixteen_bit(image)
    if image.mode in _ONE_BYTE:
        if turn is not None:
            image = image.transpose(turn)
        rgb = Image.new("RGB", image.size)
        for box in _strips(image.size):
            rgb.paste(_flat(image.crop(box)), box)
        return rgb
    if image.mode == "RGB" and not image.has_transparency_data and turn is None:
        return image
    packed = np.empty((image.height, image.width, 3), np.uint8)
    for box in _strips(image.size):
        packed[box[1] : box[3]] = np.asarray(_flat(image.crop(box)))
    del image
    upright = packed if turn is None else _turned(packed, turn)
    rgb = Image.new("RGB", (upright.shape[1], upright.shape[0]))
    for box in _strips(rgb.size):
        rgb.paste(Image.fromarray(np.ascontiguousarray(upright[box[1] : box[3]])), box)
    return rgb


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    width, height = size
    rows = max(1, _AT_ONCE // max(1, width))
    for top in range(0, height, rows):
        yield 0, top, width, min(height, top + rows)


def _flat(image: Image.Image) -> Image.Image:
    """A strip as RGB, on white."""
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _turned(pixels: NDArray[np.uint8], turn: Image.Transpose) -> NDArray[np.uint8]:
    """A view of pixels [H, W, 3], turned as Pillow would."""
    across = pixels.transpose(1, 0, 2)
    return {
        Image.Transpose.FLIP_LEFT_RIGHT: pixels[:, ::-1],
        Image.Transpose.ROTATE_180: pixels[::-1, ::-1],
        Image.Transpose.FLIP_TOP_BOTTOM: pixels[::-1],
        Image.Transpose.TRANSPOSE: across,
        Image.Transpose.ROTATE_270: across[:, ::-1],
        Image.Transpose.TRANSVERSE: across[::-1, ::-1],
        Image.Transpose.ROTATE_90: across[::-1],
    }[turn]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels: they stand as they are
        return 1


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    """As 8-bit grey, its clear value white."""
    shades = ((np.arange(0x10000) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
    if image.info.get(_NEGATIVE):
        shades = shades[::-1].copy()
    clear = image.info.get("transparency")
    if isinstance(clear, int) and 0 <= clear <= 0xFFFF:
        shades[clear] = 255
    grey = Image.new("L", image.size)
    for box in _strips(image.size):
        values = np.asarray(image.crop(box))
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise InputError("pixels of more than 16 bits", hint="save the picture as a PNG")
        grey.paste(Image.fromarray(shades[values]), box)
    return grey


# ------------------------------------------------------------------ what decoders get wrong

_NEGATIVE = "white is zero"


def _load(image: Any) -> None:
    """Decode the pixels."""
    if image.format == "TIFF" and image.mode in _SIXTEEN_BIT and image.tag_v2.get(262) == 0:
        # Pillow turns negatives over in its raw modes, of which 16 bits have none.
        raw = image.tile[0][3]
        raw = raw if isinstance(raw, str) else raw[0]
        image.load()
        image.info[_NEGATIVE] = raw in _SIXTEEN_BIT
        return
    if image.format == "WEBP" and hasattr(image, "_decoder"):
        # Its two canvases are of no use once it has handed over the first picture.
        prepare = image.load_prepare

        def let_go() -> None:
            image._decoder = None
            prepare()

        image.load_prepare = let_go
        image.load()
        del image.load_prepare
        return
    image.load()


# Of a JPEG: bytes that decode to something, whatever the tables, and the mark of its end. Where
# rows begin with a mark to restart from, nothing is decoded until one comes.
_PADDING = bytes((37 * number * number + 11 * number + 101) % 251 for number in range(96))
_PADDING += b"".join(bytes((0xFF, 0xD0 + number % 8)) + _PADDING for number in range(16))
_JPEG_END = b"\xff\xd9"
_MAY_MISS = 50
"""One in so many rows of a picture may be missing below, or the last row of blocks."""


def _with_its_end(stream: BinaryIO, size: int, jpeg: JpegHeader, pixels: int) -> Image.Image | None:
    """A JPEG whose data ran out, as browsers show it; None where more is missing than its lowest
    rows, or it is too large to find out.

    What is missing begins where it makes a difference whether other data follow.
    """
    # Three times its pixels: what was decoded in vain is there too.
    if (12 + 2 * jpeg.samples) * pixels > _BUDGET:
        return None
    stream.seek(0)
    if not has_all_scans(stream.read(), jpeg):
        return None
    stream.seek(max(0, size - 16))
    # Half a mark at the end would make another one with what is put behind it.
    size -= len(tail := stream.read()) - len(tail.rstrip(b"\xff"))
    parts: list[tuple[int, int] | bytes] = [(0, size)]
    found = []
    for more in ([_JPEG_END], [_PADDING, _JPEG_END]):
        image = Image.open(_joined(stream, [*parts, *more]), formats=("JPEG", "MPO"))
        image.load()
        found.append(image)
    whole, other = found
    needed = _needed_rows(jpeg, whole.height)
    for box in _strips(whole.size):
        box = (*box[:3], min(box[3], needed))
        if box[1] < box[3] and ImageChops.difference(whole.crop(box), other.crop(box)).getbbox():
            return None
    return whole


def _needed_rows(jpeg: JpegHeader, height: int) -> int:
    blocks = -(-height // jpeg.block_rows) - 1
    # Rows of colour are interpolated from the blocks below.
    return min(blocks * jpeg.block_rows - 2, height - height // _MAY_MISS)


def _require_all_rows(stream: BinaryIO, jpeg: JpegHeader, height: int) -> None:
    """Raises OSError where the one scan of a JPEG ends before its rows do.

    The decoder says nothing then, if a mark of the end follows, and fills the rest with grey. So
    whether other data before that mark make a difference, on an eighth of the scale, which costs
    little memory. Of pictures in several scans what is missing is detail, and is not looked for.
    """
    end = -1 if jpeg.whole else _first_end(stream, jpeg.scan)
    if end < 0:
        return
    found = []
    for more in ([_JPEG_END], [_PADDING, _JPEG_END]):
        image = Image.open(_joined(stream, [(0, end), *more]), formats=("JPEG", "MPO"))
        image.draft(None, (1, 1))
        image.load()
        found.append(image)
    scale = -(-height // found[0].height)
    box = (0, 0, found[0].width, max(0, _needed_rows(jpeg, height)) // scale)
    if box[3] and ImageChops.difference(found[0].crop(box), found[1].crop(box)).getbbox():
        raise OSError("its data end before the picture does")


def _first_end(stream: BinaryIO, scan: int) -> int:
    """Where the first mark of an end stands behind the start of a scan, which holds none; or -1."""
    stream.seek(scan)
    at, before = scan, b""
    while data := stream.read(1 << 16):
        place = (before + data).find(_JPEG_END)
        if place >= 0:
            return at - len(before) + place
        at += len(data)
        before = data[-1:]
    return -1


def _png(stream: BinaryIO, size: int, head: bytes, max_pixels: int) -> Image.Image:
    """A PNG less what is not needed to show it; of an animation its first frame."""
    parts, place = png_parts(stream, size)
    canvas = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    image = _open(_joined(stream, parts), head)
    _check_size(canvas, max_pixels)
    _check_mode(image)
    pixels = image.width * image.height
    _check_memory(image, max(_decoding(image, size, None), _finishing(image, False) * pixels))
    image.load()
    # What says how it is turned may stand behind the pixels.
    _check_memory(image, _finishing(image, _orientation(image) in _TURNS) * pixels)
    owned = [image]
    del image
    if place is None or (place == (0, 0) and owned[0].size == canvas):
        return _finished(owned)
    if place[0] + owned[0].width > canvas[0] or place[1] + owned[0].height > canvas[1]:
        raise InputError("its first frame lies beside the picture", hint=SAVE_AGAIN)
    # What a frame does not cover is clear.
    frame = _finished(owned)
    _check_memory(frame, 4 * pixels + 4 * canvas[0] * canvas[1])
    paper = Image.new("RGB", canvas, "white")
    paper.paste(frame, place)
    return paper


class _Joined(io.RawIOBase):
    """Parts of another file, and bytes, one after the other."""

    def __init__(self, stream: BinaryIO, parts: Sequence[tuple[int, int] | bytes]) -> None:
        self._stream = stream
        self._parts = parts
        lengths = [part[1] if isinstance(part, tuple) else len(part) for part in parts]
        self._ends = np.array(list(accumulate(lengths)), np.int64)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: int(self._ends[-1])}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        number = int(np.searchsorted(self._ends, self._at, side="right"))
        if number == len(self._parts) or not len(view):
            return 0
        part = self._parts[number]
        left = int(self._ends[number]) - self._at
        count = min(left, len(view))
        if isinstance(part, bytes):
            piece = part[len(part) - left :][:count]
        else:
            self._stream.seek(part[0] + part[1] - left)
            piece = self._stream.read(count)
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _joined(stream: BinaryIO, parts: Sequence[tuple[int, int] | bytes]) -> BinaryIO:
    # Neighbours are read together.
    merged: list[tuple[int, int] | bytes] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, tuple) and isinstance(last, tuple) and sum(last) == part[0]:
            merged[-1] = last[0], last[1] + part[1]
        else:
            merged.append(part)
    return cast("BinaryIO", io.BufferedReader(_Joined(stream, merged), 1 << 16))


def _words(error: BaseException) -> str:
    """The first line of what a library says, or the kind of its error."""
    return one_line(str(error).strip().partition("\n")[0]) or type(error).__name__
