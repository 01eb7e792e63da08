"""What is read once is not read again, and no state of the cache directory is an error."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import time

import numpy as np
import pytest

from gmi_registry.errors import RateLimitError, SpecFormatError
from gmi_registry.filters import Filters
from gmi_registry.index import SpecCache, SpecIndex, SpecSource, memory
from gmi_registry.index.entry import IndexedSpec, IndexEntry
from gmi_registry.spec import ModelRef


class Shelf:
    """Specifications that count how often each is read."""

    def __init__(self, specs):
        self.specs = {spec.manifest.model.id: spec for spec in specs}
        self.reads = []

    def sources(self, **change):
        def load(name):
            def read():
                self.reads.append(name)
                return self.specs[name]

            return read

        return [
            SpecSource(
                ModelRef("local", name),
                load(name),
                **{"digest": spec.digest} | change,
            )
            for name, spec in self.specs.items()
        ]


@pytest.fixture
def shelf(make_spec):
    return Shelf([make_spec(f"m{i}", tags=("Ünïcode", "b"), downloads=i) for i in range(5)])


def test_the_second_time_nothing_is_read_and_the_answer_is_the_same(shelf, ask, tmp_path):
    query = ask(np.ones(8))
    cold = SpecIndex.from_sources(shelf.sources(), cache=SpecCache(tmp_path))
    assert sorted(shelf.reads) == sorted(shelf.specs)
    shelf.reads.clear()
    warm = SpecIndex.from_sources(shelf.sources(), cache=SpecCache(tmp_path))
    assert shelf.reads == []
    assert warm.entries == cold.entries
    for score in ("paper", "default", "download"):
        assert warm.rank(query, score) == cold.rank(query, score)
    assert SpecCache(tmp_path).use().specs == 5


def test_a_stamp_stands_for_a_digest_that_the_hub_cannot_name(shelf, make_spec, tmp_path):
    cache = SpecCache(tmp_path)
    for stamp, expected in (("first", 5), ("first", 0), ("second", 5)):
        shelf.reads.clear()
        sources = [
            dataclasses.replace(source, stamp=f"{stamp} {source.model}")
            for source in shelf.sources(digest=None)
        ]
        assert len(SpecIndex.from_sources(sources, cache=cache)) == 5
        assert len(shelf.reads) == expected


def test_only_what_changed_is_read_again(shelf, make_spec, tmp_path):
    cache = SpecCache(tmp_path)
    SpecIndex.from_sources(shelf.sources(), cache=cache)
    shelf.reads.clear()
    shelf.specs["m3"] = make_spec("m3", seed=99)
    index = SpecIndex.from_sources(shelf.sources(), cache=cache)
    assert shelf.reads == ["m3"]
    assert shelf.specs["m3"].digest in {entry.digest for entry in index.entries}


def test_without_a_name_for_the_content_it_is_read_each_time(shelf, tmp_path):
    for _ in range(2):
        SpecIndex.from_sources(shelf.sources(digest=None), cache=SpecCache(tmp_path))
    assert len(shelf.reads) == 10


def damage_truncated(data):
    return data[: len(data) // 2]


def damage_flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage", [damage_truncated, damage_flipped, lambda data: b"", lambda data: b"\0" * 32]
)
def test_a_damaged_file_is_made_again(damage, shelf, tmp_path):
    cache = SpecCache(tmp_path)
    sources = [dataclasses.replace(s, stamp=str(s.model)) for s in shelf.sources(digest=None)]
    first = SpecIndex.from_sources(sources, cache=cache)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 10
    for path in files:
        path.write_bytes(damage(path.read_bytes()))
    shelf.reads.clear()
    assert SpecIndex.from_sources(sources, cache=cache).entries == first.entries
    assert len(shelf.reads) == 5
    shelf.reads.clear()
    SpecIndex.from_sources(sources, cache=cache)
    assert shelf.reads == []


def test_a_file_under_the_wrong_name_is_not_believed(shelf, tmp_path):
    cache = SpecCache(tmp_path)
    SpecIndex.from_sources(shelf.sources(), cache=cache)
    one, other, *_ = sorted(tmp_path.rglob("*.bin"))
    one.write_bytes(other.read_bytes())
    assert cache.get(one.stem) is None
    assert not one.exists()
    assert cache.get(other.stem) is not None


@pytest.mark.parametrize("digest", ["../outside", "", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_digest_that_is_none_touches_no_file(digest, tmp_path):
    (tmp_path / "index-v1" / "specs").mkdir(parents=True)
    outside = tmp_path / "index-v1" / "outside.bin"
    outside.write_bytes(b"precious")
    assert SpecCache(tmp_path).get(digest) is None
    assert outside.read_bytes() == b"precious"


def test_a_directory_that_cannot_be_written_is_a_warning_and_no_error(shelf, tmp_path, caplog):
    (tmp_path / "file").write_text("not a directory")
    with caplog.at_level(logging.WARNING):
        index = SpecIndex.from_sources(shelf.sources(), cache=SpecCache(tmp_path / "file"))
    assert len(index) == 5
    assert len(caplog.records) == 1
    assert SpecCache(tmp_path / "file").use().specs == 0


def test_a_directory_in_the_place_of_a_file_is_no_error(shelf, tmp_path):
    for spec in shelf.specs.values():
        (tmp_path / "index-v1" / "specs" / f"{spec.digest}.bin").mkdir(parents=True)
    for _ in range(2):
        assert len(SpecIndex.from_sources(shelf.sources(), cache=SpecCache(tmp_path))) == 5
    SpecCache(tmp_path).prune()


def test_prune_deletes_what_the_cache_made_and_nothing_else(shelf, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    cache = SpecCache(tmp_path)
    SpecIndex.from_sources(shelf.sources(), cache=cache)
    assert cache.use().bytes > 0
    assert cache.prune().specs == 5
    assert (cache.use().specs, cache.use().bytes, cache.use().used) == (0, 0, None)
    assert (tmp_path / "mine.txt").exists()


def test_an_entry_survives_json(make_spec):
    entry = IndexEntry.of(make_spec("alpha", tags=("Ünï", '"'), base_model=None, url=None))
    assert IndexEntry.from_json(entry.to_json()) == entry
    with pytest.raises(KeyError):
        IndexEntry.from_json(b'{"model": "local:a"}')


def _write_and_read(directory, indexed, barrier):
    cache = SpecCache(directory)
    barrier.wait()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        cache.put(indexed)
        found = cache.get(indexed.entry.digest)
        # Another process may replace the file at any moment, but never with less than the whole.
        assert found is not None
        assert np.array_equal(found.gram, indexed.gram)


def test_processes_may_share_a_directory(make_spec, tmp_path):
    indexed = IndexedSpec.of(make_spec("alpha"))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    others = [
        context.Process(target=_write_and_read, args=(tmp_path, indexed, barrier)) for _ in range(3)
    ]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        f"{indexed.entry.digest}.bin"
    ]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_source_that_fails_is_skipped_with_its_reason(workers, shelf, tmp_path):
    def broken():
        raise SpecFormatError("spec.json: not JSON")

    sources = shelf.sources()
    sources[2] = dataclasses.replace(sources[2], load=broken)
    seen = []
    index = SpecIndex.from_sources(
        sources,
        cache=SpecCache(tmp_path),
        workers=workers,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(index) == 4
    assert [(s.model.id, s.reason) for s in index.skipped] == [("m2", "spec.json: not JSON")]
    assert seen == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize("workers", [1, 4])
def test_too_many_requests_stop_the_reading(workers, shelf, tmp_path):
    def refused():
        raise RateLimitError("slow down")

    sources = [dataclasses.replace(source, load=refused) for source in shelf.sources()]
    with pytest.raises(RateLimitError):
        SpecIndex.from_sources(sources, workers=workers)
    # What is known already needs no request, and is ranked.
    cache = SpecCache(tmp_path)
    SpecIndex.from_sources(shelf.sources()[2:], cache=cache)
    index = SpecIndex.from_sources(sources, cache=cache, workers=workers)
    assert [entry.ref.id for entry in index.entries] == ["m2", "m3", "m4"]
    assert [skipped.model.id for skipped in index.skipped] == ["m0", "m1"]
    assert all("slow down" in skipped.reason for skipped in index.skipped)


def test_after_a_refusal_nothing_more_is_asked_for(shelf):
    def refused():
        raise RateLimitError("slow down")

    sources = shelf.sources()
    sources[1] = dataclasses.replace(sources[1], load=refused)
    index = SpecIndex.from_sources(sources)
    assert len(index) == 1
    assert shelf.reads == ["m0"]
    assert [skipped.reason for skipped in index.skipped] == [
        "slow down",
        *["not read any more: slow down"] * 3,
    ]


def test_the_failed_are_reported_with_every_ranking(shelf, ask):
    sources = shelf.sources()
    sources[0] = dataclasses.replace(sources[0], digest="0" * 64)
    result = SpecIndex.from_sources(sources).rank(ask())
    assert len(result.hits) == 4
    assert "promised" in result.skipped[0].reason


def test_the_first_source_of_a_model_is_believed(shelf, make_spec):
    own, other = shelf.sources()[0], make_spec("m0", seed=77)
    again = dataclasses.replace(own)
    rival = SpecSource(ModelRef("local", "m0", "abcdef0123"), lambda: other)
    index = SpecIndex.from_sources([own, again, rival])
    assert [entry.digest for entry in index.entries] == [own.digest]
    assert [skipped.model for skipped in index.skipped] == [rival.model]
    assert "indexed already" in index.skipped[0].reason


def test_a_copied_specification_is_not_taken_for_another_model(shelf, tmp_path):
    cache = SpecCache(tmp_path)
    SpecIndex.from_sources(shelf.sources(), cache=cache)
    thief = dataclasses.replace(shelf.sources()[0], model=ModelRef("local", "thief"))
    index = SpecIndex.from_sources([thief], cache=cache)
    assert len(index) == 0
    assert "describes local:m0" in index.skipped[0].reason


def test_the_hub_knows_todays_revision_and_downloads(shelf, tmp_path):
    source = dataclasses.replace(
        shelf.sources()[1], model=ModelRef("local", "m1", "ffffffff"), downloads=900
    )
    for _ in range(2):
        index = SpecIndex.from_sources([source], cache=SpecCache(tmp_path))
        (entry,) = index.entries
        assert (str(entry.ref), entry.downloads) == ("local:m1@ffffffff", 900)


def test_a_temperature_is_fitted_once_for_the_same_members(shelf, tmp_path, monkeypatch):
    cache = SpecCache(tmp_path)

    def temperatures(sources):
        selections = SpecIndex.from_sources(sources, cache=cache).select(Filters())
        return [selection.group.temperature for selection in selections]

    first = temperatures(shelf.sources())
    monkeypatch.setattr(memory, "sampled_temperature", lambda *_: 0.5)
    assert temperatures(shelf.sources()) == first
    assert temperatures(shelf.sources()[1:]) == [0.5] * len(first)
