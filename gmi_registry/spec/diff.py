"""What changed between two specifications of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmi_registry.spec.specification import Spec

__all__ = ["FieldChange", "PromptShift", "SpecDiff", "diff_specs"]

_ROWS_AT_ONCE = 512


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
    """How far the mean image embedding of one prompt moved: L2 distance, in embedding units."""

    prompt: str
    shift: float


@dataclass(frozen=True)
class SpecDiff:
    """The difference of two specifications.

    ``incomparable`` says why embeddings cannot be compared, or is None; where it is set,
    ``mmd2`` is None and ``prompt_shifts`` empty. ``mmd2`` is the squared maximum mean discrepancy
    of the images of the default prompt set (kernel of the new specification, biased estimate, 0
    for equal images). ``prompt_shifts`` has the largest shift first.
    """

    old_digest: str
    new_digest: str
    fields: tuple[FieldChange, ...]
    incomparable: str | None
    mmd2: float | None
    prompt_shifts: tuple[PromptShift, ...]

    @property
    def identical(self) -> bool:
        """Whether the two are the same, byte for byte."""
        return self.old_digest == self.new_digest


def diff_specs(old: Spec, new: Spec) -> SpecDiff:
    """Compare the manifests field by field, and the images of the default prompt set.

    A base model that changed under a LoRA shows in the fields ``model.base_weights[...]``. Two
    specifications that cannot be compared are no error: ``incomparable`` says why.
    """
    reason = _incomparable(old, new)
    mmd2: float | None = None
    shifts: tuple[PromptShift, ...] = ()
    if reason is None:
        mmd2 = _mmd2(
            old.image_embeddings[old.default_rows],
            new.image_embeddings[new.default_rows],
            new.manifest.kernel.gamma,
        )
        shifts = _prompt_shifts(old, new)
    before = dict(_leaves(old.manifest.model_dump(mode="python"), ""))
    after = dict(_leaves(new.manifest.model_dump(mode="python"), ""))
    changes = tuple(
        FieldChange(path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if (path in before) != (path in after) or before[path] != after[path]
    )
    return SpecDiff(old.digest, new.digest, changes, reason, mmd2, shifts)


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


def _mmd2(x: npt.NDArray[np.float16], y: npt.NDArray[np.float16], gamma: float) -> float:
    within = _mean_kernel(x, x, gamma) + _mean_kernel(y, y, gamma)
    return max(0.0, within - 2 * _mean_kernel(x, y, gamma))


def _mean_kernel(x: npt.NDArray[np.float16], y: npt.NDArray[np.float16], gamma: float) -> float:
    """Mean of exp(-gamma ||x_i - y_j||²) over all pairs, in float64 and in blocks of rows."""
    columns = y.astype(np.float64)
    column_norms = np.einsum("ij,ij->i", columns, columns)
    total = 0.0
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = x[start : start + _ROWS_AT_ONCE].astype(np.float64)
        squared = np.einsum("ij,ij->i", rows, rows)[:, None] + column_norms - 2 * rows @ columns.T
        total += float(np.exp(-gamma * np.maximum(squared, 0)).sum())
    return total / (len(x) * len(y))


def _prompt_shifts(old: Spec, new: Spec) -> tuple[PromptShift, ...]:
    prompts = new.manifest.prompt_sets[0].prompts
    moved = _prompt_means(new, len(prompts)) - _prompt_means(old, len(prompts))
    shifts = [
        PromptShift(prompt, float(shift))
        for prompt, shift in zip(prompts, np.linalg.norm(moved, axis=1), strict=True)
    ]
    return tuple(sorted(shifts, key=lambda item: -item.shift))


def _prompt_means(spec: Spec, prompts: int) -> npt.NDArray[np.float64]:
    """[prompts, D]: each prompt has the same number of images, so the mean is a plain one."""
    order = np.argsort(spec.image_prompt[spec.default_rows], kind="stable")
    images = spec.image_embeddings[spec.default_rows][order].astype(np.float64)
    means: npt.NDArray[np.float64] = images.reshape(prompts, -1, images.shape[1]).mean(axis=1)
    return means
