"""Text from strangers, made fit to be shown: no control characters, no secrets, of bounded length.

Names, titles, answers of hubs, keys of JSON objects and messages of libraries come from outside.
Each error of this package (:class:`~gmi_registry.errors.GmiError`) passes its text through
:func:`shown`, and each program runs in :func:`guarded_output`, which looks at all that reaches its
two streams and its log. So no caller has to think of it.

A secret is known by its value: whoever reads a token or a password calls :func:`add_secret`.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pydantic import ValidationError


MASK = "…"
"""What stands in the place of a secret."""

_LONGEST_MESSAGE = 4000
_LONGEST_PART = 80
_MOST_PARTS = 12

# Shorter ones are words that honest text holds: masking them would tell what they are.
_SHORTEST_SECRET = 6
_SHORTEST_GUESSED = 8
# The first half of a secret, or so many characters of it, are taken for it: an answer may be cut.
_FEWEST_TELLING, _TELLING = 8, 12
_MOST_SECRETS = 64

# Invisible although Python calls them printable: fillers, joiners, selectors of variants but for
# the two that emoji have.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
)

# What acts on a terminal, a page or a line, or makes two texts look the same: control characters,
# direction marks, characters without width, separators of lines, halves of surrogate pairs.
_ACTING = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff"
)
_ACTS = re.compile(f"[{_ACTING}]")
# Colours, and the movements of progress bars; a terminal does nothing else by these.
_BAR = re.compile(f"(\x1b\\[[0-9;]*[mAK]|\x1b\\[\\?25[hl]|\r)|[{_ACTING}]")
_JOINS = f"[^\x00-\x7f{_ACTING}]"
_HIDES = re.compile(f"(?!(?<={_JOINS})[\u200c\u200d]{_JOINS})[{_ACTING}]")
_GAP = f"[{_ACTING}\t\n ?\ufffd]{{0,8}}"

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bhf_[A-Za-z0-9]{6,}"), f"hf_{MASK}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"), MASK),
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization['\"]?\s{0,9}[:=]\s{0,9}['\"]?"
            r"(?:(?:basic|bearer|digest|token)\s+)?)[^\s'\",;]+"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer\s+)(?=\S*[0-9_.-])[^\s'\",;<>]{8,}"), rf"\1{MASK}"),
    (re.compile(r"(://)[^\s/?#@'\"<>]{1,500}@"), rf"\1{MASK}@"),
    (
        re.compile(
            r"(?i)([?&;](?:[\w.-]{0,40}[_.-])?(?:token|secret|password|passwd|api_?key|key|signature"
            r"|sig|credential|credentials|access_?token|auth|jwt)=)[^&;\s'\"<>#]+"
        ),
        rf"\1{MASK}",
    ),
)


class _Secrets:
    """What may not be shown, and the patterns of it, which are made once they are asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()
        self._pattern: re.Pattern[str] | None = None
        self._plainly: tuple[str, ...] = ()

    def add(self, text: str) -> None:
        with self._lock:
            if text not in self._texts:
                latest = (*self._texts, text)[-_MOST_SECRETS:]
                self._texts, self._pattern = latest, None

    def out_of(self, text: str) -> str:
        """``text`` without them."""
        return text if not self._texts else self._patterns()[0].sub(MASK, text)

    def may_be_in(self, text: str) -> bool:
        """Whether to look for them in ``text``: soon known, for that may be megabytes."""
        if not self._texts:
            return False
        if any(mark in text for mark in ("%", "\\", "&")) or not _is_plain(text):
            return True
        lower = text.lower()
        return any(spelling in lower for spelling in self._patterns()[1])

    def _patterns(self) -> tuple[re.Pattern[str], tuple[str, ...]]:
        with self._lock:
            if self._pattern is None:
                longest_first = sorted(self._texts, key=len, reverse=True)
                encoded = [spelling for it in longest_first for spelling in _encodings(it)]
                begun = [it[: _telling(it)] for it in longest_first]
                self._plainly = tuple(it.lower() for it in (*begun, *encoded))
                patterns = [pattern for it in longest_first for pattern in _spellings(it)]
                every = "|".join((*patterns, *map(re.escape, encoded)))
                self._pattern = re.compile(every, re.IGNORECASE)
            return self._pattern, self._plainly


_secrets = _Secrets()


def add_secret(text: str | None) -> None:
    """Remember a token, key or password that this process has read: nothing may show it.

    None, and texts of fewer than 6 characters, which honest text holds by chance, are left out.
    """
    if text and len(text) >= _SHORTEST_SECRET:
        _secrets.add(text)


def _spellings(secret: str) -> Iterator[str]:
    """Patterns of a secret as it is, and as others write it: in other case, percent, as JSON, as
    HTML, with invisible characters between, and cut short."""
    letters = [_letter(character) for character in secret]
    yield _GAP.join(letters)
    yield _GAP.join(letters[: _telling(secret)]) + r"[^\s'\"<>,]{0,500}"


def _telling(secret: str) -> int:
    return min(len(secret), max(_FEWEST_TELLING, min(_TELLING, len(secret) // 2)))


def _encodings(secret: str) -> Iterator[str]:
    """The secret in base 16 and 64."""
    content = secret.encode("utf-8", "surrogatepass")
    yield content.hex()
    for before in range(3):
        # In the middle of something longer, such as user:token, the first and last letters differ.
        whole = base64.b64encode(bytes(before) + content).decode("ascii").rstrip("=")
        first, last = (0, 2, 3)[before], len(whole) - (1 if (before + len(content)) % 3 else 0)
        core = whole[first:last]
        if len(core) >= _SHORTEST_SECRET:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _letter(character: str) -> str:
    from html import escape

    number = ord(character)
    plain, content = re.escape(character), character.encode("utf-8", "surrogatepass")
    if not character.isalnum():
        plain = rf"\\{{0,3}}{plain}"
    percent = "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in content)
    python = rf"\\{{1,4}}(?:u{number:04x}|x{number:02x})"
    html = f"&#(?:x0{{0,6}}{number:x}|0{{0,6}}{number});"
    named = "" if character.isalnum() else f"|{re.escape(escape(character))}"
    return f"(?:{plain}|{percent}|{python}|{html}{named})"


def holds_secret(text: str) -> bool:
    """Whether a known secret stands in the text, in any of the spellings that are looked for."""
    return without_secrets(text) != text


def without_secrets(text: str) -> str:
    """``text`` without known secrets; other text stays as it is, and may be megabytes."""
    return _secrets.out_of(text) if _secrets.may_be_in(text) else text


def _is_plain(text: str) -> bool:
    return text.isascii() and text.replace("\n", " ").replace("\t", " ").isprintable()


def redacted(text: str) -> str:
    """``text`` without known secrets, and without what looks like one: tokens of hubs, the header
    Authorization, user names and passwords in addresses, tokens in their queries."""
    text = _secrets.out_of(text)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def escaped(text: str) -> str:
    """``text`` with escapes for what a terminal would act on, or not show."""
    if text.isprintable() and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(
        character
        if character.isprintable() and not _INVISIBLE.match(character)
        else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def shown(text: str) -> str:
    """One line for a person: without secrets, with escapes, of at most 4,000 characters."""
    return _cut(escaped(redacted(_cut(text, 4 * _LONGEST_MESSAGE))), _LONGEST_MESSAGE)


def on_page(text: str) -> str:
    """``text`` for a page, where a browser breaks the lines: without secrets, and with escapes for
    what would turn or hide the text around it. Joiners stay where letters and emoji need them."""
    text = without_secrets(text)
    return text if _is_plain(text) else _HIDES.sub(lambda found: _escape(found.group()), text)


def in_markdown(text: str) -> str:
    """``text`` as words of a page in Markdown: no link, picture, row, mention or HTML."""
    line = "".join(letter if escaped(letter) == letter else " " for letter in redacted(text))
    line = "".join(f"\\{letter}" if letter in "\\`*_[]<>|!#&~" else letter for letter in line)
    # Forges make links of bare addresses, and call people by their names.
    line = line.replace("://", "&#58;//").replace("www.", "www&#46;")
    return re.sub(r"(?<![\w.])@", "&#64;", line)


def one_line(text: str, longest: int = 200) -> str:
    """The words of a stranger as a part of a line, of at most ``longest`` characters."""
    most = 20 * longest
    if len(text) > most:
        # Not within a word: half a secret could not be told from other text.
        text = text[:most].rsplit(None, 1)[0]
    return _cut(escaped(redacted(" ".join(text.split()))), longest)


def reason_of(error: BaseException, longest: int = 300) -> str:
    """What an error of a library says, as a part of a line; or its kind where it says nothing."""
    return one_line(str(error), longest) or type(error).__name__


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def first_fault(error: ValidationError, longest: int = 300) -> str:
    """The first of pydantic's complaints in one line: where, what, and how many more there are.

    The place may hold keys that a stranger chose; the value that is wrong is not shown.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = fault_place(error)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place + ': ' if place else ''}{one_line(first['msg'], longest)}{more}"


def fault_place(error: ValidationError) -> str:
    """Where the first of pydantic's complaints is, as ``field.0.key``; empty for the whole."""
    where = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
    steps = [one_line(str(step), _LONGEST_PART) for step in where[:_MOST_PARTS]]
    return ".".join(steps + ["…"] * (len(where) > _MOST_PARTS))


def traceback_text(error: BaseException) -> str:
    """The traceback in the lines that Python prints, without secrets and control characters."""
    return _lines("".join(traceback.format_exception(error)))


def _lines(text: str) -> str:
    return "\n".join(escaped(line) for line in redacted(text).split("\n"))


@contextmanager
def guarded_output() -> Iterator[None]:
    """Keep secrets and control characters from stdout, stderr and the log while the block runs.

    Secrets of the environment, and of the addresses of proxies, count as known. What the two
    streams cannot encode is escaped. Colours, and what moves a progress bar, pass on a terminal.
    """
    for secret in _of_environment():
        # A lone word under such a name may be anything, and text holds it by chance.
        if len(secret) >= _SHORTEST_GUESSED and not secret.isalpha():
            add_secret(secret)
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    sys.stdout, sys.stderr = _guard(sys.stdout), _guard(sys.stderr)
    logging.setLogRecordFactory(_Record)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Guarded) and not stream.closed:
                stream.release()
        sys.stdout, sys.stderr = before[:2]
        logging.setLogRecordFactory(before[2])


_SECRET_NAME = re.compile(r"(?i)(?:.*_)?(?:token|secret|password|passphrase|api_?key)")
_PROXY_NAME = re.compile(r"(?i)(?:https?|all|ftp)_proxy")


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_NAME.fullmatch(name):
            yield value.strip()
        elif _PROXY_NAME.fullmatch(name):
            try:
                yield urlsplit(value).password or ""
            except ValueError:
                continue


def _guard(stream: Any) -> Any:
    """``stream`` with a guard before it, where it is one of bytes below."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return stream
    # A title may hold letters that the terminal's encoding lacks: better an escape than a fault.
    reconfigure(errors="backslashreplace")
    return stream if isinstance(stream, _Guarded) else _Guarded(stream)


class _Guarded(io.TextIOWrapper):
    """A text stream onto the bytes of another one."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        stream.flush()
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            newline="\n" if os.name != "nt" else None,
            line_buffering=stream.line_buffering,
            write_through=getattr(stream, "write_through", False),
        )
        self._is_terminal = stream.isatty()

    def write(self, text: str, /) -> int:
        super().write(_passing(text, self._is_terminal))
        return len(text)

    def release(self) -> None:
        """Leave the bytes below to the stream that had them before."""
        try:
            self.detach()
        except (OSError, ValueError):  # its reader has gone
            return


def _passing(text: str, is_terminal: bool) -> str:
    text = without_secrets(text)
    if _is_plain(text) or not _ACTS.search(text):
        return text
    if is_terminal:
        return _BAR.sub(lambda found: found.group(1) or _escape(found.group()), text)
    # Bars of libraries begin their lines anew, also in a file.
    begin = "\r" if text.startswith("\r") else ""
    return begin + _ACTS.sub(lambda found: _escape(found.group()), text[len(begin) :])


class _Record(logging.LogRecord):
    """A line of the log, whose text is looked at when it is made."""

    _trace: str | None = None

    def getMessage(self) -> str:  # noqa: N802, the name is logging's
        said = super().getMessage()
        # Our own lines are single ones: a stranger's text must not begin another.
        return escaped(redacted(said)) if self.name.startswith("gmi_registry") else _lines(said)

    @property
    def exc_text(self) -> str | None:
        return self._trace

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._trace = None if text is None else _lines(text)
