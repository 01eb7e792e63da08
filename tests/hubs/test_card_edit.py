"""The edit of a model card: the tag, the section, and not one byte more."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.errors import HubError
from gmi_registry.hubs.card import CARD_LIMIT, parse_card
from gmi_registry.hubs.huggingface.card_edit import (
    SECTION_END,
    SECTION_START,
    TAG,
    check_card,
    edit_card,
)
from gmi_registry.spec import (
    DescribedModel,
)
from tests.support.hub_builder import ProjectionEncoder, painted_spec, weight_file

RULES = settings(max_examples=150, deadline=None, derandomize=True)


def make_manifest(*, encoder="projection", nsfw=False):
    model = DescribedModel(
        hub="hf", id="o/n", title="N", kind="lora", weights=(weight_file(b"w"),), nsfw=nsfw
    )
    return painted_spec(model, (0, 0, 0), encoder=ProjectionEncoder(encoder)).manifest


MANIFEST = make_manifest()


def edit(text, manifest=MANIFEST, **options):
    """The edited card; editing it again changes nothing."""
    edited = edit_card(text if isinstance(text, bytes) else text.encode(), manifest, **options)
    assert edit_card(edited, manifest, **options) == edited
    return edited.decode()


def front(text):
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    assert text.startswith("---\n")
    return yaml.safe_load(text[4 : text.index("\n---", 3) + 1]) or {}


SPELLINGS = {
    "block": ("tags:\n- a\n- b\nlicense: mit", "tags:\n- a\n- b\n- gmi-spec\nlicense: mit"),
    "indented": ("tags:\n  - a\nlicense: mit", "tags:\n  - a\n  - gmi-spec\nlicense: mit"),
    "last": ("license: mit\ntags:\n- a", "license: mit\ntags:\n- a\n- gmi-spec"),
    "quoted": ("tags:\n- 'a'\n- \"b: c\"", "tags:\n- 'a'\n- \"b: c\"\n- gmi-spec"),
    "commented": (
        "tags: # mine\n- a # first\n# of these\nlicense: mit",
        "tags: # mine\n- a # first\n- gmi-spec\n# of these\nlicense: mit",
    ),
    "flow": ("tags: [a, b]", "tags: [a, b, gmi-spec]"),
    "flow with a comma": ("tags: [a, b, ]", "tags: [a, b, gmi-spec, ]"),
    "flow in lines": ("tags: [\n  a, # x\n  b\n]", "tags: [\n  a, # x\n  b, gmi-spec\n]"),
    "empty flow": ("tags: []", "tags: [gmi-spec]"),
    "lone": ("tags: anime", "tags: [anime, gmi-spec]"),
    "lone with a comma": ("tags: a, b", 'tags: ["a, b", gmi-spec]'),
    "lone, ours": ("tags: gmi-spec", "tags: [gmi-spec]"),
    "a number": ("tags: 3", "tags: [3, gmi-spec]"),
    "nothing": ("tags:\nlicense: mit", "tags:\n- gmi-spec\nlicense: mit"),
    "nothing but a comment": ("tags: # none\nx: 1", "tags: # none\n- gmi-spec\nx: 1"),
    "null": ("tags: ~", "tags: [gmi-spec]"),
    "no field": ("license: mit # free", "license: mit # free\ntags:\n- gmi-spec"),
    "indented fields": ("  license: mit", "  license: mit\n  tags:\n  - gmi-spec"),
    "a flow mapping": ("{license: mit}", "{tags: [gmi-spec], license: mit}"),
    "an empty mapping": ("{}", "{tags: [gmi-spec]}"),
    "only a comment": ("# nothing yet", "# nothing yet\ntags:\n- gmi-spec"),
    "a block text before": ("about: |+\n  x\n", "tags:\n- gmi-spec\nabout: |+\n  x\n"),
    "a block text as the last tag": ("tags:\n- |\n  x", "tags:\n- gmi-spec\n- |\n  x"),
    "an alias": ("base_model: &b o/x\ntags: [*b]", "base_model: &b o/x\ntags: [*b, gmi-spec]"),
    "there already": ("tags: [gmi-spec, a]", "tags: [gmi-spec, a]"),
    "there, quoted": ("tags:\n- 'gmi-spec'", "tags:\n- 'gmi-spec'"),
}


@pytest.mark.parametrize("eol", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_tag_joins_the_others(spelling, eol):
    before, after = (text.replace("\n", eol) for text in SPELLINGS[spelling])
    edited = edit(f"---{eol}{before}{eol}---{eol}# Title{eol}")
    assert edited.startswith(f"---{eol}{after}{eol}---{eol}# Title{eol}{eol}{SECTION_START}{eol}")
    assert edited.endswith(f"{eol}{SECTION_END}{eol}")
    assert "\n" not in edited.replace("\r\n", "") or eol == "\n"


def test_a_card_without_front_matter_gets_one():
    assert edit("# Title").startswith(
        f"---\ntags:\n- gmi-spec\n---\n\n# Title\n\n{SECTION_START}\n"
    )
    assert edit("---\n---\n# T\n").startswith("---\ntags:\n- gmi-spec\n---\n# T\n")
    assert edit("---\n\n# A rule above\n").startswith("---\ntags:\n- gmi-spec\n---\n\n---\n\n# A")


def test_no_card_becomes_a_short_one():
    made = edit_card(None, MANIFEST)
    assert made == edit_card(b"", MANIFEST)
    assert made.decode().startswith(f"---\ntags:\n- gmi-spec\n---\n\n{SECTION_START}\n")
    assert edit(made) == made.decode()


def test_a_byte_order_mark_stays_first():
    edited = edit("\ufeff---\nlicense: mit\n---\n")
    assert edited.startswith("\ufeff---\nlicense: mit\ntags:\n- gmi-spec\n---\n")


def test_front_matter_that_ends_with_the_file():
    assert edit("---\nlicense: mit\n---").startswith(
        f"---\nlicense: mit\ntags:\n- gmi-spec\n---\n\n{SECTION_START}\n"
    )


def test_the_section_says_what_there_is():
    section = edit("# T\n", preview=True).partition(SECTION_START)[2]
    assert "3 images of 3 prompts, seen by `projection seed-0`" in section
    assert "(gmi/spec.json)" in section
    assert "](gmi/preview.webp)" in section
    assert "preview" not in edit("# T\n")
    assert "preview" not in edit("# T\n", make_manifest(nsfw=True), preview=True)


def test_an_old_section_is_replaced_where_it_stands():
    text = f"---\ntags: [gmi-spec]\n---\nabove\n{SECTION_START}\nold\n{SECTION_END} \nbelow"
    edited = edit(text)
    assert "old" not in edited
    assert edited.startswith(f"---\ntags: [gmi-spec]\n---\nabove\n{SECTION_START}\n## ")
    assert edited.endswith(f"\n{SECTION_END} \nbelow")


@pytest.mark.parametrize("name", ["`x` -->", "<!-- gmi-spec:end -->", "[a](b)"])
def test_a_name_cannot_forge_the_section(name):
    edited = edit("# T\n", make_manifest(encoder=name))
    assert edited.count("<!--") == 2
    assert "seen by" not in edited


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (f"{SECTION_START}\n", "start in line 5"),
        (f"\n{SECTION_END}\n", "end in line 6"),
        (f"{SECTION_END}\n{SECTION_START}\n", "end in line 5, start in line 6"),
        (f"{SECTION_START}\n{SECTION_END}\n{SECTION_END}\n", "end in line 7"),
        (f"{SECTION_START}\n{SECTION_START}\n{SECTION_END}\n", "start in line 6"),
    ],
)
def test_damaged_comments_are_refused(body, found):
    with pytest.raises(HubError, match="the comments around") as caught:
        check_card(f"---\nlicense: mit\n---\n# T\n{body}".encode())
    assert found in caught.value.message
    assert SECTION_START in caught.value.hint


@pytest.mark.parametrize(
    ("card", "line", "reason"),
    [
        (b"---\nlicense: mit\ntags: [a\n---\n", 3, "not YAML"),
        (b"---\r\na: 1\r\nb: 'x\r\n---\r\n", 3, "not YAML"),
        (b"---\na: 1\nb: x: y\n---\n", 3, "not YAML"),
        (b"---\na: *gone\n---\n", 2, "not YAML"),
        (b"---\na: \x01\n---\n", 2, "a character that YAML forbids"),
        (b"---\na: 1\n--- # two\nb: 2\n---\n", 3, "two YAML documents"),
        (b"---\n- a\n---\n", 2, "not a YAML mapping"),
        (b"\n\n---\nwords\n---\n", 4, "not a YAML mapping"),
        (b"---\na: 1\ntags: {a: b}\n---\n", 3, "not a list of texts"),
        (b"---\ntags: [a]\nb: 1\ntags: [c]\n---\n", 4, "appears twice"),
        (b"# T\n\n\xff\n", 3, "not UTF-8"),
    ],
)
def test_a_broken_card_is_refused_with_the_line(card, line, reason):
    with pytest.raises(HubError, match=reason) as caught:
        edit_card(card, MANIFEST)
    assert caught.value.message.startswith(f"README.md line {line}: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_spelling_without_a_safe_addition_is_refused():
    with pytest.raises(HubError, match="no safe way"):
        edit_card(b"---\ntags: &t\n- a\n---\n", MANIFEST)


def test_a_huge_card_is_refused_unread():
    with pytest.raises(HubError, match="bytes, over"):
        check_card(b"x" * (CARD_LIMIT + 1))
    with pytest.raises(HubError, match="with what is added"):
        check_card(b"x" * CARD_LIMIT)


def test_a_card_of_aliases_is_not_expanded():
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    edited = edit("---\n" + "\n".join(lines) + "\n---\n")
    assert edited.count("gmi-spec\n") == 1


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
SCALARS = st.one_of(WORDS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(WORDS.filter(lambda key: key != "tags"), VALUES, max_size=4)
TAGS = st.none() | WORDS | st.lists(WORDS, max_size=4)
BODIES = st.lists(
    st.sampled_from(["# T", "", "text", "---", "```", "<!-- x -->", "é", "tags:"]), max_size=6
)


@st.composite
def cards(draw):
    """Front matter in PyYAML's spellings, and a body."""
    fields = draw(FIELDS)
    if draw(st.booleans()):
        items = [*fields.items()]
        items.insert(draw(st.integers(0, len(items))), ("tags", draw(TAGS)))
        fields = dict(items)
    block = yaml.safe_dump(
        fields,
        default_flow_style=draw(st.sampled_from([True, False, None])),
        allow_unicode=draw(st.booleans()),
        indent=draw(st.sampled_from([2, 4])),
        sort_keys=False,
        width=draw(st.sampled_from([20, 1000])),
    )
    eol = draw(st.sampled_from(["\n", "\r\n"]))
    bom = draw(st.sampled_from(["", "\ufeff"]))
    body = "\n".join(draw(BODIES))
    text = f"---\n{block}---\n{body}".replace("\n", eol)
    return fields, bom + text, body.replace("\n", eol)


@RULES
@given(cards())
def test_only_tags_differ_and_twice_is_once(card):
    fields, text, body = card
    edited = edit(text)
    before = fields.pop("tags", None)
    before = before if isinstance(before, list) else [] if before is None else [before]
    after = front(edited)
    assert sorted(map(repr, after.pop("tags"))) == sorted(map(repr, {*before, "gmi-spec"})) or (
        len(set(before)) < len(before)
    )
    assert repr(after) == repr(fields)
    eol = "\r\n" if "\r\n" in text else "\n"
    assert f"{eol}---{eol}{body}" in edited
    assert edited.endswith(f"{SECTION_END}{eol}")


@RULES
@given(cards())
def test_outside_the_edits_every_byte_stays(card):
    _, text, _ = card
    edited = edit(text)
    at = 0
    # The card is what is left of its edit when letters are only taken away.
    for letter in edited:
        at += at < len(text) and letter == text[at]
    lone = isinstance(card[0].get("tags"), str)
    assert at == len(text) or lone or card[0].get("tags", 0) is None


def attempt(data):
    try:
        return edit_card(data, MANIFEST)
    except HubError as error:
        return error


@RULES
@given(st.binary(max_size=60) | st.text("-\n\r:[]{}#&*!|>'\" tags\ufeff", max_size=40))
def test_anything_is_edited_once_or_refused(content):
    data = content.encode() if isinstance(content, str) else content
    edited = attempt(data)
    if isinstance(edited, HubError):
        assert edited.message.startswith("README.md")
        assert edited.hint
    else:
        assert edit_card(edited, MANIFEST) == edited


LARGE = 1024 * 1024 - 200
SLOW = {
    "a list": "tags:\n" + "- a\n" * (LARGE // 4),
    "a list in a line": "tags: [" + "a," * (LARGE // 2) + "]",
    "keys": "".join(f"k{number}: v\n" for number in range(90_000)),
    "one key again and again": "a: 1\n" * (LARGE // 5),
    "explicit keys": "? a\n" * (LARGE // 4),
    "brackets": "x: " + "[" * 5000 + "]" * 5000,
    "open brackets": "x: " + "[" * LARGE,
    "dates": "x:\n" + "- 2001-01-01\n" * (LARGE // 13),
    "pairs": "x: !!pairs\n" + "- a: 1\n" * (LARGE // 8),
    "a number in base 60": "x: " + "1:" * (LARGE // 2) + "1",
    "a declared number in base 60": 'x: !!int "' + "1:" * (LARGE // 2) + '1"',
    "anchors": "x:\n" + "".join(f"- &a{number} b\n" for number in range(70_000)),
    "merged mappings": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
    "pairs of aliases": "a0: &a0 [x, x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    + "tags: !!pairs [a: *a39]\n",
}
LONG_BODIES = {
    "marks of our section": "<!-- gmi-spec:start -->\n" * (LARGE // 24),
    "half marks": "<!--  gmi-spec:" * (LARGE // 15),
    "blank lines": "\n" * LARGE,
    "headings": "# \x01\n" * (LARGE // 4),
}


@pytest.mark.parametrize(
    "text",
    [*(f"---\n{front}\n---\n" for front in SLOW.values()), *LONG_BODIES.values()],
    ids=[*SLOW, *LONG_BODIES],
)
def test_no_card_takes_long(text):
    start = time.process_time()
    for read in (check_card, lambda card: parse_card(card, "style", Path("README.md"))):
        with contextlib.suppress(HubError):
            read(text.encode())
    assert time.process_time() - start < 5


@pytest.mark.parametrize("style", ["- {}\n", "- '{}'  # a comment\n", '- "{} \U0001f600"\n'])
def test_a_long_card_is_edited_as_a_short_one(style):
    """The one is read by libyaml, the other in Python."""
    items = "".join(style.format(f"tag-{number}") for number in range(2000))
    for front in (f"license: mit\ntags:\n{items}", f"tags:\n{items}license: mit\n"):
        card = f"---\n{front}---\n# Title\n"
        edited = edit(card)
        assert edited.startswith(f"---\n{front}".partition(items)[0] + items)
        assert f"{items}- {TAG}\n" in edited
        tags = parse_card(edited.encode(), "style", Path("README.md")).tags
        assert len(tags) == 2001
        assert tags[-1] == TAG
