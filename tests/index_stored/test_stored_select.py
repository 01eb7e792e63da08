"""Filters as questions to packed columns pass what they pass in memory."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmi_registry.index import Filters, SpecStatus
from gmi_registry.index.stored import FolderFiles, StoredIndex, files, metadata, update_index
from gmi_registry.index.stored.files import database_path
from tests.support.stored_specs import make_row, ref_of, renamed, stored

WORDS = ["icon", "ICON", "Straße", "STRASSE", "ǅ", "it's", 'a"b', "%", "_", "x' or 1=1 --", "ı"]
WORDS += ["caf\u00e9", "CAFE\u0301", "two  words", "base_model:Owner/Base", "base_model:lora:o/b"]
STRAY = "lone \udc80"
BASES = [None, "SDXL 1.0", "sdxl 1.0", "Größe", "GRÖSSE", "'; drop table row; --", "owner/BASE"]
STATUSES = [
    SpecStatus(),
    SpecStatus(True, "owner", "s 1"),
    SpecStatus(False, "verified"),
    SpecStatus(True, None, "s 2"),
]
HUB_TAGS = [
    (),
    ("Straße",),
    ("it's", "IT'S", "Base_Model:Owner/Base", "base_model:lora:O/B"),
    ("icon",),
    (),
]
KINDS = ["lora", "checkpoint", "single-file"]


def plain_row(number):
    """A row whose metadata go through every combination in the end."""
    tags = tuple(dict.fromkeys(WORDS[(number * step) % len(WORDS)] for step in (1, 3, 7)))
    row = make_row(
        number,
        status=STATUSES[number % len(STATUSES)],
        tags=tags[: number % 4],
        base_model=BASES[number % len(BASES)],
        kind=KINDS[number // 2 % 3],
        nsfw=number % 4 == 1,
    )
    return renamed(row, ref_of(number), hub_tags=HUB_TAGS[number % len(HUB_TAGS)])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Sixty rows in a cache that knows other indexes with the same models too."""
    rows = [plain_row(number) for number in range(60)]
    cache = tmp_path_factory.mktemp("cache")
    others = [replace(row, status=STATUSES[1]) for row in rows[::2]]
    folder = tmp_path_factory.mktemp("index")
    with (
        stored(tmp_path_factory.mktemp("other"), others, cache=cache) as another,
        stored(folder, rows[:50], rows[50:], cache=cache),
    ):
        assert len(another) == 30
        update_index(folder, [], [rows[3].indexed.entry.ref, rows[55].indexed.entry.ref])
        with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as opened:
            assert len(opened) == 58
            yield opened


ODD = ["absent", "", "\n", "\x00", "?", "TWO words", "base_model\nowner/base"]
texts = st.sampled_from([*WORDS, STRAY, *ODD])
filters = st.builds(
    Filters,
    tags=st.lists(texts, max_size=2).map(tuple),
    not_tags=st.lists(texts, max_size=2).map(tuple),
    base_model=st.sampled_from([*BASES, STRAY, ""]),
    kind=st.sampled_from([None, *KINDS, "LoRA", "Checkpoint", "other", STRAY]),
    fresh_only=st.booleans(),
    nsfw=st.booleans(),
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    filters=filters,
    hub=st.sampled_from([None, "hf", "civitai", "local", "HF", STRAY]),
)
def test_the_columns_agree_with_the_filters(index, filters, hub):
    (stack,) = index.groups
    expected = [
        row
        for row, entry in enumerate(stack.entries)
        if filters.admits(entry.traits(index.status(str(entry.ref.identity)).stale))
        and (hub is None or entry.ref.hub == hub)
    ]
    assert list(stack.select(filters, hub=hub)) == expected


def test_filters_let_something_through_and_keep_something_out(index):
    (stack,) = index.groups
    for chosen in (Filters(tags=("strasse",)), Filters(base_model="grösse"), Filters(kind="LORA")):
        assert 0 < len(stack.select(chosen)) < len(stack)


def test_no_filter_is_everything(index):
    (stack,) = index.groups
    assert list(stack.select(Filters())) == list(range(58))


def test_statuses_are_those_of_this_index(index):
    (stack,) = index.groups
    assert {index.status(name) for name in stack.names} == set(STATUSES)
    assert index.status("local:nobody") == SpecStatus()
    assert index.status("hf:o/m3") == SpecStatus()


def test_entries_are_a_sequence(index):
    (stack,) = index.groups
    assert len(stack.entries) == 58
    assert stack.entries[-1] == list(stack.entries)[57]
    assert stack.entries[2:9:3] == tuple(stack.entries.at([2, 5, 8]))
    with pytest.raises(IndexError):
        stack.entries[58]


def test_a_question_reads_the_tags_of_its_shard_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "_SHARD_MEMBERS", 3)
    rows = [plain_row(number) for number in range(24)]
    asked = []
    original = files.LocalDatabase.values

    def counted(self, owner, places):
        asked.extend((owner.partition(" ")[0], place) for place in places)
        return original(self, owner, places)

    with stored(tmp_path / "i", rows, cache=tmp_path / "c") as opened:
        wanted = list(opened.groups[0].select(Filters(tags=("icon",))))
    monkeypatch.setattr(files.LocalDatabase, "values", counted)
    with stored(tmp_path / "i", cache=tmp_path / "c") as opened:
        (group,) = opened.groups
        assert asked == [("members", 0)]
        assert list(group.select(Filters(tags=("ICON",)))) == wanted
        (shard,) = asked[1:]
        assert shard[0] == "facets"
        assert 1 <= shard[1] <= 8
        assert list(group.select(Filters(tags=("icon",)))) == wanted
        assert asked[1:] == [shard]


def test_what_can_be_done_without_waits_for_nobody(tmp_path):
    cache = tmp_path / "c"
    stored(tmp_path / "i", [make_row(number) for number in range(24)], cache=cache).close()
    with contextlib.closing(sqlite3.connect(database_path(cache))) as other:
        other.isolation_level = None
        for table in ("use", "checked"):
            other.execute(f"update {table} set used = used - 2 * 24 * 3600")
        before = other.execute("select min(used) from use").fetchone()
        other.execute("begin immediate")
        began = time.monotonic()
        with stored(tmp_path / "i", cache=cache) as opened:
            assert len(opened) == 24
        assert time.monotonic() - began < 5
        other.execute("rollback")
        with stored(tmp_path / "i", cache=cache):
            assert other.execute("select min(used) from use").fetchone() > before
