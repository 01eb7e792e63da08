"""Whole rounds, with real models: the same specifications whoever does the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gmi_registry.hubs.local import LocalHub
from gmi_registry.regeneration import Options, Round, SequentialExecutor
from gmi_registry.regeneration.processes import LocalExecutor
from gmi_registry.regeneration.run import executor_named
from gmi_registry.spec import read_spec
from tests.support import deeds
from tests.support.regeneration_world import fill_folder, save_models

NAMES = ("base", "ink", "oil")


@pytest.fixture(scope="module")
def unpublished(tmp_path_factory):
    """A folder's hub with three untrained models; tests work on copies."""
    place = tmp_path_factory.mktemp("round")
    return fill_folder(save_models(place / "models"), place / "hub", NAMES[1:]).root


@pytest.fixture(scope="module")
def expected(unpublished, tmp_path_factory):
    """The digests that one model after the other gives, in this process."""
    return go(unpublished, tmp_path_factory.mktemp("expected"), SequentialExecutor())


def go(unpublished: Path, folder: Path, executor, names=NAMES) -> dict[str, str]:
    root = shutil.copytree(unpublished, folder / "hub")
    options = Options(work=str(folder / "work"), cache_dir=str(folder / "cache"), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        this = Round(LocalHub(root, folder / "cache"), options, repos=names)
        summary = this.run(this.plan(), executor)
        assert [(it.model, it.outcome) for it in summary.results] == [
            (f"local:{name}", "published") for name in names
        ]
        again = this.run(this.plan(), executor)
        assert (again.results, again.fresh) == ((), len(names))
    return {name: read_spec(root / "models" / name).digest for name in names}


@pytest.mark.parametrize(("name", "models"), [("local", NAMES), ("ray", NAMES[1:])])
def test_two_workers_make_the_same_specifications(name, models, unpublished, expected, tmp_path):
    found = go(unpublished, tmp_path, executor_named(name, 2), models)
    assert found == {model: expected[model] for model in models}


def test_a_worker_that_is_killed_costs_its_model_and_the_next_round_goes_on(
    unpublished, expected, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root = shutil.copytree(unpublished, tmp_path / "hub")
    options = Options(work=str(tmp_path / "work"), cache_dir=str(tmp_path / "cache"), device="cpu")
    executor = LocalExecutor(2, perform=deeds.describe_and_die_once)
    this = Round(LocalHub(root, tmp_path / "cache"), options, repos=NAMES[:2])
    first = this.run(this.plan(), executor)
    assert {it.model: it.outcome for it in first.results} == {
        "local:base": "published",
        "local:ink": "lost",
    }
    assert not (root / "models" / "ink" / "gmi").exists()
    second = this.run(this.plan(), executor)
    (result,) = second.results
    assert (result.model, result.outcome) == ("local:ink", "published")
    # What was drawn before the end is not drawn again.
    assert 0 < result.images < 55
    assert read_spec(root / "models" / "ink").digest == expected["ink"]
