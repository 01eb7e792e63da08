"""Model cards."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.errors import HubError
from gmi_registry.hubs.card import parse_card
from gmi_registry.model import ModelCard

WHERE = Path("models/style/README.md")


def card(text):
    return parse_card(text.encode(), "style", WHERE)


def test_every_field():
    text = """---
title: Flat  icons
tags: [flat, Outline, flat, 3d, 7]
license: cc-by-4.0
base_model: [base, other]
instance_prompt: flat icon of
downloads: 12
gmi:
  prompt_set: icons
  encoder: small/zoo
  steps: 20
  guidance_scale: 2
  prompt_template: "{prompt}, flat"
---
# A heading
"""
    assert card(text) == ModelCard(
        title="Flat icons",
        tags=("flat", "Outline", "3d", "7"),
        licence="cc-by-4.0",
        base_model="base",
        nsfw=False,
        downloads=12,
        trigger_words=("flat icon of",),
        prompt_set="icons",
        encoder="small/zoo",
        steps=20,
        guidance_scale=2.0,
        prompt_template="{prompt}, flat",
        other_bases=("other",),
    )


def test_a_base_model_may_be_the_address_of_its_page():
    for named in ("hf.co/owner/name", "https://huggingface.co/owner/name/tree/main", "owner/name"):
        assert card(f"---\nbase_model: {named}\n---\n").base_model == "owner/name"


@pytest.mark.parametrize("text", ["", "Just words.\n", "---\n---\n", "\n## Not the title\n"])
def test_a_bare_card_is_a_card(text, caplog):
    assert card(text) == ModelCard(title="style")
    assert not caplog.records


def test_the_heading_is_the_title_where_no_field_is():
    assert card("---\ntags: []\n---\nwords\n# The   Heading\n# Another\n").title == "The Heading"
    assert card("# Only a heading").title == "Only a heading"
    assert card("# \x1b[31mred").title == "style"
    assert card("# " + "x" * 300).title == "style"


def test_a_lone_tag_is_one_tag():
    assert card("---\ntags: anime\n---\n").tags == ("anime",)


def test_the_tag_or_the_field_makes_it_nsfw():
    assert card("---\ntags: [Not-For-All-Audiences]\n---\n").nsfw
    assert card("---\nnsfw: true\n---\n").nsfw
    assert not card("---\nnsfw: false\n---\n").nsfw


def test_a_named_other_licence():
    assert card("---\nlicense: other\nlicense_name: own-1\n---\n").licence == "own-1"
    assert card("---\nlicense: other\n---\n").licence == "other"


def test_several_trigger_words_windows_lines_and_a_byte_order_mark():
    text = "\ufeff---\r\ninstance_prompt: [a, b]\r\n---\r\n# T\r\n"
    assert card(text).trigger_words == ("a", "b")
    assert card(text).title == "T"


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        ("tags: [", "front matter cannot be read"),
        ("- a\n- b", "front matter cannot be read"),
        ("!!python/object/apply:os.system [ls]", "front matter cannot be read"),
        ("base_model: {a: b}", "base_model holds a dict"),
        ("base_model: [" + "x" * 201 + "]", "base_model has 201 characters"),
        ("x: &a {b: c}\n<<: *a", "merges mappings"),
        ("gmi: small", "gmi is not a mapping"),
        ("gmi: {encoder: [a]}", "encoder holds a list"),
        ("gmi: {steps: some}", "steps is not a whole number"),
        ("gmi: {guidance_scale: .nan}", "guidance_scale is not a number of at least 0"),
        ("gmi: {guidance_scale: true}", "guidance_scale is not a number of at least 0"),
    ],
)
def test_a_broken_card_is_refused_with_its_path(front, reason):
    with pytest.raises(HubError, match=reason) as caught:
        card(f"---\n{front}\n---\n")
    assert str(WHERE) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("front", "field", "value", "note"),
    [
        ("tags: [a, null, [b], {c: d}, ~]", "tags", ("a",), "tags holds a list, not a text"),
        ("tags: [a, '', b]", "tags", ("a", "b"), ""),
        ("tags: [no, en, 16:9, 1.10, 2024-01-01, 1_0]", "tags", None, ""),
        ('tags: [a, "\\e[31m"]', "tags", ("a",), r"tags holds the control character U\+001B"),
        ("license: [mit, apache-2.0]", "licence", "mit, apache-2.0", ""),
        ("license: [mit, other]\nlicense_name: own", "licence", "mit, own", ""),
        ("license: no", "licence", "no", ""),
        ("license: {a: b}", "licence", None, "license holds a dict"),
        ("license: !!binary aGk=", "licence", None, "license holds a bytes"),
        (f"license: [{'a' * 150}, {'b' * 150}]", "licence", None, "license has 302 characters in"),
        ("title: {a: b}", "title", "style", "title holds a dict"),
        ("title: " + "x" * 201, "title", "style", "title has 201 characters"),
        ("downloads: many", "downloads", None, "downloads is not a whole number"),
        ("downloads: -1", "downloads", None, "downloads is not a whole number"),
        ("downloads: 7", "downloads", 7, ""),
        ("instance_prompt: " + "w" * 242, "trigger_words", (), "instance_prompt has 242 chara"),
        (f"instance_prompt: [{'w' * 242}, ink]", "trigger_words", ("ink",), "instance_prompt has"),
        (
            f"instance_prompt: {list(range(51))}",
            "trigger_words",
            (),
            "instance_prompt has 51 texts",
        ),
        ("base_model: [null, base]", "base_model", "base", ""),
        ("nsfw: yes", "nsfw", True, ""),
        ("nsfw: no", "nsfw", False, ""),
    ],
)
def test_what_is_odd_and_harmless_stops_nobody(front, field, value, note):
    found = card(f"---\n{front}\n---\n")
    if value is None and field == "tags":  # each as its author typed it
        value = tuple(front[len("tags: [") : -1].split(", "))
    assert getattr(found, field) == value
    assert len(found.notes) >= 1 if note else found.notes == ()
    assert not note or re.search(note, found.notes[0])


def test_a_card_nested_beyond_reason_is_refused():
    # In a process of its own: a stack that overflows takes the coverage measurement down with it.
    code = """
from pathlib import Path
from gmi_registry.errors import HubError
from gmi_registry.hubs.card import parse_card
try:
    parse_card(b"---\\nx: " + b"[" * 5000 + b"\\n---\\n", "style", Path("README.md"))
except HubError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "README.md: the front matter is nested too deeply\n"


def test_a_card_that_is_not_utf_8_is_refused():
    with pytest.raises(HubError, match="not UTF-8 at byte 2"):
        parse_card(b"# \xff", "style", WHERE)


words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@settings(deadline=None)
@given(tags=st.lists(words, unique=True, max_size=6), title=words, base=st.none() | words)
def test_what_yaml_writes_is_what_is_read(tags, title, base):
    front = yaml.safe_dump({"title": title, "tags": tags, "base_model": base})
    found = card(f"---\n{front}---\n")
    assert (found.title, found.tags, found.base_model) == (title, tuple(tags), base)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_no_text_does_worse_than_a_hub_error(text):
    for content in (text, f"---\n{text}\n---\n"):
        with contextlib.suppress(HubError):
            assert isinstance(parse_card(content.encode(), "style", WHERE), ModelCard)
