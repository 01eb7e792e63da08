"""Several threads, one order, and an end that waits for nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from gmi_registry.threads import map_in_order


@pytest.mark.parametrize("workers", [1, 2, 5, 50])
def test_results_come_in_the_order_of_the_work(workers):
    done = [threading.Event() for _ in range(20)]

    def work(number):
        if workers > 1 and number % 2 == 0:
            assert done[number + 1].wait(60), "the later one of each pair ends first"
        done[number].set()
        return number * number

    assert list(map_in_order(work, range(20), workers)) == [n * n for n in range(20)]


def test_no_more_than_so_many_at_a_time():
    running, most, lock = 0, 0, threading.Lock()
    # Nobody goes on before four have come, so that four are seen at once, and a fifth would be.
    four = threading.Barrier(4, timeout=60)

    def work(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        four.wait()
        with lock:
            running -= 1
        four.wait()

    assert len(list(map_in_order(work, range(32), 4))) == 32
    assert most == 4


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_is_raised_at_its_place(workers):
    def work(number):
        if number == 3:
            raise ZeroDivisionError(number)
        return number

    outcomes = map_in_order(work, range(10), workers)
    assert [next(outcomes) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(outcomes)


def test_nothing_new_begins_once_it_is_closed():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.01)
        return number

    outcomes = map_in_order(work, range(1000), 2)
    next(outcomes)
    outcomes.close()
    count = len(begun)
    time.sleep(0.1)
    assert len(begun) == count < 100


def test_work_that_hangs_does_not_hold_up_the_end():
    code = (
        "import threading\n"
        "from gmi_registry.threads import map_in_order\n"
        "forever = threading.Event()\n"
        "results = map_in_order(lambda n: n if n == 0 else forever.wait(), range(4), 4)\n"
        "assert next(results) == 0\n"
        "results.close()\n"
        "print('closed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "closed\n")


def test_no_work_gives_no_results():
    assert list(map_in_order(str, [], 8)) == []
