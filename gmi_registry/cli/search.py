"""``gmi search``: rank the models of a hub by how near they are to images, words or a model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.cli.funnel import funnel
from gmi_registry.cli.option import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Device,
    HubText,
    Offline,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    Workers,
    say_more,
)
from gmi_registry.cli.progress import StageProgress
from gmi_registry.cli.ranking import write_ranking
from gmi_registry.cli.screen import remark, write_json, write_line
from gmi_registry.cli.traffic import announce_waits, comment
from gmi_registry.combination import fault
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import DEFAULT_HUB, opened_hub

if TYPE_CHECKING:
    from gmi_registry.model import Kind

__all__ = ["InterrogatorChoice", "KindChoice", "search"]

_STAGES = {
    "list": "asking the hub",
    "index": "reading specifications",
    "prepare": "preparing the index, once",
    "encoder": "loading the encoder",
    "query": "reading the query",
}


class KindChoice(StrEnum):
    """The kinds of model, as in ``gmi_registry.model.Kind``."""

    CHECKPOINT = "checkpoint"
    LORA = "lora"
    SINGLE_FILE = "single-file"
    TEXTUAL_INVERSION = "textual-inversion"


class InterrogatorChoice(StrEnum):
    """The ways to guess a prompt from an image."""

    NONE = "none"
    PHRASES = "phrases"
    CAPTION = "caption"
    CLIP_INTERROGATOR = "clip_interrogator"


@funnel()
def search(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            help="Images like those you want; together one query.",
            show_default=False,
        ),
    ] = None,
    hub: HubText = DEFAULT_HUB,
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
    nsfw: Annotated[
        bool, typer.Option("--nsfw", help="On Civitai, models rated above PG as well.")
    ] = False,
    fresh_only: Annotated[
        bool, typer.Option("--fresh-only", help="Leave out models that have changed since.")
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="What the images show; without any, what to look for.",
            show_default=False,
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="MODEL",
            help="In place of images: a model, or a folder that holds gmi/, to be near to.",
            show_default=False,
        ),
    ] = None,
    not_like: Annotated[
        list[Path] | None,
        typer.Option(
            "--not-like",
            metavar="IMAGE",
            help="An image of what you do not want; repeatable.",
            show_default=False,
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            "--style",
            metavar="TEXT",
            help="How they should look, in words that count beside the images.",
            show_default=False,
        ),
    ] = None,
    interrogator: Annotated[
        InterrogatorChoice,
        typer.Option("--interrogator", help="How to guess what they show, without --prompt."),
    ] = InterrogatorChoice.NONE,
    score: Annotated[
        str, typer.Option("--score", metavar="NAME", help="How to measure: default, paper, ...")
    ] = "default",
    top: Annotated[int, typer.Option("--top", min=1, help="How many models to print.")] = 10,
    repeats: Annotated[
        bool,
        typer.Option("--repeats", help="Let models of the same images take room from others."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write a page with pictures as well.", show_default=False
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open that page in the browser.")
    ] = False,
    index: Annotated[
        str,
        typer.Option(
            "--index",
            metavar="INDEX",
            envvar="GMI_INDEX",
            help="Compare with an index: a folder, qdrant://HOST:PORT/NAME; auto for the "
            "registry's where it has one, none for specifications one by one.",
        ),
    ] = "auto",
    workers: Workers = 8,
    device: Device = None,
    token: Token = None,
    registry: RegistryText = None,
    civitai_token: CivitaiToken = None,
    offline: Offline = False,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the models that would make images like these.

    In place of images, name words (--prompt) or a model (--like) that they should be near to. Only
    descriptions of models are read, and your images stay on this machine. A smaller distance is
    better.
    """
    if open_page and html is None:
        raise typer.BadParameter("needs --html FILE", param_hint="--open")
    pictures, unwanted = images or [], not_like or []
    reason = fault(
        images=len(pictures),
        prompt=prompt,
        like=like,
        not_like=len(unwanted),
        style=style,
        interrogator=interrogator.value,
        score=score,
    )
    if reason is not None:
        raise typer.BadParameter(reason)
    say_more(verbose)
    if html is not None:
        # Before an answer that would have nowhere to go.
        from gmi_registry.report.file import require_place

        require_place(html, "report")
    from gmi_registry.api import search as search_hub
    from gmi_registry.filters import Filters

    chosen_kind: Kind | None = None if kind is None else kind.value
    wanted = Filters(
        tags=tuple(tag or ()),
        not_tags=tuple(not_tag or ()),
        base_model=base_model,
        kind=chosen_kind,
        nsfw=nsfw,
    )
    access = HubAccess(cache_dir, token, offline or None, registry, civitai_token)
    with opened_hub(hub, access) as opened:
        if not quiet and not verbose:  # which has the same from the log
            announce_waits(opened)
        with StageProgress(_STAGES, quiet=quiet) as progress:
            result = search_hub(
                pictures,
                opened,
                like=like,
                not_like=unwanted,
                style=style,
                tags=wanted.tags,
                not_tags=wanted.not_tags,
                base_model=wanted.base_model,
                kind=chosen_kind,
                nsfw=wanted.nsfw,
                fresh_only=fresh_only,
                score=score,
                interrogator=interrogator.value,
                prompt=prompt,
                top=top,
                repeats=repeats,
                index=index,
                cache_dir=cache_dir,
                offline=offline,
                device=device or "cpu",
                workers=workers,
                progress=progress,
            )
        if html is not None:
            # Before the answer goes out: a reader that closes the pipe must not cost the page.
            from gmi_registry.cli.page import write_page

            page = write_page(result, opened, hub, wanted, html, like=like)
    if as_json:
        from gmi_registry.cli.document import search_document

        write_json(search_document(result, hub, wanted).model_dump(mode="json"))
    elif quiet:
        for hit in result.groups[0].hits if result.groups else ():
            write_line(str(hit.ref))
    else:
        write_ranking(result)
    comment(result, quiet=quiet, verbose=verbose)
    if opened.name == "civitai" and not nsfw and not quiet:
        remark("models rated PG alone; --nsfw takes the others in")
    if html is not None:
        remark(f"report: {page}")
        if open_page:
            typer.launch(page.as_uri())
