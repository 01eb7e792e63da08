"""Generators of a benchmark's images: models from hubs, folders of pictures, and two functions.

A style that an artist drew by hand says how far the scores work where no model made anything. A
folder holds one picture of each prompt; a seed moves and zooms it a little, so that pictures of one
prompt and different seeds differ, as those of a model do.

The functions are the paper's Example 2.1. Of a prompt p in [-1, 1), f1 makes the point
(cos πp, sin πp) and f2 (sin πp, cos πp). Over evenly spaced prompts both make the same set, so that
Eq. 2 cannot tell them apart; asked with a prompt in (0, 0.5), they answer differently. The
embedding of a point is the point, and that of a prompt p, which the paper leaves open,
(cos πp, sin πp): near prompts are alike, and 1 is next to -1.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from benchmarks.paper.definition import Benchmark
from benchmarks.paper.encoder_pair import PAIR, load_pair, require_pair
from benchmarks.paper.folder import put, sha256_file, versions
from gmi_registry import generation
from gmi_registry.encoders import Encoder, EncoderName, load_encoder
from gmi_registry.errors import InputError
from gmi_registry.generation import BatchCache, RecipeOverrides
from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.hubs.open import Closable
from gmi_registry.images import load_image
from gmi_registry.interrogators import load_interrogator
from gmi_registry.model import ModelFiles
from gmi_registry.spec import SPEC_DIR, ModelRef, PromptSet
from gmi_registry.spec.canonical import canonical_digest

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
    """A :class:`~benchmarks.paper.generators.Generator` of real models.

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


# --- Folders of pictures -------------------------------------------------------------------------

ENDINGS = (".png", ".webp", ".jpg", ".jpeg")
"""Of the pictures' file names, tried in this order."""

SHIFT = 0.05
"""The largest shift either way, as a share of the side."""
ZOOM = (0.9, 1.1)

_JITTER = 1
_PIXELS = 16_000_000
_DRAWING = ("numpy", "pillow")


class PictureGenerator(EncodedGenerator):
    """A :class:`~benchmarks.paper.generators.Generator` of folders in the folder ``pictures``.

    A model is the name of a folder, and a prompt that of a picture in it without its ending.
    Opening it finds every picture. Raises InputError for one that is missing and for a name that
    leads elsewhere, HubError for a hub that is none, MissingExtraError as ``EncodedGenerator``.
    """

    free = False

    def __init__(
        self,
        benchmark: Benchmark,
        work: Path,
        *,
        device: str | None = None,
        access: HubAccess | None = None,
    ) -> None:
        access = access or HubAccess()
        width, height = benchmark.recipe.width, benchmark.recipe.height
        if benchmark.pictures is None or width is None or height is None:
            raise InputError("the benchmark does not say which pictures, and of what size")
        self._work = work
        self._size = (width, height)
        root = benchmark.folder / benchmark.pictures
        self.models = tuple(entry.model for entry in benchmark.models)
        self.downloads: tuple[int | None, ...] = (None,) * len(self.models)
        folders = [_within(root, name) for name in self.models]
        self._paths = {
            (order.model, prompt): _find_picture(folders[order.model], prompt)
            for order in orders_of(benchmark)
            for prompt in order.prompts
        }
        hubs = [] if benchmark.hub is None else [open_hub(benchmark.folder / benchmark.hub, access)]
        super().__init__(benchmark, hubs, access, device)

    def inputs(self, order: Order) -> object:
        """The pictures' bytes, and everything that moves and zooms them."""
        return {
            "pictures": [sha256_file(self._paths[order.model, prompt]) for prompt in order.prompts],
            "model": self.models[order.model],
            "prompts": list(order.prompts),
            "seeds": list(order.seeds),
            "size": list(self._size),
            "jitter": [_JITTER, SHIFT, *ZOOM],
            "libraries": versions(_DRAWING),
        }

    def generate(
        self, orders: Sequence[Order], progress: Callable[[int], None]
    ) -> list[list[Path]]:
        """Each prompt's picture, moved by each seed. Raises InputError for one that is none."""
        done = 0
        generated: list[list[Path]] = []
        for order in orders:
            paths = []
            for prompt in order.prompts:
                picture = load_image(self._paths[order.model, prompt], max_pixels=_PIXELS)
                for seed in order.seeds:
                    key = canonical_digest([self.models[order.model], prompt, seed])
                    data = _png(jittered(picture, self._size, key))
                    path = self._work / "jittered" / f"{canonical_digest(data.hex())[:32]}.png"
                    put(path, data)
                    paths.append(path)
                    done += 1
                progress(done)
            generated.append(paths)
        return generated


def jittered(picture: Image.Image, size: tuple[int, int], key: str) -> Image.Image:
    """A picture of ``size`` (width, height) cut from about the middle of an RGB one.

    ``key``, a hexadecimal digest, decides about where and how large: up to 5 % off the middle,
    zoomed by 0.9 to 1.1. What lies beyond the edge is as the edge is.
    """
    draw = np.random.default_rng(int(key, 16))
    zoom = draw.uniform(*ZOOM)
    across, down = draw.uniform(-SHIFT, SHIFT, 2)
    scale = min(picture.width / size[0], picture.height / size[1]) / zoom
    width, height = size[0] * scale, size[1] * scale
    left = (picture.width - width) / 2 + across * width
    upper = (picture.height - height) / 2 + down * height
    beyond = (-left, -upper, left + width - picture.width, upper + height - picture.height)
    margin = math.ceil(max(0.0, *beyond)) + 1
    sides = ((margin, margin), (margin, margin), (0, 0))
    framed = Image.fromarray(np.pad(np.asarray(picture), sides, mode="edge"))
    left, upper = left + margin, upper + margin
    return framed.resize(
        size, Image.Resampling.BICUBIC, box=(left, upper, left + width, upper + height)
    )


def _within(folder: Path, name: str) -> Path:
    """The path of ``name`` right in ``folder``. Raises InputError where it could be elsewhere."""
    if name in {".", ".."} or any(sign in name for sign in "/\\\0"):
        raise InputError(
            f"{name[:80]!r} cannot be the name of a file or folder of pictures",
            hint="use models and prompts without slashes",
        )
    return folder / name


def _find_picture(folder: Path, prompt: str) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"there is no folder of pictures {folder}",
            hint="the head of the benchmark file says how it is made",
        )
    for ending in ENDINGS:
        path = _within(folder, f"{prompt}{ending}")
        if path.is_file():
            return path
    raise InputError(
        f"{folder} holds no picture of {prompt[:80]!r}",
        hint=f"put one there, called {prompt[:80]}.png; the benchmark file may say how",
    )


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


# --- The paper's two functions -------------------------------------------------------------------

_FUNCTIONS: dict[str, Callable[[float], tuple[float, float]]] = {
    "f1": lambda p: (math.cos(math.pi * p), math.sin(math.pi * p)),
    "f2": lambda p: (math.sin(math.pi * p), math.cos(math.pi * p)),
}
_SIDE, _RADIUS, _DOT = 96, 38, 4
_KEY = "point"


class CircleGenerator:
    """A :class:`~benchmarks.paper.generators.Generator` of the functions ``f1`` and ``f2``.

    Raises InputError for another model, and for a prompt that is no number in [-1, 1].
    """

    precision = np.dtype(np.float64)
    encoder_id = "circle"
    free = False

    def __init__(self, benchmark: Benchmark, work: Path) -> None:
        self._work = work
        self.models = tuple(entry.model for entry in benchmark.models)
        self.downloads: tuple[int | None, ...] = (None,) * len(self.models)
        for name in self.models:
            if name not in _FUNCTIONS:
                raise InputError(
                    f"the paper's example has no model {name!r}", hint="its models are f1 and f2"
                )
        for prompt in (*benchmark.defaults, *benchmark.evaluation_prompts, *benchmark.dev_prompts):
            number(prompt)

    def close(self) -> None:
        """Nothing is open."""

    def inputs(self, order: Order) -> object:
        """The function and its prompts; seeds mean nothing to it."""
        return [self.models[order.model], list(order.prompts), list(order.seeds)]

    def generate(
        self, orders: Sequence[Order], progress: Callable[[int], None]
    ) -> list[list[Path]]:
        """A small picture of each point, for people; the point itself stands in its PNG text."""
        generated = []
        for order in orders:
            function = _FUNCTIONS[self.models[order.model]]
            paths = []
            for prompt, _ in order.pairs:
                data = _circle_picture(*function(number(prompt)))
                path = self._work / "points" / f"{canonical_digest(data.hex())[:32]}.png"
                put(path, data)
                paths.append(path)
            generated.append(paths)
        progress(sum(map(len, orders)))
        return generated

    def encoder(self) -> CircleTowers:
        """The identity."""
        return CircleTowers()

    def guess(self, phrases: Sequence[str]) -> Callable[[Image.Image], str | None]:
        """Nobody can tell a prompt from one point: f1 and f2 both draw it."""
        return lambda image: None


class CircleTowers:
    """Embeddings of points and prompts in the plane, float64 [B, 2]."""

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float64]:
        """The points that the pictures show. Raises InputError for any other picture."""
        rows = [str(image.info.get(_KEY, "")).split() for image in images]
        if any(len(row) != 2 for row in rows):
            raise InputError("a picture shows no point of the example")
        return np.array([[float(value) for value in row] for row in rows])

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """p to (cos πp, sin πp)."""
        return np.array([_FUNCTIONS["f1"](number(text)) for text in texts])


def number(prompt: str) -> float:
    """p in [-1, 1]. Raises InputError for anything else."""
    try:
        value = float(prompt)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise InputError(f"the prompt {prompt[:80]!r} is no number from -1 to 1")
    return value


def _circle_picture(x: float, y: float) -> bytes:
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    pen = ImageDraw.Draw(image)
    centre = _SIDE / 2
    pen.ellipse(
        [centre - _RADIUS, centre - _RADIUS, centre + _RADIUS, centre + _RADIUS], None, "#999999"
    )
    across, down = centre + _RADIUS * x, centre - _RADIUS * y
    pen.ellipse([across - _DOT, down - _DOT, across + _DOT, down + _DOT], "black")
    text = PngInfo()
    text.add_text(_KEY, f"{x!r} {y!r}")
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=text)
    return stream.getvalue()
