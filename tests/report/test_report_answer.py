from dataclasses import replace

from PIL import Image

from gmi_registry.errors import HubError
from gmi_registry.index import FoldedVersion, Repeat, Universal
from gmi_registry.report.figures import embed
from gmi_registry.report.page import QueryImage, render, search_page
from gmi_registry.spec import LoraPartial, ModelRef
from tests.support.cli_specs import OTHER_RANKING, RANKING, SKIPPED, answer


def shown(name, prompt="a cat"):
    return QueryImage(name, embed(Image.new("RGB", (10, 10), "red")), prompt)


CAT = shown("cat.png")


def page(result, *, previews=lambda ref: None, images=(CAT,), **asked):
    return search_page(result, images, settings=[("score", "paper")], previews=previews, **asked)


def test_the_page_says_what_the_answer_says():
    made = page(answer(RANKING, OTHER_RANKING, skipped=[SKIPPED]))
    assert made.title == "Models that make images like cat.png"
    assert made.query[0].pseudo_prompt == "a cat"
    assert made.settings == (("score", "paper"),)
    main, other = made.groups
    assert [card.rank for card in main.cards] == [1, 2, 3]
    assert main.note == "the nearest 3 of 5 models, default prompts general"
    assert main.cards[0].prompts == ("a tree", "a cat")
    assert main.cards[0].licence == "mit"
    assert "cannot be compared" in other.note
    assert made.skipped[0].reason == SKIPPED.reason
    assert made.looked_at == 9


def test_several_images():
    made = page(answer(RANKING), images=(shown("a.png"), shown("b.png")))
    assert made.title == "Models that make images like these 2"
    assert [image.name for image in made.query] == ["a.png", "b.png"]


def test_pictures_of_what_is_not_wanted():
    made = page(answer(RANKING), unwanted=(shown("dog.png", None),))
    assert made.title == "Models that make images like cat.png, and unlike dog.png"
    assert "unwanted" in made.reading
    text = render(made)
    assert text.index("cat.png</span>") < text.index("<p>Not like</p>")
    assert text.index("<p>Not like</p>") < text.index("dog.png</span>")
    assert 'alt="Unwanted image 1: dog.png"' in text
    several = page(answer(RANKING), unwanted=(shown("dog.png"), shown("owl.png")))
    assert several.title.endswith(", and unlike these 2")
    assert "Not like" not in render(page(answer(RANKING)))


def test_words_alone():
    made = page(answer(RANKING), images=(), text="<b>pixel art")
    assert made.title == "Models for “<b>pixel art”"
    text = render(made)
    assert '<blockquote class="asked">&lt;b&gt;pixel art</blockquote>' in text
    assert "<figure>" not in text
    assert "between the words and" in text


def test_a_model_that_others_are_near():
    sheet = shown("local:noto", None)
    made = page(answer(RANKING), images=(), exemplar=sheet)
    assert made.title == "Models near local:noto"
    assert made.query == (sheet,)
    assert "what the model in question made" in render(made)
    assert "local:noto cannot be shown" in render(
        page(answer(RANKING), images=(), exemplar=QueryImage("local:noto", None, None))
    )


def test_previews_are_embedded(tmp_path):
    path = tmp_path / "preview.webp"
    Image.new("RGB", (30, 20)).save(path)
    asked = []

    def previews(ref):
        asked.append(str(ref))
        return path

    card = page(answer(RANKING), previews=previews).groups[0].cards[0]
    assert card.preview.width == 30
    assert asked[0] == card.model


def test_a_preview_that_cannot_be_had_is_replaced_by_the_reason():
    def previews(ref):
        raise HubError("the hub is away")

    card = page(answer(RANKING), previews=previews).groups[0].cards[0]
    assert card.preview is None
    assert card.no_preview == "the contact sheet cannot be shown: the hub is away"
    assert page(answer(RANKING)).groups[0].cards[0].no_preview == "this model has no contact sheet"


def test_an_answer_without_models():
    assert page(answer()).groups == ()


def test_who_stands_behind_a_specification_and_other_versions():
    older = FoldedVersion(ModelRef("civitai", "1", "10"), "Style <b> 1.0", 0.9, None)
    first, second, third = RANKING.hits
    hits = (
        replace(first, trust="self-published", versions=(older,)),
        replace(second, trust="owner"),
        replace(third, trust="verified"),
    )
    text = render(page(answer(replace(RANKING, hits=hits))))
    assert text.count("<dt>described by</dt>") == 3
    assert "which nobody checked" in text
    assert "<dd>its owner</dd>" in text
    assert "which its maintainers checked" in text
    assert "<dt>other versions</dt><dd>Style &lt;b&gt; 1.0</dd>" in text
    assert "described by" not in render(page(answer(RANKING)))


def test_models_that_repeat_each_other_and_that_are_near_everything():
    other = Repeat(ModelRef("local", "twin"), "Twin <b>", 0.3, None, "owner")
    first, second, third = RANKING.hits
    hits = (replace(first, repeats=(other, other)), second)
    hits += (replace(third, universal=Universal(0.34, 0.05, None)),)
    text = render(page(answer(replace(RANKING, hits=hits))))
    twin = "<bdi>Twin &lt;b&gt; (local:twin)</bdi>"
    assert f"<dt>same images as</dt><dd>{twin}, {twin}</dd>" in text
    warning = "near everything: first for 34 % of other models&#39; images"
    assert f'<li class="warn">{warning}; its share would be 5 %</li>' in text
    assert "same images as" not in render(page(answer(RANKING)))


def test_a_part_of_a_lora_is_marked():
    first, *rest = RANKING.hits
    share = LoraPartial(applied=64, tensors=128)
    made = page(answer(replace(RANKING, hits=(replace(first, lora_partial=share), *rest))))
    words = "a part of the LoRA made the images: 64 of its 128 tensors"
    assert [card.partial for card in made.groups[0].cards] == [words, "", ""]
    assert f'<li class="warn">{words}</li>' in render(made)
