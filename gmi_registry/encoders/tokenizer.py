"""Texts to the token numbers of CLIP's byte-pair vocabulary, without torch."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError

Cleaning = Literal["lower", "whitespace", "canonicalize"]

_START, _END = "<start_of_text>", "<end_of_text>"
_WORD_END = "</w>"
# The marks first, then English endings, runs of letters, single digits, and runs of the rest.
_PIECES = (
    rf"{_START}|{_END}"
    r"|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_MOST_MERGES = 100_000
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Pair = tuple[str, str]


def split_merges(data: bytes) -> list[Pair]:
    """The content of ``merges.txt``: a pair of symbols a line, the most frequent first.

    Raises InputError where it is anything else.
    """
    try:
        # Not splitlines(), which also ends lines at characters that stand for bytes here.
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise _not_merges("it is not UTF-8") from None
    if len(lines) > _MOST_MERGES:
        raise _not_merges(f"it has more than {_MOST_MERGES:,} lines")
    pairs = []
    for line in lines:
        first, blank, second = line.partition(" ")
        if not (first and blank and second) or " " in second:
            raise _not_merges(f"{line[:60]!r} is no pair")
        pairs.append((first, second))
    return pairs


def join_merges(pairs: Sequence[Pair]) -> bytes:
    """The inverse of :func:`split_merges`."""
    return "".join(f"{first} {second}\n" for first, second in pairs).encode("utf-8")


class ClipTokens:
    """Texts to int64 [B, L], as open_clip's SimpleTokenizer gives them.

    ``merges`` are in order of rank; L is ``length``. Raises InputError for a length below 2, in
    which the two marks find no room.
    """

    def __init__(self, merges: Sequence[Pair], length: int, cleaning: Cleaning = "lower") -> None:
        if length < 2:
            raise InputError(f"{length} tokens hold no text", hint="use 2 or more")
        letters = list(_letters().values())
        words = [*letters, *(letter + _WORD_END for letter in letters)]
        words += [first + second for first, second in merges]
        words += [_START, _END]
        # Of a symbol that two merges make, the later number counts.
        self._numbers = {word: number for number, word in enumerate(words)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known = {mark: [self._numbers[mark]] for mark in (_START, _END)}
        self._cleaning = cleaning
        self.length = length

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """B texts to int64 [B, L]: start, tokens, end, zeros; a longer text is cut there."""
        rows = np.zeros((len(texts), self.length), dtype=np.int64)
        start, end = self._numbers[_START], self._numbers[_END]
        for row, text in zip(rows, texts, strict=True):
            numbers = [start, *self._encoded(text)][: self.length - 1]
            row[: len(numbers) + 1] = [*numbers, end]
        return rows

    def _encoded(self, text: str) -> list[int]:
        letters = _letters()
        numbers: list[int] = []
        for piece in self._pattern.findall(_cleaned(text, self._cleaning)):
            word = "".join(letters[byte] for byte in piece.encode("utf-8"))
            if word not in self._known:
                self._known[word] = [self._numbers[symbol] for symbol in self._merged(word)]
            numbers += self._known[word]
        return numbers

    def _merged(self, word: str) -> list[str]:
        """The symbols of a word, after every merge that applies, those of lowest rank first."""
        symbols = [*word[:-1], word[-1] + _WORD_END]
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined: list[str] = []
            place = 0
            while place < len(symbols):
                if tuple(symbols[place : place + 2]) == best:
                    joined.append(best[0] + best[1])
                    place += 2
                else:
                    joined.append(symbols[place])
                    place += 1
            symbols = joined
        return symbols

    @cached_property
    def _pattern(self) -> Any:
        import regex

        return regex.compile(_PIECES, regex.IGNORECASE)


@cache
def _letters() -> dict[int, str]:
    """A visible character for each byte: itself where it is one, else one from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(0x100 + rank) for rank, byte in enumerate(others)
    }


def _cleaned(text: str, cleaning: Cleaning) -> str:
    # ftfy takes long to import, and leaves plain English as it is.
    if not text.isascii() or not text.isprintable() or "&" in text:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    clean: Callable[[str], str] = _CLEANING[cleaning]
    return clean(" ".join(text.split()))


def _canonical(text: str) -> str:
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


_CLEANING: dict[Cleaning, Callable[[str], str]] = {
    "lower": str.lower,
    "whitespace": str,
    "canonicalize": _canonical,
}


def _not_merges(reason: str) -> InputError:
    return InputError(
        f"merges.txt is not a byte-pair vocabulary: {reason}",
        hint="export the encoder again: gmi encoder export NAME/PRETRAINED --output DIR",
    )
