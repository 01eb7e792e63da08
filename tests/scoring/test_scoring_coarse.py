"""Estimates that choose, and distances that decide."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.scoring import coarse, inverted
from gmi_registry.scoring.clusters import clustered, nearest_cells
from gmi_registry.scoring.coarse import CoarseCodes, CoarseSpace, drawn_rows
from gmi_registry.scoring.default import mean_distances
from gmi_registry.scoring.inverted import InvertedFile, cell_starts
from gmi_registry.scoring.refine import Care, refine
from gmi_registry.scoring.scatter import WithinScatter


def hub(seed=0, models=3000, width=24, families=40):
    """Means in families, and images around some of them: [M, D], [B, D], and the scatter."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, width + 1) ** -0.7
    styles = rng.standard_normal((families, width)) * scale * 3
    means = styles[np.arange(models) % families] + rng.standard_normal((models, width)) * scale
    noise = rng.standard_normal((900, width)) * scale * 2
    scatter = WithinScatter(noise.T @ noise, 899)
    return (means + 4).astype(np.float32), (means[5:9] + noise[:4] + 4).astype(np.float32), scatter


def made(means, scatter, alive=None):
    """A space, its codes in the order of their cells, and where the models stand in it."""
    space = CoarseSpace.learnt(means, scatter)
    order, codes = ordered(space.coded(means))
    return space, InvertedFile(codes, space.centroids, alive), order


def ordered(codes):
    order = np.argsort(codes.cells, kind="stable")
    return order, CoarseCodes(**{name: array[order] for name, array in vars(codes).items()})


def found_near(space, inverse, means, order, images, count, positions=None, concentration=1 / 9):
    """What may be near ``images``, with estimates."""

    def exact(rows):
        lengths = inverse.codes.lengths[rows]
        return space.distances(means[order[rows]], lengths, images, concentration)

    return inverse.near(space.asked(images, concentration), count, exact, positions)[:2]


def widths(monkeypatch, *numbers):
    monkeypatch.setattr(coarse, "_WIDTHS", numbers)


def few(monkeypatch, looked_at=100, second=60, third=40):
    """So few models are looked at in any case."""
    monkeypatch.setattr(inverted, "_LOOKED_AT", looked_at)
    monkeypatch.setattr(inverted, "_LOOKED_SHARE", 1000)
    monkeypatch.setattr(inverted, "_LOOKED_EACH", 1)
    monkeypatch.setattr(inverted, "_SECOND", second)
    monkeypatch.setattr(inverted, "_THIRD", third)
    monkeypatch.setattr(inverted, "_BETTER_SHARE", 1000)
    monkeypatch.setattr(inverted, "_BETTER_EACH", 1)


@pytest.mark.parametrize("numbers", [(24, 0, 0), (5, 19, 0), (3, 7, 14)])
def test_estimates_with_all_directions_are_the_distances(monkeypatch, numbers):
    widths(monkeypatch, *numbers)
    few(monkeypatch, 3000, 3000, 3000)
    means, images, scatter = hub()
    space, inverse, order = made(means, scatter)
    wanted = mean_distances(means, images, 1 / 9, scatter=scatter).mean(axis=0)
    assert space.directions.shape == (24, 24)
    assert space.widths == numbers
    places, found = found_near(space, inverse, means, order, images, 3)
    assert sorted(order[places]) == list(range(3000))
    slack = 2e-2 if numbers[2] else 1e-4
    assert found == pytest.approx(wanted[order[places]], rel=1e-4, abs=slack)
    lengths = space.coded(means).lengths
    exact = space.distances(means, lengths, images, 1 / 9)
    assert exact == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_fewer_directions_lose_what_is_outside_of_them_and_no_more(monkeypatch):
    means, images, scatter = hub()
    off = []
    for directions in (2, 6, 12):
        widths(monkeypatch, directions, 0, 0)
        space, inverse, order = made(means, scatter)
        assert inverse.codes.first.shape == (3000, directions)
        wanted = space.distances(means[order], inverse.codes.lengths, images, 1 / 9)
        places, found = found_near(space, inverse, means, order, images, 3)
        off.append(np.abs(found - wanted[places]).mean())
    assert off[0] > off[1] > off[2] > 0
    assert off[2] < 0.2 * wanted.std()


def test_the_variance_is_that_of_what_residuals_add():
    means, images, scatter = hub(models=30_000)
    space = CoarseSpace.learnt(means[:20_000], scatter)
    # Of models that nothing was learnt from.
    codes = space.coded(means[20_000:])
    for image in images:
        asked = space.asked(image[None], 0.1)
        numbers = np.concatenate([codes.first, codes.second, codes.third], axis=1)
        assert asked.variances[0] == pytest.approx((numbers @ asked.along).var(), rel=0.1)
        assert (np.diff(asked.variances) <= 0).all()


def test_better_models_are_looked_at_more_closely(monkeypatch):
    widths(monkeypatch, 3, 6, 15)
    few(monkeypatch, looked_at=3000, second=400, third=150)
    means, images, scatter = hub()
    space, inverse, order = made(means, scatter)
    exact = space.distances(means[order], inverse.codes.lengths, images, 1 / 9)
    places, found = found_near(space, inverse, means, order, images, 3)
    assert 150 <= len(places) < 400
    assert exact[places].mean() < exact.mean() - exact.std()
    # Through all numbers, of which the third are rounded.
    assert found == pytest.approx(exact[places], abs=0.02)


def test_cells_that_are_far_away_are_not_looked_at(monkeypatch):
    few(monkeypatch)
    means, images, scatter = hub()
    # Two far-off families more, which have a third of all models.
    means[2000:2500] += 500
    means[2500:] -= 500
    space, inverse, order = made(means, scatter)
    looked_at = []
    models = InvertedFile._models

    def counted(self, cells, positions):
        found = models(self, cells, positions)
        looked_at.extend(order[found[1]])
        return found

    monkeypatch.setattr(InvertedFile, "_models", counted)
    places, _ = found_near(space, inverse, means, order, images[:1], 5)
    assert len(set(looked_at)) == len(looked_at)
    assert 100 <= len(looked_at) <= 2000
    assert max(looked_at) < 2000
    exact = mean_distances(means, images[:1], 1 / 9, scatter=scatter)[0]
    assert set(np.argsort(exact)[:5]) <= set(order[places])


def test_where_numbers_say_little_all_are_looked_at(monkeypatch):
    few(monkeypatch)
    widths(monkeypatch, 2, 2, 2)
    rng = np.random.default_rng(3)
    means = rng.standard_normal((3000, 24)).astype(np.float32)
    images = rng.standard_normal((4, 24)).astype(np.float32) * 3
    scatter = WithinScatter.empty(24)
    space, inverse, order = made(means, scatter)
    for image in images:
        places, _ = found_near(space, inverse, means, order, image[None], 5)
        assert len(places) > 2000
        exact = mean_distances(means, image[None], 1 / 9, scatter=scatter)[0]
        assert set(np.argsort(exact)[:5]) <= set(order[places])


def test_where_numbers_say_all_few_are_enough(monkeypatch):
    few(monkeypatch)
    means, _, scatter = hub()
    space, inverse, order = made(means, scatter)
    # From the centre all is length, which is known.
    places, _ = found_near(space, inverse, means, order, space.centre[None], 5)
    assert len(places) < 1000


@pytest.mark.parametrize("models", [1, 2, 17])
def test_equal_models_are_no_trouble(models):
    means = np.ones((models, 4), np.float32)
    space, inverse, order = made(means, WithinScatter.empty(4))
    places, found = found_near(space, inverse, means, order, np.zeros((1, 4), np.float32), 5)
    assert sorted(places) == list(range(models))
    assert found == pytest.approx(np.full(models, 4.0))


def test_a_selection_and_the_living_are_those_of_all(monkeypatch):
    few(monkeypatch, second=3000, third=3000)
    means, images, scatter = hub()
    space, inverse, order = made(means, scatter)
    everything = dict(zip(*found_near(space, inverse, means, order, images, 3), strict=True))
    positions = np.random.default_rng(0).permutation(3000)[:1200]
    places, found = found_near(space, inverse, means, order, images, 3, positions)
    assert len(set(places)) == len(places) <= 1200
    both = [place for place in places if positions[place] in everything]
    assert len(both) > 50
    for place, distance in zip(places, found, strict=True):
        if positions[place] in everything:
            assert distance == pytest.approx(everything[positions[place]], rel=1e-5)
    alive = np.zeros(3000, bool)
    alive[positions] = True
    living = InvertedFile(inverse.codes, inverse.centroids, alive)
    left, again = found_near(space, living, means, order, images, 3)
    assert alive[left].all()
    nearest = sorted(found)[:3]
    assert sorted(again)[:3] == pytest.approx(nearest, rel=1e-5)
    assert len(found_near(space, inverse, means, order, images, 3, positions[:0])[0]) == 0


def test_the_dead_neither_count_nor_hide_the_living(monkeypatch):
    few(monkeypatch)
    widths(monkeypatch, 3, 6, 15)
    means, images, scatter = hub()
    space, inverse, order = made(means, scatter)
    exact = space.distances(means[order], inverse.codes.lengths, images[:1], 0.1)
    alive = exact > np.median(exact)
    living = InvertedFile(inverse.codes, inverse.centroids, alive)

    def known(rows):
        assert alive[rows].all()
        return exact[rows]

    places, _, left = living.near(space.asked(images[:1], 0.1), 5, known)
    assert len(places) + left.sizes.sum() == alive.sum()
    nearest = np.flatnonzero(alive)[np.argsort(exact[alive])[:5]]
    assert set(nearest) <= set(places)


@pytest.mark.parametrize("missed", [0.01, 0.4, 0.6, 5.0])
def test_what_is_within_the_limit_is_always_worthy(missed):
    beyond = np.array([-50.0, 3.0, -1e-3, 0.0, 30.0, 0.5], np.float32)
    worthy = inverted._worthy(beyond, 1.0, missed)
    assert {0, 2, 3} <= set(worthy)
    assert 4 not in worthy


@pytest.mark.parametrize("beta", [0.02, 0.2, 1.0])
def test_chances_of_all_are_those_of_some_and_of_the_others_together(monkeypatch, beta):
    few(monkeypatch)
    widths(monkeypatch, 3, 6, 15)
    off = []
    for seed in range(4):
        means, images, scatter = hub(seed)
        space, inverse, order = made(means, scatter)
        for image in images:

            def exact(rows, image=image, means=means, order=order, space=space, inverse=inverse):
                lengths = inverse.codes.lengths[rows]
                return space.distances(means[order[rows]], lengths, image[None], 0.1)

            places, _, left = inverse.near(space.asked(image[None], 0.1), 5, exact)
            assert left.sizes.sum() + len(places) == 3000
            everything = exact(np.arange(3000)).astype(float)
            known = everything[places]
            nearest = everything.min()
            wanted = np.exp(-beta * (everything - nearest)).sum()
            rest = left.distances(beta)
            got = np.exp(-beta * (known - nearest)).sum() + np.exp(-beta * (rest - nearest)).sum()
            off.append(abs(got / wanted - 1))
    assert np.mean(off) < 0.03
    assert np.max(off) < 0.15


def test_a_model_that_is_off_the_scale_has_an_estimate_all_the_same(monkeypatch):
    widths(monkeypatch, 4, 0, 20)
    few(monkeypatch, 3000, 3000, 3000)
    means, images, scatter = hub()
    means[7] *= 1e6
    space = CoarseSpace.learnt(means[8:], scatter)
    order, codes = ordered(space.coded(means))
    inverse = InvertedFile(codes, space.centroids)
    places, found = found_near(space, inverse, means, order, images, 3)
    assert np.isfinite(codes.third).all()
    assert np.isfinite(found).all()
    assert order[places[found.argmax()]] == 7


def test_the_same_means_give_the_same_bytes_and_rows_stand_alone():
    means, _, scatter = hub()
    first, second = (CoarseSpace.learnt(means, scatter) for _ in range(2))
    assert np.array_equal(first.centroids, second.centroids)
    coded = first.coded(means)
    rows = np.array([7, 2999, 40])
    alone = first.coded(means[rows])
    assert np.array_equal(alone.cells, coded.cells[rows])
    assert alone.first == pytest.approx(coded.first[rows], abs=1e-4)


def test_rows_are_drawn_and_not_counted_off():
    drawn = drawn_rows(10_000, 1000)
    assert np.array_equal(drawn, drawn_rows(10_000, 1000))
    assert (np.diff(drawn) > 0).all()
    assert len(set(drawn % 10)) == 10
    assert len(set(np.diff(drawn))) > 20
    assert np.array_equal(drawn_rows(7, 7), np.arange(7))


def test_cells_begin_where_they_begin():
    cells = np.array([0, 0, 2, 2, 2, 4], np.int32)
    assert cell_starts(cells, 6).tolist() == [0, 2, 2, 5, 5, 6, 6]


@pytest.mark.parametrize("numbers", [(1, 1, 2), (2, 6, 4), (8, 4, 12)])
@pytest.mark.parametrize("count", [1, 10])
def test_the_nearest_are_right_whatever_estimates_say(monkeypatch, numbers, count):
    widths(monkeypatch, *numbers)
    few(monkeypatch, looked_at=300, second=400, third=200)
    right, asked = 0, []
    for seed in range(5):
        means, images, scatter = hub(seed)
        space, inverse, order = made(means, scatter)
        for image in images:
            exact = space.distances(means[order], inverse.codes.lengths, image[None], 0.1)
            places, estimates = found_near(
                space, inverse, means, order, image[None], count, concentration=0.1
            )

            def known(rows, exact=exact, places=places):
                assert (np.diff(rows) > 0).all()
                asked.append(len(rows))
                return exact[places[rows]]

            found = refine(estimates, known, count, Care(20, 4)).distances
            near = places[np.argsort(found, kind="stable")[:count]]
            least = np.argsort(exact, kind="stable")[:count]
            right += len(set(near) & set(least))
    assert right >= 0.97 * 20 * count
    assert sum(asked) < 20 * 1000


def test_all_are_asked_for_where_estimates_say_nothing():
    rng = np.random.default_rng(1)
    exact = rng.standard_normal(10_000)
    found = refine(rng.standard_normal(10_000), lambda rows: exact[rows], 5)
    assert np.array_equal(found.distances, exact)
    assert found.exhausted
    few = refine(np.zeros(7), lambda rows: exact[rows], 3)
    assert np.array_equal(few.distances, exact[:7])
    with pytest.raises(ValueError, match="count"):
        refine(np.zeros(7), lambda rows: exact[rows], 0)


def test_equal_estimates_are_no_trouble():
    exact = np.arange(20_000)[::-1].astype(np.float32)
    found = refine(np.zeros(20_000, np.float32), lambda rows: exact[rows], 3)
    assert np.array_equal(np.argsort(found.distances)[:3], [19_999, 19_998, 19_997])


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
