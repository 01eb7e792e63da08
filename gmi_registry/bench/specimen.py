"""Figures 4 and 5: a few queries, and what the model that each method picks makes of the guess."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.bench.choice import chosen_tasks, first_model, guesses, shown_methods
from gmi_registry.bench.draw import read_drawn
from gmi_registry.bench.scored import Scored
from gmi_registry.bench.tasks import Task
from gmi_registry.bench.title import method_title
from gmi_registry.errors import InputError
from gmi_registry.images import load_image
from gmi_registry.report.page import Picture
from gmi_registry.report.picture import embed

__all__ = ["Pick", "Specimen", "chosen_tasks", "specimens"]

_SIDE = 224  # pixels of a picture in the page
_PIXELS = 16_000_000


@dataclass(frozen=True)
class Pick:
    """The model that came first by one method, and a picture of its own; None where none is.

    ``guessed`` says of which prompt the picture was made: the guessed one, or else the true one.
    """

    method: str
    model: str
    right: bool
    picture: Picture | None
    guessed: bool


@dataclass(frozen=True)
class Specimen:
    """One query. ``guessed`` is the pseudo-prompt, None where none was made."""

    picture: Picture | None
    prompt: str
    guessed: str | None
    model: str
    picks: tuple[Pick, ...]


def specimens(folder: Path, test: Scored) -> list[Specimen]:
    """A specimen for each of ``chosen_tasks``, with the methods that are shown.

    A pick's picture is what the stage ``draw`` had the picked model make of the pseudo-prompt.
    Where that is missing or damaged, it is one that the model drew for the query's true prompt,
    with another seed where there is one, so that the right model does not merely repeat the query.
    """
    made = _Made(folder, test)
    guessed = guesses(folder)
    found = []
    for number in chosen_tasks(len(test.truth)):
        task, truth = test.tasks.tasks[number], int(test.truth[number])
        guess = guessed.get(task.images[0])
        picks = []
        for method in shown_methods(test.distances):
            first = first_model(test.distances[method][number], test.models)
            picture = made.of_guess(first, guess)
            picks.append(
                Pick(
                    method_title(method),
                    test.models[first],
                    first == truth,
                    made.of_truth(first, task) if picture is None else picture,
                    picture is not None,
                )
            )
        query = _picture(folder, task.images[0])
        found.append(Specimen(query, task.prompts[0], guess, test.models[truth], tuple(picks)))
    return found


class _Made:
    """What the models made, of pseudo-prompts and of true ones."""

    def __init__(self, folder: Path, test: Scored) -> None:
        self._folder = folder
        self._models = test.models
        self._of_guesses = read_drawn(folder)
        self._of_truths: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)
        for task, model in zip(test.tasks.tasks, test.truth, strict=True):
            self._of_truths[int(model), task.prompts[0]].append((task.seeds[0], task.images[0]))

    def of_guess(self, model: int, prompt: str | None) -> Picture | None:
        """What the model drew of a pseudo-prompt."""
        if prompt is None:
            return None
        return _picture(self._folder, self._of_guesses.get((self._models[model], prompt)))

    def of_truth(self, model: int, task: Task) -> Picture | None:
        """What it drew of the prompt that made the query, rather with another seed."""
        pictures = sorted(self._of_truths[model, task.prompts[0]])
        others = [image for seed, image in pictures if seed != task.seeds[0]]
        return _picture(self._folder, next(iter(others), pictures[0][1] if pictures else None))


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
