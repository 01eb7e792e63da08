"""The page on the command line, from the parsers that read it."""

from __future__ import annotations

import inspect
import tomllib
import typing
from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.main import get_command

from docs.press.page import Page, code, prose
from gmi_registry.scoring import SCORES

__all__ = ["command_page", "programs"]

_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
_VALUES: dict[object, str] = {int: "whole number", float: "number"}


def programs() -> dict[str, Any]:
    """The parser of every program that an installation brings, by the program's name."""
    scripts = tomllib.loads(_PYPROJECT.read_text("utf-8"))["project"]["scripts"]
    found = {}
    for name, target in sorted(scripts.items()):
        module, _, function = target.partition(":")
        loaded = import_module(module)
        with patch.object(loaded, "run_program") as run:
            getattr(loaded, function)()
        found[name] = get_command(run.call_args.args[0])
    return found


def command_page() -> Page:
    """Every command once, and which programs have it."""
    page = Page("Command line")
    parsers = programs()
    whole = parsers["gmi"]
    page.add(
        "Data goes to stdout, all that is said about it to stderr. The [exit code]"
        "(errors.md#exit-codes) says how a command ended. An option that is not given takes its "
        "value from its variable, where it has one; [others](environment.md) are read, too."
    )
    page.table(
        ["program", "runs"],
        [[code(name), _runs(name, parser, whole)] for name, parser in parsers.items()],
    )
    names = whole.context_settings["help_option_names"]
    page.add(f"Every command explains itself with {' or '.join(map(code, names))}.")
    page.heading(code("gmi"))
    page.add(prose(whole.help))
    _parameters(page, whole)
    for path, command in _commands(whole, "gmi"):
        page.heading(code(path))
        alias = [name for name, parser in parsers.items() if _same(parser, command)]
        page.add(f"Also as {' and '.join(map(code, alias))}." if alias else "")
        page.add(prose(command.help))
        if not getattr(command, "commands", None):
            page.fence(_usage(path, command), "text")
            _parameters(page, command)
        if path == "gmi search":
            page.heading("Scores", 3)
            page.table(
                ["`--score`", "distance"], [[code(n), prose(s.__doc__)] for n, s in SCORES.items()]
            )
    return page


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if getattr(command, "commands", None):
            yield from _commands(command, f"{path} {name}")


def _runs(name: str, parser: Any, whole: Any) -> str:
    if getattr(parser, "commands", None):
        same = "all commands below"
        return f"{same}, as `hf gmi` of the `hf` program" if name.startswith("hf-") else same
    (path,) = [path for path, command in _commands(whole, "gmi") if _same(parser, command)]
    return code(path)


def _same(first: Any, second: Any) -> bool:
    both = first.callback is not None and second.callback is not None
    return both and _function(first) is _function(second)


def _function(command: Any) -> Any:
    return inspect.unwrap(command.callback)


def _usage(path: str, command: Any) -> str:
    arguments = [_metavar(item) for item in command.params if item.param_type_name == "argument"]
    return " ".join([path, *arguments, "[OPTION]..."])


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _parameters(page: Page, command: Any) -> None:
    hints = typing.get_type_hints(_function(command), include_extras=True)
    arguments, options = [], []
    for item in command.params:
        if getattr(item, "hidden", False) or item.name not in hints:
            continue
        meaning = item.help or ""
        if item.param_type_name == "argument":
            arguments.append([code(_metavar(item)), meaning])
        else:
            name, value = _option(item, hints[item.name])
            default = "required" if item.required else _default(item.default)
            options.append([name, value, default, code(item.envvar or ""), meaning])
    page.table(["argument", "meaning"], arguments)
    page.table(["option", "value", "default", "variable", "meaning"], options)


def _option(option: Any, hint: Any) -> tuple[str, str]:
    """How it is written, and what values it takes."""
    declared = hint.__metadata__[0]
    kind = _element(typing.get_args(hint)[0])
    names = sorted(option.opts, key=len)
    if kind is bool:
        return ", ".join(map(code, names)), ""
    names[-1] = f"{names[-1]} {option.metavar or ('N' if kind in _VALUES else 'VALUE')}"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        value = ", ".join(code(choice.value) for choice in kind)
    else:
        value = _VALUES.get(kind, "") + _range(declared.min, declared.max)
    return ", ".join(map(code, names)), value


def _element(hint: Any) -> Any:
    """``int`` of ``int | None`` and of ``list[int] | None``."""
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    return _element(inner[0]) if inner else hint


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f", {low} to {high}" if high is not None else f", at least {low}"


def _default(value: Any) -> str:
    if value is None or value is False or value == () or value == []:
        return ""
    return code(str(value.value if isinstance(value, StrEnum) else value))
