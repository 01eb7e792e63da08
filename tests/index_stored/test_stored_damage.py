"""Whatever a disk does to the reader's caches, the answer is the same one."""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest

from gmi_registry.index import Filters, ImageQuery, queries, rank
from gmi_registry.index.stored import files, prefilter, reader, update_index
from gmi_registry.index.stored.files import database_path, discard_database
from gmi_registry.scoring import SCORES
from gmi_registry.scoring import prefilter as scoring_prefilter
from gmi_registry.scoring.prefilter import Care, refines_all
from tests.support.stored_specs import Opened, make_row, query, stored

FLIPS = 40
QUESTION = ImageQuery(query(4), SCORES["default"])
FILTERS = (
    Filters(),
    Filters(tags=("icon",), not_tags=("t1",)),
    Filters(base_model="sdxl 1.0"),
    Filters(kind="lora", fresh_only=True, nsfw=False),
)


def everything(folder, cache):
    """All that can be asked of an index: statuses, filters, metadata and rankings."""
    with stored(folder, cache=cache) as index:
        opened = Opened(index)
        (group,) = index.groups
        return (
            [(name, index.status(name)) for name in group.names],
            [list(group.select(it)) for it in FILTERS],
            list(group.select(Filters(), hub="hf")),
            list(group.entries),
            [opened.answer(QUESTION, it, top=None).groups for it in FILTERS],
            opened.answer(QUESTION, top=3, best_prompts=0).groups,
        )


def flipped(content, number):
    """Another bit for each number."""
    random = np.random.default_rng(number)
    spoilt = bytearray(content)
    place = next((int(it) for it in random.integers(0, len(spoilt), 50) if spoilt[it]), 0)
    spoilt[place] ^= 1 << int(random.integers(8))
    return bytes(spoilt)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    update_index(folder, [make_row(number) for number in range(60)])
    return folder


@pytest.fixture(scope="module")
def warm(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return cache, everything(folder, cache)


def spoil(warm, place, content, tmp_path):
    cache = tmp_path / "c"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(warm, cache)
    (cache / place.relative_to(warm)).write_bytes(content)
    return cache


def test_a_flipped_bit_of_the_database_changes_no_answer(folder, warm, tmp_path):
    cache, wanted = warm
    good = database_path(cache).read_bytes()
    for number in range(FLIPS):
        spoilt = spoil(cache, database_path(cache), flipped(good, number), tmp_path)
        for _ in range(2):  # what was made again is as good
            assert everything(folder, spoilt) == wanted, number


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("how", ["cut", "zeros", "other bytes"])
def test_lost_pages_of_the_database_change_no_answer(how, share, folder, warm, tmp_path):
    cache, wanted = warm
    good = database_path(cache).read_bytes()
    place = int(len(good) * share) // 4096 * 4096
    lost = {"cut": b"", "zeros": bytes(4096), "other bytes": b"\xa5" * 4096}[how]
    rest = b"" if how == "cut" else good[place + 4096 :]
    spoilt = spoil(cache, database_path(cache), good[:place] + lost + rest, tmp_path)
    assert everything(folder, spoilt) == wanted


def test_damage_while_an_index_is_open_changes_no_answer(folder, tmp_path):
    """Every value is lost between two questions, by another process that throws the file away."""
    cache = tmp_path / "c"
    wanted = everything(folder, cache)
    with stored(folder, cache=cache) as index:
        (group,) = index.groups
        with index._database._lock:
            index._database._database.execute("update entry set value = zeroblob(length(value))")
        assert list(group.entries) == wanted[3]
        discard_database(cache)
        assert [list(group.select(it)) for it in FILTERS] == wanted[1]
    assert everything(folder, cache) == wanted


def test_a_value_is_found_under_its_own_name_alone(tmp_path):
    kept = files.LocalDatabase(tmp_path)
    kept.put("one", {0: b"a", 1: b"b"})
    kept.put("two", {0: b"c"})
    assert (kept.get("one"), kept.get("one", 1), kept.get("two")) == (b"a", b"b", b"c")
    kept._database.execute("update entry set owner = 'three' where owner = 'two'")
    kept._database.execute("update entry set place = 7 where place = 1")
    assert (kept.get("three"), kept.get("one", 7), kept.get("one")) == (None, None, b"a")
    kept.close()
    assert kept.get("one") is None


class TestPrefilter:
    @pytest.fixture(autouse=True)
    def large(self, monkeypatch):
        """Groups of 50 are large ones, and few distances are enough."""
        monkeypatch.setattr(reader, "PREFILTER_MODELS", 50)
        monkeypatch.setattr(rank, "_MANY", 50)
        monkeypatch.setattr(queries, "LOOSE", Care(16, 1))
        monkeypatch.setattr(scoring_prefilter, "LEADING", 5)
        monkeypatch.setattr(scoring_prefilter, "_LEAST_EXACT", 16)
        monkeypatch.setattr(scoring_prefilter, "_EXACT_EACH", 1)
        close = partial(refines_all, care=Care(16, 1))
        monkeypatch.setattr(queries, "refines_all", close)

    @pytest.mark.parametrize("suffix", ["safetensors", "json"])
    def test_a_flipped_bit_changes_no_answer(self, folder, tmp_path, suffix):
        cache = tmp_path / "warm"
        wanted = everything(folder, cache)
        (file,) = (cache / "stored-index-prefilters").glob(f"*.{suffix}")
        good = file.read_bytes()
        for number in range(FLIPS // 2):
            spoilt = spoil(cache, file, flipped(good, number), tmp_path)
            assert everything(folder, spoilt) == wanted, number


@pytest.mark.parametrize("width", [1, 3, 48, 256])
def test_every_bit_of_a_row_counts(width):
    rows = np.random.default_rng(width).standard_normal((3, width)).astype(np.float32)
    sums = prefilter._row_sums(rows)
    for bit in range(8 * rows[1].nbytes):
        other = rows.copy()
        other[1].view(np.uint8)[bit // 8] ^= 1 << bit % 8
        assert (prefilter._row_sums(other) != sums).tolist() == [False, True, False]
    assert (prefilter._row_sums(np.zeros_like(rows)) != 0).all()
