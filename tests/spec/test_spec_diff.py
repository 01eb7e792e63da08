"""Differences of two specifications."""

from __future__ import annotations

import numpy as np
import pytest
import small_spec

from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    PromptSet,
    Spec,
    WeightFile,
    diff_specs,
)


def test_nothing_changed(spec: Spec) -> None:
    diff = diff_specs(spec, spec)
    assert diff.identical
    assert diff.incomparable is None
    assert diff.fields == ()
    assert diff.mmd2 == pytest.approx(0, abs=1e-12)
    assert {shift.shift for shift in diff.prompt_shifts} == {0.0}


def test_images_changed(spec: Spec, make_spec: small_spec.MakeSpec) -> None:
    images = np.array(spec.image_embeddings, np.float64)
    images[2:] += [0, 3, 0, 4]
    new = make_spec(image_embeddings=images, previous=spec.digest)
    diff = diff_specs(spec, new)
    assert [change.path for change in diff.fields] == ["previous", "tensors.sha256"]
    assert (diff.fields[0].old, diff.fields[0].new) == (None, spec.digest)
    assert [shift.prompt for shift in diff.prompt_shifts] == ["a dog", "a cat"]
    assert diff.prompt_shifts[0].shift == pytest.approx(5, abs=0.01)
    assert diff.prompt_shifts[1].shift == 0

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        pairs = [np.exp(-0.02 * ((a - b) ** 2).sum()) for a in x for b in y]
        return float(np.mean(pairs))

    x, y = (item.image_embeddings.astype(np.float64) for item in (spec, new))
    slow = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    assert diff.mmd2 == pytest.approx(slow, rel=1e-9)


def test_the_order_of_images_does_not_matter(spec: Spec, make_spec: small_spec.MakeSpec) -> None:
    order = [2, 0, 3, 1]
    other = make_spec(
        image_embeddings=spec.image_embeddings[order],
        image_prompt=spec.image_prompt[order],
    )
    diff = diff_specs(spec, other)
    assert diff.mmd2 == pytest.approx(0, abs=1e-12)
    assert max(shift.shift for shift in diff.prompt_shifts) < 1e-6


def test_own_prompts_do_not_enter(spec: Spec, make_spec: small_spec.MakeSpec) -> None:
    other = make_spec(
        prompt_sets=[PromptSet("default", 1, ("a cat", "a dog")), PromptSet("own", 1, ("x",))],
        image_embeddings=np.vstack([spec.image_embeddings, np.ones((2, 4))]),
        prompt_embeddings=np.vstack([spec.prompt_embeddings, np.ones((1, 3))]),
        image_prompt=[0, 0, 1, 1, 2, 2],
    )
    diff = diff_specs(spec, other)
    assert diff.mmd2 == pytest.approx(0, abs=1e-12)
    assert "prompt_sets[1].prompts[0]" in {change.path for change in diff.fields}


def test_incomparable(spec: Spec, make_spec: small_spec.MakeSpec) -> None:
    values = spec.manifest.encoder.model_dump()
    encoder = EncoderRef(**{**values, "weights_sha256": "9" * 64})
    by_encoder = diff_specs(spec, make_spec(encoder=encoder))
    by_prompts = diff_specs(spec, make_spec(prompt_sets=[PromptSet("default", 2, ("a", "b"))]))
    for diff, word in ((by_encoder, "encoders"), (by_prompts, "prompts")):
        assert word in (diff.incomparable or "")
        assert diff.mmd2 is None
        assert diff.prompt_shifts == ()
        assert diff.fields


def test_a_changed_base_is_shown(spec: Spec, make_spec: small_spec.MakeSpec) -> None:
    def on_base(*digits: str) -> Spec:
        files = tuple(
            WeightFile(path=f"part-{number}", size=7, sha256=digit * 64)
            for number, digit in enumerate(digits)
        )
        return make_spec(
            model=DescribedModel(**{**vars(spec.manifest.model), "base_weights": files})
        )

    retrained = diff_specs(on_base("a", "b"), on_base("a", "c"))
    assert [(change.path, change.old, change.new) for change in retrained.fields] == [
        ("model.base_weights[1].sha256", "b" * 64, "c" * 64)
    ]
    assert retrained.incomparable is None
    assert not retrained.identical
    learnt = diff_specs(spec, on_base("a"))
    assert [(change.path, change.old, change.new) for change in learnt.fields] == [
        ("model.base_weights[0].path", None, "part-0"),
        ("model.base_weights[0].sha256", None, "a" * 64),
        ("model.base_weights[0].size", None, 7),
    ]
