"""Every message that the troubleshooting page quotes is one that the code prints."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.support.markdown_page import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
_HEADING = re.compile(r"^### `(.+)`$", re.MULTILINE)


def quoted() -> list[str]:
    return _HEADING.findall(PAGE.read_text("utf-8"))


@cache
def texts() -> tuple[str, ...]:
    """The strings of the package; what is put into one is three dots, as on the page."""
    found = []
    for path in sorted((ROOT / "gmi_registry").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [it.value if isinstance(it, ast.Constant) else "..." for it in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and id(node) not in docstrings:
                found.append(str(node.value))
    return tuple(found)


def printed(message: str) -> bool:
    """Whether the fixed parts of ``message`` stand in one string of the code, in this order."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in texts())


def test_the_page_quotes_many_messages_each_once() -> None:
    assert len(quoted()) > 30
    assert len(set(quoted())) == len(quoted())
    headings = re.findall(r"^### .*$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(headings) == len(quoted())


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_occurs_in_the_code(message: str) -> None:
    assert printed(message)


def test_a_message_that_nobody_prints_is_found() -> None:
    assert not printed("... holds weights only as teapots, which ...")
