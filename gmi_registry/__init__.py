"""Find the text-to-image model that would make an image like yours.

::

    import gmi_registry

    result = gmi_registry.search("mine.png", "hf", tags=["anime"])
    spec = gmi_registry.load_spec(str(result.hits[0].ref))
    gmi_registry.publish("owner/model")

These three functions are in :mod:`gmi_registry.api`, and are loaded when they are first named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["__version__", "load_spec", "publish", "search"]

__version__ = "0.2.0"

_FUNCTIONS = ("load_spec", "publish", "search")


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module("gmi_registry.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def lazy_names(package: str, names: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any]]:
    """The ``__all__`` and ``__getattr__`` of a ``package`` that imports names when asked for them.

    Each of its modules defines ``names``, separated by spaces. Its stub tells type checkers the
    same.
    """
    places = {name: module for module, defined in names.items() for name in defined.split()}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return sorted(places), get


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS})


class _Package(ModuleType):
    """A package and a module have the names of functions, to which these names belong here.

    Importing ``gmi_registry.search.run`` would otherwise put the package ``search`` in the place of
    the function. ``from gmi_registry.search.run import ...`` works all the same.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _FUNCTIONS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
