"""All options of a search, checked once. Light: the command line reads it before anything heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from gmi_registry.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ANY_SCORE = "default"
"""The score of a search that names none."""

NO_INTERROGATOR = "none"
"""The interrogator of a search that names none."""


def request_fault(
    *,
    images: int,
    prompt: str | None,
    like: str | None,
    not_like: int,
    style: str | None = None,
    interrogator: str = NO_INTERROGATOR,
    score: str = ANY_SCORE,
) -> str | None:
    """Why these parts make no search, in one line, or None where they do.

    ``images`` and ``not_like`` are numbers of pictures.
    """
    if like is not None:
        others = {
            "an IMAGE": images > 0,
            "--prompt": prompt is not None,
            "--not-like": not_like > 0,
            "--style": style is not None,
            "--interrogator": interrogator != NO_INTERROGATOR,
            "--score": score != ANY_SCORE,
        }
        named = [name for name, is_given in others.items() if is_given]
        if named:
            return f"--like asks for models near a model, and goes without {' and '.join(named)}"
        return None
    if images:
        return _score_fault(score, {"--not-like": not_like > 0, "--style": style is not None})
    if style is not None:
        return "--style says how an IMAGE like yours should look: name one, or use --prompt alone"
    if not_like:
        return "--not-like says what is not wanted: name an IMAGE of what is, too"
    if prompt is None:
        return "nothing to search with: name an IMAGE, or give --prompt TEXT or --like MODEL"
    if interrogator != NO_INTERROGATOR:
        return "--interrogator guesses what an IMAGE shows, and there is none: leave it out"
    if score != ANY_SCORE:
        return f"--score {score} measures from an IMAGE, and there is none: leave it out"
    return None


def _score_fault(score: str, weighed: dict[str, bool]) -> str | None:
    named = [name for name, is_given in weighed.items() if is_given]
    if not named or score == ANY_SCORE:
        return None
    go = "goes" if len(named) == 1 else "go"
    return f"{' and '.join(named)} {go} with the default score, not with --score {score}"


ImageSource: TypeAlias = Union[str, Path, bytes, "Image"]
"""A file, a file's bytes, or a decoded picture."""

LIKE_SCORE = "like"
"""What a result says of its score where models are compared with a model."""

TEXT_SCORE = "text"
"""Likewise, where they are compared with a text alone."""


@dataclass(frozen=True, eq=False)
class Request:
    """The pictures of a search, decoded, with names for people, and the rest of what it asks.

    ``unwanted`` are pictures of what is not wanted; ``like`` names the model that others are to be
    near; ``style`` says in words how images like the pictures should look.
    """

    pictures: tuple[Image, ...]
    names: tuple[str, ...]
    prompt: str | None = None
    like: str | None = None
    unwanted: tuple[Image, ...] = ()
    unwanted_names: tuple[str, ...] = ()
    style: str | None = None

    @classmethod
    def of(
        cls,
        images: Sequence[ImageSource],
        not_like: Sequence[ImageSource] = (),
        *,
        prompt: str | None = None,
        like: str | Path | None = None,
        style: str | None = None,
        interrogator: str = NO_INTERROGATOR,
        score: str = ANY_SCORE,
    ) -> Request:
        """Check the parts and open the pictures; nothing is asked of a hub yet.

        Raises InputError for parts that do not go together, and for an image or a prompt that
        cannot be used.
        """
        if isinstance(images, str | bytes) or isinstance(not_like, str | bytes):
            raise InputError(
                "images are a list, also where there is one", hint="search([image], hub)"
            )
        name = None if like is None else str(like)
        reason = request_fault(
            images=len(images),
            prompt=prompt,
            like=name,
            not_like=len(not_like),
            style=style,
            interrogator=interrogator,
            score=score,
        )
        if reason is not None:
            raise InputError(reason, hint="gmi-search --help")
        if prompt is not None:
            prompt = checked_prompt(prompt)
        if style is not None:
            style = checked_prompt(style)
        pictures, names = _opened(images, "image")
        unwanted, unwanted_names = _opened(not_like, "unwanted image")
        return cls(pictures, names, prompt, name, unwanted, unwanted_names, style)

    @property
    def text(self) -> str | None:
        """The prompt where it is all there is."""
        return None if self.pictures else self.prompt


def _opened(images: Sequence[ImageSource], what: str) -> tuple[tuple[Image, ...], tuple[str, ...]]:
    from gmi_registry.images import load_image, to_rgb

    pictures, names = [], []
    for number, image in enumerate(images, start=1):
        if isinstance(image, str | Path):
            names.append(str(image))
            pictures.append(load_image(image))
        else:
            names.append(f"{what} {number}")
            pictures.append(load_image(image) if isinstance(image, bytes) else to_rgb(image))
    return tuple(pictures), tuple(names)


def checked_prompt(prompt: str) -> str:
    """The prompt with its blanks trimmed. Raises InputError for an empty or a very long one."""
    from gmi_registry.spec.fields import MAX_PROMPT_LENGTH

    trimmed = " ".join(prompt.split())
    if not trimmed:
        raise InputError(
            "the prompt is empty", hint="say in words what you look for, or leave it out"
        )
    if len(trimmed) > MAX_PROMPT_LENGTH:
        raise InputError(
            f"the prompt has {len(trimmed):,} characters, more than {MAX_PROMPT_LENGTH:,}",
            hint="an encoder reads some 75 words: shorten it",
        )
    return trimmed
