"""One hub of tiny models and one scored run over it, for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.support.tiny_bench import make_hub, run


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    return make_hub(tmp_path_factory.mktemp("bench") / "hub")


@pytest.fixture(scope="session")
def scored(hub):
    """An undisturbed run up to the scores; tests look at it or copy it."""
    out = hub.parent / "scored"
    made = run(hub, out).made
    assert list(made.values()) == [True] * 4
    return out
