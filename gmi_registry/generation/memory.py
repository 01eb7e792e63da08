"""Memory of this machine and of its devices: where a pipeline lies, and whether it ran out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.spec import GenerationRecipe

__all__ = [
    "Offload",
    "OutOfMemoryError",
    "free_memory",
    "is_out_of_memory",
    "memory_of",
    "place_pipeline",
    "release_pipeline",
    "require_memory",
    "require_offload",
    "tiling",
    "tiling_helps",
]

Offload = Literal["model", "sequential"]
"""What lies on the device while it computes, of weights that stay in this machine's memory: one
network of the pipeline, or one layer."""

# What is raised where memory runs out as a plain RuntimeError or OSError, by torch's allocator of
# the processor, by CUDA and its libraries, by Metal, and by the mapping of a file.
_SIGNS = (
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
        if any(sign in text for sign in _SIGNS):
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
