"""Pseudo-prompts by a captioner: BLIP through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from gmi_registry.encoders.protocol import Encoder
from gmi_registry.errors import InputError, MissingExtraError, OfflineError

__all__ = ["DEFAULT_CAPTIONER", "CaptionInterrogator"]

DEFAULT_CAPTIONER = "Salesforce/blip-image-captioning-large"
"""What clip-interrogator takes by default, so that one download serves both modes."""


class CaptionInterrogator:
    """Mode ``caption``: BLIP's greedy caption, at most ``max_tokens`` new tokens.

    ``source`` is a repository, or a folder (as a Path) in transformers' layout; its weights are
    read from safetensors and code that lies beside them is never run. ``model`` and ``processor``
    are transformers' own.

    Raises MissingExtraError without transformers, InputError for a folder that cannot be loaded,
    OfflineError for a repository that cannot be fetched.
    """

    mode = "caption"

    def __init__(
        self,
        source: str | Path = DEFAULT_CAPTIONER,
        *,
        cache_dir: Path | None = None,
        offline: bool = False,
        device: str = "cpu",
        max_tokens: int = 32,
    ) -> None:
        try:
            from transformers import BlipForConditionalGeneration, BlipProcessor
        except ImportError as error:
            raise MissingExtraError(
                "transformers", extra="interrogate", purpose="captioning an image"
            ) from error
        if isinstance(source, Path) and not source.is_dir():
            raise InputError(f"{source}: no such folder", hint="name a folder with a BLIP model")
        options: dict[str, Any] = {
            "cache_dir": cache_dir,
            "local_files_only": offline or isinstance(source, Path),
        }
        try:
            processor: Any = BlipProcessor.from_pretrained(str(source), **options)
            model: Any = BlipForConditionalGeneration.from_pretrained(
                str(source), use_safetensors=True, **options
            )
        except (OSError, ValueError) as error:
            raise _cannot_load(source, error) from error
        self.processor = processor
        self.model = model.to(device=device).float().eval().requires_grad_(False)
        self.device = device
        self.max_tokens = max_tokens

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """The caption of one image, or None where BLIP has no word for it."""
        return self.caption(image) or None

    def caption(self, image: Image.Image) -> str:
        """The caption of one image on one line; may be empty. The same image gives the same."""
        inputs = self.processor(images=image.convert("RGB"), return_tensors="pt").to(self.device)
        tokens = self.model.generate(
            **inputs, max_new_tokens=self.max_tokens, do_sample=False, num_beams=1
        )
        (text,) = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return " ".join(text.split())


def _cannot_load(source: str | Path, error: Exception) -> InputError | OfflineError:
    reason = " ".join(str(error).split())[:300]
    if isinstance(source, Path):
        return InputError(
            f"{source}: transformers cannot load a BLIP model from here: {reason}",
            hint="the folder needs config.json, model.safetensors and the processor's files",
        )
    return OfflineError(
        f"the captioner {source} is not in the cache and cannot be fetched: {reason}",
        hint=f"with a network, run once: hf download {source}; or use --interrogator phrases",
    )
