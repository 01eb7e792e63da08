"""What one task is made of: how many images ask together, and against which specifications."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

__all__ = [
    "HALVES",
    "OWN_PROMPTS",
    "PROTOCOLS",
    "gallery_of",
    "group_of",
    "images_of",
    "windows",
]

PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {
        "images-1": "one image a task",
        "images-2": "two images of one model, of different prompts and one seed",
        "images-3": "three such images",
        "images-4": "four such images",
        "images-5": "five such images",
        "split-2": "one image a task, against every other default prompt",
        "split-3": "one image a task, against the default prompts that split-2 leaves out",
        "own-prompts": "every specification has its developer's own prompts after the default ones",
        "own-prompts-default": "the same tasks against the default prompts alone",
        "own-prompts-mixed": "the same tasks; every second model has its developer's prompts",
    }
)

OWN_PROMPTS = ("own-prompts", "own-prompts-default", "own-prompts-mixed")
"""The protocols whose tasks ask for what a developer's own prompts resemble."""

HALVES = ("split-2", "split-3")
"""The paper's Table 5 calls all default prompts Split 1, and two halves of them 2 and 3."""

_GROUPS = 3


def images_of(protocol: str) -> int:
    """How many images one task has."""
    head, _, count = protocol.rpartition("-")
    return int(count) if head == "images" else 1


def gallery_of(protocol: str) -> str:
    """Equal for protocols whose tasks choose from the same specifications."""
    return protocol if protocol in (*HALVES, *OWN_PROMPTS) else "default"


def windows(prompts: int, seeds: int, count: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """The tasks of one model: ``count`` pairs (prompt, seed) each, prompts x seeds tasks in all.

    The paper does not say how it puts several images together. Here each image opens one task,
    and the others are those of the prompts that follow, at its seed, beginning anew after the last
    prompt (at the next seed where all prompts are used up). So every image is asked with equally
    often, and a task for k images always holds that for k - 1. ``count`` is at most
    prompts x seeds.
    """
    for seed in range(seeds):
        for prompt in range(prompts):
            yield tuple(
                ((prompt + step) % prompts, (seed + step // prompts) % seeds)
                for step in range(count)
            )


def group_of(prompt: int, prompts: int) -> str:
    """``1`` to ``3``: the third of the evaluation prompts that number ``prompt`` is in."""
    return str(1 + _GROUPS * prompt // prompts)
