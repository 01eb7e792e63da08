"""What a file is that should be a picture, by its first bytes, and which parts of it are needed."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from gmi_registry.errors import InputError

HEAD_BYTES = 65_536
"""Bytes from the start of a file that :func:`file_kind` wants to see."""

_CONVERT = "convert it to PNG or JPEG"
_EXPORT = "open it in the program that made it and export it as PNG or JPEG"
_FRAME = "save one frame of it as PNG or JPEG: ffmpeg -i FILE -frames:v 1 frame.png"
_DEVELOP = "develop it: export it as JPEG or PNG with the camera's or a raw converter's program"


@dataclass(frozen=True)
class FileKind:
    """``name`` says what the file is, with an article; ``hint`` is what to do about it.

    ``readable``: the format is one of those that are decoded here, so that a file which is not
    read after all is damaged, or a rare sort of that format.
    """

    name: str
    hint: str
    readable: bool = False


SAVE_AGAIN = "open it in a viewer and save it again"
_SAVE_AGAIN_AS_PNG = f"{SAVE_AGAIN}, as PNG for example"

# What is decoded here, by the bytes that are at some offsets.
_READ: tuple[tuple[str, tuple[tuple[int, bytes], ...]], ...] = (
    ("a PNG picture", ((0, b"\x89PNG"),)),
    ("a JPEG picture", ((0, b"\xff\xd8"),)),
    ("a GIF picture", ((0, b"GIF87a"),)),
    ("a GIF picture", ((0, b"GIF89a"),)),
    ("a WebP picture", ((0, b"RIFF"), (8, b"WEBP"))),
    *(("a TIFF picture", ((0, start),)) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("a BMP picture", ((0, b"BM"), (6, bytes(4)))),
)

# First bytes at an offset. What is more special comes first.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (8, b"CR\x02\x00", "a camera's raw file (CR2)", _DEVELOP),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)", _DEVELOP),
    (0, b"IIRO", "a camera's raw file (ORF)", _DEVELOP),
    (0, b"IIRS", "a camera's raw file (ORF)", _DEVELOP),
    (0, b"MMOR", "a camera's raw file (ORF)", _DEVELOP),
    (0, b"IIU\x00", "a camera's raw file (RW2)", _DEVELOP),
    (0, b"FOVb", "a camera's raw file (X3F)", _DEVELOP),
    (6, b"HEAPCCDR", "a camera's raw file (CRW)", _DEVELOP),
    (0, b"\xff\x0a", "a JPEG XL picture", f"{_CONVERT}: djxl FILE picture.png"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", f"{_CONVERT}: djxl FILE picture.png"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture", _CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture", _CONVERT),
    (0, b"8BPS", "a Photoshop file (PSD)", _EXPORT),
    (0, b"gimp xcf", "a GIMP file (XCF)", _EXPORT),
    (0, b"%PDF-", "a PDF document", "convert the page to a picture: pdftoppm -png FILE page"),
    (0, b"%!PS", "a PostScript file (EPS)", _EXPORT),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file (EPS)", _EXPORT),
    (0, b"DDS ", "a DirectDraw texture (DDS)", _CONVERT),
    (0, b"\xabKTX ", "a Khronos texture (KTX)", _CONVERT),
    (0, b"\x01\xda", "a Silicon Graphics picture (SGI)", _CONVERT),
    (0, b"\x0a\x05\x01", "a PC Paintbrush picture (PCX)", _CONVERT),
    (0, b"icns", "an Apple icon (ICNS)", _CONVERT),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture", _EXPORT),
    (0, b"#?RADIANCE", "a Radiance picture (HDR)", _EXPORT),
    (0, b"#?RGBE", "a Radiance picture (HDR)", _EXPORT),
    (0, b"BPG\xfb", "a BPG picture", _CONVERT),
    (0, b"FLIF", "a FLIF picture", _CONVERT),
    (0, b"qoif", "a QOI picture", _CONVERT),
    (0, b"farbfeld", "a farbfeld picture", _CONVERT),
    (0, b"AT&TFORM", "a DjVu document", "convert the page to a picture: ddjvu -format=tiff FILE"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)", _EXPORT),
    (40, b" EMF", "a Windows metafile (EMF)", _EXPORT),
    (0, b"SIMPLE  =", "an astronomer's picture (FITS)", _CONVERT),
    (128, b"DICM", "a medical picture (DICOM)", _EXPORT),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)", _FRAME),
    (0, b"\0\0\1\xba", "a video (MPEG)", _FRAME),
    (0, b"\0\0\1\xb3", "a video (MPEG)", _FRAME),
    (0, b"FLV\1", "a video (FLV)", _FRAME),
    (0, b"0&\xb2u\x8ef\xcf\x11", "a video (WMV)", _FRAME),
    (0, b"OggS", "a video or sound (Ogg)", _FRAME),
    (0, b"PK\x03\x04", "a zip archive", "unpack it, and name the picture in it"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it, and name the picture in it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and name the picture in it"),
    (0, b"GGUF", "a model's weights (GGUF)", "a model is not a picture: gmi-search --like MODEL"),
)  # fmt: skip

# The brand of an ISO media file ("ftyp"), the first or one of the compatible ones.
_BRANDS: tuple[tuple[frozenset[bytes], str, str], ...] = (
    (frozenset((b"crx ",)), "a camera's raw file (CR3)", _DEVELOP),
    (
        frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
        "a HEIC picture, as telephones make them",
        f"{_CONVERT}: heif-convert FILE picture.png, or have the telephone share it as JPEG",
    ),
    (frozenset((b"jxl ",)), "a JPEG XL picture", f"{_CONVERT}: djxl FILE picture.png"),
)
_VIDEO = ("a video (MP4 or QuickTime)", _FRAME)

_NETPBM = re.compile(rb"P[1-7fF][\s#]")
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_PAGE = re.compile(rb"<!doctype html|<html[\s>]|<head[\s>]|<body[\s>]", re.IGNORECASE)
_LFS = b"version https://git-lfs.github.com/spec/"
# Types of a TIFF's numbers, and their bytes.
_SHORT_OR_LONG = {3: 2, 4: 4}


def file_kind(head: bytes) -> FileKind | None:
    """What the file is that begins with ``head`` (its first 64 KiB); None where nobody knows."""
    raw = _raw_kind(head)
    if raw is not None:
        return raw
    for name, marks in _READ:
        if all(head.startswith(mark, offset) for offset, mark in marks):
            return FileKind(name, _SAVE_AGAIN_AS_PNG, readable=True)
    if head[4:8] == b"ftyp":
        return _media_kind(head)
    for offset, magic, name, hint in _MAGIC:
        if head.startswith(magic, offset):
            return FileKind(name, hint)
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WAVE"):
        return FileKind("a video or sound (RIFF)", _FRAME)
    if head[:4] in (b"\0\0\1\0", b"\0\0\2\0") and any(head[4:6]):
        return FileKind("a Windows icon or cursor (ICO, CUR)", _CONVERT)
    if _NETPBM.match(head):
        return FileKind("a Netpbm picture (PPM, PGM, PBM, PAM or PFM)", _CONVERT)
    sorts = (b"\0\x02", b"\0\x03", b"\0\x0a", b"\0\x0b", b"\1\x01", b"\1\x09")
    if head[1:3] in sorts and head[16:17] in (b"\x08", b"\x0f", b"\x10", b"\x18", b"\x20"):
        return FileKind("a Targa picture (TGA), by the look of it", _CONVERT)
    return _text_kind(head)


def _brands(head: bytes) -> set[bytes]:
    size = min(int.from_bytes(head[:4], "big"), 256)
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}


def _media_kind(head: bytes) -> FileKind:
    found = _brands(head)
    if found & {b"avif", b"avis"}:
        return FileKind("an AVIF picture", _SAVE_AGAIN_AS_PNG, readable=True)
    for brands, name, hint in _BRANDS:
        if head[8:12] in brands or (brands & found and not head.startswith(b"isom", 8)):
            return FileKind(name, hint)
    return FileKind(*_VIDEO)


def _text_kind(head: bytes) -> FileKind | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:2] == b"\x1f\x8b":
        return FileKind("a gzip file, perhaps an SVG image (SVGZ)", "unpack it: gunzip FILE")
    if text.startswith(_LFS):
        return FileKind(
            "a pointer of Git LFS, not the file itself", "fetch what it points to: git lfs pull"
        )
    if text.startswith(b"<") and _SVG.search(head):
        return FileKind("an SVG image", "convert it: rsvg-convert FILE -o picture.png")
    if text.startswith(b"<") and _PAGE.search(head):
        return FileKind("a web page", "download the picture itself: the address led to a page")
    if text[:1] in (b"{", b"[") and text.rstrip()[-1:] in (b"}", b"]"):
        return FileKind("a JSON document", "name the picture itself")
    return None


def _raw_kind(head: bytes) -> FileKind | None:
    """A camera's raw file in the guise of a TIFF, of which the first picture is a thumbnail.

    Such are DNG (by a tag of its own) and files that say of their first picture that it is a
    smaller one of another (TIFF 6.0, NewSubfileType) beside sub-directories (NEF, ARW, PEF).
    """
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(head[:4])
    if order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], "little" if order == "little" else "big")

    start = number(4, 4)
    if start + 2 > len(head):
        return None
    tags = {}
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if entry + 12 > len(head):
            break
        size = _SHORT_OR_LONG.get(number(entry + 2, 2), 4)
        tags[number(entry, 2)] = number(entry + 8, size)
    return camera_raw(tags)


def camera_raw(tags: Mapping[int, object]) -> FileKind | None:
    """A camera's raw file by the tags of the first picture of a TIFF; None for other files."""
    if 50706 in tags:
        return FileKind("a camera's raw file (DNG)", _DEVELOP)
    reduced = tags.get(254, 0)
    if tags.get(262) == 32803 or (isinstance(reduced, int) and reduced & 1 and 330 in tags):
        return FileKind("a camera's raw file", _DEVELOP)
    return None


@dataclass(frozen=True)
class JpegHeader:
    """What the frame header of a JPEG (ITU-T T.81, B.2.2) says.

    ``process`` is the number n of its marker SOFn; ``bits`` those of a sample; ``samples`` how many
    there are a pixel, all components together; ``block_rows`` the rows of pixels that are coded
    together; ``whole``: all coefficients of the picture are held until the last scan was read.
    ``components`` are their names, and ``scan`` is where in the file the first scan begins.
    """

    process: int
    bits: int
    samples: float
    block_rows: int
    whole: bool
    components: bytes
    scan: int


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MOST_MARKERS = 10_000


def jpeg_header(stream: BinaryIO) -> JpegHeader | None:
    """Of the JPEG that ``stream`` holds from its start; None where no scan is found."""
    stream.seek(2)
    frame: tuple[int, bytes] | None = None
    for _ in range(_MOST_MARKERS):
        start = stream.read(2)
        while len(start) == 2 and start[1:] == b"\xff":
            start = start[1:] + stream.read(1)
        if len(start) < 2 or start[0] != 0xFF:
            return None
        marker = start[1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        size = int.from_bytes(stream.read(2), "big")
        if marker in _FRAMES:
            frame = marker - 0xC0, stream.read(size - 2) if size > 2 else b""
        elif marker == 0xDA:
            scan = stream.tell() - 4
            return None if frame is None else _jpeg_header(*frame, stream.read(1), scan)
        else:
            stream.seek(max(0, size - 2), io.SEEK_CUR)
    return None


def _jpeg_header(process: int, frame: bytes, count: bytes, scan: int) -> JpegHeader | None:
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5] or not count or not frame[5]:
        return None
    factors = [(frame[7 + 3 * n] >> 4, frame[7 + 3 * n] & 15) for n in range(frame[5])]
    across, down = max(1, *(h for h, _ in factors)), max(1, *(v for _, v in factors))
    return JpegHeader(
        process=process,
        bits=frame[0],
        samples=sum(h * v for h, v in factors) / (across * down),
        block_rows=8 * down,
        whole=process in (2, 6, 10, 14) or count[0] < len(factors),
        components=frame[6 : 6 + 3 * frame[5] : 3],
        scan=scan,
    )


def has_all_scans(data: bytes, header: JpegHeader) -> bool:
    """Whether a JPEG, all of whose bytes are ``data``, begins a scan for every bit of every
    coefficient. What the last of them holds is not looked at."""
    missing = {(name, number) for name in header.components for number in range(64)}
    at = header.scan
    while at >= 0:
        count = data[at + 4] if at + 4 < len(data) else 0
        scan = data[at + 5 : at + 8 + 2 * count]
        if len(scan) == 3 + 2 * count and scan[-1] & 15 == 0:
            numbers = range(scan[-3], scan[-2] + 1)
            missing -= {(name, it) for name in scan[: 2 * count : 2] for it in numbers}
        # Within a scan no mark occurs.
        at = data.find(b"\xff\xda", at + 2)
    return not missing


_PNG_START = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 1_000_000
_LARGE_CHUNK = 1024**2

# Texts that may say how a picture is to be turned.
_ABOUT_EXIF = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


def png_parts(
    stream: BinaryIO, size: int
) -> tuple[list[tuple[int, int] | bytes], tuple[int, int] | None]:
    """What is to be decoded, and where on the canvas it is to lie if that is a frame.

    Of each chunk its start and length in the file, or other bytes in its place. What stands in the
    file beyond pixels, colours and EXIF is left out: profiles, texts (of which Pillow refuses large
    ones), and the other frames.
    """
    parts: list[tuple[int, int] | bytes] = [(0, 8)]
    pictures: list[tuple[int, int] | bytes] = []
    frame: list[tuple[int, int] | bytes] = []
    header, control, animated = b"", b"", False
    at, controls = 8, 0
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        start = stream.read(8)
        if len(start) < 8:
            break
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        if kind == b"IHDR" and not header:
            header = stream.read(13)
        if kind == b"acTL":
            animated = True
        elif kind == b"fcTL" and animated:
            controls += 1
            if not pictures and not control:
                animated = False  # the picture itself is the first frame
            elif controls == 1:
                control = stream.read(26)
        elif kind == b"fdAT":
            if controls == 1 and control and length > 4:
                frame += [
                    (length - 4).to_bytes(4, "big") + b"IDAT",
                    (at + 12, length - 4),
                    bytes(4),
                ]
        elif kind == b"IDAT":
            pictures.append((at, 12 + length))
        elif _is_needed(stream, kind, length):
            (pictures if pictures else parts).append((at, 12 + length))
        at += 12 + length
        if kind == b"IEND":
            break
    else:
        raise InputError("it has more than a million chunks", hint=SAVE_AGAIN)
    if not frame or len(control) < 26:
        return [*parts, *pictures], None
    body = b"IHDR" + control[4:12] + header[8:]
    checked = (13).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    after = [
        part for part in pictures if isinstance(part, tuple) and _kind_at(stream, part) != b"IDAT"
    ]
    place = int.from_bytes(control[12:16], "big"), int.from_bytes(control[16:20], "big")
    first = [part for part in parts[1:] if _kind_at(stream, part) != b"IHDR"]
    return [_PNG_START, checked, *first, *frame, *after], place


def _kind_at(stream: BinaryIO, part: tuple[int, int] | bytes) -> bytes:
    if isinstance(part, bytes):
        return part[4:8]
    stream.seek(part[0] + 4)
    return stream.read(4)


def _is_needed(stream: BinaryIO, kind: bytes, length: int) -> bool:
    """Whether a chunk, whose content ``stream`` is about to give, has a say in what is shown."""
    if kind[:1].isupper():
        return True
    if length > _LARGE_CHUNK:
        return False
    if kind in (b"tRNS", b"eXIf"):
        return True
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return False
    text = stream.read(length)
    about = next((name for name in _ABOUT_EXIF if text.startswith(name)), None)
    if about is None:
        return False
    packed = text[len(about) + 1 :] if kind == b"zTXt" else b""
    if kind == b"iTXt" and text[len(about) : len(about) + 1] == b"\1":
        packed = text[len(about) + 2 :].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(packed, _LARGE_CHUNK)) < _LARGE_CHUNK
    except zlib.error:
        return False
