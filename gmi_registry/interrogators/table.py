"""The interrogators by their mode."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gmi_registry.errors import InputError, MissingExtraError, OfflineError
from gmi_registry.interrogators.protocol import Interrogator
from gmi_registry.interrogators.silence import Silence

__all__ = ["INTERROGATORS", "MODES", "Settings", "load_interrogator", "require_interrogator"]

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
class Settings:
    """What a factory may need. ``phrases`` are tried beside those that come with the package;
    ``cache_dir`` None means the libraries' usual places."""

    phrases: Sequence[str] = ()
    cache_dir: Path | None = None
    offline: bool = False
    device: str = "cpu"


def _phrases(settings: Settings) -> Interrogator:
    from gmi_registry.interrogators.phrases import PhraseInterrogator, shipped_phrases

    return PhraseInterrogator((*settings.phrases, *shipped_phrases()))


def _caption(settings: Settings) -> Interrogator:
    from gmi_registry.interrogators.caption import CaptionInterrogator

    return CaptionInterrogator(
        cache_dir=settings.cache_dir, offline=settings.offline, device=settings.device
    )


def _clip_interrogator(settings: Settings) -> Interrogator:
    from gmi_registry.interrogators.caption import CaptionInterrogator
    from gmi_registry.interrogators.clip_interrogator import ClipInterrogator, require_library

    require_library()  # before the captions' gigabytes
    captions = CaptionInterrogator(
        cache_dir=settings.cache_dir, offline=settings.offline, device=settings.device
    )
    return ClipInterrogator(captions, cache_dir=settings.cache_dir, offline=settings.offline)


INTERROGATORS: dict[str, Callable[[Settings], Interrogator]] = {
    "none": lambda settings: Silence(),
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

        from gmi_registry.interrogators.caption import DEFAULT_CAPTIONER

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
    return factory(Settings(tuple(phrases), cache_dir, offline, device))
