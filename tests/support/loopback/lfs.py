"""Large files over the LFS protocol: batch, PUT, verify; in parts where they are asked for."""

from __future__ import annotations

import hashlib
from typing import Any

from .blob import Blob
from .call import Call
from .reply import Refusal, Reply
from .repo import Repo

__all__ = ["batch", "complete", "put", "verify"]


def batch(call: Call, repo: Repo) -> Reply:
    """Where to upload what is not known yet. Anybody who may open a pull request may upload."""
    call.state.writer(call.user)
    request = call.json()
    if request.get("operation") != "upload" or "basic" not in request.get("transfers", ["basic"]):
        raise Refusal(400, "Only basic uploads are served here")
    objects = [_actions(call, repo, item["oid"], item["size"]) for item in request["objects"]]
    chunk = call.state.multipart_chunk
    parts = chunk is not None and any(item["size"] > chunk for item in request["objects"])
    return Reply.json({"transfer": "multipart" if parts else "basic", "objects": objects})


def put(call: Call, type_name: str, owner: str, name: str, sha256: str, part: str = "") -> Reply:
    """The bytes of an object, or of one part. The address is its own permission."""
    repo = _repo(call, type_name, owner, name)
    if not part:
        _store(repo, sha256, call.body)
        return Reply(200)
    call.state.parts.setdefault(f"{repo.type}/{repo.id}/{sha256}", {})[int(part)] = call.body
    return Reply(200, headers={"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})


def complete(call: Call, type_name: str, owner: str, name: str, sha256: str) -> Reply:
    """The parts put together, in the order and with the ETags that the client gives."""
    repo = _repo(call, type_name, owner, name)
    parts = call.state.parts.pop(f"{repo.type}/{repo.id}/{sha256}", {})
    content = b""
    for item in call.json()["parts"]:
        part = parts.get(item["partNumber"])
        if part is None or item["etag"].strip('"') != hashlib.md5(part).hexdigest():
            raise Refusal(400, f"Part {item['partNumber']} is missing or another")
        content += part
    _store(repo, sha256, content)
    return Reply.json({})


def verify(call: Call, repo: Repo) -> Reply:
    call.state.writer(call.user)
    wanted = call.json()
    blob = repo.objects.get(wanted["oid"])
    if blob is None or blob.size != wanted["size"]:
        raise Refusal(404, "Object is not uploaded, or has another size")
    return Reply.json({})


def _actions(call: Call, repo: Repo, oid: str, size: int) -> dict[str, Any]:
    state = call.state
    answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    if oid in repo.objects:
        return answer
    place = f"{repo.type}/{repo.id}/{oid}"
    upload: dict[str, Any] = {"href": f"{state.storage}/upload/{place}"}
    chunk = state.multipart_chunk
    if chunk is not None and size > chunk:
        numbers = range(1, -(-size // chunk) + 1)
        upload["header"] = {"chunk_size": str(chunk)} | {
            str(number): f"{state.storage}/upload/{place}/{number}" for number in numbers
        }
        upload["href"] = f"{state.endpoint}/api/complete_multipart/{place}"
    prefix = "" if repo.type == "model" else f"{repo.type}s/"
    check = f"{state.endpoint}/{prefix}{repo.id}.git/info/lfs/objects/verify"
    return answer | {"actions": {"upload": upload, "verify": {"href": check}}}


def _store(repo: Repo, sha256: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Refusal(400, "The bytes do not have the digest that was announced")
    repo.objects.setdefault(sha256, Blob(content, lfs=True))


def _repo(call: Call, type_name: str, owner: str, name: str) -> Repo:
    repo = call.state.repos.get((type_name, f"{owner}/{name}"))
    if repo is None:
        raise Refusal(404, "Not found")
    return repo
