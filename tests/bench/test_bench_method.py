"""The methods of a benchmark are the scores of a search, on many images at a time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.paper.definition import PROTOCOLS, group_of, images_of, windows
from benchmarks.paper.methods import METHODS, WITH_FIT, Fit, Gallery, Queries
from benchmarks.paper.score import UNFITTED
from gmi_registry.scoring import SCORES, Candidates, Query, WithinScatter, rkme_distance

MODELS, PROMPTS, SEEDS, WIDTH, TEXT = 3, 4, 2, 6, 5
IMAGES = 140  # more than one block


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(3).integers(0, 256, (MODELS * PROMPTS * SEEDS + IMAGES, 2, 2, 3))
    paths = []
    for number, each in enumerate(pixels.astype(np.uint8)):
        paths.append(folder / f"{number}.png")
        Image.fromarray(each).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def gallery(pictures):
    draw = np.random.default_rng(1)
    rows = PROMPTS * SEEDS
    images = draw.normal(size=(MODELS, rows, WIDTH))
    scatter = WithinScatter.of(images)
    member = Candidates(
        image_embeddings=images,
        prompt_embeddings=draw.normal(size=(PROMPTS, TEXT)),
        image_prompt=np.repeat(np.arange(PROMPTS), SEEDS),
        gamma=0.1,
        scatter=lambda: scatter,
        downloads=np.array([5.0, np.nan, 9.0]),
    )
    shown = tuple(tuple(pictures[m * rows : (m + 1) * rows]) for m in range(MODELS))
    return Gallery((member,), shown)


@pytest.fixture(scope="module")
def queries(pictures):
    draw = np.random.default_rng(2)
    pseudo = draw.normal(size=(IMAGES, TEXT))
    return Queries(
        images=draw.normal(size=(IMAGES, WIDTH)),
        truth=draw.normal(size=(IMAGES, TEXT)),
        pseudo=pseudo,
        pictures=tuple(pictures[-IMAGES:]),
    )


def asked(images, prompts):
    said = tuple(f"prompt {number}" for number in range(len(images)))
    return Query(images, prompts, said, "phrases", "encoder")


@pytest.mark.parametrize("name", sorted(SCORES))
def test_a_method_is_the_score_of_that_name(name, gallery, queries):
    each = METHODS[name](gallery, queries, UNFITTED)
    assert each.shape == (IMAGES, MODELS)
    assert each.dtype == np.float64
    for row in (0, 131):
        task = slice(row, row + 3)
        query = asked(queries.images[task], queries.pseudo[task])
        wanted = SCORES[name](gallery.members[0], query)
        np.testing.assert_allclose(each[task].mean(axis=0), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["paper", "default"])
def test_ground_truth_and_none(name, gallery, queries):
    member = gallery.members[0]
    truth = METHODS[f"{name}-ground-truth"](gallery, queries, UNFITTED)
    wanted = SCORES[name](member, asked(queries.images[:1], queries.truth[:1]))
    np.testing.assert_allclose(truth[0], wanted, rtol=1e-9)
    none = METHODS[f"{name}-none"](gallery, queries, UNFITTED)
    query = Query(queries.images[:1], None, (None,), "none", "encoder")
    np.testing.assert_allclose(none[0], SCORES[name](member, query), rtol=1e-9)


def test_an_image_without_a_guess_is_one_without_weights(gallery, queries):
    silent = Queries(queries.images, queries.truth, queries.pseudo * 0, queries.pictures)
    np.testing.assert_array_equal(
        METHODS["paper"](gallery, silent, UNFITTED),
        METHODS["paper-none"](gallery, queries, UNFITTED),
    )


def test_fitted_methods_use_what_was_fitted(gallery, queries):
    fit = Fit(gamma=0.1, shrinkage=1.0)  # the gallery's own, and the package's
    for name in WITH_FIT:
        plain = METHODS[name.removesuffix("-fitted")](gallery, queries, UNFITTED)
        np.testing.assert_array_equal(METHODS[name](gallery, queries, fit), plain)
        other = METHODS[name](gallery, queries, Fit(gamma=0.3, shrinkage=0.3))
        assert not np.allclose(other, plain)


def test_models_apart_are_models_together(gallery, queries):
    """With a gallery of single models, as developers' own prompts need it."""
    whole = gallery.members[0]
    single = tuple(
        Candidates(
            whole.image_embeddings[m : m + 1],
            whole.prompt_embeddings,
            whole.image_prompt,
            whole.gamma,
            scatter=whole.scatter,
            downloads=whole.downloads[m : m + 1],
        )
        for m in range(MODELS)
    )
    apart = Gallery(single, gallery.pictures)
    for name, method in METHODS.items():
        np.testing.assert_allclose(
            method(apart, queries, UNFITTED),
            method(gallery, queries, UNFITTED),
            rtol=1e-9,
            atol=1e-12,
            err_msg=name,
        )


def test_pixels(gallery, queries):
    distances = METHODS["rkme-basic"](gallery, queries, UNFITTED)
    for row, model in ((0, 0), (139, 2)):
        own = np.stack([pixels(path) for path in gallery.pictures[model]])
        wanted = rkme_distance(own, pixels(queries.pictures[row]), 0.1)
        assert distances[row, model] == pytest.approx(wanted, rel=1e-9)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).ravel() / 255


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_every_image_is_asked_with_equally_often(count):
    found = list(windows(3, 2, count))
    assert len(found) == 6
    assert all(len(set(window)) == count for window in found)
    every = [pair for window in found for pair in window]
    assert {every.count(pair) for pair in set(every)} == {count}
    assert len(set(every)) == 6


def test_a_task_of_more_images_holds_that_of_fewer():
    for fewer, more in zip(windows(4, 3, 2), windows(4, 3, 3), strict=True):
        assert more[:2] == fewer


def test_protocols():
    assert [images_of(name) for name in PROTOCOLS] == [1, 2, 3, 4, 5, 1, 1, 1, 1, 1]
    groups = [group_of(prompt, 18) for prompt in range(18)]
    assert groups == ["1"] * 6 + ["2"] * 6 + ["3"] * 6
