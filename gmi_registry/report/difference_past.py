"""The specification that another one replaced, where its hub still has it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gmi_registry.errors import OfflineError, SpecError, SpecNotFoundError
from gmi_registry.place import hub_at, makes_links
from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, ModelRef, Spec, read_spec
from gmi_registry.spec.manifest import MANIFEST_LIMIT

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from gmi_registry.hubs.huggingface.errors import Asked
    from gmi_registry.hubs.protocol import Hub

__all__ = ["Past", "find_previous"]

_MANIFEST = f"{SPEC_DIR}/{MANIFEST_NAME}"
_MOST_LOOKS = 60


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
    *,
    token: str | None = None,
    offline: bool | None = None,
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
    with hub_at(source, token=token, offline=offline) as opened:
        found = _at(opened, ref.identity, digest)
        if found is None and ref.hub == "hf":
            found = _in_history(opened, ref, digest, token)
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
        parent = folder.parent if folder.name == SPEC_DIR else folder
        spec = read_spec(parent, expected=ref, follow_links=makes_links(hub))
        return Past(spec, str(ref), hub.fetch_preview(ref))
    except (SpecNotFoundError, SpecError, OSError):
        return None


def _in_history(hub: Hub, ref: ModelRef, digest: str, token: str | None) -> Past | None:
    from huggingface_hub import HfApi

    from gmi_registry.hubs.huggingface.errors import Asked, offline_error

    if not isinstance(hub, _Remote):
        return None
    asked = Asked(hub.endpoint, token is not None, ref.id)
    if hub.offline:
        error = offline_error(asked)
        raise OfflineError(
            f"older commits of hf:{ref.id} have to be asked for, and the network is switched off",
            hint=error.hint,
        )
    api = HfApi(hub.endpoint, token=token, library_name="gmi-registry")
    for commit in _with_manifests(api, ref.id, asked):
        found = _at(hub, ModelRef("hf", ref.id, commit, ref.file), digest)
        if found is not None:
            return found
    return None


def _with_manifests(api: HfApi, model_id: str, asked: Asked) -> Iterator[str]:
    """Commits that gave the model another ``spec.json``, the newest first, as they are wanted."""
    from gmi_registry.hubs.huggingface.download import COMMIT
    from gmi_registry.hubs.huggingface.errors import explained
    from gmi_registry.hubs.huggingface.patience import patiently

    with explained(asked):
        listed = patiently(lambda: api.list_repo_commits(model_id))
    commits = [it.commit_id for it in listed if COMMIT.fullmatch(it.commit_id)]
    position = {commit: number for number, commit in enumerate(commits)}
    at = 0
    for _ in range(_MOST_LOOKS):
        if at >= len(commits):
            return
        commit = commits[at]

        def look(commit: str = commit) -> list[Any]:
            return list(api.get_paths_info(model_id, _MANIFEST, revision=commit, expand=True))

        with explained(asked):
            files = patiently(look)
        if not files:
            at += 1
            continue
        # The same file lies in all commits from its last change up to this one.
        last = getattr(files[0].last_commit, "oid", None)
        changed = position.get(str(last), at)
        if (getattr(files[0], "size", None) or 0) <= MANIFEST_LIMIT:
            yield commits[max(at, changed)]
        at = max(at, changed) + 1
