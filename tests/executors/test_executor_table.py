"""Executors by name, what they cost to name, and how much memory a model is thought to take."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gmi_registry.errors import InputError
from gmi_registry.regeneration import Options, Work
from gmi_registry.regeneration.processes import (
    BASE,
    FACTOR,
    UNKNOWN,
    _of_container,
    estimated_need,
    free_memory,
)
from gmi_registry.regeneration.run import EXECUTORS, executor_named
from tests.support.hub_builder import HubBuilder, ProjectionEncoder
from tests.support.loopback.jobs import PACKAGE


@pytest.fixture(autouse=True)
def package(monkeypatch):
    monkeypatch.setenv("GMI_PACKAGE", PACKAGE)


@pytest.mark.parametrize("name", EXECUTORS)
def test_each_name_has_one_that_needs_workers(name):
    assert hasattr(executor_named(name, 2), "run")
    with pytest.raises(InputError, match="0 workers"):
        executor_named(name, 0)


def test_another_name_is_an_error():
    with pytest.raises(InputError) as caught:
        executor_named("slurm")
    assert caught.value.hint == "use --executor local or ray or hf-jobs"


def test_naming_one_imports_nothing_heavy():
    program = (
        "import sys; from gmi_registry.regeneration.run import executor_named;"
        "executor_named('local', 2); executor_named('hf-jobs', 2);"
        "print(sorted({'ray', 'torch', 'diffusers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_free_memory_is_some_and_not_more_than_there_is():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    assert 2**20 < free_memory() <= total


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "max", "memory.current": "5"}, None),
        ({}, None),
        (
            {
                "memory.max": "1000",
                "memory.current": "700",
                "memory.stat": "anon 500\ninactive_file 150\n",
            },
            450,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "900",
                "memory/memory.stat": "cache 5\ntotal_inactive_file 50\n",
            },
            150,
        ),
        ({"memory.max": "many", "memory.current": "x"}, None),
    ],
)
def test_what_a_container_has_left(tmp_path, files, left):
    for name, text in files.items():
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    assert _of_container(tmp_path) == left


def test_the_need_follows_the_weights(tmp_path):
    built = HubBuilder(tmp_path / "hub", tmp_path / "cache", ProjectionEncoder())
    for name in ("bare", "described"):
        built.add_lora(name)
    spec = built.publish("described")
    options = Options(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    works = {
        name: Work(str(built.root), f"local:{name}", "changed", options)
        for name in ("bare", "described", "gone")
    }
    on_disk = (built.folder("bare") / "pytorch_lora_weights.safetensors").stat().st_size
    assert estimated_need(works["bare"]) == BASE + int(FACTOR * on_disk)
    stated = sum(file.size for file in spec.manifest.model.weights)
    # What it was described as counts, for a hub need not be asked for more.
    (built.folder("described") / "pytorch_lora_weights.safetensors").write_bytes(b"x" * 99)
    assert estimated_need(works["described"]) == BASE + int(FACTOR * stated)
    nobody_knows = BASE + int(FACTOR * UNKNOWN)
    assert estimated_need(works["gone"]) == nobody_knows
    elsewhere = replace(works["bare"], hub=str(tmp_path / "no hub"))
    assert estimated_need(elsewhere) == nobody_knows
