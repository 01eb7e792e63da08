"""Where a pipeline lies while it computes, whether memory suffices, and in which element type it
computes.

The rule for the element type is what the authors of the architectures and diffusers' own
documentation do. On a processor everything is float32: half precision is slow there or missing.
Elsewhere transformers were trained in bfloat16, and most of them overflow in float16; networks of
the Stable Diffusion kind (U-Nets) run in float16, with an autoencoder that diffusers itself puts
into float32 where its configuration says ``force_upcast``; weights that were saved in bfloat16 stay
so.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from gmi_registry.device import DtypeName, require_dtype
from gmi_registry.errors import GenerationError, GmiError, InputError
from gmi_registry.model import ModelFiles
from gmi_registry.spec import GenerationRecipe
from gmi_registry.weights import read_header

Offload = Literal["model", "sequential"]
"""What lies on the device while it computes, of weights that stay in this machine's memory: one
network of the pipeline, or one layer."""

# What is raised where memory runs out as a plain RuntimeError or OSError, by torch's allocator of
# the processor, by CUDA and its libraries, by Metal, and by the mapping of a file.
_MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "bad_alloc",
    "unable to mmap",
)
_CAUSES = 8

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


class OutOfMemoryError(GenerationError):
    """Memory ran out; ``nothing_kept`` where that was before any image of the run was kept."""

    def __init__(self, message: str, *, hint: str, nothing_kept: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.nothing_kept = nothing_kept


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, diffusers or safetensors, or what caused it, is want of memory."""
    import torch

    part: BaseException | None = error
    for _ in range(_CAUSES):
        if part is None:
            return False
        if isinstance(part, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(part, OSError) and part.errno == errno.ENOMEM:
            return True
        text = str(part).lower()
        if any(sign in text for sign in _MEMORY_SIGNS):
            return True
        part = part.__cause__ or part.__context__
    return False


def require_memory(
    who: str, needed: int, device: str, offload: Offload | None, dtype: str
) -> list[str]:
    """Raise OutOfMemoryError where ``needed`` bytes of weights cannot fit, whatever else runs.

    Else a note for people, where they do not fit beside what is there now: loading them may fail,
    and the system may end the process without a word.
    """
    place = "cpu" if offload is not None else device
    total, free = memory_of(place)
    where = "this machine" if place == "cpu" else place
    takes = f"{who}: its weights take {_gb(needed)} in {dtype}"
    hint = "give --dtype bfloat16, or use a machine with more memory"
    if place != "cpu":
        hint = "give --offload model, or sequential; or use a device with more memory"
    if total is not None and needed > total:
        raise OutOfMemoryError(f"{takes}, more than all memory of {where}, {_gb(total)}", hint=hint)
    if free is not None and needed > free:
        return [f"{takes}, and {_gb(free)} of memory are free on {where}: {hint}"]
    return []


def memory_of(device: str) -> tuple[int | None, int | None]:
    """Bytes of memory of a device, swap space included, and those that are free now.

    None for what the system does not tell.
    """
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return int(total), int(free)
    if device != "cpu":
        return None, None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total = sizes["MemTotal"] + sizes["SwapTotal"]
        free = sizes["MemAvailable"] + sizes["SwapFree"]
    except (OSError, ValueError, KeyError, IndexError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
        except (ValueError, OSError, AttributeError):
            return None, None
    return total, free


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def require_offload(device: str, offload: Offload | None) -> None:
    """Raise InputError where weights cannot be kept apart from ``device``, which is there."""
    if offload is not None and device.partition(":")[0] == "cpu":
        raise InputError(
            "--offload keeps weights in this machine's memory while a GPU computes, and without a "
            "GPU they lie there anyway",
            hint="leave out --offload, or name a GPU: --device cuda",
        )


def place_pipeline(pipeline: Any, device: str, offload: Offload | None) -> None:
    """Put a pipeline of diffusers on ``device``, or let its parts take turns there.

    Offloading and decoding one by one change no image but for the rounding of a batch. Raises what
    diffusers raises.
    """
    if offload is None:
        pipeline.to(device)
        return
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    coder: Any = getattr(pipeline, "vae", None)
    if hasattr(coder, "enable_slicing"):
        coder.enable_slicing()


def tiling_helps(pipeline: Any, recipe: GenerationRecipe) -> bool:
    """Whether the autoencoder can decode images of this size in tiles, and does not yet."""
    coder: Any = getattr(pipeline, "vae", None)
    if recipe.vae_tiling or not hasattr(coder, "enable_tiling"):
        return False
    tile = getattr(coder, "tile_sample_min_size", None)
    height = getattr(coder, "tile_sample_min_height", tile)
    width = getattr(coder, "tile_sample_min_width", tile)
    if not isinstance(height, int) or not isinstance(width, int):
        return False
    return recipe.height > height or recipe.width > width


@contextmanager
def tiling(pipeline: Any, recipe: GenerationRecipe) -> Iterator[None]:
    """Within the block, images are decoded in tiles where ``recipe`` says so, and else whole.

    Raises GenerationError for an autoencoder that knows no tiles.
    """
    coder: Any = getattr(pipeline, "vae", None)
    if not recipe.vae_tiling:
        yield
        return
    if not hasattr(coder, "enable_tiling"):
        raise GenerationError(
            f"the autoencoder of this {type(pipeline).__name__} decodes no images in tiles",
            hint="update diffusers: pip install --upgrade diffusers",
        )
    coder.enable_tiling()
    try:
        yield
    finally:
        coder.disable_tiling()


def release_pipeline(pipeline: Any, device: str) -> None:
    """Let go of the networks of a pipeline that is not used again, whoever still holds it."""
    if hasattr(pipeline, "remove_all_hooks"):
        pipeline.remove_all_hooks()
        pipeline._all_hooks = []
    for name in tuple(pipeline.components):
        setattr(pipeline, name, None)
    free_memory(device)


def free_memory(device: str) -> None:
    """Give back what is held for tensors that are gone."""
    import gc

    import torch

    gc.collect()
    back_end: Any = getattr(torch, device.partition(":")[0], None)
    if hasattr(back_end, "empty_cache"):
        back_end.empty_cache()


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
