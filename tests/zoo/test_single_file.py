"""The merged file holds the model that the base and the LoRA make, read back by diffusers."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from zoo import autoencoder, base, single_file
from zoo.lora import TARGETS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = base.BaseModel()
    StableDiffusionPipeline(
        vae=autoencoder.build(),
        text_encoder=model.text_encoder,
        tokenizer=base.build_tokenizer(folder / "tokenizer"),
        unet=model.unet,
        scheduler=base.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "base")
    config = LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS, init_lora_weights=False)
    model.unet.add_adapter(config)
    layers = get_peft_model_state_dict(model.unet)
    StableDiffusionPipeline.save_lora_weights(folder / "lora", unet_lora_layers=layers)
    single_file.merge(folder / "base", folder / "lora", folder / "merged.safetensors")
    return folder


def test_every_part_computes_what_base_and_lora_compute(models: Path) -> None:
    expected = StableDiffusionPipeline.from_pretrained(models / "base")
    plain_unet = StableDiffusionPipeline.from_pretrained(models / "base").unet
    expected.load_lora_weights(models / "lora", weight_name="pytorch_lora_weights.safetensors")
    merged = StableDiffusionPipeline.from_single_file(
        str(models / "merged.safetensors"), config=str(models / "base"), local_files_only=True
    )
    latents, context = torch.randn(1, 4, 16, 16), torch.randn(1, 32, 64)
    step, picture = torch.tensor(500), torch.randn(1, 3, 64, 64)
    ids = base.tokens(expected.tokenizer, ["a hot pepper"])
    with torch.no_grad():
        ours = merged.unet.float()(latents, step, context).sample
        theirs = expected.unet(latents, step, context).sample
        without = plain_unet(latents, step, context).sample
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)
        assert (without - theirs).abs().max() > 0.05, "the LoRA is part of what was compared"
        torch.testing.assert_close(
            merged.vae.float()(picture).sample, expected.vae(picture).sample, rtol=0, atol=0.02
        )
        torch.testing.assert_close(
            merged.text_encoder.float()(ids)[0], expected.text_encoder(ids)[0], rtol=0, atol=0.02
        )
