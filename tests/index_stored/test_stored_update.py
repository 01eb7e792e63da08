"""Models join an index and leave it, in proportion to what they are."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gmi_registry.errors import InputError, SpecFormatError
from gmi_registry.index import Filters, ImageQuery, SpecStatus
from gmi_registry.index.stored import FolderFiles, StoredIndex, update_index, writer
from gmi_registry.index.stored.format import IndexDocument
from gmi_registry.scoring import SCORES
from gmi_registry.spec import ModelRef
from tests.support.stored_specs import OTHER, Opened, in_memory, make_row, query, renamed, stored


def rows_of(*numbers, **changes):
    return [make_row(number, **changes) for number in numbers]


def contents(folder):
    """Every file of the index, by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != writer.LOCK_NAME
    }


def names_in(folder, cache):
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        return sorted(name for group in index.groups for name in group.names)


def document(folder):
    return IndexDocument.from_bytes((folder / "index.json").read_bytes())


QUESTION = ImageQuery(query(4), SCORES["default"])


def expected(rows):
    """How an index in memory of these rows ranks them."""
    return in_memory(rows).answer(QUESTION, top=None).groups


def found(folder, cache):
    """How the index in ``folder`` ranks what it holds."""
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        return Opened(index).answer(QUESTION, top=None).groups


def answers(folder, cache, rows):
    """Whether the index ranks as one in memory of these rows."""
    return found(folder, cache) == expected(rows)


class TestRows:
    def test_what_is_new_joins_and_the_rest_stays(self, tmp_path):
        first = update_index(tmp_path / "i", rows_of(*range(20)))
        assert (first.rows, first.added, first.obsolete) == (20, 20, ())
        assert sorted((*first.new, "index.json")) == sorted(contents(tmp_path / "i"))
        assert first.written == sum(map(len, contents(tmp_path / "i").values()))
        second = update_index(tmp_path / "i", rows_of(18, 19, 20, 21))
        assert (second.rows, second.added, second.unchanged) == (22, 2, 2)
        assert answers(tmp_path / "i", tmp_path / "c", rows_of(*range(22)))

    def test_nothing_new_writes_nothing(self, tmp_path):
        update_index(tmp_path, rows_of(*range(5)))
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
        change = update_index(tmp_path, rows_of(3, 1))
        assert (change.unchanged, change.written, change.new, change.obsolete) == (2, 0, (), ())
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before

    def test_another_specification_replaces(self, tmp_path):
        update_index(tmp_path / "i", rows_of(*range(8)))
        change = update_index(tmp_path / "i", [make_row(3, seed=77)])
        assert (change.rows, change.replaced, change.added) == (8, 1, 0)
        now = [*rows_of(0, 1, 2, 4, 5, 6, 7), make_row(3, seed=77)]
        assert answers(tmp_path / "i", tmp_path / "c", now)

    def test_it_may_move_to_another_group(self, tmp_path):
        update_index(tmp_path / "i", rows_of(*range(4)))
        change = update_index(tmp_path / "i", [make_row(3, prompt_set=OTHER)])
        assert (change.rows, change.replaced) == (4, 1)
        now = [*rows_of(0, 1, 2), make_row(3, prompt_set=OTHER)]
        assert answers(tmp_path / "i", tmp_path / "c", now)
        assert len(document(tmp_path / "i").groups) == 2

    def test_metadata_alone_touch_no_array(self, tmp_path):
        rows = rows_of(*range(12))
        update_index(tmp_path / "i", rows)
        changed = [
            renamed(rows[0], downloads=12345),
            renamed(rows[3], f"hf:o/m3@{'b' * 40}"),
            replace(rows[4], status=SpecStatus(True, "verified")),
        ]
        change = update_index(tmp_path / "i", changed)
        assert (change.described, change.unchanged, change.replaced) == (3, 0, 0)
        assert [name.rpartition("-")[2] for name in change.new] == ["entries.jsonl"]
        assert [name.rpartition("-")[2] for name in change.obsolete] == ["entries.jsonl"]
        now = [changed[0], *rows[1:3], *changed[1:], *rows[5:]]
        assert answers(tmp_path / "i", tmp_path / "c", now)

    def test_of_two_rows_for_a_model_the_later_counts(self, tmp_path):
        again = make_row(1, seed=50)
        update_index(tmp_path / "i", [*rows_of(0, 1, 2), again])
        assert answers(tmp_path / "i", tmp_path / "c", [*rows_of(0, 2), again])
        change = update_index(tmp_path / "i", [make_row(1, seed=51), again])
        assert (change.rows, change.unchanged, change.replaced) == (3, 1, 0)

    def test_models_leave_whatever_their_revision(self, tmp_path):
        update_index(tmp_path / "i", rows_of(*range(9)))
        gone = [ModelRef.parse("hf:o/m3"), ModelRef.parse("civitai:2@101"), ModelRef("local", "x")]
        change = update_index(tmp_path / "i", [], gone)
        assert (change.rows, change.removed) == (7, 2)
        assert answers(tmp_path / "i", tmp_path / "c", rows_of(0, 2, 4, 5, 6, 7, 8))
        change = update_index(tmp_path / "i", rows_of(3, 1))
        assert answers(tmp_path / "i", tmp_path / "c", rows_of(*range(9)))

    def test_all_may_leave(self, tmp_path):
        rows = rows_of(*range(3))
        update_index(tmp_path / "i", rows)
        change = update_index(tmp_path / "i", [], [row.indexed.entry.ref for row in rows])
        assert (change.rows, change.new, len(change.obsolete)) == (0, (), 6)
        assert list(contents(tmp_path / "i")) == ["index.json"]
        assert names_in(tmp_path / "i", tmp_path / "c") == []

    def test_nobody_is_left_out_for_the_prompt_embeddings_of_others(self, tmp_path):
        forged = [make_row(number, prompts_seed=8) for number in range(4, 9)]
        change = update_index(tmp_path / "i", [*forged, *rows_of(*range(4))])
        assert (change.rows, change.refused) == (9, ())
        change = update_index(tmp_path / "i", [make_row(2, prompts_seed=8), *rows_of(9)])
        assert (change.rows, change.added, change.refused) == (10, 1, ())

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (lambda it: it.image_embeddings * np.float16(np.nan), "norm nan"),
            (lambda it: it.image_embeddings[:-1], "shape"),
            (lambda it: it.image_embeddings[:, :-1], "shape"),
        ],
    )
    def test_what_no_reader_would_take_is_refused(self, broken, reason, tmp_path):
        row = make_row(0)
        bad = replace(row, indexed=replace(row.indexed, image_embeddings=broken(row.indexed)))
        change = update_index(tmp_path, [bad, make_row(1)])
        assert change.rows == 1
        assert reason in change.refused[0].reason

    def test_metadata_that_no_specification_has_are_refused(self, tmp_path):
        change = update_index(tmp_path, [renamed(make_row(0), title="a\u202eb"), make_row(1)])
        assert change.rows == 1
        assert change.refused[0].reason.startswith("title: ")

    def test_an_encoder_that_is_not_the_one_named_is_refused(self, tmp_path):
        row = make_row(0)
        other = row.encoder.model_copy(update={"name": "forged"})
        change = update_index(tmp_path, [replace(row, encoder=other), make_row(1)])
        assert change.rows == 1
        assert change.refused[0].reason.startswith("it names encoder")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_in_whatever_order(seed, tmp_path, monkeypatch):
    """Random updates of small parts, after each of which both indexes hold the same."""
    monkeypatch.setattr("gmi_registry.index.stored.writer._PART_ROWS", 5)
    dice, held = random.Random(seed), {}
    for _ in range(8):
        gone = dice.sample(sorted(held), min(len(held), dice.randrange(4)))
        rows = {}
        for number in dice.sample(range(25), dice.randrange(1, 8)):
            group = {"prompt_set": OTHER} if number % 6 == 0 and dice.random() < 0.7 else {}
            rows[number] = make_row(number, seed=dice.randrange(3), **group)
            if dice.random() < 0.3:
                rows[number] = renamed(rows[number], downloads=dice.randrange(100))
        removed = [held.pop(number).indexed.entry.ref for number in gone]
        held |= rows
        change = update_index(tmp_path / "i", rows.values(), removed)
        assert (change.rows, change.removed, change.refused) == (len(held), len(gone), ())
        counted = change.added + change.replaced + change.described + change.unchanged
        assert counted == len(rows)
        assert answers(tmp_path / "i", tmp_path / "c", held.values())
        assert (
            contents(tmp_path / "i").keys() - {"index.json"}
            == document(tmp_path / "i").files.keys()
        )


class TestParts:
    def test_the_same_rows_give_the_same_bytes(self, tmp_path):
        for name in ("a", "b"):
            update_index(tmp_path / name, rows_of(*range(10)))
            update_index(tmp_path / name, rows_of(11, 4, 12))
        assert contents(tmp_path / "a") == contents(tmp_path / "b")

    def test_an_addition_leaves_large_parts_alone(self, tmp_path):
        update_index(tmp_path, rows_of(*range(60)))
        before = contents(tmp_path)
        change = update_index(tmp_path, rows_of(100, 101))
        kept = {name for name in before if contents(tmp_path).get(name) == before[name]}
        assert {name.rpartition("-")[2] for name in kept} == {
            "entries.jsonl",
            "images.tensors",
            "means.tensors",
            "grams.tensors",
            "prompts.tensors",
        }
        assert [name.rpartition("-")[2] for name in change.obsolete] == ["statistics.tensors"]

    def test_small_parts_are_joined_and_no_row_is_written_often(self, tmp_path):
        most = copied = 0
        for number in range(40):
            change = update_index(tmp_path / "i", rows_of(number))
            parts = document(tmp_path / "i").groups[0].parts
            most = max(most, len(parts))
            copied += sum(part.rows for part in parts if part.images.name in change.new)
        assert most <= 6
        # A row is written anew where its part grows by half at least: log 40 to the base of 1.5.
        assert 40 < copied < 40 * 9
        assert answers(tmp_path / "i", tmp_path / "c", rows_of(*range(40)))

    def test_a_part_that_lost_many_of_its_rows_is_written_again(self, tmp_path):
        update_index(tmp_path / "i", rows_of(*range(20)))
        refs = [row.indexed.entry.ref for row in rows_of(*range(14))]
        update_index(tmp_path / "i", [], refs[:5])
        (part,) = document(tmp_path / "i").groups[0].parts
        assert (part.rows, len(part.removed)) == (20, 5)
        update_index(tmp_path / "i", [], refs)
        (part,) = document(tmp_path / "i").groups[0].parts
        assert (part.rows, part.removed) == (6, ())
        assert answers(tmp_path / "i", tmp_path / "c", rows_of(*range(14, 20)))

    def test_a_part_is_full_some_day(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gmi_registry.index.stored.writer._PART_ROWS", 8)
        for start in range(0, 40, 5):
            update_index(tmp_path / "i", rows_of(*range(start, start + 5)))
        update_index(tmp_path / "i", rows_of(*range(40, 61)))
        parts = document(tmp_path / "i").groups[0].parts
        assert max(part.rows for part in parts) == 8
        assert len(parts) <= 2 * 61 / 8
        assert answers(tmp_path / "i", tmp_path / "c", rows_of(*range(61)))

    def test_files_of_arrays_are_safetensors_under_other_names(self, tmp_path):
        row = make_row(0)
        update_index(tmp_path, [row, *rows_of(1)])
        names = list(contents(tmp_path))
        assert not any(name.endswith(".safetensors") for name in names)
        found = {}
        for name in names:
            if name.endswith(".tensors"):
                found |= load_file(tmp_path / name)
        assert {name: (array.shape, str(array.dtype)) for name, array in found.items()} == {
            "means": ((2, 6), "float32"),
            "images": ((2, 5, 6), "float16"),
            "grams": ((2, 10), "float32"),
            "prompts": ((5, 6), "float16"),
            "eigenvalues": ((6,), "float64"),
            "eigenvectors": ((6, 6), "float64"),
            "scatter": ((21,), "float64"),
        }
        assert np.array_equal(found["images"][0], row.indexed.image_embeddings)

    def test_fields_of_a_newer_minor_version_are_kept(self, tmp_path):
        update_index(tmp_path, rows_of(*range(6)))
        known = document(tmp_path)
        newer = known.model_copy(
            update={"format": known.format.model_copy(update={"version": "1.7"})}
        )
        data = newer.to_bytes().replace(b'"groups":[{', b'"groups":[{"a_new_field":[1,2],')
        (tmp_path / "index.json").write_bytes(data)
        update_index(tmp_path, rows_of(6))
        after = (tmp_path / "index.json").read_bytes()
        assert b'"a_new_field":[1,2]' in after
        assert b'"version":"1.7"' in after


def update_until(folder, step, rows, removed):
    """Run an update in a process of its own that ends, without any cleaning up, before its
    ``step``-th change of the disk. Returns whether it came to its end."""
    child = os.fork()
    if child == 0:
        left = [step]

        def stopping(original):
            def stopped(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return stopped

        os.fsync = stopping(os.fsync)
        Path.replace = stopping(Path.replace)
        Path.unlink = stopping(Path.unlink)
        try:
            update_index(folder, rows, removed)
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be killed")
def test_whoever_is_killed_leaves_the_old_index_or_the_new_one(tmp_path, monkeypatch):
    # The kernel keeps what a killed process wrote: to wait for the disk would change nothing.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    old, new = rows_of(*range(5)), [*rows_of(20, 21), make_row(2, seed=90)]
    new.append(make_row(30, prompt_set=OTHER))
    gone = [old[4].indexed.entry.ref]
    before, after = expected(old), expected([old[0], old[1], old[3], *new])
    update_index(tmp_path / "old", old)
    ranked = {}

    def ranking(folder):
        """Worked out once for the same bytes of all files that the index names."""
        files = contents(folder)
        named = ("index.json", *sorted(document(folder).files))
        state = tuple(files[name] for name in named)
        if state not in ranked:
            ranked[state] = found(folder, tmp_path / "c")
        return ranked[state]

    seen, step, ended = set(), 0, False
    while not ended:
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "old", folder)
        ended = update_until(folder, step, new, gone)
        assert ranking(folder) in (before, after)
        seen.add(ranking(folder) == before)
        # And the next writer goes on as if nothing had been.
        update_index(folder, new, gone)
        assert ranking(folder) == after
        assert contents(folder).keys() - {"index.json"} == document(folder).files.keys()
        step += 1
    assert seen == {True, False}
    assert step > 20


def test_an_error_leaves_everything_as_it_was(tmp_path):
    update_index(tmp_path, rows_of(*range(4)))
    before = contents(tmp_path)

    def failing():
        yield make_row(7)
        raise SpecFormatError("no more")

    with pytest.raises(SpecFormatError, match="no more"):
        update_index(tmp_path, failing())
    assert contents(tmp_path) == before


def test_files_of_others_are_left_alone(tmp_path):
    update_index(tmp_path, rows_of(0, 1))
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    others = [tmp_path / "README.md", folder / "notes.txt", tmp_path / "0123456789abcdef.txt"]
    for path in others:
        path.write_text("mine")
    update_index(tmp_path, rows_of(2), [make_row(0).indexed.entry.ref])
    assert [path.read_text() for path in others] == ["mine"] * 3


WRITER = """
import sys
from tests.support.stored_specs import make_row
from gmi_registry.index.stored import update_index
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    update_index(sys.argv[1], [make_row(number)])
"""


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    arguments = [sys.executable, "-c", WRITER, str(tmp_path / "i")]
    processes = [subprocess.Popen([*arguments, *span]) for span in (("0", "6"), ("6", "12"))]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert answers(tmp_path / "i", tmp_path / "c", rows_of(*range(12)))


def test_a_writer_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LOCK_PATIENCE", 0.05)
    with writer.writing_alone(tmp_path), pytest.raises(InputError, match="another program"):
        update_index(tmp_path, rows_of(0))
    assert update_index(tmp_path, rows_of(0)).rows == 1


def test_a_disk_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "i").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        update_index(tmp_path / "i", rows_of(0))


def test_filters_see_the_new_metadata(tmp_path):
    rows = rows_of(*range(6))
    update_index(tmp_path / "i", rows)
    with stored(tmp_path / "i", cache=tmp_path / "c") as index:
        assert not index.groups[0].select(Filters(tags=("added",)))
    update_index(tmp_path / "i", [renamed(rows[2], tags=("Added",))])
    with stored(tmp_path / "i", cache=tmp_path / "c") as index:
        (row,) = index.groups[0].select(Filters(tags=("added",)))
        assert index.groups[0].names[row] == str(rows[2].indexed.entry.ref)
        assert index.groups[0].entries[row].tags == ("Added",)
