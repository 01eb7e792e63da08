"""Which models a search looks at."""

from __future__ import annotations

from dataclasses import dataclass

from gmi_registry.index.entry import IndexEntry

__all__ = ["Filters"]


@dataclass(frozen=True)
class Filters:
    """All of ``tags``, none of ``not_tags``, that ``base_model``, that ``kind``; None means any.

    Letter case does not matter. The manifest decides, whatever a hub's own search let through.
    ``fresh_only`` leaves out models that are known to be stale.
    """

    tags: tuple[str, ...] = ()
    not_tags: tuple[str, ...] = ()
    base_model: str | None = None
    kind: str | None = None
    fresh_only: bool = False

    def match(self, entry: IndexEntry, stale: bool | None = None) -> bool:
        """Whether a model passes that is described so, and ``stale`` as far as anybody knows."""
        if self.fresh_only and stale:
            return False
        tags = {tag.casefold() for tag in entry.tags}
        return (
            all(tag.casefold() in tags for tag in self.tags)
            and not any(tag.casefold() in tags for tag in self.not_tags)
            and _same(self.base_model, entry.base_model)
            and _same(self.kind, entry.kind)
        )


def _same(wanted: str | None, found: str | None) -> bool:
    return wanted is None or (found is not None and wanted.casefold() == found.casefold())
