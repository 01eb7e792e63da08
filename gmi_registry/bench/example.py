"""The paper's Example 2.1: two functions that draw the same points in another order.

Of a prompt p in [-1, 1), f1 makes the point (cos πp, sin πp) and f2 (sin πp, cos πp). Over evenly
spaced prompts both draw the same set, so that Eq. 2 cannot tell them apart; asked with a prompt in
(0, 0.5), they answer differently. The embedding of a point is the point, and that of a prompt p,
which the paper leaves open, (cos πp, sin πp): near prompts are alike, and 1 is next to -1.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from gmi_registry.bench.cache import put
from gmi_registry.bench.file import Benchmark
from gmi_registry.bench.studio import Order
from gmi_registry.errors import InputError
from gmi_registry.spec.canonical import canonical_digest

__all__ = ["CircleStudio", "CircleTowers"]

_FUNCTIONS: dict[str, Callable[[float], tuple[float, float]]] = {
    "f1": lambda p: (math.cos(math.pi * p), math.sin(math.pi * p)),
    "f2": lambda p: (math.sin(math.pi * p), math.cos(math.pi * p)),
}
_SIDE, _RADIUS, _DOT = 96, 38, 4
_KEY = "point"


class CircleStudio:
    """A :class:`~gmi_registry.bench.studio.Studio` of the functions ``f1`` and ``f2``.

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

    def draw(self, orders: Sequence[Order], progress: Callable[[int], None]) -> list[list[Path]]:
        """A small picture of each point, for people; the point itself stands in its PNG text."""
        drawn = []
        for order in orders:
            function = _FUNCTIONS[self.models[order.model]]
            paths = []
            for prompt, _ in order.pairs:
                data = _picture(*function(number(prompt)))
                path = self._work / "points" / f"{canonical_digest(data.hex())[:32]}.png"
                put(path, data)
                paths.append(path)
            drawn.append(paths)
        progress(sum(map(len, orders)))
        return drawn

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


def _picture(x: float, y: float) -> bytes:
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
