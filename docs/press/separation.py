"""Pictures of pairs of models: how a distance tells them apart, and what whitening does to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from docs.press.drawing import Drawing
from docs.press.sample import Numbers, Sample
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.default import SHRINKAGE

__all__ = ["pair_picture", "whitening_picture"]


def pair_picture(sample: Sample) -> Drawing:
    """Distances of held-out images to their own model and to another, for three pairs of models."""
    pairs = _pairs(sample)
    drawing = Drawing(
        760,
        630,
        "Distances to two models",
        "For three pairs of models and two scores: every image of either model, its distance to "
        "the one across and to the other upwards; an image on its own model's side of the diagonal "
        "is told right.",
    )
    drawing.text(24, 32, "Which of two models drew this? Each dot is an image.", size=16, bold=True)
    drawing.text(
        24,
        52,
        "Its own prompt is taken out of both models first. Blue: drawn by the first of the two; "
        "orange: by the second.",
        size=11,
        colour="dim",
    )
    for column, (label, a, b) in enumerate(pairs):
        for row, (score, found) in enumerate(sample.distances.items()):
            left, top = 50 + 240 * column, 122 + 262 * row
            if row == 0:
                drawing.text(left, 88, f"{sample.names[a]} or {sample.names[b]}", bold=True)
                drawing.text(left, 104, label, colour="dim", size=11)
            _scatter(drawing, found, a, b, sample.names, left, top, score)
    return drawing


def _pairs(sample: Sample) -> list[tuple[str, int, int]]:
    """The pair that is told apart least, one of the harder ones, and one in the middle."""
    models = len(sample.names)
    both = [(a, b) for a in range(models) for b in range(a + 1, models)]
    right = [sum(_right(found, a, b) for found in sample.distances.values()) for a, b in both]
    order = sorted(range(len(both)), key=lambda place: (right[place], both[place]))
    labels = [
        ("hardest of all pairs", 0),
        ("harder than nine in ten", len(both) // 10),
        ("in the middle of all pairs", len(both) // 2),
    ]
    return [(label, *both[order[place]]) for label, place in labels]


def _right(found: Numbers, a: int, b: int) -> int:
    return int((found[a, :, a] < found[a, :, b]).sum() + (found[b, :, b] < found[b, :, a]).sum())


def _scatter(
    drawing: Drawing,
    found: Numbers,
    a: int,
    b: int,
    names: Sequence[str],
    left: float,
    top: float,
    score: str,
) -> None:
    side = 190.0
    points = {"one": found[a][:, [a, b]], "two": found[b][:, [a, b]]}
    everything = np.concatenate(list(points.values()))
    low, high = float(everything.min()), float(everything.max())
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    drawing.frame(left, top, side, side)
    drawing.stroke([(left, top + side), (left + side, top)], "dim", "4 4")
    for colour, values in points.items():
        for x, y in (values - low) / (high - low) * side:
            drawing.dot(left + float(x), top + side - float(y), colour, opacity=0.7)
    right, count = _right(found, a, b), 2 * found.shape[1]
    drawing.text(left, top + side + 16, f"distance to {names[a]} →", size=11, colour="one")
    drawing.text(
        left - 8, top + side, f"distance to {names[b]} →", size=11, colour="two", turned=True
    )
    drawing.text(left, top + side + 34, f"{score}: {right} of {count} told right", size=12)


def whitening_picture(sample: Sample) -> Drawing:
    """The images of two models, seen along what tells these apart, before and after whitening."""
    _, a, b = _pairs(sample)[1]
    factor = WithinScatter.of(sample.images).whitening(SHRINKAGE)
    first, second = sample.names[a], sample.names[b]
    drawing = Drawing(
        760,
        350,
        "Whitening",
        f"The images of {first} and of {second} as two clouds of dots, before whitening and after.",
    )
    drawing.text(24, 32, f"The images of {first} (blue) and {second} (orange)", size=16, bold=True)
    views = {
        "Embeddings as they are": sample.images,
        "Whitened by the scatter within models": sample.images @ factor,
    }
    for column, (label, images) in enumerate(views.items()):
        _clouds(drawing, images[[a, b]], 24 + 372 * column, 60, label)
    return drawing


def _clouds(drawing: Drawing, images: Numbers, left: float, top: float, label: str) -> None:
    means = images.mean(axis=1)
    gap = means[0] - means[1]
    across = gap / np.linalg.norm(gap)
    within = (images - means[:, None]).reshape(-1, images.shape[-1])
    rest = within - np.outer(within @ across, across)
    up = np.linalg.svd(rest, full_matrices=False)[2][0]
    # The sign of a singular vector is the library's whim.
    up = up * np.sign(up[np.abs(up).argmax()])
    plane = np.stack(
        [(images - means.mean(axis=0)) @ across, (images - means.mean(axis=0)) @ up], -1
    )
    width, height = 340.0, 230.0
    drawing.text(left, top, label, bold=True)
    drawing.frame(left, top + 10, width, height)
    half = np.array([width, height]) / 2
    scale = float((half / np.abs(plane).max(axis=(0, 1))).min()) * 0.95
    for cloud, colour in zip(plane, ("one", "two"), strict=True):
        for x, y in cloud * scale:
            drawing.dot(
                left + half[0] + float(x), top + 10 + half[1] - float(y), colour, opacity=0.7
            )
    ratio = float((gap @ gap) / (within**2).sum(axis=1).mean())
    drawing.text(left, top + 260, f"Between the means ÷ within a model, both squared: {ratio:.2f}")
