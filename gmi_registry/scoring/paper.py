"""The paper's distance (Eq. 9) and the reduced kernel mean embeddings that it compares itself with.

All are squared RKHS distances between a model's (weighted) mean embedding and the embedding of one
query image; lower is better. With w_i = 1 Eq. 9 is Eq. 2, so RKME-CLIP, RKME-Concat and RKME-Basic
are one function on different vectors: image embeddings, [image; prompt] embeddings, or pixels.
A query of B images gets the mean of its B distances, each with its own weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gmi_registry.scoring.kernels import (
    Floats,
    gram,
    grams,
    products,
    rbf,
    row_kernel,
    row_norms,
    swept,
    widened,
    working_dtype,
)
from gmi_registry.scoring.query import uniform


@dataclass(frozen=True, eq=False)
class Invariants:
    """``norms`` [M, N]: ‖z‖² of every image; ``sums`` [M]: 1ᵀG_m 1, which is all that is left of a
    Gram matrix when every image counts alike."""

    norms: Floats
    sums: Floats

    @classmethod
    def of(cls, image_embeddings: Floats, grams: Floats) -> Invariants:
        """Of ``image_embeddings`` [M, N, D] and ``grams`` [M, N, N]."""
        models, rows, width = image_embeddings.shape
        dtype = working_dtype(image_embeddings)
        norms = np.empty((models, rows), dtype)

        def work(part: slice) -> None:
            block = widened(image_embeddings[part], dtype)
            norms[part] = row_norms(block.reshape(-1, width)).reshape(-1, rows)

        swept(work, models, rows * width, streamed=False, spread=True)
        return cls(norms, gram_sums(grams))


def gram_sums(grams: Floats) -> Floats:
    """1ᵀG 1 of every Gram matrix: [M, N, N] gives [M]."""
    models, rows, _ = grams.shape
    return np.asarray(grams.reshape(models, rows * rows).sum(axis=1))


# Of so many query images each takes its own turn with the rows in the cache; more make a product
# of matrices worth its threads, and worth that BLAS rounds a row by where it stands.
_TURNS = 8
_ITERATIONS = 50  # of the fixed point of a reduced set


@dataclass(frozen=True, eq=False)
class Equation:
    """``queries`` [B, D] and ``coefficients`` w/N [B, N], both in the dtype of the arithmetic."""

    queries: Floats
    coefficients: Floats
    gamma: float

    @classmethod
    def of(
        cls, image_embeddings: Floats, weights: Floats, query_images: Floats, gamma: float
    ) -> Equation:
        """For models like ``image_embeddings`` [M, N, D], ``weights`` [B, N] and ``query_images``
        [B, D]. Raises ValueError where shapes disagree or γ is not positive."""
        rows = image_embeddings.shape[1]
        if weights.shape != (len(query_images), rows):
            raise ValueError(
                f"weights have shape {weights.shape}, expected {(len(query_images), rows)}"
            )
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        dtype = working_dtype(image_embeddings, weights, query_images)
        coefficients = weights.astype(dtype, copy=False) / rows
        return cls(query_images.astype(dtype, copy=False), coefficients, gamma)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.queries.dtype

    @property
    def is_batch(self) -> bool:
        """Whether there are so many query images that BLAS multiplies them all at once."""
        return len(self.queries) > _TURNS

    def streams(self, image_embeddings: Floats) -> bool:
        """Whether parts may be larger than a core's cache: BLAS wants them so, and what is read
        once, as it is, does not mind."""
        return self.is_batch or (image_embeddings.dtype == self.dtype and len(self.queries) == 1)

    def distances(
        self,
        image_embeddings: Floats,
        grams: Floats,
        *,
        norms: Floats | None = None,
        sums: Floats | None = None,
    ) -> Floats:
        """Of a part of the models: [B, m], for images [m, N, D] and Gram matrices [m, N, N].

        ``norms`` [m, N] and ``sums`` [m] as in :class:`~gmi_registry.scoring.paper.Invariants`
        if they are known.
        """
        models, rows, width = image_embeddings.shape
        flat = widened(image_embeddings.reshape(models * rows, width), self.dtype)
        if norms is None or norms.dtype != self.dtype:
            norms = row_norms(flat)
        norms = norms.reshape(-1)
        spread = self.spread(grams, sums)
        if self.is_batch:
            kernel = row_kernel(flat, norms, flat @ self.queries.T, self.queries, self.gamma)
            kernel = kernel.reshape(models, rows, -1)
            kernel *= self.coefficients.T
            cross = kernel.sum(axis=1).T
        else:
            cross = np.empty_like(spread)
            for b, query in enumerate(self.queries):
                kernel = row_kernel(flat, norms, products(flat, query), query, self.gamma)
                cross[b] = products(kernel.reshape(models, rows), self.coefficients[b])
        return np.asarray(spread - 2 * cross + 1)

    def spread(self, grams: Floats, sums: Floats | None = None) -> Floats:
        """wᵀG_m w/N² of each query image's own weights: [B, m]."""
        models, rows, _ = grams.shape
        first = self.coefficients[:, :1]
        if (self.coefficients == first).all():
            sums = gram_sums(grams) if sums is None else sums
            return np.asarray(np.square(first) * sums.astype(self.dtype, copy=False))
        pairs = np.einsum("bi,bj->bij", self.coefficients, self.coefficients)
        pairs = pairs.reshape(-1, rows * rows)
        flat = grams.reshape(models, rows * rows).astype(self.dtype, copy=False)
        if self.is_batch:
            return np.asarray(pairs @ flat.T)
        return np.stack([products(flat, pair) for pair in pairs])


def paper_distance(
    image_embeddings: Floats,
    weights: Floats,
    query_images: Floats,
    gamma: float,
    *,
    model_gram: Floats | None = None,
) -> float:
    """Eq. 9 for one model: ‖(1/N) Σ_i w_i k(z_i,·) - k(z,·)‖².

    ``image_embeddings`` [N, D]; ``query_images`` [D] or [B, D]; ``weights`` [N] or [B, N], one row
    for each query image; ``model_gram`` [N, N] if it is known. Returns the mean over the query
    images. Raises ValueError where shapes disagree or γ is not positive.
    """
    weights, query_images = np.atleast_2d(weights), np.atleast_2d(query_images)
    known = None if model_gram is None else model_gram[None]
    each = paper_distances(image_embeddings[None], weights, query_images, gamma, model_grams=known)
    return float(each.mean())


def paper_distances(
    image_embeddings: Floats,
    weights: Floats,
    query_images: Floats,
    gamma: float,
    *,
    model_grams: Floats | None = None,
    invariants: Invariants | None = None,
) -> Floats:
    """Eq. 9 for M models that share N and the prompt set, expanded as
    wᵀG_m w/N² - (2/N) wᵀk_m(z) + k(z, z) and computed in one sweep over the models.

    ``image_embeddings`` [M, N, D]; ``query_images`` [B, D]; ``weights`` [B, N]; ``model_grams``
    [M, N, N] and ``invariants`` if they are known (they depend on the specs alone). Returns [B, M],
    one distance for each query image and model, at least 0 up to rounding. For one query of B
    images take the mean over axis 0. Up to eight images a model's distance depends on that model
    alone to the last bit. Raises ValueError where shapes disagree or γ is not positive.
    """
    models, rows, width = image_embeddings.shape
    equation = Equation.of(image_embeddings, weights, query_images, gamma)
    if model_grams is None:
        model_grams = grams(image_embeddings, gamma)
    known = model_grams
    out = np.empty((len(query_images), models), equation.dtype)

    def work(part: slice) -> None:
        out[:, part] = equation.distances(
            image_embeddings[part],
            known[part],
            norms=None if invariants is None else invariants.norms[part],
            sums=None if invariants is None else invariants.sums[part],
        )

    swept(
        work,
        models,
        rows * width,
        streamed=equation.streams(image_embeddings),
        spread=True,
    )
    return out


def rkme_distance(vectors: Floats, query_vectors: Floats, gamma: float) -> float:
    """Eq. 2, every row equally important: RKME-CLIP on image embeddings, RKME-Basic on pixels.

    ``vectors`` [N, D], ``query_vectors`` [D] or [B, D] (then the mean of B distances).
    """
    query_vectors = np.atleast_2d(query_vectors)
    weights = np.broadcast_to(uniform(len(vectors)), (len(query_vectors), len(vectors)))
    return paper_distance(vectors, weights, query_vectors, gamma)


def concatenated(image_embeddings: Floats, prompt_embeddings: Floats) -> Floats:
    """[z; q] for RKME-Concat: [..., D] and [..., E] give [..., D + E].

    The two parts keep their own scales, as the paper states no balance between them.
    """
    leading = image_embeddings.shape[:-1]
    prompts = np.broadcast_to(prompt_embeddings, (*leading, prompt_embeddings.shape[-1]))
    return np.concatenate([image_embeddings, prompts], axis=-1)


def reduced_point(image_embeddings: Floats, gamma: float) -> tuple[Floats, float]:
    """The reduced set of size 1 (A.4): the x and β that bring β k(x,·) nearest to (1/N) Σ k(z_i,·).

    For a given x the best β is (1/N) Σ k(z_i, x), and what is left to do is to maximise that β,
    which the fixed point x ← Σ k(z_i, x) z_i / Σ k(z_i, x) does (it never decreases β). It starts
    at the mean of the rows or, where the kernel cannot see them from there, at the row with the
    largest column of the Gram matrix, so that the answer is deterministic.

    The paper does not say how it reduces; weights are unknown when a spec is made, so none are used
    here. ``image_embeddings`` [N, D]; returns x [D] and β in (0, 1].
    """
    z = image_embeddings.astype(working_dtype(image_embeddings), copy=False)
    mean = z.mean(axis=0)
    densest = z[int(gram(z, gamma).sum(axis=0).argmax())]
    point = max((mean, densest), key=lambda start: float(rbf(z, start[None], gamma).mean()))
    beta = float(rbf(z, point[None], gamma).mean())
    for _ in range(_ITERATIONS):
        kernel = rbf(z, point[None], gamma)[:, 0]
        moved = (kernel @ z) / kernel.sum()
        reached = float(rbf(z, moved[None], gamma).mean())
        if not reached > beta * (1 + 1e-6):
            break
        point, beta = moved, reached
    return point, beta


def reduced_distances(points: Floats, betas: Floats, query_images: Floats, gamma: float) -> Floats:
    """‖β_m k(x_m,·) - k(z,·)‖² for reduced points: [M, D], [M] and [B, D] give [B, M]."""
    kernel = rbf(points, query_images, gamma).T
    return np.asarray(betas**2 - 2 * betas * kernel + 1)
