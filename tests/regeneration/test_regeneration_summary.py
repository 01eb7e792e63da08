"""What a summary says, whatever the hub's words are; and what is kept of failures."""

from __future__ import annotations

import json
import pickle
import sqlite3
import threading
from pathlib import Path

import pytest

from gmi_registry.errors import InputError
from gmi_registry.regeneration import FailureStore, Options, PlannedModel, Result, Summary, Work
from gmi_registry.regeneration.run import Postponed
from gmi_registry.regeneration.store import Failure, ModelHistory
from gmi_registry.spec import ModelRef
from gmi_registry.spec.canonical import canonical_digest

HOSTILE = "a | b\n# head ![x](https://evil.example/x.png) <img src=x> `code` \x1b[31m"


def summary(**changes):
    ink = PlannedModel(ModelRef("local", "ink"), "stale", HOSTILE, "k")
    fields = {
        "hub": "hub",
        "results": (
            Result("local:a", "published", "why", "d" * 64, "there", images=4, seconds=1.5),
            Result("local:b", "failed", HOSTILE, hint="next", error="HubError", passing=True),
            Result("local:c", "busy", "another runner has it"),
        ),
        "set_aside": (ink,),
        "left": (Postponed(ink, "--max-models was reached"),),
        "fresh": 7,
        "failures": {"local:b": 2},
        "interrupted": False,
        "seconds": 3.25,
    }
    return Summary(**(fields | changes))


def test_the_document():
    document = summary().to_json()
    assert set(document) == {
        *("hub", "done", "passed", "failed", "set_aside", "left"),
        *("fresh", "interrupted", "seconds", "index"),
    }
    assert document["done"] == [
        {
            "model": "local:a",
            "outcome": "published",
            "reason": "why",
            "digest": "d" * 64,
            "where": "there",
            "images": 4,
            "seconds": 1.5,
        }
    ]
    (failed,) = document["failed"]
    assert (failed["failures"], failed["passing"], failed["hint"]) == (2, True, "next")
    assert document["left"][0]["why"] == "--max-models was reached"
    assert (document["fresh"], document["index"]) == (7, None)
    assert not summary().is_well
    assert summary(results=()).is_well


def test_the_page_keeps_its_shape_whatever_a_hub_says():
    page = summary().to_markdown()
    lines = page.splitlines()
    heads = [line for line in lines if line.startswith("#")]
    assert heads == [
        "# Regeneration of hub",
        "## Described anew",
        "## Failed",
        "## Set aside",
        "## Left for next time",
        "## Nothing to do after all",
    ]
    (row,) = (line for line in lines if line.startswith("| local:b |"))
    assert row.replace("\\|", "").count("|") == 5
    assert "![x]" not in page
    assert "<img" not in page.replace("\\<img", "")
    assert "\x1b" not in page


def test_a_page_of_nothing():
    page = summary(results=(), set_aside=(), left=()).to_markdown()
    assert page.splitlines()[0] == "# Regeneration of hub"
    assert "|" not in page


def test_works_and_results_are_pickled_whole():
    work = Work("hf", "hf:a/b", "why", Options("work", token="hf_secret"), to_registry=True)
    assert pickle.loads(pickle.dumps(work)) == work
    assert "hf_secret" not in repr(work)
    result = Result("hf:a/b", "published", "why")
    assert pickle.loads(pickle.dumps(result)) == result


def history(store, model, key):
    found = store.histories().get(model, ModelHistory(key))
    return found if found.key == key else ModelHistory(key)


def test_many_writers_of_one_store_lose_nothing(tmp_path):
    def write(name):
        store = FailureStore(tmp_path)
        for _ in range(5):
            store.begin(name, "k")
            store.record(name, "k", Result(name, "failed", "no"))

    names = [f"local:m{number}" for number in range(8)]
    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [history(FailureStore(tmp_path), name, "k") for name in names]
    assert [(len(it.failures), it.unfinished) for it in found] == [(5, False)] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["failures.sqlite3"]


def test_what_is_known_is_known_of_the_weights_it_is_of(tmp_path):
    store = FailureStore(tmp_path)
    for _ in range(3):
        store.record("local:ink", "old", Result("local:ink", "failed", "no room"))
    assert history(store, "local:ink", "old").reason.endswith(": no room")
    assert history(store, "local:ink", "new").reason is None
    known = store.record("local:ink", "new", Result("local:ink", "failed", "again"))
    assert len(known.failures) == 1
    store.record("local:ink", "new", Result("local:ink", "failed", "hub", passing=True))
    assert len(history(store, "local:ink", "new").failures) == 1
    store.record("local:ink", "new", Result("local:ink", "proposed", "why", where="there"))
    assert history(store, "local:ink", "new").reason == (
        "proposed, and the owner has not decided: there"
    )
    store.forget(["local:ink", "local:oil"])
    assert store.histories() == {}


FORMER = {
    "local:ink": {
        "key": "k",
        "failures": [{"when": "2026-11-30T10:00:00+00:00", "reason": "no", "error": "HubError"}],
        "proposed": None,
        "unfinished": False,
    },
    "local:oil": {"key": "k", "failures": [], "proposed": "there", "unfinished": True},
}


@pytest.mark.parametrize("sealed", [True, False])
def test_the_ledger_of_an_earlier_version_is_taken_over(tmp_path, sealed):
    """It is read as it lies, and goes once all of it is in the store."""
    seal = canonical_digest(FORMER) if sealed else None
    former = tmp_path / "ledger.json"
    former.write_text(json.dumps({"models": FORMER, "seal": seal}))
    store = FailureStore(tmp_path)
    before = store.histories()
    assert before["local:ink"].failures == (Failure("2026-11-30T10:00:00+00:00", "no", "HubError"),)
    assert before["local:oil"] == ModelHistory("k", proposed="there", unfinished=True)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]
    store.begin("local:chalk", "k")
    assert not former.exists()
    assert store.histories() == before | {"local:chalk": ModelHistory("k", unfinished=True)}


def test_a_takeover_that_was_cut_off_is_done_again(tmp_path, monkeypatch):
    former = tmp_path / "ledger.json"
    former.write_text(json.dumps({"models": FORMER, "seal": None}))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            FailureStore(tmp_path).begin("local:ink", "other")
    store = FailureStore(tmp_path)
    store.record("local:oil", "k", Result("local:oil", "published", "why"))
    assert not former.exists()
    assert store.histories() == {"local:ink": ModelHistory("other", unfinished=True)}


def test_a_damaged_store_counts_as_empty_and_is_begun_anew(tmp_path, caplog):
    store = FailureStore(tmp_path)
    store.begin("local:ink", "k")
    path = tmp_path / "failures.sqlite3"
    good = path.read_bytes()
    spoilt = {
        "no database": b"no database at all " * 50,
        "cut off": good[: len(good) // 2],
        "a changed line": good.replace(b"local:ink", b"local:inc"),
    }
    for what, content in spoilt.items():
        path.write_bytes(content)
        assert store.histories() == {}, what
        store.begin("local:oil", "k")
        assert list(store.histories()) == ["local:oil"], what
    assert len(caplog.records) == len(spoilt)


def test_a_store_that_somebody_holds_is_left_alone(tmp_path, monkeypatch):
    store = FailureStore(tmp_path)
    store.begin("local:ink", "k")
    monkeypatch.setattr("gmi_registry.regeneration.store._PATIENCE", 0.05)
    other = sqlite3.connect(tmp_path / "failures.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match="locked"):
        store.begin("local:oil", "k")
    assert store.histories() == {}
    other.execute("ROLLBACK")
    other.close()
    assert list(store.histories()) == ["local:ink"]


def test_what_is_kept_in_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    store = FailureStore(tmp_path)
    store.begin("local:ink", "k")
    before, connect = store.histories(), sqlite3.connect

    def read_only(path, **settings):
        # As root may write anything, SQLite has to say no.
        return connect(f"file:{path}?mode=ro", uri=True, **settings)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    assert store.histories() == before
    with pytest.raises(InputError, match="cannot be written: attempt to write a readonly"):
        store.begin("local:oil", "k")
