"""A model that is not loaded: what it is comes first, then the reason, then the way out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gmi_registry.errors import GenerationError
from gmi_registry.generation.model_checks import refused, require_described_weights
from gmi_registry.generation.pipelines import check_model, load_pipeline
from gmi_registry.model import ModelFiles
from tests.support.tiny_models import model_files


def weights(path: Path, shapes: dict[str, tuple[int, ...]], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.zeros(shape, "f2") for name, shape in shapes.items()}
    save_file(tensors, path, metadata or None)
    return path


XL_LORA = {
    "unet.mid_block.attentions.0.transformer_blocks.1.attn2.to_k.lora_A.weight": (2, 2048),
    "unet.mid_block.attentions.0.transformer_blocks.1.attn2.to_k.lora_B.weight": (1280, 2),
}
OTHERS = {
    "VAE": ({"decoder.up.0.block.0.conv1.weight": (8, 8, 3, 3)}, "a VAE", "a VAE only decodes"),
    "ControlNet": (
        {"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3)},
        "a ControlNet",
        "from another image",
    ),
    "IP-Adapter": ({"ip_adapter.1.to_k_ip.weight": (320, 768)}, "an IP-Adapter", "another image"),
    "upscaler": ({"body.0.rdb1.conv1.weight": (8, 8, 3, 3)}, "an upscaler", "enlarges images"),
    "text encoder": (
        {"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)},
        "a CLIP text encoder",
        "generates no images",
    ),
    "nothing known": ({"wonder.a": (1,)}, "wonder.a", "name a diffusers folder"),
}


@pytest.mark.parametrize("kind", ["single-file", "lora", "textual-inversion"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_refused_before_anything_is_loaded(
    tmp_path: Path, base: ModelFiles, name: str, kind: str
) -> None:
    shapes, title, hint = OTHERS[name]
    path = weights(tmp_path / "m" / "model.safetensors", shapes)
    place = path if kind == "single-file" else path.parent
    model = model_files(place, "ada/part", kind, base=base)
    with pytest.raises(GenerationError, match=title) as caught:
        require_described_weights(model)
    assert caught.value.message.startswith("local:ada/part is a")
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["single-file", "lora"])
def test_the_dry_run_asks(tmp_path: Path, base: ModelFiles, kind: str) -> None:
    path = weights(tmp_path / "m" / "model.safetensors", OTHERS["VAE"][0])
    place = path if kind == "single-file" else path.parent
    with pytest.raises(GenerationError, match=r"^local:ada/part is a VAE"):
        check_model(model_files(place, "ada/part", kind, base=base))


def test_a_lora_is_no_whole_model(tiny: Path, base: ModelFiles) -> None:
    path = tiny / "lora" / "pytorch_lora_weights.safetensors"
    model = model_files(path, "x", "single-file", base=base)
    for refuse in (check_model, load_pipeline):
        with pytest.raises(GenerationError, match="was taken for a whole model in one") as caught:
            refuse(model)
        assert "is a LoRA" in caught.value.message


def test_what_is_right_passes(tiny: Path, base: ModelFiles, lora: ModelFiles) -> None:
    check_model(base)
    check_model(lora)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"])
def test_a_file_that_is_cut_short_is_called_that_at_the_dry_run(
    tmp_path: Path, base: ModelFiles, part: str
) -> None:
    folder = Path(shutil.copytree(base.path, tmp_path / "base"))
    file = folder / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(GenerationError, match="cut short: it has") as caught:
        check_model(model_files(folder, "m"))
    assert f"local:m: {part}.safetensors is a safetensors file" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert "a part of it is missing" in str(caught.value.hint)


def test_the_words_of_diffusers_come_second(tmp_path: Path, base: ModelFiles) -> None:
    path = weights(
        tmp_path / "m" / "x.safetensors", XL_LORA, ss_base_model_version="sdxl_base_v1-0"
    )
    model = model_files(path.parent, "x", "lora", base=base)
    error = refused(model, "x.safetensors does not fit its base model", ValueError("size mismatch"))
    assert error.message == (
        "local:x is a LoRA for SDXL, and its base model local:tiny/base is Stable Diffusion 1.x; "
        "x.safetensors does not fit its base model: size mismatch"
    )
    assert error.hint == (
        "check that base_model in the model card, or --base, is a model of SDXL (its metadata name "
        "sdxl_base_v1-0)"
    )


def test_a_folder_that_diffusers_refuses_is_called_one(base: ModelFiles) -> None:
    error = refused(base, "cannot be loaded by diffusers", ValueError("some words"))
    assert error.message == (
        "local:tiny/base is a diffusers folder, and cannot be loaded by diffusers: some words"
    )
    assert "save_pretrained" in str(error.hint)


def test_a_package_that_is_missing_is_the_way_out(base: ModelFiles) -> None:
    error = refused(base, "cannot be loaded by diffusers", ImportError("no bitsandbytes"))
    assert "install the package" in str(error.hint)


def test_only_a_file_that_is_cut_short_is_downloaded_again(
    tmp_path: Path, base: ModelFiles
) -> None:
    path = weights(tmp_path / "m" / "x.safetensors", XL_LORA)
    model = model_files(path.parent, "x", "lora", base=base)
    whole = refused(model, "does not fit", ValueError("words"))
    path.write_bytes(path.read_bytes()[:-1])
    cut = refused(model, "does not fit", ValueError("words"))
    assert "download" not in f"{whole.message} {whole.hint}"
    assert "cut short" in cut.message
    assert cut.message.endswith("(words)")
    assert str(cut.hint).startswith("download it again")
