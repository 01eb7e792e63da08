"""What a server, a URL or a question can have wrong is one clear line.

The server is one on this machine that answers real requests of the real client out of
qdrant-client's embedded mode: no package registry carries the server itself.
"""

from __future__ import annotations

import base64
import logging
import socket
import subprocess
import sys
import warnings
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from gmi_registry.errors import (
    AuthError,
    GmiError,
    HubError,
    IncomparableSpecsError,
    InputError,
    MissingExtraError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedOperationError,
    UnsupportedVersionError,
    install_command,
    upgrade_hint,
)
from gmi_registry.index import ImageQuery, IndexedSpec, ModelQuery, TextQuery, Wording
from gmi_registry.index.qdrant import Location, QdrantIndex, serve_into
from gmi_registry.index.qdrant.points import images_id, metadata_ids, point_id
from gmi_registry.scoring import SCORES
from tests.support.loopback_qdrant import LoopbackQdrant
from tests.support.served_specs import (
    DIMENSIONS,
    TEXT_DIMENSIONS,
    ask,
    encoder_named,
    group_of,
    load,
    make_spec,
)

DEFAULT = SCORES["default"]
SECRET = "s3cr3t-s3cr3t"


@pytest.fixture
def server():
    """With one engine, the one that changes what it holds: what refuses is not the engine."""
    loopback = LoopbackQdrant(QdrantClient(":memory:"))
    yield loopback
    loopback.stop()


@pytest.fixture
def loaded(server, forty):
    """Loaded without requests, which are tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(server.engine, forty, collection="models")
    return server


def refused(kind, call, match):
    """The error, which is one line and says what to do."""
    with pytest.raises(kind, match=match) as caught:
        call()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


class TestServer:
    def test_none_is_there(self, forty):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"qdrant://127.0.0.1:{taken.getsockname()[1]}/models"
        refused(HubError, lambda: QdrantIndex.open(url), "does not answer")
        refused(HubError, lambda: load(url, forty), "does not answer")

    def test_another_kind_of_server(self, server):
        server.answer = lambda *_: ["hello"]
        refused(HubError, lambda: QdrantIndex.open(server.url()), "no Qdrant server says")

    def test_no_such_collection(self, server):
        error = refused(
            SpecNotFoundError, lambda: QdrantIndex.open(server.url()), "no index under the name"
        )
        assert "gmi index serve-into" in error.hint

    def test_no_such_collection_within_this_process(self):
        client = QdrantClient(":memory:")
        refused(
            SpecNotFoundError,
            lambda: QdrantIndex.open(client, collection="models"),
            "no index under the name",
        )

    def test_a_collection_of_somebody_else(self, server):
        size = models.VectorParams(size=2, distance=models.Distance.DOT)
        server.engine.create_collection("models", vectors_config=size)
        refused(SpecFormatError, lambda: QdrantIndex.open(server.url()), "that is not an index")

    def test_it_goes_away_for_good_while_open(self, loaded):
        with QdrantIndex.open(loaded.url()) as opened:
            for name in loaded.collections:
                loaded.engine.delete_collection(name)
            refused(
                SpecNotFoundError,
                lambda: opened.answer(ImageQuery(ask(), DEFAULT)),
                "no index under the name",
            )


class TestKey:
    def test_the_right_one(self, loaded, monkeypatch):
        loaded.key = SECRET
        monkeypatch.setenv("QDRANT_API_KEY", SECRET)
        with QdrantIndex.open(loaded.url()) as opened:
            assert len(opened) == 40

    def test_none(self, loaded):
        loaded.key = SECRET
        error = refused(AuthError, lambda: QdrantIndex.open(loaded.url()), "needs a key")
        assert "QDRANT_API_KEY" in error.hint

    def test_a_wrong_one_is_never_shown(self, loaded, forty, monkeypatch, caplog, capfd):
        caplog.set_level(logging.DEBUG)
        loaded.key = "another"
        monkeypatch.setenv("QDRANT_API_KEY", SECRET)
        found = [
            refused(AuthError, lambda: QdrantIndex.open(loaded.url()), "refuses the key"),
            refused(
                AuthError,
                lambda: load(loaded.url(), forty),
                "refuses the key",
            ),
        ]
        shown = [caplog.text, *capfd.readouterr(), *(f"{it.message} {it.hint}" for it in found)]
        assert not any(SECRET in text for text in shown)

    def test_a_server_that_repeats_it(self, loaded, forty, monkeypatch):
        monkeypatch.setenv("QDRANT_API_KEY", SECRET)
        loaded.faults = [500] * 3
        error = refused(
            HubError,
            lambda: load(loaded.url("other"), forty),
            "fault 500 with …",
        )
        assert SECRET not in error.message

    @pytest.mark.parametrize("key", [f"{SECRET}\nx", f"{SECRET}\u20ac", f"{SECRET} {SECRET}"])
    def test_what_cannot_be_one(self, loaded, monkeypatch, key):
        monkeypatch.setenv("QDRANT_API_KEY", key)
        error = refused(InputError, lambda: QdrantIndex.open(loaded.url()), "no key has")
        assert SECRET not in error.message + error.hint

    def test_space_around_it_does_no_harm(self, loaded, monkeypatch):
        loaded.key = SECRET
        monkeypatch.setenv("QDRANT_API_KEY", f" {SECRET}\n")
        with QdrantIndex.open(loaded.url()) as opened:
            assert len(opened) == 40

    def test_it_does_not_cross_a_network_in_the_open(self, monkeypatch):
        monkeypatch.setenv("QDRANT_API_KEY", SECRET)
        error = refused(
            InputError, lambda: QdrantIndex.open("qdrant://example.org/models"), "without TLS"
        )
        assert "?tls=1" in error.hint
        assert SECRET not in error.message + error.hint
        # Nothing is sent when a client is made.
        Location.parse("qdrant://example.org/models?tls=0").client().close()
        Location.parse("qdrant://example.org/models?tls=1").client().close()


class TestPlace:
    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("qdrant://localhost/models", Location("localhost", 6333, "models")),
            ("qdrant://db.example.org:443/a.b?tls=1", Location("db.example.org", 443, "a.b", True)),
            ("qdrant://10.0.0.7/a-b_c?tls=0", Location("10.0.0.7", 6333, "a-b_c", False)),
            ("qdrant://[::1]:7000/models/", Location("::1", 7000, "models")),
        ],
    )  # fmt: skip
    def test_read_and_written(self, url, place):
        assert Location.parse(url) == place
        assert Location.parse(str(place)) == place

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "models",
            "http://localhost:6333/models",
            "qdrant:///models",
            "qdrant://localhost:99999/models",
            "qdrant://localhost:port/models",
            "qdrant://[::1/models",
            "qdrant://exa mple/models",
            "qdrant://ex%61mple/models",
            "qdrant://-o/models",
            "qdrant://b\u00fccher/models",
            "qdrant://localhost",
            "qdrant://localhost/",
            "qdrant://localhost/a/b",
            "qdrant://localhost/..",
            "qdrant://localhost/models--0123456789abcdef",
            "qdrant://localhost/" + "m" * 101,
            "qdrant://localhost/models?tls=yes",
            "qdrant://localhost/models?timeout=3",
            "qdrant://localhost/models#part",
        ],
    )
    def test_what_is_none(self, url):
        refused(
            InputError, lambda: QdrantIndex.open(url), "not the URL|cannot be the name|may follow"
        )

    @pytest.mark.parametrize(
        "url",
        [
            f"qdrant://user:{SECRET}@localhost/models",
            f"qdrant://{SECRET}@localhost/models",
            f"qdrant://localhost/models?api_key={SECRET}",
            f"qdrant://localhost/models?apiKey={SECRET}&tls=1",
            f"qdrant://localhost/models?token={SECRET}",
        ],
    )
    def test_secrets_do_not_belong_there(self, url):
        error = refused(InputError, lambda: QdrantIndex.open(url), "URL|may follow")
        assert SECRET not in error.message + error.hint

    def test_a_client_needs_a_name(self):
        refused(
            InputError, lambda: QdrantIndex.open(QdrantClient(":memory:")), "cannot be the name"
        )


class TestQuestion:
    @pytest.fixture
    def opened(self, loaded):
        with QdrantIndex.open(loaded.url()) as opened:
            yield opened

    @pytest.mark.parametrize(
        "question",
        [
            ImageQuery(ask(), SCORES["paper"]),
            ImageQuery(ask(prompt="a cat"), DEFAULT),
            ImageQuery(ask(), DEFAULT, unwanted=ask(seed=1)),
            ImageQuery(ask(), DEFAULT, style=Wording(np.ones(TEXT_DIMENSIONS), 100.0)),
            TextQuery(np.ones(TEXT_DIMENSIONS), encoder_named().id),
            ModelQuery(IndexedSpec.of(make_spec(1))),
        ],
        ids=["score", "prompt", "unwanted", "style", "text", "model"],
    )
    def test_what_only_the_files_answer(self, server, opened, question):
        before = len(server.seen)
        error = refused(
            UnsupportedOperationError, lambda: opened.answer(question), "by the default score"
        )
        assert "search the index files" in error.hint
        assert len(server.seen) == before

    def test_another_encoder(self, opened):
        question = ImageQuery(ask(encoder=encoder_named("large")), DEFAULT)
        refused(IncomparableSpecsError, lambda: opened.answer(question), "tiny/zoo")

    def test_another_width(self, opened):
        question = ImageQuery(ask(dimensions=3), DEFAULT)
        refused(IncomparableSpecsError, lambda: opened.answer(question), "3 values")


class TestHostile:
    """A server may be anybody's."""

    def change(self, loaded, identifier, **payload):
        (name,) = loaded.collections
        loaded.engine.set_payload(name, payload, [identifier])

    def test_a_newer_format(self, loaded):
        self.change(loaded, metadata_ids(0)[0], format="2.0", byte_order=None)
        error = refused(
            UnsupportedVersionError, lambda: QdrantIndex.open(loaded.url()), "format 2.0"
        )
        assert error.hint == upgrade_hint()

    def test_a_newer_minor_is_read(self, loaded):
        self.change(loaded, metadata_ids(0)[0], format="1.7", novelty=[1, 2])
        with QdrantIndex.open(loaded.url()) as opened:
            assert len(opened) == 40

    @pytest.mark.parametrize(
        "lie",
        [
            {"format": "x"},
            {"format": None},
            {"models": -1},
            {"prompts": []},
            {"prompts": ["a\x1b[2Jcat"] * 5},
            {"temperature": 0},
            {"temperature": "nan"},
            {"excess": "inf"},
            {"encoder": encoder_named("large").model_dump(mode="json")},
            {"encoder": encoder_named().model_dump(mode="json") | {"image_dim": 10**9}},
            {"parts": 0},
            {"parts": 10**9},
            {"sha256": "0" * 64},
            {"collection": "another"},
            {"key": {"gamma": 1}},
            {"encoder": "tiny"},
        ],
        ids=str,
    )
    def test_facts_that_lie(self, loaded, lie):
        self.change(loaded, metadata_ids(0)[0], **lie)
        refused(SpecFormatError, lambda: QdrantIndex.open(loaded.url()), "holds")

    @pytest.mark.parametrize("part", [None, 7, "", "####", "AAAA"])
    def test_arrays_that_are_damaged(self, loaded, part):
        self.change(loaded, metadata_ids(1)[1], part=part)
        refused(SpecFormatError, lambda: QdrantIndex.open(loaded.url()), "arrays are damaged")

    def test_arrays_that_are_missing(self, loaded):
        (name,) = loaded.collections
        loaded.engine.delete(name, models.PointIdsList(points=metadata_ids(1)[1:]))
        refused(SpecFormatError, lambda: QdrantIndex.open(loaded.url()), "arrays are damaged")

    @pytest.mark.parametrize(
        "lie",
        [
            {"model": "hf:../../etc"},
            {"model": "file:///etc"},
            {"model": "hf:owner/m3"},  # another's
            {"digest": "abc"},
            {"title": "\x1b]0;owned\x07"},
            {"title": ""},
            {"url": "javascript:alert(1)"},
            {"tags": ["x" * 999]},
            {"nsfw": None},
            {"trust": "blessed"},
            {"downloads": -5},
        ],
        ids=str,
    )
    def test_a_model_that_lies(self, loaded, lie):
        self.change(loaded, point_id(make_spec(0).manifest.model.ref), **lie)
        with QdrantIndex.open(loaded.url()) as opened:
            question = ImageQuery(ask(), DEFAULT)
            refused(SpecFormatError, lambda: opened.answer(question, top=None), "model")

    @pytest.mark.parametrize(
        "images",
        [
            None,
            7,
            "####",
            base64.b64encode(bytes(2 * 9 * DIMENSIONS)).decode(),
            base64.b64encode(b"\x00\x7c" * 10 * DIMENSIONS).decode(),
        ],
        ids=["none", "number", "letters", "few", "infinite"],
    )
    def test_images_that_do_not_fit(self, loaded, images):
        self.change(loaded, images_id(make_spec(0).manifest.model.ref), images=images)
        with QdrantIndex.open(loaded.url()) as opened:
            question = ImageQuery(ask(), DEFAULT)
            refused(SpecFormatError, lambda: opened.answer(question, top=None), "no images of hf:")

    def test_images_that_are_missing(self, loaded):
        (name,) = loaded.collections
        gone = [images_id(make_spec(0).manifest.model.ref)]
        loaded.engine.delete(name, models.PointIdsList(points=gone))
        with QdrantIndex.open(loaded.url()) as opened:
            question = ImageQuery(ask(), DEFAULT)
            refused(SpecFormatError, lambda: opened.answer(question, top=None), "no images of hf:")

    def test_an_index_that_says_what_no_specification_may(self, server, forty):
        bad = copy(group_of(forty))
        bad._entries = (replace(bad.entries[0], title="a\nb"), *bad.entries[1:])
        error = refused(
            SpecFormatError,
            lambda: serve_into(server.url(), bad, forty.status, encoder=encoder_named()),
            "title",
        )
        assert "gmi index build" in error.hint
        assert server.seen == []

    def test_a_distance_that_is_none(self, loaded):
        real = loaded.answer

        def lie(method, path, body):
            found = real(method, path, body)
            if path.endswith("/query"):
                found.points[3].score = 1e200  # squared, it is infinite
            return found

        loaded.answer = lie
        with QdrantIndex.open(loaded.url()) as opened:
            question = ImageQuery(ask(), DEFAULT)
            refused(SpecFormatError, lambda: opened.answer(question), "distance that is none")

    def test_a_server_that_loses_points(self, server, forty):
        real = server.answer

        def lose(method, path, body):
            found = real(method, path, body)
            return models.CountResult(count=81) if path.endswith("/count") else found

        server.answer = lose
        refused(HubError, lambda: load(server.url(), forty), "took 82 points and holds 81")
        refused(SpecNotFoundError, lambda: QdrantIndex.open(server.url()), "no index under")


class TestWithoutTheClient:
    def test_a_missing_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "qdrant_client", None)
        error = refused(
            MissingExtraError,
            lambda: QdrantIndex.open("qdrant://localhost/models"),
            "qdrant-client",
        )
        assert install_command("qdrant") in error.hint

    def test_nothing_heavy_is_imported_for_it(self):
        """The command line lists its commands without the client, or even installed without it."""
        code = (
            "import sys; import gmi_registry.index.qdrant; "
            "print({'qdrant_client', 'grpc', 'httpx', 'torch'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_every_error_is_one_of_ours(loaded):
    assert issubclass(SpecNotFoundError, GmiError)
    with QdrantIndex.open(loaded.url()) as opened:
        loaded.answer = lambda *_: {}
        with pytest.raises(GmiError):
            opened.answer(ImageQuery(ask(), DEFAULT))
