"""``gmi search``: rank the models of a hub by how near their images are to yours."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.cli.folder import cache_folder
from gmi_registry.cli.funnel import funnel
from gmi_registry.cli.option import AsJson, CacheDir, HubText, Quiet, Verbose, say_more
from gmi_registry.cli.place import open_hub
from gmi_registry.cli.progress import StageProgress
from gmi_registry.cli.ranking import write_ranking
from gmi_registry.cli.screen import remark, write_json, write_line

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub, ListingFilter
    from gmi_registry.index.result import SearchResult

__all__ = ["InterrogatorChoice", "KindChoice", "search"]

_STAGES = {"query": "reading the images", "index": "reading specifications"}


class KindChoice(StrEnum):
    """The kinds of model, as in ``gmi_registry.model.Kind``."""

    CHECKPOINT = "checkpoint"
    LORA = "lora"
    SINGLE_FILE = "single-file"


class InterrogatorChoice(StrEnum):
    """The ways to guess a prompt from an image."""

    NONE = "none"
    PHRASES = "phrases"
    CAPTION = "caption"
    CLIP_INTERROGATOR = "clip_interrogator"


@funnel()
def search(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Images like those you want; together one query."),
    ],
    hub: HubText,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            "-t",
            metavar="TAG",
            help="Only models with this tag; repeatable.",
            show_default=False,
        ),
    ] = None,
    not_tag: Annotated[
        list[str] | None,
        typer.Option(
            "--not-tag",
            metavar="TAG",
            help="Only models without it; repeatable.",
            show_default=False,
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", metavar="ID", help="Only models made from this one.", show_default=False
        ),
    ] = None,
    kind: Annotated[
        KindChoice | None,
        typer.Option("--kind", help="Only models of this kind.", show_default=False),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="What the images show.", show_default=False),
    ] = None,
    interrogator: Annotated[
        InterrogatorChoice,
        typer.Option("--interrogator", help="How to guess what they show, without --prompt."),
    ] = InterrogatorChoice.NONE,
    score: Annotated[
        str, typer.Option("--score", metavar="NAME", help="How to measure: default, paper, ...")
    ] = "default",
    top: Annotated[int, typer.Option("--top", min=1, help="How many models to print.")] = 10,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write a page with pictures as well.", show_default=False
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open that page in the browser.")
    ] = False,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the models that would make images like these.

    Only descriptions of models are read, and your images stay on this machine. A smaller distance
    is better.
    """
    if open_page and html is None:
        raise typer.BadParameter("needs --html FILE", param_hint="--open")
    say_more(verbose)
    from gmi_registry.hubs.protocol import ListingFilter

    cache = cache_folder(cache_dir)
    opened = open_hub(hub, cache)
    wanted = ListingFilter(
        tags=tuple(tag or ()),
        not_tags=tuple(not_tag or ()),
        base_model=base_model,
        kind=None if kind is None else kind.value,
    )
    from gmi_registry.search import search as search_hub

    with StageProgress(_STAGES, quiet=quiet) as progress:
        result = search_hub(
            images,
            opened,
            wanted=wanted,
            score=score,
            interrogator=interrogator.value,
            prompt=prompt,
            top=top,
            cache_dir=cache,
            progress=progress,
        )
    for part in result.skipped if verbose else ():
        remark(f"skipped {part.model}: {part.reason}")
