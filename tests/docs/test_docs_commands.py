"""Every command and example that a page shows is understood by what it is meant for."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import click
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from typer.main import get_command

import gmi_registry
from docs.press.command import programs
from tests.support.markdown_page import ROOT, MarkdownPage, pages

_SHELL = ("", "sh", "bash", "shell", "console")
_WORDS = {"cd", "cp", "export", "git", "ls", "printf", "rm", "source", "python", "python3"}
_SEPARATORS = re.compile(r"[|&;]+")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=.*")
_PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
_PROJECT = _PYPROJECT["project"]
_GROUPS = _PYPROJECT["dependency-groups"].keys()

_SHOWN = [path for path in pages() if path.parent == ROOT or path.is_relative_to(ROOT / "docs")]


def _lines() -> Iterator[Any]:
    for path in _SHOWN:
        for block in MarkdownPage(path).blocks:
            if block.language not in _SHELL:
                continue
            place = f"{path.relative_to(ROOT).as_posix()}:{block.line}"
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip() and not line.strip().startswith("#"):
                    yield pytest.param(line, id=f"{place} {line.strip()[:60]}")


def _commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line of shell, without redirections and variables set for them."""
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if _SEPARATORS.fullmatch(word):
            if words:
                yield words
            words = []
        elif words or not _ASSIGNMENT.fullmatch(word):
            words.append(word)


_programs = cache(programs)


def _fault(words: Sequence[str]) -> str | None:
    """What is wrong with one command, by the parser of the program that it calls."""
    if ">" in words:
        words = words[: words.index(">")]
    program, *arguments = words
    parsers = _programs()
    if program == "hf":
        from huggingface_hub.cli.hf import app

        # A parser by itself from version 2 on, before that what typer makes one of.
        ready = app if hasattr(app, "make_context") else get_command(app)
        return _parsed(parsers["hf-gmi"] if arguments[:1] == ["gmi"] else ready, words)
    if program in parsers:
        return _parsed(parsers[program], words)
    if program == "nox":
        return _nox(arguments)
    if program == "pip":
        return _pip(arguments)
    if program in ("python", "python3"):
        return _python(arguments)
    return None if program in _WORDS else f"{program} is no program that is known here"


def _parsed(command: Any, words: Sequence[str]) -> str | None:
    name, *arguments = words
    if name == "hf" and arguments[0] == "gmi":
        arguments = arguments[1:]
    try:
        while True:
            with command.make_context(name, list(arguments)) as context:
                group = context.command
                rest = [*getattr(context, "_protected_args", ()), *context.args]
                if not getattr(group, "commands", None) or not rest:
                    return None
                name, command, arguments = group.resolve_command(context, rest)
    except (typer.Exit, click.exceptions.Exit) as error:  # --help and --version end there
        return None if error.exit_code == 0 else f"ends with {error.exit_code}"
    except (typer.BadParameter.__mro__[1], click.UsageError) as error:
        return str(error.format_message())


def _nox(arguments: Sequence[str]) -> str | None:
    tree = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    sessions = {
        item.name
        for item in tree.body
        if isinstance(item, ast.FunctionDef)
        and any("session" in ast.unparse(mark) for mark in item.decorator_list)
    }
    named = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    if named and named[0] not in ("-s", "--session"):
        return f"nox {named[0]} is not looked at here"
    unknown = set(named[1:]) - sessions
    return f"nox has no session {', '.join(sorted(unknown))}" if unknown else None


def _pip(arguments: Sequence[str]) -> str | None:
    if not arguments or arguments[0] != "install":
        return "pip only installs here"
    groups = {after for word, after in pairwise(arguments) if word == "--group"}
    if not groups <= _GROUPS:
        return f"there is no group {', '.join(sorted(groups - _GROUPS))}"
    for text in arguments[1:]:
        if text.startswith("-") or text in groups:
            continue
        # From a checkout: the project that lies there.
        wanted = Requirement(re.sub(r"^\.(?=\[|$)", _PROJECT["name"], text))
        unknown = wanted.extras - _PROJECT["optional-dependencies"].keys()
        if wanted.name == _PROJECT["name"] and unknown:
            return f"there is no extra {', '.join(sorted(unknown))}"
    return None


def _python(arguments: Sequence[str]) -> str | None:
    if not arguments or arguments[0] == "-c":
        return None
    if arguments[0] == "-m":
        missing = importlib.util.find_spec(arguments[1]) is None
        return f"there is no module {arguments[1]}" if missing else None
    return None if (ROOT / arguments[0]).is_file() else f"there is no {arguments[0]}"


@pytest.mark.parametrize("line", list(_lines()))
def test_commands_are_parsed(line: str) -> None:
    commands = list(_commands(line))
    assert commands
    assert [fault for words in commands if (fault := _fault(words))] == []


@pytest.mark.parametrize(
    "line",
    [
        "gmi-search picture.png --tagg anime",
        "gmi-search --like",
        "gmi-search a.png --top none",
        "gmi-search a.png --kind adapter",
        "gmi-publish",
        "gmi spec shwo model",
        "gmi spec show model && gmi cache empty",
        "GMI_HUB=x gmi-search a.png --nothing | head",
        "hf gmi find picture.png",
        "hf auth logon",
        "nox -s nothing",
        "pip install 'gmi-registry[everything]'",
        "pip install -e . --group nothing",
        "pip install -e '.[everything]'",
        "python -m gmi_registry.nothing",
        "python benchmarks/nothing.py",
        "gmi-serach picture.png",
    ],
)
def test_a_mistyped_command_is_found(line: str) -> None:
    assert any(_fault(words) for words in _commands(line))


def _blocks(*languages: str) -> Iterator[Any]:
    for path in pages():
        for block in MarkdownPage(path).blocks:
            if block.language in languages:
                place = f"{path.relative_to(ROOT).as_posix()}:{block.line}"
                yield pytest.param(block.text, id=place)


@pytest.mark.parametrize("text", list(_blocks("python")))
def test_python_examples_call_what_there_is(text: str) -> None:
    if re.match(r"\w+\(\n?(.|\n)*\) -> ", text):  # a signature of the reference
        text = f"def {text.rstrip()}: ..."
    tree = ast.parse(text)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name.startswith("gmi_registry."):
            function = getattr(gmi_registry, name.partition(".")[2])
            keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            assert inspect.signature(function).bind(*call.args, **keywords)


@pytest.mark.parametrize("text", list(_blocks("yaml", "json")))
def test_data_examples_can_be_read(text: str) -> None:
    read = json.loads if text.lstrip().startswith(("{", "[")) else yaml.safe_load_all
    assert [part for part in read(text) if part] != []
