"""``gmi cache``: what earlier searches left on this disk."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.atomic import user_cache
from gmi_registry.cli.options import AsJson, CacheDir, command, new_app
from gmi_registry.cli.output import fields_of, write_json, write_line, write_message, write_pairs

if TYPE_CHECKING:
    from gmi_registry.index.cache import StoredFile

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

app = new_app("Show, or delete, what earlier searches kept.")


@command(app)
def info(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Say where the cache is, what it holds, and when each part was last used."""
    from gmi_registry.cache import cache_parts
    from gmi_registry.index.cache import SpecCache

    parts = [(part, part.files()) for part in cache_parts(cache_dir)]
    cache = SpecCache(user_cache(cache_dir))
    use = cache.use()
    if as_json:
        described = [
            {
                **fields_of(part, "name folders database"),
                "files": len(files),
                "bytes": _size(files),
                "last_used": _last_used(files),
                "prunable": part.prunable,
            }
            for part, files in parts
        ]
        totals = fields_of(use, "specs bytes")
        write_json({"directory": cache.directory, **totals, "parts": described})
        return
    pairs = [("folder", str(cache.directory)), ("specifications", f"{use.specs:,}")]
    for part, files in parts:
        used = _last_used(files)
        when = "" if used is None else f", last used {used[:10]}"
        pairs.append((f"size of {part.name}", f"{_size(files):,} bytes{when}"))
    write_pairs(pairs)


@command(app)
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Keep what was used within this time: 12h, 30d, 8w."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Stop when the cache is no larger than this: 500MB, 2GB."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete what was kept, the longest unused first; the next search reads it again.

    Without the listings --offline finds nothing. Images of an interrupted publication are not
    deleted, nor are downloads, for which there is hf cache prune.
    """
    unused_for = 0.0 if older_than is None else parse_age(older_than)
    max_bytes = 0 if max_size is None else parse_size(max_size)
    from gmi_registry.cache import cache_parts
    from gmi_registry.cache import prune as prune_parts

    done = prune_parts(
        cache_parts(cache_dir), unused_for=unused_for, max_bytes=max_bytes, dry_run=dry_run
    )
    files, size = sum(item.files for item in done), sum(item.bytes for item in done)
    if as_json:
        parts = [{"name": item.part.name, **fields_of(item, "files bytes")} for item in done]
        write_json({"dry_run": dry_run, "files": files, "bytes": size, "parts": parts})
        return
    for item in done:
        if item.files:
            write_line(f"{item.part.name}: {item.files:,} files, {item.bytes:,} bytes")
    write_message(
        f"{files:,} files, {size:,} bytes {'would be' if dry_run else 'were'} deleted"
        + ("; leave out --dry-run to delete them" if dry_run else "")
    )


def parse_size(text: str) -> int:
    """Bytes: ``500MB``, ``2GB``, or a plain number. Raises typer.BadParameter."""
    return int(_parsed(text, _SIZES, "a size such as 500MB or 2GB"))


def parse_age(text: str) -> float:
    """Seconds: ``12h``, ``30d``, ``8w``. Raises typer.BadParameter."""
    return _parsed(text, _AGES, "a time such as 12h, 30d or 8w")


def _parsed(text: str, units: dict[str, int], wanted: str) -> float:
    found = _NUMBER.fullmatch(text.strip())
    unit = None if found is None else units.get(found.group(2).lower())
    if found is None or unit is None:
        raise typer.BadParameter(f"{text!r} is not {wanted}")
    return float(found.group(1)) * unit


def _size(files: list[StoredFile]) -> int:
    return sum(file.size for file in files)


def _last_used(files: list[StoredFile]) -> str | None:
    """ISO 8601 in UTC, to the second."""
    if not files:
        return None
    newest = max(file.used for file in files)
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
