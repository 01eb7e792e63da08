"""Searches by words, by a model, and by a picture with something beside it, in a report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.paper.folder import array_bytes, load_arrays, read_run, read_scored
from benchmarks.paper.generate import asked_in_words, with_words
from benchmarks.paper.results import Results
from benchmarks.paper.studies import questions
from benchmarks.paper.tables import supplement
from gmi_registry.scoring import top_k_credit
from tests.support.embedded_run import WIDTH, benchmark_of, run_stage, write_embedded
from tests.support.report_run import put, write_summary

MODELS, TEMPERATURE = 6, 2.0


def written(folder, *, scale=50.0, towards=6.0, width=WIDTH, **changes):
    """A scored run whose two wordings lie along the mean image of their model, and its test."""
    benchmark = benchmark_of(MODELS, protocols=("images-1",))
    entries = tuple(
        entry.model_copy(update={"words": (f"style {m}", f"look {m}")})
        for m, entry in enumerate(benchmark.models)
    )
    benchmark = benchmark.model_copy(update={"models": entries} | changes)
    write_embedded(folder, benchmark, gap=4)
    texts = asked_in_words(benchmark)
    means = load_arrays(folder / "embeddings" / "specs.npz")["image_embeddings"].mean(axis=1)
    draw = np.random.default_rng(1)
    rows = []
    for text in texts:
        named = [m for m, entry in enumerate(entries) if text.endswith(entry.words)]
        toward = towards * (means[named[0]] - means.mean(axis=0)) if named else 0.0
        rows.append(np.resize(draw.normal(size=WIDTH) + toward, width))
    arrays = {
        "wordings": np.array([entry.words for entry in entries]),
        "texts": np.array(texts),
        "text_embeddings": np.stack(rows),
        "logit_scale": np.array(scale),
    }
    put(folder / "embeddings" / "words.npz", array_bytes(arrays))
    run_stage(folder, benchmark)
    write_summary(folder, benchmark.protocols, benchmark.methods, encoder="tiny/none")
    return read_scored(folder, "test", read_run(folder))[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    return folder, written(folder)


@pytest.fixture(scope="module")
def found(run):
    folder, test = run
    asked = questions(folder, read_run(folder), test, TEMPERATURE)
    return {(it.question, it.variant): it for it in asked}


def test_every_question_once(run, found):
    _, test = run
    assert list(found) == [
        ("picture", "alone"),
        ("text", "1"),
        ("text", "2"),
        ("style", "1"),
        ("style", "2"),
        ("content", "name"),
        ("like", "same"),
        ("like", "other"),
        ("not-like", "nearest"),
        ("not-like", "any"),
    ]
    tasks, prompts, seeds = len(test.truth), 3, 4
    assert found["text", "1"].tasks == MODELS * prompts
    assert found["like", "same"].tasks == MODELS * seeds
    assert {found[key].tasks for key in found if key[0] not in ("text", "like")} == {tasks}
    assert all(len(it.top) == MODELS and 1 <= it.rank.value <= MODELS for it in found.values())


def test_the_picture_alone_is_the_default_score(run, found):
    _, test = run
    right = top_k_credit(test.distances["default-none"], test.truth, 1).mean()
    assert found["picture", "alone"].top[0].value == pytest.approx(right, abs=1e-6)


def test_words_along_a_models_images_find_it(found):
    for number in ("1", "2"):
        assert found["text", number].top[0].value > 0.9
        assert found["style", number].rank.value <= found["picture", "alone"].rank.value


def test_a_model_is_nearest_to_what_it_drew_with_another_seed(found):
    assert found["like", "same"].top[0].value > 0.9
    assert found["like", "other"].top[0].value > 0.7


def test_a_picture_by_the_nearest_wrong_model_helps(found):
    nearest, alone = found["not-like", "nearest"], found["picture", "alone"]
    assert nearest.rank.value <= alone.rank.value


def test_what_is_missing_is_left_out(run, tmp_path):
    folder, test = run
    assert questions(tmp_path, read_run(folder), test, TEMPERATURE) == []
    bare = replace(test, distances={"paper": test.distances["paper"]})
    assert questions(folder, read_run(folder), bare, TEMPERATURE) == []


@pytest.mark.parametrize("changes", [{"scale": 0.0}, {"width": WIDTH + 1}])
def test_towers_that_share_no_space_are_asked_nothing_in_words(tmp_path, changes):
    test = written(tmp_path, **changes)
    asked = {it.question for it in questions(tmp_path, read_run(tmp_path), test, TEMPERATURE)}
    assert asked == {"picture", "like", "not-like"}


def test_models_without_words(run, tmp_path):
    folder = tmp_path / "run"
    test = written(folder)
    (folder / "embeddings" / "words.npz").unlink()
    asked = {it.question for it in questions(folder, read_run(folder), test, TEMPERATURE)}
    assert asked == {"picture", "like", "not-like"}


def test_the_texts_are_words_names_and_both():
    benchmark = benchmark_of(2)
    entries = tuple(
        entry.model_copy(update={"words": (f"style {m}",)})
        for m, entry in enumerate(benchmark.models)
    )
    texts = asked_in_words(benchmark.model_copy(update={"models": entries}))
    assert len(texts) == len(set(texts)) == 2 + 3 + 2 * 3
    assert with_words("evaluation 1", "style 0") in texts
    assert list(texts) == sorted(texts)


def test_the_table_has_a_row_for_each(found):
    fields = dict.fromkeys(("resemblance", "late"))
    results = Results.model_construct(
        protocols=[], mixtures=[], questions=list(found.values()), **fields
    )
    (table,) = (it for it in supplement(results) if it.title == "Other questions")
    assert len(table.rows) == len(found)
    assert [row.title for row in table.rows][-2:] == [
        "a picture, and not like one by the nearest wrong model",
        "a picture, and not like one by any wrong model",
    ]
    assert all(len(row.cells) == len(table.head) - 1 for row in table.rows)
