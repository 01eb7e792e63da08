"""Pictures: independent of their neighbours, kept batch by batch, resumed without a trace."""

import errno
import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gmi_registry.errors import GenerationError
from gmi_registry.generation import (
    BatchCache,
    RecipeOverrides,
    default_recipe,
    generate,
    images_kept,
    load_pipeline,
    noise_seed,
)
from tests.support.tiny_models import SIDE

PROMPTS = ("a cat", "a red house", "the sea", "an old man", "snow")


@pytest.fixture
def recipe(pipeline, base):
    return default_recipe(pipeline, base, RecipeOverrides(steps=1, batch_size=2))


def bytes_of(images):
    return [path.read_bytes() for path in images.paths]


def test_noise_seeds_are_fixed_for_ever():
    expected = int(hashlib.sha256(b"7\na cat").hexdigest()[:16], 16) >> 1
    assert noise_seed("a cat", 7) == expected
    assert len({noise_seed(prompt, seed) for prompt in PROMPTS for seed in range(3)}) == 15


def test_each_prompt_is_drawn_once_a_seed_in_order(pipeline, base, tmp_path):
    recipe = default_recipe(pipeline, base, RecipeOverrides(steps=1, batch_size=4, seeds=(3, 1)))
    told = []
    images = generate(
        pipeline,
        PROMPTS[:3],
        recipe,
        cache=BatchCache(tmp_path, base, recipe),
        progress=lambda *counts: told.append(counts),
    )
    assert len(images) == 6
    assert told == [(0, 6), (4, 6), (6, 6)]
    assert images[0].size == (16, 16)
    assert images[0].mode == "RGB"
    assert len(images[1:4]) == 3
    assert len(set(bytes_of(images))) == 6


def test_a_picture_does_not_depend_on_the_others(pipeline, base, recipe, tmp_path):
    cache = BatchCache(tmp_path, base, recipe)
    together = generate(pipeline, PROMPTS, recipe, cache=cache)
    backwards = generate(pipeline, PROMPTS[::-1], recipe, cache=cache)
    for one, other in zip(together, backwards[::-1], strict=True):
        # Not to the last bit: a matrix product may round by the size of its batch.
        difference = np.asarray(one, int) - np.asarray(other, int)
        assert np.abs(difference).max() <= 1


def test_a_run_interrupted_by_ctrl_c_goes_on_to_the_same_bytes(pipeline, base, recipe, tmp_path):
    whole = generate(pipeline, PROMPTS, recipe, cache=BatchCache(tmp_path / "a", base, recipe))
    cache = BatchCache(tmp_path / "b", base, recipe)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(pipeline, PROMPTS, recipe, cache=cache, progress=interrupt)
    assert images_kept(cache, PROMPTS, recipe) == 2
    told = []
    resumed = generate(
        pipeline, PROMPTS, recipe, cache=cache, progress=lambda *counts: told.append(counts)
    )
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert bytes_of(resumed) == bytes_of(whole)


def test_ctrl_c_in_mid_batch_leaves_nothing_half(pipeline, base, recipe, tmp_path, monkeypatch):
    cache = BatchCache(tmp_path, base, recipe)
    saved = []
    save = Image.Image.save

    def interrupted_save(image, *arguments, **settings):
        saved.append(image)
        if len(saved) == 4:
            raise KeyboardInterrupt
        save(image, *arguments, **settings)

    monkeypatch.setattr(Image.Image, "save", interrupted_save)
    with pytest.raises(KeyboardInterrupt):
        generate(pipeline, PROMPTS, recipe, cache=cache)
    monkeypatch.undo()
    assert images_kept(cache, PROMPTS, recipe) == 2
    assert len(list(cache.folder.iterdir())) == 1


def test_a_finished_run_draws_nothing_again(pipeline, base, recipe, tmp_path):
    cache = BatchCache(tmp_path, base, recipe)
    first = generate(pipeline, PROMPTS[:2], recipe, cache=cache)
    assert bytes_of(generate(None, PROMPTS[:2], recipe, cache=cache)) == bytes_of(first)


def test_a_damaged_picture_is_drawn_again(pipeline, base, recipe, tmp_path):
    cache = BatchCache(tmp_path, base, recipe)
    first = generate(pipeline, PROMPTS[:3], recipe, cache=cache)
    before = bytes_of(first)
    first.paths[1].write_bytes(before[1][:50])
    assert images_kept(cache, PROMPTS[:3], recipe) == 1
    assert bytes_of(generate(pipeline, PROMPTS[:3], recipe, cache=cache)) == before


def test_other_weights_or_another_recipe_are_another_run(base, lora, recipe, tmp_path):
    changed = base.weights[0].model_copy(update={"sha256": "0" * 64})
    other_base = replace(base, weights=(changed, *base.weights[1:]))
    newer = recipe.model_copy(update={"libraries": {"torch": "99"}})
    folders = {
        BatchCache(tmp_path, model, chosen).folder
        for model, chosen in [
            (base, recipe),
            (other_base, recipe),
            (base, newer),
            (lora, recipe),
            (replace(lora, base=other_base), recipe),
        ]
    }
    assert len(folders) == 5


def test_a_full_disk_is_a_clear_error_and_keeps_what_is_finished(
    pipeline, base, recipe, tmp_path, monkeypatch
):
    cache = BatchCache(tmp_path, base, recipe)
    saved = []
    save = Image.Image.save

    def full(image, *arguments, **settings):
        saved.append(image)
        if len(saved) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, *arguments, **settings)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(GenerationError, match="the disk is full") as caught:
        generate(pipeline, PROMPTS, recipe, cache=cache)
    assert "again" in caught.value.hint
    monkeypatch.undo()
    assert images_kept(cache, PROMPTS, recipe) == 2


def test_a_journal_that_cannot_be_written_is_a_clear_error(pipeline, base, recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GenerationError, match="cannot be written"):
        generate(pipeline, PROMPTS, recipe, cache=BatchCache(tmp_path / "file", base, recipe))


def test_a_picture_that_vanished_is_a_clear_error(pipeline, base, recipe, tmp_path):
    cache = BatchCache(tmp_path, base, recipe)
    images = generate(pipeline, PROMPTS[:2], recipe, cache=cache)
    cache.discard()
    with pytest.raises(GenerationError, match="missing or damaged"):
        images[0]
    cache.discard()


def test_a_model_that_fails_is_one_clear_line(base, recipe, tmp_path):
    def broken(prompt, generator, output_type):
        raise RuntimeError("out of memory\nand more")

    with pytest.raises(
        GenerationError, match="failed to generate the image of 'a cat': out of memory and more"
    ):
        generate(_Called(broken), PROMPTS, recipe, cache=BatchCache(tmp_path, base, recipe))


def test_pixels_that_are_no_numbers_are_refused(base, recipe, tmp_path):
    def black(prompt, generator, output_type):
        return SimpleNamespace(images=np.full((len(prompt), SIDE, SIDE, 3), np.nan))

    with pytest.raises(GenerationError, match="not numbers for 'a cat'"):
        generate(_Called(black), PROMPTS, recipe, cache=BatchCache(tmp_path, base, recipe))


def test_a_picture_of_another_size_than_is_recorded_is_refused(base, recipe, tmp_path):
    def mapped(prompt, generator, output_type):
        return SimpleNamespace(images=np.zeros((len(prompt), 2 * SIDE, SIDE, 3)))

    with pytest.raises(GenerationError, match="generated 16 x 32 pixels where 16 x 16") as caught:
        generate(_Called(mapped), PROMPTS, recipe, cache=BatchCache(tmp_path, base, recipe))
    assert caught.value.hint == "give --width 16 --height 32"


class _Called:
    def __init__(self, function):
        self._function = function
        self.__call__ = function

    def __call__(self, **settings):
        return self._function(**settings)


def test_the_lora_scale_counts(lora, pipeline, base, tmp_path):
    adapted = load_pipeline(lora, device="cpu")
    drawn = {}
    for scale in (1.0, 0.0):
        recipe = default_recipe(adapted, lora, RecipeOverrides(steps=1))
        recipe = recipe.model_copy(update={"lora_scale": scale})
        cache = BatchCache(tmp_path, lora, recipe)
        drawn[scale] = generate(adapted, PROMPTS[:1], recipe, cache=cache)
    plain_recipe = default_recipe(pipeline, base, RecipeOverrides(steps=1))
    plain = generate(
        pipeline, PROMPTS[:1], plain_recipe, cache=BatchCache(tmp_path, base, plain_recipe)
    )
    assert bytes_of(drawn[0.0]) == bytes_of(plain)
    assert bytes_of(drawn[1.0]) != bytes_of(plain)
