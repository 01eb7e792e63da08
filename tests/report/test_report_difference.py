"""The page of a difference: its cells, its words, and that nothing in it is believed."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from gmi_registry.errors import InputError
from gmi_registry.generation.specification import contact_sheet
from gmi_registry.report.difference import (
    Neighbour,
    difference_page,
    scales,
    verdict,
    write_difference,
)
from gmi_registry.report.figures import ContactSheet
from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    Preprocess,
    PromptSet,
    Sampler,
    WeightFile,
    build_spec,
)
from gmi_registry.spec.diff import diff_specs

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def spec(prompts=30, *, own=0, moved=(), title="Flat", nsfw=False, seed=0, model="flat"):
    """Its images are noise that is always the same, but for the prompts that are ``moved``."""
    images = np.random.default_rng(seed).normal(size=(prompts + own, 6))
    for step, number in enumerate(moved, start=1):
        images[number] += 9 * step
    sets = [PromptSet("default", 1, tuple(f"prompt {number}" for number in range(prompts)))]
    if own:
        sets.append(PromptSet("own", 1, tuple(f"own {number}" for number in range(own))))
    return build_spec(
        model=DescribedModel(
            hub="local",
            id=model,
            title=title,
            kind="lora",
            nsfw=nsfw,
            weights=(WeightFile(path="w.safetensors", size=3, sha256="1" * 64),),
        ),
        encoder=EncoderRef(
            name="tiny",
            pretrained="none",
            weights_sha256="2" * 64,
            preprocess=Preprocess(
                size=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic",
                resize_mode="shortest",
            ),
            image_dim=6,
            text_dim=3,
        ),
        prompt_sets=sets,
        recipe=GenerationRecipe(
            sampler=Sampler(name="DDIM"), steps=5, guidance_scale=3, width=8, height=8, seeds=(0,)
        ),
        image_embeddings=images,
        prompt_embeddings=np.ones((prompts + own, 3)),
        image_prompt=np.arange(prompts + own),
    )  # fmt: skip


def colour(number):
    return (number * 37 % 256, number * 91 % 256, number * 151 % 256)


def sheet(path, counts):
    numbers = iter(range(sum(counts)))
    blocks = [
        [Image.new("RGB", (64, 64), colour(next(numbers))) for _ in range(count)]
        for count in counts
    ]
    path.write_bytes(contact_sheet(blocks))
    return path


def middle(picture):
    return picture.getpixel((picture.width // 2, picture.height // 2))


@pytest.mark.parametrize("counts", [(1,), (2,), (55,), (30, 7), (7, 30), (230,), (12, 5)])
def test_every_cell_is_the_picture_of_its_prompt(tmp_path, counts):
    place = sheet(tmp_path / "preview.webp", counts)
    manifest = spec(counts[0], own=sum(counts[1:])).manifest
    found = ContactSheet(place, manifest)
    for number in range(min(200, counts[0])):
        cell = found.cell(number)
        assert cell.size == (128, 128)
        assert max(abs(a - b) for a, b in zip(middle(cell), colour(number), strict=True)) < 12
    assert counts[0] <= 200 or found.cell(200) is None
    with pytest.raises(InputError):
        found.cell(-1)


@pytest.mark.parametrize("size", [(640, 480), (16, 16), (24 + 136 * 3, 500), (3000, 160)])
def test_a_sheet_of_another_layout_is_not_cut(tmp_path, size):
    place = tmp_path / "preview.webp"
    Image.new("RGB", size, "white").save(place)
    with pytest.raises(InputError, match="not laid out"):
        ContactSheet(place, spec(30).manifest)


def test_what_is_no_sheet_is_refused(tmp_path):
    manifest = spec(30).manifest
    for name, content in (
        ("gone", None),
        ("png", _bytes(Image.new("RGB", (160, 160)), "PNG")),
        ("cut", _bytes(Image.new("RGB", (160, 160), "red"), "WEBP")[:60]),
        ("long", b"RIFF" + bytes(9 * 2**20)),
        ("wide", _bytes(Image.new("L", (16000, 3000)), "WEBP")),
    ):
        place = tmp_path / name
        if content is not None:
            place.write_bytes(content)
        with pytest.raises(InputError, match=str(place)):
            ContactSheet(place, manifest)


def _bytes(image, kind):
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def html(page, tmp_path):
    return write_difference(page, tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_has_the_pairs_of_what_moved_most(tmp_path):
    old, new = spec(), spec(moved=(4, 9))
    sheets = (sheet(tmp_path / "a.webp", (30,)), sheet(tmp_path / "b.webp", (30,)))
    page = difference_page(diff_specs(old, new), old, new, names=("a", "b"), previews=sheets)
    assert [pair.prompt for pair in page.pairs] == ["prompt 9", "prompt 4"]
    text = html(page, tmp_path)
    assert text.count('<img src="data:image/webp;base64,') == 4
    assert text.index("prompt 9") < text.index("prompt 4")
    assert "How far Flat has moved" in text
    assert "no picture" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert text == html(page, tmp_path)


def test_texts_are_shown_and_not_run(tmp_path):
    old, new = spec(), spec(moved=(4,), title=HOSTILE)
    page = difference_page(
        diff_specs(old, new), old, new, names=(HOSTILE, "b"), previews=(None, None)
    )
    text = html(page, tmp_path)
    assert "<script" not in text
    assert "onerror=alert(1)&gt;" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert text.count("no picture") == 2
    assert "The old specification has no contact sheet." in text


def test_what_is_not_for_everybody_is_closed(tmp_path):
    old, new = spec(nsfw=True), spec(moved=(4,), nsfw=True)
    page = difference_page(diff_specs(old, new), old, new, names=("a", "b"), previews=(None, None))
    text = html(page, tmp_path)
    assert "<details>" in text
    assert "<details open" not in text


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    old, new = spec(), spec(moved=(4,))
    page = difference_page(diff_specs(old, new), old, new, names=("a", "b"), previews=(None, None))
    with pytest.raises(InputError, match="cannot be written"):
        write_difference(page, tmp_path / "nowhere" / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (spec(), "are the same"),
        (spec(title="Other"), "The images are the same"),
        (spec(seed=1), "as they do when the same model generates them again"),
        (spec(moved=range(30)), "The model has moved"),
        (spec(moved=range(30), model="other"), "The two models differ"),
        (spec(5), "cannot be compared: other default prompts"),
    ],
)
def test_the_verdict_in_words(new, said):
    assert said in verdict(diff_specs(spec(), new))
    assert said in verdict(diff_specs(spec(), new))


def test_few_prompts_give_no_verdict():
    assert "4 prompts are too few to say" in verdict(diff_specs(spec(4), spec(4, moved=(1, 2))))


def test_scales_are_ratios_of_distances_and_not_of_squares():
    movement = diff_specs(spec(), spec(moved=range(30))).movement
    neighbour = Neighbour("local:near", "Near", 4 * movement.mmd2)
    found = {scale.label: scale for scale in scales(movement, neighbour)}
    assert found["the nearest other model, local:near"].share == "50 %"
    assert len(found) == 3
    assert len(scales(movement)) == 2
