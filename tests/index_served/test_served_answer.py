"""A server answers as the index in memory does.

The server is one on this machine that answers real requests of the real client out of Qdrant's own
engine, or out of qdrant-client's embedded mode: no package registry carries the server itself.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from qdrant_client import QdrantClient

from gmi_registry.errors import InputError
from gmi_registry.index import Filters, ImageQuery
from gmi_registry.index.qdrant import QdrantIndex, search
from gmi_registry.scoring import SCORES
from gmi_registry.spec import build_spec
from tests.support.served_specs import PROMPTS, ask, encoder_named, index_of, load, make_spec

NUMBERS = {"distance", "margin", "confidence"}


def images(query):
    return ImageQuery(query, SCORES["default"])


@pytest.fixture(scope="module")
def full(shared_server, forty):
    load(shared_server.url(), forty)
    return shared_server


@pytest.fixture
def served(full):
    with QdrantIndex.open(full.url()) as opened:
        yield opened


def assert_same(ours, theirs):
    """Hits of the server and of the index in memory."""
    assert [hit.ref for hit in ours] == [hit.ref for hit in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for field in fields(mine):
            one, two = getattr(mine, field.name), getattr(other, field.name)
            if field.name in NUMBERS and one is not None:
                assert one == pytest.approx(two, rel=1e-4, abs=2e-5), field.name
            elif field.name == "versions":
                assert [it.ref for it in one] == [it.ref for it in two]
                assert [it.distance for it in one] == pytest.approx([it.distance for it in two])
            else:
                assert one == two, field.name


class TestSameAnswer:
    @pytest.mark.parametrize("count", [1, 2, 5])
    @pytest.mark.parametrize("seed", range(4))
    def test_hits(self, served, forty, count, seed):
        query = ask(count, seed=seed)
        ours = served.answer(images(query), top=10, best_prompts=4)
        (theirs,) = forty.rank(query, top=10, best_prompts=4).groups
        assert len(ours.hits) == 10
        assert_same(ours.hits, theirs.hits)
        assert (ours.key, ours.prompt_set, ours.encoder) == (
            theirs.key, theirs.prompt_set, theirs.encoder,
        )  # fmt: skip
        assert served.encoder == encoder_named()
        assert ours.members == theirs.members == len(served) == 40

    def test_a_model_is_nearest_to_its_own_images(self, served):
        spec = make_spec(9)
        query = ask(1)
        own = type(query)(
            spec.image_embeddings.astype(np.float32),
            None,
            (None,) * len(spec.image_embeddings),
            "none",
            query.encoder_id,
        )
        assert served.answer(images(own)).hits[0].ref == spec.manifest.model.ref

    def test_everything_at_once(self, served, forty):
        query = ask(2)
        ours = served.answer(images(query), top=None)
        assert_same(ours.hits, forty.rank(query, top=None).hits)
        assert ours.hits[-1].margin is None
        assert sum(1 + len(hit.versions) for hit in ours.hits) == 40
        assert sum(hit.confidence for hit in ours.hits) + sum(
            version.confidence for hit in ours.hits for version in hit.versions
        ) == pytest.approx(1)

    def test_no_prompts_wanted_fetches_no_images(self, full, served):
        full.seen.clear()
        hits = served.answer(images(ask()), top=3, best_prompts=0).hits
        assert [hit.best_prompts for hit in hits] == [(), (), ()]
        # The nearest, and their vectors, by which they are compared with one another.
        assert [path.rpartition("/")[2] for _, path, _ in full.seen] == ["query", "points"]

    def test_few_requests(self, full, served):
        full.seen.clear()
        served.answer(images(ask(5)), Filters(tags=("icon",)))
        last = [path.rpartition("/")[2] for _, path, _ in full.seen]
        assert last == ["count", "query", "points", "points"]

    @pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode")
    def test_the_clients_embedded_mode_answers_alike(self, forty):
        client = QdrantClient(":memory:")
        load(client, forty, collection="models")
        with QdrantIndex.open(client, collection="models") as opened:
            hits = opened.answer(images(ask())).hits
        assert_same(hits, forty.rank(ask()).hits)
        assert client.get_collections().collections, "a client that was handed in stays open"


class TestFilters:
    @pytest.mark.parametrize(
        "filters",
        [
            Filters(tags=("ICON",)),
            Filters(tags=("icon", "Anime")),
            Filters(tags=("STRASSE",)),
            Filters(not_tags=("icon",)),
            Filters(tags=("icon",), not_tags=("anime",)),
            Filters(base_model="sdxl 1.0"),
            Filters(kind="LoRA"),
            Filters(kind="checkpoint"),
            Filters(fresh_only=True),
            Filters(nsfw=False),
            Filters(tags=("NEW",)),
            Filters(not_tags=("new",)),
            Filters(tags=("icon",), base_model="owner/BASE", kind="lora", fresh_only=True),
        ],
        ids=str,
    )
    def test_as_in_memory(self, served, forty, filters):
        query = ask(2, seed=5)
        ours = served.answer(images(query), filters, top=None)
        (theirs,) = forty.rank(query, filters=filters, top=None).groups
        assert 0 < ours.members == theirs.members < 40
        assert_same(ours.hits, theirs.hits)

    @pytest.mark.parametrize("hub", ["hf", "civitai", "local"])
    def test_a_hub(self, served, forty, hub):
        found = served.answer(images(ask()), hub=hub, top=None)
        expected = [hit.ref for hit in forty.rank(ask(), top=None).hits if hit.ref.hub == hub]
        assert [hit.ref for hit in found.hits] == expected
        assert 10 < found.members < 20

    def test_what_civitai_rates_stays_out_where_nobody_asks_for_it(self, served):
        found = served.answer(images(ask()), Filters(nsfw=False), top=None)
        assert 30 < found.members < 40
        assert not any(hit.nsfw for hit in found.hits if hit.ref.hub == "civitai")
        assert any(hit.nsfw for hit in found.hits)

    def test_nothing_passes(self, served):
        found = served.answer(images(ask()), Filters(tags=("no such tag",)))
        assert (found.hits, found.members) == ((), 0)


class TestRepeats:
    def test_copies_are_one_hit_as_in_memory(self, server, monkeypatch):
        """Also where there are more of them than the server is asked for at first."""
        monkeypatch.setattr(search, "_NEAREST", 8)
        models = [make_spec(3 * number) for number in range(20)]
        original = models[2]
        random = np.random.default_rng(0)
        for number in range(25):
            shape = original.image_embeddings.shape
            noise = 0.01 * random.standard_normal(shape).astype(np.float32)
            changed = {"id": f"owner/copy{number}", "title": "Copy"}
            models.append(
                build_spec(
                    model=original.manifest.model.model_copy(update=changed),
                    encoder=encoder_named(),
                    prompt_sets=(PROMPTS,),
                    recipe=original.manifest.generation.recipe,
                    image_embeddings=original.image_embeddings + noise,
                    prompt_embeddings=original.prompt_embeddings,
                    image_prompt=original.image_prompt,
                    gamma=0.02,
                )
            )
        index = index_of(*models)
        load(server.url(), index)
        middle = original.image_embeddings.astype(np.float32).mean(axis=0, keepdims=True)
        query = replace(ask(), image_embeddings=middle)
        with QdrantIndex.open(server.url()) as opened:
            ours = opened.answer(images(query), top=5).hits
            apart = opened.answer(images(query), top=5, repeats=True).hits
        theirs = index.rank(query, top=5).hits
        assert [hit.ref for hit in ours] == [hit.ref for hit in theirs]
        assert [it.ref for it in ours[0].repeats] == [it.ref for it in theirs[0].repeats]
        assert len(ours[0].repeats) == 25
        assert [hit.confidence for hit in ours] == pytest.approx(
            [hit.confidence for hit in theirs], abs=1e-3
        )
        assert not any(hit.repeats for hit in apart)


class TestCompeting:
    """The server names the nearest few alone."""

    @pytest.fixture
    def few(self, monkeypatch):
        monkeypatch.setattr(search, "_NEAREST", 8)

    def confidences(self, opened, query):
        hits = opened.answer(images(query), top=3, best_prompts=0).hits
        return np.array([hit.confidence for hit in hits])

    def test_the_others_are_asked_for_their_distances(self, full, served, forty, few):
        full.seen.clear()
        expected = [hit.confidence for hit in forty.rank(ask(seed=1), top=3).hits]
        assert self.confidences(served, ask(seed=1)) == pytest.approx(expected, rel=1e-4)
        assert [path.rpartition("/")[2] for _, path, _ in full.seen] == [
            "query",
            "query",
            "points",
        ]

    def test_but_not_where_they_have_no_chance(self, full, served, forty, few):
        """Twenty images leave no doubt."""
        query = ask(20, seed=1)
        full.seen.clear()
        expected = [hit.confidence for hit in forty.rank(query, top=3).hits]
        assert self.confidences(served, query) == pytest.approx(expected, abs=2e-3)
        assert [path.rpartition("/")[2] for _, path, _ in full.seen] == ["query", "points"]

    def test_nor_all_of_them(self, served, forty, few, monkeypatch):
        monkeypatch.setattr(search, "COMPETING", 12)
        expected = [hit.confidence for hit in forty.rank(ask(seed=1), top=3).hits]
        shares = self.confidences(served, ask(seed=1)) / expected
        assert shares == pytest.approx([shares[0]] * 3)
        assert 1.001 < shares[0] < 1.5

    def test_as_many_as_the_hits_need(self, served, forty, few):
        found = served.answer(images(ask()), top=15).hits
        expected = forty.rank(ask(), top=15).hits
        assert [hit.ref for hit in found] == [hit.ref for hit in expected]
        assert [hit.margin for hit in found] == pytest.approx(
            [hit.margin for hit in expected], abs=1e-4
        )

    def test_versions_of_few_models_do_not_leave_too_few_hits(self, server, few):
        """Eighteen versions of one model are nearest, and make one hit."""
        crowd = [make_spec(n, spread=0.01, versions=20) for n in range(601, 655, 3)]
        assert len({spec.manifest.model.id for spec in crowd}) == 1
        index = index_of(*crowd, *map(make_spec, range(0, 30, 3)))
        load(server.url(), index)
        with QdrantIndex.open(server.url()) as opened:
            found = opened.answer(images(ask()), top=8).hits
        assert max(len(hit.versions) for hit in found) == 17
        assert [hit.ref for hit in found] == [hit.ref for hit in index.rank(ask(), top=8).hits]
        assert len({hit.ref.without_revision for hit in found}) == 8

    def test_beyond_many_models_the_graph_is_asked(self, full, served, monkeypatch):
        bodies = []
        real = served._connection.client.query_points

        def spy(*arguments, **named):
            bodies.append(named["search_params"])
            return real(*arguments, **named)

        monkeypatch.setattr(served._connection.client, "query_points", spy)
        served.answer(images(ask()))
        monkeypatch.setattr(search, "_EXACT", 10)
        served.answer(images(ask()))
        assert [it.exact for it in bodies] == [True, False]
        assert bodies[1].hnsw_ef >= 256

    @pytest.mark.parametrize("top", [0, -1])
    def test_hits_are_counted_from_one(self, served, top):
        with pytest.raises(InputError, match="must be positive"):
            served.answer(images(ask()), top=top)


def test_prompts_are_named_as_written(served):
    (hit,) = served.answer(images(ask()), top=1, best_prompts=2).hits
    assert all(match.prompt == PROMPTS.prompts[match.index] for match in hit.best_prompts)
    assert len(hit.best_prompts) == 2
