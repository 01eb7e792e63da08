"""Images of prompts, generated in fixed batches; each batch is kept on disk while the next is
generated, so that an interrupted run goes on.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from operator import sub
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Protocol, Self, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.errors import GenerationError
from gmi_registry.generation.call_settings import call_arguments, skipping_layers
from gmi_registry.generation.image_checks import (
    FaultyImagesError,
    ImageChecks,
    dtype_hint,
    is_one_colour,
    watch_decoder,
)
from gmi_registry.generation.lora import set_lora_scale
from gmi_registry.generation.model_checks import Pipeline, error_line
from gmi_registry.generation.placement import OutOfMemoryError, is_out_of_memory, tiling
from gmi_registry.generation.schedulers import stepping, use_sampler
from gmi_registry.model import ModelFiles
from gmi_registry.spec import GenerationRecipe
from gmi_registry.spec.canonical import canonical_digest

_UNFINISHED = ".unfinished-"
_SUMS = "sha256"
"""The file of a batch with the digests of its pictures."""

Pair = tuple[str, int]
_ROUNDING = 0.5 / 255
"""How far a pixel in 0..1 may lie beside it: less than what makes another byte."""


class BatchCache:
    """A folder of finished batches, each a folder of PNG files that appeared as one.

    A batch is found again by everything that decides its bytes: the recipe with its library
    versions, the weights of the model and its base, and the batch's own prompts and seeds.
    """

    def __init__(self, folder: Path, model: ModelFiles, recipe: GenerationRecipe) -> None:
        """``folder`` may hold the batches of many runs; it is made when a batch is kept."""
        weights: list[list[list[str]]] = []
        part: ModelFiles | None = model
        while part is not None:
            weights.append([[weight.path, weight.sha256] for weight in part.weights])
            part = part.base
        self.folder = folder / canonical_digest([recipe.known(), weights])[:32]

    def find(self, batch: Sequence[tuple[str, int]]) -> tuple[Path, ...] | None:
        """The PNG files of a batch of (prompt, seed) pairs, or None unless all are there, whole."""
        paths = self.paths(batch)
        # A decoder does not notice everything: a picture with other pixels would be published.
        sums = read_sealed(paths[0].parent / _SUMS)
        try:
            whole = sums is not None and sums == _sums(paths)
        except OSError:
            return None
        return paths if whole else None

    def keep(
        self, batch: Sequence[tuple[str, int]], images: Sequence[Image.Image]
    ) -> tuple[Path, ...]:
        """Write a batch; it appears whole or not at all.

        Raises GenerationError where the disk is full or the folder cannot be written.
        """
        paths = self.paths(batch)
        scratch: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.folder))
            for path, image in zip(paths, images, strict=True):
                # Not forced to the disk: after a power cut find() sees what is not whole.
                with (scratch / path.name).open("xb") as stream:
                    image.save(stream, "PNG", compress_level=1)
            write_sealed(scratch / _SUMS, _sums([scratch / path.name for path in paths]))
            # What stands there is not whole (find would have seen it): it makes way.
            shutil.rmtree(paths[0].parent, ignore_errors=True)
            scratch.rename(paths[0].parent)
        except OSError as error:
            raise self._cannot_keep(error) from error
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
        return paths

    def pace(self) -> float | None:
        """Seconds a batch, by when those that are here were kept; None where fewer than two are.

        The median, so that a pause between two runs does not count.
        """
        try:
            kept = sorted(
                path.stat().st_mtime
                for path in self.folder.iterdir()
                if not path.name.startswith(_UNFINISHED)
            )
        except OSError:
            return None
        return median(map(sub, kept[1:], kept)) if len(kept) > 1 else None

    def discard(self) -> None:
        """Remove all batches of this run, and what a killed run left unfinished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def paths(self, batch: Sequence[tuple[str, int]]) -> tuple[Path, ...]:
        """Where the PNG files of a batch lie, once they are there."""
        # The whole batch names the folder: its make-up can change the last bits of a picture.
        folder = self.folder / canonical_digest([list(pair) for pair in batch])[:32]
        return tuple(folder / f"{position:04d}.png" for position in range(len(batch)))

    def _cannot_keep(self, error: OSError) -> GenerationError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return GenerationError(
                f"{self.folder}: the disk is full; finished batches are kept",
                hint="free some space and run the same command again; it continues from here",
            )
        return GenerationError(
            f"{self.folder} cannot be written: {error.strerror or error}",
            hint="choose a work folder that you can write to",
        )


def _sums(paths: Sequence[Path]) -> bytes:
    """The digests of files, in order, a line each."""
    found = []
    for path in paths:
        with path.open("rb") as stream:
            found.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return "".join(f"{digest}\n" for digest in found).encode()


class WorkerThread:
    """A context manager that does one piece of work at a time, in the order given.

    At most one piece is not done yet, so what waits holds the memory of one batch. Whatever ends
    the block, Ctrl-C too, what was put is finished first. An error of the work is raised by the
    next :meth:`put`, or at the end of a block that has no error of its own.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keep-images")
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def put(self, work: Callable[[], None]) -> None:
        """Wait until the piece before is done, and start this one. Raises what that one raised."""
        self.wait()
        self._last = self._thread.submit(work)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

    def wait(self) -> None:
        """Wait until all is done that was put. Raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


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
            return [open_generated(path) for path in self.paths[index]]
        return open_generated(self.paths[index])


class ImageConsumer(Protocol):
    """What makes something of the images while more of them are generated."""

    def prepare(self, images: Sequence[Image.Image]) -> None:
        """Take the next RGB images; on another thread than the generation, which goes on."""
        ...

    def advance(self) -> None:
        """Do what needs the generation to pause, such as to use its device; between two batches."""
        ...


class _NoConsumer:
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
    cache: BatchCache,
    consumer: ImageConsumer | None = None,
    checks: ImageChecks | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GeneratedImages:
    """Generate an image of each prompt for each seed, prompt by prompt; [prompts x seeds].

    Batches begin at fixed places and are kept in ``cache`` one by one, so a run that was
    interrupted (Ctrl-C, a kill, a full disk) goes on where it stopped, with the bytes that an
    uninterrupted run gives. A batch is written while the next is generated; only a kill loses it.
    ``consumer`` is handed all pictures in their order, those that were kept already too; in memory
    are those of two batches, however many there are. ``progress`` is told (pictures done, pictures
    in all) at the start and as each batch is done. ``checks`` judges the images of several calls
    together, and is finished by the caller; without it those of this call are judged, kept ones
    too.

    ``pipeline`` is given the recorded scheduler meanwhile, and the recorded settings alone.

    Raises FaultyImagesError for images that show nothing of a model, OutOfMemoryError where a batch
    does not fit (``nothing_kept`` says whether a smaller one would lose nothing), GenerationError
    for a model that fails and for a cache that cannot be written; InputError for a scheduler that
    cannot be made; whatever ``consumer`` raises. Batches before that are kept, but for a first one
    that is refused.
    """
    own = ImageChecks(_decoding_dtype(recipe)) if checks is None else checks
    batches = _batches(prompts, recipe)
    found = [cache.find(batch) for batch in batches]
    done = sum(len(paths) for paths in found if paths is not None)
    total = sum(map(len, batches))
    progress(done, total)
    if recipe.lora_scale is not None:
        set_lora_scale(pipeline, recipe.lora_scale)
    consumer = _NoConsumer() if consumer is None else consumer
    with use_sampler(pipeline, recipe.sampler), tiling(pipeline, recipe), WorkerThread() as worker:
        for position, batch in enumerate(batches):
            paths = found[position]
            if paths is not None:
                worker.put(partial(_hand_on, paths, batch, own, consumer))
            else:
                if position and found[position - 1] is not None:
                    worker.wait()  # what was kept is judged before more is generated
                first = own.is_new and done == 0
                images = _generate_batch(
                    pipeline, batch, recipe, first=first, none_good=own.none_good
                )
                if first:
                    # Before anything else is generated or kept: another dtype may be tried.
                    own.take(batch, images)
                worker.put(partial(_keep, cache, batch, images, None if first else own, consumer))
                done += len(batch)
                progress(done, total)
            consumer.advance()
    if checks is None:
        own.finish()
    return GeneratedImages(tuple(chain.from_iterable(map(cache.paths, batches))))


def _keep(
    cache: BatchCache,
    batch: Sequence[Pair],
    images: Sequence[Image.Image],
    checks: ImageChecks | None,
    consumer: ImageConsumer,
) -> None:
    # First, so that no image is lost where the consumer fails.
    cache.keep(batch, images)
    if checks is not None:
        checks.take(batch, images)
    consumer.prepare(images)


def _hand_on(
    paths: Sequence[Path], batch: Sequence[Pair], checks: ImageChecks, consumer: ImageConsumer
) -> None:
    images = GeneratedImages(paths)[:]
    checks.take(batch, images)
    consumer.prepare(images)


def images_kept(cache: BatchCache, prompts: Sequence[str], recipe: GenerationRecipe) -> int:
    """How many of the images that :func:`generate` would make lie in ``cache`` already."""
    return sum(len(batch) for batch in _batches(prompts, recipe) if cache.find(batch) is not None)


def _batches(prompts: Sequence[str], recipe: GenerationRecipe) -> list[Sequence[Pair]]:
    pairs = [(prompt, seed) for prompt in prompts for seed in recipe.seeds]
    size = recipe.batch_size
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _generate_batch(
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
            f"a {type(pipeline).__name__} takes no generator of noise, so its images cannot be "
            f"generated again",
            hint="publish a pipeline whose images depend on a seed",
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
                f"the model failed to generate the image of {batch[0][0]!r}: {error_line(error)}",
                hint=f"memory ran out for {len(batch)} {_images(len(batch))} of {recipe.width} x "
                f"{recipe.height} pixels: give a smaller --batch-size, or --width and --height; on "
                "a GPU, --offload model",
                nothing_kept=first,
            ) from error
        raise GenerationError(
            f"the model failed to generate the image of {batch[0][0]!r}: {error_line(error)}",
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
            f"the pipeline's safety checker blacked out the image of {hidden[0]!r}",
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
            f"the model gave pixels that are not numbers for {prompt!r}",
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


def open_generated(path: Path) -> Image.Image:
    """An image of this run as RGB. Raises GenerationError where it is gone or damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise GenerationError(
            f"{path}: a generated image is missing or damaged: {error_line(error)}",
            hint="run the same command again",
        ) from error
