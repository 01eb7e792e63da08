"""An index is loaded into a server: once, in part, again, and over another.

The server is one on this machine that answers real requests of the real client out of Qdrant's own
engine, or out of qdrant-client's embedded mode: no package registry carries the server itself.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pytest
from qdrant_client import models

from gmi_registry.errors import AuthError, HubError, InputError, RateLimitError
from gmi_registry.index import ImageQuery, SpecIndex
from gmi_registry.index.qdrant import QdrantIndex, points, serve_into
from gmi_registry.index.qdrant.points import images_id, point_id, unpacked_images
from gmi_registry.index.stored import FolderFiles, NewSpec, StoredIndex, update_index
from gmi_registry.scoring import SCORES, WithinScatter
from gmi_registry.spec import ModelRef
from tests.support.served_specs import ask, encoder_named, group_of, index_of, load, make_spec


def found(opened, seed=0):
    question = ImageQuery(ask(seed=seed), SCORES["default"])
    return [hit.ref for hit in opened.answer(question).hits]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(points, "_MOST_MODELS", 6)


class TestLoading:
    def test_progress_and_report(self, server, forty, small_batches):
        steps = []
        done = load(server.url(), forty, progress=lambda *step: steps.append(step))
        assert steps == [(n, 40) for n in (0, 6, 12, 18, 24, 30, 36, 40)]
        assert (done.models, done.sent, done.replaced) == (40, 40, ())
        assert server.collections == [done.own]
        assert done.own.startswith("models--")

    def test_again_sends_nothing(self, server, forty):
        first = load(server.url(), forty)
        server.seen.clear()
        again = load(server.url(), forty)
        assert (again.sent, again.own) == (0, first.own)
        assert server.written() == 0
        assert server.collections == [first.own]

    def test_the_same_bytes_wherever_it_is_loaded(self, server, forty):
        load(server.url(), forty)
        points = server.engine.scroll("models", limit=99, with_vectors=True)[0]
        assert load(server.url("other"), forty).sent == 40
        others = server.engine.scroll("other", limit=99, with_vectors=True)[0]
        assert [it.vector for it in points] == [it.vector for it in others]
        assert len(points) == 82

    def test_a_point_a_model_and_one_for_its_images(self, server, forty):
        load(server.url(), forty)
        model = make_spec(4).manifest.model.ref
        (point,) = server.engine.retrieve("models", [point_id(model)], with_vectors=True)
        assert uuid.UUID(point.id).version == 5
        assert point.payload["model"] == str(model)
        assert point.payload["folded"]["tags"] == ["icon", "new"]
        assert set(point.vector) == {"style"}
        (point,) = server.engine.retrieve("models", [images_id(model)], with_vectors=True)
        assert not point.vector
        expected = make_spec(4).image_embeddings
        assert np.array_equal(unpacked_images(point.payload, expected.shape), expected)

    def test_a_new_revision_keeps_its_point(self):
        old, new = ModelRef("hf", "o/n", "a" * 40), ModelRef("hf", "o/n", "b" * 40)
        assert point_id(old) == point_id(new) != point_id(ModelRef("hf", "o/m"))
        versions = {point_id(ModelRef("civitai", "1", version)) for version in ("2", "3")}
        assert len(versions) == 2

    def test_requests_stay_small(self, server, forty, monkeypatch):
        monkeypatch.setattr(points, "_REQUEST_BYTES", 20_000)
        load(server.url(), forty)
        sizes = [size for _, path, size in server.seen if path.endswith("/points")]
        assert len(sizes) > 8
        assert max(sizes) < 20_000

    def test_what_all_models_share_may_take_several_points(self, server, forty, monkeypatch):
        monkeypatch.setattr(points, "_PART_BYTES", 100)
        load(server.url(), forty)
        with QdrantIndex.open(server.url()) as opened:
            assert found(opened) == [hit.ref for hit in forty.rank(ask()).hits]
        assert server.engine.count("models").count > 85

    def test_nothing_to_load(self, server):
        class Empty:
            entries = ()

        with pytest.raises(InputError, match="without models") as caught:
            serve_into(server.url(), Empty(), SpecIndex().status, encoder=encoder_named())
        assert caught.value.hint
        assert server.seen == []

    def test_another_encoder(self, server, forty):
        with pytest.raises(InputError, match="not with large") as caught:
            serve_into(server.url(), group_of(forty), forty.status, encoder=encoder_named("large"))
        assert caught.value.hint
        assert server.seen == []

    def test_from_files(self, server, forty, tmp_path):
        """As it lies on a disk, fetched part by part."""
        folder = tmp_path / "index"
        rows = []
        for number, entry in enumerate(forty.entries):
            row = NewSpec.of(make_spec(number), forty.status(str(entry.ref.identity)))
            rows.append(replace(row, indexed=replace(row.indexed, entry=entry)))
        update_index(folder, rows)
        files = FolderFiles(folder)
        with StoredIndex.open(files, cache_dir=tmp_path / "cache") as stored:
            (group,) = stored.groups
            done = serve_into(server.url(), group, stored.status, encoder=group.encoder)
        assert done.sent == 40
        assert load(server.url(), forty).sent == 0
        with QdrantIndex.open(server.url()) as opened:
            assert found(opened) == [hit.ref for hit in forty.rank(ask()).hits]


class TestInterrupted:
    def test_goes_on_where_it_stopped(self, server, forty, small_batches):
        server.faults = [None, None, None, None, 401]
        with pytest.raises(AuthError):
            load(server.url(), forty)
        assert len(server.collections) == 1
        with pytest.raises(HubError, match="no index under the name"):
            QdrantIndex.open(server.url())
        steps = []
        done = load(server.url(), forty, progress=lambda *step: steps.append(step))
        assert (done.models, done.sent) == (40, 28)
        assert steps[0] == (12, 40)
        with QdrantIndex.open(server.url()) as opened:
            assert found(opened) == [hit.ref for hit in forty.rank(ask()).hits]

    def test_the_whitening_of_the_first_try_is_kept(
        self, server, forty, small_batches, monkeypatch
    ):
        """Another machine may find the same directions with other signs."""
        server.faults = [None, None, None, 401]
        with pytest.raises(AuthError):
            load(server.url(), forty)
        real = WithinScatter.whitening
        monkeypatch.setattr(WithinScatter, "whitening", lambda *it: -real(*it))
        load(server.url(), forty)
        with QdrantIndex.open(server.url()) as opened:
            assert found(opened) == [hit.ref for hit in forty.rank(ask()).hits]

    def test_before_the_facts_were_there(self, server, forty):
        server.faults = [None, 401]
        with pytest.raises(AuthError):
            load(server.url(), forty)
        assert load(server.url(), forty).sent == 40
        with QdrantIndex.open(server.url()) as opened:
            assert len(found(opened)) == 10

    @pytest.mark.parametrize("status", [0, 500, 502, 503, 504])
    def test_what_passes_is_tried_again(self, server, forty, status):
        server.faults = [status, status]
        assert load(server.url(), forty).sent == 40

    def test_what_does_not_pass_is_said(self, server, forty):
        server.faults = [500] * 3
        with pytest.raises(HubError, match="answers 500: fault 500") as caught:
            load(server.url(), forty)
        assert caught.value.hint
        assert "\n" not in caught.value.message

    def test_a_connection_that_is_cut_for_good(self, server, forty):
        server.faults = [None, None, 0, 0, 0]
        with pytest.raises(HubError, match="does not answer"):
            load(server.url(), forty)
        assert load(server.url(), forty).sent == 40

    def test_too_many_requests(self, server, forty):
        server.faults = [None, None, 429]
        with pytest.raises(RateLimitError, match="slow down") as caught:
            load(server.url(), forty)
        assert caught.value.retry_after == 7
        assert load(server.url(), forty).sent == 40


class TestReplaced:
    def test_what_is_gone_is_gone(self, server, forty):
        first = load(server.url(), forty)
        fewer = index_of(*(make_spec(number) for number in range(40) if number % 7))
        second = load(server.url(), fewer)
        assert second.replaced == (first.own,)
        assert server.collections == [second.own]
        with QdrantIndex.open(server.url()) as opened:
            assert len(opened) == 34
            assert found(opened) == [hit.ref for hit in fewer.rank(ask()).hits]

    def test_what_a_hub_says_of_a_model_is_renewed(self, server):
        index = index_of(*map(make_spec, range(6)))
        first = load(server.url(), index)
        model = make_spec(3).manifest.model.ref
        index.mark(model, stale=True)
        assert load(server.url(), index).own != first.own
        with QdrantIndex.open(server.url()) as opened:
            question = ImageQuery(ask(), SCORES["default"])
            stale = {hit.ref for hit in opened.answer(question).hits if hit.stale}
        assert model in stale

    def test_an_upload_that_nobody_ended_is_taken_away(self, server, forty):
        server.faults = [None, None, 401]
        with pytest.raises(AuthError):
            load(server.url(), forty)
        (half,) = server.collections
        fewer = index_of(*map(make_spec, range(6)))
        assert load(server.url(), fewer).replaced == (half,)
        assert len(server.collections) == 1

    def test_others_collections_stay(self, server, forty):
        size = models.VectorParams(size=2, distance=models.Distance.DOT)
        for name in ("models-of-cars", "models--old", "mymodels--0123456789abcdef", "other"):
            server.engine.create_collection(name, vectors_config=size)
        before = server.collections
        load(server.url(), forty)
        load(server.url(), index_of(*map(make_spec, range(6))))
        assert set(before) < set(server.collections)
        with pytest.raises(InputError, match="'other' is a collection") as caught:
            load(server.url("other"), forty)
        assert caught.value.hint == "load into another name"


class TestMeanwhile:
    """Another version takes the place of the one that is searched."""

    def test_between_two_searches(self, server, forty):
        load(server.url(), forty)
        other = index_of(*(make_spec(number, content=1) for number in range(40)))
        with QdrantIndex.open(server.url()) as opened:
            before = found(opened)
            load(server.url(), other)
            after = found(opened)
        assert before == [hit.ref for hit in forty.rank(ask()).hits]
        assert after == [hit.ref for hit in other.rank(ask()).hits]
        assert before != after

    def test_within_one_search(self, server, forty):
        """Between counting and searching, so that an answer could mix the two."""
        load(server.url(), forty)
        other = index_of(*(make_spec(number, content=1) for number in range(30)))
        with QdrantIndex.open(server.url()) as opened:
            server.hooks.append(lambda: load(server.engine, other, collection="models"))
            question = ImageQuery(ask(), SCORES["default"])
            ranking = opened.answer(question, top=None)
        assert server.hooks == []
        assert ranking.members == 30
        assert [hit.ref for hit in ranking.hits] == [
            hit.ref for hit in other.rank(ask(), top=None).hits
        ]

    def test_nobody_sees_half(self, server, forty, small_batches):
        load(server.url(), index_of(*map(make_spec, range(6))))
        seen = []

        def look(done, total):
            with QdrantIndex.open(server.url()) as opened:
                seen.append((done, len(opened), len(found(opened))))

        load(server.url(), forty, progress=look)
        assert len(seen) == 8
        assert {models for _, models, _ in seen} == {6}
