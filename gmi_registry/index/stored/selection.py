"""Filters as questions to the reader's database."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import get_args

from gmi_registry.index.filters import Filters
from gmi_registry.model import Kind, is_kind

__all__ = ["Selection"]


class Selection:
    """The SQL condition over ``row`` that says what :meth:`Filters.match` says, and its values."""

    def __init__(
        self,
        filters: Filters,
        *,
        hub: str | None = None,
        among: Collection[str] | None = None,
        nsfw: bool = True,
    ) -> None:
        self.values: list[object] = []
        self._clauses: list[str] = []
        for tag in filters.tags:
            self._where("id in (select row from tag where tag = ?)", _folded(tag))
        for tag in filters.not_tags:
            self._where("id not in (select row from tag where tag = ?)", _folded(tag))
        if filters.base_model is not None:
            self._where("base_model = ?", _folded(filters.base_model))
        if filters.kind is not None:
            kinds = [kind for kind in get_args(Kind) if is_kind(filters.kind, kind)]
            self._where(f"kind in ({', '.join('?' * len(kinds))})", *kinds)
        if filters.fresh_only:
            self._where("stale = 0")
        if not filters.nsfw:
            # The other hubs do not rate.
            self._where("(nsfw = 0 or hub <> 'civitai')")
        if hub is not None:
            self._where("hub = ?", _stored(hub))
        if among is not None:
            # One value, however many names: the number of parameters is limited.
            names = json.dumps(sorted(_stored(name) for name in among))
            self._where("identity in (select value from json_each(?))", names)
        if not nsfw:
            self._where("nsfw = 0")

    @property
    def is_everything(self) -> bool:
        """Whether every row passes."""
        return not self._clauses

    @property
    def condition(self) -> str:
        """An expression with a ``?`` for each of ``values``."""
        return " and ".join(self._clauses) or "1"

    def _where(self, clause: str, *values: object) -> None:
        self._clauses.append(clause)
        self.values += values


def _folded(text: str) -> str:
    return _stored(text.casefold())


def _stored(text: str) -> str:
    # What a terminal could not decode has no UTF-8, and so no place in a database. Like the line's
    # end that stands for it here, it is in no row.
    return "".join("\n" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
