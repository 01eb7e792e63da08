"""The first few of a ranking by Eq. 9, certain and not approximate, without the distances of all.

A lower bound of each model's distance comes from a small summary of each of its images. What an
image shows is mostly what every model shows for its prompt, and how its model shows anything; what
is left of it, e, is short and lies in few directions:

    z_i = c + content_i + style_m + e,    e = P code + rest,   P [D, r] orthonormal.

With q = z - c the product of an image with a query is then known but for ``rest``·q, which is at
most ‖rest‖ times the length of what P leaves of q. That bounds ‖z_i - z‖², so the kernel, so the
distance of the model, at a small part of the bytes.

All rests at once say more than each alone, since they point every way. With t_i = 2γ rest_i·q and
b_i the weighted kernel without it, Σ b_i exp(t_i) is at most Σ b_i + u‖b‖ + φ(δ) u² max b, where
u² = 4γ²‖q‖² times the largest eigenvalue of the rests' own products, δ = max |t_i| and
φ(δ) = (exp δ - 1 - δ)/δ²: exp t is at most 1 + t + φ(δ) t², and at least 1 + t. The lesser of the
two bounds holds.

Of a Gram matrix the sums of its rows and its least eigenvalue λ are kept. With w = a 1 + v, a the
mean of w, wᵀG w = a² 1ᵀG 1 + 2a vᵀG 1 + vᵀG v, and the last is at least λ‖v‖².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.default import mean_images
from gmi_registry.scoring.kernels import Floats, products, row_norms, swept, widened
from gmi_registry.scoring.paper import Equation, Invariants, paper_distances

DIRECTIONS = 64
_SINGLE = np.dtype(np.float32)
_BLOCK_MODELS = 64
# Rests are products of single precision, and their eigenvalues have to be large enough.
_EIGEN = 1.001
_SAMPLE_MODELS = 256
# What rounding can add to a squared distance, here and in the full pass, in units of the last
# place of the squared norms; the sums of a thousand products stay far below.
_ROUNDING = 64 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class LowerBounds:
    """Of M models, all float32: ``centre`` [D], ``contents`` [N, D], ``styles`` [M, D], ``basis``
    [D, r], ``codes`` [M, N, r], ``rests`` [M, N] = ‖rest‖, ``lengths`` [M, N] = ‖z_i - c‖², and
    ``largest`` [M], the largest ‖z_i‖² of each model, which says how exact all these are;
    ``rest_peaks`` [M], the largest eigenvalue of each model's rests times each other;
    ``gram_rows`` [M, N] = G 1 and ``gram_floors`` [M] = λ."""

    centre: Floats
    contents: Floats
    styles: Floats
    basis: Floats
    codes: Floats
    rests: Floats
    lengths: Floats
    largest: Floats
    rest_peaks: Floats
    gram_rows: Floats
    gram_floors: Floats

    @classmethod
    def of(
        cls, image_embeddings: Floats, grams: Floats, *, directions: int = DIRECTIONS
    ) -> LowerBounds:
        """Of ``image_embeddings`` [M, N, D] and their ``grams`` [M, N, N], at least one model; r is
        at most ``directions``.

        Some seconds for ten thousand models. Meant for float16 and float32; float64 is rounded.
        """
        models, rows, width = image_embeddings.shape
        total = np.zeros((rows, width))
        for start in range(0, models, _BLOCK_MODELS):
            block = widened(image_embeddings[start : start + _BLOCK_MODELS], _SINGLE)
            total += block.sum(axis=0, dtype=np.float64)
        contents = total / models
        centre = contents.mean(axis=0)
        styles = mean_images(image_embeddings) - centre
        drawn = contents.astype(_SINGLE)
        made = styles.astype(_SINGLE)
        basis = _leading(image_embeddings, drawn, made, min(directions, width))
        codes = np.empty((models, rows, basis.shape[1]), _SINGLE)
        rests, lengths = np.empty((models, rows), _SINGLE), np.empty((models, rows), _SINGLE)
        largest, gram_floors = np.empty(models, _SINGLE), np.empty(models, _SINGLE)
        gram_rows, rest_peaks = np.empty((models, rows), _SINGLE), np.empty(models, _SINGLE)
        middle = centre.astype(_SINGLE)
        for start in range(0, models, _BLOCK_MODELS):
            part = slice(start, start + _BLOCK_MODELS)
            block = widened(image_embeddings[part], _SINGLE)
            largest[part] = _norms(block).max(axis=1)
            lengths[part] = _norms(block - middle)
            left = block - drawn
            left -= made[part, None]
            codes[part] = left @ basis
            # Taken off and measured, not worked out from lengths: those would cancel.
            left -= codes[part] @ basis.T
            rests[part] = np.sqrt(_norms(left))
            among = np.matmul(left, left.transpose(0, 2, 1)).astype(np.float64)
            rest_peaks[part] = np.linalg.eigvalsh(among)[:, -1] * _EIGEN
            pairs = grams[part].astype(np.float64)
            pairs += pairs.transpose(0, 2, 1)
            pairs /= 2
            gram_rows[part] = pairs.sum(axis=2)
            gram_floors[part] = np.linalg.eigvalsh(pairs)[:, 0]
        shown = (contents - centre).astype(_SINGLE)
        return cls(
            centre=middle,
            contents=shown,
            styles=made,
            basis=basis,
            codes=codes,
            rests=rests,
            lengths=lengths,
            largest=largest,
            rest_peaks=rest_peaks,
            gram_rows=gram_rows,
            gram_floors=gram_floors,
        )

    def of_query(self, equation: Equation) -> NDArray[np.float64]:
        """What the mean of Eq. 9 over the query images cannot be below, of each model: [M].

        -inf where nothing can be said.
        """
        least = np.zeros(len(self.styles))
        with np.errstate(over="ignore", invalid="ignore"):
            for query, weights in zip(equation.queries, equation.coefficients, strict=True):
                coefficients = weights.astype(_SINGLE)
                size = (1 + float(np.abs(coefficients).sum())) ** 2
                spread = self._spread(coefficients.astype(np.float64))
                reach = self._reach(query, coefficients, equation.gamma)
                least += spread - 2 * reach + 1 - _ROUNDING * size
        least /= len(equation.queries)
        least[np.isnan(least)] = -np.inf
        return least

    def _spread(self, coefficients: NDArray[np.float64]) -> Floats:
        """What wᵀG_m w/N² cannot be below: [M]."""
        mean = coefficients.mean()
        apart = coefficients - mean
        slope = (mean * mean + 2 * mean * apart).astype(_SINGLE)
        return products(self.gram_rows, slope) + self.gram_floors * _SINGLE.type(apart @ apart)

    def _reach(self, raw: Floats, coefficients: Floats, gamma: float) -> Floats:
        """The most that Σ_i coefficient_i k(z_i, z) can be, for z = ``raw`` [D]: [M]."""
        models, rows, directions = self.codes.shape
        raw = raw.astype(np.float64)
        query = raw - self.centre
        known = query @ self.basis
        unknown = np.linalg.norm(query - self.basis @ known)
        # A weight below zero makes a model nearer the smaller its kernel is.
        sign = np.where(coefficients < 0, -1, 1).astype(_SINGLE)
        doubt = (2 * gamma * unknown * sign).astype(_SINGLE)
        slack = (gamma * _ROUNDING * (self.largest + raw @ raw)).astype(_SINGLE)
        fixed = gamma * (2 * (self.contents.astype(np.float64) @ query) - query @ query)
        fixed = fixed.astype(_SINGLE)
        along = (2 * gamma * known).astype(_SINGLE)
        styled = products(self.styles, (2 * gamma * query).astype(_SINGLE))
        strengths = (2 * gamma * unknown * np.sqrt(self.rest_peaks)).astype(_SINGLE)
        most = 2 * gamma * unknown * self.rests.max(axis=1).astype(np.float64)
        curve = _curve(most).astype(_SINGLE)
        narrow_gamma = _SINGLE.type(gamma)
        out = np.empty(models, _SINGLE)

        def work(part: slice) -> None:
            flat = self.codes[part].reshape(-1, directions)
            exponent = products(flat, along).reshape(-1, rows)
            exponent -= self.lengths[part] * narrow_gamma
            exponent += fixed
            exponent += styled[part, None]
            exponent += slack[part, None] * sign
            known_part = np.exp(exponent)
            known_part *= coefficients
            strength = strengths[part]
            together = known_part.sum(axis=1)
            together += strength * np.sqrt(row_norms(known_part))
            together += curve[part] * strength * strength * np.maximum(known_part.max(axis=1), 0)
            together[np.isnan(together)] = np.inf
            exponent += self.rests[part] * doubt
            np.minimum(exponent, 0, out=exponent)
            alone = products(np.exp(exponent, out=exponent), coefficients)
            out[part] = np.minimum(alone, together)

        swept(work, models, rows, streamed=False, spread=False)
        return out


def _curve(most: NDArray[np.float64]) -> NDArray[np.float64]:
    """φ of the module, which rises from 1/2."""
    safe = np.maximum(most, 1e-2)
    return np.asarray((np.expm1(safe) - safe) / np.square(safe))


def _leading(images: Floats, contents: Floats, styles: Floats, directions: int) -> Floats:
    """The directions in which what is left of images is longest: [D, r]."""
    models, _, width = images.shape
    total = np.zeros((width, width))
    kept = np.linspace(0, models - 1, min(models, _SAMPLE_MODELS)).round().astype(np.intp)
    for start in range(0, len(kept), _BLOCK_MODELS):
        rows = kept[start : start + _BLOCK_MODELS]
        left = widened(images[rows], _SINGLE) - contents - styles[rows, None]
        flat = left.reshape(-1, width)
        total += flat.T @ flat
    vectors = np.linalg.eigh(total)[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :directions].astype(_SINGLE))


def _norms(block: Floats) -> Floats:
    models, rows, width = block.shape
    return row_norms(block.reshape(models * rows, width)).reshape(models, rows)


_FIRST = 32
# Beyond this share of the models, reading all in order is faster than picking.
_MOST = 3


@dataclass(frozen=True, eq=False)
class Nearest:
    """``rows`` [k] of the nearest models and their ``distances`` [k], nearest first, equal ones in
    the order of their rows; ``rescored``: for how many the distance had to be worked out."""

    rows: NDArray[np.intp]
    distances: Floats
    rescored: int


def nearest_models(
    image_embeddings: Floats,
    weights: Floats,
    query_images: Floats,
    gamma: float,
    *,
    model_grams: Floats,
    lower_bounds: LowerBounds,
    count: int,
    invariants: Invariants | None = None,
) -> Nearest:
    """The ``count`` models nearest by Eq. 9, k = min(count, M) of them.

    Arguments as for :func:`~gmi_registry.scoring.paper.paper_distances`, ``lower_bounds`` those of
    the images and Gram matrices. Models and distances are those of sorting what that function gives
    for all, averaged over the query images; to the last bit for up to eight of these. A model is
    left out only where its bound is beyond the k-th distance. Raises ValueError where shapes
    disagree or γ is not positive, and for a ``count`` below 1.
    """
    models, rows, width = image_embeddings.shape
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    if lower_bounds.rests.shape != (models, rows):
        raise ValueError(
            f"the lower bounds are of {lower_bounds.rests.shape}, not of {(models, rows)} images"
        )
    equation = Equation.of(image_embeddings, weights, query_images, gamma)
    count = min(count, models)
    bounds = lower_bounds.of_query(equation)

    def rescored(chosen: NDArray[np.intp]) -> Floats:
        found = np.empty(len(chosen), equation.dtype)

        def work(part: slice) -> None:
            picked = chosen[part]
            each = equation.distances(
                image_embeddings[picked],
                model_grams[picked],
                norms=None if invariants is None else invariants.norms[picked],
                sums=None if invariants is None else invariants.sums[picked],
            )
            found[part] = each.mean(axis=0)

        swept(work, len(chosen), rows * width, streamed=False, spread=True)
        return found

    order = np.argsort(bounds, kind="stable")
    ordered = bounds[order]
    done = min(models, max(_FIRST, 2 * count))
    distances = rescored(order[:done])
    while done < models:
        farthest = np.partition(distances, count - 1)[count - 1]
        # A model that is exactly as far may come first by its row.
        left = int(np.searchsorted(ordered, farthest, side="right"))
        if left <= done:
            break
        if left > models // _MOST:
            order, done = np.arange(models), models
            distances = paper_distances(
                image_embeddings,
                weights,
                query_images,
                gamma,
                model_grams=model_grams,
                invariants=invariants,
            ).mean(axis=0)
            break
        # What is nearer by its bound may move the k-th distance, and spare the rest.
        until = min(left, 2 * done)
        distances = np.concatenate([distances, rescored(order[done:until])])
        done = until
    best = np.lexsort((order[:done], distances))[:count]
    return Nearest(order[best], distances[best], done)
