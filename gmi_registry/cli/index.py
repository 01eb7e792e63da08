"""``gmi index``: many specifications as one index, which a search opens at once."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    Workers,
    cache_folder,
    new_app,
    show_log,
)
from gmi_registry.cli.output import (
    StageProgress,
    handle_errors,
    write_json,
    write_line,
    write_message,
    write_pairs,
)
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import DEFAULT_HUB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gmi_registry.encoders.protocol import Encoder
    from gmi_registry.index import ComparabilityKey, Hubness, SpecCache
    from gmi_registry.index.stored import StoredGroup, StoredIndex
    from gmi_registry.indexing import Indexing

app = new_app("Put many specifications into one index, which a search opens at once.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the index.")]
Hubs = Annotated[
    list[str],
    typer.Option(
        "--hub",
        metavar="HUB",
        help="What to index: hf, civitai, or a folder that holds models; repeatable.",
        show_default=False,
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag",
        "-t",
        metavar="TAG",
        help="Only models with this tag; repeatable.",
        show_default=False,
    ),
]

# Skipped specifications that are named on a screen.
_SHOWN = 20
_STAGES = {"read": "reading specifications"}


@app.command()
@handle_errors()
def build(
    folder: Folder,
    hub: Hubs,
    tag: Tags = None,
    workers: Workers = 8,
    token: Token = None,
    registry: RegistryText = None,
    civitai_token: CivitaiToken = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make an index of all specifications that hubs hold, with those of the registry."""
    show_log(verbose)
    if folder.exists() and any(folder.iterdir()):
        from gmi_registry.errors import InputError

        raise InputError(
            f"{folder} is not empty", hint=f"gmi index update {folder} --hub ..., or another folder"
        )
    access = HubAccess(cache_dir, token, None, registry, civitai_token)
    _index(folder, hub, tag, workers, access, as_json, quiet)


@app.command()
@handle_errors()
def update(
    folder: Folder,
    hub: Hubs,
    tag: Tags = None,
    workers: Workers = 8,
    token: Token = None,
    registry: RegistryText = None,
    civitai_token: CivitaiToken = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Read what is new on hubs, and let go what they no longer hold.

    With the same --tag as before: models of these hubs that pass no more leave the index.
    """
    show_log(verbose)
    from gmi_registry.errors import InputError
    from gmi_registry.index.stored import DOCUMENT_NAME

    if not (folder / DOCUMENT_NAME).exists():
        raise InputError(f"{folder} holds no index", hint=f"gmi index build {folder} --hub ...")
    access = HubAccess(cache_dir, token, None, registry, civitai_token)
    _index(folder, hub, tag, workers, access, as_json, quiet)


@app.command()
@handle_errors()
def info(
    folder: Folder,
    hub: Annotated[
        str,
        typer.Option(
            "--hub",
            metavar="HUB",
            envvar="GMI_HUB",
            help="Where the encoder lies, if not among the libraries' own files; a folder.",
        ),
    ] = DEFAULT_HUB,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what an index holds, check the files that every search needs, and find the models that
    are near everything.

    Those are asked for with images of the others, and with pictures that belong to no model where
    the encoder is on this machine. No request is made.
    """
    from gmi_registry.background import hubness
    from gmi_registry.index import SpecCache
    from gmi_registry.index.stored import FolderFiles, StoredIndex

    place = cache_folder(cache_dir)
    cache = SpecCache(place)
    with StoredIndex.open(FolderFiles(folder), cache_dir=place) as index:
        measured = {
            group.key: hubness(group, cache, _encoder(group, hub, cache, cache_dir, quiet=quiet))
            for group in index.groups
        }
        found = inventory(folder, index, measured)
    if as_json:
        write_json(found)
    else:
        write_inventory(found)


@app.command()
@handle_errors()
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
    from gmi_registry.hubs.registry import Registry
    from gmi_registry.hubs.registry.registry import push_aggregate
    from gmi_registry.index.stored import DOCUMENT_NAME, FolderFiles, IndexDocument, StoredIndex

    files = FolderFiles(folder)
    with StoredIndex.open(files, cache_dir=cache_folder(cache_dir)):
        document = files.fetch(DOCUMENT_NAME, sha256=None, size=None)
        names = IndexDocument.from_bytes(document.read_bytes()).files
    places = {name: files.fetch(name, sha256=None, size=None) for name in (DOCUMENT_NAME, *names)}
    with Registry.open(HubAccess(cache_dir, token, None, registry)) as opened:
        where = push_aggregate(opened.dataset, places, create_pr=create_pr)
    write_line(where)
    if not quiet:
        size = sum(place.stat().st_size for place in places.values())
        write_message(f"{len(places)} files, {size:,} bytes; what was there already was not sent")


@app.command("serve-into")
@handle_errors()
def serve_into(
    folder: Folder,
    url: Annotated[str, typer.Argument(metavar="URL", help="qdrant://HOST:PORT/COLLECTION")],
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Which of several groups, as gmi index info names it.",
            show_default=False,
        ),
    ] = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
) -> None:
    """Load an index into a Qdrant server, for what outgrew one machine.

    A key is taken from QDRANT_API_KEY. What is there already is not sent again, and searches see
    the old version until all of the new one is there.
    """
    from gmi_registry.errors import InputError
    from gmi_registry.index.qdrant import serve_into as load
    from gmi_registry.index.stored import FolderFiles, StoredIndex

    with StoredIndex.open(FolderFiles(folder), cache_dir=cache_folder(cache_dir)) as index:
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
                index.standing,
                encoder=named[group].encoder,
                progress=lambda done, total: progress("load", done, total),
            )
    write_line(f"{done.collection}: {done.models:,} models")
    if not quiet:
        write_message(f"{done.sent:,} were sent, the others were there")


def _encoder(
    group: StoredGroup, hub: str, cache: SpecCache, cache_dir: Path | None, *, quiet: bool
) -> Encoder | None:
    """The encoder of a group, where the background pictures were never read with it, and it is on
    this machine."""
    from gmi_registry.background import background_of
    from gmi_registry.errors import GmiError
    from gmi_registry.hubs.open import opened_hub
    from gmi_registry.search.loading import ModelLoader

    if background_of(group, cache) is not None:
        return None
    equipment = ModelLoader(None if cache_dir is None else cache_dir / "hub", True, "cpu")
    try:
        with opened_hub(hub, HubAccess(cache_dir, offline=True)) as opened:
            return equipment.encoder_like(group.encoder, f"group {group.key}", opened)
    except GmiError as error:
        if not quiet:
            write_message(f"background pictures are not asked with: {error.message}")
        return None


def _index(
    folder: Path,
    hubs: list[str],
    tags: list[str] | None,
    workers: int,
    access: HubAccess,
    as_json: bool,
    quiet: bool,
) -> None:
    from gmi_registry.filters import Filters
    from gmi_registry.hubs.open import opened_hub
    from gmi_registry.indexing import index_hubs

    with ExitStack() as stack:
        opened = [stack.enter_context(opened_hub(hub, access)) for hub in hubs]
        progress = stack.enter_context(StageProgress(_STAGES, quiet=quiet))
        done = index_hubs(
            folder,
            opened,
            cache_dir=cache_folder(access.cache_dir),
            wanted=Filters(tags=tuple(tags or ())),
            workers=workers,
            progress=lambda count, total: progress("read", count, total),
        )
    if as_json:
        write_json(_change_document(folder, done))
        return
    change = done.change
    write_line(f"{folder}: {change.rows:,} models")
    if quiet:
        return
    write_message(
        f"{change.added:,} added, {change.replaced:,} replaced, {change.described:,} described "
        f"anew, {change.removed:,} removed; {done.read:,} of {done.listed:,} were read, "
        f"{change.written:,} bytes written"
    )
    for skipped in done.skipped[:_SHOWN]:
        write_message(f"skipped {skipped.model}: {skipped.reason}")
    if len(done.skipped) > _SHOWN:
        write_message(f"{len(done.skipped) - _SHOWN:,} more skipped; --json names all")


def _change_document(folder: Path, done: Indexing) -> dict[str, Any]:
    change = done.change
    return {
        "index": str(folder),
        "models": change.rows,
        "listed": done.listed,
        "read": done.read,
        "added": change.added,
        "replaced": change.replaced,
        "described": change.described,
        "removed": change.removed,
        "written": change.written,
        "new": list(change.new),
        "obsolete": list(change.obsolete),
        "skipped": [{"model": str(it.model), "reason": it.reason} for it in done.skipped],
    }


_REMARKABLE = 2.0
"""Times the share that a model has to be first for, beyond chance, to be named."""


def inventory(
    folder: Path, index: StoredIndex, hubness: Mapping[ComparabilityKey, Hubness]
) -> dict[str, Any]:
    """The JSON document: models in all, by hub and by group, what they take on the disk, and which
    of them are near everything."""
    found = index.info
    hubs = Counter(name.partition(":")[0] for group in index.groups for name in group.names)
    return {
        "index": str(folder),
        "version": found.version,
        "digest": found.digest,
        "models": found.rows,
        "hubs": dict(sorted(hubs.items())),
        "bytes": found.bytes,
        "groups": [
            {
                "group": str(group.key),
                "encoder": f"{group.encoder.name}/{group.encoder.pretrained}",
                "prompt_set": group.prompt_set,
                "models": group.rows,
                "removed": group.removed,
                "parts": group.parts,
                "bytes": group.bytes,
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
                "model": hub.model,
                "first": hub.first,
                "tenth": hub.tenth,
                "breadth": hub.breadth,
                "at_least": hub.certain,
                "pictures": hub.pictured,
                "pictures_at_least": hub.certain_pictured,
                "universal": found.is_universal(hub),
            }
            for hub in found.hubs
        ],
    }


def _hub_lines(found: dict[str, Any]) -> list[str]:
    """A line for each model that is beyond doubt first more often than it should be."""
    from gmi_registry.index.hubness import FEWEST

    if found["models"] < FEWEST:
        return [f"{found['models']:,} models are too few to say"]
    lines = []
    for hub in found["hubs"]:
        times = hub["first"] / found["share"]
        if hub["universal"] or hub["at_least"] > _REMARKABLE * found["share"]:
            told = f"{hub['model']}: first for {hub['first']:.1%} of {found['images']:,} images"
            told += f" of other models, {times:.1f} times its share"
            told += f" (at least {hub['at_least'] / found['share']:.1f})"
            if hub["pictures"] is not None:
                told += f", and for {hub['pictures']:.1%} of {found['pictures']} pictures"
            lines.append(told + ("; near everything" if hub["universal"] else ""))
    return lines or ["none: no model is first far more often than its share"]


def write_inventory(found: dict[str, Any]) -> None:
    """The same for people."""
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
