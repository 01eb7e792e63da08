"""Pictures of every kind come out as upright RGB; everything else is one clear line."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features
from PIL.PngImagePlugin import PngInfo

from gmi_registry import images
from gmi_registry.errors import InputError
from gmi_registry.images import MAX_PIXELS, load_image, to_rgb

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def quarters() -> Image.Image:
    """16 x 16: red, green / blue, white."""
    image = Image.new("RGB", (16, 16), WHITE)
    image.paste(RED, (0, 0, 8, 8))
    image.paste(GREEN, (8, 0, 16, 8))
    image.paste(BLUE, (0, 8, 8, 16))
    return image


def close_to(image: Image.Image, expected: Image.Image, tolerance: float) -> bool:
    assert image.mode == expected.mode == "RGB"
    assert image.size == expected.size
    difference = np.asarray(image).astype(int) - np.asarray(expected).astype(int)
    return float(np.abs(difference).mean()) <= tolerance


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("GIF", {}, 1),
        ("JPEG", {"quality": 95, "subsampling": 0}, 3),
        ("WEBP", {"quality": 95}, 12),
        pytest.param("AVIF", {"quality": 95}, 12, marks=needs_avif),
    ],
)
def test_reads_the_common_formats(kind: str, options: dict[str, object], tolerance: float) -> None:
    image = load_image(encoded(quarters(), kind, **options))
    assert close_to(image, quarters(), tolerance)


def test_reads_a_file_by_path_and_by_its_name_as_text(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(quarters(), "PNG"))
    assert close_to(load_image(path), quarters(), 0)
    assert close_to(load_image(str(path)), quarters(), 0)


def test_takes_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    for kind in ("GIF", "WEBP", "PNG"):
        extra = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **extra)
        assert load_image(data).getpixel((4, 4)) == RED


def test_cmyk_becomes_rgb() -> None:
    image = load_image(encoded(quarters().convert("CMYK"), "JPEG", quality=95))
    assert close_to(image, quarters(), 4)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32768], [65279, 65408, 65535]], dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    image = load_image(png(3, 2, 16, 0, rows))
    assert np.asarray(image)[..., 0].tolist() == [[0, 1, 128], [254, 255, 255]]


def test_sixteen_bit_tiff_and_colour() -> None:
    grey = Image.fromarray(np.full((4, 4), 65535 // 2, dtype=np.uint16))
    assert load_image(encoded(grey, "TIFF")).getpixel((0, 0)) == (127, 127, 127)
    pixel = struct.pack(">HHH", 65535, 32896, 0)
    assert load_image(png(1, 1, 16, 2, b"\0" + pixel)).getpixel((0, 0)) == (255, 128, 0)


def test_the_clear_value_of_sixteen_bit_grey_is_white() -> None:
    rows = b"\0" + struct.pack(">HH", 1000, 0)
    clear = png_chunk(b"tRNS", struct.pack(">H", 1000))
    image = load_image(png(2, 1, 16, 0, rows, clear))
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [WHITE, (0, 0, 0)]


def test_alpha_lies_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)])
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        flat = load_image(encoded(image, kind, **options))
        assert [flat.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, (127, 127, 127)]


def test_grey_with_alpha_lies_on_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(10, 255), (10, 0)])
    flat = load_image(encoded(image, "PNG"))
    assert [flat.getpixel((x, 0)) for x in range(2)] == [(10, 10, 10), WHITE]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_clear_entry_of_the_palette_is_white(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    flat = load_image(encoded(image, kind, transparency=0))
    assert [flat.getpixel((x, 0)) for x in range(2)] == [WHITE, BLUE]


def test_a_clear_colour_is_white() -> None:
    data = png(2, 1, 8, 2, b"\0" + bytes([*RED, *BLUE]), png_chunk(b"tRNS", b"\0\xff\0\0\0\0"))
    flat = load_image(data)
    assert [flat.getpixel((x, 0)) for x in range(2)] == [WHITE, BLUE]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_turns_as_exif_says(orientation: int, kind: str) -> None:
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = quarters().resize((16, 24))
    turn = turns[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert close_to(load_image(encoded(stored, kind, exif=exif.tobytes())), upright, 12)


def test_a_broken_exif_block_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert close_to(load_image(encoded(quarters(), "PNG")), quarters(), 0)


def test_one_bit_and_lab_and_ycbcr() -> None:
    assert to_rgb(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == WHITE
    assert close_to(to_rgb(quarters().convert("YCbCr")), quarters(), 2)
    with pytest.raises(InputError, match="floating-point"):
        to_rgb(Image.new("F", (2, 2)))
    with pytest.raises(InputError, match="more than 16 bits"):
        to_rgb(Image.new("I", (2, 2), 70_000))
    assert to_rgb(Image.new("I", (2, 2), 65535)).getpixel((0, 0)) == WHITE


def test_a_huge_picture_is_refused_from_its_header() -> None:
    data = png(60_000, 60_000, 8, 2, b"\0" * 100)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="the image: ") as caught:
            load_image(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "pixels" in caught.value.message
    assert caught.value.hint == "scale the picture down first"
    assert peak < 2_000_000


def test_the_limit_is_exact_and_the_callers_to_set() -> None:
    data = encoded(quarters(), "PNG")
    assert load_image(data, max_pixels=256).size == (16, 16)
    with pytest.raises(InputError, match="16 x 16 pixels, more than 255"):
        load_image(data, max_pixels=255)
    with pytest.raises(InputError, match=f"10,000 x 9,000 pixels, more than {MAX_PIXELS:,}"):
        load_image(png(10_000, 9_000, 1, 0, b""))


def test_a_long_strip_is_refused() -> None:
    assert load_image(encoded(Image.new("L", (2000, 10)), "PNG")).size == (2000, 10)
    with pytest.raises(InputError, match="too long a strip"):
        load_image(encoded(Image.new("L", (2001, 10)), "PNG"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, I am a text file\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture that is damaged"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", b"short"), "a PNG picture that is damaged"),
    ],
)
def test_what_is_no_image(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        load_image(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_cut_short(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InputError) as caught:
        load_image(data[: len(data) // 2])
    assert caught.value.hint


def test_missing_folder_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="a folder, not an image"):
        load_image(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(quarters(), "PNG"))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="cannot read the image: Permission denied") as caught:
        load_image(secret)
    assert caught.value.hint


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_an_input_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind in ("GIF", "BMP") else {"exif": exif.tobytes()}
    damaged = bytearray(encoded(quarters(), kind, **options))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    try:
        outcome: Image.Image | InputError = load_image(bytes(damaged))
    except InputError as error:
        outcome = error
    if isinstance(outcome, InputError):
        assert "\n" not in outcome.message
    else:
        assert outcome.mode == "RGB"


@given(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"]))
def test_any_mode_becomes_rgb_and_rgb_is_a_fixed_point(mode: str) -> None:
    image = to_rgb(Image.new(mode, (5, 3)))
    assert (image.mode, image.size) == ("RGB", (5, 3))
    assert to_rgb(image).tobytes() == image.tobytes()


# at full width at once, as it was done before, and strip by strip


def at_once(image: Image.Image) -> Image.Image:
    """What a picture is, worked out on the whole of it."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image, np.int64)
        grey = ((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def noise(mode: str) -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (13, 21, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels.view("<u2")[..., 0].copy())
    image = Image.fromarray(pixels)
    if mode == "LA":
        return Image.merge("LA", (image.getchannel(0), image.getchannel(3)))
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("1", "PNG", {}),
        ("L", "JPEG", {}),
        ("P", "PNG", {"transparency": 5}),
        ("LA", "PNG", {}),
        ("RGB", "JPEG", {"quality": 90}),
        ("RGB", "JPEG", {"quality": 50, "progressive": True}),
        ("RGB", "WEBP", {"quality": 80}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("I;16", "PNG", {"transparency": 300}),
        ("CMYK", "JPEG", {}),
        ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
        ("LAB", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "packbits"}),
        pytest.param("RGBA", "AVIF", {}, marks=needs_avif),
    ],
)
def test_strip_by_strip_is_bit_for_bit_at_once(
    mode: str,
    kind: str,
    options: dict[str, object],
    orientation: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(mode), kind, exif=exif.tobytes(), **options)
    expected = at_once(Image.open(io.BytesIO(data)))
    for pixels in (1, 200, 1 << 20):
        monkeypatch.setattr(images, "_AT_ONCE", pixels)
        found = load_image(data)
        assert (found.mode, found.size) == ("RGB", expected.size)
        assert found.tobytes() == expected.tobytes()
    other = Image.open(io.BytesIO(data))
    assert to_rgb(other).tobytes() == expected.tobytes()


def test_what_is_handed_in_decoded_stays_the_callers() -> None:
    image = quarters()
    copy = to_rgb(image)
    copy.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == RED


@pytest.mark.parametrize(("negative", "expected"), [(0, 255 - 100), (1, 100)])
def test_sixteen_bit_tiff_where_white_is_zero(negative: int, expected: int) -> None:
    pixels = np.full((4, 4), 257 * 100, "<u2").tobytes()
    entries = [
        *((256, 4, 4), (257, 4, 4), (258, 3, 16), (259, 3, 1), (262, 3, negative), (273, 4, 122)),
        *((277, 3, 1), (278, 4, 4), (279, 4, len(pixels))),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + pixels
    assert load_image(data).getpixel((1, 1)) == (expected,) * 3


# animations


def frame_control(number: int, width: int, height: int, left: int, top: int) -> bytes:
    body = struct.pack(">IIIIIHHBB", number, width, height, left, top, 1, 10, 0, 1)
    return png_chunk(b"fcTL", body)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (1, 2)])
def test_the_first_frame_of_an_apng_and_not_its_default_image(left: int, top: int) -> None:
    first = zlib.compress(b"".join(b"\0" + bytes(RED) * 2 for _ in range(2)))
    half = len(first) // 2
    parts = [
        b"\x89PNG\r\n\x1a\n",
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)),
        png_chunk(b"acTL", struct.pack(">II", 2, 0)),
        png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(BLUE) * 4 for _ in range(4)))),
        frame_control(0, 2, 2, left, top),
        png_chunk(b"fdAT", struct.pack(">I", 1) + first[:half]),
        png_chunk(b"fdAT", struct.pack(">I", 2) + first[half:]),
        frame_control(3, 4, 4, 0, 0),
        png_chunk(b"fdAT", struct.pack(">I", 4) + zlib.compress(b"\0" * 52)),
        png_chunk(b"IEND", b""),
    ]
    image = load_image(b"".join(parts))
    expected = Image.new("RGB", (4, 4), WHITE)
    expected.paste(RED, (left, top, left + 2, top + 2))
    assert image.tobytes() == expected.tobytes()


def test_a_frame_beside_the_picture_is_damage() -> None:
    data = encoded(
        Image.new("RGB", (4, 4), BLUE),
        "PNG",
        save_all=True,
        default_image=True,
        append_images=[Image.new("RGB", (4, 4), RED)],
    )
    at = data.index(b"fcTL") - 4
    moved = data[:at] + frame_control(0, 4, 4, 1, 0) + data[at + 38 :]
    assert load_image(data).getpixel((0, 0)) == RED
    with pytest.raises(InputError, match="lies beside the picture"):
        load_image(moved)


# what is more than the pixels, and what is missing


def test_large_texts_and_profiles_of_a_png_are_left_out() -> None:
    data = encoded(quarters(), "PNG")
    more = [
        (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        (b"tEXt", b"Comment\0" + b"x" * 2_000_000),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        (b"prVt", bytes(2_000_000)),
        (b"tEXt", b"Bad checksum\0")[:2],
    ]
    extra = b"".join(png_chunk(kind, body) for kind, body in more)
    assert close_to(load_image(data[:33] + extra + data[33:]), quarters(), 0)
    assert close_to(load_image(data[:-12] + extra + data[-12:]), quarters(), 0)


def test_texts_that_say_how_a_png_is_turned_are_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = quarters().transpose(Image.Transpose.ROTATE_270)
    xmp, raw = PngInfo(), PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    content = exif.tobytes()
    raw.add_text("Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=True)
    for about in (xmp, raw):
        assert close_to(load_image(encoded(quarters(), "PNG", pnginfo=about)), upright, 0)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("missing", [1, 2, 3, 20])
def test_a_jpeg_that_lacks_its_last_bytes(options: dict[str, object], missing: int) -> None:
    picture = Image.effect_mandelbrot((160, 160), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    data = encoded(picture, "JPEG", quality=95, **options)
    whole, cut = load_image(data), load_image(data[:-missing])
    height = 160 if missing <= 2 else 142
    top = (0, 0, 160, height)
    assert cut.crop(top).tobytes() == whole.crop(top).tobytes()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_of_which_more_is_missing(options: dict[str, object], share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95, **options)
    with pytest.raises(InputError, match="damaged or cut short"):
        load_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}])
def test_a_jpeg_whose_data_end_before_it_does(options: dict[str, object], mode: str) -> None:
    """The decoder fills such with grey, and says nothing where a mark of the end follows."""
    picture = Image.effect_mandelbrot((161, 163), (-2, -1.5, 1, 1.5), 100).convert(mode)
    data = encoded(picture, "JPEG", quality=90, **options)
    # At the end of what belongs to a row of blocks, if there are such.
    row = data.find(b"\xff\xd3") if options else len(data) // 2
    third = len(data) // 3
    frame = data.index(b"\xff\xc0") + 5
    for spoiled in (
        data[: 2 * third] + b"\xff\xd9",
        data[:row] + b"\xff\xd9",
        data[:row],
        # Behind a mark to restart from, what is left lies where it belongs.
        data[: 2 * third] + (b"\xff\xd9" if options else data[-third // 2 :]),
        data[:frame] + struct.pack(">HH", 9000, 161) + data[frame + 4 :],
    ):
        with pytest.raises(InputError, match="damaged or cut short"):
            load_image(spoiled)
    for more in (b"", b"after it \xff\xd9"):
        assert load_image(data + more).tobytes() == load_image(data).tobytes()


def test_an_error_of_a_picture_is_one_line(tmp_path: Path) -> None:
    """The log of the decoder is not written beside it."""
    entries = [(256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (273, 200), (277, 65000)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    picture = tmp_path / "picture.tif"
    picture.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(9000))
    program = "import sys; from gmi_registry.images import load_image; load_image(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, picture], capture_output=True, text=True, check=False
    )
    assert "More samples" not in done.stderr
    assert "InputError" in done.stderr.splitlines()[-1]


# what is no picture, by its name


def ftyp(brand: bytes, *compatible: bytes) -> bytes:
    body = brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(64)


TIFF_OF_A_CAMERA = b"II*\0" + struct.pack("<IH", 8, 2)
THUMBNAIL = struct.pack("<HHII", 254, 4, 1, 1) + struct.pack("<HHII", 330, 4, 1, 99)
DNG = struct.pack("<HHII", 254, 4, 1, 1) + struct.pack("<HHII", 50706, 1, 4, 0x0401)


@pytest.mark.parametrize(
    ("data", "name", "hint"),
    [
        (ftyp(b"heic", b"mif1"), "HEIC", "JPEG"),
        (ftyp(b"mif1", b"heic"), "HEIC", "JPEG"),
        (ftyp(b"crx ", b"crx "), "CR3", "develop"),
        (ftyp(b"qt  "), "video", "ffmpeg"),
        (ftyp(b"isom", b"avc1", b"mp42"), "video", "ffmpeg"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL", "djxl"),
        (b"\xff\x0a" + bytes(20), "JPEG XL", "djxl"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", "rsvg"),
        (b"%PDF-1.7\n", "PDF", "pdftoppm"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript", "export"),
        (b"8BPS" + bytes(30), "Photoshop", "export"),
        (b"\x1aE\xdf\xa3" + bytes(30), "video", "ffmpeg"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page", "download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        (b"P6\n2 2\n255\n" + bytes(12), "Netpbm", "convert"),
        (TIFF_OF_A_CAMERA + THUMBNAIL + bytes(20), "raw file", "develop"),
        (TIFF_OF_A_CAMERA + DNG + bytes(20), "DNG", "develop"),
        (b"PK\x03\x04" + bytes(30), "zip", "unpack"),
    ],
)
def test_other_formats_are_named_with_the_way_out(data: bytes, name: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        load_image(data)
    assert name in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_nobody_is_told_to_give_the_format_that_was_given(kind: str) -> None:
    data = bytearray(encoded(quarters(), kind))
    data[12 if kind != "BMP" else 14 :] = b"\xaa" * 40
    with pytest.raises(InputError) as caught:
        load_image(bytes(data))
    name = {"WEBP": "WebP"}.get(kind, kind)
    assert f"a {name} picture that is damaged" in caught.value.message
    assert not str(caught.value.hint).startswith("give a")


def test_a_jpeg_of_twelve_bits_is_named() -> None:
    data = bytearray(encoded(quarters(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(InputError, match="a JPEG picture that is of 12 bits"):
        load_image(bytes(data))


# what is no file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    path = tmp_path / "s.png"
    with socket.socket(socket.AF_UNIX) as listening:
        # Names of sockets are short.
        listening.bind(os.path.relpath(path) if len(str(path)) > 100 else str(path))
        for name, reason in [
            (tmp_path / "pipe.png", "a pipe, not an image"),
            (path, "a socket, not an image"),
            (Path("/dev/null"), "a device, not an image"),
            (tmp_path / "loop.png", "cannot read the image"),
            (tmp_path / ("x" * 300), "cannot read the image"),
            (tmp_path / "nul\0.png", "cannot read the image"),
        ]:
            with pytest.raises(InputError, match=reason) as caught:
                load_image(name)
            assert caught.value.hint
    with pytest.raises(InputError, match="no such file") as caught:
        load_image("-")
    assert "standard input" in str(caught.value.hint)


def test_a_name_is_one_line_whatever_is_in_it() -> None:
    with pytest.raises(InputError) as caught:
        load_image("a\nb\x1b[31m\u202e.png")
    assert caught.value.message == "a\\nb\\x1b[31m\\u202e.png: no such file"


# memory


MEASURED = """
import sys
from gmi_registry.errors import InputError
from gmi_registry.images import load_image
try:
    said = str(load_image(sys.argv[1]).size)
except InputError as error:
    said = f"{error.message} {error.hint}"
# Of this program alone: what getrusage says counts the one that started it.
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(int(peak) // 1024, said)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted otherwise elsewhere")
@pytest.mark.parametrize(
    ("side", "depth", "colour", "orientation", "said"),
    [
        (8000, 16, 0, 6, "(8000, 8000)"),
        (7000, 8, 2, 6, "(7000, 7000)"),
        (8000, 8, 6, 1, "take 427 MB to read, more than 350 scale the picture down to at most 52"),
    ],
)
def test_no_picture_takes_more_than_400_mb(
    tmp_path: Path, side: int, depth: int, colour: int, orientation: int, said: str
) -> None:
    rows = zlib.compressobj(1)
    row = bytes(1 + side * depth // 8 * {0: 1, 2: 3, 6: 4}[colour])
    packed = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    exif = Image.Exif()
    exif[0x0112] = orientation
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)),
        (b"IDAT", packed),
        (b"eXIf", exif.tobytes()[6:]),
        (b"IEND", b""),
    ]
    path = tmp_path / "large.png"
    content = b"".join(png_chunk(kind, body) for kind, body in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=True
    )
    memory, _, found = ran.stdout.partition(" ")
    assert said in found
    assert int(memory) <= 400
