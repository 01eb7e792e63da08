"""What methods and protocols are called in tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["method_title", "ordered_methods", "protocol_title"]

_METHODS = {
    "download": "Download",
    "rkme-basic": "RKME-Basic",
    "rkme-clip": "RKME-CLIP",
    "rkme-concat": "RKME-Concat",
    "size-1": "Size 1",
    "paper": "Eq. 9",
    "paper-ground-truth": "Eq. 9, true prompt",
    "paper-none": "Eq. 9, w = 1",
    "paper-fitted": "Eq. 9, γ fitted on dev",
    "modelverse": "Modelverse, 1st moment",
    "modelverse-second": "Modelverse, 1st and 2nd",
    "modelverse-monte-carlo": "Modelverse, Monte Carlo",
    "default": "Default",
    "default-none": "Default, no prompt",
    "default-ground-truth": "Default, true prompt",
    "default-fitted": "Default, fitted on dev",
}


def method_title(name: str) -> str:
    """The method for people; one that is not known keeps its name."""
    return _METHODS.get(name, name)


def ordered_methods(names: Sequence[str]) -> list[str]:
    """In the order of the tables: simplest first, ours last, then what is not known."""
    order = list(_METHODS)
    known = sorted((name for name in names if name in _METHODS), key=order.index)
    return known + sorted(name for name in names if name not in _METHODS)


def protocol_title(name: str) -> str:
    """The protocol for people."""
    head, _, count = name.rpartition("-")
    if head == "images" and count.isdecimal():
        return "1 image" if count == "1" else f"{count} images"
    return {
        "split-2": "split 2, every other default prompt",
        "split-3": "split 3, the other half",
        "own-prompts": "default and own prompts",
        "own-prompts-default": "default prompts alone",
        "own-prompts-mixed": "every second model with own prompts",
    }.get(name, name)
