"""Pseudo-prompts by a captioner: BLIP through transformers, alone or with the clip-interrogator
library.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from gmi_registry.atomic import user_cache
from gmi_registry.encoders.encoder import Encoder
from gmi_registry.errors import InputError, MissingExtraError, OfflineError

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


# The encoders for which the library's author publishes the embeddings of its 100,000 phrases;
# without them the first use encodes all of those, hours of work for a large encoder on a CPU.
_PUBLISHED = ("ViT-L-14/openai", "ViT-H-14/laion2b_s32b_b79k")
_PUBLISHED_AT = "pharma/ci-preprocess"
_TABLES = ("artists", "flavors", "mediums", "movements", "trendings", "negative")


def require_library() -> Any:
    """The module ``clip_interrogator``. Raises MissingExtraError where it is not installed."""
    try:
        import clip_interrogator
    except ImportError as error:
        raise MissingExtraError(
            "clip-interrogator", extra="interrogate", purpose="the clip_interrogator mode"
        ) from error
    return clip_interrogator


class ClipInterrogator:
    """Mode ``clip_interrogator``: a caption, then the library's phrases nearest to the image.

    The library (0.6) is handed the caption and the query's own encoder. Left alone it would load
    ViT-L-14/openai without the activation that those weights were trained with (open_clip 3 only
    warns), pick a tokenizer by the encoder's name, and on a GPU caption in half precision.

    ``vocabulary`` is a folder with the library's five lists (``artists.txt``, ``flavors.txt``,
    ``mediums.txt``, ``movements.txt``, ``negative.txt``), None for those it ships. Their embeddings
    are kept in ``cache_dir`` (None: this user's cache), apart for each encoder.

    Raises MissingExtraError where the library is not installed.
    """

    mode = "clip_interrogator"

    def __init__(
        self,
        captions: CaptionInterrogator,
        *,
        cache_dir: Path | None = None,
        offline: bool = False,
        vocabulary: Path | None = None,
        max_flavors: int = 32,
    ) -> None:
        require_library()
        self.captions = captions
        self.max_flavors = max_flavors
        self._cache = user_cache(cache_dir) / "clip-interrogator"
        self._offline = offline
        self._vocabulary = vocabulary
        self._libraries: dict[str, Any] = {}

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """The prompt that the library's fast mode proposes for one image.

        Raises InputError for an encoder that is not open_clip's.
        """
        key = encoder.ref.id
        with _quiet():
            if key not in self._libraries:
                self._libraries[key] = self._build(encoder)
            text: str = self._libraries[key].interrogate_fast(
                image.convert("RGB"),
                max_flavors=self.max_flavors,
                # A blank is a caption; nothing at all would send the library to its own captioner.
                caption=self.captions.caption(image) or " ",
            )
        return " ".join(text.split()).strip(", ") or None

    def _build(self, encoder: Encoder) -> Any:
        from gmi_registry.encoders.open_clip import OpenClipEncoder

        if not isinstance(encoder, OpenClipEncoder):
            raise InputError(
                f"clip-interrogator needs an open_clip encoder, not {encoder.ref.name}",
                hint="use --interrogator caption, or --prompt",
            )
        library = require_library()
        name = f"{encoder.ref.name}/{encoder.ref.pretrained}"
        cache = self._cache / encoder.ref.id
        config = library.Config(
            caption_model_name=None,
            # The library takes the first half for the name of a tokenizer, which is replaced
            # below, and all of it for file names. Its table of tokenizers must know the first half:
            # the name of another encoder could send it to a hub.
            clip_model_name=name if name in _PUBLISHED else f"ViT-L-14/{encoder.ref.id}",
            cache_path=str(cache),
            download_cache=False,  # by a client of its own, which knows no offline mode
            device=encoder.device,
            quiet=not sys.stderr.isatty(),
        )
        if self._vocabulary is not None:
            config.data_path = str(self._vocabulary)
        config.clip_model = encoder.model
        config.clip_preprocess = encoder.transform
        if name in _PUBLISHED and self._vocabulary is None and not self._offline:
            _fetch_published(name, cache)
        built = _with_tokenizer(library.Interrogator, encoder.tokenizer)(config)
        config.quiet = True
        return built


def _with_tokenizer(base: Any, tokenizer: Any) -> Any:
    """The library's class with the encoder's own tokenizer, whatever it would choose by name.

    A tower of another context length than 77 cannot read what that choice would give it.
    """

    class Interrogator(base):  # type: ignore[misc]
        @property
        def tokenize(self) -> Any:
            return tokenizer

        @tokenize.setter
        def tokenize(self, chosen: Any) -> None:
            pass

    return Interrogator


def _fetch_published(name: str, folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    for table in _TABLES:
        filename = f"{name.replace('/', '_')}_{table}.safetensors"
        if not (folder / filename).exists():
            # Only a short cut: whatever goes wrong, the library computes the table itself.
            with contextlib.suppress(OSError):
                hf_hub_download(_PUBLISHED_AT, filename, local_dir=folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library prints to stdout, which is for results, and uses deprecated calls of torch."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="CUDA is not available")
        yield
