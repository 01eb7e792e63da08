"""Pictures of prompts: drawn in fixed batches, each kept while the next is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.errors import GenerationError
from gmi_registry.generation.adapters import set_lora_scale
from gmi_registry.generation.backlog import Backlog
from gmi_registry.generation.journal import Journal
from gmi_registry.generation.pipelines import Pipeline
from gmi_registry.generation.refusals import one_line
from gmi_registry.generation.schedulers import stepping, use_sampler
from gmi_registry.generation.settings import call_arguments, skipping_layers
from gmi_registry.spec import GenerationRecipe

__all__ = ["Follower", "GeneratedImages", "generate", "images_kept", "noise_seed"]

Pair = tuple[str, int]


class GeneratedImages(Sequence[Image.Image]):
    """RGB pictures that lie on disk and are opened when they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [_open(path) for path in self.paths[index]]
        return _open(self.paths[index])


class Follower(Protocol):
    """What makes something of the pictures while more of them are drawn."""

    def prepare(self, images: Sequence[Image.Image]) -> None:
        """Take the next RGB pictures; on another thread than the drawing, which goes on."""
        ...

    def advance(self) -> None:
        """Do what needs the drawing to pause, such as to use its device; between two batches."""
        ...


class _Nobody:
    def prepare(self, images: Sequence[Image.Image]) -> None:
        pass

    def advance(self) -> None:
        pass


def noise_seed(prompt: str, seed: int) -> int:
    """The generator's seed for one picture: 63 bits of SHA-256 over seed, newline and prompt.

    ``prompt`` is as it stands in the prompt set, without trigger words: every model answers a
    prompt from the same noise, and neither its neighbours nor its place in the set matter.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generate(
    pipeline: Pipeline,
    prompts: Sequence[str],
    recipe: GenerationRecipe,
    *,
    journal: Journal,
    follower: Follower | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GeneratedImages:
    """Draw each prompt once a seed, prompt by prompt; [prompts x seeds] pictures.

    Batches begin at fixed places and are kept in ``journal`` one by one, so a run that was
    interrupted (Ctrl-C, a kill, a full disk) goes on where it stopped, with the bytes that an
    uninterrupted run gives. A batch is written while the next is drawn, and only a kill loses it.
    ``follower`` is handed all pictures in their order, those that were kept already too; in memory
    are those of two batches, however many there are. ``progress`` is told (pictures done, pictures
    in all) at the start and as each batch is drawn.

    ``pipeline`` is given the recorded scheduler meanwhile, and the recorded settings alone.

    Raises GenerationError for a model that fails or gives no finite pixels, and for a journal that
    cannot be written; InputError for a scheduler that cannot be made; whatever ``follower`` raises.
    Batches drawn before are kept.
    """
    batches = _batches(prompts, recipe)
    found = [journal.find(batch) for batch in batches]
    done = sum(len(paths) for paths in found if paths is not None)
    total = sum(map(len, batches))
    progress(done, total)
    if recipe.lora_scale is not None:
        set_lora_scale(pipeline, recipe.lora_scale)
    follower = _Nobody() if follower is None else follower
    with use_sampler(pipeline, recipe.sampler), Backlog() as backlog:
        for position, batch in enumerate(batches):
            paths = found[position]
            if paths is not None:
                backlog.put(partial(_hand_on, paths, follower))
            else:
                images = _draw(pipeline, batch, recipe)
                backlog.put(partial(_keep, journal, batch, images, follower))
                done += len(batch)
                progress(done, total)
            follower.advance()
    return GeneratedImages(tuple(chain.from_iterable(map(journal.paths, batches))))


def _keep(
    journal: Journal, batch: Sequence[Pair], images: Sequence[Image.Image], follower: Follower
) -> None:
    # First, so that nothing drawn is lost where the follower fails.
    journal.keep(batch, images)
    follower.prepare(images)


def _hand_on(paths: Sequence[Path], follower: Follower) -> None:
    follower.prepare(GeneratedImages(paths)[:])


def images_kept(journal: Journal, prompts: Sequence[str], recipe: GenerationRecipe) -> int:
    """How many of the pictures that :func:`generate` would draw lie in ``journal`` already."""
    return sum(len(batch) for batch in _batches(prompts, recipe) if journal.find(batch) is not None)


def _batches(prompts: Sequence[str], recipe: GenerationRecipe) -> list[Sequence[Pair]]:
    pairs = [(prompt, seed) for prompt in prompts for seed in recipe.seeds]
    size = recipe.batch_size
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _draw(pipeline: Pipeline, batch: Sequence[Pair], recipe: GenerationRecipe) -> list[Image.Image]:
    import torch

    # On the CPU, whatever draws: a GPU's generator gives other noise, on each kind its own.
    generators = [
        torch.Generator("cpu").manual_seed(noise_seed(prompt, seed)) for prompt, seed in batch
    ]
    arguments = call_arguments(pipeline, recipe, [recipe.render(prompt) for prompt, _ in batch])
    try:
        with (
            torch.inference_mode(),
            stepping(pipeline.scheduler, generators),
            skipping_layers(pipeline, recipe),
        ):
            drawn = pipeline(**arguments, generator=generators, output_type="np").images
    except Exception as error:
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        raise GenerationError(
            f"the model failed to draw {batch[0][0]!r}: {one_line(error)}",
            hint="memory ran out: give a smaller --batch-size, or --width and --height"
            if memory
            else "give other settings, or update diffusers: pip install --upgrade diffusers",
        ) from error
    pixels = np.asarray(drawn)
    if pixels.shape[1:3] != (recipe.height, recipe.width):
        # What is recorded was used: some pipelines map a size to one of their own.
        height, width = pixels.shape[1:3]
        raise GenerationError(
            f"the model drew {width} x {height} pixels where {recipe.width} x {recipe.height} were "
            "asked for",
            hint=f"give --width {width} --height {height}",
        )
    return [_picture(picture, prompt) for picture, (prompt, _) in zip(pixels, batch, strict=True)]


def _picture(pixels: NDArray[np.floating[Any]], prompt: str) -> Image.Image:
    """[H, W, 3] in 0..1 as RGB bytes."""
    if not np.isfinite(pixels).all():  # diffusers would make a black picture of it
        raise GenerationError(
            f"the model gave pixels that are no numbers for {prompt!r}",
            hint="its weights are damaged, or need another dtype, such as float32",
        )
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise GenerationError(
            f"{path}: a generated picture is gone or damaged: {one_line(error)}",
            hint="run the same command again",
        ) from error
