"""The element type that a model computes in where nobody chose one, and what it records.

The rule is what the authors of the architectures and diffusers' own documentation do. On a
processor everything is float32: half precision is slow there or missing. Elsewhere transformers
were trained in bfloat16, and most of them overflow in float16; networks of the Stable Diffusion
kind (U-Nets) run in float16, with an autoencoder that diffusers itself puts into float32 where its
configuration says ``force_upcast``; weights that were saved in bfloat16 stay so.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from gmi_registry.device import DtypeName, require_dtype
from gmi_registry.errors import GmiError, InputError
from gmi_registry.model import ModelFiles
from gmi_registry.weights import read_header

__all__ = [
    "bytes_in",
    "choose_dtype",
    "computing_dtypes",
    "dtypes_to_try",
    "keep_decoder_sane",
    "stored_dtype",
    "usual_dtype",
]

_HALF_TRAINED = frozenset(
    {
        "AuraFlowPipeline", "HunyuanDiTPipeline", "HunyuanDiTPAGPipeline", "PixArtAlphaPipeline",
        "PixArtSigmaPAGPipeline", "PixArtSigmaPipeline",
    }
)  # fmt: skip
"""Pipelines with a transformer whose weights are published, and run, in float16."""

_TAKES_OTHER_LATENTS = frozenset({"PixArtSigmaPAGPipeline", "PixArtSigmaPipeline"})
"""Pipelines that give the autoencoder latents of its own type, and leave that as it is."""

_NETWORKS = ("transformer", "unet", "prior", "decoder")
_STORED: dict[str, DtypeName] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_INDEX = "model_index.json"
_INDEX_LIMIT = 1024 * 1024


def usual_dtype(
    pipeline_class: str | None, network: str, stored: DtypeName | None, device: str
) -> DtypeName:
    """The dtype of a pipeline of diffusers on ``device`` where nobody chose one. Pure.

    ``network`` is the name of its denoising component, "unet" or "transformer"; ``stored`` the
    dtype of that one's weights in their files, None where they are quantised or not known.
    """
    if device.partition(":")[0] == "cpu":
        return "float32"
    if network == "transformer" and pipeline_class not in _HALF_TRAINED:
        return "bfloat16"
    return "bfloat16" if stored == "bfloat16" else "float16"


def dtypes_to_try(dtype: DtypeName, device: str) -> tuple[DtypeName, ...]:
    """What to compute in next where ``dtype`` gives no images; nothing on a processor."""
    if device.partition(":")[0] == "cpu":
        return ()
    order: tuple[DtypeName, ...] = ("float16", "bfloat16", "float32")
    return order[order.index(dtype) + 1 :]


def choose_dtype(model: ModelFiles, device: str) -> tuple[DtypeName, list[str]]:
    """The dtype for ``model`` on ``device``, which is there, and notes for people.

    One that the device computes in: bfloat16 gives way to float32, or to float16 for networks that
    do not overflow in it.
    """
    pipeline_class, network = _pipeline_of(model)
    stored = stored_dtype(model)
    dtype = usual_dtype(pipeline_class, network, stored, device)
    if dtype == "float32" or _computes(device, dtype):
        return dtype, []
    robust = network == "unet" or pipeline_class in _HALF_TRAINED
    other: DtypeName = "float16" if dtype == "bfloat16" and robust else "float32"
    other = other if other == "float32" or _computes(device, other) else "float32"
    return other, [f"{device} does not compute in {dtype}, the model's own: {other} is used"]


def stored_dtype(model: ModelFiles) -> DtypeName | None:
    """The dtype of most of the numbers in the denoising network's files, by their headers.

    Of a LoRA's base. None where that is another type (quantised, fp8), or no header can be read.
    """
    part = _whole(model)
    counts: Counter[str] = Counter()
    for path, found in _counts(part).items():
        if part.kind != "checkpoint" or path.parts[0] in _NETWORKS:
            counts += found
    return _STORED.get(counts.most_common(1)[0][0]) if counts else None


def bytes_in(model: ModelFiles, dtype: DtypeName) -> int:
    """Bytes of memory that the weights of ``model`` take in ``dtype``, at least; of a LoRA's base.

    By the headers of their files: numbers of other types than the three count as a byte each, those
    in files whose header cannot be read not at all.
    """
    size = 4 if dtype == "float32" else 2
    counts: Counter[str] = sum(_counts(_whole(model)).values(), Counter())
    return sum(count * (size if stored in _STORED else 1) for stored, count in counts.items())


def keep_decoder_sane(pipeline: Any) -> None:
    """Put an autoencoder that overflows in float16 into float32, where diffusers does not itself.

    It does for Stable Diffusion XL, Kolors and AuraFlow, image by image. An autoencoder that was
    mended for float16 says ``force_upcast: false``.
    """
    import torch

    coder: Any = getattr(pipeline, "vae", None)
    if (
        type(pipeline).__name__ in _TAKES_OTHER_LATENTS
        and getattr(coder, "dtype", None) == torch.float16
        and _states_force_upcast(coder.config)
    ):
        coder.to(torch.float32)


def computing_dtypes(pipeline: Any) -> tuple[str, str | None]:
    """The dtype of a loaded pipeline's network, and its autoencoder's where that is another one."""
    network = next(
        (part for name in _NETWORKS if (part := getattr(pipeline, name, None)) is not None),
        pipeline,
    )
    dtype = str(getattr(network, "dtype", None)).removeprefix("torch.")
    if dtype not in get_args(DtypeName):
        dtype = str(pipeline.dtype).removeprefix("torch.")
    coder: Any = getattr(pipeline, "vae", None) or getattr(pipeline, "movq", None)
    decodes = getattr(coder, "dtype", None)
    if decodes is None:
        return dtype, None
    vae_dtype = str(decodes).removeprefix("torch.")
    upcasts = hasattr(type(pipeline), "upcast_vae") and coder.config.get("force_upcast")
    if vae_dtype == "float16" and upcasts:  # what the pipeline does around each decoding
        vae_dtype = "float32"
    known = vae_dtype in get_args(DtypeName) and vae_dtype != dtype
    return dtype, vae_dtype if known else None


def _whole(model: ModelFiles) -> ModelFiles:
    """The model that a LoRA is for, or else ``model`` itself."""
    while model.kind in ("lora", "textual-inversion") and model.base is not None:
        model = model.base
    return model


def _counts(model: ModelFiles) -> dict[Path, Counter[str]]:
    """How many numbers of each type are in each weight file, by its path in the model.

    Not those of a moving average beside the weights, which is left out when they are loaded.
    """
    folder = model.path if model.path.is_dir() else model.path.parent
    counts: dict[Path, Counter[str]] = {}
    for path in (Path(weight.path) for weight in model.weights):
        file = folder / path
        try:
            header = read_header(file if file.is_file() else folder / path.name)
        except GmiError:
            continue
        counts[path] = Counter()
        for name, tensor in header.tensors.items():
            if not name.startswith("model_ema."):
                counts[path][tensor.dtype] += tensor.count
    return counts


def _states_force_upcast(config: Any) -> bool:
    # AutoencoderKL has it by default, also where the authors said nothing: those run in float16.
    unsaid = config.get("_use_default_values", ())
    return bool(config.get("force_upcast")) and "force_upcast" not in unsaid


def _computes(device: str, dtype: DtypeName) -> bool:
    import torch

    if dtype == "bfloat16" and device.startswith("cuda"):
        # Before Ampere it is emulated, several times slower.
        try:
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                return False
        except TypeError:  # an older torch
            pass
    try:
        require_dtype(device, dtype)
    except InputError:
        return False
    return True


def _pipeline_of(model: ModelFiles) -> tuple[str | None, str]:
    """The class that makes the model's images, and its network's name, by ``model_index.json``."""
    part: ModelFiles | None = model
    while part is not None:
        try:
            with (part.path / _INDEX).open("rb") as stream:
                index = json.loads(stream.read(_INDEX_LIMIT))
            network = next((name for name in _NETWORKS if (index.get(name) or [None])[0]), "unet")
            return str(index["_class_name"]), network
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            part = part.base
    return None, "unet"
