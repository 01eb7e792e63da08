"""Hubs of models that arithmetic in a hurry would get wrong, and queries to them."""

from __future__ import annotations

import numpy as np

from gmi_registry.scoring.default import SHRINKAGE

ROWS, WIDTH = 7, 24


def hub(kind, seed=0, models=301, dtype=np.float32):
    """Images [M, N, D], weights [B, N], queries [B, D] and a γ that sees them."""
    rng = np.random.default_rng(seed)
    content = 6 * rng.standard_normal((ROWS, 3)) @ rng.standard_normal((3, WIDTH))
    style = rng.standard_normal((models, 1, WIDTH))
    z = content + style + 0.5 * rng.standard_normal((models, ROWS, WIDTH))
    weights = rng.uniform(0.1, 1, (2, ROWS))
    queries = z[[models // 3, models // 2], 0] + 0.5 * rng.standard_normal((2, WIDTH))
    gamma = 0.02
    if kind == "identical":
        z[:] = z[:1]
        queries = z[0, :2] + 0.1
    elif kind == "ties":
        z = z[rng.integers(0, 9, models)]
    elif kind == "duplicated prompts":
        z[:, 1:4] = z[:, :1]
        weights[:, 1:4] = weights[:, :1]
    elif kind == "zero weights":
        weights[:] = 0
    elif kind == "some zero weights":
        weights[:, ::2] = 0
    elif kind == "signed weights":
        weights = rng.uniform(-1, 1, weights.shape)
    elif kind == "ones":
        weights[:] = 1
    elif kind == "huge norms":
        z, queries, gamma = 3e3 * z, 3e3 * queries, gamma / 9e6
    elif kind == "huge norms, narrow kernel":
        z, queries = 3e3 * z, 3e3 * queries
    elif kind == "far from the origin":
        z, queries = z + 500, queries + 500
    elif kind == "the query itself":
        queries = z[[3, 5], 2]
    elif kind == "one spec":
        z = z[:1]
        queries = z[0, :2] + 0.1
    elif kind == "one image":
        z, weights = z[:, :1], weights[:, :1]
    elif kind == "zeros":
        z[::2] = 0
    elif kind == "an outlier":
        z[-1] *= 1e3
    else:
        assert kind == "random"
    if dtype == np.float16:
        z = np.clip(z, -6e4, 6e4)
    return z.astype(dtype), weights.astype(np.float32), queries.astype(np.float32), gamma


KINDS = (
    "random",
    "identical",
    "ties",
    "duplicated prompts",
    "zero weights",
    "some zero weights",
    "signed weights",
    "ones",
    "huge norms",
    "huge norms, narrow kernel",
    "far from the origin",
    "the query itself",
    "one spec",
    "one image",
    "zeros",
    "an outlier",
)


def mean_distances(means, queries, concentration, scatter):
    """The default score of mean images [M, D] to queries [B, D], by its formula: [B, M] float64."""
    factor = scatter.whitening(SHRINKAGE)
    turned, asked = (rows.astype(np.float64) @ factor for rows in (means, queries))
    squares = np.stack([np.square(turned - one).sum(axis=1) for one in asked])
    return squares - scatter.spread(SHRINKAGE) * concentration
