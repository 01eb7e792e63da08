"""What a summary says, whatever the hub's words are; and the ledger under many writers."""

from __future__ import annotations

import pickle
import threading

from gmi_registry.regeneration import FailureStore, Options, PlannedModel, Result, Summary, Work
from gmi_registry.regeneration.summary import Postponed
from gmi_registry.spec import ModelRef

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


def test_many_writers_of_one_ledger_lose_nothing(tmp_path):
    def write(name):
        ledger = FailureStore(tmp_path)
        for _ in range(5):
            ledger.begin(name, "k")
            ledger.settle(name, "k", Result(name, "failed", "no"))

    names = [f"local:m{number}" for number in range(8)]
    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [FailureStore(tmp_path).standing(name, "k") for name in names]
    assert [(len(it.failures), it.unfinished) for it in found] == [(5, False)] * 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.json", "ledger.json.lock"]


def test_what_is_known_is_known_of_the_weights_it_is_of(tmp_path):
    ledger = FailureStore(tmp_path)
    for _ in range(3):
        ledger.settle("local:ink", "old", Result("local:ink", "failed", "no room"))
    assert ledger.standing("local:ink", "old").reason.endswith(": no room")
    assert ledger.standing("local:ink", "new").reason is None
    known = ledger.settle("local:ink", "new", Result("local:ink", "failed", "again"))
    assert len(known.failures) == 1
    ledger.settle("local:ink", "new", Result("local:ink", "failed", "hub", passing=True))
    assert len(ledger.standing("local:ink", "new").failures) == 1
    ledger.settle("local:ink", "new", Result("local:ink", "proposed", "why", where="there"))
    assert ledger.standing("local:ink", "new").reason == (
        "proposed, and the owner has not decided: there"
    )
    ledger.forget(["local:ink", "local:oil"])
    assert ledger.standing("local:ink", "new").reason is None
