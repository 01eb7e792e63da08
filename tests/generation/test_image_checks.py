"""Images that show nothing of a model are refused, whatever made them so, and nothing else is."""

import functools
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gmi_registry import generation
from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation import (
    BatchCache,
    FaultyImagesError,
    ImageChecks,
    OutOfMemoryError,
    RecipeOverrides,
    default_recipe,
    generate,
    images_kept,
    load_pipeline,
)
from gmi_registry.generation.image_checks import DecoderWatch, is_one_colour
from gmi_registry.spec import PromptSet, read_spec
from tests.support.tiny_models import SIDE, model_files

PROMPTS = tuple(f"thing number {number}" for number in range(12))
FEW = PromptSet("few", 1, PROMPTS[:6])
QUICK = RecipeOverrides(steps=1, batch_size=2)
VAE = "vae/diffusion_pytorch_model.safetensors"


def plain(colour):
    return Image.new("RGB", (SIDE, SIDE), colour)


def textured(number, contrast=40.0):
    noise = np.random.default_rng(number).normal(128, contrast, (SIDE, SIDE, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def judged(images, prompts=PROMPTS, batch=4, seed=0):
    checks = ImageChecks("float16")
    pairs = [(prompt, seed) for prompt in prompts]
    for start in range(0, len(images), batch):
        end = min(start + batch, len(images))
        checks.take(pairs[start:end], images[start:end])
    return checks.finish()


# ------------------------------------------------------------------ which images are let pass


def test_different_images_pass_without_a_note():
    assert judged([textured(number) for number in range(12)]) == []


@pytest.mark.parametrize("colour", ["black", "white", "#808080", "red"])
def test_one_picture_of_one_colour_among_many_is_a_note(colour):
    images = [textured(number) for number in range(12)]
    images[5] = plain(colour)
    (note,) = judged(images)
    assert note.startswith("1 of 12 prompts is shown as one colour")
    assert "'thing number 5'" in note


def test_a_first_picture_of_one_colour_is_no_verdict():
    images = [plain("black"), *(textured(number) for number in range(11))]
    assert len(judged(images, batch=1)) == 1


def test_flat_areas_thin_lines_and_dithering_are_pictures():
    lines = np.full((64, 64, 3), 255, np.uint8)
    lines[::32] = 0
    icon = np.full((64, 64, 3), 250, np.uint8)
    icon[30:34, 30:34] = 20
    dithered = np.repeat(np.indices((64, 64)).sum(axis=0)[..., None] % 2 * 255, 3, axis=2)
    for pixels in (lines, icon, dithered.astype(np.uint8)):
        assert not is_one_colour(Image.fromarray(pixels))
        assert judged([Image.fromarray(pixels), textured(1)], batch=1) == []


def test_a_small_object_between_the_pixels_that_are_looked_at_is_seen():
    pixels = np.full((1024, 1024, 3), 128, np.uint8)
    pixels[1:301:8, 1:301:8] = 255
    pixels[2:302:8, 1:301:8] = 0
    assert not is_one_colour(Image.fromarray(pixels))


def test_the_same_prompt_twice_may_give_the_same_image():
    assert judged([textured(1), textured(2), textured(1)], ("a", "b", "a"), batch=1) == []


# ------------------------------------------------------------------ which are refused


def test_a_first_batch_of_one_colour_is_refused_with_prompts_and_colour():
    with pytest.raises(FaultyImagesError) as caught:
        judged([plain("black")] * 12)
    assert str(caught.value) == (
        "the model's images show nothing: 4 of 4 prompts are shown as one colour (black): "
        "'thing number 0', 'thing number 1', 'thing number 2' and 1 more"
    )
    assert "float32" in caught.value.hint
    assert caught.value.none_good


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_colours_that_differ_and_faint_texture_are_one_colour_too(batch):
    colours = [textured(number, contrast=1) for number in range(6)]
    colours += [plain(f"#{number:02x}2030") for number in range(6)]
    with pytest.raises(FaultyImagesError, match="one colour"):
        judged(colours, batch=batch)


def test_a_share_of_them_at_the_end_is_refused():
    images = [textured(number) for number in range(12)]
    images[9:12] = [plain("black")] * 3
    with pytest.raises(FaultyImagesError, match="3 of 12 prompts") as caught:
        judged(images)
    assert not caught.value.none_good


def test_the_same_pixels_for_other_prompts_are_refused_at_once():
    with pytest.raises(FaultyImagesError, match="same image for 'a' and 'c', to the last pixel"):
        judged([textured(1), textured(2), textured(1), textured(3)], "abcd", batch=1)


def test_nearly_the_same_image_for_every_prompt_is_refused():
    one = np.asarray(textured(1)).copy()
    images = []
    for number in range(12):
        one[number, 0] += 1
        images.append(Image.fromarray(one.copy()))
    with pytest.raises(FaultyImagesError, match="the same image as the prompt before"):
        judged(images)


def test_seeds_without_an_effect_are_refused():
    checks = ImageChecks("float32")
    with pytest.raises(FaultyImagesError, match="for the seeds 0 and 1"):
        checks.take([("a cat", 0), ("a cat", 1)], [textured(1)] * 2)


def test_saturated_noise_is_refused():
    noise = np.random.default_rng(0).integers(0, 2, (12, 32, 32, 3)).astype(np.uint8) * 255
    with pytest.raises(FaultyImagesError, match="saturated noise"):
        judged([Image.fromarray(pixels) for pixels in noise])


def test_latents_and_decoded_numbers_out_of_all_range_are_a_fault():
    usual = torch.randn(2, 4, 8, 8)
    for scale, decoded, fault in (
        (1.0, usual / 3, None),
        (1.0, usual * 30, "decoder exploded"),
        (1000.0, usual / 3, "denoising exploded"),
        (float("nan"), usual / 3, "denoising exploded"),
    ):
        watch = DecoderWatch(1.0)
        watch(None, (usual * scale,), decoded)
        assert (watch.fault() is None) == (fault is None)
        assert fault is None or fault in watch.fault()


def test_one_exploded_image_of_a_batch_is_a_fault():
    watch = DecoderWatch(1.0)
    decoded = torch.zeros(4, 3, 8, 8)
    decoded[3] = 9.0
    watch(None, (decoded,), decoded)
    assert "100% of its values" in watch.fault()


# ------------------------------------------------------------------ real pipelines, damaged


@pytest.fixture
def damaged(tiny, tmp_path):
    """The base with an autoencoder that ``change`` damages, as a model."""

    def made(change):
        folder = shutil.copytree(tiny / "base", tmp_path / "damaged")
        tensors = load_file(folder / VAE)
        change(tensors)
        save_file(tensors, folder / VAE)
        return model_files(folder, "tiny/damaged")

    return made


def zeroed(value, part="decoder.conv_out"):
    def change(tensors):
        for name, tensor in tensors.items():
            if name.startswith(part):
                tensor.fill_(value if name.endswith("bias") else 0)

    return change


def exploded(tensors):
    tensors["decoder.conv_out.weight"].mul_(1000)


def blind(tensors):
    for part in ("decoder.conv_in", "decoder.mid_block"):
        zeroed(0.0, part)(tensors)


def overflowing(tensors):
    tensors["decoder.conv_out.weight"].fill_(3e38)  # finite, and its sums are not


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (zeroed(-5.0), r"one colour \(black\): 'thing number 0', 'thing number 1'"),
        (zeroed(5.0), r"one colour \(white\)"),
        (zeroed(0.0), r"one colour \(grey\)"),
        (blind, "the same image for 'thing number 0' and 'thing number 1'"),
        (exploded, "'thing number 0'.* shows nothing: its decoder exploded"),
        (overflowing, "one colour|decoder exploded|not numbers"),
    ],
)
def test_a_damaged_autoencoder_is_refused_at_the_first_batch(damaged, tmp_path, change, message):
    model = damaged(change)
    pipeline = load_pipeline(model, device="cpu")
    recipe = default_recipe(pipeline, model, QUICK)
    cache = BatchCache(tmp_path / "work", model, recipe)
    counts = []
    with pytest.raises(FaultyImagesError, match=message) as caught:
        generate(
            pipeline,
            PROMPTS,
            recipe,
            cache=cache,
            progress=lambda done, total: counts.append(done),
        )
    assert "damaged" in caught.value.hint
    assert caught.value.none_good
    assert counts == [0]
    assert images_kept(cache, PROMPTS, recipe) == 0


def test_a_resumed_run_comes_to_the_same_verdict_without_an_image(base, pipeline, tmp_path):
    recipe = default_recipe(pipeline, base, QUICK)
    cache = BatchCache(tmp_path, base, recipe)
    pairs = [(prompt, 0) for prompt in PROMPTS]
    cache.keep(pairs[:2], [textured(1), textured(2)])
    for start in range(2, 10, 2):
        cache.keep(pairs[start : start + 2], [plain("black")] * 2)
    verdicts = []
    for _ in range(2):
        with pytest.raises(FaultyImagesError, match="one colour") as caught:
            # The pipeline is not called for the batch that is missing.
            generate(None, PROMPTS, recipe, cache=cache)
        verdicts.append(str(caught.value))
    assert verdicts[0] == verdicts[1]
    assert images_kept(cache, PROMPTS, recipe) == 10


# ------------------------------------------------------------------ what pipelines call images


class Pipe:
    """A pipeline in all but its images, which ``make`` gives for a number of prompts."""

    def __init__(self, make):
        def call(prompt, generator, output_type="pil"):
            return make(len(prompt))

        self.__call__ = call

    def __call__(self, **settings):
        return self.__call__(**settings)


def generated(base, recipe, folder, make, count=2):
    return generate(Pipe(make), PROMPTS[:count], recipe, cache=BatchCache(folder, base, recipe))[:]


@pytest.fixture
def recipe(pipeline, base):
    return default_recipe(pipeline, base, QUICK)


def some(count, channels=3):
    return np.random.default_rng(7).random((count, SIDE, SIDE, channels)).astype(np.float32)


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels: pixels,
        lambda pixels: torch.from_numpy(pixels),
        lambda pixels: (pixels * 255).round().astype(np.uint8),
        lambda pixels: [[one] for one in pixels],
        lambda pixels: [one[None] for one in pixels],
        lambda pixels: [Image.fromarray((one * 255).round().astype(np.uint8)) for one in pixels],
    ],
    ids=["array", "tensor", "bytes", "lists", "batches", "pictures"],
)
def test_images_come_in_many_forms_and_are_the_same(base, recipe, tmp_path, form):
    images = generated(base, recipe, tmp_path, lambda n: SimpleNamespace(images=form(some(n))))
    for image, pixels in zip(images, some(2), strict=True):
        assert image.mode == "RGB"
        assert (np.asarray(image) == (pixels * 255).round().astype(np.uint8)).all()


def test_one_channel_is_grey_and_transparency_lies_on_white(base, recipe, tmp_path):
    (grey, _) = generated(
        base, recipe, tmp_path / "grey", lambda n: SimpleNamespace(images=some(n, 1))
    )
    assert (np.asarray(grey) == np.asarray(grey)[..., :1]).all()

    def layered(count):
        pixels = some(count, 4)
        pixels[:, : SIDE // 2, :, 3], pixels[:, SIDE // 2 :, :, 3] = 0, 1
        return SimpleNamespace(images=pixels)

    for images in (
        generated(base, recipe, tmp_path / "layers", layered),
        generated(base, recipe, tmp_path / "layers", layered),  # as they lie on disk
    ):
        assert images[0].mode == "RGB"
        pixels = np.asarray(images[0])
        assert (pixels[: SIDE // 2] == 255).all()
        expected = (some(2, 4)[0, SIDE // 2 :, :, :3] * 255).round().astype(int)
        assert np.abs(pixels[SIDE // 2 :] - expected).max() <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: some(n) * 2 - 1, r"pixels from -\S+ to \S+ for 'thing number 0'"),
        (lambda n: some(n) * 255, "go from 0 to 1"),
        (lambda n: some(n + 1), "gave 3 images for 2"),
        (lambda n: some(1), "gave 1 image for 2"),
        (lambda n: some(n, 2), r"no image for 'thing number 0', .* shape \(16, 16, 2\)"),
        (lambda n: np.stack([some(3)] * n), r"no image for .* shape \(3, 16, 16, 3\)"),
        (lambda n: np.where(some(n) > 0.99, np.nan, some(n)), "not numbers"),
    ],
)
def test_what_is_no_image_is_one_clear_line(base, recipe, tmp_path, make, message):
    with pytest.raises(GenerationError, match=message) as caught:
        generated(base, recipe, tmp_path, lambda n: SimpleNamespace(images=make(n)))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["nsfw_content_detected", "nsfw_detected"])
def test_an_image_that_a_safety_checker_blackened_is_named(base, recipe, tmp_path, name):
    def checked(count):
        return SimpleNamespace(**{"images": some(count), name: [False, True]})

    with pytest.raises(
        GenerationError, match=r"safety checker blacked out the image of .*'thing number 1'"
    ):
        generated(base, recipe, tmp_path, checked)


def test_a_pipeline_that_takes_no_seed_is_refused(base, recipe, tmp_path):
    class Unseeded:
        def __call__(self, prompt, output_type="np"):
            return SimpleNamespace(images=some(len(prompt)))

    with pytest.raises(GenerationError, match=r"an? Unseeded takes no generator"):
        generate(Unseeded(), PROMPTS, recipe, cache=BatchCache(tmp_path, base, recipe))


def test_noise_without_a_generator_is_the_same_every_time(base, recipe, tmp_path):
    def noisy(count):
        return SimpleNamespace(images=torch.rand(count, SIDE, SIDE, 3))

    state = torch.get_rng_state()
    first = generated(base, recipe, tmp_path / "a", noisy, count=4)
    torch.rand(5)
    second = generated(base, recipe, tmp_path / "b", noisy, count=4)
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]
    assert len({image.tobytes() for image in first}) == 4
    torch.set_rng_state(state)
    generated(base, recipe, tmp_path / "c", noisy)
    assert (torch.get_rng_state() == state).all()


# ------------------------------------------------------------------ the whole stage


@pytest.fixture
def hub(base_hub, default_prompts):
    default_prompts(FEW)
    return base_hub


@pytest.fixture
def run(hub, publishing):
    return publishing(hub, overrides=QUICK)


def break_decoder_in(monkeypatch, dtypes):
    """Let every autoencoder that is loaded in one of ``dtypes`` give black images."""
    load = generation.load_model

    def loaded(model, **options):
        found = load(model, **options)
        if str(found.pipeline.vae.dtype).removeprefix("torch.") in dtypes:
            with torch.no_grad():
                found.pipeline.vae.decoder.conv_out.weight.zero_()
                found.pipeline.vae.decoder.conv_out.bias.fill_(-5)
        return found

    monkeypatch.setattr(generation, "load_model", loaded)
    order = ("float32", "bfloat16", "float16")
    monkeypatch.setattr(
        generation, "dtypes_to_try", lambda dtype, device: order[order.index(dtype) + 1 :][:1]
    )


def test_a_model_of_black_images_is_refused_and_leaves_everything(hub, run):
    folder = hub.root / "models" / "base"
    tensors = load_file(folder / VAE)
    zeroed(-5.0)(tensors)
    save_file(tensors, folder / VAE)
    before = sorted(path for path in hub.root.rglob("*"))
    for _ in range(2):
        with pytest.raises(FaultyImagesError, match="one colour"):
            run()
    assert sorted(path for path in hub.root.rglob("*")) == before


def test_the_next_dtype_is_tried_said_and_recorded(run, hub, monkeypatch, tmp_path):
    break_decoder_in(monkeypatch, {"float32"})
    done = run()
    recipe = read_spec(hub.root / "models" / "base").manifest.generation.recipe
    assert done.plan.recipe.dtype == recipe.dtype == "bfloat16"
    assert done.plan.origins["dtype"] == "changed, since the first try failed"
    (note,) = [it for it in done.plan.warnings if "bfloat16 is used" in it]
    assert note.startswith("in float32 the model's images show nothing")
    assert (done.outcome, done.images) == ("published", 6)
    assert list((tmp_path / "work").iterdir()) == []
    assert run().outcome == "up to date"


def test_where_no_dtype_helps_the_model_is_refused(run, hub, monkeypatch):
    break_decoder_in(monkeypatch, {"float32", "bfloat16", "float16"})
    with pytest.raises(FaultyImagesError, match="one colour") as caught:
        run()
    assert "float16" in caught.value.hint
    assert not (hub.root / "models" / "base" / "gmi").exists()


def test_a_dtype_that_was_asked_for_is_no_guess(run, monkeypatch):
    break_decoder_in(monkeypatch, {"float32"})
    with pytest.raises(FaultyImagesError, match="one colour"):
        run(overrides=RecipeOverrides(steps=1, batch_size=2, dtype="float32"))


TILED = 0
"""As much as one image needs that is decoded in tiles."""


@pytest.fixture
def small_memory(monkeypatch):
    """A pipeline for which more than so many images at a time are too many, after some calls."""

    def limited(most, after=0):
        from diffusers import StableDiffusionPipeline

        real, calls = StableDiffusionPipeline.__call__, []

        @functools.wraps(real)
        def call(self, prompt=None, **settings):
            if not any(it.initial_seed() for it in settings.get("generator") or ()):
                # How long a prompt may be is found so, with a seed that no image has.
                return real(self, prompt=prompt, **settings)
            calls.append(len(prompt))
            tiled = self.vae.use_tiling and most == TILED
            if len(calls) > after and len(prompt) > most and not tiled:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return real(self, prompt=prompt, **settings)

        monkeypatch.setattr(StableDiffusionPipeline, "__call__", call)
        return calls

    return limited


def test_a_batch_that_does_not_fit_is_halved_and_recorded(run, hub, small_memory):
    calls = small_memory(most=1)
    done = run(overrides=RecipeOverrides(steps=1, batch_size=4))
    assert calls == [4, 2, 1, 1, 1, 1, 1, 1]
    recipe = read_spec(hub.root / "models" / "base").manifest.generation.recipe
    assert recipe.batch_size == done.plan.recipe.batch_size == 1
    notes = [note for note in done.plan.warnings if "memory ran out" in note]
    assert [note.split(": ")[1] for note in notes] == [
        "the batch size is now 2",
        "the batch size is now 1",
    ]


def test_one_image_that_does_not_fit_is_decoded_in_tiles_and_that_is_recorded(
    run, hub, small_memory
):
    calls = small_memory(most=TILED)
    wide = RecipeOverrides(steps=1, batch_size=2, width=2 * SIDE, height=2 * SIDE)
    done = run(overrides=wide)
    assert calls == [2, 1] + [1] * 6
    recipe = read_spec(hub.root / "models" / "base").manifest.generation.recipe
    assert (recipe.batch_size, recipe.vae_tiling) == (1, True)
    assert done.plan.origins["vae_tiling"] == "changed, since the first try failed"
    assert any("decoded in tiles" in note for note in done.plan.warnings)


def test_tiles_change_an_image_and_are_used_where_they_are_recorded(base, tmp_path):
    pipeline = load_pipeline(base, device="cpu")
    plain_one = default_recipe(
        pipeline, base, RecipeOverrides(steps=1, width=2 * SIDE, height=2 * SIDE)
    )
    tiled = plain_one.model_copy(update={"vae_tiling": True})
    assert plain_one.id != tiled.id
    made = []
    for recipe in (plain_one, tiled, tiled, plain_one):
        cache = BatchCache(tmp_path / str(len(made)), base, recipe)
        (image,) = generate(pipeline, PROMPTS[:1], recipe, cache=cache)
        made.append(image.tobytes())
    assert made[0] == made[3] != made[1] == made[2]


@pytest.mark.parametrize(("most", "after", "kept"), [(0, 0, 0), (0, 1, 2)])
def test_where_halving_does_not_help_memory_is_named(
    run, hub, small_memory, tmp_path, most, after, kept
):
    small_memory(most, after)
    with pytest.raises(OutOfMemoryError, match="CUDA out of memory") as caught:
        run()
    assert "--batch-size" in caught.value.hint
    assert not (hub.root / "models" / "base" / "gmi").exists()
    assert len(list((tmp_path / "work").rglob("*.png"))) == kept


def test_offloading_without_a_gpu_is_one_clear_line(run):
    with pytest.raises(InputError, match=r"--offload .* without a GPU"):
        run(offload="model")
