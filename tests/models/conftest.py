"""Tiny models of all architectures, loaded once and kept for all tests here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmi_registry import generation
from gmi_registry.generation import RecipeOverrides
from gmi_registry.model import ModelFiles
from tests.support.models.adapters import lora_folder
from tests.support.models.architectures import SIZES
from tests.support.models.files import architecture_folder, model_files
from tests.support.models.matrix import MATRIX
from tests.support.models.originals import single_file
from tests.support.models.store import ModelStore


@dataclass(frozen=True)
class Tiny:
    """A tiny model that is loaded, and the size in pixels that its tests ask for.

    Images are kept by recipe and prompt: several tests ask for the same one.
    """

    architecture: str
    model: ModelFiles
    pipeline: Any
    size: tuple[int, int]
    _kept: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, compare=False)

    def recipe(self, **overrides: Any) -> Any:
        """The default recipe at the tests' size and steps."""
        width, height = self.size
        usual = {"width": width, "height": height, "steps": MATRIX[self.architecture].steps}
        chosen = RecipeOverrides(**(usual | overrides))
        return generation.default_recipe(self.pipeline, self.model, chosen)

    def image(self, prompt: str = "a red fox", **overrides: Any) -> np.ndarray:
        """[H, W, 3] uint8, the way that publishing generates it."""
        recipe = self.recipe(**overrides)
        generation.check_settings(self.pipeline, recipe)
        return self.image_by(recipe, prompt)

    def image_by(self, recipe: Any, prompt: str = "a red fox") -> np.ndarray:
        key = (recipe.model_dump_json(), prompt)
        if key not in self._kept:
            self._kept[key] = self.generated_anew(recipe, prompt)
        return self._kept[key]

    def generated_anew(self, recipe: Any, prompt: str = "a red fox") -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            cache = generation.BatchCache(Path(folder), self.model, recipe)
            images = generation.generate(self.pipeline, [prompt], recipe, cache=cache)
            return np.asarray(images[0])


@pytest.fixture(scope="session")
def tiny(model_store: ModelStore) -> Iterator[Callable[..., Tiny]]:
    """The model of an architecture: from its "folder", its "single-file", or its "lora"."""
    kept: dict[tuple[str, str], Tiny] = {}

    def get(name: str, kind: str = "folder") -> Tiny:
        if (name, kind) not in kept:
            if name == "kolors":
                pytest.importorskip("sentencepiece")
            base = model_files(architecture_folder(model_store, name), name)
            model = base
            if kind == "lora":
                folder = lora_folder(model_store, name)
                model = model_files(folder, f"{name}-lora", "lora", base=base)
            elif kind == "single-file":
                file = single_file(model_store, name)
                model = model_files(file, f"{name}-file", "single-file", base=base)
            pipeline = generation.load_pipeline(model, device="cpu")
            kept[name, kind] = Tiny(name, model, pipeline, SIZES.get(name, (64, 64)))
        return kept[name, kind]

    yield get
    kept.clear()
