"""Mutated graphs: what passes the check is run as it was checked, and nothing else is.

A few hundred here; thousands by ``python tests/encoders/onnx_fuzz.py 5000``.
"""

from __future__ import annotations

import sys

import pytest
from onnx_fuzz import fuzz, hostile

from gmi_registry.encoders.graph import read_graph
from gmi_registry.encoders.wire import WireError


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are opened")
def test_a_mutated_graph_runs_as_it_was_checked_or_not_at_all() -> None:
    found = fuzz(250, seed=3)
    assert sum(found.values()) == 250
    assert found["passed the check, and onnxruntime ran it"] >= 15
    assert found["refused by the check"] >= 150


def test_what_mutants_are_mixed_with_is_refused() -> None:
    for data in hostile():
        with pytest.raises(WireError):
            read_graph(data)
