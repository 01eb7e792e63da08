"""From pictures to a specification and its contact sheet."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gmi_registry import __version__
from gmi_registry.errors import InputError, SpecFormatError
from gmi_registry.generation import Encoding, build_spec, contact_sheet, describe, draft_spec
from gmi_registry.spec import GenerationRecipe, PromptSet, Sampler, WeightFile, encode_spec
from tests.support.grey_encoder import GreyEncoder
from tests.support.tiny_models import model_files

SETS = (PromptSet("default", 1, ("a cat", "snow")), PromptSet("own", 1, ("a dog",)))


def recipe_with(**fields):
    wanted = {
        "sampler": Sampler(name="DDIMScheduler"),
        "steps": 1,
        "guidance_scale": 1.0,
        "width": 8,
        "height": 8,
        "seeds": (0, 1),
    }
    return GenerationRecipe(**(wanted | fields))


def pictures(count):
    return [Image.new("RGB", (8, 8), (40 * n, 255 - 40 * n, 7)) for n in range(count)]


@pytest.fixture
def model(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    found = model_files(tmp_path, "tiny/one", tags=("flat", "flat", "x" * 300, "icons"))
    return replace(found, url="file:///tmp/x")


def encoded(images, encoder=None, **settings):
    encoding = Encoding(encoder or GreyEncoder(), len(images), **settings)
    encoding.prepare(images)
    return encoding.rows()


def built(model, encoder=None):
    rows = encoded(pictures(6), encoder)
    return build_spec(model, rows, GreyEncoder(), SETS, recipe_with(), previous="1" * 64)


def test_rows_stand_by_prompt_set_prompt_and_seed(model):
    spec = built(model)
    assert spec.image_prompt.tolist() == [0, 0, 1, 1, 2, 2]
    assert [block.rows for block in spec.manifest.prompt_sets] == [(0, 4), (4, 6)]
    expected = GreyEncoder().encode_images(pictures(6)).astype(np.float16)
    assert np.array_equal(spec.image_embeddings, expected)
    texts = GreyEncoder().encode_texts(["a cat", "snow", "a dog"]).astype(np.float16)
    assert np.array_equal(spec.prompt_embeddings, texts)
    assert spec.manifest.previous == "1" * 64
    assert spec.manifest.tool.version == __version__


def test_the_description_keeps_what_the_format_can_hold(model):
    described = describe(model)
    assert described.tags == ("flat", "icons")
    assert described.url is None
    assert described.licence == "cc0-1.0"
    web = replace(model, url="https://example.org/tiny/one")
    assert describe(web).url == "https://example.org/tiny/one"


def test_a_card_that_cannot_be_described_is_named(model):
    with pytest.raises(InputError, match="title"):
        describe(replace(model, card=replace(model.card, title="")))


def folder_with(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(name.encode())
    return folder


@pytest.mark.parametrize("kind", ["lora", "single-file"])
def test_the_base_s_own_weights_are_described(tmp_path, kind):
    root = model_files(folder_with(tmp_path / "root", "r"), "tiny/root")
    base = model_files(folder_with(tmp_path / "base", "b", "a"), "tiny/base", "lora", base=root)
    base = replace(base, weights=base.weights[::-1])
    model = model_files(folder_with(tmp_path / "own", "w"), "tiny/own", kind, base=base)
    described = describe(model)
    assert described.weights == model.weights
    assert described.base_weights == base.weights[::-1]
    assert [weight.path for weight in described.base_weights] == [
        "a.safetensors",
        "b.safetensors",
    ]
    assert described.base_weights_digest == describe(base).weights_digest


def test_a_base_of_no_weights_is_left_out(tmp_path, model):
    bare = replace(model, weights=())
    file = model_files(folder_with(tmp_path / "own", "w"), "tiny/own", "single-file", base=bare)
    assert describe(file).base_weights is None
    assert describe(replace(file, base=None)).base_weights is None


def test_a_checkpoint_has_no_base_weights_whatever_it_was_made_from(tmp_path, model):
    whole = model_files(folder_with(tmp_path / "own", "w"), "tiny/own", base=model)
    described = describe(whole)
    assert described.base_model == "tiny/one"
    assert described.base_weights is None


def test_a_draft_of_a_lora_is_as_large_as_the_real_thing(tmp_path, model):
    lora = model_files(folder_with(tmp_path / "own", "w"), "tiny/own", "lora", base=model)
    spec = built(lora)
    draft = draft_spec(lora, GreyEncoder.ref, SETS, recipe_with(), previous="1" * 64)
    assert spec.manifest.model.base_weights == draft.manifest.model.base_weights == model.weights
    assert [len(part) for part in encode_spec(draft)] == [len(part) for part in encode_spec(spec)]


@pytest.mark.parametrize("field", ["weights", "base_weights"])
def test_too_many_weight_files_are_not_blamed_on_the_card(tmp_path, model, field):
    lora = model_files(folder_with(tmp_path / "own", "w"), "tiny/own", "lora", base=model)
    many = tuple(WeightFile(path=f"{n:03}", size=1, sha256="1" * 64) for n in range(201))
    crowded = {
        "weights": replace(lora, weights=many),
        "base_weights": replace(lora, base=replace(model, weights=many)),
    }
    with pytest.raises(InputError, match=rf"its weight files .* {field}: ") as caught:
        describe(crowded[field])
    assert "200" in caught.value.hint


def test_a_draft_is_as_large_as_the_real_thing(model):
    spec = built(model)
    draft = draft_spec(model, GreyEncoder.ref, SETS, recipe_with(), previous="1" * 64)
    assert [len(part) for part in encode_spec(draft)] == [len(part) for part in encode_spec(spec)]


def test_an_encoder_that_gives_rubbish_is_refused(model):
    class Broken(GreyEncoder):
        def encode_images(self, images):
            return super().encode_images(images) * np.nan

    with pytest.raises(SpecFormatError):
        built(model, Broken())


def sheet_of(blocks):
    image = Image.open(BytesIO(contact_sheet(blocks)))
    assert image.format == "WEBP"
    return image


def test_55_pictures_make_eleven_by_five():
    sheet = sheet_of([pictures(5) * 11])
    assert sheet.size == (2 * 16 + 11 * 136 - 8, 2 * 16 + 5 * 136 - 8)


def test_the_same_pictures_give_the_same_bytes():
    assert contact_sheet([pictures(6)]) == contact_sheet([pictures(6)])


def test_a_second_block_stands_below_in_the_same_columns():
    one, two = sheet_of([pictures(6)]), sheet_of([pictures(6), pictures(2)])
    assert two.width == one.width
    assert two.height == one.height + 24 + 128


def test_a_wide_picture_keeps_its_proportions():
    sheet = sheet_of([[Image.new("RGB", (300, 100), (200, 0, 0))]]).convert("RGB")
    assert sheet.size == (160, 160)
    assert sheet.getpixel((80, 80))[0] > 150
    assert min(sheet.getpixel((80, 30))) > 240


def test_a_sheet_shows_at_most_200_pictures_of_a_block():
    assert sheet_of([pictures(5) * 50]).size == sheet_of([pictures(5) * 40]).size


def test_no_pictures_are_refused():
    with pytest.raises(InputError, match="at least one picture"):
        contact_sheet([[], []])
