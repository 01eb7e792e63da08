"""The table of scores, the query, and the candidates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gmi_registry.errors import InputError
from gmi_registry.scoring import SCORES, Candidates, Query, paper_distance, score_named
from gmi_registry.scoring.query import cosine_weights


@pytest.fixture
def candidates():
    rng = np.random.default_rng(0)
    return Candidates(
        image_embeddings=rng.standard_normal((5, 6, 8)).astype(np.float16),
        prompt_embeddings=rng.standard_normal((3, 4)).astype(np.float16),
        image_prompt=np.array([0, 0, 1, 1, 2, 2], np.int32),
        gamma=0.1,
        downloads=np.array([5.0, 1, np.nan, 7, 2]),
    )


def ask(images=1, prompts=True, seed=1):
    rng = np.random.default_rng(seed)
    return Query(
        image_embeddings=rng.standard_normal((images, 8)).astype(np.float32),
        prompt_embeddings=rng.standard_normal((images, 4)).astype(np.float32) if prompts else None,
        pseudo_prompts=("a cat",) * images if prompts else (None,) * images,
        interrogator="phrases" if prompts else "none",
        encoder_id="abc",
    )


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("images", [1, 4])
def test_every_score_gives_one_distance_a_model_whatever_their_order(name, images, candidates):
    query = ask(images)
    distances = score_named(name)(candidates, query)
    assert distances.shape == (5,)
    assert not np.isnan(distances).any()
    assert score_named(name).__doc__
    order = np.array([3, 0, 4, 1, 2])
    moved = dataclasses.replace(
        candidates,
        image_embeddings=candidates.image_embeddings[order],
        downloads=candidates.downloads[order],
    )
    np.testing.assert_allclose(score_named(name)(moved, query), distances[order], rtol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_no_score_minds_an_empty_set(name, candidates):
    nobody = dataclasses.replace(
        candidates, image_embeddings=candidates.image_embeddings[:0], downloads=None
    )
    assert score_named(name)(nobody, ask()).shape == (0,)


@pytest.mark.parametrize("name", [name for name in SCORES if name != "download"])
def test_every_score_finds_the_model_whose_images_are_the_query(name):
    rng = np.random.default_rng(2)
    centres = 4 * rng.standard_normal((5, 1, 8))
    z = (centres + 0.1 * rng.standard_normal((5, 6, 8))).astype(np.float16)
    candidates = Candidates(z, np.eye(6, 4, dtype=np.float16) + 1, np.arange(6), gamma=0.02)
    query = dataclasses.replace(
        ask(2),
        image_embeddings=z[3, :2].astype(np.float32),
        prompt_embeddings=np.ones((2, 4), np.float32),
    )
    assert score_named(name)(candidates, query).argmin() == 3


def test_paper_takes_the_mean_over_images_each_with_its_own_weights(candidates):
    query = ask(3)
    for m, distance in enumerate(SCORES["paper"](candidates, query)):
        alone = [
            paper_distance(
                candidates.image_embeddings[m],
                cosine_weights(candidates.prompt_embeddings, candidates.image_prompt, prompt),
                image,
                candidates.gamma,
            )
            for image, prompt in zip(query.image_embeddings, query.prompt_embeddings, strict=True)
        ]
        assert distance == pytest.approx(np.mean(alone), abs=1e-6)


def test_without_a_prompt_paper_is_rkme_clip(candidates):
    query = ask(2, prompts=False)
    assert not query.has_prompts
    np.testing.assert_array_equal(
        SCORES["paper"](candidates, query), SCORES["rkme-clip"](candidates, query)
    )


def test_an_image_without_a_pseudo_prompt_weighs_all_alike():
    query = dataclasses.replace(ask(2), pseudo_prompts=("a cat", None))
    weights = query.weights(np.eye(3, 4, dtype=np.float16), np.array([0, 1, 2, 2]))
    assert weights.dtype == np.float32
    assert query.has_prompts
    np.testing.assert_array_equal(weights[1], np.ones(4))
    assert weights[0, 2] == weights[0, 3] != 1


def test_downloads_unknown_ties_all(candidates):
    candidates = dataclasses.replace(candidates, downloads=None)
    assert not SCORES["download"](candidates, ask()).any()


def test_an_unknown_score_names_those_there_are():
    with pytest.raises(InputError) as caught:
        score_named("best")
    assert "rkme-clip" in str(caught.value.hint)


def test_rkme_concat_says_that_it_needs_a_prompt(candidates):
    with pytest.raises(InputError, match="prompt"):
        SCORES["rkme-concat"](candidates, ask(prompts=False))


@pytest.mark.parametrize(
    "change",
    [
        {"image_embeddings": np.ones(8, np.float32)},
        {"image_embeddings": np.ones((0, 8), np.float32), "pseudo_prompts": ()},
        {"image_embeddings": np.full((1, 8), np.nan, np.float32)},
        {"prompt_embeddings": np.full((1, 4), np.inf, np.float32)},
        {"prompt_embeddings": np.ones((2, 4), np.float32)},
        {"pseudo_prompts": ("a", "b")},
    ],
)
def test_a_query_that_does_not_fit_together_is_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(ask(), **change)


@pytest.mark.parametrize(
    "change",
    [
        {"image_embeddings": np.ones((6, 8))},
        {"image_embeddings": np.ones((5, 0, 8)), "image_prompt": np.empty(0, np.int32)},
        {"image_prompt": np.array([0, 1])},
        {"image_prompt": np.array([0, 0, 1, 1, 2, 3])},
        {"image_prompt": np.array([0, 0, 1, 1, 2, -1])},
        {"grams": np.ones((5, 2, 2))},
        {"downloads": np.ones(4)},
    ],
)
def test_candidates_that_do_not_fit_together_are_refused(change, candidates):
    with pytest.raises(ValueError, match=r"shape|must be|must lie|at least"):
        dataclasses.replace(candidates, **change)
