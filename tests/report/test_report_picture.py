import base64
import io

import pytest
from PIL import Image

from gmi_registry.errors import InputError
from gmi_registry.report import figures
from gmi_registry.report.figures import embed, embed_preview


def decoded(shown):
    head, _, body = shown.uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_a_preview_is_encoded_anew_without_what_it_carried(tmp_path):
    path = tmp_path / "preview.webp"
    secret = b"<script>alert(1)</script>"
    Image.new("RGB", (40, 20), "red").save(path, "WEBP", xmp=secret, exif=b"Exif\0\0II*\0\x08")
    path.write_bytes(path.read_bytes() + secret)
    shown = embed_preview(path)
    image = decoded(shown)
    assert (shown.width, shown.height) == image.size == (40, 20)
    assert secret not in base64.b64decode(shown.uri.partition(",")[2])
    assert not {"xmp", "exif"} & image.info.keys()


def test_large_pictures_are_made_smaller():
    shown = embed(Image.new("RGB", (3000, 300)))
    assert (shown.width, shown.height) == (640, 64)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_every_mode_can_be_shown(mode):
    assert decoded(embed(Image.new(mode, (8, 8)))).size == (8, 8)


def test_only_webp_is_opened(tmp_path):
    path = tmp_path / "preview.webp"
    Image.new("RGB", (8, 8)).save(path, "PNG")
    with pytest.raises(InputError, match="is not a WebP picture"):
        embed_preview(path)


def test_a_preview_cut_short(tmp_path):
    path = tmp_path / "preview.webp"
    Image.effect_noise((200, 200), 90).convert("RGB").save(path, "WEBP")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"damaged|not a WebP"):
        embed_preview(path)


def test_a_preview_of_too_many_bytes(tmp_path):
    path = tmp_path / "preview.webp"
    with path.open("wb") as stream:
        stream.truncate(figures.PREVIEW_BYTES + 1)
    with pytest.raises(InputError, match="more than 8,388,608 bytes"):
        embed_preview(path)


def test_a_preview_of_too_many_pixels(tmp_path, monkeypatch):
    path = tmp_path / "preview.webp"
    Image.new("RGB", (64, 64)).save(path, "WEBP")
    monkeypatch.setattr(figures, "PREVIEW_PIXELS", 64 * 63)
    with pytest.raises(InputError, match="64 x 64 pixels"):
        embed_preview(path)


def test_a_preview_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        embed_preview(tmp_path / "preview.webp")
