"""The page on environment variables: which are read, found in the code, and what they do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub

import gmi_registry
from docs.press.page import Page, code

__all__ = ["variable_page", "variables_read"]

_CALLS = {"get", "getenv", "is_switched_on"}

_OURS = {
    "GMI_HUB": "The hub where none is named: `hf`, or a folder that holds `hub.json`.",
    "GMI_CACHE_DIR": "The folder for what was read or computed once, as `--cache-dir`.",
    "GMI_INDEX": "What to compare with, as `--index`.",
    "GMI_REGISTRY": "The dataset with specifications that are not beside their models.",
    "GMI_PACKAGE": "What a job of the hub installs, as for pip, as `--package`.",
    "HF_ENDPOINT": "The address of another hub that speaks Hugging Face's protocol.",
    "CIVITAI_TOKEN": "The access token for Civitai, where `--civitai-token` gives none.",
    "CIVITAI_ENDPOINT": "The one address of Civitai, or of another hub that speaks its protocol.",
    "QDRANT_API_KEY": "The key of a Qdrant server that serves an index.",
    "HF_HUB_OFFLINE": "`1` makes no request, as `--offline`.",
    "HF_DEBUG": "`1` shows the traceback of an error, too.",
    "HF_HUB_DISABLE_PROGRESS_BARS": "`1` draws no progress bars.",
}
_CLIENTS = {
    "HF_TOKEN": "The access token, where `--token` gives none; else that of `hf auth login`.",
    "HF_HOME": "Where the client keeps its token, its downloads and its assets.",
    "HF_HUB_CACHE": "Where downloads lie, where that is not in `HF_HOME`.",
    "HF_ASSETS_CACHE": "Where the listings of earlier searches lie, likewise.",
    "HF_HUB_DISABLE_XET": "`1` moves large files without hf_xet.",
    "HF_HUB_DOWNLOAD_TIMEOUT": "Seconds without an answer after which a download is given up.",
}
_SOURCES = ("constants.py", "utils/_auth.py")
_TERMINALS = {
    "NO_COLOR": "Set to anything: no colours.",
    "COLUMNS": "The width of tables on a terminal.",
}


def variable_page() -> Page:
    """All of them; raises ValueError for one that is read and not described, or the reverse."""
    found = set(variables_read(Path(gmi_registry.__file__).parent))
    if found != set(_OURS):
        raise ValueError(f"{__file__}: described and read differ in {sorted(found ^ set(_OURS))}")
    client = Path(huggingface_hub.__file__).parent
    source = "".join((client / name).read_text("utf-8") for name in _SOURCES)
    unknown = [name for name in _CLIENTS if f'"{name}"' not in source]
    if unknown:
        raise ValueError(f"{__file__}: huggingface_hub reads no {', '.join(unknown)}")
    page = Page("Environment variables")
    page.add("An option of the command line goes before a variable.")
    page.table(["variable", "effect"], _rows(_OURS))
    page.heading("Read by the client of the hub")
    page.add(
        "These and all others of huggingface_hub work as they do for every program that uses it."
    )
    page.table(["variable", "effect"], _rows(_CLIENTS))
    page.heading("Read for the terminal")
    page.table(["variable", "effect"], _rows(_TERMINALS))
    return page


def _rows(described: dict[str, str]) -> list[list[str]]:
    return [[code(name), text] for name, text in described.items()]


def variables_read(package: Path) -> Iterator[str]:
    """Names that the modules of ``package`` look up in the environment, or let typer look up."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _looks_up(node.func) and node.args:
                yield from _text(node.args[0])
            elif isinstance(node, ast.Subscript) and _is_environ(node.value):
                yield from _text(node.slice)
            elif isinstance(node, ast.keyword) and node.arg == "envvar":
                yield from _text(node.value)


def _looks_up(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute) and called.attr == "get":
        return _is_environ(called.value)
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _CALLS and name != "get"


def _is_environ(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def _text(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
