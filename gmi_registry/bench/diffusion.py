"""Models from hubs, drawing through diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gmi_registry import generation
from gmi_registry.bench.cache import sha256_file
from gmi_registry.bench.file import Benchmark
from gmi_registry.bench.library import versions
from gmi_registry.bench.reader import Reader
from gmi_registry.bench.studio import Order
from gmi_registry.encoders import Encoder
from gmi_registry.errors import InputError
from gmi_registry.generation import Journal, RecipeOverrides
from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.hubs.open import Closable
from gmi_registry.model import ModelFiles
from gmi_registry.spec import SPEC_DIR, ModelRef, PromptSet

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

__all__ = ["DiffusionStudio"]

_DRAWING = ("diffusers", "peft", "torch", "transformers")
_CONFIG_LIMIT = 4_000_000
_DESCRIPTIVE = frozenset(
    {
        "title",
        "tags",
        "licence",
        "base_model",
        "nsfw",
        "downloads",
        "prompt_set",
        "encoder",
        "notes",
    }
)
_NO_HUB = 'add hub = "PATH" to the benchmark file, a folder with hub.json'


class DiffusionStudio:
    """A :class:`~gmi_registry.bench.studio.Studio` of real models.

    Opening it brings every model onto this disk, so that a missing one is found before anything is
    drawn. ``work`` keeps finished batches. Raises InputError for a name that is none or a hub that
    is not said, HubError for a model that is not there, GenerationError for one that makes no
    images here.
    """

    precision = np.dtype(np.float16)
    free = True

    def __init__(
        self,
        benchmark: Benchmark,
        work: Path,
        *,
        device: str | None = None,
        cache_dir: Path | None = None,
        token: str | None = None,
        offline: bool | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._benchmark = benchmark
        self._work = work
        self._device = generation.default_device() if device is None else device
        self._hubs: dict[str, Hub] = {}
        access = HubAccess(cache_dir, token, offline)
        refs = [ModelRef.parse(entry.model) for entry in benchmark.models]
        for ref in refs:
            if ref.hub not in self._hubs:
                place = self._place(ref)
                self._hubs[ref.hub] = open_hub(place, access)
        files = []
        for number, ref in enumerate(refs):
            progress(number, len(refs))
            files.append(self._hubs[ref.hub].fetch_model(ref))
            generation.check_model(files[-1])
        progress(len(refs), len(refs))
        self._files: tuple[ModelFiles, ...] = tuple(files)
        self.models = tuple(str(model.ref) for model in files)
        self.downloads = tuple(model.card.downloads for model in files)
        self._reader = Reader(
            benchmark,
            tuple(self._hubs.values()),
            cache_dir=cache_dir,
            offline=bool(offline),
            device=self._device,
        )

    def close(self) -> None:
        """Let go of the hubs' connections."""
        for hub in self._hubs.values():
            if isinstance(hub, Closable):
                hub.close()

    @property
    def encoder_id(self) -> str:
        """That of the weights that are really used."""
        return self.encoder().ref.id

    def inputs(self, order: Order) -> object:
        """Weights, configurations and cards of model and base, settings, prompts, libraries."""
        model = self._files[order.model]
        chain: list[object] = []
        part: ModelFiles | None = model
        while part is not None:
            weights = [[weight.path, weight.sha256] for weight in part.weights]
            chain.append([part.kind, weights, _configurations(part.path), _advice(part)])
            part = part.base
        return {
            "chain": chain,
            "recipe": self._benchmark.recipe.model_dump(mode="json"),
            "prompts": list(order.prompts),
            "seeds": list(order.seeds),
            "device": self._device.partition(":")[0],
            "libraries": versions(_DRAWING),
        }

    def draw(self, orders: Sequence[Order], progress: Callable[[int], None]) -> list[list[Path]]:
        """The pictures of each order; finished batches of an interrupted run are taken up.

        Raises GenerationError for a model that cannot be loaded or draw, InputError for a prompt
        that it would cut. A guessed one may be cut: nobody can shorten what nobody wrote.
        """
        number = orders[0].model
        model = self._files[number]
        settings = self._benchmark.recipe.model_dump()
        overrides = RecipeOverrides(**{key: settings[key] for key in settings if key != "dtype"})
        dtype = self._benchmark.recipe.dtype
        pipeline = generation.load_pipeline(model, device=self._device, dtype=dtype)
        before = 0
        drawn: list[list[Path]] = []
        for order in orders:
            wanted = replace(overrides, seeds=order.seeds)
            recipe = generation.default_recipe(pipeline, model, wanted)
            generation.check_settings(pipeline, recipe)
            if order.part != "guessed":
                prompts = PromptSet(order.part, 1, order.prompts)
                generation.check_prompts(pipeline, [prompts], recipe)

            def told(done: int, total: int, before: int = before) -> None:
                progress(before + done)

            journal = Journal(self._work / "pictures", model, recipe)
            images = generation.generate(
                pipeline, order.prompts, recipe, journal=journal, progress=told
            )
            drawn.append(list(images.paths))
            before += len(order)
        return drawn

    def encoder(self) -> Encoder:
        """What the benchmark names; a hub of its models may hold it."""
        return self._reader.encoder()

    def guess(self, phrases: Sequence[str]) -> Callable[[Image.Image], str | None]:
        """The interrogator that the benchmark names, with the encoder."""
        return self._reader.guess(phrases)

    def _place(self, ref: ModelRef) -> str:
        if ref.hub != "local":
            return ref.hub
        if self._benchmark.hub is None:
            raise InputError(f"{ref} is on a hub that the benchmark does not name", hint=_NO_HUB)
        return f"local:{self._benchmark.folder / self._benchmark.hub}"


def _advice(model: ModelFiles) -> dict[str, object]:
    """What the card says of how to draw. All but what is known not to matter: a field that a later
    version reads must not be forgotten here."""
    return {name: value for name, value in vars(model.card).items() if name not in _DESCRIPTIVE}


def _configurations(path: Path) -> list[list[str | None]]:
    """Names and digests of a model's JSON files: a changed sampler draws other pictures."""
    if path.is_file():
        return []
    found = []
    for file in sorted(path.rglob("*.json")):
        name = file.relative_to(path)
        if name.parts[0] != SPEC_DIR and file.stat().st_size <= _CONFIG_LIMIT:
            found.append([name.as_posix(), sha256_file(file)])
    return found
