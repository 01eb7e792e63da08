import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from gmi_registry.errors import InputError
from gmi_registry.report.figures import embed
from gmi_registry.report.page import (
    Card,
    Group,
    Page,
    QueryImage,
    SkippedModel,
    render,
    write_search_page,
)

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def card(rank=1, **changes):
    fields = {
        "model": "local:zoo/flat@0123456789abcdef",
        "title": "Flat icons",
        "distance": 0.25 * rank,
        "margin": 0.25,
        "kind": "lora",
        "tags": ("flat", "icons"),
        "licence": "mit",
        "base_model": "zoo/base",
        "url": "https://example.org/flat",
        "prompts": ("a red apple", "a house"),
        "preview": embed(Image.new("RGB", (30, 20), "blue")),
    }
    return Card(rank=rank, **(fields | changes))


def page(*cards, **changes):
    fields = {
        "title": "Models that make images like cat.png",
        "query": (QueryImage("cat.png", embed(Image.new("RGB", (9, 9))), "a cat"),),
        "settings": (("score", "default"),),
        "groups": (Group("Ranking", "2 of 2", cards),) if cards else (),
        "skipped": (),
        "looked_at": 3,
        "version": "0.2.0",
    }
    return Page(**(fields | changes))


class Outline(HTMLParser):
    """All elements, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def named(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def test_the_page_holds_what_there_is_to_say():
    text = render(page(card(1), card(2, margin=None, preview=None, no_preview="none here")))
    for part in ("cat.png", "a cat", "Flat icons", "0.2500", "a red apple", "mit", "zoo/base"):
        assert part in text
    assert "none here" in text
    assert text.count("<dt>margin</dt>") == 1
    assert "confidence" not in text
    assert "<dd>97 %</dd>" in render(page(card(1, confidence=0.9712)))


def test_nothing_is_fetched_and_nothing_runs():
    outline = Outline(render(page(card(1), card(2))))
    assert {tag for tag, _ in outline.elements}.isdisjoint({"script", "link", "iframe", "form"})
    assert all(image["src"].startswith("data:image/webp;base64,") for image in outline.named("img"))
    assert not any(name.startswith("on") for _, found in outline.elements for name in found)
    assert not any("style" in found for _, found in outline.elements)


def test_the_policy_names_the_one_style_sheet():
    text = render(page(card()))
    style = re.search("<style>(.*?)</style>", text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = Outline(text).named("meta")[1]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_texts_stay_texts():
    hostile = card(
        title=HOSTILE,
        tags=(HOSTILE,),
        licence=HOSTILE,
        base_model=HOSTILE,
        prompts=(HOSTILE,),
        model=HOSTILE,
    )
    text = render(
        page(
            hostile,
            title=HOSTILE,
            query=(QueryImage(HOSTILE, None, HOSTILE),),
            settings=((HOSTILE, HOSTILE),),
            groups=(Group(HOSTILE, HOSTILE, (hostile,)),),
            skipped=(SkippedModel(HOSTILE, HOSTILE),),
        )
    )
    outline = Outline(text)
    assert not outline.named("script")
    assert all("onerror" not in image for image in outline.named("img"))
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "data:text/html,x", "//example.org", "https:", "http://[", None, ""],
)
def test_only_web_addresses_become_links(url):
    assert not Outline(render(page(card(url=url)))).named("a")


def test_a_link_tells_the_other_side_nothing():
    (link,) = Outline(render(page(card()))).named("a")
    assert link["href"] == "https://example.org/flat"
    assert {"noopener", "noreferrer"} <= set(link["rel"].split())


def test_every_picture_has_a_text():
    outline = Outline(render(page(card(1), card(2))))
    assert all(image["alt"] for image in outline.named("img"))
    assert all(drawing["aria-label"] for drawing in outline.named("svg"))
    assert outline.named("html") == [{"lang": "en"}]


def test_what_is_not_for_all_audiences_is_shown_on_request():
    text = render(page(card(nsfw=True)))
    details = text[text.index("<details>") : text.index("</details>")]
    assert "<img" in details
    assert "not for all audiences" in details


def test_no_model_at_all():
    assert "No model matches. 3 searched." in render(page())


def test_skipped_models_have_their_reasons():
    text = render(page(card(), skipped=(SkippedModel("local:x", "cut short"),)))
    assert "Not ranked" in text
    assert "cut short" in text


def test_the_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_search_page(page(card()), path) == path
    assert path.read_text(encoding="utf-8") == render(page(card()))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["missing/report.html", "file/report.html", "folder"])
def test_a_place_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_search_page(page(card()), tmp_path / name)
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
