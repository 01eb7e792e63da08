"""One listing of a hub's models with a specification, to its end."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from typing import Any

from huggingface_hub import HfApi

from gmi_registry.errors import HubError, InputError
from gmi_registry.hubs.huggingface.catalogue import Entry
from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.hubs.huggingface.errors import Asked, explained
from gmi_registry.hubs.protocol import ListingFilter
from gmi_registry.spec import ModelRef
from gmi_registry.spec.fields import unprintable

__all__ = ["SPEC_TAG", "admits", "bases", "covers", "list_entries", "server_tags"]

SPEC_TAG = "gmi-spec"
"""The tag in a model card by which a model with a specification is found."""

_BASE = "base_model:"
_RELATED = re.compile(r"(?:adapter|finetune|merge|quantized):")
_INDEX = "model_index.json"
_LONGEST_TAG = 200
_MOST_TAGS = 500
# The same models again and again: a listing whose pages lead back into themselves.
_MOST_REPEATS = 10_000

_log = logging.getLogger(__name__)


def server_tags(wanted: ListingFilter) -> list[str]:
    """The part of a filter that the hub itself can apply: tags. A base model has several names."""
    return list(dict.fromkeys([SPEC_TAG, *wanted.tags]))


def list_entries(api: HfApi, asked: Asked, tags: list[str]) -> list[Entry]:
    """Every model with all of ``tags``, sorted by id, each at the commit it has now.

    One request a page. What the hub says of a model is checked; a model whose name or commit makes
    no sense is left out with a warning in the log. Raises every error of the hub.
    """
    found: dict[str, Entry] = {}
    repeats = 0
    with explained(asked):
        for info in api.list_models(
            filter=tags,
            expand=["sha", "siblings", "tags", "lastModified", "gated", "downloads"],
        ):
            entry = _entry(info)
            if entry is None:
                continue
            repeats += entry.id in found
            if repeats > _MOST_REPEATS:
                raise HubError(
                    f"{asked.endpoint} lists the same models without end",
                    hint="check HF_ENDPOINT, or run the same command again later",
                )
            found[entry.id] = entry
    return [found[name] for name in sorted(found)]


def admits(wanted: ListingFilter, entry: Entry) -> bool:
    """Whether a listed model passes, as far as its tags and files tell; its manifest says more."""
    kind = wanted.kind
    if entry.pipeline:
        # Of the others a LoRA and a single file look alike from here: their manifests decide.
        kind = "checkpoint"
    base = wanted.base_model
    if base is not None and "/" in base:
        tags = {tag.casefold() for tag in entry.tags}
        names = (base, *wanted.base_names)
        base = base if any((_BASE + name).casefold() in tags for name in names) else None
    return wanted.admits(entry.tags, base, kind)


def bases(entry: Entry) -> Iterator[str]:
    """What the tags of a listed model call its base models."""
    for tag in entry.tags:
        name = tag.removeprefix(_BASE)
        # With the relation before it, the same name stands there once more.
        if name != tag and not _RELATED.match(name):
            yield name


def covers(tags: list[str], entry: Entry) -> bool:
    """Whether a listing by ``tags`` would have held this model, were it still as it was."""
    return set(tags) - {SPEC_TAG} <= set(entry.tags)


def _entry(info: Any) -> Entry | None:
    try:
        ModelRef("hf", info.id)
    except (InputError, TypeError):
        _log.warning("%.80r is no name for a model, and is passed over", info.id)
        return None
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        _log.warning("hf:%s is listed without a commit, and is passed over", info.id)
        return None
    names = None if info.siblings is None else {item.rfilename for item in info.siblings}
    downloads = info.downloads
    return Entry(
        id=info.id,
        commits=(info.sha,),
        tags=tuple(_tags(info.tags)),
        pipeline=None if names is None else _INDEX in names,
        gated=info.gated not in (None, False),
        downloads=downloads if type(downloads) is int and 0 <= downloads < 2**53 else None,
        modified=None if info.last_modified is None else info.last_modified.isoformat(),
        seen=time.time(),
    )


def _tags(tags: Any) -> Iterator[str]:
    if not isinstance(tags, list):
        return
    for tag in tags[:_MOST_TAGS]:
        if isinstance(tag, str) and 0 < len(tag) <= _LONGEST_TAG and not unprintable(tag):
            yield tag
