"""The specification that another one replaced, where its hub still has it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gmi_registry.errors import SpecError, SpecNotFoundError
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import opened_hub
from gmi_registry.hubs.resolve import read_from
from gmi_registry.spec import MANIFEST_NAME, ModelRef, Spec

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

__all__ = ["Past", "find_previous"]


@runtime_checkable
class _Remote(Protocol):
    """Hugging Face, with a registry beside it or without."""

    @property
    def endpoint(self) -> str: ...

    @property
    def offline(self) -> bool: ...


@dataclass(frozen=True)
class Past:
    """An older specification; ``name`` says where it is, ``preview`` is its contact sheet."""

    spec: Spec
    name: str
    preview: Path | None


def find_previous(
    new: Spec,
    hub: str | Path | Hub | None = None,
    access: HubAccess | None = None,
) -> Past:
    """The specification whose digest ``new`` names as ``previous``.

    It is what the model's hub has now, where ``new`` is not published yet; on Hugging Face it may
    also be in an older commit of the model, which costs a request a page of commits and up to five
    for each specification that is looked at, 60 at most. ``hub`` is where a model of a folder lies.

    Raises SpecNotFoundError where ``new`` replaces none, or where what it replaces is not to be
    had: a folder and the registry are only asked for what they have now. OfflineError where older
    commits would have to be asked for; HubError, AuthError or RateLimitError where the hub says no.
    """
    ref, digest = new.manifest.model.ref, new.manifest.previous
    compare = "gmi spec diff OLD NEW compares any two"
    if digest is None:
        raise SpecNotFoundError(
            f"the specification of {ref.without_revision} replaces none: it names no previous one",
            hint=compare,
        )
    if ref.hub == "local" and (hub is None or hub in ("hf", "civitai")):
        raise SpecNotFoundError(
            f"the specification that {ref.without_revision} had before can only be in its hub, a "
            "folder that was not named",
            hint="add --hub FOLDER, or name both: gmi spec diff OLD NEW",
        )
    source = hub if ref.hub == "local" else ref.hub
    with opened_hub(source, access) as opened:
        found = _at(opened, ref.identity, digest)
        if found is None and ref.hub == "hf":
            found = _in_history(opened, ref, digest, access)
        if found is not None:
            return found
    why = {
        "hf": "neither what the hub has now nor an older commit of it is that one (its history may "
        "have been squashed, or it lay in the registry)",
        "local": "a hub in a folder keeps no older ones",
        "civitai": "the registry's older commits are not looked through",
    }[ref.hub]
    raise SpecNotFoundError(
        f"the previous specification of {ref.without_revision}, {digest[:12]}, cannot be found: "
        f"{why}",
        hint=f"if you have a copy: gmi spec diff COPY {ref.identity}",
    )


def _at(hub: Hub, ref: ModelRef, digest: str) -> Past | None:
    """What ``hub`` has under ``ref``, where it is the one with this digest."""
    try:
        folder = hub.fetch_spec(ref)
        content = (folder / MANIFEST_NAME).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        return Past(read_from(hub, ref), str(ref), hub.fetch_preview(ref))
    except (SpecNotFoundError, SpecError, OSError):
        return None


def _in_history(hub: Hub, ref: ModelRef, digest: str, access: HubAccess | None) -> Past | None:
    from gmi_registry.hubs.huggingface.listing import earlier_commits

    if not isinstance(hub, _Remote):
        return None
    token = None if access is None else access.token
    for commit in earlier_commits(hub.endpoint, ref, token=token, offline=hub.offline):
        found = _at(hub, ModelRef("hf", ref.id, commit, ref.file), digest)
        if found is not None:
            return found
    return None
