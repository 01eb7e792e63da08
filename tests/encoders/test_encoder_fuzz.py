"""Mutated graphs: what passes the check is run as it was checked, and nothing else is.

A few hundred here; thousands by ``python -m tests.support.onnx_fuzz 5000``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gmi_registry.encoders.external_data import graph_with_external_data
from gmi_registry.encoders.graph import WireError, read_graph
from tests.support.onnx_fuzz import NAME, honest, hostile, require_seen

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells which files are opened"
)


def in_a_new_process(*command: str) -> str:
    """What it prints. This process has the threads of other tests, which no copy of it would."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@on_linux
def test_a_mutated_graph_runs_as_it_was_checked_or_not_at_all() -> None:
    lines = in_a_new_process("-m", "tests.support.onnx_fuzz", "250", "3").splitlines()
    found = {what: int(times) for times, what in (line.split(maxsplit=1) for line in lines)}
    assert found["passed the check, and onnxruntime ran it"] >= 15
    assert found["refused by the check"] >= 150


def test_what_mutants_are_mixed_with_is_refused() -> None:
    for data in hostile():
        with pytest.raises(WireError):
            read_graph(data)


NOTICES = """
import os, sys, time
from pathlib import Path
from tests.support.onnx_fuzz import Opened, in_a_process
folder = Path(sys.argv[1])
opened = Opened(folder)
print(in_a_process(lambda: str((folder / "read").read_bytes())), opened.names(), opened.names())
print(in_a_process(lambda: str(time.sleep(60)), seconds=0.2))
print(in_a_process(lambda: str(os.kill(os.getpid(), 9))))
"""


@on_linux
def test_what_would_break_the_rule_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "read").write_bytes(b"")
    (tmp_path / "left").write_bytes(b"")
    lines = in_a_new_process("-c", NOTICES, str(tmp_path)).splitlines()
    assert lines == ["b'' {'read'} set()", "hangs", "ended by signal 9"]


def test_another_graph_than_the_checked_one_is_noticed() -> None:
    data = honest()
    graph = read_graph(data)
    run = graph_with_external_data(graph, NAME)
    require_seen(graph, data, run)
    first, *rest = graph.nodes
    others = [
        graph_with_external_data(
            graph._replace(nodes=(first._replace(operator="MaxPool"), *rest)), NAME
        ),
        graph_with_external_data(graph, "secret"),
        graph_with_external_data(graph._replace(weights=graph.weights[1:]), NAME),
        run + b"\x72\x00",
        run[:1] + bytes([run[1] | 0x80, 0]) + run[2:],
    ]
    for other in others:
        with pytest.raises(AssertionError):
            require_seen(graph, data, other)
