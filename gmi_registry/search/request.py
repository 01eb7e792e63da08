"""All options of a search, checked once, before anything is read or asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from gmi_registry.errors import InputError
from gmi_registry.filters import Filters

if TYPE_CHECKING:
    from PIL.Image import Image

    from gmi_registry.model import Kind

ImageSource: TypeAlias = Union[str, Path, bytes, "Image"]
"""A file, a file's bytes, or a decoded picture."""

DEFAULT_SCORE = "default"
NO_INTERROGATOR = "none"

REGISTRY_INDEX = "auto"
"""The registry's index where it has one that knows the hub."""

NO_INDEX = "none"
"""Specifications one by one."""

WORKERS = 8
"""Specifications read at a time, which a hub across a network answers faster than one by one."""

_SERVER = "qdrant://"


class OptionsError(InputError):
    """Options that do not go together: to the command line that is wrong usage."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchRequest:
    """What one search asks for, by which filters, and how.

    The query is ``images`` (with ``prompt``, what they show, and ``style``, how they should look),
    or ``prompt`` alone, or ``like``, the name of a model or a folder with a specification.
    ``not_like`` are images of what is not wanted. ``tags`` to ``nsfw`` filter models;
    ``fresh_only`` leaves out those whose weights have changed since they were described. ``top`` is
    the most models shown of each group (None: all); with ``repeats`` models whose specifications
    repeat each other take room from others. ``index`` is the folder of an index, ``qdrant://...``,
    :data:`REGISTRY_INDEX` or :data:`NO_INDEX`.

    ``prompt`` and ``style`` are kept with their white space trimmed. Raises :class:`OptionsError`
    for options that do not go together, InputError for one that cannot be used. Images are opened
    later.
    """

    images: Sequence[ImageSource] = ()
    not_like: Sequence[ImageSource] = ()
    prompt: str | None = None
    style: str | None = None
    like: str | None = None
    tags: tuple[str, ...] = ()
    not_tags: tuple[str, ...] = ()
    base_model: str | None = None
    kind: Kind | None = None
    nsfw: bool = False
    fresh_only: bool = False
    score: str = DEFAULT_SCORE
    interrogator: str = NO_INTERROGATOR
    top: int | None = 10
    repeats: bool = False
    index: str | Path = REGISTRY_INDEX
    device: str = "cpu"
    workers: int = WORKERS

    def __post_init__(self) -> None:
        if isinstance(self.images, str | bytes) or isinstance(self.not_like, str | bytes):
            raise InputError("images are a list, even a single one", hint="search([image], hub)")
        reason = self._conflict()
        if reason is not None:
            raise OptionsError(reason, hint="gmi-search --help")
        for name in ("prompt", "style"):
            text = getattr(self, name)
            if text is not None:
                object.__setattr__(self, name, checked_prompt(text))
        if self.score != DEFAULT_SCORE:
            from gmi_registry.scoring.scores import score_named

            score_named(self.score)
        if self.top is not None and self.top < 1:
            raise InputError(
                f"the first {self.top} models are none", hint="give a top of at least 1"
            )
        if self.workers < 1:
            raise InputError(f"{self.workers} workers read nothing", hint="give at least 1")

    @property
    def text(self) -> str | None:
        """The prompt where it is the whole query."""
        return None if self.images else self.prompt

    @property
    def names_server(self) -> bool:
        """Whether the index lies on a server."""
        return isinstance(self.index, str) and self.index.startswith(_SERVER)

    @cached_property
    def filters(self) -> Filters:
        """What models have to pass. A base model may be named by the address of its page."""
        from gmi_registry.hubs.open import base_model_named

        base = None if self.base_model is None else base_model_named(self.base_model)
        return Filters(self.tags, self.not_tags, base, self.kind, self.nsfw)

    def _conflict(self) -> str | None:
        """Why these options make no search, in one line, or None where they do."""
        asks = {
            "an IMAGE": bool(self.images),
            "--prompt": self.prompt is not None,
            "--not-like": bool(self.not_like),
            "--style": self.style is not None,
            "--interrogator": self.interrogator != NO_INTERROGATOR,
            "--score": self.score != DEFAULT_SCORE,
        }
        if self.like is not None:
            named = [name for name, is_given in asks.items() if is_given]
            if named:
                return (
                    "--like searches for models near a model, and cannot be combined with "
                    f"{_listed(named)}"
                )
            return None
        if self.images:
            named = [name for name in ("--not-like", "--style") if asks[name]]
            if not named or not asks["--score"]:
                return None
            go = "goes" if len(named) == 1 else "go"
            return f"{_listed(named)} {go} with the default score, not with --score {self.score}"
        if asks["--style"]:
            return (
                "--style says how an IMAGE like yours should look: name one, or use only --prompt"
            )
        if asks["--not-like"]:
            return "--not-like says what is not wanted: name an IMAGE of what is, too"
        if self.prompt is None:
            return "nothing to search with: name an IMAGE, or give --prompt TEXT or --like MODEL"
        if asks["--interrogator"]:
            return "--interrogator guesses what an IMAGE shows, and you named none: leave it out"
        if asks["--score"]:
            return f"--score {self.score} measures from an IMAGE, and you named none: leave it out"
        return None


def checked_prompt(prompt: str) -> str:
    """The prompt with its blanks trimmed. Raises InputError for an empty or a very long one."""
    trimmed = " ".join(prompt.split())
    if not trimmed:
        raise InputError(
            "the prompt is empty", hint="say in words what you look for, or leave it out"
        )
    from gmi_registry.spec.prompts import MAX_PROMPT_LENGTH

    if len(trimmed) > MAX_PROMPT_LENGTH:
        raise InputError(
            f"the prompt has {len(trimmed):,} characters, more than {MAX_PROMPT_LENGTH:,}",
            hint="an encoder reads some 75 words: shorten it",
        )
    return trimmed


def image_names(images: Sequence[ImageSource], what: str) -> tuple[str, ...]:
    """Names of images for people: of a file its path, of others ``what`` and a number."""
    return tuple(
        str(image) if isinstance(image, str | Path) else f"{what} {number}"
        for number, image in enumerate(images, start=1)
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
