"""From a delivery to a specification, with nothing left out but the size of the models."""

from __future__ import annotations

import importlib
import threading
import time

import pytest

from gmi_registry import generation
from gmi_registry.regeneration import describe
from gmi_registry.regeneration.webhook_service import model_check, run_job, work_off
from gmi_registry.spec import PromptSet, read_spec
from tests.support.delivery import SECRET, body
from tests.support.regeneration_world import SECRET as TOKEN
from tests.support.regeneration_world import (
    WEIGHTS,
    card,
    encoder_from,
    fill_loopback,
    other_weights,
    save_models,
    specification,
)

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

REPO = "alice/ink"
FEW = PromptSet("few", 1, ("a cat", "the sea"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(hf_hub, models, monkeypatch):
    """Two default prompts in place of 55, and a tiny encoder."""
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: FEW)
    load = encoder_from(models)
    monkeypatch.setattr(describe, "load_encoder", load)
    publishing = importlib.import_module("gmi_registry.publish_plan")
    monkeypatch.setattr(publishing, "load_encoder", load)
    monkeypatch.setattr(publishing, "check_encoder", lambda *_, **__: 0)
    monkeypatch.delenv("GMI_REGISTRY", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fill_loopback(hf_hub, models)
    return hf_hub


@pytest.fixture
def look(tmp_path):
    return model_check(tmp_path / "work", cache_dir=tmp_path / "cache", device="cpu")


@pytest.fixture
def receiver(receive, look):
    """A receiver and its worker, in this process; ``seen`` are the ends of its looks."""
    started, stop = receive(), threading.Event()
    started.seen = []
    settings = {"stop": stop, "poll": 0.01, "ended": lambda taken, it: started.seen.append(it)}
    thread = threading.Thread(target=work_off, args=(started.queue, look), kwargs=settings)
    thread.start()
    yield started
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def tell(hub, receiver):
    """Deliver the newest commit, and wait until nothing is left to do; the answer."""
    reply = receiver.send(body(REPO, hub.history(REPO)[0].oid))
    end = time.monotonic() + 120
    while any((counts := receiver.queue.counts(), counts.waiting, counts.taken)[1:]):
        assert time.monotonic() < end, counts
        time.sleep(0.02)
    return reply.json()


def described(hub, tmp_path):
    return read_spec(specification(hub, "ink", tmp_path / "seen")).manifest.model.weights[0].sha256


def test_a_model_is_described_once_for_each_state_of_its_weights(hub, receiver, models, tmp_path):
    assert tell(hub, receiver) == {"queued": REPO}
    first = described(hub, tmp_path)
    assert receiver.seen[-1].commit == hub.history(REPO)[0].oid
    # The hub tells of that commit as of any other, and again.
    assert [tell(hub, receiver) for _ in range(2)] == [{"ignored": "ours"}] * 2
    hub.commit(REPO, {"README.md": card("alice/base", tags="tiny, ink").encode()})
    assert tell(hub, receiver) == {"queued": REPO}
    assert receiver.seen[-1].reason == "fresh: the same weights, format, encoder and prompts"

    hub.commit(REPO, {WEIGHTS: other_weights(models)})
    assert tell(hub, receiver) == {"queued": REPO}
    second = described(hub, tmp_path)
    assert second != first
    assert tell(hub, receiver) == {"ignored": "ours"}
    authors = [commit.author for commit in hub.history(REPO)]
    assert authors == ["alice", "somebody-else", "somebody-else", "alice", "alice"]
    assert [it.outcome for it in receiver.seen] == ["done"] * 3


def test_a_job_does_the_same(hub, look, models, tmp_path):
    """Each starts with nothing but its environment."""
    environment = {"WEBHOOK_SECRET": SECRET, "GMI_WEBHOOK_SECRET": SECRET}
    reasons = []
    for number in range(3):
        if number == 2:
            hub.commit(REPO, {WEIGHTS: other_weights(models)})
        environment["WEBHOOK_PAYLOAD"] = body(REPO, hub.history(REPO)[0].oid).decode()
        (done,) = run_job([], environment, look)
        reasons.append((done[1].outcome, done[1].reason.partition(":")[0]))
    assert reasons == [("done", "published"), ("done", "fresh"), ("done", "published")]


def test_a_model_that_is_not_ours_is_proposed_to_once(hub, tmp_path, monkeypatch, look):
    monkeypatch.setenv("HF_TOKEN", "hf_thisIsOfSomebodyElse")
    first = look(REPO)
    assert (first.outcome, first.commit) == ("done", None)
    assert first.reason.startswith("proposed: ")
    assert look(REPO).reason.startswith("set aside: proposed, and the owner has not decided")
    assert len(hub.repo(REPO).discussions) == 1
