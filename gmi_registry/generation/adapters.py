"""LoRAs: which file of a model holds one, and how it is put on its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gmi_registry.errors import GenerationError
from gmi_registry.generation.refusals import pickled, refused
from gmi_registry.model import ModelFiles
from gmi_registry.spec import LoraPartial

__all__ = ["ADAPTER", "apply_lora", "lora_file"]

ADAPTER = "gmi"
"""The name under which a LoRA is loaded, so that its scale can be set."""

_LORA_FILE = "pytorch_lora_weights.safetensors"


def apply_lora(pipeline: Any, model: ModelFiles) -> tuple[LoraPartial | None, list[str]]:
    """Load the LoRA ``model`` into the ``pipeline`` of its base, under the name :data:`ADAPTER`.

    Returns the share of its tensors that was applied (None: all), and notes for people. Raises
    GenerationError for a LoRA that does not fit.
    """
    weight = lora_file(model)
    if not hasattr(pipeline, "load_lora_weights"):
        raise GenerationError(f"{model.ref}: a {type(pipeline).__name__} takes no LoRA")
    try:
        # The exact name: left to guess, diffusers takes the first file that looks like weights.
        pipeline.load_lora_weights(
            str(model.path),
            weight_name=weight,
            adapter_name=ADAPTER,
            use_safetensors=True,
            local_files_only=True,
        )
        loaded = {name for names in pipeline.get_list_adapters().values() for name in names}
    except Exception as error:
        raise refused(model, f"{weight} does not fit its base model", error) from error
    if ADAPTER not in loaded:  # diffusers says so in a warning, and draws with the bare base
        raise GenerationError(
            f"{model.ref}: {weight} holds no layer that its base model has",
            hint="check base_model in the model card",
        )
    return None, []


def lora_file(model: ModelFiles) -> str:
    """The path of the adapter's weights inside its folder."""
    paths = [weight.path for weight in model.weights]
    safe = [path for path in paths if path.lower().endswith(".safetensors")]
    if not safe and paths:
        raise pickled(model, paths[0])
    preferred = [path for path in safe if Path(path).name == _LORA_FILE] or safe
    if len(preferred) != 1:
        found = ", ".join(preferred[:5]) or "none"
        raise GenerationError(
            f"{model.ref}: a LoRA has one weight file, found: {found}",
            hint=f"name the file to use {_LORA_FILE}, or publish one LoRA a repository",
        )
    return preferred[0]
