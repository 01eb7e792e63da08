"""A benchmark has the kernels and threads of BLAS that it chose, whatever the environment says."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import numpy as np  # noqa: F401  which brings the BLAS that is looked for
import pytest
from threadpoolctl import threadpool_info

_COMMAND = """
import json, os, sys
import numpy
from threadpoolctl import threadpool_info
from benchmarks.speed.blas import blas_kernels, settle_blas

settle_blas(sys.argv[1] or None, int(sys.argv[2]))
threads = [it["num_threads"] for it in threadpool_info() if it["user_api"] == "blas"]
print(json.dumps([dict(os.environ), blas_kernels(), threads]))
"""


def started(kernels: str, threads: int, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _COMMAND, kernels, str(threads)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_what_the_environment_asks_for_is_left_behind_and_nothing_else() -> None:
    done = started("", 1, OPENBLAS_CORETYPE="Nehalem", OPENBLAS_NUM_THREADS="2", MARK="kept")
    environment, _, threads = json.loads(done.stdout)
    assert "OPENBLAS_CORETYPE" not in environment
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["MARK"] == "kept"
    assert set(threads) <= {1}


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64")
    or all(it["internal_api"] != "openblas" for it in threadpool_info()),
    reason="the kernels that are named are those of OpenBLAS for x86-64, which is not here",
)
def test_kernels_that_are_asked_for_are_taken() -> None:
    done = started("Nehalem", 1)
    environment, kernels, _ = json.loads(done.stdout)
    assert kernels == environment["OPENBLAS_CORETYPE"] == "Nehalem"


def test_kernels_that_there_are_not_end_it_in_a_line() -> None:
    done = started("Abacus", 1)
    assert done.returncode == 1
    assert "not for Abacus: name one that it knows" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
