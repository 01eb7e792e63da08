"""Markdown pages of the repository as their readers meet them: links, anchors, fenced blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
_OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|//")
_ID = re.compile(r"""\bid=["']([^"']+)["']""")


def pages() -> list[Path]:
    """Every page that the repository's front door leads people to."""
    found = [*ROOT.glob("*.md"), ROOT / "zoo" / "README.md"]
    for folder in ("docs", "spec_format"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(path for path in found if "_site" not in path.parts)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("" where none is named), text, and first line in the page."""

    language: str
    text: str
    line: int


class MarkdownPage:
    """One page, parsed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8"))

    @property
    def blocks(self) -> Iterator[Block]:
        """The fenced blocks."""
        for token in self._tokens:
            if token.type == "fence":
                assert token.map is not None
                yield Block(token.info.strip(), token.content, token.map[0] + 2)

    @property
    def links(self) -> Iterator[str]:
        """Targets of all links and pictures."""
        for token in self._all():
            target = token.attrGet("href") or token.attrGet("src")
            if isinstance(target, str):
                yield target

    @property
    def anchors(self) -> set[str]:
        """Fragments by which hubs reach the headings, and ids that the page sets itself."""
        seen: Counter[str] = Counter()
        found = set()
        for before, token in zip(self._tokens, self._tokens[1:], strict=False):
            if before.type == "heading_open":
                text = "".join(
                    child.content
                    for child in token.children or ()
                    if child.type in ("text", "code_inline")
                )
                name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                found.add(f"{name}-{seen[name]}" if seen[name] else name)
                seen[name] += 1
        html = (token for token in self._all() if token.type in ("html_block", "html_inline"))
        return found.union(*(_ID.findall(token.content) for token in html))

    def faults(self) -> Iterator[str]:
        """Links within the repository that lead nowhere, one line each."""
        for link in self.links:
            if _OUTSIDE.match(link):
                continue
            target, _, fragment = link.partition("#")
            path = (self.path.parent / target).resolve() if target else self.path
            if not path.exists():
                yield f"{self.path.name}: {link}: there is no such file"
            elif not path.is_relative_to(ROOT) and not path.is_relative_to(self.path.parent):
                yield f"{self.path.name}: {link}: leads out of the repository"
            elif fragment and path.suffix == ".md" and fragment not in _anchors(path):
                yield f"{self.path.name}: {link}: the page has no such heading"

    def _all(self) -> Iterator[Token]:
        for token in self._tokens:
            yield token
            yield from token.children or ()


@cache
def _anchors(path: Path) -> set[str]:
    return MarkdownPage(path).anchors
