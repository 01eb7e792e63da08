"""Mutated graphs: what passes the check is run as it was checked, and nothing else is.

A few hundred here; thousands by ``python tests/encoders/onnx_fuzz.py 5000``.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from onnx_fuzz import NAME, Opened, fuzz, honest, hostile, in_a_process, require_seen

from gmi_registry.encoders.graph import read_graph
from gmi_registry.encoders.outline import outline_of
from gmi_registry.encoders.wire import WireError

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells which files are opened"
)


@on_linux
def test_a_mutated_graph_runs_as_it_was_checked_or_not_at_all() -> None:
    found = fuzz(250, seed=3)
    assert sum(found.values()) == 250
    assert found["passed the check, and onnxruntime ran it"] >= 15
    assert found["refused by the check"] >= 150


def test_what_mutants_are_mixed_with_is_refused() -> None:
    for data in hostile():
        with pytest.raises(WireError):
            read_graph(data)


@on_linux
def test_what_would_break_the_rule_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "read").write_bytes(b"")
    (tmp_path / "left").write_bytes(b"")
    opened = Opened(tmp_path)
    assert in_a_process(lambda: str((tmp_path / "read").read_bytes())) == "b''"
    assert opened.names() == {"read"}
    assert opened.names() == set()
    assert in_a_process(lambda: str(time.sleep(60)), seconds=0.2) == "hangs"
    assert in_a_process(lambda: str(os.kill(os.getpid(), 9))) == "ended by signal 9"


def test_another_graph_than_the_checked_one_is_noticed() -> None:
    data = honest()
    graph = read_graph(data)
    run = outline_of(graph, NAME)
    require_seen(graph, data, run)
    first, *rest = graph.nodes
    others = [
        outline_of(graph._replace(nodes=(first._replace(operator="MaxPool"), *rest)), NAME),
        outline_of(graph, "secret"),
        outline_of(graph._replace(weights=graph.weights[1:]), NAME),
        run + b"\x72\x00",
        run[:1] + bytes([run[1] | 0x80, 0]) + run[2:],
    ]
    for other in others:
        with pytest.raises(AssertionError):
            require_seen(graph, data, other)
