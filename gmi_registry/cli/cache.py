"""``gmi cache``: what earlier searches left on this disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.options import AsJson, CacheDir, cache_folder, new_app, parse_age, parse_size
from gmi_registry.cli.output import (
    handle_errors,
    write_json,
    write_line,
    write_message,
    write_pairs,
)

if TYPE_CHECKING:
    from gmi_registry.index.cache import StoredFile


app: typer.Typer = new_app("Look at, or delete, what earlier searches kept.")


@app.command()
@handle_errors()
def info(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Say where the cache is, what it holds, and when that was used last."""
    from gmi_registry.cache import cache_parts
    from gmi_registry.index.cache import SpecCache

    parts = [(part, part.files()) for part in cache_parts(cache_dir)]
    cache = SpecCache(cache_folder(cache_dir))
    use = cache.use()
    if as_json:
        described = [
            {
                "name": part.name,
                "folders": [str(folder) for folder in part.folders],
                "database": None if part.database is None else str(part.database),
                "files": len(files),
                "bytes": _size(files),
                "last_used": _last_used(files),
                "prunable": part.prunable,
            }
            for part, files in parts
        ]
        write_json(
            {
                "directory": str(cache.directory),
                "specs": use.specs,
                "bytes": use.bytes,
                "parts": described,
            }
        )
        return
    pairs = [("folder", str(cache.directory)), ("specifications", f"{use.specs:,}")]
    for part, files in parts:
        used = _last_used(files)
        when = "" if used is None else f", last used {used[:10]}"
        pairs.append((f"size of {part.name}", f"{_size(files):,} bytes{when}"))
    write_pairs(pairs)


@app.command()
@handle_errors()
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Spare what was used since: 12h, 30d, 8w.",
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Stop once this much is left: 500MB, 2GB.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete what was kept, the longest unused first; the next search reads it again.

    Without the listings --offline finds nothing. Images of an interrupted publication are
    not touched, nor is what was downloaded, for which there is hf cache prune.
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
        document: dict[str, Any] = {"dry_run": dry_run, "files": files, "bytes": size}
        document["parts"] = [
            {"name": item.part.name, "files": item.files, "bytes": item.bytes} for item in done
        ]
        write_json(document)
        return
    for item in done:
        if item.files:
            write_line(f"{item.part.name}: {item.files:,} files, {item.bytes:,} bytes")
    write_message(
        f"{files:,} files, {size:,} bytes {'would be' if dry_run else 'were'} deleted"
        + ("; leave out --dry-run to do it" if dry_run else "")
    )


def _size(files: list[StoredFile]) -> int:
    return sum(file.size for file in files)


def _last_used(files: list[StoredFile]) -> str | None:
    """ISO 8601 in UTC, to the second."""
    if not files:
        return None
    newest = max(file.used for file in files)
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
