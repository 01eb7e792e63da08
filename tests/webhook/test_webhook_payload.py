"""What a delivery is taken for; what is no delivery is refused in one line."""

from __future__ import annotations

import json
import time

import pytest
from huggingface_hub import WebhookPayload
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.errors import InputError
from gmi_registry.regeneration.webhook_receiver import PAYLOAD_LIMIT, Change, Ignored, decide
from tests.support.delivery import MAIN, body, payload

SHA = "b" * 40


def test_a_push_to_main_is_a_change():
    assert decide(body("ada/style", SHA)) == Change("ada/style", SHA)


def test_a_narrower_scope_of_one_day_is_a_change():
    assert decide(body(scope="repo.content.lfs", action="create")) == Change("ada/style", SHA)


def test_the_client_reads_what_these_tests_send():
    """And knows no head: the commit is in the updated references only."""
    read = WebhookPayload.model_validate(payload("ada/style", SHA))
    assert read.repo.name == "ada/style"
    assert read.updatedRefs[0].newSha == SHA
    assert read.repo.head_sha is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "dataset"}, "not a model"),
        ({"kind": "space"}, "not a model"),
        ({"kind": "bucket"}, "not a model"),
        ({"scope": "repo.config"}, "no change of files"),
        ({"scope": "repo", "action": "create"}, "no change of files"),
        ({"scope": "repo", "action": "delete"}, "no change of files"),
        ({"scope": "repo", "action": "move"}, "no change of files"),
        ({"scope": "discussion", "action": "create"}, "no change of files"),
        ({"scope": "discussion.comment"}, "no change of files"),
        ({"action": "delete"}, "no change of files"),
        ({"scope": "repo.contents"}, "no change of files"),
        ({"ref": "refs/pr/1"}, "not the branch main"),
        ({"ref": "refs/heads/other"}, "not the branch main"),
        ({"ref": "refs/tags/main"}, "not the branch main"),
        ({"ref": "main"}, "not the branch main"),
        ({"new": None}, "the branch main was deleted"),
        ({"new": "0" * 40}, "the branch main was deleted"),
        ({"updatedRefs": []}, "not the branch main"),
        ({"updatedRefs": None}, "not the branch main"),
    ],
)
def test_what_is_not_concerned_is_ignored(changes, reason):
    assert decide(body(**changes)) == Ignored(reason)


def test_without_updated_references_the_head_is_not_believed():
    shown = payload()
    del shown["updatedRefs"]
    assert decide(json.dumps(shown)) == Ignored("not the branch main")


def test_main_is_found_among_many_references():
    references = [{"ref": f"refs/pr/{number}", "newSha": "c" * 40} for number in range(300)]
    references.append({"ref": MAIN, "oldSha": None, "newSha": SHA})
    assert decide(body(updatedRefs=references)) == Change("ada/style", SHA)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "event is missing"),
        (b"[" * 60_000, "not a JSON object"),
        (b'{"event":' * 7_000, "not a JSON object"),
        (b" " * (PAYLOAD_LIMIT + 1), "too long"),
        (body(event=None), "event is missing or wrong"),
        (body(event={"action": "update"}), "event.scope is missing or wrong"),
        (body(event={"action": 1, "scope": "repo.content"}), "event.action is missing or wrong"),
        (body(repo=7), "repo is missing or wrong"),
        (body(updatedRefs={}), "updatedRefs is missing or wrong"),
        (body(updatedRefs=[{"newSha": SHA}]), "updatedRefs.0.ref is missing or wrong"),
        (body(updatedRefs=[{"ref": MAIN, "newSha": 7}]), "updatedRefs.0.newSha"),
        (body(new="b" * 39), "40 hex digits"),
        (body(new="B" * 40), "40 hex digits"),
        (body(new="b" * 40 + "\n"), "40 hex digits"),
        (body(new="../" * 13 + "b"), "40 hex digits"),
        (body("../../etc/passwd"), "no model can be called so"),
        (body("ada/style\n"), "no model can be called so"),
        (body("ada/style@main"), "no model can be called so"),
        (body("ada/"), "no model can be called so"),
        (body(""), "no model can be called so"),
        (body("a" * 201), "repo.name is missing or wrong"),
        (body("ada/\u202estyle"), "no model can be called so"),
        (body("ada/$(rm -rf x)"), "no model can be called so"),
    ],
)
def test_what_is_no_payload_is_refused(content, words):
    with pytest.raises(InputError, match=words) as refused:
        decide(content)
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 200
    assert refused.value.hint


def test_what_a_sender_wrote_is_in_no_message():
    with pytest.raises(InputError) as refused:
        decide(body(event={"action": {"leak": "the-word"}, "scope": "x"}))
    assert "the-word" not in refused.value.message


def test_the_worst_payload_costs_little():
    most = json.dumps(payload(updatedRefs=[{"ref": ""}] * 4_950)).encode()
    assert PAYLOAD_LIMIT * 0.9 < len(most) <= PAYLOAD_LIMIT
    start = time.process_time()
    assert decide(most) == Ignored("not the branch main")
    assert time.process_time() - start < 0.5


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(part=st.sampled_from(["event", "repo", "updatedRefs"]), value=_JSON)
def test_any_value_in_any_part_is_refused_or_ignored(part, value):
    try:
        found = decide(body(**{part: value}))
    except InputError:
        found = Ignored("refused")
    assert isinstance(found, Ignored)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(content):
    with pytest.raises(InputError):
        decide(content)
