"""Which hub, model or specification a person means by a few words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gmi_registry.errors import InputError

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub
    from gmi_registry.spec import ModelRef
    from gmi_registry.spec.files import Links

__all__ = [
    "DEFAULT_HUB",
    "SpecPlace",
    "find_model",
    "find_spec",
    "hub_at",
    "hub_named_in",
    "makes_links",
    "open_hub",
]

DEFAULT_HUB = "hf"
"""The hub that is meant where neither the caller nor GMI_HUB names one."""

_HUB_PREFIX = re.compile(r"(hf|civitai|local|urn):")
_CIVITAI = re.compile(r"civitai:|urn:air:|https?://")


@runtime_checkable
class Finds(Protocol):
    """A hub whose models people name in ways of its own."""

    def find(self, text: str) -> ModelRef: ...


@runtime_checkable
class Closable(Protocol):
    """A hub that holds something while it is open."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class SpecPlace:
    """A folder that should hold ``gmi/``, as the readers of :mod:`gmi_registry.spec` want it.

    ``expected`` is the model that it should describe, where the person named one.
    """

    folder: Path
    expected: ModelRef | None = None
    follow_links: Links = False


def open_hub(
    hub: str | Path | Hub | None = None,
    *,
    cache_dir: Path | None = None,
    token: str | None = None,
    offline: bool | None = None,
    registry: str | None = None,
    civitai_token: str | None = None,
) -> Hub:
    """The hub that ``hub`` names (None: GMI_HUB, else Hugging Face), or ``hub`` itself.

    The rest is for a hub that is opened here: ``cache_dir`` is where it keeps what it downloads
    (None: its usual place), ``token`` by default the one that ``hf auth login`` or HF_TOKEN left,
    ``offline`` by default what HF_HUB_OFFLINE says, ``registry`` by default the dataset that
    GMI_REGISTRY names, ``civitai_token`` what CIVITAI_TOKEN says. Raises InputError or HubError
    where there is no such hub.
    """
    if hub is None:
        hub = os.environ.get("GMI_HUB") or DEFAULT_HUB
    if not isinstance(hub, str | Path):
        return hub
    from gmi_registry.hubs.table import open_hub as open_by_name

    # A path is a folder, also one that is called hf.
    text = f"local:{hub}" if isinstance(hub, Path) else hub
    return open_by_name(
        text,
        cache_dir,
        token=token,
        offline=offline,
        registry=registry,
        civitai_token=civitai_token,
    )


@contextmanager
def hub_at(
    hub: str | Path | Hub | None = None,
    *,
    cache_dir: Path | None = None,
    token: str | None = None,
    offline: bool | None = None,
    registry: str | None = None,
    civitai_token: str | None = None,
) -> Iterator[Hub]:
    """Like :func:`open_hub`, closed at the end of the block unless it was open before."""
    opened = open_hub(
        hub,
        cache_dir=cache_dir,
        token=token,
        offline=offline,
        registry=registry,
        civitai_token=civitai_token,
    )
    try:
        yield opened
    finally:
        if opened is not hub and isinstance(opened, Closable):
            opened.close()


def hub_named_in(text: str) -> str | None:
    """The hub that a model's name or address leaves no doubt of, else None."""
    return "civitai" if _CIVITAI.match(text) else None


def find_model(text: str, hub: Hub, revision: str | None = None) -> ModelRef:
    """The model called ``text``: a whole reference, or its name on ``hub``, at ``revision``.

    On Hugging Face a file may follow the name, ``owner/name/style.safetensors``. On Civitai it may
    be the address of a page, an AIR, or a weights file on this disk, and the version is looked up.
    Raises InputError for what is no reference, and where two revisions are named; and what the hub
    raises.
    """
    from gmi_registry.spec import ModelRef

    if isinstance(hub, Finds):
        ref = hub.find(text)
    else:
        ref = ModelRef.parse(text if _HUB_PREFIX.match(text) else f"{hub.name}:{text}")
    if revision is None:
        return ref
    if ref.revision is not None and ref.revision != revision:
        raise InputError(
            f"{text} names revision {ref.revision}, and --revision names {revision}",
            hint=f"name one of them: {ref.without_revision} --revision {revision}",
        )
    return ModelRef(ref.hub, ref.id, revision, ref.file)


def find_spec(
    text: str,
    hub: str | Path | Hub | None = None,
    *,
    cache_dir: Path | None = None,
    token: str | None = None,
    offline: bool | None = None,
) -> SpecPlace:
    """A folder with ``gmi/``, that folder ``gmi`` itself, or a model on ``hub``.

    Without ``hub`` it is the one that the model names, as in ``hf:owner/name``, or GMI_HUB. Raises
    InputError or HubError where there is no such thing.
    """
    path = Path(text)
    if path.is_dir():
        itself = path.name == "gmi" and (path / "spec.json").is_file()
        return SpecPlace(path.absolute().parent if itself else path)
    if hub is None:
        named = DEFAULT_HUB if text.startswith(f"{DEFAULT_HUB}:") else hub_named_in(text)
        hub = named or os.environ.get("GMI_HUB") or None
    if hub is None:
        raise InputError(
            f"{text!r} is not a folder, and no hub is named",
            hint="name a folder that holds gmi/, or add --hub HUB (or set GMI_HUB)",
        )
    with hub_at(hub, cache_dir=cache_dir, token=token, offline=offline) as opened:
        ref = find_model(text, opened)
        folder = opened.fetch_spec(ref)
        parent = folder.parent if folder.name == "gmi" else folder
        return SpecPlace(parent, expected=ref, follow_links=makes_links(opened))


def makes_links(hub: Hub) -> Links:
    """Which links of what the hub gives are followed, as for :func:`.read_spec`.

    Those within a download cache its own client made. A folder of models is filled by anybody, and
    its links may lead anywhere: only what lies in it is read.
    """
    if hub.name != "local":
        return True
    root: object = getattr(hub, "root", False)
    return root if isinstance(root, Path) else False
