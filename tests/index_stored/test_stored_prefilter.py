"""A group that is too large to read all its means: answers are the same."""

from __future__ import annotations

import json
import os
from functools import partial

import numpy as np
import pytest

from gmi_registry.atomic import write_sealed
from gmi_registry.index import Filters, ImageQuery, ModelQuery, TextQuery, Wording, queries, rank
from gmi_registry.index.stored import FolderFiles, StoredIndex, prefilter, reader, update_index
from gmi_registry.scoring import SCORES
from gmi_registry.scoring import prefilter as scoring_prefilter
from gmi_registry.scoring.prefilter import Care, Prefilter, refine_by_line, refines_all
from tests.index_stored.test_stored_answer import same
from tests.support.stored_specs import Opened, in_memory, make_row, query, ref_of, stored

MODELS = 400


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Groups of 50 are large ones, and few distances are enough."""
    monkeypatch.setattr(reader, "PREFILTER_MODELS", 50)
    monkeypatch.setattr(rank, "_MANY", 50)
    monkeypatch.setattr(reader, "_IMAGES_AT_ONCE", 40)
    monkeypatch.setattr(queries, "LOOSE", Care(16, 1))
    monkeypatch.setattr(scoring_prefilter, "LEADING", 5)
    monkeypatch.setattr(scoring_prefilter, "_LEAST_EXACT", 16)
    monkeypatch.setattr(scoring_prefilter, "_EXACT_EACH", 1)
    monkeypatch.setattr(queries, "refines_all", partial(refines_all, care=Care(16, 1)))
    monkeypatch.setattr(queries, "refine_by_line", partial(refine_by_line, care=Care(16, 1)))


@pytest.fixture
def read(monkeypatch):
    """Of how many models images were read, each time."""
    read: list[int] = []
    original = reader.StoredGroup.images

    def counted(self, chosen=None):
        read.append(len(chosen))
        return original(self, chosen)

    monkeypatch.setattr(reader.StoredGroup, "images", counted)
    return read


@pytest.fixture(scope="module")
def rows():
    return [make_row(number) for number in range(MODELS)]


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    update_index(folder, rows[:250])
    update_index(folder, rows[250:])
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def prefilters(cache):
    return sorted((cache / "stored-index-prefilters").glob("*.safetensors"))


def alike(memory, files, chances=1e-2):
    """The same hits, distances to rounding; chances too, though far models have estimates."""
    assert memory.matched == files.matched
    for first, second in zip(memory.groups, files.groups, strict=True):
        assert [hit.ref for hit in first.hits] == [hit.ref for hit in second.hits]
        for hit, other in zip(first.hits, second.hits, strict=True):
            assert other.distance == pytest.approx(hit.distance, rel=1e-5, abs=1e-5)
            assert other.margin == pytest.approx(hit.margin, rel=1e-4, abs=1e-4)
            assert other.confidence == pytest.approx(hit.confidence, rel=chances)
            assert [it.ref for it in other.versions] == [it.ref for it in hit.versions]
            for version, another in zip(hit.versions, other.versions, strict=True):
                assert another.distance == pytest.approx(version.distance, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("prompt", [None, "a cat"])
@pytest.mark.parametrize("filters", [Filters(), Filters(tags=("t1",)), Filters(tags=("icon",))])
def test_hits_are_those_of_the_index_in_memory(rows, folder, cache, filters, prompt):
    memory = in_memory(rows)
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        for seed in range(6):
            question = ImageQuery(query(seed, 2, prompt=prompt), SCORES["default"])
            alike(
                memory.answer(question, filters, top=5, best_prompts=0),
                Opened(index).answer(question, filters, top=5, best_prompts=0),
            )
    assert len(prefilters(cache)) == 1


def test_a_prompt_reads_the_images_of_few_models_alone(rows, folder, cache, monkeypatch, read):
    """Also where means are few enough to be read."""
    monkeypatch.setattr(reader, "PREFILTER_MODELS", 1000)
    memory, question = in_memory(rows), ImageQuery(query(8, prompt="x"), SCORES["default"])
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        asked = {"top": 3, "best_prompts": 0, "filters": Filters(tags=("icon",), kind="lora")}
        alike(memory.answer(question, **asked), Opened(index).answer(question, **asked))
        assert index.groups[0].estimator is None
    assert 0 < sum(read) < 134 / 2


def test_versions_that_are_far_away_are_named(rows, folder, cache):
    """Civitai's three models have 44 versions each, more than are looked at."""
    memory = in_memory(rows)
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        question = ImageQuery(query(0), SCORES["default"])
        asked = {"top": 4, "best_prompts": 0, "filters": Filters(kind="checkpoint")}
        mine, theirs = memory.answer(question, **asked), Opened(index).answer(question, **asked)
        alike(mine, theirs)
        assert any(len(hit.versions) > 30 for hit in theirs.groups[0].hits)


def test_other_questions_are_answered_as_before(rows, folder, cache):
    memory = in_memory(rows)
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        encoder = query().encoder_id
        for question in (
            ImageQuery(query(1, prompt="a cat"), SCORES["paper"]),
            ImageQuery(query(1), SCORES["default"], query(2)),
            TextQuery(np.linspace(-1, 1, 6), encoder),
        ):
            for top in (4, None):
                asked = {"top": top, "best_prompts": 0}
                same(
                    memory.answer(question, **asked),
                    Opened(index).answer(question, **asked),
                    exactly=False,
                )


QUESTIONS = {
    "paper": lambda seed: ImageQuery(query(seed, prompt="a cat"), SCORES["paper"]),
    "two images": lambda seed: ImageQuery(query(seed, 2), SCORES["rkme-clip"]),
    "words": lambda seed: TextQuery(query(seed).image_embeddings[0], query().encoder_id),
    "like": lambda seed: ModelQuery(make_row(seed).indexed),
    "like one that is not there": lambda seed: ModelQuery(
        make_row(seed + MODELS, model=f"local:other{seed}").indexed
    ),
}


@pytest.mark.parametrize("named", QUESTIONS)
@pytest.mark.parametrize("least", [50, 1000], ids=["of a prefilter", "of means"])
def test_questions_that_read_images_read_those_of_few_models(
    rows, folder, cache, monkeypatch, read, named, least
):
    monkeypatch.setattr(reader, "PREFILTER_MODELS", least)
    monkeypatch.setattr(queries, "CONTENT_MODELS", 20)
    memory, asked = in_memory(rows), {"top": 4, "best_prompts": 0}
    few = 0
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        for seed in range(8):
            question = QUESTIONS[named](seed)
            read.clear()
            found = Opened(index).answer(question, **asked)
            few += sum(read) < MODELS
            same(memory.answer(question, **asked), found, exactly=False)
    assert few > 2


@pytest.mark.parametrize("prompt", [None, "a cat"])
def test_words_for_the_style_read_the_images_of_few_models(
    rows, folder, cache, monkeypatch, read, prompt
):
    monkeypatch.setattr(queries, "refine_by_line", partial(refine_by_line, care=Care(16, 1)))
    memory, asked = in_memory(rows), {"top": 4, "best_prompts": 0}
    few = 0
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        for seed in range(8):
            words = Wording(query(seed + 50).image_embeddings[0], 5.0)
            question = ImageQuery(query(seed, prompt=prompt), SCORES["default"], None, words)
            read.clear()
            found = Opened(index).answer(question, **asked)
            few += sum(read) < MODELS
            # Of others a line is known, and no more.
            alike(memory.answer(question, **asked), found, chances=0.05)
    assert few > 2


@pytest.mark.parametrize("named", QUESTIONS)
def test_a_distance_is_the_same_however_many_are_asked_for(folder, cache, named):
    question = QUESTIONS[named](3)
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        (group,) = index.groups
        whole = question.distances(group, range(len(group)))
        some = list(range(0, len(group), 17))
        assert len(some) < 40 < len(group)
        assert question.distances(group, some).tolist() == whole[some].tolist()


def test_a_filter_narrows_what_is_narrowed(rows, folder, cache):
    memory = in_memory(rows)
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        for seed in range(4):
            for make in QUESTIONS.values():
                asked = {"top": 3, "best_prompts": 0, "filters": Filters(tags=("t1",))}
                question = make(seed)
                same(
                    memory.answer(question, **asked),
                    Opened(index).answer(question, **asked),
                    exactly=False,
                )


@pytest.mark.parametrize("sampled", [False, True])
def test_what_did_not_change_is_copied(tmp_path, monkeypatch, sampled):
    """A hundred of many seldom change the statistics: where none of them is in the sample. Where
    one is, directions and numbers are made anew."""
    folder, cache = tmp_path / "i", tmp_path / "c"
    rows = [make_row(number, model=f"local:m{number}") for number in range(300)]
    rows.sort(key=lambda row: row.indexed.entry.digest)
    early, late = (rows[20:], rows[:5]) if sampled else (rows[:280], rows[280:285])
    summarized, learnt = [], []
    original, learn = Prefilter.summaries, Prefilter.learn

    def counted(self, means):
        summarized.append(len(means))
        return original(self, means)

    def learning(means, scatter):
        learnt.append(len(means))
        return learn(means, scatter)

    monkeypatch.setattr(Prefilter, "summaries", counted)
    monkeypatch.setattr(Prefilter, "learn", learning)
    question = ImageQuery(query(9), SCORES["default"])
    with stored(folder, early, cache=cache) as index:
        Opened(index).answer(question)
    assert (sum(summarized), learnt) == (280, [280])
    (before,) = prefilters(cache)
    with stored(folder, late, cache=cache) as index:
        alike(
            in_memory([*early, *late]).answer(question, best_prompts=0),
            Opened(index).answer(question, best_prompts=0),
        )
    assert (sum(summarized), learnt) == ((565, [280, 285]) if sampled else (285, [280]))
    (after,) = prefilters(cache)
    assert after != before
    assert len(list(after.parent.iterdir())) == 2


def test_without_leading_numbers_answers_are_the_same(rows, folder, tmp_path, monkeypatch):
    """Where they do not carry the order; and that is remembered in the file."""
    monkeypatch.setattr(scoring_prefilter, "_LEAST_SHARE", 2.0)
    question = ImageQuery(query(9), SCORES["default"])
    memory = in_memory(rows).answer(question, best_prompts=0)
    with StoredIndex.open(FolderFiles(folder), cache_dir=tmp_path) as index:
        alike(memory, Opened(index).answer(question, best_prompts=0))
    (path,) = prefilters(tmp_path)
    assert b"codes" not in path.read_bytes()[:1000]
    monkeypatch.setattr(Prefilter, "learn", None)
    with StoredIndex.open(FolderFiles(folder), cache_dir=tmp_path) as index:
        alike(memory, Opened(index).answer(question, best_prompts=0))


def place_of(whole, name):
    """Where an array of the file is."""
    length = int.from_bytes(whole[:8], "little")
    start, stop = json.loads(whole[8 : 8 + length])[name]["data_offsets"]
    return slice(8 + length + start, 8 + length + stop)


def overwritten(whole, name, content=None):
    """The file with other bytes in the place of an array; zeros for None."""
    place = place_of(whole, name)
    length = place.stop - place.start
    return whole[: place.start] + (content or bytes(length))[:length] + whole[place.stop :]


DAMAGE = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "another header": lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
    "description gone": lambda path: path.with_suffix(".json").unlink(),
    "description cut": lambda path: path.with_suffix(".json").write_bytes(
        path.with_suffix(".json").read_bytes()[:-1]
    ),
    "description of nothing": lambda path: write_sealed(path.with_suffix(".json"), b"[]"),
    "description of another form": lambda path: write_sealed(
        path.with_suffix(".json"), b'{"segments":[[1]],"statistics":[],"numbers":-1}'
    ),
    **{
        f"{name} lost": lambda path, name=name: path.write_bytes(
            overwritten(path.read_bytes(), name)
        )
        for name in ("centre", "directions", "lengths", "scales", "codes", "means", "sums")
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_prefilter_is_made_again(folder, tmp_path, damage):
    question = ImageQuery(query(4), SCORES["default"])
    with StoredIndex.open(FolderFiles(folder), cache_dir=tmp_path) as index:
        wanted = Opened(index).answer(question)
    (path,) = prefilters(tmp_path)
    whole, described = path.read_bytes(), path.with_suffix(".json").read_bytes()
    DAMAGE[damage](path)
    with StoredIndex.open(FolderFiles(folder), cache_dir=tmp_path) as index:
        assert Opened(index).answer(question) == wanted
    assert prefilters(tmp_path) == [path]
    assert path.read_bytes() == whole
    assert path.with_suffix(".json").read_bytes() == described


@pytest.mark.parametrize("others", [280, 200], ids=["the same statistics", "other statistics"])
def test_another_prefilter_is_not_taken_for_this_one(tmp_path, others):
    """Of fewer models, under the name of the file that is wanted."""
    rows = [make_row(number, model=f"local:m{number}") for number in range(300)]
    rows.sort(key=lambda row: row.indexed.entry.digest)
    question = ImageQuery(query(4), SCORES["default"])
    with stored(tmp_path / "i", rows, cache=tmp_path / "a") as index:
        wanted = Opened(index).answer(question)
    (path,) = prefilters(tmp_path / "a")
    whole = path.read_bytes()
    with stored(tmp_path / "j", rows[:others], cache=tmp_path / "b") as index:
        Opened(index).answer(question)
    (other,) = prefilters(tmp_path / "b")
    path.write_bytes(other.read_bytes())
    path.with_suffix(".json").write_bytes(other.with_suffix(".json").read_bytes())
    with stored(tmp_path / "i", cache=tmp_path / "a") as index:
        assert Opened(index).answer(question) == wanted
    assert path.read_bytes() == whole


def test_what_takes_a_while_is_told_of_once(folder, tmp_path):
    told = []
    for _ in range(2):
        with StoredIndex.open(
            FolderFiles(folder), cache_dir=tmp_path, progress=lambda *it: told.append(it)
        ) as index:
            Opened(index).answer(ImageQuery(query(4), SCORES["default"]))
    assert told == [("index", 400, 400), ("prepare", 0, 400), *told[2:-1], ("prepare", 400, 400)]
    assert [done for _, done, _ in told[1:]] == sorted({done for _, done, _ in told[1:]})


def test_what_a_killed_process_left_goes(folder, tmp_path):
    place = tmp_path / "stored-index-prefilters"
    place.mkdir()
    old, new = place / ".old.part", place / ".new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with StoredIndex.open(FolderFiles(folder), cache_dir=tmp_path) as index:
        Opened(index).answer(ImageQuery(query(4), SCORES["default"]))
    assert not old.exists()
    assert new.exists()


def test_without_room_for_a_prefilter_the_search_goes_on(folder, tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefilter, "_write", full)
    question = ImageQuery(query(4), SCORES["default"])
    with StoredIndex.open(FolderFiles(folder), cache_dir=tmp_path) as index:
        found = Opened(index).answer(question)
    assert len(found.groups[0].hits) == 10
    assert "No space left" in caplog.text
    assert not prefilters(tmp_path)


def test_a_name_is_found_by_its_beginning_alone(folder, cache):
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        (group,) = index.groups
        for number in (0, 3, 30, 300):
            found = index.find(make_row(number).indexed.entry.ref)
            assert found is not None
            assert group.names[found[1]] == ref_of(number)
        assert index.status("hf:o/m") == index.status("hf:o/m30000")
