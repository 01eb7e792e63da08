"""Models by the names and addresses that people paste, on whatever hub they are.

:meth:`.ModelRef.parse` reads what this package prints, and nothing else. People copy from the bar
of a browser, from a model's description, from other programs: :func:`read_address` reads all of
that by one set of rules. Nothing is asked of a hub, so what a text alone does not tell stays open.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from gmi_registry.errors import InputError
from gmi_registry.spec.reference import HubName, ModelRef, split_file, unprintable

HF_HOSTS = ("huggingface.co", "hf.co")
"""The hosts of Hugging Face's pages."""

CIVITAI_HOSTS = ("civitai.com", "civitai.green", "civitai.red")
"""The hosts of Civitai's pages: one site, with one set of models and accounts."""

_FORMS = (
    "write hf:owner/name, civitai:123@456 or local:name, or paste the address of the model's page"
)
_CIVITAI_FORMS = (
    "write civitai:MODEL@VERSION, the address of the model's page, its AIR, or a .safetensors file"
)
_MOST_LETTERS = 2_000
_DEFAULT_BRANCH = "main"

_PREFIX = re.compile(r"(hf|civitai|local):(?!//)(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_CLONE = re.compile(r"git@([A-Za-z0-9.-]+):(.*)", re.DOTALL)
_NUMBER = re.compile(r"[1-9][0-9]{0,14}")

_AIR_STARTS = re.compile(r"(?:urn:)?air:|urn:", re.IGNORECASE)

_VIEWS = frozenset(
    {"blob", "commit", "commits", "discussions", "raw", "resolve", "settings", "tree"}
)
"""What follows a repository's name in the address of one of its pages."""
_OF_FILES = frozenset({"blob", "commits", "raw", "resolve", "tree"})
_SPECIAL_REVISION = re.compile(r"refs/(?:pr/[1-9][0-9]*|convert/[A-Za-z0-9_]+)(?=/|$)")
_OTHER_KINDS = {"datasets": "a dataset", "spaces": "a Space"}
# fmt: off
_OTHER_PAGES = frozenset({
    "api", "blog", "chat", "changelog", "collections", "docs", "enterprise", "huggingface-cli",
    "inference", "join", "learn", "login", "logout", "models", "new", "notifications",
    "organizations", "papers", "posts", "pricing", "search", "settings", "storage", "tasks",
    "terms-of-service",
})
# fmt: on
_WEIGHTS = (".safetensors", ".gguf")
_OTHER_WEIGHTS = (".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pkl", ".pt", ".pth")

_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z]{2,4})?")
_MODEL_PAGE = re.compile(r"(?:api/v1/)?models/([1-9][0-9]{0,14})(?:/[^/]*)?")
_VERSION_PAGE = re.compile(r"(?:api/download/models|(?:api/v1/)?model-versions)/([1-9][0-9]{0,14})")


@dataclass(frozen=True)
class Address:
    """What a text says of a model: its hub, and ``model`` where the text tells that.

    On Civitai the address of a version may leave the model out: then ``version`` is the number
    that Civitai must be asked about, and ``model`` is None. ``registry`` is the dataset where the
    address is that of one of its entries.
    """

    hub: HubName
    model: ModelRef | None
    version: str | None = None
    registry: str | None = None


def read_address(
    text: str, hub: HubName | None = None, endpoints: Sequence[tuple[HubName, str]] = ()
) -> Address | None:
    """What ``text`` names; a name without a hub of its own is one on ``hub``.

    None where it names no hub and ``hub`` is None; and for a text that is no name on Civitai and
    no address at all, which may be a file. ``endpoints`` are addresses at which hubs are besides
    their own, such as a mirror's.

    Read are ``hf:``, ``civitai:`` and ``local:`` in any case; AIRs (``urn:air:...``); addresses of
    Hugging Face's and Civitai's pages and downloads with or without a scheme; ``hf://``; the
    address that git clones. On Hugging Face the branch ``main``, which every page there names,
    means whatever the hub serves now, ``/discussions/3`` is the pull request ``refs/pr/3``, and a
    file with the ending ``.safetensors`` or ``.gguf`` is one of several models; in a name it may be
    a pattern, such as ``owner/name/*v2*``.

    Raises InputError, with what to write instead, for what names something else than a model, and
    for an address of neither hub: look-alikes are refused, and nothing is asked of them. No message
    repeats a query, which may hold a token.
    """
    text = text.strip()
    if len(text) > _MOST_LETTERS or unprintable(text):
        if hub == "civitai" and not _SCHEME.match(text):
            return None
        raise InputError(f"{_shown(text)} is not the name of a model", hint=_FORMS)
    if _AIR_STARTS.match(text):
        return _air(text)
    prefix = _PREFIX.fullmatch(text)
    if prefix:
        return _named(cast("HubName", prefix[1].lower()), prefix[2], text)
    clone = _CLONE.fullmatch(text)
    if clone and clone[1].lower() in HF_HOSTS:
        return _hugging_face(clone[2].split("/"), text)
    scheme = _SCHEME.fullmatch(text)
    if scheme:
        if scheme[1].lower() == "hf":
            return _file_system(scheme[2], text)
        return _page(text, text, endpoints)
    if hub != "local" and _site(f"https://{text}", endpoints) is not None:
        return _page(f"https://{text}", text, endpoints)
    if hub is None:
        return None
    if hub == "civitai" and re.fullmatch(r"[0-9]+(@.*)?", text) is None:
        return None
    return _named(hub, text, text)


def repository_name(text: str, endpoints: Sequence[tuple[HubName, str]] = ()) -> str:
    """``owner/name`` of a model of Hugging Face that is named in any way; else ``text`` itself.

    For fields and filters that hold names of several kinds, such as a card's base model, where what
    is no address stands for itself.
    """
    try:
        found = read_address(text, None, endpoints)
    except InputError:
        return text
    if found is None or found.model is None or found.hub != "hf":
        return text
    return found.model.id


def dataset_name(text: str, endpoints: Sequence[tuple[HubName, str]] = ()) -> str:
    """``owner/name`` of a dataset of Hugging Face whose page's address it is; else ``text``."""
    text = text.strip()
    for start in ("hf://", "hf:"):
        if text.lower().startswith(start):
            text = f"https://{HF_HOSTS[0]}/{text[len(start) :]}"
    if text.lower().startswith("datasets/"):
        text = f"https://{HF_HOSTS[0]}/{text}"
    site = _site(text if _SCHEME.match(text) else f"https://{text}", endpoints)
    if site is None or site[0] != "hf":
        return text
    segments = [unquote(part) for part in site[1].removeprefix("api/").split("/")]
    if segments[0] != "datasets" or len(segments) < 3:
        return text
    return "/".join(segments[1:3]).removesuffix(".git").partition("@")[0]


def _named(hub: HubName, rest: str, text: str) -> Address:
    """A name on a hub, as it stands after the hub's prefix."""
    if hub == "hf":
        return _hf_name(rest, text)
    identifier, at, revision = rest.partition("@")
    if hub == "civitai" and not (
        _NUMBER.fullmatch(identifier) and (not at or _NUMBER.fullmatch(revision))
    ):
        raise InputError(f"{_shown(text)} names no model on Civitai", hint=_CIVITAI_FORMS)
    identifier, file = split_file(hub, identifier)
    return Address(hub, ModelRef(hub, identifier, revision if at else None, file))


def _hf_name(rest: str, text: str) -> Address:
    identifier, at, revision = rest.partition("@")
    parts = identifier.split("/")
    if parts[0].lower() in _OTHER_KINDS and len(parts) > 2:
        _refuse_kind(parts[0], text)
    identifier, colon, suffix = identifier.partition(":")
    if colon:
        file: str | None = _suffix(identifier, suffix, text)
    else:
        identifier, file = split_file("hf", identifier)
    return Address("hf", ModelRef("hf", identifier, revision if at else None, file))


def _suffix(identifier: str, suffix: str, text: str) -> str:
    """The file that is named after a colon, as in ``owner/name:style.safetensors``."""
    if suffix.endswith(_WEIGHTS):
        return suffix
    raise InputError(
        f"{_shown(text)} names {suffix[:60]!r} of {identifier[:120]}, which is how other programs "
        "choose among GGUF files or variants",
        hint=f"write hf:{identifier[:120]}, or for one of several files hf:{identifier[:120]}/FILE"
        f" or 'hf:{identifier[:120]}/*{re.sub(r'[^A-Za-z0-9_.-]', '', suffix)[:40]}*'",
    )


def _air(text: str) -> Address:
    try:
        model = ModelRef.parse(text)
    except InputError:
        raise InputError(
            f"{_shown(text)} names no model on Civitai, or on Hugging Face",
            hint="an AIR is urn:air:ECOSYSTEM:TYPE:civitai:MODEL@VERSION",
        ) from None
    return Address(model.hub, model)


def _file_system(rest: str, text: str) -> Address:
    """``hf://owner/name@revision/file``, as the client's file system has it."""
    path = rest.partition("?")[0].partition("#")[0].strip("/")
    first, slash, below = path.partition("/")
    if first in _OTHER_KINDS:
        _refuse_kind(first, text)
    if first == "models" and slash:
        path = below
    repository, at, after = path.partition("@")
    parts = repository.split("/")
    if not at:
        return _hugging_face([*parts[:2], "tree", _DEFAULT_BRANCH, *parts[2:]], text)
    after = unquote(after)
    special = _SPECIAL_REVISION.match(after)
    revision = special[0] if special else after.partition("/")[0]
    below = after[len(revision) :].strip("/")
    found = _hugging_face([*parts, "tree", revision, *(below.split("/") if below else [])], text)
    if found.model is not None and revision == _DEFAULT_BRANCH:
        # Here it was typed, and is not what every page says.
        return replace(found, model=replace(found.model, revision=revision))
    return found


def _page(url: str, text: str, endpoints: Sequence[tuple[HubName, str]]) -> Address:
    """What the address ``url`` names; ``text`` is how it was written, for messages."""
    site = _site(url, endpoints)
    if site is None:
        _refuse_host(url)
    hub, path, parts = site
    segments = [unquote(part) for part in path.split("/")]
    if "" in segments or any(unprintable(part) for part in segments):
        raise InputError(f"{_shown(text)} is not the address of a model's page", hint=_FORMS)
    if hub == "hf":
        return _hugging_face(segments, text)
    return _civitai(segments, parse_qs(parts.query), text)


def _site(
    text: str, endpoints: Sequence[tuple[HubName, str]]
) -> tuple[HubName, str, SplitResult] | None:
    """The hub whose address it is, and the path below its root; None for an address of neither."""
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    # A name before the host is what look-alikes are made of: https://civitai.com@evil.example.
    if parts.scheme.lower() not in ("http", "https") or "@" in parts.netloc or not host.isascii():
        return None
    path = parts.path.strip("/")
    for hub, endpoint in endpoints:
        try:
            own = urlsplit(endpoint)
            own_port = own.port
        except ValueError:
            continue  # whoever opens that hub says what is wrong with it
        root = own.path.strip("/")
        same_port = port in (None, 80, 443) if own_port is None else port == own_port
        if own.hostname == host and same_port and (not root or f"{path}/".startswith(f"{root}/")):
            return hub, path[len(root) :].strip("/"), parts
    if port not in (None, 80, 443):
        return None
    host = host.removeprefix("www.")
    hosts: Mapping[str, HubName] = {
        **dict.fromkeys(HF_HOSTS, "hf"),
        **dict.fromkeys(CIVITAI_HOSTS, "civitai"),
    }
    return (hosts[host], path, parts) if host in hosts else None


def _refuse_host(url: str) -> NoReturn:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InputError(f"{_shown(url)} is no address", hint=_FORMS) from None
    site = "the address of Hugging Face or Civitai"
    odd = next((letter for letter in host if not letter.isascii()), None)
    copy = "open the model's page by yourself, and copy its address from there"
    if odd is not None:
        name = unicodedata.name(odd, f"U+{ord(odd):04X}").lower()
        raise InputError(f"{host[:80]!r} is not {site}: it holds {odd!r} ({name})", hint=copy)
    if "@" in parts.netloc:
        raise InputError(f"an address with a name before {host[:80]!r} is not {site}", hint=copy)
    if parts.scheme.lower() not in ("http", "https"):
        raise InputError(
            f"an address that begins with {parts.scheme[:20]}:// is not {site}", hint=copy
        )
    where = host[:80] if port is None else f"{host[:80]}:{port}"
    raise InputError(
        f"{where!r} is not {site}",
        hint=f"{_FORMS}; a mirror is named by HF_ENDPOINT or CIVITAI_ENDPOINT",
    )


def _hugging_face(segments: list[str], text: str) -> Address:
    """The path of an address at Hugging Face, in pieces."""
    api = segments[0] == "api" and len(segments) > 1
    if api:
        segments = segments[1:]
    if segments[0] in _OTHER_KINDS:
        entry = _entry(segments)
        if entry is not None:
            return entry
        _refuse_kind(segments[0], text)
    if api and segments[0] == "models" and len(segments) > 1:
        # The API's word for what a page calls a tree.
        segments = ["tree" if part == "revision" else part for part in segments[1:]]
    elif segments[0] in _OTHER_PAGES or not segments[0]:
        raise InputError(f"{_shown(text)} is not the page of a model", hint=_FORMS)
    whole = "/".join(segments)
    typed = len(segments) >= 3 and segments[2] not in _VIEWS and segments[1] not in _VIEWS
    if any(mark in whole for mark in "@:") or (typed and split_file("hf", whole)[1] is not None):
        return _hf_name(whole, text)  # as it is printed and typed, after the host
    # Old models have no owner: gpt2/tree/main is a view of gpt2, owner/tree/tree/main is not.
    alone = len(segments) == 1 or (
        segments[1] in _VIEWS and len(segments) > 2 and segments[2] not in _VIEWS
    )
    length = 1 if alone else 2
    model = ModelRef("hf", "/".join(segments[:length]).removesuffix(".git"))
    view = segments[length:]
    return Address("hf", _viewed(model, view, text) if view else model)


def _viewed(model: ModelRef, view: list[str], text: str) -> ModelRef:
    """The model as the view of its repository shows it: at a revision, or one file of it."""
    kind, rest = view[0], view[1:]
    if kind not in _VIEWS:
        raise InputError(f"{_shown(text)} is not the page of a model", hint=f"write {model}")
    if kind == "settings" or not rest:
        return model
    if kind == "discussions":
        if not _NUMBER.fullmatch(rest[0]):
            return model
        return replace(model, revision=f"refs/pr/{rest[0]}")
    if kind == "commit":
        return replace(model, revision=rest[0])
    below = "/".join(rest)
    special = _SPECIAL_REVISION.match(below)
    revision = special[0] if special else rest[0]
    path = below[len(revision) :].strip("/")
    pinned = model if revision == _DEFAULT_BRANCH else replace(model, revision=revision)
    return _of_path(pinned, path, text, folder=kind == "tree" and "." not in path)


def _of_path(model: ModelRef, path: str, text: str, *, folder: bool) -> ModelRef:
    """The model, or the one of its files that ``path`` is."""
    if not path or path == "gmi" or path.startswith("gmi/"):
        return model
    if path.endswith(_WEIGHTS):
        return replace(model, file=path)
    if "/" not in path and not path.endswith(_OTHER_WEIGHTS) and not folder:
        return model  # a page about the whole, such as README.md
    raise InputError(
        f"{_shown(text)} names {path[:120]!r}, and a model is a whole repository or a .safetensors "
        "or .gguf file in it",
        hint=f"write {model}",
    )


def _entry(segments: list[str]) -> Address | None:
    """The model of a registry's entry: datasets/OWNER/NAME/tree/REVISION/hf/owner/name/DIGEST."""
    if len(segments) < 7 or segments[0] != "datasets" or segments[3] not in _OF_FILES:
        return None
    hub, place = segments[5], [part for part in segments[6:] if part]
    if "gmi" in place:
        place = place[: place.index("gmi")]
    if len(place) != {"hf": 3, "civitai": 2}.get(hub):
        return None
    try:
        model = ModelRef(cast("HubName", hub), "/".join(place[:-1]), place[-1])
        registry = ModelRef("hf", "/".join(segments[1:3])).id
    except InputError:
        return None
    return Address(model.hub, model, registry=registry)


def _refuse_kind(kind: str, text: str) -> NoReturn:
    raise InputError(
        f"{_shown(text)} is {_OTHER_KINDS[kind.lower()]}, and no model",
        hint="name a model: hf:owner/name",
    )


def _civitai(segments: list[str], query: Mapping[str, list[str]], text: str) -> Address:
    """The path of an address at Civitai, in pieces."""
    if len(segments) > 1 and segments[0] != "api" and _LANGUAGE.fullmatch(segments[0]):
        segments = segments[1:]
    path = "/".join(part.replace("/", "%2F") for part in segments)
    version = _VERSION_PAGE.fullmatch(path)
    if version is not None:
        return Address("civitai", None, version=version[1])
    page = _MODEL_PAGE.fullmatch(path)
    if page is None:
        raise InputError(f"{_shown(text)} is not the page of a model", hint=_CIVITAI_FORMS)
    versions = query.get("modelVersionId", [])
    if any(not _NUMBER.fullmatch(number) for number in versions) or len(set(versions)) > 1:
        raise InputError(f"{_shown(text)} names no version", hint=_CIVITAI_FORMS)
    return Address("civitai", ModelRef("civitai", page[1], versions[0] if versions else None))


def _shown(text: str) -> str:
    """The text as a message quotes it: short, and without what only its sender should know."""
    line = re.split(r"[?#]", text, maxsplit=1)[0]
    line = re.sub(r"(://)[^/@]*@", r"\1", line)
    return repr(line[:120])
