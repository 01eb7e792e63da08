"""Figures 4 and 5: a few queries, and what the model that each method picks makes of the same."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmi_registry.bench.scored import Scored
from gmi_registry.bench.title import method_title
from gmi_registry.errors import InputError
from gmi_registry.images import load_image
from gmi_registry.report.page import Picture
from gmi_registry.report.picture import embed
from gmi_registry.scoring.ranking import ascending

__all__ = ["Pick", "Specimen", "chosen_tasks", "specimens"]

COUNT = 8
SHOWN = ("download", "rkme-basic", "rkme-clip", "modelverse", "paper", "default")

_SEED = 7
_SIDE = 224  # pixels of a picture in the page
_PIXELS = 16_000_000


@dataclass(frozen=True)
class Pick:
    """The model that came first by one method, and a picture of its own; None where none is."""

    method: str
    model: str
    right: bool
    picture: Picture | None


@dataclass(frozen=True)
class Specimen:
    """One query. ``guessed`` is the pseudo-prompt, None where none was made."""

    picture: Picture | None
    prompt: str
    guessed: str | None
    model: str
    picks: tuple[Pick, ...]


def chosen_tasks(tasks: int, count: int = COUNT) -> list[int]:
    """Up to ``count`` different task numbers, by a fixed draw: nobody chose those that look good.

    Nothing but the number of tasks enters, so that a stage without the answers can ask as well.
    """
    drawn = np.random.default_rng(_SEED).permutation(tasks)[:count]
    return sorted(int(task) for task in drawn)


def specimens(folder: Path, test: Scored) -> list[Specimen]:
    """A specimen for each of ``chosen_tasks``, with the methods of ``SHOWN`` that took part.

    A pick's picture is one that the picked model drew for the query's prompt, with another seed
    where there is one, so that the right model does not merely repeat the query. A picture that is
    missing or damaged is left out.
    """
    drawn: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)
    for task, model in zip(test.tasks.tasks, test.truth, strict=True):
        drawn[int(model), task.prompts[0]].append((task.seeds[0], task.images[0]))
    guesses = _guesses(folder)
    methods = [name for name in SHOWN if name in test.distances] or list(test.distances)[:6]
    found = []
    for number in chosen_tasks(len(test.truth)):
        task, truth = test.tasks.tasks[number], int(test.truth[number])
        picks = []
        for method in methods:
            first = int(ascending(test.distances[method][number], test.models)[0])
            pictures = sorted(drawn[first, task.prompts[0]])
            others = [image for seed, image in pictures if seed != task.seeds[0]]
            image = next(iter(others), pictures[0][1] if pictures else None)
            picks.append(
                Pick(
                    method_title(method),
                    test.models[first],
                    first == truth,
                    _picture(folder, image),
                )
            )
        found.append(
            Specimen(
                _picture(folder, task.images[0]),
                task.prompts[0],
                guesses.get(task.images[0]),
                test.models[truth],
                tuple(picks),
            )
        )
    return found


def _guesses(folder: Path) -> dict[str, str]:
    try:
        said = json.loads((folder / "pseudo" / "test.json").read_bytes())
    except (OSError, ValueError):
        return {}
    pairs = said.items() if isinstance(said, dict) else ()
    return {image: text for image, text in pairs if isinstance(text, str)}


def _picture(folder: Path, image: str | None) -> Picture | None:
    if image is None:
        return None
    path = folder / image
    # Relative by the file's own rule, but a link could still lead elsewhere.
    if not path.resolve().is_relative_to(folder.resolve()):
        return None
    try:
        return embed(load_image(path, max_pixels=_PIXELS), side=_SIDE)
    except InputError:
        return None
