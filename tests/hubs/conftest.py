"""Fixtures of the hubs' tests."""

from __future__ import annotations

import pytest

from tests.support.hub_builder import HubBuilder, ProjectionEncoder


@pytest.fixture
def encoder():
    return ProjectionEncoder()


@pytest.fixture
def built(tmp_path, encoder):
    """An empty hub, to be filled."""
    return HubBuilder(tmp_path / "hub", tmp_path / "cache", encoder)
