"""The names that the zoo can draw, and which of them a LoRA never sees."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

NAMES_FILE = Path(__file__).parent / "data" / "names.txt"
HELD_OUT = 120
"""Names kept from every LoRA's training; the base has seen them."""
SEED = 55


@cache
def names() -> tuple[str, ...]:
    """All names, sorted, as the icon sets spell them (``hot-pepper``)."""
    return tuple(sorted(NAMES_FILE.read_text(encoding="utf-8").split()))


@cache
def held_out() -> tuple[str, ...]:
    """The names that no LoRA is trained on, in a fixed shuffled order."""
    shuffled = list(names())
    random.Random(SEED).shuffle(shuffled)
    return tuple(shuffled[:HELD_OUT])


@cache
def trained() -> tuple[str, ...]:
    """The names that every LoRA is trained on, in a fixed shuffled order."""
    shuffled = list(names())
    random.Random(SEED).shuffle(shuffled)
    return tuple(shuffled[HELD_OUT:])


def prompt(name: str) -> str:
    """The words that stand for an icon's name: ``hot-pepper`` becomes ``hot pepper``."""
    return name.replace("-", " ")


def default_prompts() -> tuple[str, ...]:
    """The zoo's default prompt set of 55, from the names that the LoRAs have seen."""
    return tuple(prompt(name) for name in trained()[:55])


def evaluation_prompts() -> tuple[str, ...]:
    """The 18 evaluation prompts, from the held-out names."""
    return tuple(prompt(name) for name in held_out()[:18])
