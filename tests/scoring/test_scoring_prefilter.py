"""A few leading numbers choose, and distances decide."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.scoring import prefilter as module
from gmi_registry.scoring.confidence import tail_distances
from gmi_registry.scoring.prefilter import Prefilter
from gmi_registry.scoring.scatter import WithinScatter
from tests.support.hostile_hubs import mean_distances


def hub(seed=0, models=3000, width=24, families=40):
    """Means in families, and images around some of them: [M, D], [B, D], and the scatter."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, width + 1) ** -0.7
    styles = rng.standard_normal((families, width)) * scale * 3
    means = styles[np.arange(models) % families] + rng.standard_normal((models, width)) * scale
    noise = rng.standard_normal((900, width)) * scale * 2
    scatter = WithinScatter(noise.T @ noise, 899)
    return (means + 4).astype(np.float32), (means[5:9] + noise[:4] + 4).astype(np.float32), scatter


def shapeless(models=3000, width=24):
    """No direction in which models vary more than in another."""
    rng = np.random.default_rng(3)
    means = rng.standard_normal((models, width)).astype(np.float32)
    return means, 3 * rng.standard_normal((4, width)).astype(np.float32), WithinScatter.empty(width)


@pytest.fixture
def few(monkeypatch):
    """Few leading numbers, and few distances that are worked out in any case."""
    monkeypatch.setattr(module, "LEADING", 12)
    monkeypatch.setattr(module, "_LEAST_EXACT", 40)
    monkeypatch.setattr(module, "_EXACT_SHARE", 1000)


class Asked:
    """A prefilter that counts how many means are read."""

    def __init__(self, means, scatter, images, concentration=1 / 9):
        self.prefilter = Prefilter.learn(means, scatter)
        self.summaries = self.prefilter.summaries(means)
        self._asked = (self.summaries, self._read, images, concentration)
        self._means = means
        self.read = []

    def _read(self, rows):
        self.read += rows.tolist()
        return self._means[rows]

    def nearest(self, count, rows=None):
        return self.prefilter.nearest(*self._asked, count, rows)

    def distances(self):
        return self.prefilter.distances(*self._asked, np.arange(len(self._means)))

    def estimates(self):
        return self.prefilter.estimates(self.summaries, *self._asked[2:])


def test_distances_are_those_of_the_default_score():
    means, images, scatter = hub()
    asked = Asked(means, scatter, images)
    wanted = mean_distances(means, images, 1 / 9, scatter).mean(axis=0)
    assert asked.distances() == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    # With all directions estimates lack what eight bits lack.
    assert asked.prefilter.directions.shape == (24, 24)
    assert asked.estimates() == pytest.approx(wanted, rel=1e-2, abs=0.3)


def test_fewer_directions_lose_what_is_outside_of_them_and_no_more(monkeypatch):
    monkeypatch.setattr(module, "_LEAST_SHARE", 0.0)
    means, images, scatter = hub()
    off = []
    for directions in (2, 6, 12):
        monkeypatch.setattr(module, "LEADING", directions)
        asked = Asked(means, scatter, images)
        assert asked.summaries.codes.shape == (3000, directions)
        exact = asked.distances()
        off.append(np.abs(asked.estimates() - exact).mean())
    assert off[0] > off[1] > off[2] > 0
    assert off[2] < 0.2 * exact.std()


@pytest.mark.parametrize("count", [1, 10])
def test_the_nearest_are_found_and_few_means_are_read(few, count):
    right = read = 0
    for seed in range(5):
        means, images, scatter = hub(seed)
        for image in images:
            asked = Asked(means, scatter, image[None], 0.1)
            found = asked.nearest(count)
            read += len(asked.read)
            assert len(asked.read) == len(set(asked.read)) == found.exact.sum()
            exact = asked.distances()
            assert (found.distances[found.exact] == exact[found.exact]).all()
            near = np.argsort(np.where(found.exact, found.distances, np.inf))[:count]
            right += len(set(near) & set(np.argsort(exact)[:count]))
    assert right >= 0.97 * 20 * count
    assert read < 20 * 1000


def test_of_more_models_more_distances_are_worked_out(few, monkeypatch):
    means, images, scatter = hub()
    plain = Asked(means, scatter, images).nearest(1).exact.sum()
    monkeypatch.setattr(module, "_EXACT_SHARE", 5)
    assert plain < 600 <= Asked(means, scatter, images).nearest(1).exact.sum()


def test_where_leading_numbers_do_not_carry_the_order_all_means_are_read(few, monkeypatch):
    monkeypatch.setattr(module, "_LEAST_SHARE", 0.6)
    means, images, scatter = shapeless()
    asked = Asked(means, scatter, images)
    assert asked.prefilter.directions.shape == (24, 0)
    assert asked.summaries.codes.shape == (3000, 0)
    found = asked.nearest(5)
    assert found.exact.all()
    assert np.array_equal(found.distances, asked.distances())
    rows = np.array([7, 2, 2999])
    assert np.array_equal(asked.nearest(5, rows).distances, asked.distances()[rows])


def test_where_they_say_little_more_means_are_read(few):
    means, images, scatter = shapeless()
    for image in images:
        asked = Asked(means, scatter, image[None])
        found = asked.nearest(5)
        assert found.exact.sum() > 300
        near = np.argsort(np.where(found.exact, found.distances, np.inf))[:5]
        assert set(near) == set(np.argsort(asked.distances())[:5])


@pytest.mark.parametrize("models", [1, 2, 17])
def test_equal_models_are_no_trouble(models):
    means = np.ones((models, 4), np.float32)
    asked = Asked(means, WithinScatter.empty(4), np.zeros((1, 4), np.float32))
    found = asked.nearest(5)
    assert found.exact.all()
    assert found.distances == pytest.approx(np.full(models, 4.0))


def test_equal_models_tie_to_the_last_bit(few):
    means, images, scatter = hub()
    means[1::2] = means[::2]
    found = Asked(means, scatter, images).nearest(20)
    assert np.array_equal(found.exact[1::2], found.exact[::2])
    assert np.array_equal(found.distances[1::2], found.distances[::2])


@pytest.mark.parametrize("chosen", [1200, 3000])
def test_a_selection_has_the_distances_of_all(few, chosen):
    """In the order in which it is asked for, of which all of them are one too."""
    means, images, scatter = hub()
    asked = Asked(means, scatter, images[:1])
    everything = asked.distances()
    rows = np.random.default_rng(0).permutation(3000)[:chosen]
    asked.read.clear()
    found = asked.nearest(3, rows)
    assert set(asked.read) <= set(rows)
    assert len(asked.read) < 600
    assert np.array_equal(found.distances[found.exact], everything[rows][found.exact])
    nearest = np.argsort(everything[rows])[:3]
    assert found.exact[nearest].all()
    assert len(asked.nearest(3, rows[:0]).distances) == 0


@pytest.mark.parametrize("beta", [0.02, 0.2, 1.0])
def test_chances_of_all_are_those_of_some_and_of_the_others_together(few, monkeypatch, beta):
    monkeypatch.setattr(module, "_LEAST_EXACT", 300)
    off = []
    for seed in range(4):
        means, images, scatter = hub(seed)
        for image in images:
            asked = Asked(means, scatter, image[None], 0.1)
            found = asked.nearest(5)
            everything = asked.distances().astype(float)
            nearest = everything.min()
            others = found.distances[~found.exact]
            tail = tail_distances(others, found.deviation, found.limit, beta)
            known = np.concatenate([found.distances[found.exact], tail])
            wanted = np.exp(-beta * (everything - nearest)).sum()
            off.append(abs(np.exp(-beta * (known - nearest)).sum() / wanted - 1))
    assert np.mean(off) < 0.03
    assert np.max(off) < 0.15


def test_a_model_that_is_off_the_scale_has_an_estimate_all_the_same(few):
    means, images, scatter = hub()
    prefilter = Prefilter.learn(means, scatter)
    before = prefilter.summaries(means)
    means[7] *= 1e6
    after = prefilter.summaries(means)
    estimates = prefilter.estimates(after, images, 1 / 9)
    assert np.isfinite(estimates).all()
    assert estimates.argmax() == 7
    # Nobody else's numbers are any coarser for it.
    others = np.arange(3000) != 7
    assert np.array_equal(after.codes[others], before.codes[others])


def test_the_same_means_give_the_same_bytes_and_rows_stand_alone():
    means, _, scatter = hub()
    first, second = (Prefilter.learn(means, scatter) for _ in range(2))
    assert np.array_equal(first.directions, second.directions)
    every = first.summaries(means)
    rows = np.array([7, 2999, 40])
    alone = first.summaries(means[rows])
    assert alone.lengths == pytest.approx(every.lengths[rows], rel=1e-6)
    assert np.abs(alone.codes.astype(int) - every.codes[rows]).max() <= 1
