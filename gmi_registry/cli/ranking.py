"""Rankings as tables for people, and as rows for other programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gmi_registry.cli.screen import output, plain, write_rows
from gmi_registry.report.number import near_everything, number, percent

if TYPE_CHECKING:
    from rich.console import Console

    from gmi_registry.index.result import GroupRanking, Ranking, Repeat, SearchHit
    from gmi_registry.spec import ModelRef

__all__ = ["bar", "write_ranking"]

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_CELLS = 6
_MOST_NAMED = 20
_STALE = {True: "yes", False: "no", None: ""}

# Columns in the order in which a terminal that grows wider makes room for them.
_FOR_MARGIN, _FOR_TAGS, _FOR_PROMPTS, _FOR_BASE = 52, 76, 104, 132
_FEWEST_OF_TAGS, _MOST_OF_TAGS = 12, 28
# Rank, distance, chance and margin, with the gaps between columns.
_BESIDE_TAGS = 44


def write_ranking(result: Ranking) -> None:
    """Print all groups to stdout: tables on a terminal, else tab-separated with one header."""
    console = output()
    if console.is_terminal:
        for position, group in enumerate(result.groups):
            _write_table(console, group, is_first=position == 0, alone=len(result.groups) == 1)
    elif result.groups:
        write_rows(_rows(result))


def bar(margin: float, spread: float, *, cells: int = _BAR_CELLS, blocks: str = _EIGHTHS) -> str:
    """A bar of ``cells`` characters: the margin as a part of the distance from first to last.

    ``blocks`` are fillings of one character, from empty to full.
    """
    part = margin / spread if spread > 0 and math.isfinite(margin / spread) else 0.0
    steps = len(blocks) - 1
    filled = round(min(1.0, max(0.0, part)) * cells * steps)
    full, rest = divmod(filled, steps)
    return (blocks[-1] * full + (blocks[rest] if rest else "")).ljust(cells)


def _rows(result: Ranking) -> Iterator[tuple[str, ...]]:
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

    if not alone:
        console.print(Text(_heading(group, is_first), style="bold"))
    width = console.width
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("#", justify="right", style="bold", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=6)
    table.add_column("distance", justify="right", no_wrap=True)
    sure = any(hit.confidence is not None for hit in group.hits)
    if sure:
        table.add_column("chance", justify="right", no_wrap=True)
    if width >= _FOR_MARGIN:
        table.add_column("ahead of next", no_wrap=True)
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
        texts = [Text(plain(cell)) for cell in cells]
        if hit.universal is not None:
            texts[1].append(f"\n{near_everything(hit.universal)}", "dim")
        # The first that is shown names all others.
        if hit.repeats and hit.ref not in named:
            named.update(other.ref for other in hit.repeats)
            texts[1].append(f"\n{plain(_repeats(hit))}", "dim")
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
    return _named(hit) + versions + partial + _remarks(hit)


def _named(it: SearchHit | Repeat) -> str:
    name = str(it.ref.identity)
    # Its models have numbers for names.
    return f"{name} {it.title}" if it.ref.hub == "civitai" else name


def _remarks(it: SearchHit | Repeat) -> str:
    told = " (self-published)" if it.trust == "self-published" else ""
    return told + (" (stale)" if it.stale else "")


def _repeats(hit: SearchHit) -> str:
    """One line that names whom the hit repeats, or who repeats it: nobody can tell."""
    named = [_named(other) + _remarks(other) for other in hit.repeats[:_MOST_NAMED]]
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
    blocks = _EIGHTHS if console.encoding.lower().startswith("utf") else " #"
    return f"{bar(hit.margin, spread, blocks=blocks)} {number(hit.margin)}"
