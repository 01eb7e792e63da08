"""What one search asks for: pictures, words or a model, checked and opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL.Image import Image

from gmi_registry.combination import ANY_SCORE, NO_INTERROGATOR, fault
from gmi_registry.errors import InputError
from gmi_registry.images import load_image, to_rgb
from gmi_registry.query import checked_prompt

__all__ = ["LIKE_SCORE", "TEXT_SCORE", "ImageSource", "Request"]

ImageSource: TypeAlias = str | Path | bytes | Image
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
        reason = fault(
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
    pictures, names = [], []
    for number, image in enumerate(images, start=1):
        if isinstance(image, str | Path):
            names.append(str(image))
            pictures.append(load_image(image))
        else:
            names.append(f"{what} {number}")
            pictures.append(load_image(image) if isinstance(image, bytes) else to_rgb(image))
    return tuple(pictures), tuple(names)
