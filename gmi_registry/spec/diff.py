"""What changed between two specifications of one model, and how far its images moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gmi_registry.spec.specification import Spec

Verdict = Literal["unmoved", "other numerics", "redrawn", "moved", "too few prompts"]
"""What :attr:`Movement.verdict` says."""

_Floats = npt.NDArray[np.float64]

_ROWS_AT_ONCE = 512
_SWAPS = 999
_LEVEL = 0.05
# Drawn in bfloat16 in place of float32, images of one model and seed came to 0.011 to 0.028.
_NUMERICS = 0.03
_MOST_SEEDS = 16
# Float16 embeddings, float64 sums: what is nearer than this is the same.
_NOTHING = 1e-12


@dataclass(frozen=True)
class FieldChange:
    """One value of the manifest: ``path`` as in ``model.weights[0].sha256``.

    ``old`` or ``new`` is None where the field is absent on that side.
    """

    path: str
    old: object
    new: object


@dataclass(frozen=True)
class PromptShift:
    """How far the mean image embedding of one prompt moved: L2 distance, in embedding units.

    ``index`` counts the default prompts from 0. ``share`` is the distance divided by the length of
    the new mean.
    """

    prompt: str
    shift: float
    index: int
    share: float


@dataclass(frozen=True)
class SeedScale:
    """What other seeds do, as squared discrepancies of sets of one image a prompt.

    ``within`` is the mean over pairs of two seeds of one model, ``across`` over pairs of a seed of
    the old one with another of the new one: where the model is the same, the two are about equal.
    """

    within: float
    across: float


@dataclass(frozen=True)
class Movement:
    """How far the images of the default prompts moved, and what to hold that against.

    ``mmd2`` is the squared maximum mean discrepancy of old and new (kernel of the new
    specification, biased estimate, 0 for equal images); so are the others.

    ``unordered`` is what is left of it on average where, prompt by prompt, a coin decides which of
    the two images is called the new one. A model that is drawn again, with other seeds or in other
    numerics, moves every prompt its own way, and comes to about as much; a model that has changed
    moves them together. ``chance`` is the share of the coins (999, always the same, and the order
    as it is) that leave at least ``mmd2``: an exact test of whether old and new are one model.

    ``halves`` is between two random halves of the prompts of one model, mean of both models: what
    other content does. ``seeds`` is what other seeds do; None where a model has not two.
    ``mean_share`` is the mean ``share`` of the prompts.
    """

    mmd2: float
    unordered: float
    chance: float
    prompts: int
    halves: float | None
    seeds: SeedScale | None
    mean_share: float

    @property
    def verdict(self) -> Verdict:
        """``moved`` where ``chance`` is at most 5 %, which needs six prompts, else ``redrawn``.

        Images that moved by 3 % or less on average may owe that to other numerics, whatever the
        chance: rounding has a direction too.
        """
        if self.mmd2 <= _NOTHING and self.unordered <= _NOTHING:
            return "unmoved"
        if self.mean_share <= _NUMERICS:
            return "other numerics"
        if 2.0 ** (1 - self.prompts) > _LEVEL:
            return "too few prompts"
        return "moved" if self.chance <= _LEVEL else "redrawn"


@dataclass(frozen=True)
class SpecDiff:
    """The difference of two specifications.

    ``incomparable`` says why embeddings cannot be compared, or is None; where it is set,
    ``movement`` is None and ``prompt_shifts`` empty. ``prompt_shifts`` has the largest first.
    """

    old_digest: str
    new_digest: str
    fields: tuple[FieldChange, ...]
    incomparable: str | None
    movement: Movement | None
    prompt_shifts: tuple[PromptShift, ...]

    @property
    def identical(self) -> bool:
        """Whether the two are the same, byte for byte."""
        return self.old_digest == self.new_digest

    @property
    def mmd2(self) -> float | None:
        """That of ``movement``."""
        return None if self.movement is None else self.movement.mmd2


def diff_specs(old: Spec, new: Spec) -> SpecDiff:
    """Compare the manifests field by field, and the images of the default prompt set.

    A base model that changed under a LoRA shows in the fields ``model.base_weights[...]``. Two
    specifications that cannot be compared are no error: ``incomparable`` says why.
    """
    reason = _incomparable(old, new)
    movement: Movement | None = None
    shifts: tuple[PromptShift, ...] = ()
    if reason is None:
        x, y = _by_prompt(old), _by_prompt(new)
        shifts = _prompt_shifts(x, y, new.manifest.prompt_sets[0].prompts)
        movement = _movement(x, y, old, new, float(np.mean([shift.share for shift in shifts])))
    before = dict(_leaves(old.manifest.model_dump(mode="python"), ""))
    after = dict(_leaves(new.manifest.model_dump(mode="python"), ""))
    changes = tuple(
        FieldChange(path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if (path in before) != (path in after) or before[path] != after[path]
    )
    return SpecDiff(old.digest, new.digest, changes, reason, movement, shifts)


def distance_between(one: Spec, other: Spec) -> float | None:
    """``Movement.mmd2`` from ``one`` to ``other``; None where they cannot be compared."""
    if _incomparable(one, other) is not None:
        return None
    x, y, gamma = _by_prompt(one), _by_prompt(other), other.manifest.kernel.gamma
    signed = _mean_kernels(x, x, gamma)[0] + _mean_kernels(y, y, gamma)[0]
    return max(0.0, float((signed - 2 * _mean_kernels(x, y, gamma)[0]).mean()))


def _incomparable(old: Spec, new: Spec) -> str | None:
    if old.manifest.encoder.id != new.manifest.encoder.id:
        return (
            f"other encoders: {old.manifest.encoder.name} ({old.manifest.encoder.id}) and "
            f"{new.manifest.encoder.name} ({new.manifest.encoder.id})"
        )
    first, second = old.manifest.prompt_sets[0], new.manifest.prompt_sets[0]
    if first.id != second.id:
        return (
            f"other default prompts: {first.name} {first.version}, {second.name} {second.version}"
        )
    return None


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _leaves(item, f"{path}[{position}]")
    else:
        yield path, value


def _movement(x: _Floats, y: _Floats, old: Spec, new: Spec, mean_share: float) -> Movement:
    gamma = new.manifest.kernel.gamma
    (xx, seeds_x), (yy, seeds_y) = _mean_kernels(x, x, gamma), _mean_kernels(y, y, gamma)
    xy, seeds_xy = _mean_kernels(x, y, gamma)
    # With φ the mean feature of a prompt's images: ⟨φ(y_p) - φ(x_p), φ(y_q) - φ(x_q)⟩.
    steps = xx + yy - xy - xy.T
    prompts = len(steps)
    mmd2 = max(0.0, float(steps.mean()))
    coins = np.random.default_rng(0).choice([-1.0, 1.0], size=(_SWAPS, prompts))
    left = np.einsum("ip,ip->i", coins @ steps, coins) / prompts**2
    # A coin that leaves all as it is must not fall below by rounding alone.
    as_far = int((left >= mmd2 * (1 - 1e-9)).sum())
    return Movement(
        mmd2=mmd2,
        unordered=max(0.0, float(np.trace(steps))) / prompts**2,
        chance=(1 + as_far) / (1 + _SWAPS),
        prompts=prompts,
        halves=None if prompts < 2 else (_halves(xx) + _halves(yy)) / 2,
        seeds=_seed_scale(seeds_x, seeds_y, seeds_xy, _seeds(old), _seeds(new)),
        mean_share=mean_share,
    )


def _halves(kernel: _Floats) -> float:
    """Of all ways to cut the prompts in two halves, the mean squared discrepancy of the halves."""
    prompts = len(kernel)
    apart = (kernel.sum() - np.trace(kernel)) / (prompts * (prompts - 1))
    return max(0.0, 4 / prompts * float(np.trace(kernel) / prompts - apart))


def _seeds(spec: Spec) -> tuple[int, ...]:
    return spec.manifest.generation.recipe.seeds[:_MOST_SEEDS]


def _seed_scale(
    xx: _Floats, yy: _Floats, xy: _Floats, old: tuple[int, ...], new: tuple[int, ...]
) -> SeedScale | None:
    """From mean kernels between the images of one seed each: [S, S], [T, T] and [S, T]."""
    within = [
        float(kernel[a, a] + kernel[b, b] - 2 * kernel[a, b])
        for kernel in (xx, yy)
        for a in range(len(kernel))
        for b in range(a)
    ]
    across = [
        float(xx[a, a] + yy[b, b] - 2 * xy[a, b])
        for a, seed in enumerate(old)
        for b, other in enumerate(new)
        # One seed on both sides would share its noise, and look nearer than another drawing is.
        if seed != other
    ]
    if not within or not across:
        return None
    return SeedScale(max(0.0, float(np.mean(within))), max(0.0, float(np.mean(across))))


def _mean_kernels(x: _Floats, y: _Floats, gamma: float) -> tuple[_Floats, _Floats]:
    """Means of exp(-gamma ||x - y||²) for ``x`` [P, S, D] and ``y`` [P, T, D], in blocks of rows.

    [P, P] by prompts, over all their images; and [S, T] by seeds, over all prompts, of at most 16
    seeds.
    """
    prompts, own, width = x.shape
    theirs = y.shape[1]
    columns = y.reshape(-1, width)
    column_norms = np.einsum("ij,ij->i", columns, columns)
    by_prompt = np.empty((prompts, prompts))
    by_seed = np.zeros((min(own, _MOST_SEEDS), min(theirs, _MOST_SEEDS)))
    step = max(1, _ROWS_AT_ONCE // own)
    for start in range(0, prompts, step):
        rows = x[start : start + step].reshape(-1, width)
        squared = np.einsum("ij,ij->i", rows, rows)[:, None] + column_norms - 2 * rows @ columns.T
        kernel = np.exp(-gamma * np.maximum(squared, 0)).reshape(-1, own, prompts, theirs)
        by_prompt[start : start + step] = kernel.mean(axis=(1, 3))
        by_seed += kernel[:, :_MOST_SEEDS, :, :_MOST_SEEDS].sum(axis=(0, 2))
    return by_prompt, by_seed / prompts**2


def _prompt_shifts(x: _Floats, y: _Floats, prompts: tuple[str, ...]) -> tuple[PromptShift, ...]:
    new = y.mean(axis=1)
    moved = np.linalg.norm(new - x.mean(axis=1), axis=1)
    shares = moved / np.maximum(np.linalg.norm(new, axis=1), np.finfo(np.float64).tiny)
    shifts = [
        PromptShift(prompt, float(shift), index, float(share))
        for index, (prompt, shift, share) in enumerate(zip(prompts, moved, shares, strict=True))
    ]
    return tuple(sorted(shifts, key=lambda item: -item.shift))


def _by_prompt(spec: Spec) -> _Floats:
    """[P, S, D]: the images of each default prompt in the order of the seeds."""
    order = np.argsort(spec.image_prompt[spec.default_rows], kind="stable")
    images = spec.image_embeddings[spec.default_rows][order].astype(np.float64)
    return images.reshape(len(spec.manifest.prompt_sets[0].prompts), -1, images.shape[1])
