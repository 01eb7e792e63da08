"""``gmi search``: rank the models of a hub by how near they are to images, words or a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Device,
    HubText,
    Offline,
    QuickCommand,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    Workers,
    new_app,
    show_log,
)
from gmi_registry.cli.output import (
    StageProgress,
    announce_waits,
    handle_errors,
    terminal,
    write_json,
    write_line,
    write_message,
    write_rows,
)
from gmi_registry.errors import GmiError
from gmi_registry.hubs.open import DEFAULT_HUB, HubAccess, find_spec, is_folder, opened_hub
from gmi_registry.sanitize import escaped

if TYPE_CHECKING:
    from rich.console import Console

    from gmi_registry.hubs.protocol import Hub
    from gmi_registry.index.entry import GroupRanking, Ranking, Repeat, SearchHit
    from gmi_registry.report.page import QueryImage
    from gmi_registry.search.request import SearchRequest
    from gmi_registry.search.result import SearchResult
    from gmi_registry.spec import ModelRef

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_CELLS = 6
_MOST_NAMED = 20
_STALE = {True: "yes", False: "no", None: ""}

# Columns in the order in which a terminal that grows wider makes room for them.
_FOR_MARGIN, _FOR_TAGS, _FOR_PROMPTS, _FOR_BASE = 52, 76, 104, 132
_FEWEST_OF_TAGS, _MOST_OF_TAGS = 12, 28
# Rank, distance, confidence and margin, with the gaps between columns.
_BESIDE_TAGS = 48

_TIME_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))

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


app = new_app()


@app.command(cls=QuickCommand)
@handle_errors()
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
            help="Only models without this tag; repeatable.",
            show_default=False,
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="ID",
            help="Only models made from this base model.",
            show_default=False,
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
        bool,
        typer.Option(
            "--fresh-only", help="Leave out models that changed after they were described."
        ),
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="What the images show; without images, what to look for.",
            show_default=False,
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="MODEL",
            help="Instead of images: a model, or a folder with gmi/, that results should be "
            "similar to.",
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
            help="How the images should look, in words; counts together with the images.",
            show_default=False,
        ),
    ] = None,
    interrogator: Annotated[
        InterrogatorChoice,
        typer.Option(
            "--interrogator", help="How to guess what the images show if there is no --prompt."
        ),
    ] = InterrogatorChoice.NONE,
    score: Annotated[
        str, typer.Option("--score", metavar="NAME", help="The score: default, paper, ...")
    ] = "default",
    top: Annotated[int, typer.Option("--top", min=1, help="How many models to print.")] = 10,
    repeats: Annotated[
        bool,
        typer.Option("--repeats", help="Let models of the same images take room from others."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also write an HTML page with pictures.",
            show_default=False,
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
    from gmi_registry.search.request import OptionsError, SearchRequest

    try:
        request = SearchRequest(
            images=images or (),
            not_like=not_like or (),
            prompt=prompt,
            style=style,
            like=like,
            tags=tuple(tag or ()),
            not_tags=tuple(not_tag or ()),
            base_model=base_model,
            kind=None if kind is None else kind.value,
            nsfw=nsfw,
            fresh_only=fresh_only,
            score=score,
            interrogator=interrogator.value,
            top=top,
            repeats=repeats,
            index=index,
            device=device or "cpu",
            workers=workers,
        )
    except OptionsError as error:
        raise typer.BadParameter(error.message) from None
    show_log(verbose)
    if html is not None:
        # Before an answer that would have nowhere to go.
        from gmi_registry.atomic import require_writable_file

        require_writable_file(html, "report")
    from gmi_registry.search.run import search as search_hub

    access = HubAccess(cache_dir, token, offline or None, registry, civitai_token)
    with opened_hub(hub, access) as opened:
        if not quiet and not verbose:  # which has the same from the log
            announce_waits(opened)
        with StageProgress(_STAGES, quiet=quiet) as progress:
            result = search_hub(request, opened, access, progress=progress)
        if html is not None:
            # Before the answer goes out: a reader that closes the pipe must not cost the page.
            page = write_page(result, request, opened, hub, html)
    if as_json:
        from gmi_registry.cli.document import search_document

        write_json(search_document(result, request, hub).model_dump(mode="json"))
    elif quiet:
        for hit in result.groups[0].hits if result.groups else ():
            write_line(str(hit.ref))
    else:
        write_ranking(result)
    write_comments(result, quiet=quiet, verbose=verbose)
    if opened.name == "civitai" and not nsfw and not quiet:
        write_message("only models rated PG; --nsfw includes the others")
    if html is not None:
        write_message(f"report: {page}")
        if open_page:
            typer.launch(page.as_uri())


def write_ranking(result: Ranking) -> None:
    """Print all groups to stdout: tables on a terminal, else tab-separated with one header."""
    console = terminal()
    if console is not None:
        for position, group in enumerate(result.groups):
            _write_table(console, group, is_first=position == 0, alone=len(result.groups) == 1)
    elif result.groups:
        write_rows(_ranking_rows(result))


def bar(margin: float, spread: float, *, cells: int = _BAR_CELLS, blocks: str = _EIGHTHS) -> str:
    """A bar of ``cells`` characters: the margin as a part of the distance from first to last.

    ``blocks`` are fillings of one character, from empty to full.
    """
    part = margin / spread if spread > 0 and math.isfinite(margin / spread) else 0.0
    steps = len(blocks) - 1
    filled = round(min(1.0, max(0.0, part)) * cells * steps)
    full, rest = divmod(filled, steps)
    return (blocks[-1] * full + (blocks[rest] if rest else "")).ljust(cells)


def _ranking_rows(result: Ranking) -> Iterator[tuple[str, ...]]:
    yield (
        "rank",
        "model",
        "distance",
        "margin",
        "tags",
        "base_model",
        "prompt_set",
        "stale",
        "confidence",
        "trust",
        "repeats",
        "lora_partial",
    )
    for group in result.groups:
        for hit in group.hits:
            yield (
                str(hit.rank),
                str(hit.ref),
                f"{hit.distance:.4g}",
                "" if hit.margin is None else f"{hit.margin:.4g}",
                ",".join(hit.tags),
                hit.base_model or "",
                group.prompt_set,
                _STALE[hit.stale],
                "" if hit.confidence is None else f"{hit.confidence:.3f}",
                hit.trust or "",
                ",".join(str(other.ref) for other in hit.repeats),
                _share(hit),
            )


def _share(hit: SearchHit) -> str:
    """Of a LoRA of which only some tensors made the images: how many, of how many."""
    share = hit.lora_partial
    return "" if share is None else f"{share.applied}/{share.tensors}"


def _write_table(console: Console, group: GroupRanking, *, is_first: bool, alone: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from gmi_registry.report.figures import near_everything, number, percent

    if not alone:
        console.print(Text(_heading(group, is_first), style="bold"))
    width = console.width
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("#", justify="right", style="bold", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=6)
    table.add_column("distance", justify="right", no_wrap=True)
    sure = any(hit.confidence is not None for hit in group.hits)
    if sure:
        table.add_column("confidence", justify="right", no_wrap=True)
    if width >= _FOR_MARGIN:
        table.add_column("margin", no_wrap=True)
    # Names are there to be copied, so tags give way to them.
    for_tags = (
        width - max(len(_name(hit)) for hit in group.hits) - _BESIDE_TAGS if group.hits else 0
    )
    tagged = width >= _FOR_TAGS and for_tags >= _FEWEST_OF_TAGS
    if tagged:
        most = min(_MOST_OF_TAGS, for_tags)
        table.add_column("tags", max_width=most, no_wrap=True, overflow="ellipsis")
    if width >= _FOR_PROMPTS:
        table.add_column("closest on", max_width=48, no_wrap=True, overflow="ellipsis")
    if width >= _FOR_BASE:
        table.add_column("base", max_width=28, overflow="fold")
    named: set[ModelRef] = set()
    spread = group.hits[-1].distance - group.hits[0].distance if group.hits else 0.0
    for hit in group.hits:
        cells = [str(hit.rank), _name(hit), number(hit.distance)]
        if sure:
            cells.append(percent(hit.confidence))
        if width >= _FOR_MARGIN:
            cells.append(_margin(hit, spread, console))
        if tagged:
            cells.append(", ".join(hit.tags))
        if width >= _FOR_PROMPTS:
            cells.append("; ".join(match.prompt for match in hit.best_prompts[:2]))
        if width >= _FOR_BASE:
            cells.append(hit.base_model or "")
        # Text, not str: a title with [brackets] is a title, not markup.
        texts = [Text(escaped(cell)) for cell in cells]
        if hit.universal is not None:
            texts[1].append(f"\n{near_everything(hit.universal)}", "dim")
        # The first that is shown names all others.
        if hit.repeats and hit.ref not in named:
            named.update(other.ref for other in hit.repeats)
            texts[1].append(f"\n{escaped(_repeats(hit))}", "dim")
        table.add_row(*texts, style="green" if hit.rank == 1 else None)
    console.print(table)
    if not alone:
        console.print()


def _name(hit: SearchHit) -> str:
    versions = ""
    if hit.versions:
        more = len(hit.versions)
        versions = f" (+{more} version{'s' if more > 1 else ''})"
    share = hit.lora_partial
    partial = (
        "" if share is None else f" (partial LoRA, {share.applied} of {share.tensors} tensors)"
    )
    return _titled_name(hit) + versions + partial + _remarks(hit)


def _titled_name(it: SearchHit | Repeat) -> str:
    name = str(it.ref.identity)
    # Its models have numbers for names.
    return f"{name} {it.title}" if it.ref.hub == "civitai" else name


def _remarks(it: SearchHit | Repeat) -> str:
    told = " (self-published)" if it.trust == "self-published" else ""
    return told + (" (stale)" if it.stale else "")


def _repeats(hit: SearchHit) -> str:
    """One line that names whom the hit repeats, or who repeats it: nobody can tell."""
    named = [_titled_name(other) + _remarks(other) for other in hit.repeats[:_MOST_NAMED]]
    more = len(hit.repeats) - len(named)
    return f"same images: {', '.join(named)}" + (f" and {more:,} more" if more else "")


def _heading(group: GroupRanking, is_first: bool) -> str:
    if is_first:
        return f"Default prompts {group.prompt_set}, {group.members} models"
    return (
        f"Default prompts {group.prompt_set}, {group.members} models: "
        "distances differ in kind from those above"
    )


def _margin(hit: SearchHit, spread: float, console: Console) -> str:
    if hit.margin is None:
        return ""
    from gmi_registry.report.figures import number

    blocks = _EIGHTHS if console.encoding.lower().startswith("utf") else " #"
    return f"{bar(hit.margin, spread, blocks=blocks)} {number(hit.margin)}"


def write_comments(result: SearchResult, *, quiet: bool, verbose: bool) -> None:
    """Say what the ranking itself cannot say."""
    if verbose:
        for skipped in result.skipped:
            write_message(f"skipped {skipped.model}: {skipped.reason}")
    if quiet:
        return
    if not result.groups:
        write_message(f"no model matches; {result.looked_at} searched")
    else:
        index = "" if result.index is None else f", in the index {result.index}"
        write_message(f"{result.looked_at:,} models searched, {result.matched:,} matched{index}")
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
        known = "there is none yet" if listed is None else f"it is {age(listed)} old"
        write_message(f"offline, from the last listing of the hub: {known}")
    if verbose and result.requests is not None:
        each = ", ".join(f"{method} {count:,}" for method, count in result.requests.items())
        write_message(
            f"requests: {sum(result.requests.values()):,}" + (f" ({each})" if each else "")
        )


def age(seconds: float) -> str:
    """A time span in its largest unit: ``3 hours``."""
    for unit, length in _TIME_UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return "less than a minute"


def write_page(
    result: SearchResult, request: SearchRequest, opened: Hub, hub: str, html: Path
) -> Path:
    """Write the page of a search of the hub called ``hub`` to ``html``; its absolute path.

    The images of ``request`` are files of this machine. Raises InputError where the page cannot be
    written, or an image read.
    """
    from gmi_registry.report.page import search_page, write_search_page

    settings = [
        ("hub", hub),
        ("searched", f"{result.looked_at} models, {result.matched} matching"),
        ("score", result.score),
        ("style", result.style or ""),
        ("prompts by", result.interrogator if result.images else ""),
        ("tags", ", ".join(request.tags)),
        ("without tags", ", ".join(request.not_tags)),
        ("base model", request.base_model or ""),
        ("kind", request.kind or ""),
        ("stale models", f"{result.stale_left_out} left out" if result.stale_left_out else ""),
    ]
    if result.encoder is not None:
        settings.append(("encoder", f"{result.encoder.name}/{result.encoder.pretrained}"))
    page = search_page(
        result,
        _shown(result.images, result.pseudo_prompts),
        unwanted=_shown(result.not_like, result.not_like_prompts),
        text=result.text,
        exemplar=None if request.like is None else _exemplar_image(request.like, result, opened),
        settings=[(label, value) for label, value in settings if value],
        previews=opened.fetch_preview,
    )
    return write_search_page(page, html)


def _shown(names: tuple[str, ...], prompts: tuple[str | None, ...]) -> tuple[QueryImage, ...]:
    from gmi_registry.images import load_image
    from gmi_registry.report.figures import embed
    from gmi_registry.report.page import QueryImage

    return tuple(
        QueryImage(Path(name).name, embed(load_image(name)), prompt)
        for name, prompt in zip(names, prompts, strict=True)
    )


def _exemplar_image(like: str, result: SearchResult, opened: Hub) -> QueryImage:
    """The model that others were compared with, by its contact sheet where that can be had."""
    from gmi_registry.report.figures import embed_preview
    from gmi_registry.report.page import QueryImage
    from gmi_registry.spec import PREVIEW_NAME, SPEC_DIR

    name = like if result.like is None else str(result.like.without_revision)
    try:
        if is_folder(like):
            path = find_spec(like, opened).folder / SPEC_DIR / PREVIEW_NAME
            sheet = path if path.is_file() and not path.is_symlink() else None
        else:
            sheet = None if result.like is None else opened.fetch_preview(result.like)
        return QueryImage(name, None if sheet is None else embed_preview(sheet), None)
    except GmiError:
        return QueryImage(name, None, None)
