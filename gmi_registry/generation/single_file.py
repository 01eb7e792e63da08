"""Models in one file, which the configuration of their base describes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gmi_registry.generation.refusals import refused
from gmi_registry.model import ModelFiles

if TYPE_CHECKING:
    import torch

__all__ = ["dtype_argument", "load_single_file", "no_safety_checker"]


def load_single_file(
    model: ModelFiles, base: ModelFiles, index: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Any, list[str]]:
    """The pipeline of the file ``model``, read by the configuration of ``base``, and notes.

    ``index`` is the base's ``model_index.json``. Raises GenerationError for a file that does not
    fit.
    """
    import diffusers

    pipeline_class = getattr(diffusers, index["_class_name"])
    try:
        pipeline = pipeline_class.from_single_file(
            str(model.path),
            config=str(base.path),
            **dtype_argument(dtype),
            local_files_only=True,
            **no_safety_checker(index),
        )
    except Exception as error:
        raise refused(model, "cannot be loaded by diffusers", error) from error
    return pipeline, []


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The loaders' argument for the element type, which diffusers 0.42 renamed."""
    import diffusers

    major, minor = (int(number) for number in diffusers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (0, 42) else "torch_dtype": dtype}


def no_safety_checker(index: Mapping[str, Any]) -> dict[str, Any]:
    """The loaders' arguments that leave out a checker that would blacken images."""
    import diffusers

    takes = inspect.signature(getattr(diffusers, index["_class_name"]).__init__).parameters
    off: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    return {name: value for name, value in off.items() if name in takes}
