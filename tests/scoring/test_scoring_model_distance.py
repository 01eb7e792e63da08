"""The discrepancy between models: its definition, what it cancels, and its edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.scoring.model_distance import (
    content_means,
    model_distances,
    residuals,
    shared_contributions,
)

GAMMA = 0.05
PROMPTS, EACH, WIDTH = 6, 2, 5
IMAGE_PROMPT = np.repeat(np.arange(PROMPTS), EACH)


def kernel(x, y):
    return np.exp(-GAMMA * ((x[:, None] - y[None]) ** 2).sum(-1))


def slow(x, y):
    """MMD², pair by pair, in float64."""
    return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()


def drawn(models, *, content=3.0, style=1.0, seed=0):
    """Images of models that share content and differ in style: [M, N, D]."""
    rng = np.random.default_rng(seed)
    shared = content * rng.standard_normal((1, PROMPTS, WIDTH))[:, IMAGE_PROMPT]
    own = style * rng.standard_normal((models, 1, WIDTH))
    return shared + own + 0.3 * rng.standard_normal((models, PROMPTS * EACH, WIDTH))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_without_content_it_is_the_discrepancy_of_the_images(dtype):
    z = drawn(4).astype(dtype)
    exemplar = drawn(1, seed=1)[0, :7].astype(dtype)
    found = model_distances(z, exemplar, GAMMA)
    expected = [slow(rows.astype(float), exemplar.astype(float)) for rows in z]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_with_content_it_is_that_of_the_residuals():
    z = drawn(4)
    exemplar = drawn(1, seed=1)[0, ::EACH]
    content = content_means(z, IMAGE_PROMPT, PROMPTS)
    found = model_distances(
        z,
        exemplar,
        GAMMA,
        image_prompt=IMAGE_PROMPT,
        exemplar_prompt=np.arange(PROMPTS),
        content=content,
    )
    expected = [slow(rows - content[IMAGE_PROMPT], exemplar - content) for rows in z]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_content_means_are_means_over_models_and_images():
    z = drawn(3).astype(np.float16)
    means = content_means(z, IMAGE_PROMPT, PROMPTS + 1)
    for prompt in range(PROMPTS):
        rows = z[:, prompt == IMAGE_PROMPT].reshape(-1, WIDTH).astype(float)
        np.testing.assert_allclose(means[prompt], rows.mean(axis=0), atol=1e-9)
    assert not means[PROMPTS].any()
    np.testing.assert_allclose(
        residuals(z, IMAGE_PROMPT, means).mean(axis=(0, 1)), np.zeros(WIDTH), atol=1e-5
    )
    with pytest.raises(ValueError, match="no models"):
        content_means(z[:0], IMAGE_PROMPT, PROMPTS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-20, 20))
def test_what_all_models_share_for_a_prompt_changes_nothing(seed, size):
    """The invariant that the name promises: content added to all images of a prompt cancels."""
    z = drawn(5, seed=seed)
    added = size * np.random.default_rng(seed + 1).standard_normal((PROMPTS, WIDTH))

    def distances(images):
        others = images[1:]
        return model_distances(
            others,
            images[0],
            GAMMA,
            image_prompt=IMAGE_PROMPT,
            exemplar_prompt=IMAGE_PROMPT,
            content=content_means(others, IMAGE_PROMPT, PROMPTS),
        )

    np.testing.assert_allclose(distances(z + added[IMAGE_PROMPT]), distances(z), atol=1e-9)


def test_cancelled_content_lets_style_be_seen():
    """Two halves of the prompts, hence other content: the model itself is found by its style."""
    hits = {"plain": 0, "cancelled": 0}
    for seed in range(30):
        z = drawn(8, content=4.0, seed=seed)
        first, second = z[:, : 3 * EACH], z[:, 3 * EACH :]
        halves = np.repeat(np.arange(3), EACH)
        content = [content_means(half, halves, 3) for half in (first, second)]
        for model in range(len(z)):
            plain = model_distances(second, first[model], GAMMA)
            own = residuals(first[model], halves, content[0])
            cancelled = model_distances(residuals(second, halves, content[1]), own, GAMMA)
            hits["plain"] += int(plain.argmin() == model)
            hits["cancelled"] += int(cancelled.argmin() == model)
    assert hits["cancelled"] > 1.3 * hits["plain"]


def test_a_twin_is_at_zero_and_nothing_is_below():
    z = drawn(5).astype(np.float32)
    content = content_means(z, IMAGE_PROMPT, PROMPTS)
    prompts = {"image_prompt": IMAGE_PROMPT, "exemplar_prompt": IMAGE_PROMPT}
    for options in ({}, prompts | {"content": content}):
        found = model_distances(z, z[2], GAMMA, **options)
        assert found[2] == pytest.approx(0, abs=1e-6)
        assert (found >= 0).all()
        assert (np.delete(found, 2) > 0.01).all()


def test_the_order_of_an_exemplars_rows_does_not_matter():
    z = drawn(3)
    order = np.random.default_rng(0).permutation(PROMPTS * EACH)
    options = {
        "image_prompt": IMAGE_PROMPT,
        "content": content_means(z, IMAGE_PROMPT, PROMPTS),
    }
    straight = model_distances(z, z[0], GAMMA, exemplar_prompt=IMAGE_PROMPT, **options)
    mixed = model_distances(z, z[0][order], GAMMA, exemplar_prompt=IMAGE_PROMPT[order], **options)
    np.testing.assert_allclose(straight, mixed, atol=1e-12)


def test_many_models_come_in_blocks(monkeypatch):
    z = drawn(9)
    content = content_means(z, IMAGE_PROMPT, PROMPTS)
    whole = model_distances(z, z[0], GAMMA)
    monkeypatch.setattr("gmi_registry.scoring.model_distance._BLOCK_ELEMENTS", 2 * z[0].size)
    monkeypatch.setattr("gmi_registry.scoring.kernels._CACHED_ELEMENTS", 2 * z[0].size)
    np.testing.assert_array_equal(model_distances(z, z[0], GAMMA), whole)
    np.testing.assert_allclose(content_means(z, IMAGE_PROMPT, PROMPTS), content, atol=1e-12)
    assert model_distances(z[:0], z[0], GAMMA).shape == (0,)


def test_equal_models_tie_wherever_they_stand():
    """At a size at which BLAS rounds by where a row is."""
    rng = np.random.default_rng(0)
    one, exemplar = rng.standard_normal((2, 50, 768)).astype(np.float16)
    prompts = np.arange(50)
    copies = {"image_prompt": prompts, "exemplar_prompt": prompts, "content": one / np.float16(2)}
    alone = model_distances(one[None], exemplar, 1e-3, **copies)
    models = np.repeat(one[None], 40, axis=0)
    models[::3] = exemplar
    found = model_distances(models, exemplar, 1e-3, **copies)
    assert set(np.delete(found, np.s_[::3]).tolist()) == set(alone.tolist())


def test_what_does_not_fit_is_refused():
    z = drawn(2)
    with pytest.raises(ValueError, match="expected"):
        model_distances(z, z[0][:, :3], GAMMA)
    with pytest.raises(ValueError, match="content needs the prompts"):
        model_distances(z, z[0], GAMMA, image_prompt=IMAGE_PROMPT)
    with pytest.raises(ValueError, match="gamma"):
        model_distances(z, z[0], 0)


def test_contributions_name_the_prompts_that_are_drawn_alike():
    z = drawn(2, style=2.0)
    z[1, IMAGE_PROMPT == 4] = z[0, IMAGE_PROMPT == 4]
    found = shared_contributions(z[0], IMAGE_PROMPT, z[1], IMAGE_PROMPT, PROMPTS + 1, GAMMA)
    assert found.argmax() == 4
    assert found[PROMPTS] == 0
    pairs = kernel(z[0][IMAGE_PROMPT == 1], z[1][IMAGE_PROMPT == 1])
    assert found[1] == pytest.approx(pairs.mean())
