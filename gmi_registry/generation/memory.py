"""Memory of this machine and of its devices: where a pipeline lies, and whether it ran out."""

from __future__ import annotations

import errno
from typing import Any, Literal

from gmi_registry.errors import GenerationError, InputError

__all__ = [
    "Offload",
    "OutOfMemoryError",
    "free_memory",
    "is_out_of_memory",
    "place_pipeline",
    "release_pipeline",
    "require_offload",
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

    Offloading and decoding one by one change no image but for the rounding of a batch; tiling,
    which does, is not used. Raises what diffusers raises.
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
