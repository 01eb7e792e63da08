"""``python -m zoo.gates``: measure the zoo against its gates; writes zoo/README.md and a sheet.

The zoo is worth measuring on when the encoder can tell its styles apart, when a person can see
what each picture shows, and when Eq. 9 is neither always right nor at chance.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gmi_registry.encoders import load_encoder
from gmi_registry.encoders.encoder import Encoder
from gmi_registry.generation import (
    BatchCache,
    RecipeOverrides,
    default_recipe,
    generate,
    load_pipeline,
)
from gmi_registry.hubs import open_hub
from gmi_registry.scoring.paper import paper_distances
from gmi_registry.scoring.query import cosine_weights
from gmi_registry.scoring.scores import mid_ranks, top_k_credit
from gmi_registry.spec import ModelRef, Spec, read_spec
from zoo.build import ENCODER, HUB
from zoo.cards import lora_name
from zoo.demo import publish_zoo
from zoo.names import evaluation_prompts
from zoo.page import write_page
from zoo.styles import PICTURE_SIZE, STYLES

FOLDER = Path(__file__).parent
SEEDS = (1, 2)
"""Of the evaluation pictures; specifications use seed 0."""
SHEET_PROMPTS = 8
GAMMA = 0.02

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Gate:
    """One measured figure and the range that it must be in."""

    name: str
    value: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class Tasks:
    """Evaluation pictures of all models: ``embeddings`` [T, D], ``model`` and ``prompt`` [T]."""

    embeddings: Floats
    model: NDArray[np.int64]
    prompt: NDArray[np.int64]


def published_specs(work: Path) -> list[Spec]:
    """The sixteen LoRAs' specifications, generated where they are not there yet."""
    folder = work / "report-hub"
    shutil.copytree(HUB, folder, dirs_exist_ok=True)
    publish_zoo(folder, work / "report-images", announce=False)
    return [read_spec(folder / "models" / lora_name(style)) for style in STYLES]


def draw_tasks(work: Path, encoder: Encoder) -> tuple[Tasks, Image.Image]:
    """Draw and embed the evaluation pictures; also the sample sheet, a row a model."""
    hub = open_hub(str(HUB))
    prompts = evaluation_prompts()
    sheet = Image.new("RGB", (SHEET_PROMPTS * PICTURE_SIZE, len(STYLES) * PICTURE_SIZE), "white")
    embeddings = []
    for row, style in enumerate(track(STYLES, description="evaluation pictures")):
        model = hub.fetch_model(ModelRef("local", lora_name(style)))
        pipeline = load_pipeline(model)
        recipe = default_recipe(pipeline, model, RecipeOverrides(seeds=SEEDS))
        cache = BatchCache(work / "report-tasks", model, recipe)
        pictures = list(generate(pipeline, prompts, recipe, cache=cache))
        embeddings.append(encoder.encode_images(pictures))
        for column in range(SHEET_PROMPTS):
            place = (column * PICTURE_SIZE, row * PICTURE_SIZE)
            sheet.paste(pictures[column * len(SEEDS)], place)
    each = len(prompts) * len(SEEDS)
    tasks = Tasks(
        np.concatenate(embeddings),
        np.repeat(np.arange(len(STYLES)), each),
        np.tile(np.repeat(np.arange(len(prompts)), len(SEEDS)), len(STYLES)),
    )
    return tasks, sheet


def probe_accuracy(specs: list[Spec], tasks: Tasks) -> float:
    """A linear probe fitted on the specifications' pictures, asked about the evaluation's."""
    known = np.concatenate([spec.image_embeddings.astype(np.float64) for spec in specs])
    labels = np.repeat(np.arange(len(specs)), [len(spec.image_embeddings) for spec in specs])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probe.fit(known, labels)
    return float(probe.score(tasks.embeddings, tasks.model))


def eq9_distances(specs: list[Spec], tasks: Tasks, encoder: Encoder, *, weighted: bool) -> Floats:
    """[T, M] distances of Eq. 9 with the true prompts' weights, or with w = 1 (RKME-CLIP)."""
    stacked = np.stack([spec.image_embeddings.astype(np.float64) for spec in specs])
    weights: Floats = np.ones((len(tasks.model), stacked.shape[1]))
    if weighted:
        asked = encoder.encode_texts(evaluation_prompts()).astype(np.float64)
        own = specs[0].prompt_embeddings.astype(np.float64)
        by_prompt = np.stack([cosine_weights(own, specs[0].image_prompt, q) for q in asked])
        weights = by_prompt[tasks.prompt]
    queries = tasks.embeddings.astype(np.float64)
    return paper_distances(stacked, weights, queries, GAMMA)


def weights_megabytes() -> float:
    """All committed weights together, in 10^6 bytes."""
    return sum(path.stat().st_size for path in HUB.rglob("*.safetensors")) / 1e6


def measure(work: Path) -> tuple[list[Gate], dict[str, float], Image.Image]:
    encoder = load_encoder("gmi-zoo-clip", "icons-v1", ENCODER)
    specs = published_specs(work)
    tasks, sheet = draw_tasks(work, encoder)
    eq9 = eq9_distances(specs, tasks, encoder, weighted=True)
    plain = eq9_distances(specs, tasks, encoder, weighted=False)
    gates = [
        Gate("linear probe names the model", probe_accuracy(specs, tasks), 0.85, 1.0),
        Gate("Eq. 9 top-1", float(top_k_credit(eq9, tasks.model, 1).mean()), 0.35, 0.90),
        Gate("committed weights, MB", weights_megabytes(), 0, 48),
    ]
    rows = np.arange(len(tasks.model))
    more = {
        "Eq. 9 top-4": float(top_k_credit(eq9, tasks.model, 4).mean()),
        "Eq. 9 mean rank": float(mid_ranks(eq9)[rows, tasks.model].mean()),
        "RKME-CLIP (w = 1) top-1": float(top_k_credit(plain, tasks.model, 1).mean()),
        "median distance between embeddings": float(_median_distance(tasks.embeddings)),
        "tasks": float(len(tasks.model)),
    }
    return gates, more, sheet


def _median_distance(embeddings: Floats) -> float:
    sample = embeddings[:: max(1, len(embeddings) // 200)]
    return float(np.median(np.linalg.norm(sample[:, None] - sample, axis=-1)))


def main() -> int:
    gates, more, sheet = measure(FOLDER / "work")
    write_page(FOLDER, gates, more, sheet)
    for gate in gates:
        verdict = "passed" if gate.passed else "FAILED"
        print(f"{verdict}: {gate.name} {gate.value:.3f} (gate {gate.low} to {gate.high})")
    for name, value in more.items():
        print(f"        {name} {value:.3f}")
    return 0 if all(gate.passed for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
