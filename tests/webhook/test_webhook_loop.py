"""A hub that tells of every commit, ours too, and a worker that commits: it comes to rest."""

from __future__ import annotations

import random

import pytest

from gmi_registry.errors import AuthError, GenerationError, RateLimitError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.regeneration.store import QueueCounts
from gmi_registry.regeneration.webhook_service import CheckResult
from gmi_registry.spec import ModelRef, read_manifest
from tests.support.delivery import body
from tests.support.loopback import User
from tests.support.regenerator import WEIGHTS, Regenerator, card, digest_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

TOKEN = "hf_adaMayWrite"
REPO = "ada/style"


@pytest.fixture
def hub(hf_hub):
    hf_hub.add_user(User("ada", TOKEN))
    hf_hub.add_repo(REPO, {"README.md": card(), WEIGHTS: b"weights 0"})
    return hf_hub


@pytest.fixture
def regenerator(hub):
    made = Regenerator(hub, TOKEN)
    yield made
    made.stop()


def deliveries(hub, repo=REPO):
    """One for each commit of the branch main, the oldest first."""
    history = [commit.oid for commit in reversed(hub.history(repo))]
    pairs = zip([None, *history], history, strict=False)
    return [body(repo, new, old=old) for old, new in pairs]


def idle(receiver):
    counts = receiver.queue.counts()
    return counts.waiting == counts.taken == 0


def described(hub, repo=REPO):
    """The digest of the weights that the specification on the hub is of."""
    with HuggingFaceHub(hub.endpoint, token=TOKEN) as opened:
        folder = opened.fetch_spec(ModelRef("hf", repo, hub.history(repo)[0].oid))
        return read_manifest(folder.parent, follow_links=True).model.weights[0].sha256


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_hundred_deliveries_give_one_regeneration_for_each_state_of_the_weights(
    hub, receive, regenerator, seed
):
    """Twice, out of order, for cards, for proposals, and for the commits of the worker itself."""
    rng = random.Random(seed)
    receiver = receive()
    regenerator.start(receiver.queue)
    sent = 0
    for number in range(1, 5):
        hub.commit(REPO, {WEIGHTS: b"weights %d" % number})
        hub.commit(REPO, {"README.md": card(f"Style {number}")})
        known = deliveries(hub)
        batch = [known[-2], known[-1], body(REPO, f"{number:040x}", ref="refs/pr/1")]
        batch += rng.choices(known, k=22)
        rng.shuffle(batch)
        for content in batch:
            assert receiver.send(content).status_code in (200, 202)
            sent += 1
        wait_until(lambda: idle(receiver))
    assert sent == 100
    for content in deliveries(hub):
        receiver.send(content)
    wait_until(lambda: idle(receiver))
    wanted = [(REPO, digest_of(b"weights %d" % number)) for number in range(1, 5)]
    assert regenerator.made == wanted
    ours = [commit for commit in hub.history(REPO) if commit.author == "ada"]
    assert len(ours) == 4 + 1  # and the first commit of the repository
    assert described(hub) == wanted[-1][1]


def test_the_delivery_of_our_own_commit_costs_nothing(hub, receive, regenerator):
    receiver = receive()
    regenerator.start(receiver.queue)
    receiver.send(deliveries(hub)[0])
    wait_until(lambda: regenerator.made and idle(receiver))
    hub.clear_requests()
    reply = receiver.send(deliveries(hub)[-1])
    assert (reply.status_code, reply.json()) == (200, {"ignored": "ours"})
    assert hub.requests == []
    assert regenerator.looks == [REPO]


def test_without_memory_of_our_commit_the_weights_decide(hub, receive, regenerator, tmp_path):
    """As where another machine made it, or the worker fell between its push and its note."""
    first = receive()
    regenerator.start(first.queue)
    first.send(deliveries(hub)[0])
    wait_until(lambda: regenerator.made and idle(first))
    second = receive(tmp_path / "another")
    other = Regenerator(hub, TOKEN)
    other.start(second.queue)
    assert second.send(deliveries(hub)[-1]).status_code == 202
    wait_until(lambda: other.looks and idle(second))
    other.stop()
    assert other.made == []


def test_a_card_that_changed_makes_no_new_specification(hub, receive, regenerator):
    receiver = receive()
    regenerator.start(receiver.queue)
    receiver.send(deliveries(hub)[0])
    wait_until(lambda: regenerator.made and idle(receiver))
    hub.commit(REPO, {"README.md": card("Another title")})
    assert receiver.send(deliveries(hub)[-1]).status_code == 202
    wait_until(lambda: len(regenerator.looks) == 2 and idle(receiver))
    assert len(regenerator.made) == 1


def test_weights_that_change_while_it_works_are_described_in_the_end(hub, receive, regenerator):
    receiver = receive()
    waiting = [b"weights 1", b"weights 2"]

    def meanwhile(repo):
        if waiting:
            hub.commit(REPO, {WEIGHTS: waiting.pop(0)})
            receiver.send(deliveries(hub)[-1])

    regenerator.before_push = meanwhile
    regenerator.start(receiver.queue)
    receiver.send(deliveries(hub)[0])
    wait_until(lambda: not waiting and idle(receiver))
    assert regenerator.made == [(REPO, digest_of(b"weights 2"))]
    assert described(hub) == digest_of(b"weights 2")


def test_deliveries_that_wait_through_a_restart_are_worked_on(hub, receive, regenerator):
    names = [f"ada/style-{number}" for number in range(4)]
    for name in names:
        hub.add_repo(name, {"README.md": card(), WEIGHTS: name.encode()})
    first = receive(capacity=4)
    for name in names:
        assert first.send(deliveries(hub, name)[0]).status_code == 202
    assert first.send(deliveries(hub)[0]).status_code == 503
    first.stop()
    second = receive(capacity=4)
    regenerator.start(second.queue)
    wait_until(lambda: len(regenerator.made) == 4 and idle(second))
    assert regenerator.made == [(name, digest_of(name.encode())) for name in names]
    assert second.send(deliveries(hub)[0]).status_code == 202
    wait_until(lambda: len(regenerator.made) == 5 and idle(second))


def test_a_model_that_fails_does_not_keep_others_waiting(hub, receive, regenerator):
    hub.add_repo("ada/broken", {"README.md": card(), WEIGHTS: b"x"})
    whole = regenerator.look

    def look(repo):
        if repo == "ada/broken":
            regenerator.looks.append(repo)
            raise GenerationError("it cannot be drawn", hint="mend it")
        return whole(repo)

    regenerator.look = look
    receiver = receive()
    receiver.send(deliveries(hub, "ada/broken")[0])
    receiver.send(deliveries(hub)[0])
    regenerator.start(receiver.queue)
    wait_until(lambda: receiver.queue.counts().aside == 1 and idle(receiver))
    assert regenerator.looks.count("ada/broken") == 3
    assert regenerator.made == [(REPO, digest_of(b"weights 0"))]
    assert receiver.queue.set_aside() == (("ada/broken", "it cannot be drawn"),)
    assert receiver.health()["set_aside"] == 1


def test_a_fault_of_the_program_or_of_the_hub_is_told_apart(receive, regenerator):
    receiver = receive()
    answers = {
        "ada/fault": ValueError("x"),
        "ada/later": CheckResult("passing", "out of order"),
        "ada/rights": AuthError("the token has run out"),
        "ada/limit": RateLimitError("too many", retry_after=0.05),
    }

    def look(repo):
        regenerator.looks.append(repo)
        answer = answers[repo]
        if isinstance(answer, Exception):
            raise answer
        return answer

    regenerator.look = look
    for repo in answers:
        receiver.send(body(repo))
    regenerator.start(receiver.queue)
    wait_until(lambda: receiver.queue.counts().aside == 1)
    wait_until(lambda: regenerator.looks.count("ada/later") > 5)
    wait_until(lambda: regenerator.looks.count("ada/limit") > 5)
    answers["ada/later"] = answers["ada/limit"] = CheckResult("done", "fresh")
    # Rights do not come back within seconds: it waits, and is not set aside.
    wait_until(lambda: receiver.queue.counts() == QueueCounts(1, 0, 1))
    assert regenerator.looks.count("ada/rights") == 1
    assert receiver.queue.set_aside() == (("ada/fault", "ValueError in this program"),)
