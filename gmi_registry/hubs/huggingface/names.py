"""What repositories are called: former names, other spellings, and models that are kept elsewhere.

A repository that was renamed or transferred keeps answering to its former names, by redirects,
until somebody takes one of them. The Hub also redirects names written in another letter case.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gmi_registry.errors import InputError
from gmi_registry.hubs.listing_cache import read_note, write_note
from gmi_registry.spec import ModelRef

KEPT_ELSEWHERE = {
    # Runway deleted its account in August 2024. The card of the first says that it is a mirror of
    # the deprecated repository; diffusers' own documentation names it since.
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    # Stability AI withdrew Stable Diffusion 2 in November 2025 (huggingface/diffusers#12874). The
    # cards of these say that they are mirrors of the deprecated repositories
    # (huggingface/optimum-habana#2363).
    **{
        f"stabilityai/stable-diffusion-{name}": f"sd2-community/stable-diffusion-{name}"
        for name in ("2", "2-base", "2-inpainting", "2-1", "2-1-base", "2-1-unclip", "2-depth")
    },
    # Its author deleted it; what people name in its stead is this copy.
    "andite/anything-v4.0": "xyn-ai/anything-v4.0",
}
"""Base models that their owners deleted, and where copies of them are kept: by former id. Owners
who delete leave no redirect behind, and cards of thousands of LoRAs still name these."""

_VERSION = 1
# A chain of names; each rename is one link.
_LONGEST_CHAIN = 8
_MOST_NAMES = 10_000
_DAY = 24 * 3600.0
# How long what the hub said counts where it can be asked: somebody may take a former name.
_FRESH = 7 * _DAY
_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_ADDRESS = re.compile(r"(?:https?://|(?=(?:www\.)?huggingface\.co/|hf\.co/))(.+)", re.I | re.S)


def kept_elsewhere(model_id: str) -> str | None:
    """Where a copy of a model is kept whose owner deleted it; None for every other."""
    return KEPT_ELSEWHERE.get(model_id.casefold())


def base_reference(text: str, endpoint: str) -> ModelRef:
    """The model that a card calls its base: ``owner/name``, ``hf:owner/name``, or its address.

    An address may be of Hugging Face or of the hub at ``endpoint``, and name a revision
    (``/tree/REVISION``). Raises InputError for anything else.
    """
    address = _ADDRESS.fullmatch(text.strip())
    if address is None:
        return ModelRef("hf", text.strip().removeprefix("hf:"))
    parts = urlsplit(f"//{address[1]}")
    segments = [unquote(part) for part in parts.path.strip("/").split("/")]
    known = {*_HOSTS, urlsplit(endpoint).netloc.casefold()}
    if parts.netloc.casefold() not in known or len(segments) not in (2, 4):
        raise InputError(f"{text[:120]!r} is not the address of a model")
    if len(segments) == 2:
        return ModelRef("hf", "/".join(segments))
    if segments[2] != "tree":
        raise InputError(f"{text[:120]!r} is the address of a file, and not of a model")
    return ModelRef("hf", "/".join(segments[:2]), segments[3])


class Names:
    """Present names of repositories by their former ones, as one hub said; kept in ``directory``.

    Only what the hub itself said is in it, by a redirect or in an answer about a former name.
    Letter case does not count. Nothing there is needed for long: without it the hub is asked again.
    """

    def __init__(self, directory: Path) -> None:
        self._place = directory / "names.json"
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] | None = None

    def now(self, model_id: str) -> str:
        """What the hub is known to call the repository; ``model_id`` itself where nothing is."""
        known, name = self._names(), model_id
        for _ in range(_LONGEST_CHAIN):
            further, _time = known.get(name.casefold(), (name, 0.0))
            if further == name:
                break
            name = further
        return name

    def knows(self, model_id: str) -> bool:
        """Whether the hub has said of late what this repository is called."""
        _, told = self._names().get(model_id.casefold(), (model_id, 0.0))
        return time.time() - told < _FRESH

    def learn(self, asked: str, answered: str, *, keep: bool = False) -> None:
        """The hub was asked about ``asked``, and spoke of ``answered``, which may be the same.

        That it is the same is remembered with ``keep`` only.
        """
        key = asked.casefold()
        with self._lock:
            before, told = self._names().get(key, (asked, 0.0))
            kept = keep or asked != answered
            if before == answered and (not kept or time.time() - told < _DAY):
                return
            known = {name: told for name, told in self._names().items() if name != key}
            if kept:
                known[key] = answered, time.time()
            self._known = dict(list(known.items())[-_MOST_NAMES:])
            names = {old: list(new) for old, new in self._known.items()}
            write_note(self._place, {"version": _VERSION, "names": names})

    def _names(self) -> dict[str, tuple[str, float]]:
        if self._known is None:
            note = read_note(self._place)
            names: Any = note.get("names") if note.get("version") == _VERSION else None
            found = names.items() if isinstance(names, dict) else ()
            self._known = {old: (new[0], new[1]) for old, new in found if _is_entry(old, new)}
        return self._known


def _is_entry(old: object, new: Any) -> bool:
    shaped = isinstance(new, list) and len(new) == 2 and isinstance(new[1], int | float)
    return shaped and all(_is_id(name) for name in (old, new[0]))


def _is_id(text: object) -> bool:
    try:
        return isinstance(text, str) and ModelRef("hf", text).id == text
    except InputError:
        return False
