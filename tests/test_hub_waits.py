"""How long a hub may keep a program waiting: one that is not there, and one that is busy."""

from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import close_session

from gmi_registry.errors import HubError, RateLimitError
from gmi_registry.hubs import Filters
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.huggingface.client import retry_after, wait_after
from gmi_registry.hubs.requests import LONGEST_WAIT
from gmi_registry.spec import ModelRef
from tests.support.loopback import Fault, LoopbackHub
from tests.support.loopback.fixtures import hf_hub, turn_client

__all__ = ["hf_hub"]

MODEL = ModelRef("hf", "ada/one")
PINNED = ModelRef("hf", "ada/one", "a" * 40)


def listing(hub):
    return list(hub.list_specs(Filters()))


@pytest.fixture
def naps(monkeypatch):
    """Seconds that would have been slept."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def nobody():
    """An address on this machine where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("place", ["127.0.0.1", "hub.invalid"], ids=["refused", "no such name"])
def test_a_hub_that_was_never_there_costs_three_seconds(hf_hub, naps, nobody, place):
    endpoint = nobody.replace("127.0.0.1", place)
    with (
        HuggingFaceHub(endpoint, token=False) as hub,
        pytest.raises(HubError, match="cannot be reached") as caught,
    ):
        listing(hub)
    assert endpoint in caught.value.message
    assert "\n" not in caught.value.message
    assert "HF_ENDPOINT" in caught.value.hint
    assert "gmi-search --offline" in caught.value.hint
    # A name may take the resolver long, after which nothing is waited for at all.
    assert naps in ([1, 2], [1], [])


def test_who_publishes_is_not_sent_to_search(hf_hub, naps, nobody):
    hub = HuggingFaceHub(nobody, token="hf_abcdefghijkl")
    with hub, pytest.raises(HubError, match="cannot be reached") as caught:
        hub.check_writable(MODEL)
    assert caught.value.hint == "check the network and HF_ENDPOINT; then run the same command again"
    assert sum(naps) <= 3


def test_one_that_answered_before_is_given_time(naps, monkeypatch, tmp_path):
    with LoopbackHub() as server:
        turn_client(monkeypatch, server.endpoint, tmp_path / "home")
        hub = HuggingFaceHub(token=False)
        assert listing(hub) == []
    close_session()  # connections that are open would still be served
    with hub:
        for _ in range(2):
            with pytest.raises(HubError, match="cannot be reached"):
                listing(hub)
        assert naps == [1, 2, 4, 8, 8] * 2
    naps.clear()
    # A run that begins now has heard of nobody.
    with HuggingFaceHub(token=False) as later, pytest.raises(HubError, match="cannot be reached"):
        listing(later)
    assert naps == [1, 2]


def test_what_is_on_this_disk_is_still_found(naps, monkeypatch, tmp_path):
    files = {"gmi/spec.json": b"{}", "gmi/spec.tensors": b"numbers"}
    with LoopbackHub() as server:
        server.add_repo(MODEL.id, files)
        turn_client(monkeypatch, server.endpoint, tmp_path / "home")
        with HuggingFaceHub(token=False) as hub:
            folder = hub.fetch_spec(MODEL)
    close_session()
    with HuggingFaceHub(token=False) as hub:
        assert hub.fetch_spec(MODEL) == folder
    assert (folder / "spec.json").read_bytes() == b"{}"
    assert sum(naps) <= 3


@pytest.mark.parametrize(
    "call",
    [listing, lambda hub: hub.fetch_spec(PINNED), lambda hub: hub.weight_digests(MODEL)],
    ids=["listing", "download", "question"],
)
def test_no_hub_may_keep_us_for_an_hour(hf_hub, naps, call):
    hf_hub.inject(Fault("429", times=99, retry_after=4000))
    with HuggingFaceHub(token=False) as hub:
        with pytest.raises(RateLimitError, match=r"asks for a wait of 4,000 s$") as caught:
            call(hub)
        assert len(hf_hub.requests) <= 2
    assert caught.value.retry_after == 4000
    assert caught.value.hint.startswith("run the same command again in 67 minutes; ")
    assert naps == []


@pytest.mark.parametrize("call", [listing, lambda hub: hub.weight_digests(MODEL)])
def test_the_longest_honest_wait_is_kept(hf_hub, naps, call):
    hf_hub.add_repo(MODEL.id, {"w.safetensors": b"weights"})
    hf_hub.inject(Fault("429", retry_after=int(LONGEST_WAIT) - 1))
    with HuggingFaceHub(token=False) as hub:
        call(hub)
    assert naps == [LONGEST_WAIT]


@pytest.mark.parametrize(
    ("headers", "stated", "wait"),
    [
        ({}, None, 2.0),
        ({"RateLimit": '"api";r=0;t=9'}, 9.0, 10.0),
        ({"RateLimit": '"api";r=3;t=9'}, None, 2.0),
        ({"retry-after": "7"}, 7.0, 8.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None, 2.0),
        ({"Retry-After": "86400"}, 86400.0, None),
        ({"Retry-After": "9" * 400}, 1e9, None),
        ({"RateLimit": f'"api";r=0;t={"9" * 400}'}, 1e9, None),
        ({"Retry-After": "²"}, None, 2.0),
    ],
)
def test_what_a_refusal_says(headers, stated, wait):
    assert retry_after(headers) == stated
    assert wait_after(headers, 2.0) == wait
