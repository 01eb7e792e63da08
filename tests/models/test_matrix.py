"""Every architecture, from a folder, a single file and a LoRA, the way that publishing does it."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gmi_registry import generation
from gmi_registry.errors import GmiError, InputError
from gmi_registry.spec import PromptSet
from tests.support.models.adapters import lora_folder, takes_lora
from tests.support.models.architectures import ARCHITECTURES
from tests.support.models.files import architecture_folder, model_files
from tests.support.models.matrix import MATRIX
from tests.support.models.originals import SINGLE_FILES, single_file


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or bool((one != other).any())


def test_the_matrix_has_every_architecture(model_store):
    assert set(MATRIX) == set(ARCHITECTURES)
    assert {name for name, row in MATRIX.items() if row.single_file} == set(SINGLE_FILES)


@pytest.mark.parametrize("name", MATRIX)
def test_what_takes_a_lora_is_marked(tiny, model_store, name):
    tiny(name)
    assert takes_lora(model_store, name) == MATRIX[name].lora


@pytest.mark.parametrize("name", MATRIX)
def test_a_folder_generates_an_image_of_its_prompt(tiny, name):
    model = tiny(name)
    generation.check_prompts(model.pipeline, [PromptSet("s", 1, ("a red fox",))], model.recipe())
    image = model.image()
    assert image.shape == (model.size[1], model.size[0], 3)
    assert image.std() > 10
    assert _differ(image, model.image("an old house"))
    assert not _differ(image, model.generated_anew(model.recipe()))


@pytest.mark.parametrize("name", MATRIX)
def test_a_recipe_without_a_word_can_be_generated(tiny, name):
    """Its size and its steps are what the model takes; nothing is generated."""
    model = tiny(name)
    recipe = generation.default_recipe(model.pipeline, model.model)
    generation.check_settings(model.pipeline, recipe)
    row = MATRIX[name]
    assert (recipe.guidance_scale is not None) == row.guidance
    assert recipe.true_cfg_scale is None or row.true_cfg


@pytest.mark.parametrize("name", [name for name, row in MATRIX.items() if row.lora])
def test_a_lora_changes_the_image_as_far_as_its_scale(tiny, name):
    model = tiny(name, "lora")
    full = model.image()
    assert _differ(full, model.image(lora_scale=0.5))
    bare = model.recipe().model_copy(update={"lora_scale": 0.0})  # which a publication refuses
    without = tiny(name).image_by(bare.model_copy(update={"lora_scale": None}))
    assert not _differ(model.image_by(bare), without)


@pytest.mark.parametrize("name", [name for name, row in MATRIX.items() if not row.lora])
def test_a_lora_on_what_takes_none_is_refused(tiny, name, model_store):
    base = tiny(name).model
    lora = model_files(lora_folder(model_store, "sd15"), "style", "lora", base=base)
    with pytest.raises(GmiError) as caught:
        generation.load_pipeline(lora, device="cpu")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", SINGLE_FILES)
def test_a_single_file_gives_the_image_of_its_folder(tiny, name):
    one, other = tiny(name, "single-file").image(), tiny(name).image()
    # The last bits of an image may differ: sums in another order.
    assert np.abs(one.astype(int) - other).mean() < 0.1


def _has_unet(name: str, store) -> bool:
    return (architecture_folder(store, name) / "unet").exists()


@pytest.mark.parametrize("name", [name for name, row in MATRIX.items() if row.lora])
def test_a_lora_for_another_architecture_is_refused(tiny, name, model_store):
    base = tiny(name).model
    other = "z-image" if _has_unet(name, model_store) else "sd15"
    lora = model_files(lora_folder(model_store, other), "style", "lora", base=base)
    with pytest.raises(GmiError) as caught:
        generation.load_pipeline(lora, device="cpu")
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", SINGLE_FILES)
def test_a_single_file_of_another_architecture_or_cut_short_is_refused(
    tiny, name, model_store, tmp_path
):
    other = single_file(model_store, "z-image" if _has_unet(name, model_store) else "sd15")
    whole = single_file(model_store, name).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    for file in (other, cut):
        with pytest.raises(GmiError) as caught:
            generation.load_pipeline(
                model_files(file, "file", "single-file", base=tiny(name).model), device="cpu"
            )
        assert "\n" not in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("name", MATRIX)
def test_prompts_are_read_to_the_end_or_refused(tiny, name):
    model = tiny(name)
    recipe = model.recipe()

    def first_refused(counts: range) -> int:
        """The least of these numbers of words with which a prompt is refused."""
        prompts = _Long("long", tuple(f"{'a ' * words}cat" for words in counts))
        with pytest.raises(InputError, match="tokens, but the model reads") as caught:
            generation.check_prompts(model.pipeline, [prompts], recipe)
        return counts[int(re.search(r"prompt (\d+):", caught.value.message)[1]) - 1]

    reads = MATRIX[name].reads
    near = first_refused(range(reads // 8, reads + 32, 32))
    assert near > reads // 8
    too_long = first_refused(range(near - 31, near + 1))
    assert reads // 8 < too_long - 1 < too_long <= reads
    read = [_ids_read(model, f"{'a ' * (too_long - 1)}{end}") for end in ("cat", "cab")]
    assert read[0] != read[1]


class _Long:
    """A prompt set of prompts that are longer than one may be, to get behind every limit."""

    def __init__(self, name: str, prompts: tuple[str, ...]) -> None:
        self.name, self.prompts = name, prompts

    def __len__(self) -> int:
        return len(self.prompts)


@pytest.mark.parametrize("kept", ["tokenizer_3", None])
def test_without_its_t5_stable_diffusion_3_reads_what_its_clip_encoders_do(
    model_store, tmp_path, kept
):
    """As many are saved: ``text_encoder_3`` is null in their index."""
    folder = shutil.copytree(architecture_folder(model_store, "sd3"), tmp_path / "sd3")
    index = json.loads((folder / "model_index.json").read_bytes())
    for part in {"text_encoder_3", "tokenizer_3"} - {kept}:
        index[part] = [None, None]
        shutil.rmtree(folder / part)
    (folder / "model_index.json").write_text(json.dumps(index))
    model = model_files(folder, "sd3")
    pipeline = generation.load_pipeline(model, device="cpu")
    assert pipeline.text_encoder_3 is None
    recipe = generation.default_recipe(pipeline, model)
    generation.check_prompts(pipeline, [PromptSet("own", 1, (" ".join(["cat"] * 20),))], recipe)
    with pytest.raises(InputError, match="the model reads 77"):
        generation.check_prompts(pipeline, [PromptSet("own", 1, (" ".join(["cat"] * 60),))], recipe)


@pytest.mark.parametrize(
    ("name", "parts", "null", "says"),
    [
        (
            "hidream",
            ["text_encoder_4", "tokenizer_4"],
            True,
            "without text_encoder_4 and token.*_4",
        ),
        ("hidream", ["text_encoder_4", "tokenizer_4"], False, "names no text_encoder_4 and no tok"),
        ("sdxl", ["text_encoder_2", "tokenizer_2"], True, "without text_encoder_2 and tokenizer_2"),
        ("sd15", ["vae"], True, "names no vae, which a StableDiffusionPipeline needs"),
        ("sd3", ["text_encoder_3"], False, "names no text_encoder_3, which"),
    ],
)
def test_a_pipeline_that_lacks_a_part_says_which(model_store, tmp_path, name, parts, null, says):
    """HiDream's repository lacks its Llama, which is to be added from another one."""
    folder = shutil.copytree(architecture_folder(model_store, name), tmp_path / name)
    index = json.loads((folder / "model_index.json").read_bytes())
    for part in parts:
        shutil.rmtree(folder / part)
        index.update({part: [None, None]}) if null else index.pop(part)
    (folder / "model_index.json").write_text(json.dumps(index))
    model = model_files(folder, name)

    def check() -> None:
        pipeline = generation.load_pipeline(model, device="cpu")
        recipe = generation.default_recipe(pipeline, model)
        generation.check_prompts(pipeline, [PromptSet("own", 1, ("a cat",))], recipe)

    with pytest.raises(GmiError, match=says) as caught:
        check()
    assert "with all of its parts" in caught.value.hint


def _ids_read(model, prompt: str) -> list[list[int]]:
    """The numbers of the tokens that the text encoders are given, when an image is generated."""
    read: list[list[int]] = []

    def note(module, words, named):
        ids = named.get("input_ids", words[0] if words else None)
        if ids is not None and not ids.is_floating_point():
            read.append(ids.flatten().tolist())

    hooks = [
        part.register_forward_pre_hook(note, with_kwargs=True)
        for name, part in model.pipeline.components.items()
        if "text_encoder" in name and part is not None
    ]
    try:
        model.generated_anew(model.recipe(), prompt)
    finally:
        for hook in hooks:
            hook.remove()
    return read


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_weights_of_zeros_are_refused(model_store, tmp_path, component):
    """As a download leaves that made the file before it had the data; a few may be zero."""
    folder = shutil.copytree(architecture_folder(model_store, "sd15"), tmp_path / "sd15")
    (path,) = (folder / component).glob("*.safetensors")
    tensors = load_file(path)
    matrices = [name for name in sorted(tensors) if tensors[name].ndim > 1]
    few = matrices[: len(matrices) // 3]
    save_file(tensors | {name: np.zeros_like(tensors[name]) for name in few}, path)
    assert generation.load_pipeline(model_files(folder, "sd15"), device="cpu")
    most = matrices[: len(matrices) * 2 // 3]
    save_file(tensors | {name: np.zeros_like(tensors[name]) for name in most}, path)
    with pytest.raises(GmiError, match=f"matrices of its {component} hold nothing but zeros"):
        generation.load_pipeline(model_files(folder, "sd15"), device="cpu")
