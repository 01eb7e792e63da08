"""The queue: one model waits once, whatever comes; nothing is lost with a process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.errors import InputError
from gmi_registry.regeneration.store import DeliveryQueue, QueueCounts


@pytest.fixture
def queue(tmp_path):
    made = DeliveryQueue(tmp_path / "queue", capacity=5)
    yield made
    made.close()


def again(queue, tmp_path):
    queue.close()
    return DeliveryQueue(tmp_path / "queue", capacity=5)


def test_models_are_taken_in_the_order_in_which_they_came(queue):
    for name in ("c", "a", "b", "a"):
        queue.put(name, "1")
    assert [queue.take().repo for _ in range(3)] == ["c", "a", "b"]
    assert queue.take() is None


def test_what_comes_while_a_model_is_worked_on_is_looked_at_afterwards(queue):
    queue.put("a", "1")
    taken = queue.take()
    assert queue.put("a", "2") == "waiting"
    queue.finish(taken)
    assert queue.take().repo == "a"


def test_our_own_commit_is_nothing_new_whether_it_is_told_of_before_or_after(queue):
    queue.put("a", "1")
    taken = queue.take()
    assert queue.put("a", "ours") == "waiting"
    queue.finish(taken, "ours")
    assert queue.counts() == QueueCounts(0, 0, 0)
    assert queue.put("a", "ours") == "ours"
    assert queue.put("b", "ours") == "queued"


def test_somebody_elses_commit_beside_ours_is_looked_at(queue):
    queue.put("a", "1")
    taken = queue.take()
    for sha in ("ours", "2", "ours"):
        queue.put("a", sha)
    queue.finish(taken, "ours")
    assert queue.take().repo == "a"


def test_a_full_queue_takes_no_other_model(queue):
    for number in range(5):
        assert queue.put(f"m{number}", "1") == "queued"
    taken = queue.take()
    assert queue.put("m5", "1") == "full"
    assert queue.put("m4", "2") == "waiting"
    assert queue.put("m0", "2") == "waiting"
    queue.finish(taken)
    # It waits once more, so there is no room still.
    assert queue.put("m5", "1") == "full"


def test_three_failures_set_a_model_aside_until_it_changes(queue):
    queue.put("a", "1")
    for number in range(3):
        assert queue.fail(queue.take(), f"reason {number}", after=0) == (number == 2)
    assert queue.counts() == QueueCounts(0, 0, 1)
    assert queue.set_aside() == (("a", "reason 2"),)
    assert queue.put("a", "1") == "set aside"
    assert queue.take() is None
    assert queue.put("a", "2") == "queued"
    assert queue.take().tries == 1


def test_a_failed_model_waits_and_others_go_on(queue):
    queue.put("a", "1")
    queue.put("b", "1")
    queue.fail(queue.take(), "no", after=3600)
    assert queue.take().repo == "b"
    assert queue.take() is None
    assert queue.put("a", "1") == "waiting"
    assert queue.take() is None
    queue.put("a", "2")
    assert queue.take().repo == "a"


def test_what_is_not_the_models_fault_never_sets_it_aside(queue):
    queue.put("a", "1")
    for _ in range(10):
        queue.postpone(queue.take(), after=0)
    assert queue.take().tries == 1
    assert queue.counts() == QueueCounts(0, 1, 0)


def test_a_failure_that_something_overtook_is_forgotten(queue):
    queue.put("a", "1")
    for number in range(3):
        taken = queue.take()
        if number == 2:
            queue.put("a", "2")
        assert not queue.fail(taken, "no", after=0)
    assert queue.take().tries == 1


def test_everything_outlives_a_restart(queue, tmp_path):
    queue.put("a", "1")
    queue.put("b", "1")
    queue.finish(queue.take(), "ours")
    queue.put("c", "1")
    queue = again(queue, tmp_path)
    assert queue.put("a", "ours") == "ours"
    assert [queue.take().repo, queue.take().repo] == ["b", "c"]
    queue.close()


def test_a_model_that_ends_its_worker_is_set_aside_at_the_third_time(queue, tmp_path):
    queue.put("a", "1")
    for number in range(3):
        assert queue.take().repo == "a"
        queue = again(queue, tmp_path)
        assert queue.recover() == (("a",) if number == 2 else ())
    assert queue.take() is None
    assert "ended from outside" in queue.set_aside()[0][1]
    queue.close()


def test_models_set_aside_and_commits_of_ours_are_kept_within_bounds(queue, monkeypatch):
    monkeypatch.setattr("gmi_registry.regeneration.store._MOST_ASIDE", 3)
    monkeypatch.setattr("gmi_registry.regeneration.store._MOST_OURS", 3)
    for number in range(6):
        queue.put(f"m{number}", "1")
        for _ in range(3):
            queue.fail(queue.take(), "no", after=0)
        queue.put("ours", "1")
        queue.finish(queue.take(), f"commit {number}")
    assert [name for name, _ in queue.set_aside()] == ["m5", "m4", "m3"]
    answers = [queue.put("ours", f"commit {number}") for number in range(6)]
    assert answers == ["queued", "waiting", "waiting", "ours", "ours", "ours"]


@pytest.mark.parametrize(
    "content", [b"no database at all " * 50, b"SQLite format 3\0" + b"x" * 4096]
)
def test_a_file_that_is_no_queue_is_said(tmp_path, content):
    (tmp_path / "queue.sqlite3").write_bytes(content)
    with pytest.raises(InputError, match="cannot be used") as refused:
        DeliveryQueue(tmp_path).put("a", "1")
    assert "--queue" in refused.value.hint


def test_a_flipped_bit_is_said_or_changes_nothing(queue, tmp_path):
    def answers(folder):
        opened = DeliveryQueue(folder)
        try:
            found = [opened.counts(), opened.set_aside(), opened.recover()]
            while (taken := opened.take()) is not None:
                found.append(taken)
                opened.finish(taken, "e" * 40)
            return found
        finally:
            opened.close()

    for number in range(5):
        queue.put(f"owner/model-{number}", f"{number:040x}")
    queue.finish(queue.take(), "f" * 40)
    for _ in range(3):
        queue.fail(queue.take(), "out of memory", after=0)
    queue.close()
    good = (tmp_path / "queue" / "queue.sqlite3").read_bytes()
    random = np.random.default_rng(0)
    hints, wanted = [], None
    for place in [None, *np.flatnonzero(np.frombuffer(good, np.uint8))[:: len(good) // 300]]:
        spoilt = bytearray(good)
        if place is not None:
            spoilt[place] ^= 1 << int(random.integers(8))
        shutil.rmtree(tmp_path / "spoilt", ignore_errors=True)
        (tmp_path / "spoilt").mkdir()
        (tmp_path / "spoilt" / "queue.sqlite3").write_bytes(spoilt)
        try:
            found = answers(tmp_path / "spoilt")
        except InputError as error:
            hints.append(error.hint)
        else:
            wanted = wanted or found
            assert found == wanted, place
    assert len(hints) > 20
    assert all("move that file away" in hint for hint in hints)


def test_a_queue_of_an_earlier_version_is_sealed(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as database:
        database.executescript(
            """
            CREATE TABLE repos (repo TEXT PRIMARY KEY, state TEXT NOT NULL, sha TEXT NOT NULL,
              place INTEGER NOT NULL, due REAL NOT NULL DEFAULT 0,
              tries INTEGER NOT NULL DEFAULT 0, later TEXT, reason TEXT) STRICT;
            CREATE TABLE ours (place INTEGER PRIMARY KEY AUTOINCREMENT, repo TEXT NOT NULL,
              sha TEXT NOT NULL, UNIQUE (repo, sha)) STRICT;
            INSERT INTO repos (repo, state, sha, place) VALUES ('o/m', 'waiting', '1', 1);
            INSERT INTO ours (repo, sha) VALUES ('o/n', '2');
            """
        )
    for _ in range(2):
        opened = DeliveryQueue(tmp_path)
        assert opened.put("o/n", "2") == "ours"
        assert opened.put("o/m", "1") == "waiting"
        opened.close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        DeliveryQueue(tmp_path / "file" / "queue")


def test_a_queue_that_somebody_holds_fails_in_time_and_unchanged(queue, tmp_path):
    queue.put("a", "1")
    other = sqlite3.connect(tmp_path / "queue" / "queue.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    with pytest.raises(InputError, match="locked"):
        queue.put("b", "1")
    assert time.monotonic() - start < 2
    other.execute("ROLLBACK")
    other.close()
    assert queue.counts() == QueueCounts(1, 0, 0)


def test_only_its_owner_can_look_into_it(queue, tmp_path):
    assert (tmp_path / "queue").stat().st_mode & 0o077 == 0


def _put_many(folder, name, count):
    queue = DeliveryQueue(folder, capacity=1000, patience=30)
    for number in range(count):
        queue.put(f"{name}-{number % 7}", str(number))
    queue.close()


def test_processes_and_threads_share_a_queue(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    names = ("a", "b")
    others = [spawn.Process(target=_put_many, args=(tmp_path, name, 40)) for name in names]
    threads = [threading.Thread(target=_put_many, args=(tmp_path, "c", 40)) for _ in range(2)]
    for one in (*others, *threads):
        one.start()
    for one in (*others, *threads):
        one.join()
    queue = DeliveryQueue(tmp_path)
    assert queue.counts() == QueueCounts(21, 0, 0)
    taken = {queue.take().repo for _ in range(21)}
    assert taken == {f"{name}-{number}" for name in "abc" for number in range(7)}
    queue.close()


_WRITER = """
import sys
from pathlib import Path
from gmi_registry.regeneration.store import DeliveryQueue
queue = DeliveryQueue(Path(sys.argv[1]), capacity=10**6, patience=30)
for number in range(10**6):
    queue.put(f"m{number}", "1")
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_what_was_said_to_be_noted_is_there_after_a_kill(tmp_path, lines):
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        for _ in range(lines):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split("\n")
    told = max([last, *(int(line) for line in rest[:-1] if line)])
    queue = DeliveryQueue(tmp_path)
    assert queue.counts().waiting in (told + 1, told + 2)
    assert queue.take().repo == "m0"
    queue.close()


_STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "take", "finish", "fail", "postpone"]), st.integers(0, 3)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps=_STEPS)
def test_whatever_happens_no_change_is_forgotten(tmp_path_factory, steps):
    """A commit by somebody else is followed by a look that began after it, or by setting aside."""
    queue = DeliveryQueue(tmp_path_factory.mktemp("queue"), capacity=3)
    unseen, held = set(), {}
    for count, (step, number) in enumerate(steps):
        name = f"m{number}"
        if step == "put":
            if queue.put(name, str(count)) in ("queued", "waiting"):
                unseen.add(name)
        elif step == "take" and (taken := queue.take()):
            held[taken.repo] = taken
            unseen.discard(taken.repo)
        elif step != "take" and name in held:
            taken = held.pop(name)
            if step == "finish":
                queue.finish(taken)
            elif step == "postpone":
                queue.postpone(taken, after=0)
                unseen.add(name)
            elif not queue.fail(taken, "no", after=0):
                unseen.add(name)
    for taken in held.values():
        queue.finish(taken)
    left = set()
    while taken := queue.take():
        left.add(taken.repo)
    assert unseen <= left
    queue.close()
