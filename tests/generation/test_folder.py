"""What was chosen and recorded is what makes the images, whatever lies beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gmi_registry.errors import GenerationError, HubError
from gmi_registry.generation import check_model, load_pipeline, pipeline_folder
from gmi_registry.hubs import LocalHub
from gmi_registry.spec import ModelRef
from tests.support.tiny_models import save_lora

UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def hub(tmp_path):
    return LocalHub.create(tmp_path / "hub", tmp_path / "cache")


@pytest.fixture
def place(hub, tiny):
    """A copy of the base in the hub, for a test to rearrange."""
    return shutil.copytree(tiny / "base", hub.root / "models" / "model")


def fetch(hub, name="model", file=None):
    return hub.fetch_model(ModelRef("local", name, None, file))


def changed(source, target, factor, dtype=None):
    """Another file of the same tensors, to be told by its numbers."""
    tensors = {
        name: (value * factor).to(dtype or value.dtype) for name, value in load_file(source).items()
    }
    save_file(tensors, target, metadata={"format": "pt"})


def first_number(path):
    with safe_open(path, "pt") as tensors:
        return tensors.get_tensor("conv_in.weight").flatten()[0].float()


def loaded_number(pipeline):
    return pipeline.unet.conv_in.weight.flatten()[0].float()


def shard(path, names, *, index):
    """Two shards of ``path``, called ``names``, with an index under its usual name."""
    tensors = load_file(path)
    half = len(tensors) // 2
    keys = sorted(tensors)
    where = {}
    for name, part in zip(names, (keys[:half], keys[half:]), strict=True):
        save_file({key: tensors[key] for key in part}, path.parent / name)
        where |= dict.fromkeys(part, name)
    (path.parent / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("variant", ["bf16", "fp16", "ema", "non_ema", "fp32"])
def test_all_parts_in_one_variant(hub, place, variant):
    for path in list(place.rglob("*.safetensors")):
        path.rename(path.with_suffix(f".{variant}.safetensors"))
    model = fetch(hub)
    assert {weight.path.split(".")[1] for weight in model.weights} == {variant}
    pipeline = load_pipeline(model, device="cpu")
    assert loaded_number(pipeline) == first_number(place / f"{UNET}.{variant}.safetensors")


def test_each_part_in_the_precision_that_it_has(hub, place):
    whole = place / f"{UNET}.safetensors"
    changed(whole, place / f"{UNET}.fp16.safetensors", 3.0, torch.float16)
    vae = place / "vae/diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_suffix(".fp16.safetensors"))
    text = place / "text_encoder/model.safetensors"
    text.rename(text.with_suffix(".bf16.safetensors"))
    model = fetch(hub)
    assert [weight.path for weight in model.weights] == [
        "text_encoder/model.bf16.safetensors",
        f"{UNET}.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    pipeline = load_pipeline(model, device="cpu")
    assert loaded_number(pipeline) == first_number(whole)


def test_the_plain_file_and_not_what_lies_beside_it(hub, place):
    whole = place / f"{UNET}.safetensors"
    expected = first_number(whole)
    changed(whole, place / f"{UNET}.ema.safetensors", 5.0)
    changed(whole, place / f"{UNET}.bf16.safetensors", 7.0)
    # diffusers takes shards where it finds their index, and a whole file is beside them.
    changed(whole, place / "unet/other.safetensors", 2.0)
    spare = place / "unet/other.safetensors"
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    shard(spare, names, index="diffusion_pytorch_model.safetensors.index.json")
    (place / "unet/diffusion_pytorch_model.bin").write_bytes(b"cposix\nsystem\n")
    (place / "unet/code.py").write_text("raise SystemExit('this code must not run')")
    model = fetch(hub)
    assert [weight.path for weight in model.weights if "unet" in weight.path] == [
        f"{UNET}.safetensors"
    ]
    assert loaded_number(load_pipeline(model, device="cpu")) == expected


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("diffusion_pytorch_model-0000{}-of-00002.safetensors", "safetensors.index.json"),
        ("diffusion_pytorch_model.bf16-0000{}-of-00002.safetensors", "safetensors.index.bf16.json"),
        ("diffusion_pytorch_model-0000{}-of-00002.fp16.safetensors", "safetensors.index.fp16.json"),
    ],
)
def test_shards_of_every_spelling(hub, place, name, index):
    whole = place / f"{UNET}.safetensors"
    expected = first_number(whole)
    names = [name.format(number) for number in (1, 2)]
    shard(whole, names, index=f"diffusion_pytorch_model.{index}")
    whole.unlink()
    model = fetch(hub)
    assert [weight.path for weight in model.weights][1:3] == [f"unet/{name}" for name in names]
    assert loaded_number(load_pipeline(model, device="cpu")) == expected
    # Their index is made from the shards, and may be missing.
    (place / "unet" / f"diffusion_pytorch_model.{index}").unlink()
    assert loaded_number(load_pipeline(fetch(hub), device="cpu")) == expected


def test_a_shard_that_is_missing_is_named_before_anything_is_loaded(hub, place):
    whole = place / f"{UNET}.safetensors"
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    shard(whole, names, index="diffusion_pytorch_model.safetensors.index.json")
    whole.unlink()
    index = place / "unet/diffusion_pytorch_model.safetensors.index.json"
    (place / "unet" / names[1]).rename(place / "unet" / "aside")
    with pytest.raises(HubError, match=f"unet lacks the shard {names[1]}"):
        fetch(hub)
    (place / "unet" / "aside").rename(place / "unet" / names[1])
    written = json.loads(index.read_text())
    written["weight_map"]["more"] = "diffusion_pytorch_model-extra.safetensors"
    index.write_text(json.dumps(written))
    with pytest.raises(HubError, match=r"unet lacks diffusion_pytorch_model-extra\.safetensors"):
        fetch(hub)


def test_a_lora_in_the_folder_of_a_training_run_is_found_and_named(hub, place, tiny):
    run = hub.root / "models" / "run"
    for number in (500, 1000):
        save_lora(run / f"checkpoint-{number}", tiny / "base")
    (run / "checkpoint-500/optimizer.safetensors").write_bytes(b"state")
    (run / "README.md").write_text("---\nbase_model: model\n---\n# Run\n")
    with pytest.raises(HubError, match="2 weight files") as caught:
        fetch(hub, "run")
    named = "local:run/checkpoint-500/pytorch_lora_weights.safetensors"
    assert f"gmi-publish {named} --hub {hub.root}" in caught.value.hint
    model = hub.fetch_model(ModelRef.parse(named))
    assert (model.kind, str(model.ref.without_revision)) == ("lora", named)
    assert load_pipeline(model, device="cpu").get_list_adapters() == {"unet": ["gmi"]}
    by_pattern = fetch(hub, "run", "*-500/*")
    assert by_pattern.ref == model.ref
    shutil.rmtree(run / "checkpoint-1000")
    only = fetch(hub, "run")
    assert (only.ref.file, only.weights) == (None, model.weights)


@pytest.fixture
def network(hub, place, tiny):
    """A network that diffusers saved by itself, of other numbers than the base's."""
    target = hub.root / "models" / "network"
    shutil.copytree(tiny / "base/unet", target)
    changed(tiny / f"base/{UNET}.safetensors", target / "diffusion_pytorch_model.safetensors", 1.5)
    (target / "README.md").write_text("---\nbase_model: model\n---\n# Network\n")
    return target


@pytest.mark.parametrize("where", ["", "unet"])
def test_a_network_saved_by_itself_is_completed_from_its_base(hub, network, where):
    if where:
        (network / where).mkdir()
        for path in list(network.glob("*[nsr]s*")):
            if path.is_file() and path.name != "README.md":
                path.rename(network / where / path.name)
        (network / "config.json").rename(network / where / "config.json")
    model = fetch(hub, "network")
    assert (model.kind, model.path) == ("single-file", network / where)
    check_model(model)
    pipeline = load_pipeline(model, device="cpu")
    expected = first_number(network / where / "diffusion_pytorch_model.safetensors")
    assert loaded_number(pipeline) == expected
    assert loaded_number(load_pipeline(model.base, device="cpu")) != expected
    assert pipeline.vae is not None
    assert pipeline.safety_checker is None


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"_class_name": "FluxTransformer2DModel"},
            "is a FluxTransformer2DModel, and the network of its base",
        ),
        ({"_class_name": "os"}, "needs the code of os"),
        ({"_class_name": "StableDiffusionPipeline"}, "needs the code of StableDiff"),
        ({"_class_name": 5}, "does not describe a network"),
        ([], "does not describe a network"),
    ],
)
def test_a_network_of_another_class_is_refused_before_it_is_loaded(hub, network, config, says):
    (network / "config.json").write_text(json.dumps(config))
    model = fetch(hub, "network")
    (network / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(GenerationError, match=says) as caught:
        load_pipeline(model, device="cpu")
    assert caught.value.hint


def test_where_no_links_can_be_made_files_are_copied(hub, place, monkeypatch):
    def never(*arguments, **settings):
        raise OSError("no links here")

    for make in ("symlink", "link"):
        monkeypatch.setattr(pipeline_folder.os, make, never)
    model = fetch(hub)
    assert loaded_number(load_pipeline(model, device="cpu")) == first_number(
        place / f"{UNET}.safetensors"
    )


def test_the_folder_that_stood_for_it_is_named_in_no_message_and_is_gone(hub, place):
    (place / "unet/config.json").write_text("{}")
    model = fetch(hub)
    with pytest.raises(GenerationError) as caught:
        load_pipeline(model, device="cpu")
    assert "gmi-model-" not in caught.value.message
    with pipeline_folder.linked_folder(model, ["unet"]) as shown:
        assert sorted(path.name for path in (shown / "unet").iterdir()) == [
            "config.json", "diffusion_pytorch_model.safetensors"
        ]  # fmt: skip
    assert not shown.exists()
    assert (place / f"{UNET}.safetensors").is_file()
    gone = replace(model, path=place / "nowhere")
    with pytest.raises(GenerationError, match="cannot be laid out"), pipeline_folder.linked_folder(
        gone, ["unet"]
    ):  # fmt: skip
        pass
