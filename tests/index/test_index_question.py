"""Questions by a model, by a text, and against pictures, put to the catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gmi_registry.errors import IncomparableSpecsError, InputError
from gmi_registry.index import (
    Filters,
    ImageQuery,
    IndexedSpec,
    ModelQuery,
    SpecIndex,
    TextQuery,
    Wording,
)
from gmi_registry.scoring import SCORES
from tests.support.index_specs import GENERAL, OWN, encoder_named, index_of, names


def like(spec):
    return ModelQuery(IndexedSpec.of(spec))


class TestModel:
    def test_a_twin_comes_first_and_the_model_itself_is_left_out(self, make_spec):
        exemplar = make_spec("m2", seed=2)
        specs = [make_spec(f"m{i}", seed=i) for i in range(5)]
        result = index_of(*specs, make_spec("twin", seed=2)).answer(like(exemplar))
        assert names(result.hits)[0] == "twin"
        assert result.hits[0].distance == pytest.approx(0, abs=1e-6)
        assert "m2" not in names(result.hits)
        assert (result.looked_at, result.matched, result.groups[0].members) == (6, 5, 5)
        distances = [hit.distance for hit in result.hits]
        assert distances == sorted(distances)

    def test_it_does_not_matter_whether_the_model_is_indexed(self, make_spec):
        exemplar = make_spec("m2", seed=2)
        others = [make_spec(f"m{i}", seed=i) for i in (0, 1, 3, 4)]
        inside = index_of(*others, exemplar).answer(like(exemplar))
        outside = index_of(*others).answer(like(exemplar))
        assert inside.hits == outside.hits

    def test_a_filter_changes_no_distance(self, make_spec):
        index = index_of(*(make_spec(f"m{i}", tags=(f"t{i % 2}",)) for i in range(6)))
        question = like(make_spec("other"))
        everything = {hit.ref: hit.distance for hit in index.answer(question).hits}
        some = index.answer(question, Filters(tags=("t1",))).hits
        assert len(some) == 3
        assert all(hit.distance == pytest.approx(everything[hit.ref]) for hit in some)

    def test_content_is_cancelled_where_the_prompts_are_shared(self, make_spec):
        """Content moves all models' images of a prompt alike: here by a lot."""

        def moved(spec, size):
            rng = np.random.default_rng(0)
            content = size * rng.standard_normal((len(GENERAL), spec.image_embeddings.shape[1]))
            images = spec.image_embeddings + content[spec.image_prompt]
            indexed = IndexedSpec.of(spec)
            return replace(indexed, image_embeddings=images.astype(np.float16))

        found = []
        for size in (0.0, 2.0):
            index = SpecIndex()
            for i in range(4):
                index._put(moved(make_spec(f"m{i}", seed=i, centre=np.full(8, i / 2)), size))
            question = ModelQuery(moved(make_spec("x", seed=9, centre=np.zeros(8)), size))
            found.append({hit.ref: hit.distance for hit in index.answer(question).hits})
        for ref, distance in found[0].items():
            assert found[1][ref] == pytest.approx(distance, abs=5e-3)

    def test_prompts_on_which_both_draw_alike_are_named(self, make_spec):
        first, second = make_spec("a", seed=1), make_spec("b", seed=2)
        indexed = IndexedSpec.of(second)
        images = indexed.image_embeddings.copy()
        images[2] = first.image_embeddings[2]
        index = SpecIndex()
        index._put(replace(indexed, image_embeddings=images))
        (hit,) = index.answer(like(first), best_prompts=2).hits
        assert hit.best_prompts[0].prompt == GENERAL.prompts[2]
        assert hit.best_prompts[0].contribution == pytest.approx(1)
        assert len(hit.best_prompts) == 2

    def test_other_prompts_are_a_ranking_by_itself(self, make_spec):
        general = [make_spec(f"g{i}") for i in range(3)]
        own = [make_spec("o0", prompt_sets=(OWN,)), make_spec("o1", prompt_sets=(OWN,))]
        result = index_of(*general, *own).answer(like(make_spec("x", seed=1)))
        assert [group.members for group in result.groups] == [3, 2]
        assert all(hit.best_prompts == () for hit in result.groups[1].hits)
        assert all(0 <= hit.distance <= 2 for hit in result.hits)

    def test_another_number_of_images_still_shares_the_prompts(self, make_spec):
        index = index_of(*(make_spec(f"m{i}", seeds=(0, 1)) for i in range(3)))
        result = index.answer(like(make_spec("x", seed=1)))
        assert len(result.hits) == 3
        assert all(len(hit.best_prompts) == 3 for hit in result.hits)

    def test_another_encoder_is_skipped_or_an_error(self, make_spec):
        other = make_spec("b", encoder=encoder_named("large"))
        question = like(make_spec("x"))
        result = index_of(make_spec("a"), other).answer(question)
        assert names(result.hits) == ["a"]
        assert [skipped.model.id for skipped in result.skipped] == ["b"]
        with pytest.raises(IncomparableSpecsError, match="none of the 1 models"):
            index_of(other).answer(question)

    def test_a_model_alone_has_no_neighbours(self, make_spec):
        spec = make_spec("a")
        result = index_of(spec).answer(like(spec))
        assert (result.hits, result.looked_at, result.matched) == ((), 1, 0)


class TestText:
    def test_towers_without_a_common_space_are_one_clear_error(self, make_spec):
        question = TextQuery(np.ones(5), encoder_named().id)
        with pytest.raises(IncomparableSpecsError, match="no common space") as caught:
            index_of(make_spec("a")).answer(question)
        assert "the text has 5 values, images have 8" in caught.value.message
        assert "\n" not in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize("embedding", [np.ones((1, 5)), np.array([1.0, np.nan])])
    def test_what_is_no_vector_of_numbers(self, embedding):
        with pytest.raises(InputError, match="not a vector of numbers"):
            TextQuery(embedding, encoder_named().id)


class TestUnwanted:
    def test_without_it_nothing_changes(self, make_spec, ask):
        index = index_of(*(make_spec(f"m{i}") for i in range(5)))
        plain = index.rank(ask(np.ones(8)))
        assert index.rank(ask(np.ones(8)), unwanted=None) == plain

    def test_a_picture_of_a_models_own_style_moves_it_down(self, make_spec, ask):
        centres = 4 * np.eye(8)
        index = index_of(*(make_spec(f"m{i}", centre=centres[i]) for i in range(6)))
        wanted, own = ask(centres[[2, 4]]), ask(centres[4])
        assert set(names(index.rank(wanted, "default").hits)[:2]) == {"m2", "m4"}
        hits = index.rank(wanted, "default", unwanted=own).hits
        assert names(hits)[0] == "m2"
        assert names(hits).index("m4") >= 1
        plain = {hit.ref: hit for hit in index.rank(wanted, "default").hits}
        for hit in hits:
            assert hit.distance >= plain[hit.ref].distance - 1e-9
        (moved,) = (hit for hit in hits if hit.ref.id == "m4")
        assert moved.confidence < plain[moved.ref].confidence / 5
        assert sum(hit.confidence for hit in hits) == pytest.approx(1)

    def test_a_filter_changes_no_distance(self, make_spec, ask):
        index = index_of(*(make_spec(f"m{i}", tags=(f"t{i % 2}",)) for i in range(6)))
        unwanted = ask(np.full(8, 0.5))
        every = {hit.ref: hit.distance for hit in index.rank(ask(), unwanted=unwanted).hits}
        some = index.rank(ask(), "default", Filters(tags=("t1",)), unwanted=unwanted).hits
        assert len(some) == 3
        assert all(hit.distance == pytest.approx(every[hit.ref], rel=1e-5) for hit in some)

    def test_embeddings_of_another_length_are_an_error(self, make_spec, ask):
        with pytest.raises(IncomparableSpecsError, match="3 values"):
            index_of(make_spec("a")).rank(ask(), unwanted=ask(np.zeros((1, 3))))


class TestStyle:
    def test_what_is_weighed_in_chances_is_for_the_default_score_alone(self, ask):
        style = Wording(np.ones(8), 100.0)
        for unwanted, words in ((None, style), (ask(), None), (ask(), style)):
            with pytest.raises(InputError, match="need the default score") as caught:
                ImageQuery(ask(), SCORES["paper"], unwanted, words)
            assert caught.value.hint
            assert ImageQuery(ask(), SCORES["default"], unwanted, words).style is words

    def test_words_of_another_length_are_an_error(self, make_spec, ask):
        question = ImageQuery(ask(), SCORES["default"], None, Wording(np.ones(5), 100.0))
        with pytest.raises(IncomparableSpecsError, match="the text has 5 values"):
            index_of(make_spec("a")).answer(question)
