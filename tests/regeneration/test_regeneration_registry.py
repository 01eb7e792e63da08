"""Specifications that lie in the registry go out of date as others do, and stay there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.hubs.registry import Registry
from gmi_registry.regeneration import Options, Round
from gmi_registry.spec import ModelRef
from tests.support.loopback import User
from tests.support.publishing import publish
from tests.support.regeneration_world import WEIGHTS, other_weights

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

KEEPER, DATASET = "hf_theKeepersToken", "keeper/specs"
INK = "hf:alice/ink"


@pytest.fixture
def settings(remote, tmp_path):
    remote.add_user(User("keeper", KEEPER))
    remote.add_repo(DATASET, {"README.md": b"# Specifications\n"}, repo_type="dataset")
    return {"token": KEEPER, "cache_dir": tmp_path / "hf-cache", "registry": DATASET}


@pytest.fixture
def opened(settings):
    with open_hub("hf", HubAccess(**settings)) as hub:
        yield hub


@pytest.fixture
def a_round(work, settings):
    options = Options(
        work=str(work),
        cache_dir=str(settings["cache_dir"]),
        registry=DATASET,
        token=KEEPER,
        create_pr=False,
        device="cpu",
    )
    assert KEEPER not in repr(options)
    return lambda hub: Round(hub, options)


def test_an_entry_of_the_registry(remote, opened, settings, a_round, work, models):
    ink = ModelRef("hf", "alice/ink")
    with Registry(DATASET, token=KEEPER, cache_dir=settings["cache_dir"]) as store:
        publish(ink, opened, work=work, store=store, create_pr=False, device="cpu")
    (model,) = a_round(opened).plan().models
    assert (str(model.ref), model.state, model.to_registry) == (INK, "fresh", True)

    remote.commit("alice/ink", {WEIGHTS: other_weights(models)})
    commits = len(remote.history("alice/ink"))
    this = a_round(opened)
    found = this.plan()
    assert [(model.state, model.to_registry) for model in found.models] == [("stale", True)]
    done = this.run(found)
    assert [result.outcome for result in done.results] == ["published"], done
    assert len(remote.history("alice/ink")) == commits

    entries = {
        Path(path).parts[3] for path in remote.files(DATASET, repo_type="dataset") if "/" in path
    }
    assert len(entries) == 2
    # Who made a plan before that finds it done.
    assert [result.outcome for result in this.run(found).results] == ["fresh"]
    with open_hub("hf", HubAccess(**settings)) as again:
        assert [model.state for model in a_round(again).plan().models] == ["fresh"]
