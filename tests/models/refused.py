"""Models that generate no image from a text alone, and what is said of each.

Where the class of the pipeline tells, ``model_index.json`` is all that is read of a model: those
have the index that ``save_pretrained`` writes, and one small file of weights. Where only the
network tells, the whole model is there.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

from models.architectures import BETAS, flux_parts, sd_parts, sdxl_parts
from models.store import ModelStore, save
from models.text import WIDTH, randomise

__all__ = ["REFUSED", "Refused", "refused_folder"]


@dataclass(frozen=True)
class Refused:
    """A kind of model: what it is for people, its builder, and words of its refusal."""

    title: str
    build: Callable[[Path], None]
    words: str


def refused_folder(store: ModelStore, name: str) -> Path:
    """The folder of one of ``REFUSED``. Read only."""
    return store.folder_of(f"refused-{name}", REFUSED[name].build)


def _indexed(class_name: str, **settings: object) -> Callable[[Path], None]:
    """A folder with the index of a pipeline, and one file of weights."""

    def build(folder: Path) -> None:
        takes = inspect.signature(getattr(diffusers, class_name).__init__).parameters
        parts = {
            name: ["diffusers", "ModelMixin"]
            for name, parameter in takes.items()
            if name != "self" and parameter.default is inspect.Parameter.empty
        }
        index = {"_class_name": class_name, "_diffusers_version": "0.35.0"} | parts | settings
        (folder / "unet").mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
        save_file({"weight": torch.zeros(1)}, folder / "unet/diffusion_pytorch_model.safetensors")

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

REFUSED: dict[str, Refused] = {
    "unconditional": Refused(
        "DDPM and other models without a text", _saved(_unconditional), "takes no prompt"
    ),
    "class-labels": Refused(
        "DiT, which makes one of a thousand classes",
        _indexed("DiTPipeline"),
        "takes no prompt, but the number of a class",
    ),
    "image-to-image": Refused(
        "image to image", _sd("StableDiffusionImg2ImgPipeline"), "needs an image to begin with"
    ),
    "inpainting": Refused(
        "inpainting",
        _sd("StableDiffusionInpaintPipeline", in_channels=9, **_NOISE),
        "paints into an image",
    ),
    "nine-channels": Refused(
        "an inpainting network under the name of a text-to-image pipeline",
        _sd(_TEXT_TO_IMAGE, in_channels=9, **_NOISE),
        "reads 9 channels, and 4 are the noise's: it needs an image and a mask",
    ),
    "eight-channels": Refused(
        "InstructPix2Pix under the name of a text-to-image pipeline",
        _sd(_TEXT_TO_IMAGE, in_channels=8, **_NOISE),
        "reads 8 channels, and 4 are the noise's: it needs an image to edit",
    ),
    "five-channels": Refused(
        "depth to image under the name of a text-to-image pipeline",
        _sd(_TEXT_TO_IMAGE, in_channels=5, **_NOISE),
        "reads 5 channels, and 4 are the noise's: it needs a depth map",
    ),
    "instruct-pix2pix": Refused(
        "InstructPix2Pix", _indexed("StableDiffusionInstructPix2PixPipeline"), "edits images"
    ),
    "controlnet": Refused("ControlNet", _saved(_controlnet), "needs an image to follow"),
    "t2i-adapter": Refused("T2I-Adapter", _saved(_t2i_adapter), "needs an image to follow"),
    "sdxl-refiner": Refused("the refiner of SDXL", _saved(_refiner), "is SDXL's refiner"),
    "flux-fill": Refused(
        "FLUX.1 Fill",
        _flux("FluxFillPipeline", in_channels=96, out_channels=16),
        "paints into an image",
    ),
    "flux-fill-channels": Refused(
        "FLUX.1 Fill under the name of a text-to-image pipeline",
        _flux("FluxPipeline", in_channels=96, out_channels=16),
        "reads 96 channels, and 16 are the noise's",
    ),
    "flux-depth": Refused(
        "FLUX.1 Depth and Canny",
        _flux("FluxControlPipeline", in_channels=32, out_channels=16),
        "needs an image to follow",
    ),
    "flux-kontext": Refused("FLUX.1 Kontext", _flux("FluxKontextPipeline"), "edits images"),
    "flux-redux": Refused(
        "FLUX.1 Redux", _indexed("FluxPriorReduxPipeline"), "needs an image to begin with"
    ),
    "qwen-image-edit": Refused(
        "Qwen-Image-Edit", _indexed("QwenImageEditPlusPipeline"), "edits images"
    ),
    "upscaler": Refused(
        "upscalers", _indexed("StableDiffusionUpscalePipeline"), "enlarges or refines images"
    ),
    "wan": Refused("Wan", _indexed("WanPipeline"), "makes videos"),
    "ltx": Refused("LTX-Video", _indexed("LTXPipeline"), "makes videos"),
    "cogvideox": Refused("CogVideoX", _indexed("CogVideoXPipeline"), "makes videos"),
    "animatediff": Refused("AnimateDiff", _indexed("AnimateDiffPipeline"), "makes videos"),
    "hunyuan-video": Refused("HunyuanVideo", _indexed("HunyuanVideoPipeline"), "makes videos"),
    "stable-video": Refused(
        "Stable Video Diffusion", _indexed("StableVideoDiffusionPipeline"), "makes videos"
    ),
    "stable-audio": Refused("Stable Audio", _indexed("StableAudioPipeline"), "makes sounds"),
    "shap-e": Refused("Shap-E", _indexed("ShapEPipeline"), "makes 3D objects"),
    "llada": Refused("language models (LLaDA2)", _indexed("LLaDA2Pipeline"), "makes texts"),
    "prior": Refused(
        "priors (Kandinsky 2.2, Stable Cascade)",
        _indexed("StableCascadePriorPipeline"),
        "makes embeddings for another pipeline",
    ),
    "decoder": Refused(
        "decoders without their prior",
        _indexed("StableCascadeDecoderPipeline"),
        "needs the embeddings of another pipeline",
    ),
    "stable-cascade": Refused(
        "Stable Cascade, parts of which diffusers 0.42 no longer loads",
        _indexed("StableCascadeCombinedPipeline", vqgan=["wuerstchen", "PaellaVQModel"]),
        "no longer loads parts of wuerstchen",
    ),
    "onnx": Refused(
        "ONNX", _indexed("OnnxStableDiffusionPipeline"), "ONNX files, which are not loaded here"
    ),
    "modular": Refused(
        "modular pipelines", _indexed("FluxModularPipeline"), "is a modular pipeline"
    ),
    "no-pipeline": Refused(
        "a class that is no pipeline",
        lambda folder: _indexed("DDPMPipeline", _class_name="AutoencoderKL")(folder),
        "is no pipeline of diffusers",
    ),
}
