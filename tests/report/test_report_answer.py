import sys
from pathlib import Path

from PIL import Image

from gmi_registry.errors import HubError

sys.path.append(str(Path(__file__).parents[1] / "cli"))

from cli_specs import OTHER_RANKING, RANKING, SKIPPED, answer

from gmi_registry.report.answer import answer_page

PICTURE = Image.new("RGB", (10, 10), "red")


def page(result, *, previews=lambda ref: None, images=(("cat.png", PICTURE),)):
    return answer_page(
        result,
        images,
        pseudo_prompts=["a cat"] * len(images),
        settings=[("score", "paper")],
        previews=previews,
    )


def test_the_page_says_what_the_answer_says():
    shown = page(answer(RANKING, OTHER_RANKING, skipped=[SKIPPED]))
    assert shown.title == "Models that make images like cat.png"
    assert shown.query[0].pseudo_prompt == "a cat"
    assert shown.settings == (("score", "paper"),)
    main, other = shown.groups
    assert [card.rank for card in main.cards] == [1, 2, 3]
    assert main.note == "the nearest 3 of 5 models, default prompts general"
    assert main.cards[0].prompts == ("a tree", "a cat")
    assert main.cards[0].licence == "mit"
    assert "cannot be compared" in other.note
    assert shown.skipped[0].reason == SKIPPED.reason
    assert shown.looked_at == 9


def test_several_images():
    shown = page(answer(RANKING), images=(("a.png", PICTURE), ("b.png", PICTURE)))
    assert shown.title == "Models that make images like these 2"
    assert [image.name for image in shown.query] == ["a.png", "b.png"]


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
