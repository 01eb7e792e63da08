"""An index is opened without reading it all, and what was checked once stays so."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from gmi_registry.errors import SpecFormatError, SpecNotFoundError
from gmi_registry.index import Filters, ImageQuery
from gmi_registry.index.stored import FolderFiles, StoredIndex, files, update_index
from gmi_registry.index.stored import reader as stack_module
from gmi_registry.index.stored.files import database_path, kept_database
from gmi_registry.scoring import SCORES
from tests.support.stored_specs import OTHER, Opened, in_memory, make_row, query, stored

QUESTION = ImageQuery(query(4), SCORES["default"])


class Recorded:
    """A folder's files, and the kinds of those that were asked for."""

    def __init__(self, folder):
        self.files = FolderFiles(folder)
        self.asked = []

    def has(self, name):
        return True

    def fetch(self, name, *, sha256, size):
        assert (sha256 is None) == (size is None) == (name == "index.json")
        self.asked.append(name.rpartition("-")[2] or name)
        return self.files.fetch(name, sha256=sha256, size=size)

    def kinds(self):
        kinds = sorted(set(self.asked))
        self.asked.clear()
        return kinds


@pytest.fixture
def folder(tmp_path):
    update_index(tmp_path / "i", [make_row(number) for number in range(20)])
    return tmp_path / "i"


@pytest.fixture
def hashed(monkeypatch):
    """The names of files that were read to check them."""
    names = []
    original = files._digest

    def counting(stream):
        names.append(Path(stream.name).name.rpartition("-")[2])
        return original(stream)

    monkeypatch.setattr(files, "_digest", counting)
    return names


def test_images_are_fetched_when_somebody_asks_for_them(folder, tmp_path):
    update_index(folder, [make_row(50, prompt_set=OTHER)])
    files = Recorded(folder)
    with StoredIndex.open(files, cache_dir=tmp_path / "c") as index:
        assert files.kinds() == [
            "entries.jsonl",
            "index.json",
            "means.tensors",
            "prompts.tensors",
            "statistics.tensors",
        ]
        for group in index.groups:
            assert len(group.means) == len(group)
        assert files.kinds() == []
        index.groups[0].images([0])
        assert files.asked == ["images.tensors"]
        assert index.groups[0].images([0, 0]).shape[0] == 2
        assert files.kinds() == ["images.tensors"]
        index.groups[0].candidates([0], np.ones((5, 3)))
        assert files.kinds() == ["grams.tensors"]


def test_only_the_parts_that_are_asked_for(folder, tmp_path):
    update_index(folder, [make_row(50)])
    files = Recorded(folder)
    with StoredIndex.open(files, cache_dir=tmp_path / "c") as index:
        (group,) = index.groups
        _, row = index.find(make_row(50).indexed.entry.ref)
        files.kinds()
        assert np.array_equal(group.images([row])[0], make_row(50).indexed.image_embeddings)
        assert files.asked == ["images.tensors"]
        assert group.images().shape == (21, 5, 6)
        assert files.asked == ["images.tensors"] * 2


def test_whether_images_are_at_hand(folder, tmp_path):
    class Remote(Recorded):
        def has(self, name):
            return name in self.fetched

        def fetch(self, name, **about):
            self.fetched = {*getattr(self, "fetched", ()), name}
            return super().fetch(name, **about)

    update_index(folder, [make_row(50)])
    with StoredIndex.open(Remote(folder), cache_dir=tmp_path / "c") as index:
        (group,) = index.groups
        _, row = index.find(make_row(50).indexed.entry.ref)
        others = [place for place in range(21) if place != row]
        group.images([row])
        assert group.at_hand([row])
        assert not group.at_hand(others)
        assert not group.at_hand([row, others[0]])
        assert group.at_hand([])
    with stored(folder, cache=tmp_path / "c") as index:
        assert index.groups[0].at_hand(range(21))


def test_a_second_opening_reads_no_large_file_again(folder, tmp_path, hashed):
    for attempt in range(2):
        files = Recorded(folder)
        with StoredIndex.open(files, cache_dir=tmp_path / "c") as index:
            index.groups[0].images()
            assert Opened(index).answer(QUESTION).groups == answer_of(range(20))
        if attempt == 0:
            assert sorted(hashed) == [
                "images.tensors",
                "means.tensors",
                "prompts.tensors",
                "statistics.tensors",
            ]
            hashed.clear()
    assert hashed == []
    assert "entries.jsonl" not in files.kinds()


def answer_of(numbers):
    return in_memory([make_row(number) for number in numbers]).answer(QUESTION).groups


def test_a_file_that_changed_since_is_checked_again(folder, tmp_path, hashed):
    with stored(folder, cache=tmp_path / "c"):
        hashed.clear()
    (means,) = folder.rglob("*-means.tensors")
    data = bytearray(means.read_bytes())
    data[-1] ^= 1
    means.write_bytes(data)
    with pytest.raises(SpecFormatError, match="digest"):
        stored(folder, cache=tmp_path / "c")
    assert hashed == ["means.tensors"]


def test_the_database_learns_new_parts_alone(folder, tmp_path):
    with stored(folder, cache=tmp_path / "c"):
        pass
    update_index(folder, [make_row(50)])
    files = Recorded(folder)
    with StoredIndex.open(files, cache_dir=tmp_path / "c") as index:
        assert files.asked.count("entries.jsonl") == 1
        assert len(index) == 21


def test_an_index_of_other_rows_of_the_same_part(folder, tmp_path):
    with stored(folder, cache=tmp_path / "c") as before:
        update_index(folder, [], [make_row(4).indexed.entry.ref])
        with stored(folder, cache=tmp_path / "c") as after:
            assert (len(before), len(after)) == (20, 19)
            assert before.find(make_row(4).indexed.entry.ref) is not None
            assert after.find(make_row(4).indexed.entry.ref) is None
            kept = [number for number in range(20) if number != 4]
            assert Opened(after).answer(QUESTION).groups == answer_of(kept)


def test_an_open_index_goes_on_while_another_is_written(folder, tmp_path):
    with stored(folder, cache=tmp_path / "c") as index:
        images = index.groups[0].images()
        update_index(folder, [make_row(number) for number in range(40, 60)])
        assert Opened(index).answer(QUESTION).groups == answer_of(range(20))
        assert np.array_equal(index.groups[0].images(), images)


def test_no_more_files_are_open_than_a_process_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr(stack_module, "_MOST_MAPS", 2)
    monkeypatch.setattr("gmi_registry.index.stored.writer._PART_ROWS", 2)
    update_index(tmp_path / "i", [make_row(number) for number in range(20)])
    with stored(tmp_path / "i", cache=tmp_path / "c") as index:
        (group,) = index.groups
        assert index.info.groups[0].parts == 10
        for number in range(20):
            _, row = index.find(make_row(number).indexed.entry.ref)
            found = group.images([row])[0]
            assert np.array_equal(found, make_row(number).indexed.image_embeddings)
            assert len(group._maps) <= 2
        assert Opened(index).answer(QUESTION).groups == answer_of(range(20))


def test_files_that_went_while_the_index_was_opened(folder, tmp_path):
    class Overtaken(Recorded):
        def fetch(self, name, **about):
            if name.endswith("entries.jsonl") and not self.asked.count("entries.jsonl"):
                rows = [make_row(number) for number in range(60, 85)]
                update_index(folder, rows, [make_row(3).indexed.entry.ref])
            return super().fetch(name, **about)

    with StoredIndex.open(Overtaken(folder), cache_dir=tmp_path / "c") as index:
        assert len(index) == 44


def test_there_is_no_index(tmp_path):
    with pytest.raises(SpecNotFoundError, match=r"holds no index\.json") as caught:
        StoredIndex.open(FolderFiles(tmp_path), cache_dir=tmp_path / "c")
    assert "gmi index build" in caught.value.hint


def test_info_says_what_there_is(folder, tmp_path):
    update_index(folder, [make_row(50)], [make_row(1).indexed.entry.ref])
    with stored(folder, cache=tmp_path / "c") as index:
        (group,) = index.info.groups
        assert (group.rows, group.removed, group.parts) == (20, 1, 2)
        assert index.info.rows == 20
        assert index.info.version == "1.0"
        files = [path for path in folder.rglob("*-*") if path.is_file()]
        assert index.info.bytes == group.bytes == sum(path.stat().st_size for path in files)
        assert (group.encoder.name, group.prompt_set) == ("tiny", "general")


class TestCache:
    def only_file(self, cache):
        (path,) = cache.glob("*.sqlite")
        return path

    @pytest.mark.parametrize("damage", ["text", "empty", "cut", "other tables", "zeros"])
    def test_a_damaged_one_is_made_anew(self, damage, folder, tmp_path):
        with stored(folder, cache=tmp_path / "c"):
            pass
        path = self.only_file(tmp_path / "c")
        data = path.read_bytes()
        if damage == "other tables":
            path.unlink()
            with sqlite3.connect(path) as database:
                database.execute("create table entry (something)")
            database.close()
        else:
            wrong = {"text": b"no database" * 99, "empty": b"", "cut": data[: len(data) // 2]}
            path.write_bytes(wrong.get(damage, data[:4096] + bytes(len(data) - 4096)))
        with stored(folder, cache=tmp_path / "c") as index:
            assert Opened(index).answer(QUESTION).groups == answer_of(range(20))
            (stack,) = index.groups
            assert stack.select(Filters(tags=("t1",)))
        # And is as good as any other from then on.
        files = Recorded(folder)
        with StoredIndex.open(files, cache_dir=tmp_path / "c") as index:
            assert Opened(index).answer(QUESTION).groups == answer_of(range(20))
        assert "entries.jsonl" not in files.kinds()

    def test_one_that_cannot_be_written_costs_time_only(self, folder, tmp_path, caplog):
        (tmp_path / "c").write_text("a file where a folder should be")
        with stored(folder, cache=tmp_path / "c") as index:
            assert Opened(index).answer(QUESTION).groups == answer_of(range(20))
        assert "cannot write the cache" in caplog.text

    def test_what_no_index_asks_for_is_forgotten(self, folder, tmp_path):
        with stored(folder, cache=tmp_path / "c"):
            pass
        with sqlite3.connect(self.only_file(tmp_path / "c")) as database:
            for table in ("use", "checked"):
                database.execute(f"update {table} set used = used - 30 * 24 * 3600")
        database.close()
        update_index(tmp_path / "j", [make_row(70)])
        with stored(tmp_path / "j", cache=tmp_path / "c"):
            pass
        with sqlite3.connect(self.only_file(tmp_path / "c")) as database:
            kinds = "select distinct substr(owner, 1, instr(owner, ' ') - 1) from {} order by 1"
            for table, query in (("entry", kinds), ("use", kinds)):
                found = database.execute(query.format(table)).fetchall()
                assert found == [("facets",), ("lines",), ("members",)]
                owners = database.execute(f"select count(distinct owner) from {table}")
                assert owners.fetchone() == (3,)
        database.close()

    def test_threads_may_ask_and_open_at_once(self, folder, tmp_path):
        wanted, found = answer_of(range(20)), []

        def ask():
            with stored(folder, cache=tmp_path / "c") as index:
                found.extend(Opened(index).answer(QUESTION).groups == wanted for _ in range(5))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 30


def test_a_search_goes_on_where_somebody_deletes_the_cache_meanwhile(folder, tmp_path):
    cache = tmp_path / "c"
    with stored(folder, cache=cache) as index:
        database = kept_database(database_path(cache))
        assert database is not None
        assert database.delete(database.path)
        assert Opened(index).answer(QUESTION).groups == answer_of(range(20))
    assert not database.path.exists()
    with stored(folder, cache=cache) as index:
        assert Opened(index).answer(QUESTION).groups == answer_of(range(20))
    assert database.path.exists()
