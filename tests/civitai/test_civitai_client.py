"""The client against a loopback Civitai: what it sends, what it believes, and what it says."""

from __future__ import annotations

import json
import logging
import socket
import time
from dataclasses import replace

import pytest
import stamina

from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.hubs.civitai import CivitaiClient
from gmi_registry.hubs.requests import RequestCounter
from gmi_registry.spec import ModelRef
from tests.support.civitai_loopback import Fault, File, LoopbackCivitai, Model, Version
from tests.support.civitai_specs import style

TOKEN = "secret-of-ada"
REF = ModelRef("civitai", "11", "111")


def model(**changes):
    file = File(1111, b"weights", name="style.safetensors")
    version = Version(111, "v1.0", files=[file], words=["ink style", "ink"])
    return Model(
        **{"id": 11, "name": "Ink", "tags": ["style", "ink"], "versions": [version]} | changes
    )


@pytest.fixture
def filled(civitai):
    civitai.add(model())
    civitai.add_user("ada-example", TOKEN)
    return civitai


def failing(client, ask=lambda client: client.model("11")):
    """The message and the hint of what a call raises, with its class."""
    with pytest.raises(HubError) as caught:
        ask(client)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_model_with_its_versions(filled, client):
    found = client.model("11")
    assert (found.id, found.name, found.type, found.tags) == (11, "Ink", "LORA", ("style", "ink"))
    (version,) = found.model_versions
    assert (version.base_model, version.trained_words) == ("SD 1.5", ("ink style", "ink"))
    (file,) = version.files
    assert file.sha256 == filled.state.file(1111).digest.lower()
    assert (file.path, file.size, file.primary) == ("1111.safetensors", 7, True)
    assert version.downloads == 7


def test_a_version_alone_names_its_model_and_its_air(filled, client):
    found = client.version("111")
    assert (found.model_id, found.air) == (11, "urn:air:sd1:lora:civitai:11@111")
    assert found.published_at is not None
    assert found.published_at.year == 2025


def test_versions_by_digest_are_asked_for_in_one_request(filled, client):
    filled.add(Model(12, versions=[Version(121, files=[File(1211, b"weights")])]))
    found = client.versions_with([filled.state.file(1111).digest.lower()])
    assert [(item.model_id, item.id) for item in found] == [(11, 111), (12, 121)]
    assert [(request.method, request.path) for request in filled.requests] == [
        ("POST", "/api/v1/model-versions/by-hash")
    ]
    with pytest.raises(InputError):
        client.versions_with(["0" * 64] * 101)


def test_the_token_goes_to_the_hub_alone(filled):
    client = CivitaiClient(endpoint=filled.endpoint, token=TOKEN)
    client.model("11")
    with client.weights(REF, 1111) as answer:
        assert answer.read() == b"weights"
    client.close()
    sent = [(request.host.split(":")[0], request.user) for request in filled.requests]
    assert sent == [("127.0.0.1", "ada-example"), ("127.0.0.1", "ada-example"), ("localhost", "")]
    assert [request.token for request in filled.requests] == [True, True, False]


def test_token_and_endpoint_come_from_the_environment(filled, monkeypatch):
    monkeypatch.setenv("CIVITAI_TOKEN", f" {TOKEN}\n")
    monkeypatch.setenv("CIVITAI_ENDPOINT", filled.endpoint + "/")
    client = CivitaiClient()
    client.model("11")
    assert filled.requests[0].user == "ada-example"
    client.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": "ftp://civitai.example"}, "not the address of a hub"),
        ({"endpoint": "https://civitai.example/a path"}, "not the address of a hub"),
        ({"endpoint": "https://ada@civitai.example"}, "not the address of a hub"),
        ({"endpoint": "https://civitai.example", "token": "se cret"}, "no token has"),
        ({"endpoint": "http://civitai.example", "token": "secret"}, "unencrypted"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        CivitaiClient(**settings)
    assert "secret" not in caught.value.message + str(caught.value.hint)
    assert "se cret" not in caught.value.message


def test_a_wrong_token_is_said_and_not_shown(filled):
    client = CivitaiClient(endpoint=filled.endpoint, token="wrong-secret")
    error = failing(client)
    assert isinstance(error, AuthError)
    assert "does not accept the token" in error.message
    assert "CIVITAI_TOKEN" in str(error.hint)
    assert "wrong-secret" not in error.message + str(error.hint)
    client.close()


def test_a_token_that_the_server_echoes_is_not_repeated(filled):
    content = json.dumps({"error": f"no rights for {TOKEN}\x1b[31m"}).encode()
    filled.inject(Fault("hostile", content=content, status=403))
    client = CivitaiClient(endpoint=filled.endpoint, token=TOKEN)
    error = failing(client)
    assert isinstance(error, AuthError)
    assert TOKEN not in error.message
    assert "\x1b" not in error.message
    client.close()


def test_what_is_not_there(filled, client):
    error = failing(client, lambda client: client.model("99"))
    assert isinstance(error, SpecNotFoundError)
    assert "civitai:99" in error.message
    assert "No model with id 99" in error.message
    error = failing(
        client, lambda client: client.version("999", of=ModelRef("civitai", "9", "999"))
    )
    assert "civitai:9@999" in error.message


EARLY, BUY, LOG_IN = "early access", "buy", "CIVITAI_TOKEN"
NO_RIGHTS = b'{"error": "Forbidden", "message": "You do not have access to this model version"}'
SOON = b'{"error": "Early Access", "deadline": "2026-12-24T10:00:00.000Z"}'


def said_with(status, content, **fields):
    return Fault("hostile", status=status, content=content, **fields)


def fetched(client, _):
    """As a download does it."""
    with client.weights(REF, 1111) as response:
        client.require_file(response.read(), response, client.asked(REF, download=True))


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    ("fault", "said", "unsaid"),
    [
        (said_with(403, NO_RIGHTS), ("You do not have access",), (EARLY, BUY)),
        (said_with(403, b'{"error": "Not in your country"}'), ("in your country",), (EARLY, BUY)),
        (said_with(403, b"{}"), ("no access", EARLY, "in your country"), (BUY,)),
        (said_with(403, b"<html>", content_type="text/html"), ("no access", EARLY), (BUY,)),
        (said_with(403, SOON), (EARLY, "until 2026-12-24", BUY), ()),
        (said_with(200, SOON), (EARLY, "until 2026-12-24", BUY), ()),
        (Fault("region"), ("Not available in your region", "451"), (EARLY, BUY, LOG_IN)),
        (Fault("bot-check"), ("browser check",), (EARLY, BUY, "CIVITAI_ENDPOINT")),
        (Fault("login-page"), (LOG_IN,), (EARLY, BUY, "CIVITAI_ENDPOINT")),
        (said_with(302, b"", location="/en/login?returnUrl=x"), (LOG_IN,), (EARLY, BUY)),
        (said_with(302, b"", location="https://else.example/login"), (LOG_IN,), (EARLY, BUY)),
        (said_with(200, b'{"message": "You must be logged in"}'), (LOG_IN, "must be"), (BUY,)),
        (said_with(200, b'{"error": "Something else"}'), ("Something else",), (EARLY, BUY)),
    ],
)
@pytest.mark.parametrize("download", [False, True])
def test_a_refusal_says_what_the_answer_says(filled, fault, said, unsaid, token, download):
    """Of the API and of a download; with a token and without."""
    fault = replace(fault, times=99, path_regex="api/download" if download else "api/v1")
    filled.add_user("ada", TOKEN)
    client = CivitaiClient(endpoint=filled.endpoint, token=token)
    filled.inject(fault)
    ask = fetched if download else CivitaiClient.model
    with pytest.raises(HubError) as caught:
        ask(client, "11")
    told = f"{caught.value.message} ({caught.value.hint})"
    assert [words for words in said if words not in told] == []
    assert [words for words in unsaid if words in told] == []
    assert TOKEN not in told
    assert all(request.host.startswith("127.0.0.1") for request in filled.requests)
    client.close()


@pytest.fixture
def red():
    with LoopbackCivitai() as hub:
        yield hub


def test_the_other_address_is_asked_for_what_this_one_has_not(filled, red):
    filled.add_user("ada", TOKEN)
    red.add_user("ada", TOKEN)
    red.add(style(77, 771))
    client = CivitaiClient(endpoint=filled.endpoint, token=TOKEN, others=[red.endpoint])
    assert client.model("11").id == 11
    assert red.requests == []
    assert client.version("771").model_id == 77
    assert client.page_of(ModelRef("civitai", "77", "771")).startswith(red.endpoint)
    with client.weights(ModelRef("civitai", "77", "771"), 7710) as response:
        assert response.status_code == 200
    # Both are the account's; the storage of either is not.
    assert {(request.host.partition(":")[0], request.token) for request in red.requests} == {
        ("127.0.0.1", True), ("localhost", False),
    }  # fmt: skip
    with pytest.raises(SpecNotFoundError, match=f"{filled.endpoint} and {red.endpoint} hold no"):
        client.model("999")
    digest = red.state.file(7710).digest
    assert [found.id for found in client.versions_with([digest.lower()])] == [771]
    client.close()


def test_what_another_address_could_not_say_is_not_said_to_be_gone(filled, red):
    client = CivitaiClient(endpoint=filled.endpoint, others=[red.endpoint])
    red.inject(Fault("500", times=99))
    with pytest.raises(HubError, match=f"holds no .*: {red.endpoint} is out of order") as caught:
        client.model("999")
    assert not isinstance(caught.value, SpecNotFoundError)
    client.close()


@pytest.mark.parametrize(
    ("named", "others", "trusted"),
    [
        (None, ("https://civitai.red",), True),
        ("https://civitai.green", (), True),
        ("https://civitai.com", (), True),
        ("https://mirror.example", (), False),
    ],
)
def test_who_names_an_address_is_asked_there_alone(monkeypatch, named, others, trusted):
    if named:
        monkeypatch.setenv("CIVITAI_ENDPOINT", named)
    client = CivitaiClient(token=TOKEN)
    assert client.others == others
    assert (("https", "civitai.red", 443) in client._origins) == trusted
    assert ("https", "civitai.com.evil.example", 443) not in client._origins
    assert ("http", "civitai.red", 80) not in client._origins


def test_errors_of_the_server_are_asked_for_again(filled, client):
    filled.inject(Fault("500", times=2))
    assert client.model("11").id == 11
    assert [request.status for request in filled.requests] == [500, 500, 200]
    filled.inject(Fault("500", times=100))
    filled.clear_requests()
    assert "out of order and answers 500" in failing(client).message
    assert len(filled.requests) == 4


def test_waits_grow_and_are_told_and_nobody_else_warns(filled, caplog):
    told = []
    traffic = RequestCounter()
    traffic.on_wait = told.append
    client = CivitaiClient(endpoint=filled.endpoint, traffic=traffic)
    filled.inject(Fault("500", times=3))
    with caplog.at_level(logging.WARNING):
        client.model("11")
    assert told == [1.0, 2.0, 4.0]
    assert caplog.records == []
    assert traffic.methods == {"GET": 4}
    client.close()


def test_a_hub_that_asks_for_a_wait_is_asked_after_it(filled, client):
    stamina.set_testing(False)
    filled.inject(Fault("429", retry_after=0))
    start = time.monotonic()
    assert client.model("11").id == 11
    assert 1.0 <= time.monotonic() - start < 10


def test_too_many_requests_end_in_one_clear_error(filled, client):
    filled.inject(Fault("429", retry_after=7, times=100))
    error = failing(client)
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 7
    assert "in 7 s" in str(error.hint)
    assert len(filled.requests) == 5


def test_a_wait_that_nobody_sits_through_is_not_begun(filled, client):
    filled.inject(Fault("429", retry_after=3600, times=100))
    error = failing(client)
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 3600
    assert len(filled.requests) == 1


def test_without_a_word_of_it_the_waits_grow(filled, client):
    filled.inject(Fault("429", retry_after=None, times=2))
    assert client.model("11").id == 11
    assert len(filled.requests) == 3


def test_a_connection_that_breaks_is_made_again(filled, client):
    filled.inject(Fault("cut"))
    assert client.model("11").id == 11
    assert len(filled.requests) == 2


def test_a_hub_that_is_not_there_is_given_up_soon():
    traffic = RequestCounter()
    with socket.socket() as taken:  # and not listening
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = CivitaiClient(endpoint=nowhere, traffic=traffic)
        assert "cannot be reached" in failing(client).message
    assert traffic.methods == {"GET": 3}
    client.close()


def test_offline_nothing_is_sent(filled):
    client = CivitaiClient(endpoint=filled.endpoint, offline=True)
    with pytest.raises(OfflineError, match="civitai:11"):
        client.model("11")
    assert filled.requests == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("hostile", content=b"<html>", content_type="text/html"), "text/html in place of"),
        (Fault("hostile", content=b'{"id": 11'), "JSON is broken"),
        (Fault("hostile", content=b"[" * 100_000), "JSON is broken"),
        (Fault("hostile", content=b'{"id": ' + b"9" * 5000 + b"}"), "JSON is broken"),
        (Fault("hostile", content=b"[1]"), "cannot be used"),
        (Fault("hostile", content=b'{"id": "11", "name": "n", "type": "LORA"}'), "id: "),
        (Fault("hostile", content=b'{"id": -1, "name": "n", "type": "LORA"}'), "id: "),
        (Fault("hostile", content=b'{"id": 12, "name": "n", "type": "LORA"}'), "it gives 12"),
        (
            Fault("hostile", content=b'{"id": 11, "name": "a\\u001b[31m", "type": "LORA"}'),
            "U\\+001B",
        ),
        (Fault("hostile", content=b'{"id": 11, "name": "a\\u202eb", "type": "LORA"}'), "U\\+202E"),
        (Fault("hostile", content=b'{"id": 11, "name": " ", "type": "LORA"}'), "name: "),
        (
            Fault("hostile", status=302, location="https://else.example/"),
            "redirects to https://else",
        ),
    ],
)
def test_what_no_civitai_would_say_is_one_clear_error(filled, client, fault, message):
    filled.inject(fault)
    with pytest.raises(HubError, match=message) as caught:
        client.model("11")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("items", [None, {}, 5])
def test_a_listing_without_a_list_is_no_empty_one(filled, client, items):
    content = json.dumps({"items": items, "metadata": {}}).encode()
    filled.inject(Fault("hostile", content=content))
    with pytest.raises(HubError, match=r"items: .*no list"):
        client.page({"tag": "style"})


def test_an_answer_of_any_length_is_not_read_to_its_end(filled, client, monkeypatch):
    monkeypatch.setattr("gmi_registry.hubs.civitai.client.BODY_LIMIT", 1000)
    filled.inject(Fault("hostile", content=b" " * 100_000))
    assert "more than 1,000 bytes" in failing(client).message


def test_parts_that_make_no_sense_are_left_out_and_the_rest_stays(filled, client):
    content = json.loads(json.dumps(model().shown(filled.endpoint)))
    content["tags"] = ["style", 7, "", "a\x07bell", "x" * 5000, None, "style"]
    content["nsfwLevel"] = "high"
    version = content["modelVersions"][0]
    version["publishedAt"] = "yesterday"
    version["stats"] = "many"
    version["files"] += [{"id": "x"}, "nothing", {**version["files"][0], "sizeKB": 1e30}]
    version["files"][0]["hashes"] = {"SHA256": "not hex"}
    content["modelVersions"] += [{"id": 2**70, "name": "n", "baseModel": "b"}, 3]
    filled.inject(Fault("hostile", content=json.dumps(content).encode()))
    found = client.model("11")
    assert found.tags == ("style", "x" * 200)
    assert found.nsfw_level is None
    (only,) = found.model_versions
    assert (only.published_at, only.downloads) == (None, None)
    assert [file.sha256 for file in only.files] == [None]


def test_addresses_of_files_stay_out_of_the_log(filled, caplog):
    client = CivitaiClient(endpoint=filled.endpoint, token=TOKEN)
    with caplog.at_level(logging.INFO, logger="httpx2"), client.weights(REF, 1111) as answer:
        answer.read()
    client.close()
    assert len(caplog.records) == 2
    assert "/storage/" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("location", "kind", "message"),
    [
        ("/login?returnUrl=/models/11&reason=download-auth", AuthError, "only for users who are"),
        ("ftp://localhost/storage/1", HubError, "not encrypted"),
        ("http://[", HubError, "no address"),
    ],
)
def test_a_download_that_leads_astray(filled, client, location, kind, message):
    filled.inject(Fault("hostile", status=307, location=location, path_regex="/api/download"))
    with pytest.raises(kind, match=message), client.weights(REF, 1111):
        pytest.fail("a file was given out")


def test_a_download_that_leads_round_in_a_circle_ends(filled, client):
    place = "/api/download/models/111"
    filled.inject(Fault("hostile", status=307, location=place, path_regex=place, times=100))
    with pytest.raises(HubError, match="it redirects again and again"), client.weights(REF, 1111):
        pytest.fail("a file was given out")
    assert len(filled.requests) == 4


@pytest.mark.parametrize(
    ("version", "archived", "kind", "message", "hint"),
    [
        ({"login": True}, False, AuthError, "no token was sent", "CIVITAI_TOKEN"),
        ({"usage": "Generation"}, False, HubError, "does not allow downloads", "models/11"),
        ({"early": "2030-05-06T00:00:00.000Z"}, False, AuthError, "early access until 2030-05-06",
         "buy access"),
        ({}, True, HubError, "is archived", "another version"),
        ({"status": "Unpublished"}, False, SpecNotFoundError, "holds no civitai:11@111", "number"),
    ],
)  # fmt: skip
def test_downloads_that_are_refused(civitai, client, version, archived, kind, message, hint):
    file = File(1111, b"weights")
    civitai.add(model(versions=[Version(111, files=[file], **version)], archived=archived))
    with pytest.raises(kind, match=message) as caught, client.weights(REF, 1111):
        pytest.fail("a file was given out")
    assert hint in str(caught.value.hint)
