from collections.abc import Callable, Mapping
from typing import Any

from gmi_registry.api import load_spec as load_spec
from gmi_registry.api import publish as publish
from gmi_registry.api import search as search

__all__ = ["__version__", "load_spec", "publish", "search"]

__version__: str

def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[list[str], Callable[[str], Any]]: ...
