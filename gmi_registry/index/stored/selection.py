"""Filters as questions to the reader's database."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import get_args

from gmi_registry.index.filters import Filters
from gmi_registry.model import Kind, is_kind

__all__ = ["Selection"]

# As one text: a tuple for each of a hundred thousand rows takes longer than to find them.
_TAGGED = "select group_concat(row) from tag where tag = ?"

Question = tuple[str, tuple[object, ...]]
"""SQL that gives the numbers of rows with commas between, or null, and its values."""


class Selection:
    """What :meth:`Filters.match` says, as sets of rows: those pass that are in all of ``required``
    and in none of ``excluded``. Each is answered out of one index of the database."""

    def __init__(
        self, filters: Filters, *, among: Collection[str] | None = None, nsfw: bool = True
    ) -> None:
        self.required: list[Question] = []
        self.excluded: list[Question] = []
        for tag in filters.tags:
            self.required.append((_TAGGED, (_folded(tag),)))
        for tag in filters.not_tags:
            self.excluded.append((_TAGGED, (_folded(tag),)))
        if filters.base_model is not None:
            alike = sorted({_folded(it) for it in (filters.base_model, *filters.base_names)})
            self._require(f"base_model in ({', '.join('?' * len(alike))})", *alike)
        if filters.kind is not None:
            kinds = [kind for kind in get_args(Kind) if is_kind(filters.kind, kind)]
            self._require(f"kind in ({', '.join('?' * len(kinds))})", *kinds)
        if filters.fresh_only:
            self._exclude("stale <> 0")
        if not filters.nsfw:
            # The other hubs do not rate.
            self._exclude("nsfw <> 0 and hub = 'civitai'")
        if among is not None:
            # One value, however many names: the number of parameters is limited.
            names = json.dumps(sorted(_stored(name) for name in among))
            self._require("identity in (select value from json_each(?))", names)
        if not nsfw:
            self._exclude("nsfw <> 0")

    @property
    def is_everything(self) -> bool:
        """Whether every row passes."""
        return not self.required and not self.excluded

    def _require(self, clause: str, *values: object) -> None:
        self.required.append((f"select group_concat(id) from row where {clause}", values))

    def _exclude(self, clause: str, *values: object) -> None:
        self.excluded.append((f"select group_concat(id) from row where {clause}", values))


def _folded(text: str) -> str:
    return _stored(text.casefold())


def _stored(text: str) -> str:
    # What a terminal could not decode has no UTF-8, and so no place in a database. Like the line's
    # end that stands for it here, it is in no row.
    return "".join("\n" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
