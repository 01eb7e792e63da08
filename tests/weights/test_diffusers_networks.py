"""Networks as diffusers builds them: their own names and sizes, without any memory for them."""

from __future__ import annotations

from typing import Any

import pytest

from gmi_registry.weights import Header, Tensor, identify

NETWORKS: dict[str, str] = {
    "FluxTransformer2DModel": "flux1", "Flux2Transformer2DModel": "flux2",
    "ChromaTransformer2DModel": "chroma", "SD3Transformer2DModel": "sd3",
    "QwenImageTransformer2DModel": "qwen-image", "ZImageTransformer2DModel": "z-image",
    "Lumina2Transformer2DModel": "lumina2", "AuraFlowTransformer2DModel": "auraflow",
    "PixArtTransformer2DModel": "pixart", "SanaTransformer2DModel": "sana",
    "HunyuanVideoTransformer3DModel": "hunyuan-video",
    "HunyuanImageTransformer2DModel": "hunyuan-image", "WanTransformer3DModel": "wan",
    "LTXVideoTransformer3DModel": "ltx", "CogVideoXTransformer3DModel": "cogvideox",
    "MochiTransformer3DModel": "mochi", "AllegroTransformer3DModel": "allegro",
    "Kandinsky3UNet": "kandinsky3", "StableCascadeUNet": "stable-cascade",
    "UNetSpatioTemporalConditionModel": "svd", "UNetMotionModel": "animatediff",
    "UNet3DConditionModel": "modelscope", "UNet2DModel": "pixel-unet",
}  # fmt: skip
OTHERS: dict[str, str] = {
    "AutoencoderKL": "vae", "AsymmetricAutoencoderKL": "vae", "AutoencoderTiny": "vae",
    "AutoencoderDC": "vae", "AutoencoderKLWan": "vae", "VQModel": "vae",
    "AutoencoderKLQwenImage": "vae", "ControlNetModel": "controlnet",
    "FluxControlNetModel": "controlnet", "SD3ControlNetModel": "controlnet",
    "SparseControlNetModel": "controlnet", "ControlNetXSAdapter": "controlnet",
    "T2IAdapter": "controlnet", "MotionAdapter": "motion-module", "PriorTransformer": "prior",
}  # fmt: skip
# Adapters of attention layers alone, by which these are told.
TRAINED = ("to_q", "to_k", "to_v", "to_out.0")


def tensors(name: str) -> dict[str, Tensor]:
    diffusers = pytest.importorskip("diffusers")
    import torch

    network: Any = getattr(diffusers, name, None)
    if network is None:
        pytest.skip(f"this version of diffusers has no {name}")
    with torch.device("meta"):
        state = network().state_dict()
    return {key: Tensor("BF16", tuple(value.shape)) for key, value in state.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_and_its_lora(name: str) -> None:
    whole = tensors(name)
    expected = NETWORKS[name]
    file = identify(Header("safetensors", whole, {}))
    assert (file.kind, file.architecture, file.diffusers_names) == ("network", expected, True)

    layers = {
        key.removesuffix(".weight"): tensor.shape
        for key, tensor in whole.items()
        if key.removesuffix(".weight").endswith(TRAINED) and len(tensor.shape) == 2
    }
    if not layers or expected in ("pixel-unet", "animatediff"):
        return
    pairs: dict[str, Tensor] = {}
    for layer, (outputs, inputs) in layers.items():
        pairs[f"transformer.{layer}.lora_A.weight"] = Tensor("BF16", (8, inputs))
        pairs[f"transformer.{layer}.lora_B.weight"] = Tensor("BF16", (outputs, 8))
    adapter = identify(Header("safetensors", pairs, {}))
    assert (adapter.kind, adapter.layers) == ("lora", len(layers))
    assert adapter.architecture in (None, *ALIKE.get(expected, (expected,)))


# Whose attention alone may be another's, too.
ALIKE: dict[str, tuple[str, ...]] = {
    "chroma": ("flux1",),
    "svd": ("sd2",),
    "mochi": ("mochi", "cogvideox"),
    "hunyuan-video": ("hunyuan-video", "flux1"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_parts(name: str) -> None:
    file = identify(Header("safetensors", tensors(name), {}))
    assert (file.kind, file.is_described) == (OTHERS[name], False)
