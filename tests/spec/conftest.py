"""Fixtures of the format's tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

from gmi_registry.spec import Spec, build_spec
from tests.support.small_spec import MakeSpec, parts

# A test that shares its processor with other work is slow now and then, and not wrong.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture
def make_spec() -> MakeSpec:
    """Builds the small specification, with other arguments of build_spec where they are given."""
    return lambda **changes: build_spec(**{**parts(), **changes})


@pytest.fixture
def spec(make_spec: MakeSpec) -> Spec:
    return make_spec()
