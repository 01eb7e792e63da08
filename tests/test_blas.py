"""How many threads the BLAS has is set for as long as it is asked for, and then as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from gmi_registry.scoring import kernels
from gmi_registry.scoring.kernels import one_thread


@pytest.fixture
def threads():
    """What says how many threads the BLAS has, which are three before and after."""
    libraries = ThreadpoolController().select(user_api="blas")

    def count():
        return {library["num_threads"] for library in libraries.info()}

    with libraries.limit(limits=3):
        if count() != {3}:
            pytest.skip("numpy's BLAS here is none whose threads can be set")
        yield count
        assert count() == {3}


def test_one_thread_within_and_as_many_as_before_after(threads):
    with one_thread():
        assert threads() == {1}
        with one_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {3}


def test_an_error_leaves_it_as_it_was(threads):
    with pytest.raises(RuntimeError, match="broken"), one_thread():
        raise RuntimeError("broken")
    assert threads() == {3}
    with one_thread():
        assert threads() == {1}


def test_another_that_enters_and_leaves_changes_nothing(threads):
    def come_and_go() -> None:
        with one_thread():
            pass

    other = threading.Thread(target=come_and_go)
    with one_thread():
        other.start()
        other.join()
        assert threads() == {1}
    assert threads() == {3}


_CROWD = """
import threading, time
from threadpoolctl import threadpool_info
from gmi_registry.scoring.kernels import one_thread

def count():
    return [it["num_threads"] for it in threadpool_info() if it["user_api"] == "blas"]

def come_and_go(number):
    for _ in range(100):
        with one_thread():
            time.sleep(1e-4 * (number % 3))

before = count()
coming = [threading.Thread(target=come_and_go, args=(number,)) for number in range(8)]
for other in coming:
    other.start()
for other in coming:
    other.join()
with one_thread():
    within = count()
print(*before, *within, *count())
"""


def test_a_crowd_leaves_it_as_it_was():
    # In a process whose main thread has set nothing: others could set nothing in this one.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", _CROWD]
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    if said.split()[:1] != [b"2"]:
        pytest.skip("numpy's BLAS here has not two threads to take one from")
    assert said.split() == [b"2", b"1", b"2"]


def test_a_sweep_asks_for_it(threads, monkeypatch):
    monkeypatch.setattr(kernels, "cores", lambda: 2)
    monkeypatch.setattr(kernels, "_SPREAD_ELEMENTS", 0)
    monkeypatch.setattr(kernels, "_CACHED_ELEMENTS", 1)
    seen = [set()] * 4

    def work(part: slice) -> None:
        seen[part.start] = threads()

    for spread in (True, False):
        seen[:] = [set()] * 4
        kernels.swept(work, 4, 1, streamed=False, spread=spread)
        assert seen == [{1}] * 4
    assert threads() == {3}


def test_products_are_the_same(threads):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((300, 200)), rng.standard_normal((200, 100))
    with one_thread():
        alone = first @ second
    np.testing.assert_allclose(alone, first @ second, rtol=1e-12)
