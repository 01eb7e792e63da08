"""Real diffusers loads each kind of model, and refuses what must not be opened."""

import json
import shutil
import sys
from dataclasses import replace

import pytest

from gmi_registry.errors import GenerationError, InputError, MissingExtraError, install_command
from gmi_registry.generation import OutOfMemoryError, default_recipe, load_pipeline, pipelines
from tests.support.tiny_models import model_files, save_lora


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of the base that a test may spoil."""
    return shutil.copytree(tiny / "base", tmp_path / "copied")


def test_a_folder_loads_in_float32_without_a_safety_checker(pipeline):
    import torch

    assert pipeline.dtype == torch.float32
    assert pipeline.device.type == "cpu"
    assert pipeline.safety_checker is None


def test_another_element_type_is_loaded_and_recorded(base):
    bfloat = load_pipeline(base, device="cpu", dtype="bfloat16")
    assert default_recipe(bfloat, base).dtype == "bfloat16"


def test_a_lora_changes_its_base(lora, pipeline):
    import torch

    adapted = load_pipeline(lora, device="cpu")
    assert adapted.get_list_adapters() == {"unet": ["gmi"]}
    latents, context = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 8)
    with torch.no_grad():
        plain = pipeline.unet(latents, 500, context).sample
        changed = adapted.unet(latents, 500, context).sample
    assert (plain - changed).abs().max() > 1e-3


def test_a_single_file_computes_what_it_was_merged_from(tiny, base, lora, tmp_path):
    import torch

    from zoo import single_file

    path = tmp_path / "merged.safetensors"
    single_file.merge(tiny / "base", tiny / "lora", path)
    merged = load_pipeline(model_files(path, "merged", "single-file", base=base), device="cpu")
    parts = load_pipeline(lora, device="cpu")
    latents, context = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 8)
    with torch.no_grad():
        ours = merged.unet(latents, 500, context).sample
        theirs = parts.unet(latents, 500, context).sample
    assert merged.dtype == torch.float32
    assert merged.safety_checker is None
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


def test_only_half_precision_files_load_as_well(copied):
    for path in copied.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert load_pipeline(model_files(copied, "half"), device="cpu").unet is not None


def test_specification_files_are_never_opened(tiny, base, tmp_path, monkeypatch):
    """The files beside a model are rubbish here, so that loading them would fail or show."""
    folder = shutil.copytree(tiny / "base", tmp_path / "base")
    adapter = shutil.copytree(tiny / "lora", tmp_path / "lora")
    for repository in (folder, adapter):
        (repository / "gmi").mkdir()
        for name in ("spec.json", "spec.tensors", "preview.webp"):
            (repository / "gmi" / name).write_bytes(b"\xffrubbish")
    touched = []
    watching = True

    def watch(event, arguments):
        if watching and event == "open" and f"{tmp_path}/" in str(arguments[0]):
            touched.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        plain = model_files(folder, "tiny/base")
        load_pipeline(plain, device="cpu")
        adapted = model_files(adapter, "tiny/lora", "lora", base=plain)
        adapted = replace(adapted, weights=model_files(tiny / "lora", "l").weights)
        assert load_pipeline(adapted, device="cpu").get_list_adapters() == {"unet": ["gmi"]}
    finally:
        watching = False
    assert touched
    assert not [path for path in touched if "/gmi/" in path]


def test_diffusers_own_guess_in_a_repository_is_not_the_specification(tiny, tmp_path, monkeypatch):
    """Other people load a LoRA without naming its file; diffusers guesses from the listing."""
    from types import SimpleNamespace

    from diffusers.loaders import lora_base

    names = ["gmi/preview.webp", "gmi/spec.json", "gmi/spec.tensors", "my-style.safetensors"]
    siblings = [SimpleNamespace(rfilename=name) for name in names]
    monkeypatch.setattr(lora_base, "model_info", lambda name: SimpleNamespace(siblings=siblings))
    monkeypatch.setattr(lora_base, "HF_HUB_OFFLINE", False)
    assert lora_base._best_guess_weight_name("someone/style") == "my-style.safetensors"
    # Under the ending that its content would suggest, the specification would be the adapter.
    siblings[2].rfilename = "gmi/spec.safetensors"
    assert lora_base._best_guess_weight_name("someone/style") == "gmi/spec.safetensors"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": ["pipeline", "Mine"]}, "code that comes with a model is not run"),
        ({"unet": ["my_unet", "Mine"]}, "my_unet"),
        ({"_class_name": "TomorrowPipeline"}, "has no TomorrowPipeline"),
    ],
)
def test_a_class_of_the_model_or_of_tomorrow_is_refused(copied, change, says):
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps(index | change))
    (copied / "pipeline.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(GenerationError, match=says):
        load_pipeline(model_files(copied, "m"), device="cpu")


@pytest.mark.parametrize("content", ["{", "[]", '{"_class_name": []}', '{"no": "class"}'])
def test_a_broken_index_is_one_clear_line(copied, content):
    (copied / "model_index.json").write_text(content)
    with pytest.raises(GenerationError) as caught:
        load_pipeline(model_files(copied, "m"), device="cpu")
    assert "\n" not in caught.value.message


def test_a_missing_part_is_one_clear_line(copied):
    (copied / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(GenerationError, match="cannot be loaded by diffusers") as caught:
        load_pipeline(model_files(copied, "m"), device="cpu")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_pickled_weights_are_refused(tmp_path, base, copied):
    single = tmp_path / "model.ckpt"
    single.write_bytes(b"cposix\nsystem\n")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "pytorch_lora_weights.bin").write_bytes(b"cposix\nsystem\n")
    pickled = (base.weights[0].model_copy(update={"path": "pytorch_lora_weights.bin"}),)
    for model in (
        model_files(single, "single", "single-file", base=base),
        replace(model_files(adapter, "adapter", "lora", base=base), weights=pickled),
        replace(model_files(copied, "folder"), weights=pickled),
    ):
        with pytest.raises(GenerationError, match="is a pickle"):
            load_pipeline(model, device="cpu")


@pytest.mark.parametrize("kind", ["lora", "single-file"])
def test_a_missing_base_is_named(tiny, kind):
    path = tiny / "lora"
    if kind == "single-file":
        path = tiny / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(GenerationError, match="its base model far/away is not here") as caught:
        load_pipeline(model_files(path, "x", kind, base_model="far/away"), device="cpu")
    assert "far/away" in caught.value.hint
    with pytest.raises(GenerationError, match="names no base model"):
        load_pipeline(model_files(path, "x", kind), device="cpu")


def test_a_single_file_on_a_base_without_configuration_is_refused(tiny, lora):
    path = tiny / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(GenerationError, match="not a diffusers folder"):
        load_pipeline(model_files(path, "x", "single-file", base=lora), device="cpu")


def test_a_lora_for_another_network_is_refused(tiny, base, tmp_path):
    save_lora(tmp_path / "alien", tiny / "base", prefix="down_blocks.9.")
    with pytest.raises(GenerationError, match="does not fit its base model"):
        load_pipeline(model_files(tmp_path / "alien", "alien", "lora", base=base), device="cpu")


def test_a_lora_that_reaches_no_layer_is_refused(base, tmp_path):
    import torch
    from safetensors.torch import save_file

    (tmp_path / "void").mkdir()
    tensors = {f"transformer.x.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(tensors, tmp_path / "void" / "pytorch_lora_weights.safetensors")
    with pytest.raises(GenerationError, match="no layer that its base model has"):
        load_pipeline(model_files(tmp_path / "void", "void", "lora", base=base), device="cpu")


def test_two_adapters_in_one_folder_are_ambiguous(tiny, base, tmp_path):
    folder = shutil.copytree(tiny / "lora", tmp_path / "two")
    (folder / "pytorch_lora_weights.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    with pytest.raises(GenerationError, match=r"found: a\.safetensors, b\.safetensors"):
        load_pipeline(model_files(folder, "two", "lora", base=base), device="cpu")


def test_a_device_that_is_not_there_is_one_clear_line(base):
    with pytest.raises(InputError, match="there is no device xpu here"):
        load_pipeline(base, device="xpu")


def test_without_diffusers_the_extra_is_named(base, monkeypatch):
    monkeypatch.setattr(pipelines, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        load_pipeline(base)
    assert caught.value.hint == install_command("publish")


def test_memory_that_runs_out_is_no_layer_without_a_place(lora, monkeypatch):
    import diffusers

    def exhausted(*_, **__):
        raise MemoryError("Unable to allocate 4.00 GiB")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "load_lora_weights", exhausted)
    with pytest.raises(OutOfMemoryError, match="memory ran out while it was loaded"):
        load_pipeline(lora, device="cpu")
