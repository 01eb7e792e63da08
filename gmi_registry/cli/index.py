"""``gmi index``: many specifications as one index, which a search opens at once."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.atomic import user_cache
from gmi_registry.cli.options import (
    AccessOptions,
    AsJson,
    CacheDir,
    OutputOptions,
    Quiet,
    RegistryText,
    Tags,
    Token,
    Workers,
    command,
    new_app,
    show_log,
)
from gmi_registry.cli.output import (
    StageProgress,
    fields_of,
    write_json,
    write_line,
    write_message,
    write_pairs,
)
from gmi_registry.errors import GmiError, InputError
from gmi_registry.hubs.open import DEFAULT_HUB, HubAccess, opened_hub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gmi_registry.encoders.encoder import Encoder
    from gmi_registry.index import ComparabilityKey, Hubness, SpecCache
    from gmi_registry.index.stored import StoredGroup, StoredIndex

app = new_app(
    "Make one index of many specifications, so that a search reads it and not each of them."
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the index.")]
Hubs = Annotated[
    list[str],
    typer.Option(
        "--hub",
        metavar="HUB",
        help="What to index: hf, civitai, or a folder that holds models; repeatable.",
    ),
]

# Skipped specifications that are named on a screen.
_SHOWN = 20
_REMARKABLE = 2.0
"""Times the share that a model has to be first for, beyond chance, to be named."""


@command(app)
def build(
    folder: Folder,
    hub: Hubs,
    tag: Tags = None,
    workers: Workers = 8,
    *,
    access: AccessOptions,
    show: OutputOptions,
) -> None:
    """Make an index of all specifications of hubs, and of those that the registry has for them."""
    show_log(show.verbose)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder", hint="name one: gmi index build DIR --hub HUB")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty", hint=f"gmi index update {folder} --hub ..., or another folder"
        )
    _index(folder, hub, tag, workers, access, show)


@command(app)
def update(
    folder: Folder,
    hub: Hubs,
    tag: Tags = None,
    workers: Workers = 8,
    *,
    access: AccessOptions,
    show: OutputOptions,
) -> None:
    """Read what is new on hubs, and remove what they no longer have.

    Give the same --tag as before: models of these hubs that do not pass it leave the index.
    """
    show_log(show.verbose)
    from gmi_registry.index.stored import DOCUMENT_NAME

    if not (folder / DOCUMENT_NAME).exists():
        raise InputError(f"{folder} holds no index", hint=f"gmi index build {folder} --hub ...")
    _index(folder, hub, tag, workers, access, show)


def _index(
    folder: Path,
    hubs: list[str],
    tags: list[str] | None,
    workers: int,
    access: AccessOptions,
    show: OutputOptions,
) -> None:
    from gmi_registry.filters import Filters
    from gmi_registry.indexing import index_hubs

    with ExitStack() as stack:
        opened = [stack.enter_context(access.opened(hub)) for hub in hubs]
        stages = {"read": "reading specifications"}
        progress = stack.enter_context(StageProgress(stages, quiet=show.quiet))
        done = index_hubs(
            folder,
            opened,
            cache_dir=access.cache,
            filters=Filters(tags=tuple(tags or ())),
            workers=workers,
            progress=lambda count, total: progress("read", count, total),
        )
    change = done.change
    if show.as_json:
        write_json(
            {
                "index": folder,
                "models": change.rows,
                **fields_of(done, "listed read"),
                **fields_of(change, "added replaced described removed written new obsolete"),
                "skipped": done.skipped,
            }
        )
        return
    write_line(f"{folder}: {change.rows:,} models")
    if show.quiet:
        return
    write_message(
        f"{change.added:,} added, {change.replaced:,} replaced, {change.described:,} with new "
        f"metadata, {change.removed:,} removed; {done.read:,} of {done.listed:,} were read, "
        f"{change.written:,} bytes written"
    )
    for skipped in done.skipped[:_SHOWN]:
        write_message(f"skipped {skipped.model}: {skipped.reason}")
    if len(done.skipped) > _SHOWN:
        write_message(f"{len(done.skipped) - _SHOWN:,} more skipped; --json names all")


@command(app)
def info(
    folder: Folder,
    hub: Annotated[
        str,
        typer.Option(
            metavar="HUB",
            envvar="GMI_HUB",
            help="The folder that has the encoder, if the libraries' own files do not.",
        ),
    ] = DEFAULT_HUB,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what an index holds, check the files that every search needs, and name the models that
    are near everything.

    These are found with images of other models, and, where the encoder is on this machine, with
    pictures that no model generated. No request is made.
    """
    from gmi_registry.background import hubness
    from gmi_registry.index import SpecCache
    from gmi_registry.index.stored import FolderFiles, StoredIndex

    place = user_cache(cache_dir)
    cache = SpecCache(place)
    with StoredIndex.open(FolderFiles(folder), cache_dir=place) as index:
        measured = {
            group.key: hubness(group, cache, _encoder(group, hub, cache, cache_dir, quiet=quiet))
            for group in index.groups
        }
        found = _info_document(folder, index, measured)
    if as_json:
        write_json(found)
    else:
        _write_info(found)


def _encoder(
    group: StoredGroup, hub: str, cache: SpecCache, cache_dir: Path | None, *, quiet: bool
) -> Encoder | None:
    """The encoder of a group, where it is on this machine and the background pictures have not
    been read with it yet."""
    from gmi_registry.background import background_of
    from gmi_registry.search.query import ModelLoader

    if background_of(group, cache) is not None:
        return None
    loader = ModelLoader(None if cache_dir is None else cache_dir / "hub", True, "cpu")
    try:
        with opened_hub(hub, HubAccess(cache_dir, offline=True)) as opened:
            return loader.encoder_like(group.encoder, f"group {group.key}", opened)
    except GmiError as error:
        if not quiet:
            write_message(f"background pictures are left out: {error.message}")
        return None


def _info_document(
    folder: Path, index: StoredIndex, hubness: Mapping[ComparabilityKey, Hubness]
) -> dict[str, Any]:
    """Models in all, by hub and by group, what they take on the disk, and which of them are near
    everything."""
    found = index.info
    hubs = Counter(name.partition(":")[0] for group in index.groups for name in group.names)
    return {
        "index": folder,
        **fields_of(found, "version digest"),
        "models": found.rows,
        "hubs": dict(sorted(hubs.items())),
        "bytes": found.bytes,
        "groups": [
            {
                "group": str(group.key),
                "encoder": f"{group.encoder.name}/{group.encoder.pretrained}",
                "prompt_set": group.prompt_set,
                "models": group.rows,
                **fields_of(group, "removed parts bytes"),
                "hubness": _hubness(hubness[group.key]),
            }
            for group in found.groups
        ],
    }


def _hubness(found: Hubness) -> dict[str, Any]:
    return {
        "models": found.models,
        "images": found.asked,
        "pictures": found.pictures,
        "share": found.share,
        "hubs": [
            {
                **fields_of(hub, "model first tenth breadth"),
                "at_least": hub.certain,
                "pictures": hub.pictured,
                "pictures_at_least": hub.certain_pictured,
                "universal": found.is_universal(hub),
            }
            for hub in found.frequent
        ],
    }


def _write_info(found: dict[str, Any]) -> None:
    named = ", ".join(f"{hub} {count:,}" for hub, count in found["hubs"].items())
    groups = [
        (
            "group",
            f"{group['group']}: {group['models']:,} models, {group['encoder']}, prompts "
            f"{group['prompt_set']}, {group['parts']} parts, {group['bytes']:,} bytes",
        )
        for group in found["groups"]
    ]
    write_pairs(
        [
            ("models", f"{found['models']:,}" + (f" ({named})" if named else "")),
            ("size", f"{found['bytes']:,} bytes"),
            ("format", found["version"]),
            ("digest", found["digest"]),
            *groups,
            *(("hubs", line) for group in found["groups"] for line in _hub_lines(group["hubness"])),
        ]
    )


def _hub_lines(found: dict[str, Any]) -> list[str]:
    """A line for each model that is beyond doubt first more often than it should be."""
    from gmi_registry.index.hubness import FEWEST

    if found["models"] < FEWEST:
        return [f"{found['models']:,} models are too few to say"]
    lines = []
    for hub in found["hubs"]:
        times = hub["first"] / found["share"]
        if hub["universal"] or hub["at_least"] > _REMARKABLE * found["share"]:
            line = f"{hub['model']}: first for {hub['first']:.1%} of {found['images']:,} images"
            line += f" of other models, {times:.1f} times its share"
            line += f" (at least {hub['at_least'] / found['share']:.1f})"
            if hub["pictures"] is not None:
                line += f", and for {hub['pictures']:.1%} of {found['pictures']} pictures"
            lines.append(line + ("; near everything" if hub["universal"] else ""))
    return lines or ["none: no model is first far more often than its share"]


@command(app)
def push(
    folder: Folder,
    registry: RegistryText = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose it to the registry's maintainers.")
    ] = False,
    token: Token = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
) -> None:
    """Put the index into the registry, where searches find it. For its maintainers."""
    from gmi_registry.hubs.open import open_registry
    from gmi_registry.hubs.registry.dataset import push_aggregate
    from gmi_registry.index.stored import DOCUMENT_NAME, FolderFiles, IndexDocument, StoredIndex

    files = FolderFiles(folder)
    with StoredIndex.open(files, cache_dir=user_cache(cache_dir)):
        document = files.fetch(DOCUMENT_NAME, sha256=None, size=None)
        names = IndexDocument.from_bytes(document.read_bytes()).files
    places = {name: files.fetch(name, sha256=None, size=None) for name in (DOCUMENT_NAME, *names)}
    with open_registry(HubAccess(cache_dir, token, None, registry)) as opened:
        where = push_aggregate(opened.dataset, places, create_pr=create_pr)
    write_line(where)
    if not quiet:
        size = sum(place.stat().st_size for place in places.values())
        write_message(f"{len(places)} files, {size:,} bytes; what was there already was not sent")


@command(app, "serve-into")
def serve_into(
    folder: Folder,
    url: Annotated[str, typer.Argument(metavar="URL", help="qdrant://HOST:PORT/COLLECTION")],
    group: Annotated[
        str | None,
        typer.Option(help="Which group, where there are several; gmi index info names them."),
    ] = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
) -> None:
    """Load an index into a Qdrant server, when it has become too large for one machine.

    The environment variable QDRANT_API_KEY holds the server's key. What is there already is not
    sent again, and searches see the old version until all of the new one is there.
    """
    from gmi_registry.index.qdrant import serve_into as load
    from gmi_registry.index.stored import FolderFiles, StoredIndex

    with StoredIndex.open(FolderFiles(folder), cache_dir=user_cache(cache_dir)) as index:
        named = {str(stack.key): stack for stack in index.groups}
        if group is None and len(named) == 1:
            group = next(iter(named))
        if group not in named:
            raise InputError(
                f"{folder} has {len(named)} groups, and a collection holds one",
                hint=f"--group, one of: {', '.join(named) or 'none'}",
            )
        with StageProgress({"load": "loading"}, quiet=quiet) as progress:
            done = load(
                url,
                named[group],
                index.status,
                encoder=named[group].encoder,
                progress=lambda done, total: progress("load", done, total),
            )
    write_line(f"{done.collection}: {done.models:,} models")
    if not quiet:
        write_message(f"{done.sent:,} were sent, the others were there")
