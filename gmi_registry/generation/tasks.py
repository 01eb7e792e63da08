"""What a pipeline of diffusers makes, and from what: told by its class, before weights are loaded.

A specification needs images that are made from a text alone. diffusers has pipelines for a dozen
other tasks, whose classes look much alike; some take a text and say only when they run that they
want an image beside it. Signatures tell most of them; its own tables of tasks, and the names that
it gives the others, tell the rest. A class that is new, takes a prompt and needs nothing else
passes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

__all__ = [
    "missing_packages",
    "needed_components",
    "why_not_text_to_image",
    "why_other_channels",
]

_EMPTY = inspect.Parameter.empty
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_VIDEO = frozenset(
    {"control_video", "frame_rate", "frames", "num_frames", "num_videos_per_prompt", "video"}
    | {"video_length"}
)
_TEXT = frozenset({"gen_length", "max_new_tokens"})
_CONTROL = frozenset({"adapter", "controlnet"})
_IMAGES = frozenset({"image", "images", "input_images", "mask_image", "original_image"})
_DECODERS = frozenset({"decoder", "movq", "unet", "vae", "vqgan", "vqvae"})
"""Parts that give pixels: a pipeline with a prior and without one of them makes embeddings."""

_EDITING = re.compile(r"Edit|Kontext|Pix2Pix")
_UPSCALING = re.compile(r"Refiner|SuperResolution|Upsample|Upscale")
_FROM_IMAGE = re.compile(r"Depth2Img|Image2Image|ImageToImage|Img2Img|Variation")
_MASKED = re.compile(r"Fill|Inpaint")


def why_not_text_to_image(pipeline: type[Any], index: Mapping[str, Any]) -> str | None:
    """Why a pipeline class makes no images from a text alone; None where it does, or may.

    ``index`` is its ``model_index.json``. The answer completes "FluxFillPipeline ...": "paints
    into an image, which it needs beside a prompt".
    """
    takes = inspect.signature(pipeline.__call__).parameters
    has = inspect.signature(pipeline.__init__).parameters
    name = pipeline.__name__
    return (
        _other_kind(name, takes, has)
        or _no_prompt(takes)
        or _needs_image(name, takes, has, index)
        or _needs_more(takes)
    )


def missing_packages(pipeline: object) -> list[str]:
    """What a class of diffusers needs that is not installed; it is a placeholder then."""
    return [name for name in getattr(pipeline, "_backends", ()) if find_spec(name) is None]


def _other_kind(name: str, takes: Collection[str], has: Collection[str]) -> str | None:
    """What it makes, where that is no image."""
    parameters = set(takes)
    if parameters & _VIDEO or _listed(name, "2VIDEO"):
        return "makes videos"
    if any(parameter.startswith("audio") for parameter in takes) or _listed(name, "2AUDIO"):
        return "makes sounds"
    if "frame_size" in takes:
        return "makes 3D objects"
    if parameters & _TEXT:
        return "makes texts"
    if "prior" in has and not _DECODERS & set(has):
        return "makes embeddings for another pipeline, no images"
    if "LDM3D" in name:
        return "makes images with a depth map each"
    if "Onnx" in name:
        return "is made of ONNX files, which are not loaded here"
    return None


def _no_prompt(takes: Mapping[str, inspect.Parameter]) -> str | None:
    if "prompt" in takes:
        return None
    needed = _required(takes)
    if "class_labels" in needed:
        return "takes no prompt, but the number of a class"
    if "image" in takes:
        return "takes no prompt, but an image"
    return "takes no prompt"


def _needs_image(
    name: str,
    takes: Mapping[str, inspect.Parameter],
    has: Collection[str],
    index: Mapping[str, Any],
) -> str | None:
    controls = _CONTROL & set(has) or {part for part in takes if part.startswith("control_image")}
    if controls:
        return "needs an image to follow (of edges, depth or a pose) beside a prompt"
    if index.get("requires_aesthetics_score") is True:
        return "is SDXL's refiner, which needs an image to begin with"
    if not _IMAGES & set(takes) and "source_embeds" not in takes:
        return None
    if _EDITING.search(name):
        return "edits images, and needs one beside a prompt"
    if _UPSCALING.search(name):
        return "enlarges or refines images, and needs one to begin with"
    from_text = _listed(name, "TEXT2IMAGE")
    if _MASKED.search(name) or ("mask_image" in takes and not from_text):
        return "paints into an image, which it needs beside a prompt"
    from_image = (
        _FROM_IMAGE.search(name) or _listed(name, "IMAGE2IMAGE") or "image" in _required(takes)
    )
    if from_image and not from_text:
        return "needs an image to begin with"
    return None


def _needs_more(takes: Mapping[str, inspect.Parameter]) -> str | None:
    needed = [name for name in _required(takes) if name != "prompt"]
    if any("embed" in name for name in needed):
        return "needs the embeddings of another pipeline (its prior) beside a prompt"
    if needed:
        return f"needs {', '.join(needed[:3])} beside a prompt"
    if "num_inference_steps" not in takes:
        return "takes no number of steps, which a recipe records"
    return None


def _required(takes: Mapping[str, inspect.Parameter]) -> list[str]:
    return [
        name
        for name, parameter in takes.items()
        if parameter.default is _EMPTY and parameter.kind not in _VARIABLE and name != "self"
    ]


def _listed(name: str, task: str) -> bool:
    """Whether one of diffusers' tables for tasks that end in ``task`` has it."""
    from diffusers.pipelines import auto_pipeline

    return any(
        getattr(known, "__name__", str(known)) == name
        for table in dir(auto_pipeline)
        if table.startswith("AUTO_") and table.endswith(f"{task}_PIPELINES_MAPPING")
        for known in getattr(auto_pipeline, table).values()
    )


def why_other_channels(network: Mapping[str, Any], coder: Mapping[str, Any]) -> str | None:
    """Why a network reads more than noise, by its and its autoencoder's configuration.

    An inpainting, editing or control model has channels for an image, a mask or a depth map beside
    those of the noise, whatever class its ``model_index.json`` names: 9 and 8 of 4 in Stable
    Diffusion's, 384 and 128 of 64 in FLUX.1's. The answer completes "its network ...".
    """
    reads, gives = _count(network.get("in_channels")), _count(network.get("out_channels"))
    latents = _count(coder.get("latent_channels")) or _count(coder.get("z_dim"))
    if reads is None or gives is None or latents is None:
        return None
    # Some read a square of 2 x 2 latents as one, and may give it as four.
    if reads <= gives or reads in (latents, 4 * latents):
        return None
    what = {9: "an image and a mask", 8: "an image to edit", 5: "a depth map"}
    extra = what.get(reads, "an image") if latents == 4 else "an image"
    return f"reads {reads} channels, and {gives} are the noise's: it needs {extra} to begin with"


def _count(value: object) -> int | None:
    """``value`` where it is a number of channels."""
    usable = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if usable and isinstance(value, int) else None


def needed_components(pipeline: type[Any]) -> list[str]:
    """The parts that a pipeline of this class must be given, null or not, in their order."""
    parameters = inspect.signature(pipeline.__init__).parameters.values()
    optional = {"self", *getattr(pipeline, "_optional_components", ())}
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in optional
    ]
