"""The fast forms agree with the plain ones, and to the last bit where that is promised."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.scoring import kernels
from gmi_registry.scoring.default import WhitenedMeans, mean_images, whitened_means
from gmi_registry.scoring.kernels import grams, widened
from gmi_registry.scoring.paper import Invariants, paper_distances
from gmi_registry.scoring.scatter import WithinScatter
from tests.support.hostile_hubs import KINDS, hub, mean_distances


def plain(z, weights, queries, gamma):
    """Eq. 9 a model at a time, by subtraction, in float64."""
    out = np.empty((len(queries), len(z)))
    for m, images in enumerate(z.astype(np.float64)):
        own = np.exp(-gamma * np.square(images[:, None] - images).sum(-1))
        for b, query in enumerate(queries.astype(np.float64)):
            w = weights[b].astype(np.float64) / len(images)
            kernel = np.exp(-gamma * np.square(images - query).sum(-1))
            out[b, m] = w @ own @ w - 2 * w @ kernel + 1
    return out


@pytest.fixture(params=["one core", "small parts on four"])
def cut(request, monkeypatch):
    """Hubs of a test are small: parts are made smaller, so that there are many."""
    if request.param == "one core":
        monkeypatch.setattr(kernels, "cores", lambda: 1)
        return
    monkeypatch.setattr(kernels, "cores", lambda: 4)
    monkeypatch.setattr(kernels, "_SPREAD_ELEMENTS", 0)
    monkeypatch.setattr(kernels, "_STREAMED_ELEMENTS", 3000)
    monkeypatch.setattr(kernels, "_CACHED_ELEMENTS", 1000)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_one_sweep_is_the_plain_loop(kind, dtype):
    z, weights, queries, gamma = hub(kind, dtype=dtype)
    known = grams(z, gamma)
    expected = plain(z, weights, queries, gamma)
    got = paper_distances(z, weights, queries, gamma, model_grams=known)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    kept = Invariants.of(z, known)
    again = paper_distances(z, weights, queries, gamma, model_grams=known, invariants=kept)
    assert np.array_equal(got, again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_queries(kind):
    z, weights, queries, gamma = hub(kind)
    many = np.tile(queries, (20, 1)), np.tile(weights, (20, 1))
    known = grams(z, gamma)
    batch = paper_distances(z, many[1], many[0], gamma, model_grams=known)
    few = paper_distances(z, weights, queries, gamma, model_grams=known)
    np.testing.assert_allclose(batch, np.tile(few, (20, 1)), rtol=1e-5, atol=2e-6)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("weighted", [False, True])
def test_a_distance_does_not_depend_on_where_a_model_stands(weighted):
    z, weights, queries, gamma = hub("random", models=203)
    weights = weights if weighted else np.ones_like(weights)
    z[[0, 1, 17, 101, 201, 202]] = z[50]
    distances = paper_distances(z, weights, queries, gamma)
    for row in (0, 1, 17, 101, 201, 202):
        assert np.array_equal(distances[:, row], distances[:, 50])
    chosen = np.array([202, 3, 50, 77, 78])
    assert np.array_equal(paper_distances(z[chosen], weights, queries, gamma), distances[:, chosen])


def test_every_half_is_widened_to_the_last_bit():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].reshape(2, -1)
    wide = widened(finite, np.dtype(np.float32))
    assert wide.tobytes() == finite.astype(np.float32).tobytes()
    # Each half of them alone: what is no number is seen among positive and negative ones.
    for some in (halves, *np.split(halves, 2)):
        for part in (some, some[~np.isnan(some)]):
            found = widened(part, np.dtype(np.float32))
            np.testing.assert_array_equal(found, part.astype(np.float32))
    assert widened(finite[:, 3:9], np.dtype(np.float64)).dtype == np.float64
    assert widened(finite[:0], np.dtype(np.float32)).shape == (0, finite.shape[1])


@pytest.mark.usefixtures("cut")
def test_a_sweep_reaches_every_model_once_and_raises_what_went_wrong():
    seen = np.zeros(1001, int)

    def work(part):
        seen[part] += 1

    kernels.swept(work, len(seen), 30, streamed=True, spread=True)
    assert (seen == 1).all()

    def fails(part):
        raise RuntimeError(f"from {part.start}")

    with pytest.raises(RuntimeError, match="from "):
        kernels.swept(fails, 1001, 30, streamed=False, spread=True)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("kind", KINDS)
def test_means_that_are_kept_give_the_whitened_distance(kind):
    z, _, queries, _ = hub(kind)
    scatter, means = WithinScatter.of(z), mean_images(z)
    expected = mean_distances(means, queries, 1 / z.shape[1], scatter)
    kept = WhitenedMeans.of(means, scatter)
    got = kept.distances(queries, 1 / z.shape[1])
    assert got.dtype == np.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * scale)
    rows = np.arange(len(z))[::-7]
    assert np.array_equal(kept.distances(queries, 1 / z.shape[1], rows), got[:, rows])


def test_means_are_whitened_once_and_few_of_them_alone():
    z, _, queries, _ = hub("random")
    scatter, means = WithinScatter.of(z), mean_images(z)
    rows = np.array([7, 3, 200])
    few, places = whitened_means(means, scatter, rows)
    assert len(few.means) == 3
    alone = few.distances(queries, 0.1, places)
    whole, _ = whitened_means(means, scatter)
    assert whitened_means(means, scatter)[0] is whole
    same, places = whitened_means(means, scatter, rows)
    assert same is whole
    np.testing.assert_allclose(alone, same.distances(queries, 0.1, places), rtol=1e-5)
    other, _ = whitened_means(means + 1, scatter)
    assert other is not whole
