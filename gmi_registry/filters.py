"""Which models a search looks at: one filter, whoever applies it.

A filter is a list of :class:`Clause`. A listing, an index in memory, the database of a stored index
and a Qdrant server apply the same clauses to the same words of a model (:class:`Traits`), each by
its own means, so that they let the same models through.

The rule for words is :func:`fold`: letter case, the way in which Unicode composes a letter, and the
amount of white space do not count; everything else does.

A model's tags are those that its hub lists for it now. Where the hub lists none, they are those of
its specification. Base models go by the same rule: what Hugging Face lists among the tags
(``base_model:owner/name``), else what the specification names. The kind is that of the
specification, and a rating the hub's where it says one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from gmi_registry.spec.reference import unprintable

Field = Literal["tag", "base_model", "kind", "mark"]
"""What a clause looks at. Marks are ``stale``, and ``mature`` for what Civitai rates above PG."""

# Characters of a tag: a longer one no specification could hold.
_LONGEST_TAG = 200
_MOST_TAGS = 500
# Of all tags of one model together: they travel in every index.
_MOST_BYTES = 64 * 1024

# The relation is a word; what is before two slashes is the scheme of an address.
_BASE_TAG = re.compile(r"\s*base_model:(?:\s*\w+:(?!//))?(.*)", re.IGNORECASE | re.DOTALL)
# No field of a specification holds it, so that no word of a model is equal to one that does.
_NO_CHARACTER = "\x1a"


@lru_cache(maxsize=1 << 16)
def fold(text: str) -> str:
    """``text`` as it is compared with others.

    Unicode's canonical caseless matching (The Unicode Standard, section 3.13, D145), in composed
    form, with runs of white space as one space and none at the ends. A lone surrogate, which is
    what a terminal leaves of bytes that it cannot decode, is no part of what a model may be called.
    """
    text = " ".join(text.split())
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFD", text)
    found = unicodedata.normalize("NFC", unicodedata.normalize("NFD", apart.casefold()))
    return "".join(_NO_CHARACTER if "\ud800" <= it <= "\udfff" else it for it in found)


def plain_tags(tags: object) -> tuple[str, ...]:
    """The usable ones of what a hub lists as ``tags``, in its order: each once, on one line.

    Passed over is what is no text, has control characters or surrogates, or is longer than 200
    characters; and all behind the first 500, or 64 KiB.
    """
    found: dict[str, None] = {}
    room = _MOST_BYTES
    for tag in tags[:_MOST_TAGS] if isinstance(tags, list | tuple) else ():
        if not isinstance(tag, str) or len(tag) > _LONGEST_TAG:
            continue
        line = " ".join(tag.split())
        if not line or unprintable(line) or line in found:
            continue
        room -= len(line.encode())
        if room < 0:
            break
        found[line] = None
    return tuple(found)


def listed_bases(hub: str, tags: Iterable[str]) -> frozenset[str]:
    """What the ``tags`` that Hugging Face lists call the base models: ``base_model:NAME``, and the
    same with the relation before the name. None of another ``hub``.

    Cards name bases by the address of their page as well, and the tag repeats that: it means the
    model of that name.
    """
    if hub != "hf":
        return frozenset()
    found = (_BASE_TAG.fullmatch(tag) for tag in tags)
    names = (match[1].strip() for match in found if match is not None)
    return frozenset(_base_name(name) for name in names if name)


def bases(hub: str, hub_tags: Iterable[str], named: str | None) -> frozenset[str]:
    """What the base models are called: as ``hub`` lists them now, else as the manifest has it."""
    told = frozenset() if named is None else frozenset({_base_name(named)})
    return listed_bases(hub, hub_tags) or told


@lru_cache(maxsize=1 << 14)  # many models have one base
def _base_name(text: str) -> str:
    # No way of naming a model of Hugging Face does without both.
    if "/" not in text and ":" not in text:
        return text
    from gmi_registry.spec.address import repository_name

    return repository_name(text)


@dataclass(frozen=True)
class Traits:
    """What filters look at of one model, folded; None for what is not known before its
    specification is read."""

    tags: frozenset[str] | None = None
    base_models: frozenset[str] | None = None
    kinds: frozenset[str] | None = None
    marks: frozenset[str] | None = None

    @classmethod
    def listed(cls, hub: str, tags: Iterable[str], nsfw: bool | None = None) -> Traits:
        """What ``hub`` lists of a model, before its specification is read."""
        words = frozenset(map(fold, tags))
        return cls(
            tags=words or None,
            base_models=frozenset(map(fold, listed_bases(hub, tags))) or None,
            marks=None if nsfw is None else _marks(hub, nsfw=nsfw, stale=False),
        )

    @classmethod
    def of(
        cls,
        hub: str,
        *,
        kind: str,
        tags: Iterable[str] = (),
        base_model: str | None = None,
        nsfw: bool = False,
        hub_tags: Iterable[str] = (),
        stale: bool | None = None,
    ) -> Traits:
        """A model of ``hub`` whose specification says so, and whose hub lists ``hub_tags`` now."""
        words = frozenset(map(fold, hub_tags))
        return cls(
            tags=words or frozenset(map(fold, tags)),
            base_models=frozenset(map(fold, bases(hub, hub_tags, base_model))),
            kinds=frozenset({fold(kind)}),
            marks=_marks(hub, nsfw=nsfw, stale=bool(stale)),
        )

    def words(self, field: Field) -> frozenset[str] | None:
        """Those of ``field``."""
        return {
            "tag": self.tags,
            "base_model": self.base_models,
            "kind": self.kinds,
            "mark": self.marks,
        }[field]


UNKNOWN_TRAITS = Traits()
"""Of a model of which nothing is known yet."""


@dataclass(frozen=True)
class Clause:
    """Passes what has one of ``words``, folded, in ``field``; without ``wanted`` what has none."""

    field: Field
    words: tuple[str, ...]
    wanted: bool = True

    def admits(self, traits: Traits) -> bool:
        """Whether a model passes. What is not known yet does."""
        known = traits.words(self.field)
        return known is None or known.isdisjoint(self.words) is not self.wanted


@dataclass(frozen=True)
class Filters:
    """All of ``tags``, none of ``not_tags``, that ``base_model``, that ``kind``; None means any.

    ``base_names`` are other names of that base, which count as well. A ``checkpoint`` may be a
    single file. ``fresh_only`` leaves out models that are known to be stale. Without ``nsfw``
    models of Civitai, the hub that rates them, are left out where they are rated above PG.
    """

    tags: tuple[str, ...] = ()
    not_tags: tuple[str, ...] = ()
    base_model: str | None = None
    kind: str | None = None
    nsfw: bool = True
    fresh_only: bool = False
    base_names: tuple[str, ...] = ()

    @cached_property
    def clauses(self) -> tuple[Clause, ...]:
        """What a model has to pass, all of it."""
        found = [Clause("tag", (fold(tag),)) for tag in self.tags]
        found += [Clause("tag", (fold(tag),), wanted=False) for tag in self.not_tags]
        if self.base_model is not None:
            names = dict.fromkeys(map(fold, (self.base_model, *self.base_names)))
            found.append(Clause("base_model", tuple(names)))
        if self.kind is not None:
            kind = fold(self.kind)
            # A whole model in one file is one to whoever does not care how it is packed.
            alike = ("single-file",) if kind == "checkpoint" else ()
            found.append(Clause("kind", (kind, *alike)))
        if self.fresh_only:
            found.append(Clause("mark", ("stale",), wanted=False))
        if not self.nsfw:
            found.append(Clause("mark", ("mature",), wanted=False))
        return tuple(dict.fromkeys(found))

    def admits(self, traits: Traits) -> bool:
        """Whether a model passes. Of one whose specification was not read yet: whether it may."""
        return all(clause.admits(traits) for clause in self.clauses)


def _marks(hub: str, *, nsfw: bool, stale: bool) -> frozenset[str]:
    # The other hubs do not rate.
    mature = ("mature",) if nsfw and hub == "civitai" else ()
    return frozenset((*mature, *(("stale",) if stale else ())))
