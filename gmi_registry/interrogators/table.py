"""The interrogators by their mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.interrogators.protocol import Interrogator
from gmi_registry.interrogators.silence import Silence

__all__ = ["INTERROGATORS", "MODES", "Settings", "load_interrogator"]


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
        raise InputError(
            f"no interrogator is called {mode[:80]!r}", hint=f"one of {', '.join(MODES)}"
        )
    return factory(Settings(tuple(phrases), cache_dir, offline, device))
