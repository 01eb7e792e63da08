"""Which specification a person means: a folder on this disk, or a model on a hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmi_registry.errors import InputError

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub
    from gmi_registry.spec import ModelRef

__all__ = ["SpecPlace", "find_model", "find_spec"]

_HUB_PREFIX = re.compile(r"(hf|civitai|local|urn):")


@dataclass(frozen=True)
class SpecPlace:
    """A folder that should hold ``gmi/``, as the readers of :mod:`gmi_registry.spec` want it.

    ``expected`` is the model that it should describe, where the person named one.
    """

    folder: Path
    expected: ModelRef | None = None
    follow_links: bool = False


def find_spec(text: str, hub: str | None) -> SpecPlace:
    """A folder with ``gmi/``, that folder ``gmi`` itself, or a model on ``hub``.

    Raises InputError or HubError where there is no such thing.
    """
    path = Path(text)
    if path.is_dir():
        itself = path.name == "gmi" and (path / "spec.json").is_file()
        return SpecPlace(path.absolute().parent if itself else path)
    if hub is None:
        raise InputError(
            f"{text!r} is not a folder, and no hub is named",
            hint="name a folder that holds gmi/, or add --hub FOLDER (or set GMI_HUB)",
        )
    opened = open_hub(hub)
    ref = find_model(text, opened)
    folder = opened.fetch_spec(ref)
    parent = folder.parent if folder.name == "gmi" else folder
    # A download cache may be made of links, a folder of models must not be.
    return SpecPlace(parent, expected=ref, follow_links=opened.name != "local")


def find_model(text: str, hub: Hub) -> ModelRef:
    """The model called ``text``: a whole reference, or its name on ``hub``. Raises InputError."""
    from gmi_registry.spec import ModelRef

    return ModelRef.parse(text if _HUB_PREFIX.match(text) else f"{hub.name}:{text}")


def open_hub(text: str, cache_dir: Path | None = None) -> Hub:
    """The hub called ``text``."""
    from gmi_registry.hubs.table import open_hub as open_by_name

    return open_by_name(text, cache_dir)
