"""Interrogators: from an image to its pseudo-prompt, by phrases, by BLIP through transformers, or
by the clip-interrogator library. Importing this never imports torch.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.atomic import user_cache
from gmi_registry.encoders.encoder import Encoder
from gmi_registry.errors import InputError, MissingExtraError, OfflineError


class Interrogator(Protocol):
    """The pseudo-prompt p̂ of Eq. 7, or None where there is nothing to say (then w = 1)."""

    @property
    def mode(self) -> str:
        """The name that a search result shows."""
        ...

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """The pseudo-prompt of one RGB image; ``encoder`` is the one of the query."""
        ...


class NoInterrogator:
    """Mode ``none``."""

    mode = "none"

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """Always None."""
        return None


_FILE = Path(__file__).with_name("phrases.txt")


@cache
def shipped_phrases() -> tuple[str, ...]:
    """The phrases that come with the package: subjects, places, materials and styles."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


class PhraseInterrogator:
    """Mode ``phrases``: the ``count`` phrases of largest cosine to the image, joined by commas.

    Blank and repeated phrases are left out; of phrases at the same cosine the first wins. The
    texts are encoded once for each encoder. Raises InputError where no phrase is left.
    """

    mode = "phrases"

    def __init__(self, phrases: Sequence[str], *, count: int = 3) -> None:
        trimmed = (" ".join(phrase.split()) for phrase in phrases)
        self.phrases = tuple(dict.fromkeys(phrase for phrase in trimmed if phrase))
        if not self.phrases:
            raise InputError("there are no phrases to choose from", hint="give at least one")
        self.count = max(1, count)
        self._rows: dict[str, NDArray[np.float32]] = {}

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """One RGB image to its phrases.

        Raises InputError for an encoder whose two towers do not share a space.
        """
        if encoder.ref.image_dim != encoder.ref.text_dim:
            raise InputError(
                f"{encoder.ref.name} has no common space for images and texts",
                hint="use another interrogator, or --prompt",
            )
        if encoder.ref.id not in self._rows:
            self._rows[encoder.ref.id] = _unit(encoder.encode_texts(self.phrases))
        cosines = self._rows[encoder.ref.id] @ _unit(encoder.encode_images([image]))[0]
        nearest = np.argsort(-cosines, kind="stable")[: self.count]
        return ", ".join(self.phrases[row] for row in nearest)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


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


_PATIENCE = 3.0  # seconds

_PACKAGES = {
    "caption": {"transformers": "captioning an image", "torch": "captioning an image"},
    "clip_interrogator": {
        "clip_interrogator": "the clip_interrogator mode",
        "transformers": "the clip_interrogator mode",
        "torch": "the clip_interrogator mode",
    },
}


MODES = ("none", "phrases", "caption", "clip_interrogator")
"""A prompt given by the user bypasses them all, under the mode ``prompt``."""


def require_interrogator(
    mode: str, *, cache_dir: Path | None = None, offline: bool = False
) -> None:
    """Raise what :func:`load_interrogator` would raise, as far as that can be told at no cost.

    InputError for an unknown mode, MissingExtraError where a package is missing, OfflineError where
    there is no captioner on this disk and the network is off, or nobody answers at the hub within
    three seconds: the libraries would try for minutes. Loads nothing.
    """
    _require_known(mode)
    for package, purpose in _PACKAGES.get(mode, {}).items():
        if find_spec(package) is None:
            name = package.replace("_", "-")
            raise MissingExtraError(name, extra="interrogate", purpose=purpose)
    if mode in _PACKAGES:
        from huggingface_hub import try_to_load_from_cache

        if isinstance(try_to_load_from_cache(DEFAULT_CAPTIONER, "config.json", cache_dir), str):
            return
        reason = "the network is switched off" if offline else _unreachable()
        if reason is not None:
            raise OfflineError(
                f"the captioner {DEFAULT_CAPTIONER} is not in the cache, and {reason}",
                hint=f"with a network, run once: hf download {DEFAULT_CAPTIONER}; or use "
                "--interrogator phrases",
            )


def _unreachable() -> str | None:
    """Why the hub cannot be reached, None where it can or a proxy stands before it."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies() or not address.hostname:
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=_PATIENCE).close()
    except OSError as error:
        return f"{constants.ENDPOINT} cannot be reached: {error.strerror or error}"
    return None


def _require_known(mode: str) -> None:
    if mode not in MODES:
        raise InputError(
            f"no interrogator is called {mode[:80]!r}", hint=f"one of {', '.join(MODES)}"
        )


def load_interrogator(
    mode: str,
    *,
    phrases: Sequence[str] = (),
    cache_dir: Path | None = None,
    offline: bool = False,
    device: str = "cpu",
) -> Interrogator:
    """The interrogator of a mode; ``caption`` and ``clip_interrogator`` load BLIP, 1.9 GB.

    ``phrases`` are tried beside those that come with the package; ``cache_dir`` None means the
    libraries' usual places.

    Raises InputError for an unknown mode, MissingExtraError where its library is not installed, and
    OfflineError where its weights are not at hand and cannot be fetched.
    """
    _require_known(mode)
    if mode == "none":
        return NoInterrogator()
    if mode == "phrases":
        return PhraseInterrogator((*phrases, *shipped_phrases()))
    if mode == "clip_interrogator":
        require_library()  # before the captions' gigabytes
    captions = CaptionInterrogator(cache_dir=cache_dir, offline=offline, device=device)
    if mode == "caption":
        return captions
    return ClipInterrogator(captions, cache_dir=cache_dir, offline=offline)
