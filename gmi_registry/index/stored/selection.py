"""Filters as questions to the reader's database."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from gmi_registry.filters import Clause, Field, Filters, Traits

__all__ = ["BASE_WORDS", "Selection", "stored_words"]

# As one text: a tuple for each of a hundred thousand rows takes longer than to find them.
_TAGGED = "select group_concat(row) from tag where tag in"
_ROWS = "select group_concat(id) from row where"
_MARKS = {"stale": "stale <> 0", "mature": "nsfw <> 0 and hub = 'civitai'"}

BASE_WORDS = "base_model\n", "base_model\v"
"""Between these are the words that stand for base models."""

Question = tuple[str, tuple[object, ...]]
"""SQL that gives the numbers of rows with commas between, or null, and its values."""


class Selection:
    """What :meth:`Filters.admits` says, as sets of rows: those pass that are in all of ``required``
    and in none of ``excluded``. Each is answered out of one index of the database."""

    def __init__(
        self, filters: Filters, *, among: Collection[str] | None = None, nsfw: bool = True
    ) -> None:
        self.required: list[Question] = []
        self.excluded: list[Question] = []
        for clause in filters.clauses:
            (self.required if clause.wanted else self.excluded).append(_question(clause))
        if among is not None:
            # One value, however many names: the number of parameters is limited.
            names = json.dumps(sorted(_stored(name) for name in among))
            self.required.append(
                (f"{_ROWS} identity in (select value from json_each(?))", (names,))
            )
        if not nsfw:
            self.excluded.append((f"{_ROWS} nsfw <> 0", ()))

    @property
    def is_everything(self) -> bool:
        """Whether every row passes."""
        return not self.required and not self.excluded


def stored_words(traits: Traits) -> Iterator[str]:
    """What a row has in the table of tags: they, and the names of its base models."""
    yield from traits.tags or ()
    yield from (_word("base_model", name) for name in traits.base_models or ())


def _question(clause: Clause) -> Question:
    if clause.field == "mark":
        return f"{_ROWS} {' or '.join(f'({_MARKS[word]})' for word in clause.words)}", ()
    places = f"({', '.join('?' * len(clause.words))})"
    if clause.field == "kind":
        return f"{_ROWS} kind in {places}", clause.words
    return f"{_TAGGED} {places}", tuple(_word(clause.field, word) for word in clause.words)


def _word(field: Field, word: str) -> str:
    # No tag holds a line's end.
    return word if field == "tag" else f"{field}\n{word}"


def _stored(text: str) -> str:
    # What a terminal could not decode has no UTF-8, and so no place in a database. Like the line's
    # end that stands for it here, it is in no row.
    return "".join("\n" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
