"""What the API and the storage answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from .world import File, Model, Version

__all__ = ["Reply", "State", "answer"]

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_JSON = "application/json; charset=utf-8"


@dataclass
class Reply:
    """Status, headers and body of an answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Reply:
        return cls(status, json.dumps(value).encode(), {"Content-Type": _JSON})


class State:
    """All models, the accounts by token, and the addresses of files that are valid now."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.storage = ""
        self.models: dict[int, Model] = {}
        self.users: dict[str, str] = {}
        self.page_size = 100
        self.signed: dict[str, File] = {}
        self.count = 0

    def version(self, number: int) -> tuple[Model, Version] | None:
        for model in self.models.values():
            for version in model.versions:
                if version.id == number and version.status == "Published":
                    return model, version
        return None

    def file(self, number: int) -> File:
        return next(
            file
            for model in self.models.values()
            for version in model.versions
            for file in version.files
            if file.id == number
        )


def answer(
    state: State, method: str, target: str, headers: Mapping[str, str], body: bytes, user: str
) -> Reply:
    """The answer to a request of ``user``, which is empty for somebody without a token."""
    parts = urlsplit(target)
    segments = [unquote(part) for part in parts.path.strip("/").split("/")]
    query = parse_qs(parts.query)
    if segments[0] == "storage":
        return _storage(state, segments[1], headers)
    if segments[:3] == ["api", "download", "models"] and method == "GET":
        return _download(state, segments[3], query, user)
    if segments[:3] == ["api", "v1", "models"] and method == "GET":
        return _model(state, segments[3]) if len(segments) > 3 else _models(state, query)
    if segments[:3] == ["api", "v1", "model-versions"]:
        if segments[3] == "by-hash":
            digests = [segments[4]] if method == "GET" else json.loads(body)
            return _by_hash(state, digests, alone=method == "GET")
        return _version(state, segments[3])
    return Reply(404, b"<html>Not found</html>", {"Content-Type": "text/html"})


def _model(state: State, number: str) -> Reply:
    model = state.models.get(int(number))
    if model is None:
        return Reply.json({"error": f"No model with id {number}"}, 404)
    return Reply.json(model.shown(state.endpoint))


def _version(state: State, number: str) -> Reply:
    found = state.version(int(number))
    if found is None:
        return Reply.json({"error": "Model not found"}, 404)
    model, version = found
    return Reply.json(version.alone(state.endpoint, model))


def _by_hash(state: State, digests: list[str], *, alone: bool) -> Reply:
    if len(digests) > 100 or any(len(digest) != 64 for digest in digests):
        return Reply.json({"error": "Request must include an array of SHA256 Hashes."}, 400)
    wanted = {digest.upper() for digest in digests}
    found = [
        version.alone(state.endpoint, model)
        for model in state.models.values()
        for version in model.versions
        for file in version.files
        if file.digest in wanted and version.status == "Published"
    ]
    if not alone:
        return Reply.json(found)
    return Reply.json(found[0]) if found else Reply.json({"error": "Model not found"}, 404)


def _models(state: State, query: dict[str, list[str]]) -> Reply:
    limit = int(query.get("limit", ["100"])[0])
    if not 0 < limit <= 100:
        return Reply.json({"error": {"issues": [{"path": ["limit"]}]}}, 400)
    if "query" in query and "page" in query:
        return Reply.json({"error": "Cannot use page param with query search."}, 400)
    found = [model for _, model in sorted(state.models.items()) if _passes(model, query)]
    start = int(query.get("cursor", ["0"])[0].partition("|")[0])
    stop = start + min(limit, state.page_size)
    metadata = {}
    if stop < len(found):
        metadata["nextCursor"] = f"{stop}|{found[stop].id}"
        rest = {name: values for name, values in query.items() if name != "cursor"}
        rest["cursor"] = [metadata["nextCursor"]]
        metadata["nextPage"] = f"{state.endpoint}/api/v1/models?{urlencode(rest, True)}"
    items = [model.shown(state.endpoint) for model in found[start:stop]]
    return Reply.json({"items": items, "metadata": metadata})


def _passes(model: Model, query: dict[str, list[str]]) -> bool:
    def listed(name: str) -> list[str]:
        return [word for value in query.get(name, []) for word in value.split(",")]

    ids, types, bases = listed("ids"), listed("types"), listed("baseModels")
    tag = query.get("tag", [""])[0].casefold()
    return (
        (not ids or str(model.id) in ids)
        and (not types or model.type in types)
        and (not tag or tag in (other.casefold() for other in model.tags))
        # Of a model that passes every version is shown, whatever it is made from.
        and (not bases or any(version.base_model in bases for version in model.versions))
        and (query.get("nsfw") == ["true"] or bool(model.level & 1))
    )


def _download(state: State, number: str, query: dict[str, list[str]], user: str) -> Reply:
    found = state.version(int(number))
    if found is None:
        return Reply.json({"error": "Model not found"}, 404)
    model, version = found
    if model.archived:
        return Reply.json({"error": "Model archived, not available for download"}, 410)
    if version.usage != "Download":
        why = "The creator of this asset has disabled downloads on this file"
        return Reply.json({"error": "Unauthorized", "message": why}, 401)
    if version.login and not user:
        why = "The creator of this asset requires you to be logged in to download it"
        return Reply.json({"error": "Unauthorized", "message": why}, 401)
    if version.early:
        why = "This asset is in Early Access."
        return Reply.json({"error": "Early Access", "deadline": version.early, "message": why}, 403)
    wanted = query.get("fileId", [""])[0]
    file = next(
        (file for file in version.files if (str(file.id) == wanted if wanted else file.primary)),
        None,
    )
    if file is None:
        return Reply.json({"error": "File not found"}, 404)
    state.count += 1
    key = f"{file.id}-{state.count}"
    state.signed[key] = file
    address = f"{state.storage}/storage/{key}?X-Amz-Signature=secret{state.count}"
    return Reply(307, b"", {"Location": address})


def _storage(state: State, key: str, headers: Mapping[str, str]) -> Reply:
    file = state.signed.get(key)
    if file is None:
        return Reply(403, b"<Error><Code>AccessDenied</Code></Error>")
    shown = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    wanted = _RANGE.fullmatch(headers.get("Range", ""))
    if not wanted:
        return Reply(200, file.content, shown)
    size = len(file.content)
    start = int(wanted[1])
    stop = min(size, int(wanted[2]) + 1) if wanted[2] else size
    if start >= size:
        return Reply(416, b"", {"Content-Range": f"bytes */{size}"})
    shown["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(206, file.content[start:stop], shown)
