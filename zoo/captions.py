"""What a picture is called: its name, its style in words, both, or nothing."""

from __future__ import annotations

import torch

from zoo.names import prompt
from zoo.styles import STYLES

KINDS = WITH_BOTH, NAME_ONLY, STYLE_ONLY, EMPTY = range(4)


def caption(kind: int, name: str, style: int, wording: int = 0) -> str:
    """One caption; ``kind`` is one of the constants above, ``wording`` picks the style's words."""
    words = STYLES[style].words[wording]
    if kind == WITH_BOTH:
        return f"{prompt(name)}, {words}"
    return {NAME_ONLY: prompt(name), STYLE_ONLY: words, EMPTY: ""}[kind]


def draw_kinds(
    shares: tuple[float, float, float, float], count: int, generator: torch.Generator
) -> list[int]:
    """``count`` caption kinds drawn with the given shares."""
    drawn = torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)
    kinds: list[int] = drawn.tolist()
    return kinds
