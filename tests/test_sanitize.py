"""Text from strangers, made fit to be shown."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import time
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from gmi_registry import sanitize
from gmi_registry.errors import GmiError, HubError, RateLimitError

TOKENS = [
    "p@ss/w:rd+%41=~\"'<&>\\0a1b2c",
    "AKIA-0123456789AB",
    "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJl",
    "{0a9Z]!b8Y^c7X`d6W|e5V",
]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(sanitize, "_secrets", sanitize._Secrets())


def spellings(token):
    """Ways in which a server may echo what it was sent."""
    content = token.encode()
    yield token
    yield token.swapcase()
    yield urllib.parse.quote(token, safe="")
    yield urllib.parse.quote(urllib.parse.quote(token, safe=""), safe="")
    yield "".join(f"%{byte:02x}" for byte in content)
    yield base64.b64encode(content).decode()
    yield base64.urlsafe_b64encode(b"user:" + content).decode()
    yield content.hex()
    yield json.dumps(token)
    yield "".join(f"\\u{byte:04x}" for byte in content)
    yield "".join(f"&#x{byte:x};" for byte in content)
    yield "\u200b".join(token)
    yield token[: len(token) * 3 // 4]


def parts(token, length=9):
    return {token[start : start + length].casefold() for start in range(len(token) - length + 1)}


@pytest.mark.parametrize("token", TOKENS)
def test_a_known_secret_is_found_however_it_is_written(token):
    sanitize.add_secret(token)
    plain = sanitize.escaped(token)
    for spelled in spellings(token):
        for shown in (sanitize.shown(f"x {spelled} y"), sanitize.one_line(f"({spelled})")):
            assert sanitize.MASK in shown, spelled
            read = urllib.parse.unquote(urllib.parse.unquote(shown)).casefold()
            assert not any(part in read for part in parts(plain)), spelled
    assert sanitize.holds_secret(f"a {token} b")
    assert not sanitize.holds_secret("nothing of the kind")


@settings(deadline=None)
@given(st.text(max_size=80))
def test_what_is_shown_is_one_line_that_a_terminal_only_shows(text):
    for shown in (sanitize.shown(text), sanitize.one_line(text, 40), GmiError(text).message):
        assert shown.isprintable()
        assert sanitize.shown(shown) == shown
    assert len(sanitize.one_line(text, 40)) <= 40


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://me:pass@host/x?token=abc&x=1", "GET https://…@host/x?token=…&x=1"),
        ("https://h/x?X-Amz-Signature=ab&page=2", "https://h/x?X-Amz-Signature=…&page=2"),
        ("Authorization: Basic dXNlcjpwYXNz, then", "Authorization: Basic …, then"),
        ("authorization: bearer abcdefgh-1234", "authorization: bearer …"),
        ("it says Bearer abc123def.456", "it says Bearer …"),
        ("hf_abcdefgh was sent", "hf_… was sent"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln ends", "… ends"),
        ("a title with [brackets] and 100 %", "a title with [brackets] and 100 %"),
        ("https://civitai.com/models/1?modelVersionId=2", None),
        ("hint: export HF_TOKEN=hf_...", None),
        ("the token of this account may not write there: basic rights", None),
        ("größer 日本語 é\u0301 ❤\ufe0f", None),
    ],
)
def test_what_looks_like_a_secret_goes_and_the_rest_stays(text, shown):
    assert sanitize.shown(text) == (text if shown is None else shown)


def test_errors_are_fit_to_be_shown_and_keep_what_they_carry():
    sanitize.add_secret("k3y-of-the-house")
    error = RateLimitError("a\x1b[2J k3y-of-the-house\u2028", hint="b\u202e", retry_after=3.0)
    assert (error.message, error.hint) == ("a\\x1b[2J …\\u2028", "b\\u202e")
    assert str(error) == error.message
    assert error.retry_after == 3.0
    assert len(HubError("x" * 100_000).message) == 4000


def test_short_secrets_are_words_and_stay():
    for text in ("", "a", "cat", None):
        sanitize.add_secret(text)
    assert sanitize.shown("a cat") == "a cat"


def test_the_place_of_a_fault_may_hold_a_strangers_keys():
    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid")
        inner: dict[str, dict[str, int]] = {}

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"inner": {"\x1b[2J\u202e": {"k" * 500: "x"}}, "b": 1})
    fault = sanitize.first_fault(caught.value)
    assert fault.startswith("inner.\\x1b[2J\\u202e.kkk")
    assert fault.isprintable()
    assert "…: Input should be a valid integer" in fault
    assert fault.endswith(" (and 1 more)")
    assert sanitize.fault_place(caught.value) == fault.partition(": ")[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b\u200f\u202eb", "a\\x1b\\u200f\\u202eb"),
        ("pay\u200dpal \u200b", "pay\\u200dpal \\u200b"),
        ("\u200b\u200d\u200b", "\\u200b\\u200d\\u200b"),
        ("👩\u200d🎨 ❤\ufe0f\u200d🔥 می\u200cخواهم\nline", None),
    ],
)
def test_pages_keep_what_letters_and_emoji_need(text, shown):
    assert sanitize.on_page(text) == (text if shown is None else shown)


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "text", "written"),
    [
        (io.TextIOWrapper, "a\x1b[31mb\x1b]0;t\x07\n\tc", "a\\x1b[31mb\\x1b]0;t\\x07\n\tc"),
        (io.TextIOWrapper, "\r 50%|##", "\r 50%|##"),
        (io.TextIOWrapper, "ü \u00a0 日本 \u202e \ud800", "ü \u00a0 日本 \\u202e \\ud800"),
        (Terminal, "\x1b[1;31mb\x1b[0m\x1b[2K\x1b[1A\x1b[?25l\r", None),
        (Terminal, "\x1b]0;t\x07\x1b[2J\x9b", "\\x1b]0;t\\x07\\x1b[2J\\x9b"),
        (io.TextIOWrapper, "it is k3y-of-the-house.\n", "it is ….\n"),
    ],
)
def test_streams_write_what_may_be_seen(monkeypatch, stream, text, written):
    sanitize.add_secret("k3y-of-the-house")
    below = io.BytesIO()
    before = stream(below, encoding="utf-8", newline="")
    monkeypatch.setattr(sys, "stdout", before)
    with sanitize.guarded_output():
        assert sys.stdout.write(text) == len(text)
        print("end")
    assert sys.stdout is before
    assert below.getvalue().decode() == (text if written is None else written) + "end\n"


def test_the_log_of_every_library_is_looked_at(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "k3y-of-the-house")
    below = io.StringIO()
    handler = logging.StreamHandler(below)
    logger = logging.getLogger("gmi_registry.tests")
    other = logging.getLogger("a_library_of_others")
    for it in (logger, other):
        monkeypatch.setattr(it, "handlers", [handler])
        monkeypatch.setattr(it, "propagate", False)
    with sanitize.guarded_output():
        logger.warning("%s and %s", "k3y-of-the-house", "x\nforged: line")
        try:
            raise ValueError("\x1b[2J https://h/?token=abcdef")
        except ValueError:
            other.exception("said %s", "K3Y-OF-THE-HOUSE")
    lines = below.getvalue().splitlines()
    assert lines[0] == "… and x\\nforged: line"
    assert lines[1] == "said …"
    assert lines[-1] == "ValueError: \\x1b[2J https://h/?token=…"


@pytest.mark.parametrize(
    "unit",
    ["\\", "%25", "&#", "k\u200b", "\x1b", "://", "?token", "bearer ", "eyJaaaaaaaa.", "hf_"],
)
def test_no_text_takes_long(unit):
    sanitize.add_secret("k3y-of-the-house")
    text = unit * (1024 * 1024 // len(unit))
    start = time.process_time()
    sanitize.redacted(text)
    sanitize.one_line(text)
    sanitize.shown(text)
    assert time.process_time() - start < 5


def test_words_of_strangers_are_words_in_markdown():
    import markdown_it

    hostile = (
        "[a](https://evil.example) ![p](//t) <b onclick=x> `c` | d\n# e @maintainers "
        "www.evil.example https://evil.example <!-- gmi-spec:end --> &lt; *f* hf_abcdefgh\u202e\x1b"
    )
    written = sanitize.in_markdown(hostile)
    tokens = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).parse(written)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {it.type for it in tokens[1].children} <= {"text", "text_special"}
    for part in ("@maintainers", "https://", "www.evil", "hf_abcdefgh", "\u202e", "\x1b"):
        assert part not in written
    assert sanitize.in_markdown("Ink 2.0, by a.b@c.example") == "Ink 2.0, by a.b@c.example"
