"""Generators of a benchmark's images: what one must do, and models from hubs through diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.paper.definition import Benchmark
from benchmarks.paper.encoder_pair import PAIR, load_pair, require_pair
from benchmarks.paper.folder import sha256_file, versions
from gmi_registry import generation
from gmi_registry.encoders import Encoder, EncoderName, load_encoder
from gmi_registry.errors import InputError
from gmi_registry.generation import BatchCache, RecipeOverrides
from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.hubs.open import Closable
from gmi_registry.interrogators import load_interrogator
from gmi_registry.model import ModelFiles
from gmi_registry.spec import SPEC_DIR, ModelRef, PromptSet

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub


@dataclass(frozen=True)
class Order:
    """Pictures wanted of one model: each prompt once a seed, prompt by prompt.

    ``part`` says what for: ``specs`` and ``own`` (a specification's default and own block), ``dev``
    and ``test`` (tasks), ``asked`` (tasks like the own block), ``guessed`` (pseudo-prompts).
    """

    part: str
    model: int
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)

    @property
    def name(self) -> str:
        """By which a stage's cache knows it."""
        return f"{self.part}-{self.model:04d}"

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Prompt and seed of each picture."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


class Towers(Protocol):
    """The part of an encoder that a benchmark uses; ``encoders.Encoder`` has it."""

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.floating[Any]]:
        """B pictures to [B, D]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        """B texts to [B, E]."""
        ...


class Generator(Protocol):
    """The models of a benchmark, ready to be asked; opening one finds what is missing."""

    @property
    def models(self) -> tuple[str, ...]:
        """Full references, with the revision that was found."""
        ...

    @property
    def downloads(self) -> tuple[int | None, ...]:
        """From the model cards."""
        ...

    @property
    def precision(self) -> np.dtype[Any]:
        """In which specifications store embeddings."""
        ...

    @property
    def encoder_id(self) -> str: ...

    @property
    def free(self) -> bool:
        """Whether it can generate any prompt, and not only those of the benchmark."""
        ...

    def close(self) -> None: ...

    def inputs(self, order: Order) -> object:
        """Everything that decides the bytes of an order's pictures, as plain JSON values."""
        ...

    def generate(
        self, orders: Sequence[Order], progress: Callable[[int], None]
    ) -> list[list[Path]]:
        """PNG files for orders of one model; ``progress`` is told how many are done.

        A prompt that the model would cut is refused, except in an order ``guessed``.
        """
        ...

    def encoder(self) -> Towers: ...

    def guess(self, phrases: Sequence[str]) -> Callable[[Image.Image], str | None]:
        """The interrogator: a picture's pseudo-prompt, or None."""
        ...


def orders_of(benchmark: Benchmark) -> list[Order]:
    """Every picture that a benchmark needs, model by model."""
    orders = []
    for number, entry in enumerate(benchmark.models):
        specs, test = benchmark.seeds.specs, benchmark.seeds.test
        orders.append(Order("specs", number, benchmark.defaults, specs))
        if benchmark.own_prompts:
            orders.append(Order("own", number, entry.own, specs))
            orders.append(Order("asked", number, entry.asked, test))
        orders.append(Order("dev", number, benchmark.dev_prompts, benchmark.seeds.dev))
        orders.append(Order("test", number, benchmark.evaluation_prompts, test))
    return orders


class EncodedGenerator:
    """The half of a generator that looks at images: its encoder and interrogator, loaded when they
    are first asked for.

    ``hubs`` are asked for the encoder before open_clip is, and are closed with it. Downloads lie
    where searches keep theirs, so that no encoder is fetched twice. Raises MissingExtraError where
    the encoder is the pair and its packages are not installed.
    """

    precision = np.dtype(np.float16)

    def __init__(
        self, benchmark: Benchmark, hubs: Sequence[Hub], access: HubAccess, device: str | None
    ) -> None:
        self._benchmark = benchmark
        self._opened = tuple(hubs)
        self._device = generation.default_device() if device is None else device
        self._settings: dict[str, Any] = {
            "cache_dir": None if access.cache_dir is None else access.cache_dir / "hub",
            "offline": bool(access.offline),
            "device": self._device,
        }
        self._encoder: Encoder | None = None
        self._name = EncoderName.parse(benchmark.encoder)
        if self._name == PAIR:
            require_pair()  # before an hour of generating for it

    def close(self) -> None:
        """Let go of the hubs' connections."""
        for hub in self._opened:
            if isinstance(hub, Closable):
                hub.close()

    @property
    def encoder_id(self) -> str:
        """That of the weights that are really used."""
        return self.encoder().ref.id

    def encoder(self) -> Encoder:
        """The pair of towers where it is named, else a hub's own where one has it, else
        open_clip's. Raises as ``load_pair`` and ``load_encoder``."""
        if self._encoder is None:
            if self._name == PAIR:
                self._encoder = load_pair(device=self._device)
            else:
                folders = (hub.fetch_encoder(*self._name) for hub in self._opened)
                folder = next((found for found in folders if found is not None), None)
                self._encoder = load_encoder(*self._name, folder, **self._settings)
        return self._encoder

    def guess(self, phrases: Sequence[str]) -> Callable[[Image.Image], str | None]:
        """The interrogator, with the encoder."""
        encoder, name = self.encoder(), self._benchmark.interrogator
        interrogator = load_interrogator(name, phrases=phrases, **self._settings)
        return lambda image: interrogator(image, encoder)


_LIBRARIES = ("diffusers", "peft", "torch", "transformers")
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


class DiffusionGenerator(EncodedGenerator):
    """A :class:`~benchmarks.paper.generator.Generator` of real models.

    Opening it brings every model onto this disk, so that a missing one is found before anything is
    generated. ``work`` keeps finished batches. Raises InputError for a name that is none or a hub
    that is not said, HubError for a model that is not there, GenerationError for one that makes no
    images here.
    """

    free = True

    def __init__(
        self,
        benchmark: Benchmark,
        work: Path,
        *,
        device: str | None = None,
        access: HubAccess | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        access = access or HubAccess()
        refs = [ModelRef.parse(entry.model) for entry in benchmark.models]
        hubs: dict[str, Hub] = {}
        for ref in refs:
            if ref.hub not in hubs:
                hubs[ref.hub] = open_hub(_place(benchmark, ref), access)
        super().__init__(benchmark, tuple(hubs.values()), access, device)
        self._work = work
        self._files: list[ModelFiles] = []
        for number, ref in enumerate(refs):
            progress(number, len(refs))
            self._files.append(hubs[ref.hub].fetch_model(ref))
            generation.check_model(self._files[-1])
        progress(len(refs), len(refs))
        self.models = tuple(str(model.ref) for model in self._files)
        self.downloads = tuple(model.card.downloads for model in self._files)

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
            "libraries": versions(_LIBRARIES),
        }

    def generate(
        self, orders: Sequence[Order], progress: Callable[[int], None]
    ) -> list[list[Path]]:
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
        generated: list[list[Path]] = []
        for order in orders:
            wanted = replace(overrides, seeds=order.seeds)
            recipe = generation.default_recipe(pipeline, model, wanted)
            generation.check_settings(pipeline, recipe)
            if order.part != "guessed":
                prompts = PromptSet(order.part, 1, order.prompts)
                generation.check_prompts(pipeline, [prompts], recipe)

            def told(done: int, total: int, before: int = before) -> None:
                progress(before + done)

            cache = BatchCache(self._work / "pictures", model, recipe)
            images = generation.generate(
                pipeline, order.prompts, recipe, cache=cache, progress=told
            )
            generated.append(list(images.paths))
            before += len(order)
        return generated


def _place(benchmark: Benchmark, ref: ModelRef) -> str | Path:
    if ref.hub != "local":
        return ref.hub
    if benchmark.hub is None:
        raise InputError(f"{ref} is on a hub that the benchmark does not name", hint=_NO_HUB)
    return benchmark.folder / benchmark.hub


def _advice(model: ModelFiles) -> dict[str, object]:
    """What the card says of how to draw. All but what is known not to matter: a field that a later
    version reads must not be forgotten here."""
    return {name: value for name, value in vars(model.card).items() if name not in _DESCRIPTIVE}


def _configurations(path: Path) -> list[list[str | None]]:
    """Names and digests of a model's JSON files: a changed sampler makes other images."""
    if path.is_file():
        return []
    found = []
    for file in sorted(path.rglob("*.json")):
        name = file.relative_to(path)
        if name.parts[0] != SPEC_DIR and file.stat().st_size <= _CONFIG_LIMIT:
            found.append([name.as_posix(), sha256_file(file)])
    return found
