"""MMD² between two sets of embeddings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.paper.studies import median_gamma, squared_discrepancy


def draw(rows, *, shift=0.0, seed=0, width=5):
    return np.random.default_rng(seed).normal(size=(rows, width)) + shift


def slow(x, y, gamma):
    """Pair by pair, in float64, in the words of the definition."""

    def k(a, b):
        return np.exp(-gamma * sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))

    same = [
        np.mean([k(a, b) for a, b in itertools.permutations(rows.tolist(), 2)]) for rows in (x, y)
    ]
    across = np.mean([k(a, b) for a, b in itertools.product(x.tolist(), y.tolist())])
    return float(sum(same) - 2 * across)


@pytest.mark.parametrize(("rows", "other", "gamma"), [(2, 2, 0.3), (7, 12, 0.05), (9, 4, 2.0)])
def test_it_is_the_definition(rows, other, gamma) -> None:
    x, y = draw(rows), draw(other, shift=0.4, seed=1)
    assert squared_discrepancy(x, y, gamma) == pytest.approx(slow(x, y, gamma), abs=1e-12)
    single = squared_discrepancy(x.astype(np.float32), y.astype(np.float32), gamma)
    assert single == pytest.approx(slow(x, y, gamma), abs=1e-5)
    half = x.astype(np.float16), y.astype(np.float16)
    assert squared_discrepancy(*half, gamma) == pytest.approx(slow(*half, gamma), abs=1e-5)


def test_it_is_unbiased() -> None:
    """The mean over many draws is the discrepancy of the distributions, which is known."""
    gamma, width, shift = 0.2, 3, 0.7
    found = [
        squared_discrepancy(
            draw(4, seed=seed, width=width),
            draw(6, shift=shift, seed=10_000 + seed, width=width),
            gamma,
        )
        for seed in range(3000)
    ]
    # E exp(-γ‖d‖²) for d ~ N(μ, 2I) is (1 + 4γ)^(-D/2) exp(-γ‖μ‖²/(1 + 4γ)).
    wide = 1 + 4 * gamma
    apart = np.exp(-gamma * width * shift**2 / wide)
    expected = 2 * wide ** (-width / 2) * (1 - apart)
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / np.sqrt(3000))
    assert min(found) < 0


def test_strata_leave_out_pairs_of_one_prompt() -> None:
    x, y = draw(6), draw(9, shift=0.4, seed=1)
    own, other = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 2] * 3)

    def mean(a, b, first, second):
        pairs = itertools.product(range(len(a)), range(len(b)))
        kept = [(i, j) for i, j in pairs if first[i] != second[j]]
        return np.mean([np.exp(-0.1 * ((a[i] - b[j]) ** 2).sum()) for i, j in kept])

    expected = mean(x, x, own, own) + mean(y, y, other, other) - 2 * mean(x, y, own, other)
    found = squared_discrepancy(x, y, 0.1, strata=(own, other))
    assert found == pytest.approx(expected, abs=1e-12)
    # Where every row is a stratum, only its pair with itself is left out.
    apart = np.arange(6), np.arange(6, 15)
    plain = squared_discrepancy(x, y, 0.1)
    assert squared_discrepancy(x, y, 0.1, strata=apart) == pytest.approx(plain, abs=1e-12)


def test_shared_prompts_look_like_likeness_without_strata() -> None:
    """Two seeds of one model on the same eight prompts: the truth is 0."""
    prompts = np.arange(8)
    plain, apart = [], []
    for seed in range(400):
        content = 2 * draw(8, seed=seed)
        x = content + 0.3 * draw(8, seed=10_000 + seed)
        y = content + 0.3 * draw(8, seed=20_000 + seed)
        gamma = median_gamma(x)
        plain.append(squared_discrepancy(x, y, gamma))
        apart.append(squared_discrepancy(x, y, gamma, strata=(prompts, prompts)))
    assert np.mean(plain) < -0.05
    assert abs(np.mean(apart)) < 4 * np.std(apart) / np.sqrt(400)


def test_sides_and_orders_do_not_matter() -> None:
    x, y = draw(8), draw(11, shift=1.0, seed=1)
    there = squared_discrepancy(x, y, 0.1)
    assert squared_discrepancy(y, x, 0.1) == pytest.approx(there, rel=1e-12)
    assert squared_discrepancy(x[::-1], y[::-1], 0.1) == pytest.approx(there, rel=1e-12)


def test_farther_is_more_and_beyond_the_kernel_it_ends() -> None:
    x = draw(200)
    grown = [squared_discrepancy(x, draw(200, shift=far, seed=1), 0.1) for far in (0, 0.5, 1, 2)]
    assert grown == sorted(grown)
    assert abs(grown[0]) < 0.01
    # Every row sees only itself: nothing is left on either side.
    assert squared_discrepancy(x, x + 1e6, 1e6) == 0.0


def test_the_median_kernel_does_not_know_the_scale_of_the_features() -> None:
    x, y = draw(30), draw(30, shift=0.5, seed=1)
    small = squared_discrepancy(x, y, median_gamma(x))
    assert squared_discrepancy(x * 50, y * 50, median_gamma(x * 50)) == pytest.approx(small)
    pairs = [((a - b) ** 2).sum() for a, b in itertools.combinations(x, 2)]
    assert median_gamma(x) == pytest.approx(1 / np.median(pairs))
    assert median_gamma(np.ones((4, 2))) == 1.0


@pytest.mark.parametrize(
    ("x", "y", "gamma"),
    [
        (np.ones((1, 2)), np.ones((3, 2)), 1.0),
        (np.ones((3, 2)), np.ones((0, 2)), 1.0),
        (np.ones((3, 2)), np.ones((3, 4)), 1.0),
        (np.ones((3, 2)), np.ones((3, 2)), 0.0),
    ],
)
def test_what_cannot_be_compared_is_refused(x, y, gamma) -> None:
    with pytest.raises(ValueError, match=r"needs two rows|cannot be compared|gamma"):
        squared_discrepancy(x, y, gamma)
    rows = draw(3)
    for own in (np.zeros(3), np.arange(2)):
        with pytest.raises(ValueError, match="strata"):
            squared_discrepancy(rows, rows, 1.0, strata=(own, np.arange(3)))
    with pytest.raises(ValueError, match="two rows"):
        median_gamma(np.ones((1, 2)))
