"""What is shown of a run: which tasks, by which methods, and what was guessed. No answer enters."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.ranking import ascending

__all__ = ["SHOWN", "SINGLE", "chosen_tasks", "first_model", "guesses", "shown_methods"]

SINGLE = "images-1"
"""The protocol that is shown."""

SHOWN = ("download", "rkme-basic", "rkme-clip", "modelverse", "paper", "default")

_COUNT = 8
_SEED = 7


def chosen_tasks(tasks: int, count: int = _COUNT) -> list[int]:
    """Up to ``count`` different task numbers, by a fixed draw: nobody chose those that look good.

    Nothing but the number of tasks enters, so that a stage without the answers can ask as well.
    """
    drawn = np.random.default_rng(_SEED).permutation(tasks)[:count]
    return sorted(int(task) for task in drawn)


def shown_methods(scored: Iterable[str]) -> list[str]:
    """Those of ``SHOWN`` that were scored; of a run without any, as many of its own."""
    scored = list(scored)
    return [name for name in SHOWN if name in scored] or scored[: len(SHOWN)]


def first_model(distances: NDArray[np.float64], models: tuple[str, ...]) -> int:
    """The nearest of M models by one task's distances [M]; of equals the first by name."""
    return int(ascending(distances, lambda model: models[model])[0])


def guesses(folder: Path) -> dict[str, str]:
    """Picture of a test task to its pseudo-prompt, without those for which none was guessed."""
    try:
        said = json.loads((folder / "pseudo" / "test.json").read_bytes())
    except (OSError, ValueError):
        return {}
    pairs = said.items() if isinstance(said, dict) else ()
    return {image: text for image, text in pairs if isinstance(text, str) and text.strip()}
