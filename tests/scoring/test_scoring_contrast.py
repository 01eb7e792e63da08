"""Pictures for and against: what cancels, what moves, and in which direction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gmi_registry.scoring import SCORES, Candidates, Query, mid_ranks
from gmi_registry.scoring.contrast import against, contrasted

MODELS, PROMPTS, WIDTH = 12, 6, 5
RNG = np.random.default_rng(4)
STYLES = 4 * RNG.standard_normal((MODELS, 1, WIDTH))
CANDIDATES = Candidates(
    image_embeddings=STYLES + RNG.standard_normal((MODELS, PROMPTS, WIDTH)),
    prompt_embeddings=RNG.uniform(0.1, 1, (PROMPTS, 3)),
    image_prompt=np.arange(PROMPTS),
    downloads=np.arange(MODELS, dtype=float) * 100,
)
positive = arrays(np.float64, 7, elements=st.floats(1e-3, 1e6))
finite = arrays(np.float64, 7, elements=st.floats(-1e6, 1e6))


def query(*rows):
    return Query(
        image_embeddings=np.stack(rows).astype(np.float64),
        prompt_embeddings=np.ones((len(rows), 3)),
        pseudo_prompts=("a cat",) * len(rows),
        interrogator="prompt",
        encoder_id="e",
    )


def style(model, seed=0):
    """A picture that the model might draw."""
    return STYLES[model, 0] + np.random.default_rng(seed).standard_normal(WIDTH)


@pytest.mark.parametrize("score", sorted(SCORES))
def test_equal_pictures_for_and_against_leave_chance(score):
    both = query(style(3), style(7))
    found = against(SCORES[score], both)(CANDIDATES, both)
    np.testing.assert_array_equal(mid_ranks(found), np.full(MODELS, (MODELS + 1) / 2))


@pytest.mark.parametrize("score", ["default", "paper", "rkme-clip", "modelverse", "size-1"])
@pytest.mark.parametrize("model", range(0, MODELS, 3))
def test_a_picture_of_a_models_own_style_moves_it_down(score, model):
    wanted = query(style((model + 1) % MODELS), style(model))
    alone = mid_ranks(SCORES[score](CANDIDATES, wanted))
    contrast = against(SCORES[score], query(style(model, seed=9)))(CANDIDATES, wanted)
    assert mid_ranks(contrast)[model] > alone[model]
    assert mid_ranks(contrast)[model] > MODELS / 2


@given(positive, positive)
def test_a_ratio_of_distances(wanted, unwanted):
    found = contrasted(wanted, unwanted)
    np.testing.assert_allclose(found, wanted / (wanted + unwanted), rtol=1e-9)
    # For and against changing places turns the order round.
    np.testing.assert_allclose(found + contrasted(unwanted, wanted), np.ones(7), atol=1e-12)


@given(positive, positive, st.integers(0, 6), st.floats(1.1, 100))
def test_nearer_to_what_is_not_wanted_is_farther(wanted, unwanted, model, factor):
    before = contrasted(wanted, unwanted)
    nearer, farther = unwanted.copy(), wanted.copy()
    nearer[model] /= factor
    farther[model] *= factor
    assert contrasted(wanted, nearer)[model] > before[model]
    assert contrasted(farther, unwanted)[model] > before[model]
    others = np.arange(7) != model
    np.testing.assert_array_equal(contrasted(wanted, nearer)[others], before[others])


@given(positive, st.floats(1e-3, 1e3))
def test_a_score_of_another_scale_gives_the_same(wanted, scale):
    unwanted = wanted[::-1].copy()
    np.testing.assert_allclose(
        contrasted(scale * wanted, scale * unwanted), contrasted(wanted, unwanted), rtol=1e-9
    )


@given(finite, finite, st.floats(-1e3, 1e3))
def test_logarithms_are_subtracted(wanted, unwanted, constant):
    found = contrasted(wanted, unwanted, logarithms=True)
    np.testing.assert_array_equal(found, wanted - unwanted)
    # A likelihood is known up to a factor, which must not matter.
    moved = contrasted(wanted + constant, unwanted + constant, logarithms=True)
    np.testing.assert_allclose(moved, found, atol=1e-6)


@pytest.mark.parametrize("score", ["modelverse-second", "modelverse-monte-carlo"])
def test_scores_that_are_logarithms_are_subtracted(score):
    wanted, unwanted = query(style(1)), query(style(2))
    found = against(SCORES[score], unwanted)(CANDIDATES, wanted)
    expected = SCORES[score](CANDIDATES, wanted) - SCORES[score](CANDIDATES, unwanted)
    np.testing.assert_allclose(found, expected)
    assert found.argmin() != 2


def test_the_edges_of_a_ratio():
    infinite, below = np.inf, -0.3
    found = contrasted(
        np.array([0, 0, 1, infinite, infinite, 1, below]),
        np.array([0, 1, 0, 1, infinite, infinite, 1]),
    )
    assert found.tolist() == [0.5, 0, 1, 1, 0.5, 0, 0]
    assert np.isnan(contrasted(np.array([np.nan]), np.array([1.0]))[0])
    assert contrasted(np.empty(0), np.empty(0)).shape == (0,)


def test_a_model_far_from_everything_does_not_win():
    """What a plain difference of squared distances would let happen."""
    near, middle, far = np.zeros(2), np.array([1.0, 0]), np.array([-60.0, 0])
    z = np.stack([point + 0.1 * RNG.standard_normal((6, 2)) for point in (near, middle, far)])
    candidates = Candidates(z, np.ones((6, 3)), np.arange(6))
    wanted, unwanted = query(near), query(middle)
    score = SCORES["default"]
    difference = score(candidates, wanted) - score(candidates, unwanted)
    assert difference.argmin() == 2
    assert against(score, unwanted)(candidates, wanted).argmin() == 0
