"""The version of a Civitai model that a person means, told from what people have at hand."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from gmi_registry.errors import HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.wire import WireModel, WireVersion
from gmi_registry.hubs.digest import FileDigests
from gmi_registry.spec import ModelRef

__all__ = ["find_civitai", "named_model", "newest_version", "require_version"]

_PLAIN = re.compile(r"(?:civitai:)?([1-9][0-9]{0,14})(?:@([1-9][0-9]{0,14}))?")
# The number of a file and a format may follow, which say nothing of the version.
_AIR = re.compile(
    r"(urn:air:[a-z0-9]+:[a-z0-9_]+:civitai:[0-9]+(?:@[0-9]+)?)(?:\+[0-9]+)?(?:\.[a-z]+)?"
)
_AIR_TYPE = re.compile(r"^(urn:air:[a-z0-9]+:)[a-z0-9_]+:")
_MODEL_PAGE = re.compile(r"/models/([1-9][0-9]{0,14})(?:/[^/]*)?/?")
_VERSION_PAGE = re.compile(r"/(?:api/download/models|model-versions)/([1-9][0-9]{0,14})/?")
_NUMBER = re.compile(r"[1-9][0-9]{0,14}")
_HOSTS = ("civitai.com", "civitai.green", "civitai.red")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
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
    if named is not None:
        return _resolved(named, client)
    version = _named_version(text, client)
    if version is not None:
        found = client.version(version)
        return ModelRef("civitai", str(found.model_id), str(found.id))
    place = _file(text)
    if place is not None:
        return _of_file(place, client, digests)
    raise InputError(f"{text[:120]!r} is neither a model on Civitai nor a file", hint=_FORMS)


def named_model(text: str, client: CivitaiClient) -> ModelRef | None:
    """The model, and the version where ``text`` has that, told from the text alone.

    None where only Civitai can tell: for the page of a version, and for a file. Raises InputError
    for a name or an address that is not one of Civitai's.
    """
    plain = _PLAIN.fullmatch(text)
    if plain:
        return ModelRef("civitai", plain[1], plain[2])
    air = _AIR.fullmatch(text)
    if air:
        return ModelRef.parse(_AIR_TYPE.sub(r"\1lora:", air[1]))
    if text.startswith(("civitai:", "urn:")):
        raise InputError(f"{text[:120]!r} names no model on Civitai", hint=_FORMS)
    parts = _address(text, client)
    page = None if parts is None else _MODEL_PAGE.fullmatch(parts.path)
    if parts is None or page is None:
        return None
    versions = parse_qs(parts.query).get("modelVersionId", [])
    if any(not _NUMBER.fullmatch(number) for number in versions) or len(set(versions)) > 1:
        raise InputError(f"{text[:120]!r} names no version", hint=_FORMS)
    return ModelRef("civitai", page[1], versions[0] if versions else None)


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


def _named_version(text: str, client: CivitaiClient) -> str | None:
    parts = _address(text, client)
    if parts is None:
        return None
    page = _VERSION_PAGE.fullmatch(parts.path)
    if page is None:
        raise InputError(f"{text[:120]!r} is not the page of a model", hint=_FORMS)
    return page[1]


def _address(text: str, client: CivitaiClient) -> SplitResult | None:
    """The parts of an address of Civitai's; None for what is no address at all."""
    if not text.startswith(("https://", "http://")):
        return None
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        raise InputError(f"{text[:120]!r} is no address", hint=_FORMS) from None
    if host != urlsplit(client.endpoint).hostname and host.removeprefix("www.") not in _HOSTS:
        raise InputError(f"{host[:80]!r} is not Civitai's address", hint=_FORMS)
    return parts


def _file(text: str) -> Path | None:
    try:
        place = Path(text).expanduser()
        return place if place.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, an account that is not there
        return None


def _of_file(place: Path, client: CivitaiClient, digests: FileDigests | None) -> ModelRef:
    if place.suffix.lower() in _PICKLES:
        raise InputError(
            f"{place} is a pickle, which can run any program when it is opened",
            hint="name the model's safetensors file, or its page",
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
