"""Differences of two specifications."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    PromptSet,
    Spec,
    WeightFile,
    diff_specs,
)
from gmi_registry.spec.diff import distance_between
from tests.support import small_spec


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


PROMPTS = tuple(f"prompt {number}" for number in range(40))
WIDTH = 12


def drawn(
    make_spec: small_spec.MakeSpec,
    content: np.ndarray,
    *,
    draws: int,
    seeds: tuple[int, ...] = (0,),
    style: float = 0.0,
    noise: float = 1.0,
) -> Spec:
    """A model of ``content`` [P, D], drawn with noise of its own and moved by ``style``."""
    rng = np.random.default_rng(draws)
    images = np.repeat(content + style, len(seeds), axis=0)
    values = small_spec.parts()
    return make_spec(
        encoder=EncoderRef(**{**values["encoder"].model_dump(), "image_dim": WIDTH}),
        prompt_sets=[PromptSet("default", 1, PROMPTS)],
        recipe=values["recipe"].model_copy(update={"seeds": seeds}),
        image_embeddings=images + noise * rng.normal(size=images.shape),
        prompt_embeddings=np.ones((len(PROMPTS), 3)),
        image_prompt=np.repeat(np.arange(len(PROMPTS)), len(seeds)),
    )


@pytest.fixture
def content() -> np.ndarray:
    return 3 * np.random.default_rng(99).normal(size=(len(PROMPTS), WIDTH))


def test_drawn_again_is_as_likely_as_any_order(
    make_spec: small_spec.MakeSpec, content: np.ndarray
) -> None:
    """Of forty models that were drawn again, the test takes one in twenty for another: by its
    level. What is left by a coin is what is there on average."""
    found = [
        diff_specs(
            drawn(make_spec, content, draws=2 * number),
            drawn(make_spec, content, draws=2 * number + 1),
        ).movement
        for number in range(40)
    ]
    movements = [movement for movement in found if movement is not None]
    assert len(movements) == 40
    assert sum(movement.verdict == "moved" for movement in movements) <= 5
    assert {movement.verdict for movement in movements} <= {"redrawn", "moved"}
    assert 0.35 < np.mean([movement.chance for movement in movements]) < 0.65
    ratio = np.mean([movement.mmd2 / movement.unordered for movement in movements])
    assert ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("style", "verdict"), [(0.0, "redrawn"), (1.0, "moved"), (3.0, "moved")])
def test_a_common_direction_is_seen(
    make_spec: small_spec.MakeSpec, content: np.ndarray, style: float, verdict: str
) -> None:
    movement = diff_specs(
        drawn(make_spec, content, draws=1), drawn(make_spec, content, draws=2, style=style)
    ).movement
    assert movement is not None
    assert movement.verdict == verdict
    assert (movement.mmd2 > 1.2 * movement.unordered) == (verdict == "moved")


def test_rounding_is_no_other_model(make_spec: small_spec.MakeSpec, content: np.ndarray) -> None:
    movement = diff_specs(
        drawn(make_spec, content, draws=1, noise=0.01),
        drawn(make_spec, content, draws=2, noise=0.01, style=0.05),
    ).movement
    assert movement is not None
    assert movement.chance == 0.001
    assert movement.mean_share < 0.03
    assert movement.verdict == "other numerics"


def test_seeds_of_one_model_are_a_scale(
    make_spec: small_spec.MakeSpec, content: np.ndarray
) -> None:
    old = drawn(make_spec, content, draws=1, seeds=(0, 1, 2))
    same = diff_specs(old, drawn(make_spec, content, draws=2, seeds=(2, 3))).movement
    other = diff_specs(old, drawn(make_spec, content, draws=2, seeds=(2, 3), style=1)).movement
    assert same is not None
    assert other is not None
    assert same.seeds is not None
    assert other.seeds is not None
    assert same.seeds.across == pytest.approx(same.seeds.within, rel=0.1)
    assert other.seeds.across > 1.5 * other.seeds.within

    def sets(spec: Spec) -> list[np.ndarray]:
        images = spec.image_embeddings.astype(np.float64).reshape(len(PROMPTS), -1, WIDTH)
        return list(images.transpose(1, 0, 2))

    def slow(x: np.ndarray, y: np.ndarray) -> float:
        def mean(a: np.ndarray, b: np.ndarray) -> float:
            squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
            return float(np.exp(-0.02 * squared).mean())

        return mean(x, x) + mean(y, y) - 2 * mean(x, y)

    # Seed 2 is on both sides, and with itself no pair.
    pairs = [
        (x, y)
        for a, x in zip((0, 1, 2), sets(old), strict=True)
        for b, y in zip((2, 3), sets(drawn(make_spec, content, draws=2, seeds=(2, 3))), strict=True)
        if a != b
    ]
    assert len(pairs) == 5
    assert same.seeds.across == pytest.approx(np.mean([slow(x, y) for x, y in pairs]))
    one = diff_specs(drawn(make_spec, content, draws=1), drawn(make_spec, content, draws=2))
    assert one.movement is not None
    assert one.movement.seeds is None


def test_halves_are_what_cutting_the_prompts_in_two_gives(
    make_spec: small_spec.MakeSpec, content: np.ndarray
) -> None:
    spec = drawn(make_spec, content, draws=1)
    movement = diff_specs(spec, spec).movement
    assert movement is not None
    images = spec.image_embeddings.astype(np.float64)
    squared = ((images[:, None] - images[None]) ** 2).sum(axis=2)
    kernel = np.exp(-0.02 * squared)
    rng = np.random.default_rng(5)
    found = []
    for _ in range(4000):
        signs = np.ones(len(PROMPTS))
        signs[rng.permutation(len(PROMPTS))[: len(PROMPTS) // 2]] = -1
        found.append(signs @ kernel @ signs / (len(PROMPTS) / 2) ** 2)
    assert movement.halves == pytest.approx(np.mean(found), rel=0.01)
    assert movement.verdict == "unmoved"


def test_two_prompts_are_too_few(spec: Spec, make_spec: small_spec.MakeSpec) -> None:
    other = make_spec(image_embeddings=np.array(spec.image_embeddings, np.float64) + 2)
    movement = diff_specs(spec, other).movement
    assert movement is not None
    assert movement.prompts == 2
    assert movement.verdict == "too few prompts"


def test_the_distance_between_two_is_that_of_the_diff(
    spec: Spec, make_spec: small_spec.MakeSpec, content: np.ndarray
) -> None:
    one, other = (drawn(make_spec, content, draws=number) for number in (1, 2))
    assert distance_between(one, other) == pytest.approx(diff_specs(one, other).mmd2, rel=1e-12)
    assert distance_between(one, spec) is None


def test_shifts_know_their_prompt_and_their_size(
    make_spec: small_spec.MakeSpec, content: np.ndarray
) -> None:
    old = drawn(make_spec, content, draws=1)
    images = np.array(old.image_embeddings, np.float64)
    images[7] *= 2
    new = make_spec(
        encoder=old.manifest.encoder,
        prompt_sets=[PromptSet("default", 1, PROMPTS)],
        recipe=old.manifest.generation.recipe,
        image_embeddings=images,
        prompt_embeddings=old.prompt_embeddings,
        image_prompt=old.image_prompt,
    )
    first = diff_specs(old, new).prompt_shifts[0]
    assert (first.index, first.prompt) == (7, "prompt 7")
    assert first.share == pytest.approx(0.5, abs=1e-3)
