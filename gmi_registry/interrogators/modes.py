"""Interrogators by their mode: what one is, those without a captioner, and the table of all."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


_PATIENCE = 3.0  # seconds

_PACKAGES = {
    "caption": {"transformers": "captioning an image", "torch": "captioning an image"},
    "clip_interrogator": {
        "clip_interrogator": "the clip_interrogator mode",
        "transformers": "the clip_interrogator mode",
        "torch": "the clip_interrogator mode",
    },
}


@dataclass(frozen=True)
class InterrogatorOptions:
    """What a factory may need. ``phrases`` are tried beside those that come with the package;
    ``cache_dir`` None means the libraries' usual places."""

    phrases: Sequence[str] = ()
    cache_dir: Path | None = None
    offline: bool = False
    device: str = "cpu"


def _phrases(settings: InterrogatorOptions) -> Interrogator:

    return PhraseInterrogator((*settings.phrases, *shipped_phrases()))


def _caption(settings: InterrogatorOptions) -> Interrogator:
    from gmi_registry.interrogators.captions import CaptionInterrogator

    return CaptionInterrogator(
        cache_dir=settings.cache_dir, offline=settings.offline, device=settings.device
    )


def _clip_interrogator(settings: InterrogatorOptions) -> Interrogator:
    from gmi_registry.interrogators.captions import (
        CaptionInterrogator,
        ClipInterrogator,
        require_library,
    )

    require_library()  # before the captions' gigabytes
    captions = CaptionInterrogator(
        cache_dir=settings.cache_dir, offline=settings.offline, device=settings.device
    )
    return ClipInterrogator(captions, cache_dir=settings.cache_dir, offline=settings.offline)


INTERROGATORS: dict[str, Callable[[InterrogatorOptions], Interrogator]] = {
    "none": lambda settings: NoInterrogator(),
    "phrases": _phrases,
    "caption": _caption,
    "clip_interrogator": _clip_interrogator,
}
"""Mode to factory. A prompt given by the user bypasses them all, under the mode ``prompt``."""

MODES: tuple[str, ...] = tuple(INTERROGATORS)


def require_interrogator(
    mode: str, *, cache_dir: Path | None = None, offline: bool = False
) -> None:
    """Raise what :func:`load_interrogator` would raise, as far as that can be told at no cost.

    InputError for an unknown mode, MissingExtraError where a package is missing, OfflineError where
    there is no captioner on this disk and the network is off, or nobody answers at the hub within
    three seconds: the libraries would try for minutes. Loads nothing.
    """
    if mode not in INTERROGATORS:
        raise _unknown(mode)
    for package, purpose in _PACKAGES.get(mode, {}).items():
        if find_spec(package) is None:
            name = package.replace("_", "-")
            raise MissingExtraError(name, extra="interrogate", purpose=purpose)
    if mode in _PACKAGES:
        from huggingface_hub import try_to_load_from_cache

        from gmi_registry.interrogators.captions import DEFAULT_CAPTIONER

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


def _unknown(mode: str) -> InputError:
    return InputError(f"no interrogator is called {mode[:80]!r}", hint=f"one of {', '.join(MODES)}")


def load_interrogator(
    mode: str,
    *,
    phrases: Sequence[str] = (),
    cache_dir: Path | None = None,
    offline: bool = False,
    device: str = "cpu",
) -> Interrogator:
    """The interrogator of a mode; ``caption`` and ``clip_interrogator`` load BLIP, 1.9 GB.

    Raises InputError for an unknown mode, MissingExtraError where its library is not installed, and
    OfflineError where its weights are not at hand and cannot be fetched.
    """
    factory = INTERROGATORS.get(mode)
    if factory is None:
        raise _unknown(mode)
    return factory(InterrogatorOptions(tuple(phrases), cache_dir, offline, device))
