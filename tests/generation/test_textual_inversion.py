"""Textual inversions are loaded with their words, and the words go into the prompts."""

import pytest
import torch

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation import RecipeOverrides, check_prompts, default_recipe, load_model
from gmi_registry.generation.textual_inversion import learned_words, require_words_used
from gmi_registry.spec import PromptSet
from tests.support.lora_layouts import ATTENTION, Bases, kohya_names, write

pytestmark = pytest.mark.usefixtures("folders_loaded_once")


@pytest.fixture(scope="module")
def bases(model_store):
    return Bases(model_store)


def _width(pipeline, number=""):
    encoder = getattr(pipeline, f"text_encoder{number}")
    return encoder.get_input_embeddings().weight.shape[1]


def _vectors(bases, base, count, number=""):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, _width(bases.pipeline(base), number), generator=generator)


def _load(bases, tmp_path, base, tensors, file, **card):
    files = bases.files(base)
    model = write(tmp_path / "word", tensors, files, file=file, kind="textual-inversion", **card)
    return model, load_model(model, device="cpu")


def _read(pipeline, text, number=""):
    tokenizer = getattr(pipeline, f"tokenizer{number}")
    ids = tokenizer(
        pipeline.maybe_convert_prompt(text, tokenizer), add_special_tokens=False
    ).input_ids
    return getattr(pipeline, f"text_encoder{number}").get_input_embeddings().weight[ids].detach()


@pytest.mark.parametrize(
    ("file", "overrides", "way"),
    [
        ("gothic-9.safetensors", {"trigger_words": ("ink",)}, "no other --trigger-word"),
        ("gothic-9.safetensors", {"trigger_words": ()}, "shorter prompts"),
        ("badhandv4.safetensors", {"negative_prompt": "blurry"}, "no other --negative-prompt"),
        ("badhandv4.safetensors", {"guidance_scale": 1.0}, "--guidance above 1"),
    ],
)
def test_images_without_the_word_are_refused(file, overrides, way, bases, tmp_path):
    """They are those of the base, under another name."""
    model, loaded = _load(bases, tmp_path, "sd15", {"emb_params": _vectors(bases, "sd15", 2)}, file)
    sets = [PromptSet("few", 1, ("a cat",))]
    usual = default_recipe(loaded.pipeline, model)
    require_words_used(loaded.pipeline, model, usual, sets)
    recipe = default_recipe(loaded.pipeline, model, RecipeOverrides(**overrides))
    with pytest.raises(InputError, match="is in no prompt") as caught:
        require_words_used(loaded.pipeline, model, recipe, sets)
    assert way in caught.value.hint
    if "guidance_scale" not in overrides and "trigger_words" in overrides:
        word = learned_words(loaded.pipeline).words[0]
        own = [PromptSet("own", 1, (f"a {word} cat",))]
        require_words_used(loaded.pipeline, model, recipe, own)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("key", "file", "word"),
    [
        ("<cat-toy>", "learned_embeds.safetensors", "<cat-toy>"),
        ("emb_params", "charturner.safetensors", "charturner"),
        ("emb_params", "CharTurner V2.safetensors", "charturner-v2"),
        ("string_to_param.*", "gothic-9.safetensors", "gothic-9"),
    ],
)
def test_a_word_is_taught_and_goes_before_every_prompt(key, file, word, count, bases, tmp_path):
    vectors = _vectors(bases, "sd15", count)
    model, loaded = _load(bases, tmp_path, "sd15", {key: vectors}, file)
    assert learned_words(loaded.pipeline).words == (word,)
    torch.testing.assert_close(_read(loaded.pipeline, word), vectors)
    recipe = default_recipe(loaded.pipeline, model)
    assert recipe.trigger_words == (word,)
    assert recipe.lora_scale is None
    assert recipe.render("a cat").startswith(word)


def test_a_known_word_goes_by_another_spelling(bases, tmp_path):
    vectors = _vectors(bases, "sd15", 2)
    model, loaded = _load(
        bases, tmp_path, "sd15", {"emb_params": vectors}, "cat.safetensors", trigger_words=("cat",)
    )
    (word,) = learned_words(loaded.pipeline).words
    assert word == "<cat-embedding>"
    assert any("'cat'" in note and word in note for note in loaded.notes)
    torch.testing.assert_close(_read(loaded.pipeline, word), vectors)
    assert default_recipe(loaded.pipeline, model).trigger_words == (word,)


def test_the_word_of_the_card_comes_first(bases, tmp_path):
    model, loaded = _load(
        bases,
        tmp_path,
        "sd15",
        {"emb_params": _vectors(bases, "sd15", 1)},
        "v3-final.safetensors",
        trigger_words=("midjrny9",),
    )
    assert default_recipe(loaded.pipeline, model).trigger_words == ("midjrny9",)


@pytest.mark.parametrize(
    "name", ["easynegative", "badhandv4", "ng_deepnegative_v1", "negativeXL_D"]
)
def test_an_embedding_for_negative_prompts_goes_there(name, bases, tmp_path):
    model, loaded = _load(
        bases,
        tmp_path,
        "sd15",
        {"emb_params": _vectors(bases, "sd15", 2)},
        f"{name}.safetensors",
        trigger_words=(name,),
    )
    recipe = default_recipe(loaded.pipeline, model)
    assert recipe.trigger_words == ()
    assert recipe.negative_prompt == name.lower()
    assert any("a guess" in note for note in loaded.notes)


@pytest.mark.parametrize("name", ["badlands", "negev", "synegate", "abadabad"])
def test_other_names_are_none_of_negative_prompts(name, bases, tmp_path):
    tensors = {"emb_params": _vectors(bases, "sd15", 1)}
    model, loaded = _load(bases, tmp_path, "sd15", tensors, f"{name}.safetensors")
    assert default_recipe(loaded.pipeline, model).negative_prompt == ""


def test_sdxl_learns_a_word_twice(bases, tmp_path):
    one, two = _vectors(bases, "sdxl", 2), _vectors(bases, "sdxl", 2, "_2")
    tensors = {"clip_l": one, "clip_g": two}
    model, loaded = _load(bases, tmp_path, "sdxl", tensors, "zxcstyle.safetensors")
    torch.testing.assert_close(_read(loaded.pipeline, "zxcstyle"), one)
    torch.testing.assert_close(_read(loaded.pipeline, "zxcstyle", "_2"), two)
    assert default_recipe(loaded.pipeline, model).trigger_words == ("zxcstyle",)


def test_the_word_changes_the_image(bases, tmp_path):
    from gmi_registry.generation import BatchCache, generate

    tensors = {"emb_params": 50 * _vectors(bases, "sd15", 2)}
    model, loaded = _load(bases, tmp_path, "sd15", tensors, "zxcstyle.safetensors")
    images = []
    for words in (None, ()):
        overrides = RecipeOverrides(steps=1, width=32, height=32, trigger_words=words)
        recipe = default_recipe(loaded.pipeline, model, overrides)
        cache = BatchCache(tmp_path / f"work{len(images)}", model, recipe)
        images.append(generate(loaded.pipeline, ["a cat"], recipe, cache=cache)[0].tobytes())
    assert images[0] != images[1]


def test_the_tokens_of_a_word_are_counted(bases, tmp_path):
    tensors = {"emb_params": _vectors(bases, "sd15", 60)}
    model, loaded = _load(bases, tmp_path, "sd15", tensors, "zxcstyle.safetensors")
    recipe = default_recipe(loaded.pipeline, model)
    check_prompts(loaded.pipeline, [PromptSet("short", 1, ("a cat",))], recipe)
    with pytest.raises(InputError, match="tokens, but the model reads"):
        check_prompts(loaded.pipeline, [PromptSet("long", 1, ("a cat" + " sits" * 20,))], recipe)


@pytest.mark.parametrize(
    ("base", "tensors", "said"),
    [
        ("sd15", {"emb_params": (2, 7)}, "has vectors of 7 numbers, and the text_encoder"),
        ("sd15", {"clip_l": None, "clip_g": (2, 7)}, "for a text encoder that its base lacks"),
        ("sdxl", {"emb_params": None}, "has vectors for one text encoder, and its base has 2"),
        ("sdxl", {"clip_l": None}, "has no vectors for the text_encoder_2 of its base"),
        ("sd3", {"clip_l": (1, 4)}, "cannot learn words"),
    ],
)
def test_an_embedding_for_another_base_is_refused_in_words(base, tensors, said, bases, tmp_path):
    made = {
        key: _vectors(bases, base, 1) if shape is None else torch.ones(shape)
        for key, shape in tensors.items()
    }
    with pytest.raises(GenerationError, match=said) as caught:
        _load(bases, tmp_path, base, made, "zxcstyle.safetensors")
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("value", "said"), [(torch.nan, "not finite"), (0.0, "has no effect")])
def test_a_damaged_embedding_is_refused(value, said, bases, tmp_path):
    vectors = torch.full_like(_vectors(bases, "sd15", 1), value)
    with pytest.raises(GenerationError, match=said):
        _load(bases, tmp_path, "sd15", {"emb_params": vectors}, "zxcstyle.safetensors")


# ---- with a LoRA: pivotal tuning


def test_words_inside_a_loras_file_are_taught(bases, tmp_path):
    vectors = _vectors(bases, "sd15", 2)
    tensors = kohya_names(bases.factors("sd15", unet=ATTENTION))
    tensors["bundle_emb.zxcword.string_to_param.*"] = vectors
    model = write(tmp_path / "lora", tensors, bases.files("sd15"), trigger_words=("a zxcword cat",))
    loaded = load_model(model, device="cpu")
    assert loaded.lora_partial is None
    torch.testing.assert_close(_read(loaded.pipeline, "zxcword"), vectors)
    assert default_recipe(loaded.pipeline, model).trigger_words == ("a zxcword cat",)


def test_words_in_a_file_beside_a_lora_are_taught(bases, tmp_path):
    from safetensors.torch import save_file

    one, two = _vectors(bases, "sdxl", 2), _vectors(bases, "sdxl", 2, "_2")
    (tmp_path / "lora").mkdir()
    save_file({"clip_l": one, "clip_g": two}, tmp_path / "lora" / "style_emb.safetensors")
    tensors = kohya_names(bases.factors("sdxl", unet=ATTENTION))
    model = write(
        tmp_path / "lora", tensors, bases.files("sdxl"), trigger_words=("in the style of <s0><s1>",)
    )
    loaded = load_model(model, device="cpu")
    assert any("style_emb.safetensors is loaded" in note for note in loaded.notes)
    torch.testing.assert_close(_read(loaded.pipeline, "<s0><s1>", "_2"), two)
    torch.testing.assert_close(_read(loaded.pipeline, "<s0><s1>"), one)
    words = default_recipe(loaded.pipeline, model).trigger_words
    assert words == ("in the style of <s0><s1>",)
