"""Models that generate no image from a text alone.

Where the class of the pipeline tells, ``model_index.json`` is all that is read of a model: those
have an index with one component, and one small file of weights. Where only the
network tells, the whole model is there.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

from tests.support.models.architectures import BETAS, flux_parts, sd_parts, sdxl_parts
from tests.support.models.store import ModelStore, save
from tests.support.models.text import WIDTH, randomise

__all__ = ["BUILDERS", "refused_folder"]


def refused_folder(store: ModelStore, name: str) -> Path:
    """The folder of one of ``matrix.REFUSALS``. Read only."""
    return store.folder_of(f"refused-{name}", BUILDERS[name])


_NETWORKS = ("unet", "transformer", "prior", "decoder", "model")


def _indexed(class_name: str, **settings: object) -> Callable[[Path], None]:
    """A folder with the index of a pipeline, and one file of weights."""

    def build(folder: Path) -> None:
        takes = inspect.signature(getattr(diffusers, class_name).__init__).parameters
        network = next((name for name in _NETWORKS if name in takes), "unet")
        parts = {network: ["diffusers", "ModelMixin"]}
        index = {"_class_name": class_name, "_diffusers_version": "0.35.0"} | parts | settings
        (folder / network).mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
        weights = folder / network / "diffusion_pytorch_model.safetensors"
        save_file({"weight": torch.zeros(1)}, weights)

    return build


def _saved(make: Callable[[], object]) -> Callable[[Path], None]:
    return lambda folder: save(make(), folder)


def _unconditional() -> object:
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    return diffusers.DDPMPipeline(unet=randomise(network), scheduler=diffusers.DDPMScheduler())


def _controlnet() -> object:
    network = diffusers.ControlNetModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(8, 16),
    )
    parts = sd_parts() | {"controlnet": randomise(network)}
    return diffusers.StableDiffusionControlNetPipeline(**parts)


def _t2i_adapter() -> object:
    adapter = diffusers.T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2
    )
    parts = sd_parts() | {"adapter": randomise(adapter)}
    return diffusers.StableDiffusionAdapterPipeline(**parts)


def _refiner() -> object:
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, steps_offset=1)
    parts = sdxl_parts(scheduler) | {"text_encoder": None, "tokenizer": None}
    return diffusers.StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True)


def _sd(kind: str, **network: object) -> Callable[[Path], None]:
    return _saved(lambda: getattr(diffusers, kind)(**sd_parts(**network)))


def _flux(kind: str, **network: object) -> Callable[[Path], None]:
    return _saved(lambda: getattr(diffusers, kind)(**flux_parts(**network)))


_TEXT_TO_IMAGE = "StableDiffusionPipeline"
_NOISE = {"out_channels": 4}

BUILDERS: dict[str, Callable[[Path], None]] = {
    "unconditional": _saved(_unconditional),
    "class-labels": _indexed("DiTPipeline"),
    "image-to-image": _sd("StableDiffusionImg2ImgPipeline"),
    "inpainting": _sd("StableDiffusionInpaintPipeline", in_channels=9, **_NOISE),
    "nine-channels": _sd(_TEXT_TO_IMAGE, in_channels=9, **_NOISE),
    "eight-channels": _sd(_TEXT_TO_IMAGE, in_channels=8, **_NOISE),
    "five-channels": _sd(_TEXT_TO_IMAGE, in_channels=5, **_NOISE),
    "instruct-pix2pix": _indexed("StableDiffusionInstructPix2PixPipeline"),
    "controlnet": _saved(_controlnet),
    "t2i-adapter": _saved(_t2i_adapter),
    "sdxl-refiner": _saved(_refiner),
    "flux-fill": _flux("FluxFillPipeline", in_channels=96, out_channels=16),
    "flux-fill-channels": _flux("FluxPipeline", in_channels=96, out_channels=16),
    "flux-depth": _flux("FluxControlPipeline", in_channels=32, out_channels=16),
    "flux-kontext": _flux("FluxKontextPipeline"),
    "flux-redux": _indexed("FluxPriorReduxPipeline"),
    "qwen-image-edit": _indexed("QwenImageEditPlusPipeline"),
    "upscaler": _indexed("StableDiffusionUpscalePipeline"),
    "wan": _indexed("WanPipeline"),
    "ltx": _indexed("LTXPipeline"),
    "cogvideox": _indexed("CogVideoXPipeline"),
    "animatediff": _indexed("AnimateDiffPipeline"),
    "hunyuan-video": _indexed("HunyuanVideoPipeline"),
    "stable-video": _indexed("StableVideoDiffusionPipeline"),
    "stable-audio": _indexed("StableAudioPipeline"),
    "shap-e": _indexed("ShapEPipeline"),
    "llada": _indexed("LLaDA2Pipeline"),
    "prior": _indexed("StableCascadePriorPipeline"),
    "decoder": _indexed("StableCascadeDecoderPipeline"),
    "stable-cascade": _indexed(
        "StableCascadeCombinedPipeline", vqgan=["wuerstchen", "PaellaVQModel"]
    ),
    "onnx": _indexed("OnnxStableDiffusionPipeline"),
    "modular": _indexed("FluxModularPipeline"),
    "no-pipeline": lambda folder: _indexed("DDPMPipeline", _class_name="AutoencoderKL")(folder),
}
"""What writes the folder of each of ``matrix.REFUSALS``."""
