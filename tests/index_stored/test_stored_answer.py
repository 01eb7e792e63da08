"""What is asked of the files is answered as by the index in memory."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gmi_registry.errors import IncomparableSpecsError
from gmi_registry.index import Filters, ImageQuery, IndexedSpec, ModelQuery, TextQuery, Wording
from gmi_registry.index.stored import update_index
from gmi_registry.scoring import SCORES
from tests.support.stored_specs import (
    DIMENSIONS,
    OTHER,
    Opened,
    encoder_named,
    in_memory,
    make_row,
    make_spec,
    query,
    stored,
)

FILTERS = [
    Filters(),
    Filters(tags=("T1",)),
    Filters(not_tags=("t2",), kind="checkpoint"),
    Filters(base_model="sdxl 1.0", fresh_only=True),
    Filters(tags=("fresh",), nsfw=False),
]


@pytest.fixture(scope="module")
def rows():
    """Three groups: of another encoder, of other prompts, with two seeds."""
    found = [make_row(number) for number in range(70)]
    found += [make_row(number, prompt_set=OTHER) for number in range(70, 80)]
    found += [make_row(number, seeds=(0, 1)) for number in range(80, 86)]
    found += [make_row(number, encoder=encoder_named("another")) for number in range(86, 90)]
    return found


@pytest.fixture(scope="module")
def both(rows, tmp_path_factory):
    """The same models in memory and in files, these by updates of all sizes."""
    shuffled = random.Random(3).sample(rows, len(rows))
    folder = tmp_path_factory.mktemp("index")
    update_index(folder, [make_row(number, seed=number + 1000) for number in range(5, 15)])
    update_index(folder, [make_row(200), make_row(201)])
    updates = [shuffled[:40], shuffled[40:43], shuffled[43:44], shuffled[44:60], shuffled[60:]]
    for part in updates:
        update_index(folder, part)
    update_index(folder, [], [make_row(number).indexed.entry.ref for number in (200, 201)])
    with stored(folder, cache=tmp_path_factory.mktemp("cache")) as index:
        yield in_memory(rows), Opened(index)


def same(memory, files, *, exactly):
    """Compare two rankings to the last bit, or within 1e-5."""
    assert memory.matched
    assert (memory.looked_at, memory.matched) == (files.looked_at, files.matched)
    skipped = [
        sorted((str(it.model), it.reason) for it in side.skipped) for side in (memory, files)
    ]
    assert skipped[0] == skipped[1]
    if exactly:
        assert memory.groups == files.groups
        return
    assert len(memory.groups) == len(files.groups)
    for first, second in zip(memory.groups, files.groups, strict=True):
        assert (first.key, first.encoder, first.members) == (
            second.key,
            second.encoder,
            second.members,
        )
        ones, others = ({hit.ref: hit for hit in side.hits} for side in (first, second))
        assert ones.keys() == others.keys()
        for ref, hit in ones.items():
            other = others[ref]
            assert other.distance == pytest.approx(hit.distance, abs=1e-5, rel=1e-5)
            assert (other.tags, other.downloads, other.trust) == (
                hit.tags,
                hit.downloads,
                hit.trust,
            )
            assert other.best_prompts == hit.best_prompts


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("images", [1, 3])
def test_the_default_score_is_the_same_to_the_last_bit(both, filters, images):
    memory, files = both
    question = ImageQuery(query(images, images), SCORES["default"])
    asked = {"filters": filters, "top": None}
    same(memory.answer(question, **asked), files.answer(question, **asked), exactly=True)


@pytest.mark.parametrize("score", sorted(SCORES))
@pytest.mark.parametrize("filters", FILTERS[:3])
def test_so_is_every_score_with_a_prompt_as_near_as_it_can_be(both, score, filters):
    memory, files = both
    question = ImageQuery(query(5, 2, prompt="a cat"), SCORES[score])
    asked = {"filters": filters, "top": None}
    same(memory.answer(question, **asked), files.answer(question, **asked), exactly=False)


def test_pictures_against_and_words_for_the_style(both):
    memory, files = both
    words = Wording(np.ones(DIMENSIONS, np.float32), 20.0)
    question = ImageQuery(query(1), SCORES["default"], query(2, 2), words)
    same(memory.answer(question), files.answer(question), exactly=True)


@pytest.mark.parametrize("filters", FILTERS)
def test_words_and_models(both, filters):
    memory, files = both
    text = TextQuery(np.linspace(-1, 1, DIMENSIONS), encoder_named().id)
    inside, outside = make_row(12).indexed, IndexedSpec.of(make_spec(500))
    for question in (text, ModelQuery(inside), ModelQuery(outside)):
        asked = {"filters": filters, "top": None}
        same(memory.answer(question, **asked), files.answer(question, **asked), exactly=False)


def test_an_encoder_of_one_group_leaves_the_others_out_with_a_reason(both):
    memory, files = both
    question = ImageQuery(query(encoder=encoder_named("another")), SCORES["default"])
    same(memory.answer(question), files.answer(question), exactly=True)
    unknown = ImageQuery(query(encoder=encoder_named("third")), SCORES["default"])
    with pytest.raises(IncomparableSpecsError, match="none of the 90 models"):
        files.answer(unknown)


def test_groups_carry_what_a_search_needs_without_any_specification(both):
    _, files = both
    groups = files.stored.groups
    assert [group.key for group in groups] == sorted(group.key for group in groups)
    assert {group.encoder.name for group in groups} == {"tiny", "another"}
    assert all(group.encoder.id == group.key.encoder_id for group in groups)
    for group in groups:
        assert list(group.names) == sorted(str(entry.ref) for entry in group.entries)
        assert all(entry.prompts == group.prompts for entry in group.entries)


def test_a_member_is_what_was_put_in(both, rows):
    _, files = both
    for row in rows[::7]:
        entry = row.indexed.entry
        group, place = files.stored.find(entry.ref)
        member = group.indexed(place)
        assert member.entry == group.entries[place] == entry
        assert files.stored.status(str(entry.ref.identity)) == row.status
        for name in ("image_embeddings", "prompt_embeddings", "gram", "image_prompt"):
            mine, given = getattr(member, name), getattr(row.indexed, name)
            assert mine.dtype == given.dtype
            assert np.array_equal(mine, given)


def test_more_models_than_the_statistics_sample(tmp_path):
    """The sample is the same members, so the last bit still agrees."""
    rows = [make_row(number, model=f"local:s{number * 7919 % 1000}") for number in range(300)]
    memory = in_memory(rows)
    with stored(tmp_path / "i", rows[:200], rows[200:], cache=tmp_path / "c") as index:
        (group,) = index.groups
        (selection,) = memory.select(Filters())
        assert np.array_equal(group.scatter.scatter, selection.group.scatter.scatter)
        assert group.scatter.freedom == selection.group.scatter.freedom
        assert group.temperature == selection.group.temperature
        assert np.array_equal(group.means, selection.group.means)
        question = ImageQuery(query(9), SCORES["default"])
        same(memory.answer(question), Opened(index).answer(question), exactly=True)


def test_one_image_a_model_has_no_statistics(tmp_path):
    one = type(OTHER)("one", 1, ("a cat",))
    rows = [make_row(number, prompt_set=one) for number in range(4)]
    with stored(tmp_path / "i", rows, cache=tmp_path / "c") as index:
        question = ImageQuery(query(9), SCORES["paper"])
        same(in_memory(rows).answer(question), Opened(index).answer(question), exactly=False)
        question = ImageQuery(query(9), SCORES["default"])
        same(in_memory(rows).answer(question), Opened(index).answer(question), exactly=True)
