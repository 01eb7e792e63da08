"""What is tried of each architecture, and what is right: the tests and docs/models.md read this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MATRIX", "REFUSALS", "Refusal", "Row"]

SingleFile = Literal["whole", "network"]


@dataclass(frozen=True)
class Row:
    """One architecture.

    ``guidance`` and ``true_cfg`` say whether such a scale has an effect, ``negative`` whether a
    negative prompt can have one, ``clip_skip`` whether layers of the text encoder can be left out.
    ``reads`` is how many tokens of a prompt are read, ``words_around`` what of them the pipeline's
    own words take with the tiny tokenizers. ``single_file`` is what such a file holds where people
    share one: the whole model, or the network alone. ``steps`` are the fewest that show something,
    ``more_steps`` others. A ``twin`` has the pipeline of its neighbour above: what that one shows
    of settings is tried on the twin in the slow session alone.
    """

    title: str
    reads: int
    guidance: bool = True
    true_cfg: bool = False
    negative: bool = True
    clip_skip: bool = False
    lora: bool = True
    single_file: SingleFile | None = None
    steps: int = 2
    more_steps: int | None = 3
    twin: bool = False


MATRIX: dict[str, Row] = {
    "sd15": Row("Stable Diffusion 1.5", 77, clip_skip=True, single_file="whole"),
    "sd2": Row("Stable Diffusion 2 (epsilon)", 77, clip_skip=True, single_file="whole", twin=True),
    "sd2-v": Row(
        "Stable Diffusion 2 (v-prediction)", 77, clip_skip=True, single_file="whole", twin=True
    ),
    "lcm": Row("Latent Consistency Models", 77, negative=False, clip_skip=True),
    "sdxl": Row("Stable Diffusion XL", 77, clip_skip=True, single_file="whole"),
    "sd3": Row("Stable Diffusion 3", 256, clip_skip=True, single_file="whole"),
    "sd3.5": Row("Stable Diffusion 3.5", 256, clip_skip=True, single_file="whole", twin=True),
    "flux1-dev": Row("FLUX.1 dev, Krea", 512, true_cfg=True, single_file="network"),
    "flux1-schnell": Row(
        "FLUX.1 schnell", 512, guidance=False, true_cfg=True, single_file="network", twin=True
    ),
    "flux2-dev": Row("FLUX.2 dev", 512, negative=False, single_file="network"),
    "flux2-klein": Row(
        "FLUX.2 klein (distilled)", 512, guidance=False, negative=False, single_file="network"
    ),
    "flux2-klein-base": Row(
        "FLUX.2 klein base", 512, negative=False, single_file="network", twin=True
    ),
    "chroma": Row("Chroma", 512, single_file="network"),
    "pixart-alpha": Row("PixArt-alpha", 120, lora=False),
    "pixart-sigma": Row("PixArt-Sigma", 300, lora=False, twin=True),
    "sana": Row("Sana", 300, single_file="network"),
    "sana-sprint": Row("Sana Sprint", 300, negative=False, more_steps=None),
    "auraflow": Row("AuraFlow", 256, single_file="network"),
    "lumina2": Row("Lumina Image 2.0", 256, single_file="network"),
    "hidream": Row("HiDream-I1", 128, single_file="network"),
    "hunyuandit": Row("Hunyuan-DiT", 256, lora=False),
    "kolors": Row("Kolors", 256),
    "cogview4": Row("CogView4", 1024),
    "cogview3plus": Row("CogView3-Plus", 224, lora=False),
    "qwen-image": Row("Qwen-Image", 512, guidance=False, true_cfg=True, single_file="network"),
    "z-image": Row("Z-Image, Z-Image-Turbo", 512, single_file="network"),
    "kandinsky3": Row("Kandinsky 3", 128, lora=False),
    "kandinsky2.2": Row("Kandinsky 2.2 (prior and decoder)", 77, lora=False),
    "deepfloyd-if": Row("DeepFloyd IF (first stage)", 77),
}


@dataclass(frozen=True)
class Refusal:
    """A kind of model that generates no image from a text alone, and words of its refusal."""

    title: str
    words: str


REFUSALS: dict[str, Refusal] = {
    "unconditional": Refusal("DDPM and other models without a text", "takes no prompt"),
    "class-labels": Refusal(
        "DiT, which makes one of a thousand classes", "takes no prompt, but the number of a class"
    ),
    "image-to-image": Refusal("image to image", "needs an image to begin with"),
    "inpainting": Refusal("inpainting", "paints into an image"),
    "nine-channels": Refusal(
        "an inpainting network under the name of a text-to-image pipeline",
        "reads 9 channels, and 4 are the noise's: it needs an image and a mask",
    ),
    "eight-channels": Refusal(
        "InstructPix2Pix under the name of a text-to-image pipeline",
        "reads 8 channels, and 4 are the noise's: it needs an image to edit",
    ),
    "five-channels": Refusal(
        "depth to image under the name of a text-to-image pipeline",
        "reads 5 channels, and 4 are the noise's: it needs a depth map",
    ),
    "instruct-pix2pix": Refusal("InstructPix2Pix", "edits images"),
    "controlnet": Refusal("ControlNet", "needs an image of edges, depth or a pose"),
    "t2i-adapter": Refusal("T2I-Adapter", "needs an image of edges, depth or a pose"),
    "sdxl-refiner": Refusal("the refiner of SDXL", "is SDXL's refiner"),
    "flux-fill": Refusal("FLUX.1 Fill", "paints into an image"),
    "flux-fill-channels": Refusal(
        "FLUX.1 Fill under the name of a text-to-image pipeline",
        "reads 96 channels, and 16 are the noise's",
    ),
    "flux-depth": Refusal("FLUX.1 Depth and Canny", "needs an image of edges, depth or a pose"),
    "flux-kontext": Refusal("FLUX.1 Kontext", "edits images"),
    "flux-redux": Refusal("FLUX.1 Redux", "needs an image to begin with"),
    "qwen-image-edit": Refusal("Qwen-Image-Edit", "edits images"),
    "upscaler": Refusal("upscalers", "enlarges or refines images"),
    "wan": Refusal("Wan", "makes videos"),
    "ltx": Refusal("LTX-Video", "makes videos"),
    "cogvideox": Refusal("CogVideoX", "makes videos"),
    "animatediff": Refusal("AnimateDiff", "makes videos"),
    "hunyuan-video": Refusal("HunyuanVideo", "makes videos"),
    "stable-video": Refusal("Stable Video Diffusion", "makes videos"),
    "stable-audio": Refusal("Stable Audio", "makes sounds"),
    "shap-e": Refusal("Shap-E", "makes 3D objects"),
    "llada": Refusal("language models (LLaDA2)", "makes texts"),
    "prior": Refusal(
        "priors (Kandinsky 2.2, Stable Cascade)", "makes embeddings for another pipeline"
    ),
    "decoder": Refusal("decoders without their prior", "needs the embeddings of another pipeline"),
    "stable-cascade": Refusal(
        "Stable Cascade, parts of which diffusers 0.42 no longer loads",
        "no longer loads parts of wuerstchen",
    ),
    "onnx": Refusal("ONNX", "ONNX files, which are not loaded here"),
    "modular": Refusal("modular pipelines", "is a modular pipeline"),
    "no-pipeline": Refusal("a class that is no pipeline", "is not a pipeline of diffusers"),
}
