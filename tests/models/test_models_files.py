"""Of every architecture a hub hands over all that ``save_pretrained`` wrote but other weights."""

from __future__ import annotations

import json
import shutil

import pytest

from gmi_registry.hubs import LocalHub
from gmi_registry.hubs.selection import RepoFile, select_pipeline
from gmi_registry.spec import ModelRef
from tests.support.models.architectures import ARCHITECTURES
from tests.support.models.files import architecture_folder

WEIGHTS = (".safetensors",)


def listed(folder):
    return [
        RepoFile(path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


@pytest.fixture(params=sorted(ARCHITECTURES))
def folder(request, model_store):
    if request.param == "kolors":
        pytest.importorskip("sentencepiece")
    return architecture_folder(model_store, request.param)


def test_nothing_is_left_out_but_other_weights(folder):
    index = json.loads((folder / "model_index.json").read_text())
    files = listed(folder)
    chosen = select_pipeline("m", files, index)
    taken = {*chosen.weights, *chosen.others}
    assert {file for file in files if file not in taken} == set()
    bare = select_pipeline("m", files, index, weights=False)
    assert bare.weights == ()
    assert set(bare.others) == {file for file in files if not file.path.endswith(WEIGHTS)}


def test_beside_the_weights_in_other_precisions_and_formats(folder):
    index = json.loads((folder / "model_index.json").read_text())
    files = listed(folder)
    more = [
        RepoFile(file.path.replace(".safetensors", ending))
        for file in files
        if file.path.endswith(WEIGHTS)
        for ending in (".fp16.safetensors", ".ema.safetensors", ".bin", ".msgpack", ".gguf")
    ]
    chosen = select_pipeline("m", [*files, *more], index)
    assert {*chosen.weights, *chosen.others} == set(files)


def test_a_hub_in_a_folder_chooses_the_same(folder, tmp_path):
    hub = LocalHub.create(tmp_path / "hub", tmp_path / "cache")
    shutil.copytree(folder, hub.root / "models" / "tiny")
    model = hub.fetch_model(ModelRef("local", "tiny"))
    index = json.loads((folder / "model_index.json").read_text())
    chosen = select_pipeline("m", listed(folder), index)
    assert [weight.path for weight in model.weights] == [file.path for file in chosen.weights]
