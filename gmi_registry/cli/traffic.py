"""What a search says on stderr: how it went, and what it asked of the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmi_registry.cli.output import write_message

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub
    from gmi_registry.search.result import SearchResult

__all__ = ["age", "announce_waits", "comment"]

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def announce_waits(hub: Hub) -> None:
    """Say so when the hub is busy or does not answer, and this program waits."""
    from gmi_registry.search.run import Remote

    if isinstance(hub, Remote):
        hub.traffic.on_wait = lambda seconds: write_message(f"trying again in {seconds:.0f} s")


def comment(result: SearchResult, *, quiet: bool, verbose: bool) -> None:
    """Say what the ranking itself cannot say."""
    if verbose:
        for skipped in result.skipped:
            write_message(f"skipped {skipped.model}: {skipped.reason}")
    if quiet:
        return
    if not result.groups:
        write_message(f"no model matches; {result.looked_at} looked at")
    else:
        index = "" if result.index is None else f", in the index {result.index}"
        write_message(f"{result.looked_at:,} models looked at, {result.matched:,} matched{index}")
    for hit in result.hits:
        if hit.described_as is not None:
            write_message(
                f"{hit.ref.repository} was called {hit.described_as} when it was described"
            )
    if result.stale_left_out:
        write_message(f"{result.stale_left_out} left out: their weights have changed since")
    if result.skipped and not verbose:
        write_message(f"{len(result.skipped)} skipped; -v says why")
    if result.offline and result.requests is not None:
        # Last, where it is seen: the answer may be of another day.
        listed = result.catalogue_age
        known = "there was none yet" if listed is None else f"it is {age(listed)} old"
        write_message(f"offline, from the last listing of the hub: {known}")
    if verbose and result.requests is not None:
        each = ", ".join(f"{method} {count:,}" for method, count in result.requests.items())
        write_message(
            f"requests: {sum(result.requests.values()):,}" + (f" ({each})" if each else "")
        )


def age(seconds: float) -> str:
    """A time span in its largest unit: ``3 hours``."""
    for unit, length in _UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return "less than a minute"
