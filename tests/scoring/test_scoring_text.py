"""A text against the images of models, in a space that both share."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.scoring.confidence import confidences
from gmi_registry.scoring.query import distances_with_text, text_contributions, text_distances

PROMPTS, EACH, WIDTH = 5, 2, 8
IMAGE_PROMPT = np.repeat(np.arange(PROMPTS), EACH)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((70, PROMPTS * EACH, WIDTH))
    return images, rng.standard_normal((PROMPTS, WIDTH)), rng.standard_normal(WIDTH)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_it_is_its_formula(arrays, monkeypatch):
    images, prompts, text = arrays
    weights = np.maximum(unit(prompts) @ unit(text), 0)[IMAGE_PROMPT]
    weights /= weights.sum()
    means = [(weights[:, None] * unit(rows)).sum(axis=0) for rows in images]
    expected = [1 - unit(mean) @ unit(text) for mean in means]
    found = text_distances(images, prompts, IMAGE_PROMPT, text)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    monkeypatch.setattr("gmi_registry.scoring.kernels._CACHED_ELEMENTS", 3 * images[0].size)
    np.testing.assert_allclose(text_distances(images, prompts, IMAGE_PROMPT, text), expected)


def test_an_image_of_zeros_changes_no_other_models_distance():
    rng = np.random.default_rng(3)
    images = rng.standard_normal((12, 50, 768)).astype(np.float16)
    images[::2] = images[1]
    prompts, text = rng.standard_normal((50, 768)), rng.standard_normal(768).astype(np.float32)
    images[3, 0] = 0
    found = text_distances(images, prompts.astype(np.float32), np.arange(50), text)
    assert len(set(found[::2].tolist())) == 1


def test_the_model_whose_images_lie_along_the_text_comes_first(arrays):
    images, prompts, text = arrays
    images[17] += 2 * text
    found = text_distances(images.astype(np.float16), prompts, IMAGE_PROMPT, text)
    assert found.argmin() == 17
    assert ((found >= 0) & (found <= 2)).all()


def test_norms_do_not_matter(arrays):
    images, prompts, text = arrays
    scaled = text_distances(7 * images, 0.1 * prompts, IMAGE_PROMPT, 100 * text)
    np.testing.assert_allclose(
        scaled, text_distances(images, prompts, IMAGE_PROMPT, text), atol=1e-9
    )


def test_images_of_prompts_that_the_text_does_not_name_count_less(arrays):
    images, _, _ = arrays
    prompts = np.eye(PROMPTS, WIDTH)
    text = np.eye(PROMPTS, WIDTH)[2]
    elsewhere = images.copy()
    elsewhere[:, IMAGE_PROMPT != 2] += 5
    np.testing.assert_allclose(
        text_distances(elsewhere, prompts, IMAGE_PROMPT, text),
        text_distances(images, prompts, IMAGE_PROMPT, text),
    )


def test_a_text_near_no_prompt_is_compared_with_all_images(arrays):
    images, _, text = arrays
    opposite = np.repeat(-text[None], PROMPTS, axis=0)
    expected = [1 - unit(unit(rows).mean(axis=0)) @ unit(text) for rows in images]
    np.testing.assert_allclose(text_distances(images, opposite, IMAGE_PROMPT, text), expected)


def test_zeros_do_not_divide(arrays):
    images, prompts, text = arrays
    found = text_distances(0 * images, prompts, IMAGE_PROMPT, text)
    np.testing.assert_array_equal(found, np.ones(len(images)))
    np.testing.assert_array_equal(
        text_distances(images, prompts, IMAGE_PROMPT, 0 * text), np.ones(len(images))
    )


def test_towers_of_two_widths_share_no_space(arrays):
    images, prompts, text = arrays
    with pytest.raises(ValueError, match=r"widths \[3, 8\] have no common space"):
        text_distances(images, prompts[:, :3], IMAGE_PROMPT, text)


def test_contributions_sum_to_the_mean_cosine(arrays):
    images, prompts, text = arrays
    found = text_contributions(images[3], prompts, IMAGE_PROMPT, text)
    weights = np.maximum(unit(prompts) @ unit(text), 0)[IMAGE_PROMPT]
    weights /= weights.sum()
    assert found.shape == (PROMPTS,)
    assert found.sum() == pytest.approx(weights @ (unit(images[3]) @ unit(text)))


@pytest.mark.parametrize("count", [1, 4])
def test_beside_images_the_chances_of_both_are_multiplied(count):
    rng = np.random.default_rng(1)
    distances, to_text = 9 * rng.random(12), rng.random(12)
    joint = distances_with_text(distances, to_text, count, temperature=1.7, logit_scale=20)
    images = confidences(distances, count, temperature=1.7)
    product = images * np.exp(-20 * to_text)
    found = confidences(joint, count, temperature=1.7)
    np.testing.assert_allclose(found, product / product.sum(), rtol=1e-9)


def test_words_that_fit_all_alike_leave_the_order_and_the_chances():
    distances = np.array([3.0, 1.0, 2.0])
    joint = distances_with_text(distances, np.full(3, 0.8), 1, temperature=2, logit_scale=100)
    np.testing.assert_allclose(confidences(joint, 1), confidences(distances, 1))


@pytest.mark.parametrize(("count", "temperature", "scale"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_beside_images_nothing_may_be_zero(count, temperature, scale):
    with pytest.raises(ValueError, match="needs an image, T > 0 and s > 0"):
        distances_with_text(
            np.ones(2), np.ones(2), count, temperature=temperature, logit_scale=scale
        )
