"""Pictures of every kind come out as upright RGB; everything else is one clear line."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

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
    def fail(image: Image.Image) -> Image.Image:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
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
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", b"short"), "not"),
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

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="cannot read the image: Permission denied"):
        load_image(tmp_path / "secret.png")


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
