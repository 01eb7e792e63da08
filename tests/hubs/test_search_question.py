"""Searches by a model, by words alone and against pictures, over real hubs in a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import gmi_registry
from gmi_registry import search
from gmi_registry.errors import InputError, OfflineError, SpecNotFoundError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.indexing import index_hubs
from gmi_registry.spec import ModelRef, write_spec
from tests.support.hub_builder import OTHER_PROMPTS, ProjectionEncoder, altered_spec, picture

COLOURS = {"blue": (20, 30, 230), "green": (30, 200, 40), "red": (240, 20, 10)}
TWIN = (238, 24, 12)
RED = {"prompt": "red"}


class JointEncoder(ProjectionEncoder):
    """Texts lie where a picture of the colour that they name would, others at random."""

    logit_scale = 100.0

    def __init__(self):
        super().__init__("joint")
        self.ref = self.ref.model_copy(update={"text_dim": self.ref.image_dim})

    def encode_texts(self, texts):
        rows = []
        for text in texts:
            named = [colour for name, colour in COLOURS.items() if name in text.split()]
            noise = np.random.default_rng(sum(text.encode())).standard_normal(self.ref.image_dim)
            rows.append(self.encode_images([picture(named[0])])[0] if named else noise / 4)
        return np.stack(rows).astype(np.float32)


@pytest.fixture
def encoder():
    return JointEncoder()


@pytest.fixture
def colours(built):
    for name, colour in COLOURS.items():
        built.publish(name, colour, tags=("warm",) if name == "red" else ("cold", name))
    return built


@pytest.fixture
def look(built, encoder):
    def call(*images, **options):
        return search(
            list(images), built.hub, **{"cache_dir": built.cache, "encoder": encoder} | options
        )

    return call


def names(result):
    return [hit.ref.id for hit in result.hits]


class TestLike:
    def test_the_nearest_model_without_the_model_itself_or_an_encoder(self, colours, look, encoder):
        colours.publish("twin", TWIN)
        before = encoder.images_encoded
        result = look(like="red", encoder=None)
        assert names(result)[0] == "twin"
        assert sorted(names(result)) == ["blue", "green", "twin"]
        assert (result.looked_at, result.matched) == (4, 3)
        assert (result.score, result.text, result.images) == ("like", None, ())
        assert result.like == colours.hub.fetch_model(ModelRef("local", "red")).ref
        assert result.encoder == encoder.ref
        assert encoder.images_encoded == before
        assert result.timings.encoder == 0
        document = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert document["query"]["like"] == str(result.like)
        assert document["query"]["pseudo_prompts"] == []

    def test_every_name_of_the_model_means_the_same(self, colours, look, tmp_path):
        ref = colours.hub.fetch_model(ModelRef("local", "red")).ref
        copy = shutil.copytree(colours.folder("red") / "gmi", tmp_path / "kept" / "gmi")
        hits = look(like="red").hits
        for name in ("local:red", str(ref), str(colours.folder("red")), copy.parent, copy):
            assert look(like=name).hits == hits
        found = gmi_registry.search(hub=colours.root, like=ref, cache_dir=colours.cache)
        assert found.hits == hits

    def test_a_model_that_the_hub_does_not_hold(self, colours, look, tmp_path):
        shutil.copytree(colours.folder("red") / "gmi", tmp_path / "kept" / "gmi")
        shutil.rmtree(colours.folder("red"))
        result = look(like=tmp_path / "kept")
        assert sorted(names(result)) == ["blue", "green"]
        assert result.matched == 2

    def test_filters_hold(self, colours, look):
        assert names(look(like="red", tags=("green",))) == ["green"]
        only_itself = look(like="red", tags=("warm",))
        assert (only_itself.hits, only_itself.looked_at, only_itself.matched) == ((), 1, 0)

    def test_models_of_other_prompts_follow_in_a_ranking_of_their_own(self, colours, look):
        colours.publish("house", COLOURS["red"], prompts=OTHER_PROMPTS)
        result = look(like="red")
        assert [group.members for group in result.groups] == [2, 1]
        assert result.groups[1].hits[0].ref.id == "house"

    def test_a_model_without_a_specification(self, colours, look, tmp_path):
        colours.add_lora("new")
        with pytest.raises(SpecNotFoundError, match="local:new has no specification") as caught:
            look(like="new")
        assert caught.value.hint == f"gmi-publish local:new --hub {colours.hub.root}"
        with pytest.raises(SpecNotFoundError, match="holds no model"):
            look(like="absent")
        (tmp_path / "empty").mkdir()
        with pytest.raises(SpecNotFoundError, match=r"holds no gmi/spec\.json"):
            look(like=tmp_path / "empty")
        # A name of another hub is looked for there.
        with pytest.raises(OfflineError, match="owner/name"):
            look(like="hf:owner/name", offline=True)

    def test_it_is_found_out_before_the_hub_is_read(self, colours, look, monkeypatch):
        monkeypatch.setattr(colours.hub, "list_specs", None)
        with pytest.raises(SpecNotFoundError):
            look(like="absent")


class TestText:
    @pytest.mark.parametrize("name", sorted(COLOURS))
    def test_the_model_that_paints_what_the_words_name(self, colours, look, name):
        result = look(prompt=f"  a {name}\n thing ")
        assert names(result)[0] == name
        assert (result.score, result.text) == ("text", f"a {name} thing")
        assert (result.images, result.pseudo_prompts) == ((), ())
        assert (result.like, result.interrogator) == (None, "prompt")
        assert all(0 <= hit.distance <= 2 and hit.best_prompts for hit in result.hits)
        assert result.to_json()["query"]["text"] == f"a {name} thing"

    def test_from_python(self, colours, encoder):
        options = {"encoder": encoder, "cache_dir": colours.cache}
        result = gmi_registry.search(hub=colours.root, prompt="blue", tags=["cold"], **options)
        assert names(result) == ["blue", "green"]

    def test_an_encoder_whose_towers_differ_in_width(self, built, look):
        built.publish("red", COLOURS["red"], encoder=ProjectionEncoder())
        with pytest.raises(InputError) as caught:
            look(prompt="red", encoder=ProjectionEncoder())
        assert caught.value.message == (
            "words without a picture cannot be compared with images: projection/seed-0 gives "
            "texts 5 values "
            "and images 6"
        )
        assert caught.value.hint

    def test_with_an_image_the_words_are_about_it(self, colours, look):
        result = look(picture(COLOURS["red"]), prompt="blue")
        assert names(result)[0] == "red"
        assert (result.score, result.text, result.pseudo_prompts) == ("default", None, ("blue",))

    def test_bad_words_are_found_before_anything_is_read(self, colours, look, monkeypatch):
        monkeypatch.setattr(colours.hub, "list_specs", None)
        with pytest.raises(InputError, match="the prompt is empty"):
            look(prompt=" \n")


class TestNotLike:
    def test_the_model_that_made_it_moves_back_and_no_other(self, colours, look):
        both = (picture(COLOURS["red"], 98), picture(COLOURS["blue"], 99))
        plain = {hit.ref.id: hit.distance for hit in look(*both).hits}
        result = look(*both, not_like=[picture(COLOURS["blue"], 7)])
        moved = {hit.ref.id: hit.distance - plain[hit.ref.id] for hit in result.hits}
        assert moved["blue"] > 5
        assert max(moved["red"], moved["green"]) < 1e-3
        assert result.score == "default"
        assert sum(hit.confidence for hit in result.hits) == pytest.approx(1)

    def test_with_whatever_says_what_it_shows(self, colours, look):
        image = picture(COLOURS["green"], 5)
        for options in ({}, {"prompt": "a cat"}, {"interrogator": "phrases"}, {"style": "red"}):
            plain, result = look(image, **options), look(image, not_like=[image], **options)
            assert names(plain)[0] == "green"
            before, after = (
                next(hit.distance for hit in it.hits if hit.ref.id == "green")
                for it in (plain, result)
            )
            assert after > before + 5

    def test_without_any_nothing_changes(self, colours, look):
        image = picture(COLOURS["green"], 5)
        plain = look(image)
        assert look(image, not_like=[]).hits == plain.hits
        assert (plain.not_like, plain.not_like_prompts) == ((), ())

    def test_what_the_result_says(self, colours, look, tmp_path):
        path = tmp_path / "blue.png"
        picture(COLOURS["blue"]).save(path)
        image = picture(COLOURS["red"])
        result = look(image, not_like=[path, picture(COLOURS["blue"], 3)], prompt="a cat")
        assert result.images == ("image 1",)
        assert result.not_like == (str(path), "unwanted image 2")
        assert result.not_like_prompts == ("a cat", "a cat")
        query = result.to_json()["query"]
        assert query["not_like"] == [str(path), "unwanted image 2"]
        assert query["not_like_prompts"] == ["a cat", "a cat"]
        guessed = look(image, not_like=[path], interrogator="phrases")
        assert len(guessed.not_like_prompts) == 1
        assert guessed.not_like_prompts[0]

    def test_a_bad_picture_is_named(self, colours, look):
        with pytest.raises(InputError, match=r"nothing\.png: no such file"):
            look(picture(COLOURS["red"]), not_like=["nothing.png"])

    def test_from_python_one_picture_needs_no_list(self, colours, encoder):
        result = gmi_registry.search(
            picture(COLOURS["red"]),
            colours.root,
            not_like=picture(COLOURS["blue"]),
            encoder=encoder,
            cache_dir=colours.cache,
        )
        assert names(result)[0] == "red"
        assert len(result.not_like) == 1


class TestStyle:
    def test_words_bring_the_model_that_they_name_nearer(self, colours, look):
        both = (picture(COLOURS["red"], 98), picture(COLOURS["blue"], 99))

        def ahead(result, name):
            """By how much a model is nearer than the others."""
            found = {hit.ref.id: hit.distance for hit in result.hits}
            return min(found[other] for other in found if other != name) - found[name]

        plain = look(*both)
        for name in COLOURS:
            result = look(*both, style=f" something  {name}")
            assert ahead(result, name) > ahead(plain, name)
            assert (result.score, result.style) == ("default", f"something {name}")
            assert result.to_json()["query"]["style"] == f"something {name}"
            chances = [hit.confidence for hit in result.hits]
            assert sum(chances) == pytest.approx(1)
            assert chances == sorted(chances, reverse=True)

    def test_without_any_nothing_is_said(self, colours, look):
        assert look(picture(COLOURS["red"])).style is None

    def test_it_goes_with_a_prompt(self, colours, look):
        result = look(picture(COLOURS["red"]), prompt="a cat", style="red")
        assert (names(result)[0], result.pseudo_prompts) == ("red", ("a cat",))

    def test_from_python(self, colours, encoder):
        result = gmi_registry.search(
            picture(COLOURS["red"]),
            colours.root,
            style="red",
            encoder=encoder,
            cache_dir=colours.cache,
        )
        assert names(result)[0] == "red"

    def test_an_encoder_that_never_saw_texts_and_images_together(self, colours, look, encoder):
        for scale in (0.0, float("nan")):
            encoder.logit_scale = scale
            with pytest.raises(InputError, match="was not trained to match texts") as caught:
                look(picture(COLOURS["red"]), style="red")
            assert caught.value.hint

    def test_towers_of_two_widths(self, built, look):
        built.publish("red", COLOURS["red"], encoder=ProjectionEncoder())
        with pytest.raises(InputError, match="gives texts 5 values and images 6"):
            look(picture(COLOURS["red"]), style="red", encoder=ProjectionEncoder())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "x"}, "--style says how an IMAGE like yours should look: name one"),
        ({"style": "x", "prompt": "y"}, "or use only --prompt"),
        ({"images": 1, "style": "x", "score": "paper"}, "--style goes with the default score"),
        ({"images": 1, "not_like": 1, "score": "paper"}, "not with --score paper"),
        ({"images": 1, "not_like": 1, "style": "x", "score": "paper"}, "and --style go with"),
        ({"like": "red", "style": "x"}, "combined with --style"),
        ({}, "nothing to search with: name an IMAGE, or give --prompt TEXT or --like MODEL"),
        ({"like": "red", "prompt": "x"}, "combined with --prompt"),
        ({"like": "red", "images": 1}, "combined with an IMAGE"),
        ({"like": "red", "not_like": 1, "score": "paper"}, "with --not-like and --score"),
        ({"like": "red", "interrogator": "phrases"}, "combined with --interrogator"),
        ({"not_like": 1}, "--not-like says what is not wanted: name an IMAGE of what is"),
        ({"not_like": 1, "prompt": "x"}, "--not-like says what is not wanted"),
        ({"prompt": "x", "interrogator": "caption"}, "--interrogator guesses what an IMAGE shows"),
        ({"prompt": "x", "score": "paper"}, "--score paper measures from an IMAGE"),
    ],
)
def test_parts_that_do_not_go_together(colours, look, monkeypatch, options, message):
    monkeypatch.setattr(colours.hub, "list_specs", None)
    given = {
        name: [picture(COLOURS["red"])] * value if name == "not_like" else value
        for name, value in options.items()
    }
    images = [picture(COLOURS["red"])] * given.pop("images", 0)
    with pytest.raises(InputError) as caught:
        look(*images, **given)
    assert message in caught.value.message
    assert caught.value.hint == "gmi-search --help"


def test_an_index_of_other_hubs_is_no_empty_answer(colours, look, tmp_path):
    index_hubs(tmp_path / "index", [colours.hub], cache_dir=colours.cache)
    places = {"index": tmp_path / "index", "cache_dir": tmp_path / "c"}
    with (
        HuggingFaceHub("http://127.0.0.1:1", cache_dir=tmp_path / "hf") as other,
        pytest.raises(InputError, match="holds models of local, and none of hf") as caught,
    ):
        search([picture((1, 2, 3))], other, **places)
    assert caught.value.hint == "name the hub that they are on: --hub FOLDER"


class TestForgedPrompts:
    """Prompt embeddings come with specifications; whoever publishes many decides nothing."""

    @pytest.mark.parametrize(
        "options", [{}, {"score": "paper", "prompt": "red"}, {"prompt": "red"}]
    )
    def test_no_majority_of_them_leaves_an_honest_model_out(
        self, built, colours, look, tmp_path, options
    ):
        query = picture((240, 20, 10))
        before = look(query, index="none", top=None, **options)
        for number in range(5):
            spec = colours.publish(f"forged-{number}", COLOURS["blue"])
            forged = replace(spec, prompt_embeddings=-spec.prompt_embeddings)
            write_spec(altered_spec(forged), built.folder(f"forged-{number}"))
        index_hubs(tmp_path / "index", [built.hub], cache_dir=built.cache)
        for index in ("none", tmp_path / "index"):
            after = look(query, index=index, top=None, **options)
            assert after.skipped == ()
            assert [name for name in names(after) if name in COLOURS] == names(before)
            assert names(after)[0] == "red"
