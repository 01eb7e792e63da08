"""After any fault: the old specification or the whole new one, a usable cache, a second success.

A run is known by its seed: ``nox -s soak -- --seed 17`` replays one, and any of ``nox -s soak``.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gmi_registry.hubs.huggingface import changes, download
from tests.hubs import soak
from tests.support.fault_plan import KINDS, draw
from tests.support.fault_run import run
from tests.support.fault_world import open_world
from tests.support.hostile_specs import hostile_cases

ALL_SEEDS = range(200)


def telling(seeds):
    """Those of which each brings a fault, a hostile case or a circumstance that none before had."""
    seen, found = set(), []
    for seed in seeds:
        plan = draw(seed)
        told = {plan.case, plan.before, ("hasty", plan.hasty), ("workers", plan.workers)}
        told = {(plan.stage, it) for it in told | {fault.kind for fault in plan.faults}}
        if told - seen:
            found.append(seed)
            seen |= told
    return found


SEEDS = telling(ALL_SEEDS)
OTHERS = [pytest.param(seed, marks=pytest.mark.slow) for seed in ALL_SEEDS if seed not in SEEDS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with open_world(tmp_path_factory.mktemp("faults")) as opened:
        yield opened


@pytest.mark.parametrize("seed", [*SEEDS, *OTHERS], ids="seed-{}".format)
def test_old_or_whole_new_a_usable_cache_and_a_second_success(world, seed):
    outcome = run(world, draw(seed))
    assert outcome.seed == seed
    assert outcome.first


def test_every_fault_and_every_hostile_case_has_its_turn():
    plans = [draw(seed) for seed in SEEDS]
    for stage, kinds in KINDS.items():
        met = {fault.kind for plan in plans if plan.stage == stage for fault in plan.faults}
        assert met == set(kinds)
        cases = {plan.case for plan in plans if plan.stage == stage}
        assert cases == set(hostile_cases())
    assert len(hostile_cases()) >= 50
    assert any(plan.hasty for plan in plans)
    assert {plan.before for plan in plans} == {"nothing", "old", "hostile"}


def test_a_plan_comes_from_its_seed_alone():
    later = draw(5)
    assert draw(12) != later
    assert draw(5) == later


def test_a_run_replayed_ends_as_before(world):
    plans = (draw(seed) for seed in SEEDS)
    seed = next(plan.seed for plan in plans if plan.workers == 1 and len(plan.faults) > 1)
    assert run(world, draw(seed)) == run(world, draw(seed))


def quiet(stage, **wanted):
    """A plan of that stage without faults."""
    plans = (draw(seed) for seed in range(2000) if (seed % 2 == 1) == (stage == "search"))
    plan = next(
        plan
        for plan in plans
        if all(getattr(plan, name) == value for name, value in wanted.items())
    )
    plan.faults = []
    return plan


def test_a_run_without_faults_is_done_at_once(world):
    for stage in KINDS:
        outcome = run(world, quiet(stage))
        assert (outcome.first, outcome.met) == ("done", {})


@pytest.fixture
def send_half(monkeypatch):
    """From now on publishing leaves the tensors out."""
    send = changes._send

    def sent(api, made, start, propose):
        files = {path: new for path, new in start.files.items() if "tensors" not in path}
        return send(api, made, replace(start, files=files), propose)

    monkeypatch.setattr(changes, "_send", sent)
    return monkeypatch


def test_half_a_specification_is_noticed(world, send_half):
    plan = quiet("publish", before="nothing", owner=True, create_pr=False)
    with pytest.raises(AssertionError, match="half a specification"):
        run(world, plan)


def test_wrong_bytes_in_the_cache_are_noticed(world, monkeypatch):
    # As it was before the digest was looked at: neither on arrival nor in the cache.
    monkeypatch.setattr(download, "fetch_small", lambda *_, **__: None)
    monkeypatch.setattr(download, "has_stated_digest", lambda place: True)
    plans = (draw(seed) for seed in SEEDS if seed % 2)
    plan = next(plan for plan in plans if plan.faults[0].kind == "wrong-digest")
    plan.faults = plan.faults[:1]
    plan.faults[0].path_regex = "spec.tensors"
    with pytest.raises(AssertionError, match="is another file"):
        run(world, plan)


def test_a_soak_goes_on_where_it_was_killed(tmp_path, capsys):
    journal = tmp_path / "soak.jsonl"
    call = ["--from", "3", "--journal", str(journal)]
    assert soak.main(["1", *call]) == 0
    with journal.open("a") as stream:
        stream.write('{"seed": 4, "sta')
    assert soak.main(["2", *call]) == 0
    said = capsys.readouterr()
    assert f"1 of 2 runs are in {journal}" in said.err
    assert "2 of 2 runs, 0 failed" in said.err
    assert "failed: none" in said.out
    rows = [line for line in journal.read_text().splitlines() if line.endswith("null}")]
    assert [json.loads(row)["seed"] for row in rows] == [3, 4]


def test_a_soak_names_what_failed_and_runs_it_again(tmp_path, capsys, send_half):
    plans = (draw(seed) for seed in range(0, 10_000, 2))
    seed = next(
        plan.seed
        for plan in plans
        if {fault.kind for fault in plan.faults} == {"slow"}
        and (plan.before, plan.owner, plan.create_pr) == ("nothing", True, False)
    )
    call = ["1", "--from", str(seed), "--journal", str(tmp_path / "soak.jsonl")]
    assert soak.main(call) == 1
    said = capsys.readouterr()
    assert f"replay it: nox -s soak -- --seed {seed}" in said.err
    assert "half a specification" in said.err
    assert f"failed: {seed}" in said.out
    send_half.undo()
    assert soak.main(call) == 0
    assert "failed: none" in capsys.readouterr().out
