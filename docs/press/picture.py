"""Pictures of one model: what its specification holds, and which of its prompts a query weighs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from docs.press.drawing import Drawing
from docs.press.sample import Numbers, Sample
from gmi_registry.scoring import PAPER_GAMMA
from gmi_registry.scoring.query import clamped
from gmi_registry.scoring.scores import prompt_contributions
from gmi_registry.spec import Spec

__all__ = ["specification_picture", "weight_picture"]

_MODEL = "watercolour"
_PROMPT = 0
_COLUMNS = 64
_SIDE = 3.6
_LEVELS = (0.25, 0.75, 1.25, 1.75, 2.25)


def specification_picture(sample: Sample) -> Drawing:
    """One specification: its arrays as they are, its fields, and its size beside the model's."""
    spec = sample.specs[sample.names.index(_MODEL)]
    manifest = spec.manifest
    images = len(spec.image_embeddings)
    drawing = Drawing(
        760,
        470,
        "What a specification holds",
        f"The three arrays of the specification of {manifest.model.ref} as coloured cells, its "
        "manifest's main fields, and its size beside that of the weights.",
    )
    drawing.text(
        24, 32, f"The specification of {manifest.model.ref.without_revision}", size=16, bold=True
    )
    drawing.text(24, 56, f"gmi/spec.tensors, {manifest.tensors.size:,} bytes", bold=True)
    top, left = 98.0, 24.0
    for name, array in (
        ("image_embeddings", spec.image_embeddings),
        ("prompt_embeddings", spec.prompt_embeddings),
    ):
        rows, columns = array.shape
        drawing.text(left, 74, f"{name} {rows} × {columns}", size=12)
        drawing.text(
            left, 89, f"float16, the first {_COLUMNS} columns shown", size=11, colour="dim"
        )
        _heat(drawing, array.astype(np.float64)[:, :_COLUMNS], left, top)
        left += _COLUMNS * _SIDE + 30
    drawing.text(left, 74, f"image_prompt {images}", size=12)
    drawing.text(left, 89, "int32: the prompt of each image", size=11, colour="dim")
    for row in range(0, images, 6):
        y = top + row * _SIDE + 9
        prompt = int(spec.image_prompt[row])
        drawing.text(left, y, str(prompt), size=11, colour="dim")
        drawing.text(left + 22, y, sample.texts[prompt], size=11)
    bottom = top + images * _SIDE + 34
    size = len(manifest.to_bytes())
    drawing.text(24, bottom, f"gmi/spec.json, {size:,} bytes", bold=True)
    _facts(drawing, spec, bottom + 20)
    _sizes(drawing, spec, size, bottom)
    return drawing


def _heat(drawing: Drawing, array: Numbers, left: float, top: float) -> None:
    scaled = array / array.std()
    for sign, colour in ((1, "one"), (-1, "two")):
        level = np.digitize(scaled * sign, _LEVELS)
        for number in range(1, len(_LEVELS) + 1):
            squares = [(int(x), int(y)) for y, x in np.argwhere(level == number)]
            drawing.cells(squares, (left, top), _SIDE, colour, number / len(_LEVELS))
    rows, columns = array.shape
    drawing.frame(left - 1, top - 1, columns * _SIDE + 2, rows * _SIDE + 2)


def _facts(drawing: Drawing, spec: Spec, top: float) -> None:
    """Fields of the manifest, shortened to a line each."""
    manifest = spec.manifest
    model, recipe, block = manifest.model, manifest.generation.recipe, manifest.prompt_sets[0]
    encoder = manifest.encoder
    facts = {
        "model": f"{model.kind} on {model.base_model}, {model.licence}",
        "weights": f"{model.weights[0].path}, sha256 {model.weights[0].sha256[:12]}…",
        "base_weights": f"{len(model.base_weights or ())} files, each with its sha256",
        "encoder": f"{encoder.name}/{encoder.pretrained}, id {encoder.id}",
        "prompt_sets": f"{block.name}: {len(block.prompts)} prompts, id {block.id[:12]}…",
        "recipe": f"{recipe.sampler.name}, {recipe.steps} steps, {recipe.width} × {recipe.height}",
        "kernel": f"{manifest.kernel.name}, γ = {manifest.kernel.gamma:g}",
        "tensors": f"sha256 {manifest.tensors.sha256[:12]}…",
    }
    for row, (label, value) in enumerate(facts.items()):
        drawing.text(24, top + 15 * row, label, size=11, colour="dim")
        drawing.text(112, top + 15 * row, value, size=11)


def _sizes(drawing: Drawing, spec: Spec, manifest_size: int, top: float) -> None:
    manifest = spec.manifest
    own = sum(weight.size for weight in manifest.model.weights)
    base = sum(weight.size for weight in manifest.model.base_weights or ())
    drawing.text(470, top, "Size, to scale", bold=True)
    for row, (label, size) in enumerate(
        [
            ("specification", manifest.tensors.size + manifest_size),
            ("the LoRA", own),
            ("its base", base),
        ]
    ):
        y = top + 20 + 34 * row
        drawing.text(470, y, f"{label}, {size:,} bytes", size=11)
        drawing.rectangle(470, y + 5, max(1.0, 266 * size / base), 10, "one" if row == 0 else "dim")


def weight_picture(sample: Sample) -> Drawing:
    """What each prompt counts for one query, and what it adds to the term that finds the model."""
    model = sample.names.index(_MODEL)
    others, weights = sample.weights(_PROMPT)
    query = sample.images[model, _PROMPT][None]
    contributions = prompt_contributions(
        sample.images[model, others],
        weights[None],
        query,
        np.arange(len(others)),
        len(others),
        PAPER_GAMMA,
    )
    added: Numbers = contributions.astype(np.float64)
    order = np.argsort(-weights, kind="stable")
    top_ten = float(np.sort(clamped(weights))[::-1][:10].sum())
    added_ten = float(np.sort(added / added.sum())[::-1][:10].sum())
    equal = 10 / len(others)
    text = sample.texts[_PROMPT]
    drawing = Drawing(
        760,
        500,
        "Weights of prompts",
        f"For the pseudo-prompt {text}: the weight of every other prompt, sorted, and what each "
        f"adds to the cross term of Eq. 9 for the model {_MODEL}.",
    )
    drawing.text(24, 32, f"The query shows “{text}”, drawn by {_MODEL}", size=16, bold=True)
    drawing.text(
        24, 58, "Weight of each other prompt: cosine of its text and the query's", bold=True
    )
    drawing.text(
        24,
        75,
        f"The ten highest hold {top_ten:.0%} of what is positive; were all equal, {equal:.0%}.",
        colour="dim",
    )
    _bars(drawing, weights[order], [sample.texts[i] for i in others[order]], 90, 120)
    drawing.text(24, 350, "What each adds to the cross term: weight × kernel / N", bold=True)
    drawing.text(
        24,
        367,
        f"The ten highest hold {added_ten:.0%}: the kernel looks at the pictures, too.",
        colour="dim",
    )
    _bars(drawing, added[order], [], 380, 95)
    return drawing


def _bars(
    drawing: Drawing, values: Numbers, labels: Sequence[str], top: float, height: float
) -> None:
    """Vertical bars from a common zero, which lies where the smallest value asks for it."""
    step = 712 / len(values)
    low, high = min(0.0, float(values.min())), float(values.max())
    scale = height / (high - low)
    zero = top + high * scale
    for row, value in enumerate(values):
        x = 24 + row * step
        upper = min(zero, zero - float(value) * scale)
        drawing.rectangle(
            x, upper, step - 2, abs(float(value)) * scale, "one" if value >= 0 else "two"
        )
    drawing.stroke([(24, zero), (736, zero)], "dim")
    drawing.text(738, zero - 3, "0", size=10, colour="dim")
    drawing.text(736, top + 8, f"{high:.2g}", size=10, colour="dim", anchor="end")
    for row, label in enumerate(labels):
        drawing.text(
            24 + row * step + step - 4,
            top + height + 6,
            label,
            size=9,
            colour="dim",
            anchor="end",
            turned=True,
        )
