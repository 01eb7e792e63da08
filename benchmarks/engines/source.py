"""The synthetic rows that every engine is given, and what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

N, D, PAIRS, PART, ADDED, ROUNDS = 55, 768, 55 * 54 // 2, 1000, 100, 3
GAMMA, RARE = 0.02, "one-in-a-hundred"
COLUMNS = (
    "ref",
    "digest",
    "title",
    "kind",
    "tags",
    "base_model",
    "url",
    "licence",
    "nsfw",
    "downloads",
    "weights",
    "trust",
)
ARRAYS = {
    "mean": (np.float32, (D,)),
    "images": (np.float16, (N, D)),
    "gram": (np.float32, (PAIRS,)),
}
Arrays = dict[str, Any]


def make_source(folder: Path, models: int) -> None:
    """The rows that every engine is given, and what lies beside."""
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(D, D)))[0].astype(np.float32)

    def draw(shape: tuple[int, ...], variance: float, slope: float) -> np.ndarray:
        spectrum = np.arange(1, D + 1) ** slope
        scale = np.sqrt(variance * spectrum / spectrum.sum()).astype(np.float32)
        return (rng.standard_normal((*shape, D), np.float32) * scale) @ basis

    content, families = draw((1, N), 30 + 22, -2.9), draw((models // 40 + 1,), 14, -0.8)
    out = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (models, *shape))
        for name, (kind, shape) in ARRAYS.items()
    }
    upper, scatter = np.triu_indices(N, 1), np.zeros((D, D))
    for start in range(0, models, PART):
        rows = slice(start, min(models, start + PART))
        count = rows.stop - start
        style = families[rng.integers(0, len(families), count)] + draw((count,), 13, -0.8)
        out["images"][rows] = content + style[:, None] + draw((count, N), 17, -2.6)
        wide = out["images"][rows].astype(np.float32)
        out["mean"][rows] = wide.mean(1)
        norms = np.einsum("mnd,mnd->mn", wide, wide)
        apart = norms[:, :, None] + norms[:, None] - 2 * wide @ wide.transpose(0, 2, 1)
        out["gram"][rows] = np.exp(-GAMMA * apart)[:, *upper]
        if start == 0:
            inner = (wide - wide.mean(1, keepdims=True)).reshape(-1, D)[: 256 * N]
            scatter = inner.T.astype(float) @ inner / len(inner)
    whitener = np.linalg.inv(scatter + np.eye(D) * np.trace(scatter) / D)
    norm = np.concatenate(
        [
            np.einsum("md,md->m", part @ whitener, part, dtype=float)
            for part in np.array_split(out["mean"], 1 + models // PART)
        ]
    )
    one = int(rng.integers(models))
    query = out["images"][one, 7] + draw((), 17, -2.6)
    np.savez(
        folder / "beside.npz",
        whitener=whitener.astype(np.float32),
        norm=norm,
        prompts=rng.normal(size=(N, D)).astype(np.float16),
    )
    np.savez(folder / "query.npz", image=query, weights=rng.uniform(0.1, 0.9, N).astype("f4"))
    (folder / "entries.json").write_text(json.dumps([entry(rng, row) for row in range(models)]))


def entry(rng: np.random.Generator, row: int) -> dict[str, Any]:
    words = sorted({f"tag-{n}" for n in rng.zipf(1.4, rng.integers(4, 12)) if n < 2000})
    sha, digest, weights = (rng.bytes(n).hex() for n in (20, 32, 32))
    name = f"owner-{row % 997}/model-{row:07}"
    base = ("runwayml/stable-diffusion-v1-5", "SDXL 1.0", "SD 1.5", "Flux.1 D")[row % 4]
    values = (
        f"hf:{name}@{sha}",
        digest,
        f"Model {row}, a title of some words",
        ("checkpoint", "lora")[row % 3 > 0],
        words + [RARE] * (row % 100 == 37),
        base,
        f"https://huggingface.co/{name}",
        "creativeml-openrail-m",
        bool(row % 7 == 0),
        int(rng.pareto(0.8) * 50),
        weights,
        ("owner", "verified", "self-published")[row % 3],
    )
    return dict(zip(COLUMNS, values, strict=True))
