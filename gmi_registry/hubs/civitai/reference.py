"""The version of a Civitai model that a person means, told from what people have at hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gmi_registry.errors import HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.weights import FORMAT_TITLES, format_named
from gmi_registry.hubs.civitai.wire import WireModel, WireVersion
from gmi_registry.hubs.digest import FileDigests
from gmi_registry.spec import ModelRef
from gmi_registry.spec.address import Address, read_address

__all__ = ["find_civitai", "named_model", "newest_version", "require_version"]

_FORMS = (
    "write civitai:MODEL@VERSION, the address of the model's page, its AIR, or a .safetensors file"
)


def find_civitai(
    text: str, client: CivitaiClient, *, digests: FileDigests | None = None
) -> ModelRef:
    """The version that ``text`` names, its number always filled in, and looked up.

    ``text`` is ``civitai:MODEL`` or ``civitai:MODEL@VERSION``, an AIR, the address of a model's or
    version's page, or a weights file on this disk, which is looked up by its SHA-256 (``digests``
    remembers it). Without a version it is the one that was published last. One request.

    Raises InputError for what is none of these; SpecNotFoundError where Civitai has no such model,
    version or file, or the version is another model's; HubError where several versions hold the
    file, which it names; and every other error of the hub.
    """
    named = named_model(text, client)
    if named is not None and named.model is not None:
        return _resolved(named.model, client)
    if named is not None and named.version is not None:
        found = client.version(named.version)
        return ModelRef("civitai", str(found.model_id), str(found.id))
    place = _file(text)
    if place is not None:
        return _of_file(place, client, digests)
    raise InputError(f"{text[:120]!r} is neither a model on Civitai nor a file", hint=_FORMS)


def named_model(text: str, client: CivitaiClient) -> Address | None:
    """What the text alone tells: a model, and its version where that is named; or a version.

    None where only Civitai can tell, as for a file. Raises InputError for a name or an address that
    is not one of Civitai's.
    """
    named = read_address(text, "civitai", [("civitai", client.endpoint)])
    if named is not None and named.hub != "civitai":
        raise InputError(f"{named.model} is not a model on Civitai", hint=_FORMS)
    return named


def newest_version(model: WireModel, client: CivitaiClient) -> WireVersion:
    """The one that was published last. Raises SpecNotFoundError where none is."""
    published = [item for item in model.model_versions if item.status in (None, "Published")]
    if not published:
        asked = client.asked(ModelRef("civitai", str(model.id)))
        raise SpecNotFoundError(f"{asked.name} has no published version", hint=f"see {asked.page}")
    return max(
        published,
        key=lambda item: (
            0.0 if item.published_at is None else item.published_at.timestamp(),
            item.id,
        ),
    )


def require_version(ref: ModelRef, version: WireVersion, client: CivitaiClient) -> None:
    """Raises SpecNotFoundError unless ``version`` is one of the model that ``ref`` names."""
    if str(version.model_id) != ref.id:
        actual = ModelRef("civitai", str(version.model_id), str(version.id))
        raise SpecNotFoundError(
            f"{ref.without_revision} has no version {version.id}, which is {actual}",
            hint=f"use that name, or see {client.page_of(ref.without_revision)}",
        )


def _resolved(ref: ModelRef, client: CivitaiClient) -> ModelRef:
    if ref.revision is None:
        newest = newest_version(client.model(ref.id), client)
        return ModelRef("civitai", ref.id, str(newest.id))
    require_version(ref, client.version(ref.revision, of=ref), client)
    return ref


def _file(text: str) -> Path | None:
    try:
        place = Path(text).expanduser()
        return place if place.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, an account that is not there
        return None


def _of_file(place: Path, client: CivitaiClient, digests: FileDigests | None) -> ModelRef:
    kind = format_named(place.name)
    if kind not in (None, "safetensors", "gguf"):
        danger = ", which can run any program when it is opened" if kind == "pickle" else ""
        raise InputError(
            f"{place} is {FORMAT_TITLES[str(kind)]}{danger}",
            hint="name the model's safetensors or GGUF file, or its page",
        )
    sha256 = _digest(place) if digests is None else digests.sha256(place)
    found = client.versions_with([sha256])
    refs = [ModelRef("civitai", str(item.model_id), str(item.id)) for item in found]
    # What it answers is not taken at its word.
    holding = [
        ref
        for ref, item in zip(refs, found, strict=True)
        if any(file.sha256 == sha256 for file in item.files)
    ]
    if not holding:
        raise SpecNotFoundError(
            f"Civitai knows no file with the SHA-256 of {place} ({sha256[:16]}…)",
            hint="name the model: civitai:MODEL@VERSION",
        )
    if len(holding) > 1:
        names = ", ".join(map(str, holding[:10]))
        more = f" and {len(holding) - 10} more" if len(holding) > 10 else ""
        raise HubError(
            f"{len(holding)} versions hold the file {place}: {names}{more}",
            hint=f"name one of them: gmi-publish {holding[0]}",
        )
    return holding[0]


def _digest(place: Path) -> str:
    try:
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or error}") from error
