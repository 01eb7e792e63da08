"""Estimates that choose, and distances that decide."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.scoring import coarse
from gmi_registry.scoring.clusters import clustered, nearest_cells
from gmi_registry.scoring.coarse import CoarseSpace, settled
from gmi_registry.scoring.default import mean_distances
from gmi_registry.scoring.within import WithinScatter


def hub(seed=0, models=3000, width=24, families=40):
    """Means in families, and images around some of them: [M, D], [B, D], and the scatter."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, width + 1) ** -0.7
    styles = rng.standard_normal((families, width)) * scale * 3
    means = styles[np.arange(models) % families] + rng.standard_normal((models, width)) * scale
    noise = rng.standard_normal((900, width)) * scale * 2
    scatter = WithinScatter(noise.T @ noise, 899)
    return (means + 4).astype(np.float32), (means[5:9] + noise[:4] + 4).astype(np.float32), scatter


def test_estimates_with_all_directions_are_the_distances():
    means, images, scatter = hub()
    space = CoarseSpace.learnt(means, scatter)
    coded = space.coded(means)
    wanted = mean_distances(means, images, 1 / 9, scatter=scatter).mean(axis=0)
    assert space.directions.shape == (24, 24)
    assert space.estimates(coded, images, 1 / 9) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    exact = space.distances(means, coded.lengths, images, 1 / 9)
    assert exact == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_fewer_directions_lose_what_is_outside_of_them_and_no_more(monkeypatch):
    means, images, scatter = hub()
    off = []
    for directions in (2, 6, 12):
        monkeypatch.setattr(coarse, "_DIRECTIONS", directions)
        monkeypatch.setattr(coarse, "_FURTHER", 0)
        space = CoarseSpace.learnt(means, scatter)
        coded = space.coded(means)
        assert coded.codes.shape == (3000, directions)
        wanted = space.distances(means, coded.lengths, images, 1 / 9)
        off.append(np.abs(space.estimates(coded, images, 1 / 9) - wanted).mean())
    assert off[0] > off[1] > off[2] > 0
    assert off[2] < 0.2 * wanted.std()


def test_further_numbers_are_read_of_the_nearest_alone(monkeypatch):
    means, images, scatter = hub()
    monkeypatch.setattr(coarse, "_DIRECTIONS", 3)
    monkeypatch.setattr(coarse, "_REFINED", 200)
    space = CoarseSpace.learnt(means, scatter)
    coded = space.coded(means)
    assert (coded.codes.shape, coded.further.shape) == ((3000, 3), (3000, 21))
    exact = space.distances(means, coded.lengths, images, 1 / 9)
    off = np.abs(space.estimates(coded, images, 1 / 9) - exact)
    right = off < 0.02
    assert 190 < right.sum() < 900
    assert exact[right].mean() < exact[~right].mean()


def test_a_model_that_is_off_the_scale_has_an_estimate_all_the_same():
    means, images, scatter = hub()
    means[7] *= 1e6
    space = CoarseSpace.learnt(means[8:], scatter)
    coded = space.coded(means)
    found = space.estimates(coded, images, 1 / 9)
    assert np.isfinite(coded.further).all()
    assert np.isfinite(found).all()
    assert found.argmax() == 7


def test_the_same_means_give_the_same_bytes_and_rows_stand_alone():
    means, images, scatter = hub()
    first, second = (CoarseSpace.learnt(means, scatter) for _ in range(2))
    assert np.array_equal(first.centroids, second.centroids)
    coded = first.coded(means)
    rows = np.array([7, 2999, 40])
    alone = first.coded(means[rows])
    assert np.array_equal(alone.cells, coded.cells[rows])
    assert alone.codes == pytest.approx(coded.codes[rows], abs=1e-4)
    picked = first.estimates(coded.at(rows), images, 0.1)
    assert np.array_equal(picked, first.estimates(coded, images, 0.1)[rows])


@pytest.mark.parametrize("directions", [1, 4, 12])
@pytest.mark.parametrize("count", [1, 10])
def test_the_nearest_are_right_whatever_estimates_say(monkeypatch, directions, count):
    monkeypatch.setattr(coarse, "_DIRECTIONS", directions)
    monkeypatch.setattr(coarse, "_FURTHER", 2 * directions)
    monkeypatch.setattr(coarse, "_REFINED", 100)
    monkeypatch.setattr(coarse, "_FIRST", 20)
    monkeypatch.setattr(coarse, "_EACH", 4)
    right, asked = 0, []
    for seed in range(5):
        means, images, scatter = hub(seed)
        space = CoarseSpace.learnt(means, scatter)
        coded = space.coded(means)
        for image in images:
            exact = space.distances(means, coded.lengths, image[None], 0.1)

            def known(rows, exact=exact):
                assert (np.diff(rows) > 0).all()
                asked.append(len(rows))
                return exact[rows]

            found = settled(space.estimates(coded, image[None], 0.1), known, count)
            order = np.argsort(found, kind="stable")
            least = np.argsort(exact, kind="stable")[:count]
            right += len(set(order[:count]) & set(least))
    assert right >= 0.99 * 20 * count
    assert sum(asked) < 20 * 3000


def test_all_are_asked_for_where_estimates_say_nothing():
    rng = np.random.default_rng(1)
    exact = rng.standard_normal(10_000)
    found = settled(rng.standard_normal(10_000), lambda rows: exact[rows], 5)
    assert np.array_equal(found, exact)
    few = settled(np.zeros(7), lambda rows: exact[rows], 3)
    assert np.array_equal(few, exact[:7])
    with pytest.raises(ValueError, match="count"):
        settled(np.zeros(7), lambda rows: exact[rows], 0)


def test_equal_estimates_are_no_trouble():
    exact = np.arange(20_000)[::-1].astype(np.float32)
    found = settled(np.zeros(20_000, np.float32), lambda rows: exact[rows], 3)
    assert np.array_equal(np.argsort(found)[:3], [19_999, 19_998, 19_997])


def test_cells_are_those_of_their_centroids():
    points = np.concatenate(
        [np.random.default_rng(n).standard_normal((50, 3)) + 40 * n for n in range(4)]
    ).astype(np.float32)
    cells = clustered(points, 4)
    assert [len(set(cells[start : start + 50])) for start in range(0, 200, 50)] == [1] * 4
    assert len(set(cells)) == 4
    assert np.array_equal(nearest_cells(points, points[[0, 199]]), [0] * 100 + [1] * 100)
    assert len(set(clustered(np.ones((9, 2), np.float32), 3))) == 1
    for wrong in (0, 201):
        with pytest.raises(ValueError, match="cells"):
            clustered(points, wrong)
