"""How the images of a specification were generated, in enough detail to generate them again."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.fields import Count, Name, Part, Text

__all__ = ["GenerationRecipe", "LoraPartial", "Sampler"]

_Scalar = bool | int | float | Text | None


class Sampler(Part):
    """The scheduler's class name and the settings that differ from run to run."""

    name: Name
    config: Annotated[dict[Name, _Scalar], Field(default_factory=dict, max_length=200)]


class LoraPartial(Part):
    """How many of a LoRA file's tensors reached the base model, where not all of them did."""

    applied: Annotated[int, Field(ge=1, le=10**6)]
    tensors: Annotated[int, Field(ge=2, le=10**6)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.applied >= self.tensors:
            raise ValueError("applied is not below tensors: leave lora_partial out")
        return self


class GenerationRecipe(Part):
    """Every setting of one generation run; the pixels follow from it, the model and the prompts.

    One image is generated of each prompt per seed. ``batch_size`` is recorded because it can
    change the last bits of a result, ``libraries`` (name to version) because a newer version can.
    ``width`` and ``height`` are in pixels. A setting that the pipeline does not read is None, so
    that nothing is recorded that had no effect: ``guidance_scale``, ``true_cfg_scale`` (the scale
    of classifier-free guidance where ``guidance_scale`` is something else, as in FLUX.1) and
    ``clip_skip`` (layers of a CLIP text encoder that are left out at its end). ``vae_dtype`` is set
    where the autoencoder computed in another type than ``dtype``, ``vae_tiling`` where it
    decoded an image in overlapping tiles, as it may for want of memory, which changes the image;
    ``lora_scale`` where a LoRA was applied, ``lora_partial`` where only some of its tensors were.
    """

    sampler: Sampler
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    clip_skip: Annotated[int, Field(ge=1, le=100)] | None = None
    width: Annotated[int, Field(ge=1, le=8192)]
    height: Annotated[int, Field(ge=1, le=8192)]
    seeds: Annotated[tuple[Count, ...], Field(min_length=1, max_length=1000)]
    negative_prompt: Text = ""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    vae_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    vae_tiling: Literal[True] | None = None
    lora_scale: Annotated[float, Field(ge=-100, le=100)] | None = None
    lora_partial: LoraPartial | None = None
    trigger_words: Annotated[tuple[Name, ...], Field(max_length=50)] = ()
    prompt_template: Text = "{prompt}"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    libraries: Annotated[dict[Name, Name], Field(default_factory=dict, max_length=100)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed appears twice")
        if self.prompt_template.count("{prompt}") != 1:
            raise ValueError("prompt_template must hold {prompt} exactly once")
        if self.vae_dtype == self.dtype:
            raise ValueError("vae_dtype is for another type than dtype: leave it out")
        if self.lora_partial is not None and self.lora_scale is None:
            raise ValueError("lora_partial needs a lora_scale")
        return self

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all fields but ``libraries``.

        Library versions are recorded for people; were they hashed, every patch release would
        make a new recipe out of the same settings.
        """
        fields = self.known()
        del fields["libraries"]
        return canonical_digest(fields)

    def render(self, prompt: str) -> str:
        """The text that the pipeline is given: trigger words, then the filled template.

        All of them are joined by a comma and a space; ``prompt`` may hold ``{prompt}`` itself.
        """
        filled = self.prompt_template.replace("{prompt}", prompt)
        return ", ".join((*self.trigger_words, filled))
