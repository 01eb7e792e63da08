"""The zoo is rebuilt in one go: every part, in order, from the pictures to models that draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmi_registry.encoders import load_encoder
from gmi_registry.generation.pipelines import load_pipeline
from gmi_registry.hubs.local import LocalHub
from gmi_registry.spec import ModelRef
from zoo import __main__ as rebuilding
from zoo import autoencoder, base, build, cards, encoder, lora, names
from zoo.styles import PICTURE_SIZE, STYLES
from zoo.training import Training


@pytest.fixture
def few_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """The names of the queries and 30 more, 10 of which no LoRA sees."""
    chosen = {name for _, name in cards.QUERIES} | set(names.names()[:30])
    (tmp_path / "names.txt").write_text("\n".join(sorted(chosen)))
    cached = (names.names, names.held_out, names.trained)
    monkeypatch.setattr(names, "NAMES_FILE", tmp_path / "names.txt")
    monkeypatch.setattr(names, "HELD_OUT", 10)
    for function in cached:
        function.cache_clear()
    yield names.names()
    for function in cached:
        function.cache_clear()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_names: tuple[str, ...]) -> Path:
    """A folder for a rebuild in two steps of training a part, with pictures of plain colours."""
    for part in (autoencoder, base, encoder, lora):
        monkeypatch.setattr(part, "PLAN", replace(part.PLAN, steps=2))
        monkeypatch.setattr(part, "BATCH", 4, raising=False)
    zoo = build.HUB.parent
    for name in ("HUB", "MODELS", "QUERIES", "BASE", "MERGED", "ENCODER"):
        monkeypatch.setattr(build, name, tmp_path / getattr(build, name).relative_to(zoo))
    folder = tmp_path / "work"
    monkeypatch.setattr(rebuilding, "WORK", folder)
    folder.mkdir()
    shape = (len(STYLES), len(few_names))
    colours = np.random.default_rng(0).integers(0, 256, (*shape, 1, 1, 3), np.uint8)
    pixels = np.broadcast_to(colours, (*shape, PICTURE_SIZE, PICTURE_SIZE, 3))
    np.savez_compressed(
        folder / "pictures.npz", pixels=pixels, present=np.ones(shape, bool), names=few_names
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_rebuild_ends_in_models_that_load_and_is_not_trained_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilding.main([])
    hub = LocalHub(build.HUB)
    loras = [cards.lora_name(style) for style in STYLES]
    models = (cards.BASE, *loras, build.MERGED.parent.name)
    assert sorted(folder.name for folder in build.MODELS.iterdir()) == sorted(models)
    kinds = {}
    for name in (cards.BASE, loras[0], loras[-1], build.MERGED.parent.name):
        model = hub.fetch_model(ModelRef("local", name))
        kinds[name] = model.kind
        drawn = load_pipeline(model)("a rose", num_inference_steps=1, output_type="np").images
        assert drawn.shape == (1, PICTURE_SIZE, PICTURE_SIZE, 3)
        assert np.isfinite(drawn).all()
    assert list(kinds.values()) == ["checkpoint", "lora", "lora", "single-file"]
    assert model.card.base_model == cards.BASE
    towers = load_encoder("gmi-zoo-clip", "icons-v1", build.ENCODER)
    queries = [Image.open(path) for path in sorted(build.QUERIES.iterdir())]
    assert len(queries) == len(cards.QUERIES)
    assert np.isfinite(towers.encode_images(queries)).all()
    assert (build.ENCODER / "onnx" / "image.onnx").is_file()
    first = contents(build.BASE)
    assert "unet/diffusion_pytorch_model.safetensors" in first
    steps: list[Training] = []
    monkeypatch.setattr(Training, "advance", steps.append)
    rebuilding.main(["base"])
    assert contents(build.BASE) == first
    assert steps == []
