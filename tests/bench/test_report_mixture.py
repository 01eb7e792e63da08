"""Models with and without prompts of their own in one search."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paper.folder import read_run, read_scored
from benchmarks.paper.studies import MIXED, mixtures
from gmi_registry.scoring import top_k_credit
from tests.support.embedded_run import METHODS, benchmark_of, run_stage, write_embedded
from tests.support.report_run import write_summary

MODELS = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    benchmark = benchmark_of(MODELS)
    write_embedded(folder, benchmark)
    run_stage(folder, benchmark)
    write_summary(folder, benchmark.protocols, benchmark.methods)
    return folder, {part.protocol: part for part in read_scored(folder, "test", read_run(folder))}


@pytest.fixture(scope="module")
def found(run):
    folder, test = run
    return mixtures(folder, 0.02, test[MIXED], test["images-1"])


def test_every_method_on_both_kinds_of_tasks_and_specifications(found) -> None:
    kinds = {(it.method, it.specifications, it.asked) for it in found}
    assert len(found) == len(kinds) == len(METHODS) * 4
    assert {it.fair for it in found} == {0.5}


def test_beside_the_default_prompts_it_is_what_was_scored(run, found) -> None:
    _, test = run
    for it in found:
        if (it.specifications, it.asked) != ("beside", "like"):
            continue
        distances = test[MIXED].distances[it.method]
        own = test[MIXED].truth % 2 == 0
        right = top_k_credit(distances, test[MIXED].truth, 1)
        assert it.top_1_own.value == pytest.approx(right[own].mean(), abs=1e-6)
        assert it.top_1_others.value == pytest.approx(right[~own].mean(), abs=1e-6)
        first = distances.argmin(axis=1) % 2 == 0
        assert it.picked.value == pytest.approx(first.mean(), abs=1e-6)


def test_alone_means_without_the_default_prompts(run, found, tmp_path) -> None:
    """Nothing changes when the default pictures of models with own prompts are others. (The default
    score may learn from them what it pools over models.)"""
    _, test = run
    benchmark = benchmark_of(MODELS)
    write_embedded(tmp_path, benchmark)
    path = tmp_path / "embeddings" / "specs.npz"
    with np.load(path) as arrays:
        known = {name: arrays[name] for name in arrays.files}
    known["image_embeddings"][::2] += 5.0
    np.savez(path, **known)
    other = mixtures(tmp_path, 0.02, test[MIXED], test["images-1"])
    changed = set()
    for before, after in zip(found, other, strict=True):
        if before.method.startswith("default"):
            continue
        if before != after:
            changed.add(before.specifications)
        assert before == after or before.specifications == "beside"
    assert changed == {"beside"}


def test_without_what_it_needs_there_is_none(run, tmp_path) -> None:
    folder, test = run
    assert mixtures(folder, 0.02, None, test["images-1"]) == []
    assert mixtures(tmp_path, 0.02, test[MIXED], None) == []
    alone = mixtures(folder, 0.02, test[MIXED], None)
    assert {it.asked for it in alone} == {"like"}
