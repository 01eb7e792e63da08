"""The page on the Python API: the public functions, and every type that they lead to."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache, cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

import gmi_registry
from docs.press.page import Page, anchor, code, prose
from gmi_registry.spec.manifest import Part

__all__ = ["interface_page"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PACKAGE = gmi_registry.__name__


def interface_page() -> Page:
    """Signatures and docstrings, in the order in which a reader meets them."""
    page = Page("Python API")
    page.add(prose(gmi_registry.__doc__).partition("\n\nThese three")[0])
    functions = [getattr(gmi_registry, name) for name in sorted(gmi_registry.__all__)]
    functions = [item for item in functions if inspect.isfunction(item)]
    types, aliases = _reached(functions)
    linked = {item.__name__ for item in types}
    page.add("Errors are those of [the tree](errors.md#the-tree).")
    for function in functions:
        page.heading(code(f"gmi_registry.{function.__name__}"))
        page.fence(_signature(function, function.__name__), "python")
        page.add(prose(function.__doc__, linked))
    page.heading("Names of types")
    page.table(
        ["name", "in", "stands for", "meaning"],
        [
            [code(name), code(place), code(value), prose(d, linked)]
            for name, place, value, d in aliases
        ],
    )
    for kind in types:
        page.heading(code(kind.__name__))
        page.add(f"`from {_home(kind)} import {kind.__name__}`")
        page.add(prose(kind.__doc__, linked))
        if issubclass(kind, Part):
            page.add("Its fields are those of [the manifest](manifest.md).")
        else:
            _fields(page, kind, linked)
        _members(page, kind, linked)
    return page


def _home(kind: type) -> str:
    """The shortest module that gives the name away."""
    parts = kind.__module__.split(".")
    for end in range(2, len(parts)):
        module = import_module(".".join(parts[:end]))
        if kind.__name__ in getattr(module, "__all__", ()):
            return module.__name__
    return kind.__module__


def _reached(functions: list[Any]) -> tuple[list[type], list[tuple[str, str, str, str]]]:
    """Classes of this package that signatures name, and aliases with module, value and meaning."""
    types: dict[type, None] = {}
    aliases: dict[tuple[str, str, str, str], None] = {}
    queue = [(name, _module(item)) for item in functions for name in _annotations(item)]
    seen: set[tuple[str, str]] = set()
    while queue:
        text, module = queue.pop(0)
        for name in _NAME.findall(text):
            if (name, module.__name__) in seen:
                continue
            seen.add((name, module.__name__))
            value, origin, original = _resolved(name, module)
            if inspect.isclass(value) and value.__module__.startswith(f"{_PACKAGE}."):
                if value not in types:
                    types[value] = None
                    queue += _below(value)
            elif value is not None and origin is not None:
                found = _assigned(origin).get(original)
                if found is not None:
                    aliases[original, origin.__name__, *found] = None
                    queue.append((found[0], origin))
    return list(types), list(aliases)


def _below(kind: type) -> list[tuple[str, ModuleType]]:
    """Annotations of a class that a reader of its description meets."""
    if issubclass(kind, Part):
        return []
    found = [(text, _module(owner)) for _, text, owner in _declared(kind)]
    for _, member in _public(kind):
        found += [(text, _module(kind)) for text in _annotations(member)]
    return found


def _annotations(function: Any) -> list[str]:
    target = function.fget if isinstance(function, property) else function
    target = getattr(target, "__func__", target)
    return [str(text) for text in getattr(target, "__annotations__", {}).values()]


def _module(item: Any) -> ModuleType:
    return sys.modules[item.__module__]


@cache
def _imports(module: ModuleType) -> dict[str, tuple[str, str]]:
    """Local name to (module, name there), also of what is imported for annotations alone."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {item.asname or item.name: (node.module, item.name) for item in node.names}
    return found


def _resolved(name: str, module: ModuleType) -> tuple[Any, ModuleType | None, str]:
    """What a name of an annotation means, the module that defines it, and its name there."""
    while name not in _assigned(module):
        if name not in _imports(module):
            return getattr(module, name, None), None, name
        place, name = _imports(module)[name]
        if not place.startswith(_PACKAGE):
            return None, None, name
        module = import_module(place)
        value = vars(module).get(name)
        if inspect.isclass(value):
            return value, module, name
    return vars(module).get(name), module, name


@cache
def _assigned(module: ModuleType) -> dict[str, tuple[str, str]]:
    """Names that a module gives to types: the value, and the docstring after it."""
    body = ast.parse(inspect.getsource(module)).body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.BinOp | ast.Subscript):
            said = after.value if isinstance(after, ast.Expr) else None
            text = said.value if isinstance(said, ast.Constant) else ""
            found[target.id] = (ast.unparse(value), str(text))
    return found


def _signature(function: Any, name: str) -> str:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    shown, keywords = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            shown.append("*")
            keywords = True
        shown.append(_parameter(parameter))
    result = signature.return_annotation
    arrow = "" if result is signature.empty else f" -> {result}"
    line = f"{name}({', '.join(shown)}){arrow}"
    if len(line) <= 88:
        return line
    return f"{name}(\n" + "".join(f"    {item},\n" for item in shown) + f"){arrow}"


def _parameter(parameter: inspect.Parameter) -> str:
    text = parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    # The address that a function's repr holds is another one each time.
    default = "..." if callable(parameter.default) else repr(parameter.default)
    return f"{text} = {default}"


def _fields(page: Page, kind: type, linked: set[str]) -> None:
    rows = []
    for name, text, _ in _declared(kind):
        links = [item for item in _NAME.findall(text) if item in linked]
        more = ", ".join(f"[{item}](#{anchor(item)})" for item in dict.fromkeys(links))
        rows.append([code(name), code(text), more])
    page.table(["field", "type", "see"], rows)


def _declared(kind: type) -> list[tuple[str, str, type]]:
    """Fields of a dataclass in their order: name, annotation, and the class that declares it."""
    if not dataclasses.is_dataclass(kind):
        return []
    found = []
    for item in dataclasses.fields(kind):
        owner = next(
            base for base in kind.__mro__ if item.name in vars(base).get("__annotations__", {})
        )
        found.append((item.name, str(item.type), owner))
    return found


def _public(kind: type) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        if not base.__module__.startswith(f"{_PACKAGE}.") or base is Part:
            continue
        for name, member in vars(base).items():
            if isinstance(member, cached_property):
                member = property(member.func)
            known = inspect.isfunction(member) or isinstance(member, property | classmethod)
            if known and not name.startswith("_"):
                yield name, member


def _members(page: Page, kind: type, linked: set[str]) -> None:
    rows = []
    for name, member in _public(kind):
        if isinstance(member, property):
            shown = f"{name}: {_annotations(member)[-1]}"
        else:
            shown = _signature(getattr(member, "__func__", member), name)
        said = prose(inspect.getdoc(member), linked)
        rows.append(
            f"- {code(_one_line(shown))}" + (said and ": ") + textwrap.indent(said, "  ")[2:]
        )
    page.add("\n".join(rows))


def _one_line(signature: str) -> str:
    return re.sub(r",? \)", ")", " ".join(signature.split())).replace("( ", "(")
