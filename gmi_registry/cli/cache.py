"""``gmi cache``: what earlier searches left on this disk."""

from __future__ import annotations

import typer

from gmi_registry.cli.folder import cache_folder
from gmi_registry.cli.funnel import funnel
from gmi_registry.cli.option import AsJson, CacheDir, new_app
from gmi_registry.cli.screen import write_json, write_line, write_pairs

__all__ = ["app"]

app: typer.Typer = new_app("Look at, or delete, what earlier searches kept.")


@app.command()
@funnel()
def info(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Say where the cache is and what it holds."""
    from gmi_registry.index.cache import SpecCache

    cache = SpecCache(cache_folder(cache_dir))
    use = cache.use()
    if as_json:
        write_json({"directory": str(cache.directory), "specs": use.specs, "bytes": use.bytes})
        return
    write_pairs(
        [
            ("folder", str(cache.directory)),
            ("specifications", f"{use.specs:,}"),
            ("size", f"{use.bytes:,} bytes"),
        ]
    )


@app.command()
@funnel()
def prune(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Delete the specifications kept; the next search reads them from the hub again.

    Images of an interrupted publication are not touched.
    """
    from gmi_registry.index.cache import SpecCache

    cache = SpecCache(cache_folder(cache_dir))
    before = cache.use()
    cache.clear()
    after = cache.use()
    specs, size = before.specs - after.specs, before.bytes - after.bytes
    if as_json:
        write_json({"directory": str(cache.directory), "specs": specs, "bytes": size})
    else:
        write_line(f"deleted {specs:,} specifications, {size:,} bytes, from {cache.directory}")
