"""The second thread: in order, one at a time, and nothing that was put is lost."""

import threading

import pytest

from gmi_registry.generation.images import WorkerThread


def test_work_is_done_elsewhere_in_order():
    done = []
    with WorkerThread() as worker:
        for number in range(5):
            worker.put(lambda number=number: done.append((number, threading.get_ident())))
    assert [number for number, _ in done] == [0, 1, 2, 3, 4]
    (thread,) = {thread for _, thread in done}
    assert thread != threading.get_ident()


def test_no_more_than_one_piece_is_behind():
    gate, begun = threading.Event(), []
    with WorkerThread() as worker:
        worker.put(lambda: begun.append(gate.wait(10)))
        threading.Timer(0.05, gate.set).start()
        worker.put(lambda: None)
        assert begun == [True]


def through(*pieces, error=None):
    with WorkerThread() as worker:
        for piece in pieces:
            worker.put(piece)
        if error is not None:
            raise error


def refuse():
    raise RuntimeError("full")


def test_an_error_is_raised_by_the_next_piece_or_at_the_end():
    done = []
    with pytest.raises(RuntimeError, match="full"):
        through(refuse, lambda: done.append("after an error"))
    assert done == []
    with pytest.raises(RuntimeError, match="full"):
        through(refuse)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_what_was_put_is_finished_whatever_ends_the_block(kind):
    gate, done = threading.Event(), []
    threading.Timer(0.05, gate.set).start()
    with pytest.raises(kind):
        through(lambda: done.append(gate.wait(10)), error=kind())
    assert done == [True]
    assert not [it for it in threading.enumerate() if it.name.startswith("keep-images")]


def test_the_block_s_own_error_comes_before_that_of_the_work():
    with pytest.raises(ValueError, match="mine"):
        through(refuse, error=ValueError("mine"))
