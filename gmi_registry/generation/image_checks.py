"""Images that no working model makes: of one colour, saturated noise, the same for other prompts.

A broken autoencoder, one that overflows in float16 above all, gives such images without an error,
and a specification of them would send people to the wrong model. Two things are looked at: the
finished images (:class:`ImageChecks`), and the numbers on both sides of the autoencoder's decoder
(:func:`watch_decoder`), where an explosion shows that the clipping of pixels hides.

The limits were measured in November 2026 on the images of the zoo's 18 trained icon models (large
flat areas; 990 images) and of tiny models with random weights. All stand far apart from both:

=================================  ==================  ===========  =======================
measured                           trained icons       random       limit
=================================  ==================  ===========  =======================
contrast (standard deviation of
a channel, of 255)                 15 at least         18 at least  4
values of the decoder beyond 2     none                under 1 %    half (damaged: 88 to 97 %)
scaled latents (root mean square)  1                   15 at most   100
=================================  ==================  ===========  =======================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.errors import GenerationError

Pair = tuple[str, int]

_FLAT = 4.0
"""Standard deviation, of 255, under which no channel of an image of one colour comes."""

_FAINT = 1.0
"""Mean difference, of 255, up to which two images are the same to the eye."""

_CLIPPED, _ROUGH = 0.9, 64.0
"""Of saturated noise: the share of values at 0 or 255, and their mean step to the next pixel."""

_FAR, _MOST_FAR = 2.0, 0.5
"""A decoder's values lie in -1..1; over half of them beyond 2 are none of an image."""

_LARGEST_LATENTS = 100.0

_SAMPLED = 128
"""Rows and columns that are looked at first."""

_FEW = 3
_LATE_SHARE = 0.1
_NAMED = 3


class FaultyImagesError(GenerationError):
    """The model ran and its images show nothing.

    ``none_good``: no image before was better, so another dtype may be tried.
    """

    def __init__(self, message: str, *, hint: str, none_good: bool) -> None:
        super().__init__(message, hint=hint)
        self.none_good = none_good


class ImageChecks:
    """Judges the images of one model, batch by batch, in the order of their prompts.

    One image of one colour is no fault ('a black square'); a share of them is. Refused are: from
    three prompts on more than half of them with a faulty image so far, or all of two; at the end
    three or more that are over a tenth; at once, whatever the share, two images with the same
    pixels for different prompts, or for different seeds of a prompt, that are not of one colour.

    ``dtype`` is the one that the pipeline computes in, for the hint. What is kept between two
    batches is one image and a digest of each. ``none_good`` says whether every prompt so far has a
    faulty image; it may be read while another thread is in :meth:`take`.
    """

    def __init__(self, dtype: str) -> None:
        self.none_good = True
        self._dtype = dtype
        self._prompts: set[str] = set()
        self._flat: dict[str, str] = {}
        self._noise: dict[str, None] = {}
        self._faint: dict[str, None] = {}
        self._digests: dict[bytes, Pair] = {}
        self._before: tuple[str, NDArray[np.uint8]] | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing was judged yet."""
        return not self._prompts

    def take(self, batch: Sequence[Pair], images: Sequence[Image.Image]) -> None:
        """Judge the next RGB images and all before them. Raises FaultyImagesError."""
        for pair, image in zip(batch, images, strict=True):
            self._look(pair, np.asarray(image))
        good = self._prompts - self._flat.keys() - self._noise.keys() - self._faint.keys()
        self.none_good = not good
        for faulty, what in self._kinds():
            count = len(faulty)
            early = count >= _FEW and 2 * count > len(self._prompts)
            if early or 2 <= count == len(self._prompts):
                raise self._refused(faulty, what)

    def finish(self) -> list[str]:
        """Judge what all images are together; lines for people about what was let pass.

        Raises FaultyImagesError.
        """
        notes = []
        for faulty, what in self._kinds():
            if len(faulty) >= _FEW and len(faulty) > _LATE_SHARE * len(self._prompts):
                raise self._refused(faulty, what)
            if faulty:
                notes.append(f"{self._counted(faulty)} {what}: {_named(faulty)}")
        return notes

    def _kinds(self) -> list[tuple[Sequence[str], str]]:
        colours = sorted(set(self._flat.values()))
        named = f" ({colours[0]})" if len(colours) == 1 else ""
        return [
            (tuple(self._flat), f"shown as one colour{named}"),
            (tuple(self._noise), "shown as saturated noise"),
            (tuple(self._faint), "shown as the same image as the prompt before"),
        ]

    def _look(self, pair: Pair, pixels: NDArray[np.uint8]) -> None:
        prompt, seed = pair
        self._prompts.add(prompt)
        few = _sample(pixels)
        if _is_flat(few) and _is_flat(pixels):
            self._flat.setdefault(prompt, _colour(pixels))
            self._before = None
            return
        if _is_noise(few, pixels):
            self._noise[prompt] = None
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        other, other_seed = self._digests.setdefault(digest, pair)
        if other != prompt:
            raise FaultyImagesError(
                f"the model generated the same image for {_short(other)} and {_short(prompt)}, "
                "to the last pixel",
                hint=self._hint("its prompts and its noise have no effect"),
                none_good=len(self._digests) == 1,
            )
        if other_seed != seed:
            raise FaultyImagesError(
                f"the model generated the same image of {_short(prompt)} for the seeds "
                f"{other_seed} and {seed}, to the last pixel",
                hint=self._hint("its noise has no effect"),
                none_good=len(self._digests) == 1,
            )
        if self._before is not None and self._before[0] != prompt:
            before = self._before[1]
            if before.shape == few.shape and np.abs(few - before.astype(float)).mean() <= _FAINT:
                self._faint[prompt] = None
        self._before = prompt, few

    def _refused(self, faulty: Sequence[str], what: str) -> FaultyImagesError:
        return FaultyImagesError(
            f"the model's images show nothing: {self._counted(faulty)} {what}: {_named(faulty)}",
            hint=self._hint("its autoencoder (VAE) gives no image"),
            none_good=self.none_good,
        )

    def _counted(self, faulty: Sequence[str]) -> str:
        verb = "is" if len(faulty) == 1 else "are"
        of = len(self._prompts)
        return f"{len(faulty)} of {of} {'prompt' if of == 1 else 'prompts'} {verb}"

    def _hint(self, what: str) -> str:
        return dtype_hint(self._dtype, what)


def dtype_hint(dtype: str, what: str) -> str:
    """The next thing to do where ``what`` is the matter with images computed in ``dtype``."""
    if dtype == "float32":
        return f"{what}: a weight file is damaged, or belongs to another model; download it again"
    others = "give --dtype float32" if dtype == "bfloat16" else "give --dtype float32 or bfloat16"
    return f"{what}: the numbers may overflow in {dtype} ({others}), or a file is damaged"


class DecoderWatch:
    """What passed through a decoder: the worst row of each call, on its device until it is read."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._latents: list[Any] = []
        self._far: list[Any] = []

    def __call__(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        import torch

        latents = arguments[0] if arguments else None
        decoded = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        if isinstance(latents, torch.Tensor) and latents.numel():
            rows = latents.float().flatten(1).square().mean(dim=1)
            self._latents.append(rows.amax().sqrt() * self._scale)
        if isinstance(decoded, torch.Tensor) and decoded.numel():
            # Negated, so that what is no number counts as far.
            self._far.append((~(decoded.abs() <= _FAR)).float().flatten(1).mean(dim=1).amax())

    def fault(self) -> str | None:
        """What is wrong with the numbers that passed, or None."""
        latents = [float(value) for value in self._latents]
        if latents and not max(latents) <= _LARGEST_LATENTS:  # also where it is no number
            return (
                f"the denoising exploded: its latents are {max(latents):,.0f} in size, where about "
                "1 is usual"
            )
        far = [float(value) for value in self._far]
        if far and max(far) > _MOST_FAR:
            return (
                f"its decoder exploded: {max(far):.0%} of its values lie far outside the range of "
                "an image"
            )
        return None


@contextmanager
def watch_decoder(pipeline: Any) -> Iterator[DecoderWatch]:
    """Within the block, watch what the decoder of ``pipeline``'s autoencoder takes and gives.

    Nothing is watched in a pipeline without one.
    """
    coder = next(filter(None, (getattr(pipeline, name, None) for name in ("vae", "movq"))), None)
    decoder: Any = getattr(coder, "decoder", None)
    scale = getattr(getattr(coder, "config", None), "scaling_factor", None)
    watch = DecoderWatch(scale if isinstance(scale, float | int) and scale > 0 else 1.0)
    if not hasattr(decoder, "register_forward_hook"):
        yield watch
        return
    hook = decoder.register_forward_hook(watch)
    try:
        yield watch
    finally:
        hook.remove()


def is_one_colour(image: Image.Image) -> bool:
    """Whether an RGB image is of one colour, or so faint that nobody sees what is on it."""
    pixels = np.asarray(image)
    return _is_flat(_sample(pixels)) and _is_flat(pixels)


def _sample(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (max(1, -(-side // _SAMPLED)) for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    return bool(pixels.reshape(-1, 3).std(axis=0, dtype=np.float32).max() < _FLAT)


def _is_noise(few: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> bool:
    """Whether single pixels are at the ends of the range, each channel by itself.

    Black-and-white art, dithered too, has its three channels alike.
    """
    if ((few == 0) | (few == 255)).mean() < _CLIPPED:
        return False
    values = pixels.astype(np.int16)
    rough = min(np.abs(np.diff(values, axis=axis)).mean() if values.shape[axis] > 1 else 0.0
                for axis in (0, 1))  # fmt: skip
    return bool(rough > _ROUGH and np.abs(np.diff(values, axis=2)).mean() > _ROUGH)


def _colour(pixels: NDArray[np.uint8]) -> str:
    red, green, blue = (round(float(value)) for value in pixels.reshape(-1, 3).mean(axis=0))
    if max(red, green, blue) - min(red, green, blue) <= _FLAT:
        return "black" if red < 8 else "white" if red > 247 else "grey"
    return f"#{red:02x}{green:02x}{blue:02x}"


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:59]}…")


def _named(prompts: Sequence[str]) -> str:
    named = ", ".join(map(_short, prompts[:_NAMED]))
    more = len(prompts) - _NAMED
    return named if more <= 0 else f"{named} and {more} more"
