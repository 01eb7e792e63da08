"""Ranking in groups, filters, and what stays out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gmi_registry.errors import IncomparableSpecsError, InputError
from gmi_registry.index import Filters, ImageQuery, IndexedSpec, SpecIndex, SpecSource, SpecStatus
from gmi_registry.scoring import SCORES, paper_distance
from gmi_registry.scoring.query import cosine_weights
from gmi_registry.spec import ModelRef
from tests.support.index_specs import GENERAL, OWN, encoder_named, index_of, names


# At β = 100 the second moment rewards the model whose few images scatter most.
@pytest.mark.parametrize("score", sorted(SCORES.keys() - {"download", "modelverse-second"}))
def test_the_model_around_the_query_comes_first(score, make_spec, ask):
    centres = 6 * np.eye(8)
    index = index_of(*(make_spec(f"m{i}", centre=centres[i]) for i in range(6)))
    result = index.rank(ask(centres[4]), score)
    assert result.hits[0].ref.id == "m4"
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4, 5, 6]
    assert (result.looked_at, result.matched, result.skipped) == (6, 6, ())


@pytest.mark.parametrize("images", [1, 3])
def test_the_default_score_says_how_sure_it_is(images, make_spec, ask):
    index = index_of(*(make_spec(f"m{i}", centre=np.eye(8)[i]) for i in range(6)))
    query = ask(np.repeat(np.eye(8)[None, 4], images, axis=0))
    hits = index.rank(query).hits
    distances = np.array([hit.distance for hit in hits])
    (group,) = index._groups.values()
    odds = np.exp(-images * (distances - distances[0]) / (2 * group.temperature))
    assert [hit.confidence for hit in hits] == pytest.approx((odds / odds.sum()).tolist(), rel=1e-4)
    # What is shown does not change what was compared.
    assert index.rank(query, top=1).hits[0].confidence == hits[0].confidence


def test_other_scores_speak_of_no_chance(make_spec, ask):
    index = index_of(make_spec("a"), make_spec("b"))
    hits = index.rank(ask(np.zeros((1, 8))), "paper").hits
    assert [hit.confidence for hit in hits] == [None, None]


def test_distances_margins_and_prompts_of_the_paper_score(make_spec, ask):
    specs = [make_spec(f"m{i}") for i in range(5)]
    query = ask(np.ones((2, 8)))
    hits = index_of(*specs).rank(query, "paper").hits
    expected = {}
    for spec in specs:
        weights = np.stack(
            [
                cosine_weights(spec.prompt_embeddings, spec.image_prompt, prompt)
                for prompt in query.prompt_embeddings
            ]
        )
        expected[spec.manifest.model.id] = paper_distance(
            spec.image_embeddings, weights, query.image_embeddings, 0.02
        )
    assert names(hits) == sorted(expected, key=expected.get)
    for hit, following in zip(hits, (*hits[1:], None), strict=True):
        assert hit.distance == pytest.approx(expected[hit.ref.id], abs=1e-6)
        if following is None:
            assert hit.margin is None
        else:
            assert hit.margin == pytest.approx(following.distance - hit.distance)
        assert len(hit.best_prompts) == 3
        assert all(GENERAL.prompts[match.index] == match.prompt for match in hit.best_prompts)
        values = [match.contribution for match in hit.best_prompts]
        assert values == sorted(values, reverse=True)
        assert all(isinstance(value, float) for value in (hit.distance, *values))


def test_a_hit_shows_what_the_manifest_says(make_spec, ask):
    spec = make_spec("alpha", tags=("Flat", "icon"), nsfw=True, downloads=12)
    (hit,) = index_of(spec).rank(ask()).hits
    assert str(hit.ref) == "local:alpha@0123456789ab"
    assert (hit.title, hit.kind, hit.base_model) == ("Alpha", "lora", "Owner/Base")
    assert (hit.tags, hit.nsfw, hit.downloads, hit.licence) == (("Flat", "icon"), True, 12, "mit")
    assert hit.url == "https://example.org/alpha"
    assert hit.digest == spec.digest
    assert hit.margin is None


def test_the_order_in_which_models_came_leaves_no_trace(make_spec, ask):
    specs = [make_spec(f"m{i}") for i in range(7)]
    query = ask(np.ones(8))
    for score in ("default", "paper"):
        assert index_of(*specs).rank(query, score) == index_of(*specs[::-1]).rank(query, score)


def test_equal_models_are_ordered_by_their_names(make_spec, ask):
    twins = [make_spec(name, seed=1) for name in ("zeta", "alpha", "mu")]
    hits = index_of(*twins).rank(ask(), "paper").hits
    assert names(hits) == ["alpha", "mu", "zeta"]
    assert hits[0].margin == 0


def test_top_shortens_the_list_and_keeps_the_last_margin(make_spec, ask):
    index = index_of(*(make_spec(f"m{i}") for i in range(5)))
    whole, short = index.rank(ask(), top=None), index.rank(ask(), top=2)
    assert short.hits == whole.hits[:2]
    assert short.groups[0].members == 5
    assert short.hits[-1].margin is not None


def test_rows_are_matched_with_their_prompts_whatever_their_order(make_spec, ask):
    plain = make_spec("alpha", seeds=(0, 1), seed=3)
    shuffled = make_spec("alpha", seeds=(0, 1), seed=3, shuffle=True)
    assert plain.digest != shuffled.digest
    query = ask(np.ones(8))
    (one,), (other,) = (index_of(spec).rank(query, "paper").hits for spec in (plain, shuffled))
    assert one.distance == pytest.approx(other.distance, abs=1e-6)
    assert one.best_prompts[0].prompt == other.best_prompts[0].prompt


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), {"a", "b", "c"}),
        (Filters(tags=("FLAT",)), {"a", "b"}),
        (Filters(tags=("flat", "outline")), {"b"}),
        (Filters(not_tags=("Outline",)), {"a", "c"}),
        (Filters(tags=("flat",), not_tags=("outline",)), {"a"}),
        (Filters(kind="Checkpoint"), {"c"}),
        (Filters(base_model="owner/base"), {"a", "b"}),
        (Filters(base_model="owner/base", kind="checkpoint"), set()),
        (Filters(tags=("nothing",)), set()),
    ],
)
def test_filters(filters, expected, make_spec, ask):
    index = index_of(
        make_spec("a", tags=("Flat",)),
        make_spec("b", tags=("flat", "outline")),
        make_spec("c", tags=("3d",), kind="checkpoint", base_model=None),
    )
    result = index.rank(ask(), "default", filters)
    assert set(names(result.hits)) == expected
    assert (result.looked_at, result.matched) == (3, len(expected))


@pytest.mark.parametrize("score", ["default", "paper"])
def test_a_filter_changes_no_distance(score, make_spec, ask):
    index = index_of(*(make_spec(f"m{i}", tags=(f"t{i % 2}",)) for i in range(6)))
    everything = {hit.ref: hit.distance for hit in index.rank(ask(), score).hits}
    for hit in index.rank(ask(), score, Filters(tags=("t1",))).hits:
        assert hit.distance == pytest.approx(everything[hit.ref], rel=1e-5)


def test_each_prompt_set_is_ranked_by_itself_the_larger_first(make_spec, ask):
    general = [make_spec(f"g{i}") for i in range(3)]
    own = [make_spec(f"o{i}", prompt_sets=(OWN,)) for i in range(2)]
    result = index_of(*own, *general).rank(ask(), "paper")
    assert [group.prompt_set for group in result.groups] == ["general", "own"]
    assert [group.members for group in result.groups] == [3, 2]
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 1, 2]
    assert all(hit.ref.id.startswith("g") for hit in result.hits[:3])
    assert {hit.group for hit in result.groups[1].hits} == {result.groups[1].key}
    assert str(result.groups[0].key).endswith("/rbf:0.02/x1")


def test_a_developers_own_block_is_no_reason_to_be_alone(make_spec, ask):
    alone = make_spec("alpha", seed=1)
    extended = make_spec("beta", seed=1, prompt_sets=(GENERAL, OWN))
    result = index_of(alone, extended).rank(ask(), "default")
    assert len(result.groups) == 1
    assert result.groups[0].members == 2


@pytest.mark.parametrize("change", [{"gamma": 0.5}, {"seeds": (0, 1)}])
def test_another_kernel_or_number_of_images_is_another_group(change, make_spec, ask):
    result = index_of(make_spec("a"), make_spec("b"), make_spec("c", **change)).rank(ask())
    assert [group.members for group in result.groups] == [2, 1]


def test_another_encoder_is_skipped_with_a_reason(make_spec, ask):
    index = index_of(make_spec("a"), make_spec("b", encoder=encoder_named("large")))
    result = index.rank(ask())
    assert names(result.hits) == ["a"]
    (skipped,) = result.skipped
    assert skipped.model.id == "b"
    assert "large/zoo" in skipped.reason
    assert "\n" not in skipped.reason


def test_nothing_comparable_is_an_error_that_says_why(make_spec, ask):
    index = index_of(make_spec("a"), make_spec("b"))
    with pytest.raises(IncomparableSpecsError, match=r"none of the 2 models.*tiny/zoo") as caught:
        index.rank(ask(encoder=encoder_named("large")))
    assert caught.value.hint


def test_an_empty_index_and_a_filter_that_nothing_passes_are_no_errors(make_spec, ask):
    empty = SpecIndex().rank(ask())
    assert (empty.hits, empty.looked_at, len(SpecIndex())) == ((), 0, 0)
    other = index_of(make_spec("a", encoder=encoder_named("large")))
    assert other.rank(ask(), filters=Filters(tags=("no",))).matched == 0


def test_embeddings_of_another_length_are_an_error(make_spec, ask):
    with pytest.raises(IncomparableSpecsError, match="3 values"):
        index_of(make_spec("a")).rank(ask(np.zeros((1, 3))))


def test_an_unknown_score_is_an_error(make_spec, ask):
    with pytest.raises(InputError, match="best"):
        index_of(make_spec("a")).rank(ask(), "best")


def test_a_score_may_be_any_function(make_spec, ask):
    index = index_of(*(make_spec(f"m{i}") for i in range(3)))
    hits = index.rank(ask(), lambda candidates, query: -np.arange(len(candidates))).hits
    assert names(hits) == ["m2", "m1", "m0"]


@pytest.mark.parametrize("score", ["paper", "default", "rkme-concat"])
@pytest.mark.parametrize("reader", [None, lambda key, prompts: np.eye(len(prompts), 5) + 0.1])
def test_no_majority_of_prompt_embeddings_moves_or_evicts_anybody(make_spec, ask, score, reader):
    honest = [make_spec(f"m{i}", seed=i, prompts_seed=7 + i % 2) for i in range(4)]
    forged = [make_spec(f"odd{i}", seed=1, prompts_seed=99) for i in range(9)]
    question = ImageQuery(ask(), SCORES[score], prompts=reader)
    scatter = {}

    def distances(index):
        (group,) = [part.group for part in index.select(Filters())]
        # That the statistics of so many are others is another matter.
        group.__dict__["scatter"] = scatter.setdefault("same", group.scatter)
        result = index.answer(question, top=None)
        assert result.skipped == ()
        return {hit.ref.id: hit.distance for hit in result.hits if hit.ref.id.startswith("m")}

    alone = distances(index_of(*honest))
    assert len(alone) == 4
    assert distances(index_of(*honest, *forged)) == alone


def test_prompts_are_weighed_as_the_reader_embeds_them(make_spec, ask):
    index = index_of(make_spec("a", prompts_seed=1), make_spec("b", prompts_seed=2))
    asked = []

    def reader(key, prompts):
        asked.append((key.prompt_set_id, prompts))
        return np.random.default_rng(7).uniform(0.1, 1, (len(prompts), 5))

    for score in ("paper", "default"):
        question = ImageQuery(ask(), SCORES[score], prompts=reader)
        theirs = index_of(make_spec("a", prompts_seed=7), make_spec("b", prompts_seed=7))
        ours = index.answer(question).hits
        assert [(hit.ref, hit.distance) for hit in ours] == [
            (hit.ref, pytest.approx(hit.distance, rel=1e-3))
            for hit in theirs.rank(ask(), score).hits
        ]
    assert asked
    assert {it[1] for it in asked} == {GENERAL.prompts}


@pytest.mark.parametrize("factor", [30, 1 / 30])
def test_rows_that_no_image_has_are_named_and_left_out(make_spec, ask, factor):
    honest = [make_spec(f"m{i}") for i in range(3)]
    odd = make_spec("odd")
    odd = replace(odd, image_embeddings=(odd.image_embeddings * np.float16(factor)))
    query = ask(honest[0].image_embeddings[:2].astype(np.float32), prompt=None)
    result = index_of(*honest, odd).rank(query)
    assert names(result.hits) == names(index_of(*honest).rank(query).hits)
    assert [it.model.id for it in result.skipped] == ["odd"]
    assert "norm" in result.skipped[0].reason


def test_a_specification_replaces_the_earlier_one_of_its_model(make_spec, ask):
    index = index_of(make_spec("a", seed=1), make_spec("b"))
    newer = make_spec("a", seed=2, gamma=0.5)
    index.add(newer)
    assert len(index) == 2
    assert {hit.digest for hit in index.rank(ask()).hits} >= {newer.digest}


def test_a_model_can_be_removed_after_it_was_ranked(make_spec, ask):
    specs = [make_spec(f"m{i}") for i in range(4)]
    index = index_of(*specs)
    index.rank(ask())
    index.remove(ModelRef("local", "m2"))
    assert index.rank(ask()) == index_of(specs[0], specs[1], specs[3]).rank(ask())
    with pytest.raises(KeyError):
        index.remove(ModelRef("local", "m2"))
    for i in (0, 1, 3):
        index.remove(ModelRef("local", f"m{i}"))
    assert index.rank(ask()).groups == ()


def test_a_stale_model_follows_those_that_are_equally_near(make_spec, ask):
    index = index_of(*(make_spec(name, seed=1) for name in ("alpha", "mu", "zeta")))
    index.mark(ModelRef("local", "alpha"), stale=True)
    index.mark(ModelRef("local", "mu"), stale=False)
    hits = index.rank(ask(), "paper").hits
    assert names(hits) == ["mu", "zeta", "alpha"]
    assert [hit.stale for hit in hits] == [False, None, True]


def test_a_stale_model_that_is_nearer_stays_in_front(make_spec, ask):
    index = index_of(make_spec("near", centre=np.zeros(8)), make_spec("far", centre=np.full(8, 9)))
    index.mark(ModelRef("local", "near", "0123456789abcdef"), stale=True)
    assert names(index.rank(ask(), "paper").hits) == ["near", "far"]


def test_stale_models_can_be_left_out(make_spec, ask):
    index = index_of(*(make_spec(f"m{i}") for i in range(3)))
    index.mark(ModelRef("local", "m1"), stale=True)
    result = index.rank(ask(), filters=Filters(fresh_only=True))
    assert set(names(result.hits)) == {"m0", "m2"}
    assert result.matched == 2
    # Published again: what was known of the old one says nothing.
    index.add(make_spec("m1", seed=5))
    assert index.rank(ask(), filters=Filters(fresh_only=True)).matched == 3


def version(spec, model, number):
    """The specification as one of a version on Civitai."""
    indexed = IndexedSpec.of(spec)
    ref = ModelRef("civitai", str(model), str(number))
    return replace(indexed, entry=replace(indexed.entry, ref=ref))


def test_versions_are_ranked_and_models_shown(make_spec, ask):
    index = SpecIndex()
    near = {(1, 10): 3.0, (1, 11): 0.0, (1, 12): 1.5, (2, 20): 1.0, (3, 30): 8.0}
    for (model, number), distance in near.items():
        spec = make_spec(f"v{number}", seed=1, centre=np.full(8, distance))
        index._put(version(spec, model, number))
    assert len(index) == 5
    group = index.rank(ask()).groups[0]
    assert [str(hit.ref) for hit in group.hits] == ["civitai:1@11", "civitai:2@20", "civitai:3@30"]
    assert [hit.rank for hit in group.hits] == [1, 2, 3]
    assert group.members == 5
    first = group.hits[0]
    assert [str(it.ref) for it in first.versions] == ["civitai:1@12", "civitai:1@10"]
    assert first.margin == pytest.approx(group.hits[1].distance - first.distance)
    assert group.hits[1].versions == ()
    shown = index.rank(ask(), top=1).hits[0]
    assert shown == first
    assert sum(it.confidence for hit in group.hits for it in (hit, *hit.versions)) == pytest.approx(
        1
    )


def test_a_version_is_removed_alone(make_spec, ask):
    index = SpecIndex()
    for number in (10, 11):
        index._put(version(make_spec(f"v{number}"), 1, number))
    index.remove(ModelRef("civitai", "1", "10"))
    (hit,) = index.rank(ask()).hits
    assert (str(hit.ref), hit.versions) == ("civitai:1@11", ())


def test_what_the_hub_says_of_a_specification_stands_in_the_hit(make_spec, ask):
    spec = make_spec("a")
    status = SpecStatus(stale=True, trust="verified")
    source = SpecSource(ModelRef("local", "a"), lambda: spec, status=status)
    (hit,) = SpecIndex.from_sources([source]).rank(ask()).hits
    assert (hit.stale, hit.trust) == (True, "verified")
    (plain,) = index_of(spec).rank(ask()).hits
    assert (plain.stale, plain.trust) == (None, None)


def test_a_checkpoint_may_be_a_single_file(make_spec, ask):
    kinds = ("checkpoint", "single-file", "lora")
    index = index_of(*(make_spec(kind, kind=kind) for kind in kinds))
    passed = {
        kind: sorted(names(index.rank(ask(), filters=Filters(kind=kind)).hits)) for kind in kinds
    }
    assert passed == {
        "checkpoint": ["checkpoint", "single-file"],
        "single-file": ["single-file"],
        "lora": ["lora"],
    }


def test_what_civitai_rates_is_left_out_unless_asked_for(make_spec, ask):
    index = index_of(make_spec("elsewhere", nsfw=True))
    for number, nsfw in ((10, True), (20, False)):
        index._put(version(make_spec(f"v{number}", nsfw=nsfw), number, number))
    assert set(names(index.rank(ask(), filters=Filters(nsfw=False)).hits)) == {"elsewhere", "20"}
    assert set(names(index.rank(ask(), filters=Filters()).hits)) == {"elsewhere", "10", "20"}


def test_tags_that_the_hub_has_now_count_in_place_of_the_manifests(make_spec, ask):
    spec = make_spec("a", tags=("flat",))
    source = SpecSource(ModelRef("local", "a"), lambda: spec, hub_tags=("Anime",))
    index = SpecIndex.from_sources([source])
    for passing in (Filters(tags=("anime",)), Filters(not_tags=("flat",))):
        assert names(index.rank(ask(), filters=passing).hits) == ["a"]
    for failing in (Filters(tags=("flat",)), Filters(not_tags=("anime",))):
        assert index.rank(ask(), filters=failing).hits == ()
