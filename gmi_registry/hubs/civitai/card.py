"""Civitai's description of a version as a model card."""

from __future__ import annotations

import re

from gmi_registry.hubs.civitai.wire import WireModel, WireVersion, is_mature
from gmi_registry.model import ModelCard

__all__ = ["card_of", "licence_of"]

_LONGEST = 200
_MOST_TRIGGERS = 100
"""Letters: what goes before every prompt must leave room for the prompt."""
_WORD = re.compile(r"[A-Za-z]+")


def card_of(model: WireModel, version: WireVersion) -> ModelCard:
    """The card: title ``model · version``, the base under Civitai's own name.

    Of the words that an author names, which often stand for one thing each, the first go before
    every prompt, as long as they are 100 letters together.
    """
    levels = [version.nsfw_level, model.nsfw_level]
    level = next((level for level in levels if level is not None), None)
    return ModelCard(
        title=f"{model.name} · {version.name}"[:_LONGEST].strip(),
        tags=model.tags[:_LONGEST],
        licence=licence_of(model),
        base_model=version.base_model,
        nsfw=is_mature(nsfw=model.nsfw, level=level),
        downloads=version.downloads,
        trigger_words=_triggers(version),
    )


def licence_of(model: WireModel) -> str | None:
    """What others may do, in a few words; None where Civitai does not say."""
    uses = model.allow_commercial_use
    if not isinstance(uses, str | list):
        return None
    # A list, or a list as a database prints it: {Image,RentCivit}.
    text = uses if isinstance(uses, str) else " ".join(map(str, uses[:20]))
    words = dict.fromkeys(word for word in _WORD.findall(text[:_LONGEST]) if word != "None")
    parts = [f"commercial use: {', '.join(words) if words else 'none'}"]
    for flag, yes, no in (
        (model.allow_derivatives, "derivatives allowed", "no derivatives"),
        (model.allow_different_license, "any licence for them", "the same licence for them"),
        (model.allow_no_credit, "no credit needed", "credit required"),
    ):
        if flag is not None:
            parts.append(yes if flag else no)
    return f"Civitai: {'; '.join(parts)}"[:_LONGEST]


def _triggers(version: WireVersion) -> tuple[str, ...]:
    chosen: list[str] = []
    for word in version.trained_words:
        word = word.strip(" ,")
        if not word or sum(map(len, chosen)) + len(word) > _MOST_TRIGGERS:
            break
        chosen.append(word)
    return tuple(chosen)
