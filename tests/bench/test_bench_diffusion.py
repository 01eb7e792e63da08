"""A benchmark over real, if untrained, diffusion models in a local hub."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from benchmarks.paper.definition import load_benchmark
from benchmarks.paper.folder import read_answers, read_tasks
from benchmarks.paper.methods import METHODS
from benchmarks.paper.run import run_benchmark
from gmi_registry.errors import HubError, InputError
from tests.support.circle_bench import contents
from tests.support.tiny_bench import OWN, interrupted, run, write_file


def test_every_method_scores_every_protocol(scored):
    for split, protocols in (("test", ("images-1", "images-2", *OWN)), ("dev", ("images-1",))):
        for protocol in protocols:
            tasks = read_tasks(scored, split, protocol)
            assert tasks.models == ("base", "ink", "oil")
            assert len(read_answers(scored, split)[protocol]) == len(tasks.tasks)
            with np.load(scored / "scores" / split / f"{protocol}.npz") as scores:
                assert scores.files == list(METHODS)
                for method in METHODS:
                    assert scores[method].shape == (len(tasks.tasks), 3)
                    assert np.isfinite(scores[method]).all()
    assert not (scored / "tasks" / "dev" / "own-prompts.json").exists()


def test_counts_of_tasks(scored):
    counts = {name: len(read_tasks(scored, "test", name).tasks) for name in ("images-1", *OWN)}
    assert counts == {"images-1": 3 * 2 * 2, **dict.fromkeys(OWN, 3 * 1 * 2)}
    assert sorted(read_answers(scored, "test")["images-1"]) == [0] * 4 + [1] * 4 + [2] * 4


def test_download_counts_come_from_the_cards(scored):
    with np.load(scored / "scores" / "test" / "images-1.npz") as scores:
        assert scores["download"].tolist() == [[1, 1, -12]] * 12


def test_own_prompts_change_only_the_models_that_have_them(scored):
    def distances(protocol):
        with np.load(scored / "scores" / "test" / f"{protocol}.npz") as scores:
            return scores["paper"]

    default, mixed, own = (distances(name) for name in (OWN[1], OWN[2], OWN[0]))
    np.testing.assert_allclose(mixed[:, 1], default[:, 1], rtol=1e-12)
    np.testing.assert_allclose(mixed[:, [0, 2]], own[:, [0, 2]], rtol=1e-12)
    assert not np.allclose(default, own, rtol=1e-6)


def test_pseudo_prompts_are_default_prompts_or_shipped_phrases(scored):
    from gmi_registry.interrogators import shipped_phrases

    said = json.loads((scored / "pseudo" / "test.json").read_bytes())
    assert set(said) == {
        image
        for protocol in ("images-1", "own-prompts")
        for task in read_tasks(scored, "test", protocol).tasks
        for image in task.images
    }
    known = {*shipped_phrases(), "a pear", "a kite", "an owl"}
    assert all(part in known for text in said.values() for part in text.split(", "))


@pytest.mark.parametrize("kept", [0, 4])
def test_interrupted_while_drawing(hub, scored, kept):
    out = hub.parent / f"interrupted-{kept}"
    with interrupted(kept):
        run(hub, out)
    assert not (out / "tasks").exists()
    run(hub, out)
    assert contents(out) == contents(scored)


def test_nothing_is_drawn_again(hub, scored, monkeypatch):
    monkeypatch.setattr("gmi_registry.generation.load_pipeline", None)
    assert not any(run(hub, scored).made.values())


def test_a_changed_card_redraws_its_model_alone(hub, scored, monkeypatch):
    from benchmarks.paper.generators import DiffusionGenerator

    out = hub.parent / "changed"
    shutil.copytree(scored, out)
    card = hub / "models" / "ink" / "README.md"
    before, drawn, draw = card.read_text(), [], DiffusionGenerator.generate

    def watched(self, orders, progress):
        drawn.extend(order.model for order in orders)
        return draw(self, orders, progress)

    monkeypatch.setattr(DiffusionGenerator, "generate", watched)
    card.write_text(before.replace("base_model", "instance_prompt: ink\nbase_model"))
    try:
        assert run(hub, out, last="generate").made == {"generate": True}
    finally:
        card.write_text(before)
    assert set(drawn) == {1}
    assert not (out / "bench.json").exists()


def test_a_missing_model_is_named_before_anything_is_drawn(hub):
    out = hub.parent / "missing"
    with pytest.raises(HubError, match="holds no model 'etching'") as caught:
        run(hub, out, third="etching")
    assert caught.value.hint
    assert not (out / "images").exists()


def test_a_hub_that_is_not_said(hub):
    path = write_file(hub)
    path.write_text(path.read_text().replace('hub = "hub"\n', ""))
    with pytest.raises(InputError, match="on a hub that the benchmark does not name"):
        run_benchmark(load_benchmark(path), hub.parent / "nowhere")
