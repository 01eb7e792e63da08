"""Which models a search looks at."""

from __future__ import annotations

from dataclasses import dataclass

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.standing import UNKNOWN, Standing
from gmi_registry.model import is_base, is_kind

__all__ = ["Filters"]


@dataclass(frozen=True)
class Filters:
    """All of ``tags``, none of ``not_tags``, that ``base_model``, that ``kind``; None means any.

    ``base_names`` are other names of that base, which count as well. Letter case does not matter; a
    ``checkpoint`` may be a single file. The manifest decides, whatever a hub's own search let
    through. ``fresh_only`` leaves out models that are known to be stale. Without ``nsfw`` models of
    Civitai, the hub that rates them, are left out where they are rated above PG.
    """

    tags: tuple[str, ...] = ()
    not_tags: tuple[str, ...] = ()
    base_model: str | None = None
    kind: str | None = None
    fresh_only: bool = False
    nsfw: bool = True
    base_names: tuple[str, ...] = ()

    def match(self, entry: IndexEntry, standing: Standing = UNKNOWN) -> bool:
        """Whether a model passes that is described so, of which a hub says ``standing``.

        Tags that the hub names now count beside those of the manifest.
        """
        if self.fresh_only and standing.stale:
            return False
        tags = {tag.casefold() for tag in (*entry.tags, *standing.tags)}
        return (
            all(tag.casefold() in tags for tag in self.tags)
            and not any(tag.casefold() in tags for tag in self.not_tags)
            and is_base(self.base_model, self.base_names, entry.base_model)
            and is_kind(self.kind, entry.kind)
            and (self.nsfw or not _is_rated(entry))
        )


def _is_rated(entry: IndexEntry) -> bool:
    return entry.nsfw and entry.model.hub == "civitai"
