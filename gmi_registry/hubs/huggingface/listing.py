"""One listing of a hub's models with a specification, to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from huggingface_hub import HfApi

from gmi_registry.errors import HubError, InputError
from gmi_registry.filters import plain_tags
from gmi_registry.hubs.card import CARD_NAME
from gmi_registry.hubs.huggingface.catalogue import Entry
from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.hubs.huggingface.errors import Asked, explained
from gmi_registry.spec import SPEC_DIR, ModelRef

__all__ = ["SPEC_TAG", "list_entries"]

SPEC_TAG = "gmi-spec"
"""The tag in a model card by which a model with a specification is found."""

_INDEX = "model_index.json"
_WEIGHTS = ".safetensors"
# A list of files that is as long as this may go on where it ends.
_LONG_LIST = 1_000
# The same models again and again: a listing whose pages lead back into themselves.
_MOST_REPEATS = 10_000

_log = logging.getLogger(__name__)


def list_entries(api: HfApi, asked: Asked) -> list[Entry]:
    """Every model with :data:`SPEC_TAG`, sorted by id, each at the commit it has now.

    One request a page. By no other tag is the hub asked to filter: it knows each in the spelling of
    the card alone, and would keep back models that pass. What it says of a model is checked; a
    model whose name or commit makes no sense is left out with a warning in the log. Raises every
    error of the hub.
    """
    found: dict[str, Entry] = {}
    repeats = 0
    with explained(asked):
        for info in api.list_models(
            filter=[SPEC_TAG],
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


def _entry(info: Any) -> Entry | None:
    try:
        ModelRef("hf", info.id)
    except (InputError, TypeError):
        _log.warning("%.80r is no name for a model, and is passed over", info.id)
        return None
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        _log.warning("hf:%s is listed without a commit, and is passed over", info.id)
        return None
    downloads, gated = info.downloads, info.gated not in (None, False)
    return Entry(
        id=info.id,
        commits=(info.sha,),
        tags=plain_tags(info.tags),
        gated=gated,
        downloads=downloads if type(downloads) is int and 0 <= downloads < 2**53 else None,
        modified=None if info.last_modified is None else info.last_modified.isoformat(),
        seen=time.time(),
        # Of a gated one whether it may be read shows when it is asked for.
        has_spec=gated or not _lacks_spec(info.siblings, info.tags or ()),
    )


def _lacks_spec(siblings: Any, tags: Iterable[Any]) -> bool:
    """Whether a model holds no specification, as far as its list of files can be believed.

    Only a list that looks whole is: one that has the card, from which the tag comes by which the
    model was found, and the files from which the hub derived its own tags, and that is not so long
    that a hub may have cut it off. Of any other model the files are asked for.
    """
    if not isinstance(siblings, list):
        return False
    names = {getattr(item, "rfilename", None) for item in siblings}
    if any(not isinstance(name, str) or name.startswith(f"{SPEC_DIR}/") for name in names):
        # With some of its files it is half done, or cut off; whoever asks is told what is missing.
        return False
    whole = CARD_NAME in names and len(siblings) < _LONG_LIST
    for tag in tags:
        if tag == "safetensors":
            whole = whole and any(str(name).endswith(_WEIGHTS) for name in names)
        elif isinstance(tag, str) and tag.startswith("diffusers:"):
            whole = whole and _INDEX in names
    return whole
