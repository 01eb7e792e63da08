"""Markdown, as hubs show it: headings, tables, and docstrings turned into prose."""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Page", "anchor", "cell", "code", "prose"]

_ROLE = re.compile(r":[a-z]+:`([^`]+)`")
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)
_SPAN = re.compile(r"(`[^`]*`)")
_NOTE = "<!-- Made from the code by `python -m docs.press`: change the code, then run it again. -->"


@dataclass
class Page:
    """One Markdown file, block by block."""

    title: str
    _blocks: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        self.add(f"{'#' * level} {text}")

    def add(self, block: str) -> None:
        """A paragraph, or any other block; nothing where it is empty."""
        if block:
            self._blocks.append(block.strip("\n"))

    def fence(self, text: str, language: str = "") -> None:
        self.add(f"```{language}\n{text}\n```")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table without the columns in which no row has anything; nothing without rows."""
        rows = list(rows)
        used = [place for place in range(len(head)) if any(row[place] for row in rows)]
        if not rows:
            return
        lines = [head, ["---"] * len(head), *rows]
        self.add(
            "\n".join(
                " ".join(["|", *(f"{cell(line[place])} |".lstrip() for place in used)])
                for line in lines
            )
        )

    def text(self) -> str:
        """The whole file."""
        return "\n\n".join([f"# {self.title}", _NOTE, *self._blocks]) + "\n"


def anchor(heading: str) -> str:
    """The fragment by which hubs link to a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
    return kept.strip().replace(" ", "-")


def code(text: str) -> str:
    """A code span."""
    return f"`{text}`" if text else ""


def cell(text: str) -> str:
    """``text`` on one line, its bars escaped."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def prose(docstring: str | None, linked: Container[str] = ()) -> str:
    """A docstring of this project as Markdown.

    Names in code spans that are in ``linked`` lead to the heading of that name on the same page.
    """
    made: list[str] = []
    literal: list[str] = []
    is_literal = False
    for block in inspect.cleandoc(docstring or "").split("\n\n"):
        if is_literal and block.startswith(" "):
            literal.append(block)
            continue
        made += _fenced(literal)
        literal = []
        is_literal = block.endswith("::")
        plain = block.removesuffix("::") + ":" if is_literal and block != "::" else block
        if plain != "::":
            made.append(_spans(plain, linked))
    return "\n\n".join(made + _fenced(literal))


def _fenced(blocks: list[str]) -> list[str]:
    joined = inspect.cleandoc("\n\n".join(["", *blocks]))
    return [f"```python\n{joined}\n```"] if joined else []


def _spans(text: str, linked: Container[str]) -> str:
    text = _ROLE.sub(lambda found: f"`{_short(found.group(1))}`", text)
    text = _LITERAL.sub(r"`\1`", text)
    return "".join(_span(piece, linked) for piece in _SPAN.split(text))


def _short(target: str) -> str:
    return target.rpartition(".")[2] if target.startswith("~") else target.lstrip(".")


def _span(piece: str, linked: Container[str]) -> str:
    if not piece.startswith("`"):
        return piece.replace("<", "&lt;")
    name = piece.strip("`")
    return f"[{piece}](#{anchor(name)})" if name in linked else piece
