"""What goes when a cache grows too large, and what never does."""

from __future__ import annotations

import os
import time

import pytest

from gmi_registry.index import SpecCache, SpecIndex, SpecSource
from gmi_registry.index.cache import evict, mark_used, stored_files
from gmi_registry.index.entry import IndexedSpec
from gmi_registry.spec import ModelRef

DAY = 86400.0


def put(folder, name, *, size=100, age=0.0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    used = time.time() - age
    os.utime(path, (used, used))
    return path


@pytest.fixture
def shelf(tmp_path):
    for days in (1, 10, 40):
        put(tmp_path, f"sub/{days}", age=days * DAY)
    return tmp_path


def names(files):
    return sorted(file.path.name for file in files)


@pytest.mark.parametrize(
    ("limits", "gone"),
    [
        ({}, ["1", "10", "40"]),
        ({"unused_for": 30 * DAY}, ["40"]),
        ({"max_bytes": 250}, ["40"]),
        ({"max_bytes": 100}, ["10", "40"]),
        ({"max_bytes": 1000}, []),
        ({"max_bytes": 100, "unused_for": 30 * DAY}, ["40"]),
        ({"max_bytes": 250, "unused_for": 5 * DAY}, ["40"]),
    ],
)
def test_the_longest_unused_goes_first(shelf, limits, gone):
    before = names(stored_files(shelf))
    assert names(evict(stored_files(shelf), dry_run=True, **limits)) == gone
    assert names(stored_files(shelf)) == before
    assert names(evict(stored_files(shelf), **limits)) == gone
    assert names(stored_files(shelf)) == sorted(set(before) - set(gone))


def test_a_file_that_somebody_is_writing_stays(tmp_path):
    put(tmp_path, ".new.part")
    put(tmp_path, ".given-up.part", age=DAY)
    assert names(evict(stored_files(tmp_path))) == [".given-up.part"]


def test_links_are_neither_followed_nor_deleted(tmp_path):
    outside = put(tmp_path / "outside", "precious")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").symlink_to(outside)
    (inside / "folder").symlink_to(outside.parent)
    assert evict(stored_files(inside)) == []
    assert outside.exists()
    assert (inside / "file").is_symlink()


def test_what_vanishes_meanwhile_is_no_error(shelf):
    files = stored_files(shelf)
    files[0].path.unlink()
    assert len(evict(files)) == 2


def test_a_use_is_noted_and_not_every_time(tmp_path):
    old = put(tmp_path, "old", age=DAY)
    mark_used(old)
    assert time.time() - old.stat().st_mtime < 60
    recent = put(tmp_path, "recent", age=600)
    mark_used(recent)
    assert time.time() - recent.stat().st_mtime > 500
    mark_used(tmp_path / "absent")


def test_what_a_search_reads_is_not_the_first_to_go(make_spec, tmp_path):
    cache = SpecCache(tmp_path)
    for name in ("a", "b"):
        cache.put(IndexedSpec.of(make_spec(name)))
    for file in cache.files():
        os.utime(file.path, (1e9, 1e9))
    assert cache.get(make_spec("a").digest) is not None
    size = cache.use().bytes
    gone = cache.prune(max_bytes=size - 1)
    assert gone.specs == 1
    assert cache.get(make_spec("a").digest) is not None
    assert cache.get(make_spec("b").digest) is None


def test_pruning_beside_a_search_costs_a_reading_and_no_error(make_spec, tmp_path):
    """Every file goes between any two reads, and the answer is the same."""
    specs = {name: make_spec(name) for name in "abcdef"}
    cache = SpecCache(tmp_path)

    def source(name):
        def load():
            cache.prune()
            return specs[name]

        return SpecSource(ModelRef("local", name), load, digest=specs[name].digest)

    for _ in range(3):
        index = SpecIndex.from_sources(map(source, specs), cache=cache, workers=3)
        assert len(index) == 6
        assert not index.skipped


def test_below_the_limit_nothing_is_deleted(make_spec, tmp_path):
    cache = SpecCache(tmp_path)
    cache.put(IndexedSpec.of(make_spec("a")))
    assert cache.keep_within_limit().specs == 0
    assert cache.use().specs == 1
