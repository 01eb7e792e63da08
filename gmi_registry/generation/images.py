"""Images of prompts: generated in fixed batches, each kept while the next is generated."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from gmi_registry.generation.image_checks import (
    FaultyImagesError,
    ImageChecks,
    dtype_hint,
    is_one_colour,
    watch_decoder,
)
from gmi_registry.generation.journal import Journal
from gmi_registry.generation.memory import OutOfMemoryError, is_out_of_memory, tiling
from gmi_registry.generation.pipelines import Pipeline
from gmi_registry.generation.refusals import one_line
from gmi_registry.generation.schedulers import stepping, use_sampler
from gmi_registry.generation.settings import call_arguments, skipping_layers
from gmi_registry.spec import GenerationRecipe

__all__ = ["Follower", "GeneratedImages", "generate", "images_kept", "noise_seed"]

Pair = tuple[str, int]

_ROUNDING = 0.5 / 255
"""How far a pixel in 0..1 may lie beside it: less than what makes another byte."""


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
    """What makes something of the images while more of them are generated."""

    def prepare(self, images: Sequence[Image.Image]) -> None:
        """Take the next RGB images; on another thread than the generation, which goes on."""
        ...

    def advance(self) -> None:
        """Do what needs the generation to pause, such as to use its device; between two batches."""
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
    checks: ImageChecks | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GeneratedImages:
    """Generate an image of each prompt for each seed, prompt by prompt; [prompts x seeds].

    Batches begin at fixed places and are kept in ``journal`` one by one, so a run that was
    interrupted (Ctrl-C, a kill, a full disk) goes on where it stopped, with the bytes that an
    uninterrupted run gives. A batch is written while the next is generated; only a kill loses it.
    ``follower`` is handed all pictures in their order, those that were kept already too; in memory
    are those of two batches, however many there are. ``progress`` is told (pictures done, pictures
    in all) at the start and as each batch is done. ``checks`` judges the images of several calls
    together, and is finished by the caller; without it those of this call are judged, kept ones
    too.

    ``pipeline`` is given the recorded scheduler meanwhile, and the recorded settings alone.

    Raises FaultyImagesError for images that show nothing of a model, OutOfMemoryError where a batch
    does not fit (``nothing_kept`` says whether a smaller one would lose nothing), GenerationError
    for a model that fails and for a journal that cannot be written; InputError for a scheduler that
    cannot be made; whatever ``follower`` raises. Batches before that are kept, but for a first one
    that is refused.
    """
    own = ImageChecks(_decoding_dtype(recipe)) if checks is None else checks
    batches = _batches(prompts, recipe)
    found = [journal.find(batch) for batch in batches]
    done = sum(len(paths) for paths in found if paths is not None)
    total = sum(map(len, batches))
    progress(done, total)
    if recipe.lora_scale is not None:
        set_lora_scale(pipeline, recipe.lora_scale)
    follower = _Nobody() if follower is None else follower
    with use_sampler(pipeline, recipe.sampler), tiling(pipeline, recipe), Backlog() as backlog:
        for position, batch in enumerate(batches):
            paths = found[position]
            if paths is not None:
                backlog.put(partial(_hand_on, paths, batch, own, follower))
            else:
                if position and found[position - 1] is not None:
                    backlog.wait()  # what was kept is judged before more is generated
                first = own.is_new and done == 0
                images = _draw(pipeline, batch, recipe, first=first, none_good=own.none_good)
                if first:
                    # Before anything else is generated or kept: another dtype may be tried.
                    own.take(batch, images)
                backlog.put(
                    partial(_keep, journal, batch, images, None if first else own, follower)
                )
                done += len(batch)
                progress(done, total)
            follower.advance()
    if checks is None:
        own.finish()
    return GeneratedImages(tuple(chain.from_iterable(map(journal.paths, batches))))


def _keep(
    journal: Journal,
    batch: Sequence[Pair],
    images: Sequence[Image.Image],
    checks: ImageChecks | None,
    follower: Follower,
) -> None:
    # First, so that no image is lost where the follower fails.
    journal.keep(batch, images)
    if checks is not None:
        checks.take(batch, images)
    follower.prepare(images)


def _hand_on(
    paths: Sequence[Path], batch: Sequence[Pair], checks: ImageChecks, follower: Follower
) -> None:
    images = GeneratedImages(paths)[:]
    checks.take(batch, images)
    follower.prepare(images)


def images_kept(journal: Journal, prompts: Sequence[str], recipe: GenerationRecipe) -> int:
    """How many of the images that :func:`generate` would make lie in ``journal`` already."""
    return sum(len(batch) for batch in _batches(prompts, recipe) if journal.find(batch) is not None)


def _batches(prompts: Sequence[str], recipe: GenerationRecipe) -> list[Sequence[Pair]]:
    pairs = [(prompt, seed) for prompt in prompts for seed in recipe.seeds]
    size = recipe.batch_size
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _draw(
    pipeline: Pipeline,
    batch: Sequence[Pair],
    recipe: GenerationRecipe,
    *,
    first: bool,
    none_good: bool,
) -> list[Image.Image]:
    import torch

    takes = inspect.signature(pipeline.__call__).parameters
    if "generator" not in takes:
        raise GenerationError(
            f"a {type(pipeline).__name__} takes no generator of noise, so nobody could generate "
            "its images again",
            hint="publish a pipeline whose images a seed decides",
        )
    seeds = [noise_seed(prompt, seed) for prompt, seed in batch]
    # On the CPU, whatever computes: a GPU's generator gives other noise, on each kind its own.
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    arguments = call_arguments(pipeline, recipe, [recipe.render(prompt) for prompt, _ in batch])
    if "output_type" in takes:
        arguments["output_type"] = "np"
    try:
        with (
            torch.inference_mode(),
            stepping(getattr(pipeline, "scheduler", None), generators),
            skipping_layers(pipeline, recipe),
            _global_noise(seeds),
            watch_decoder(pipeline) as watch,
        ):
            output = pipeline(**arguments, generator=generators)
        generated = output.images
        fault = watch.fault()
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"the model failed to generate the image of {batch[0][0]!r}: {one_line(error)}",
                hint=f"memory ran out for {len(batch)} {_images(len(batch))} of {recipe.width} x "
                f"{recipe.height} pixels: give a smaller --batch-size, or --width and --height; on "
                "a GPU, --offload model",
                nothing_kept=first,
            ) from error
        raise GenerationError(
            f"the model failed to generate the image of {batch[0][0]!r}: {one_line(error)}",
            hint="give other settings, or update diffusers: pip install --upgrade diffusers",
        ) from error
    _require_unblackened(output, batch)
    images = [
        _image(pixels, prompt, recipe, none_good)
        for pixels, (prompt, _) in zip(_each(generated, len(batch)), batch, strict=True)
    ]
    if fault is not None and not all(map(is_one_colour, images)):
        raise FaultyImagesError(
            f"the image of {batch[0][0]!r}{_and_more(batch)} shows nothing: {fault}",
            hint=dtype_hint(_decoding_dtype(recipe), "the numbers are too large"),
            none_good=none_good,
        )
    return images


@contextmanager
def _global_noise(seeds: Sequence[int]) -> Iterator[None]:
    """Within the block, the noise that takes no generator is decided by ``seeds``, too.

    Some schedulers (DPM-Solver SDE) and pipelines make noise that is of no generator's: it would
    come from the state of the whole program, and be another one each time.
    """
    import torch

    digest = hashlib.sha256("\n".join(map(str, seeds)).encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def _require_unblackened(output: Any, batch: Sequence[Pair]) -> None:
    """Raise GenerationError where a safety checker of the pipeline replaced an image by black."""
    for name in ("nsfw_content_detected", "nsfw_detected"):
        flags = getattr(output, name, None)
        if not isinstance(flags, list | tuple) or not any(flags):
            continue
        hidden = [prompt for (prompt, _), flag in zip(batch, flags, strict=False) if flag]
        raise GenerationError(
            f"the pipeline's safety checker blackened the image of {hidden[0]!r}",
            hint="publish the pipeline without its safety checker, and state nsfw in the card",
        )


def _each(generated: Any, count: int) -> list[Any]:
    """The ``count`` images in what a pipeline calls its images, each an array or a PIL image."""
    images = list(generated)
    # Some give a list for each prompt, or a batch of one for each.
    images = [image[0] if _holds_one(image) else image for image in images]
    if len(images) != count:
        raise GenerationError(
            f"the model gave {len(images)} {_images(len(images))} for {count}",
            hint="publish a pipeline that generates one image for each prompt",
        )
    return images


def _holds_one(image: Any) -> bool:
    listed = isinstance(image, list | tuple) or getattr(image, "ndim", 3) == 4
    return listed and len(image) == 1


def _image(generated: Any, prompt: str, recipe: GenerationRecipe, none_good: bool) -> Image.Image:
    """An image as RGB: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] in 0..1 or bytes, or a PIL image.

    Transparency lies on white, as in the images that people search with.
    """
    if isinstance(generated, Image.Image):
        generated = np.asarray(
            generated.convert("RGBA" if generated.has_transparency_data else "RGB")
        )
    pixels = np.asarray(generated)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.dtype.kind not in "fu":
        raise GenerationError(
            f"the model gave no image for {prompt!r}, but {pixels.dtype} numbers of shape "
            f"{pixels.shape}",
            hint="publish a pipeline that generates one image for each prompt",
        )
    height, width = pixels.shape[:2]
    if (height, width) != (recipe.height, recipe.width):
        # What is recorded was used: some pipelines map a size to one of their own.
        raise GenerationError(
            f"the model generated {width} x {height} pixels where {recipe.width} x "
            f"{recipe.height} were asked for",
            hint=f"give --width {width} --height {height}",
        )
    if pixels.dtype.kind == "f":
        pixels = _bytes(pixels, prompt, recipe, none_good)
    elif pixels.dtype != np.uint8:
        raise _out_of_range(prompt, pixels)
    if pixels.shape[2] == 4:
        layer = Image.fromarray(pixels, "RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return Image.fromarray(np.broadcast_to(pixels, (height, width, 3)).copy())


def _bytes(
    pixels: NDArray[Any], prompt: str, recipe: GenerationRecipe, none_good: bool
) -> NDArray[np.uint8]:
    """Numbers in 0..1 as bytes. Raises GenerationError for others."""
    if not np.isfinite(pixels).all():  # diffusers would make a black image of it
        raise FaultyImagesError(
            f"the model gave pixels that are no numbers for {prompt!r}",
            hint=dtype_hint(_decoding_dtype(recipe), "its numbers overflow"),
            none_good=none_good,
        )
    if pixels.min() < -_ROUNDING or pixels.max() > 1 + _ROUNDING:
        # Clipped, they would be a black or a white image, or one of wrong contrast.
        raise _out_of_range(prompt, pixels)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def _out_of_range(prompt: str, pixels: NDArray[Any]) -> GenerationError:
    return GenerationError(
        f"the model gave pixels from {pixels.min():.3g} to {pixels.max():.3g} for {prompt!r}, and "
        "those of an image go from 0 to 1",
        hint="publish a pipeline whose image processor normalises its images",
    )


def _decoding_dtype(recipe: GenerationRecipe) -> str:
    return recipe.vae_dtype or recipe.dtype


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


def _and_more(batch: Sequence[Pair]) -> str:
    return "" if len(batch) == 1 else f", or of one of the {len(batch) - 1} beside it,"


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise GenerationError(
            f"{path}: a generated picture is gone or damaged: {one_line(error)}",
            hint="run the same command again",
        ) from error
