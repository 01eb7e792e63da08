"""What is written: branches, commits, large files, and what hf_xet uploads."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from .call import Call
from .discussion import open_pull_request, record_commit
from .records import Blob, Refusal, Reply, find_stored, goes_to_lfs
from .repo import Commit, Repo

_EXPIRY = 4102444800  # seconds since 1970; the year 2100


def create_branch(call: Call, repo: Repo, *parts: str) -> Reply:
    call.state.may_write(repo, call.user)
    start = repo.find(call.json().get("startingPoint") or "main")
    return _add(repo, f"refs/heads/{'/'.join(parts)}", start.oid)


def create_tag(call: Call, repo: Repo, revision: str) -> Reply:
    """The address names what is tagged, the body the tag."""
    call.state.may_write(repo, call.user)
    return _add(repo, f"refs/tags/{call.json()['tag']}", repo.find(revision).oid)


def _add(repo: Repo, ref: str, oid: str) -> Reply:
    if ref in repo.refs:
        raise Refusal(409, "Reference already exists")
    repo.refs[ref] = oid
    return Reply.json({})


def preupload(call: Call, repo: Repo, revision: str = "main") -> Reply:
    """Which files go to the large file storage, and what is there under their names."""
    if call.flag("create_pr"):
        call.state.writer(call.user)
    else:
        call.state.may_write(repo, call.user, repo.ref_of(revision) or "")
    head = repo.find(revision)
    answers = []
    for item in call.json()["files"]:
        sample = base64.b64decode(item["sample"])
        lfs = goes_to_lfs(item["path"], item["size"], sample, head.attributes)
        answer: dict[str, Any] = {
            "path": item["path"],
            "uploadMode": "lfs" if lfs else "regular",
            "shouldIgnore": False,
        }
        present = head.files.get(item["path"])
        if present:
            answer["oid"] = present.etag
        answers.append(answer)
    return Reply.json({"files": answers, "commitOid": head.oid})


def commit(call: Call, repo: Repo, revision: str = "main") -> Reply:
    """All of it or nothing. A parent that is no longer the head is refused with 412.

    A pull request starts from the parent that is named, stale or not.
    """
    state = call.state
    lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if header is None or not header.get("summary"):
        raise Refusal(400, "A commit needs a header with a summary")
    parent = header.get("parentCommit")
    title, message = header["summary"], header.get("description", "")
    if call.flag("create_pr"):
        author = state.writer(call.user)
        if repo.discussions_disabled:
            raise Refusal(403, "Discussions are disabled for this repo")
        base = repo.find(parent or revision)
        made = _built(call, repo, base, lines, author.name, title, message)
        pull = open_pull_request(state, repo, base, author.name, title, message)
        repo.add(pull.ref, made)
        record_commit(state, pull, made)
        return _committed(call, repo, made, pull.num)
    ref = repo.ref_of(revision)
    if ref is None or ref.startswith("refs/tags/"):
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    author = state.may_write(repo, call.user, ref)
    base = repo.find(ref)
    if parent and not base.oid.startswith(parent.lower()):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    made = repo.add(ref, _built(call, repo, base, lines, author.name, title, message))
    number = ref.removeprefix("refs/pr/")
    if number != ref:
        record_commit(state, repo.discussions[int(number)], made)
    return _committed(call, repo, made, None)


def _built(
    call: Call, repo: Repo, base: Commit, lines: list[Any], author: str, title: str, message: str
) -> Commit:
    tree = dict(base.files)
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            tree[_checked(value["path"])] = Blob(_decoded(value), lfs=False)
        elif line["key"] == "lfsFile":
            tree[_checked(value["path"])] = _large(call, repo, value)
        elif line["key"] == "deletedFile":
            if tree.pop(value["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif line["key"] == "deletedFolder":
            prefix = value["path"].rstrip("/") + "/"
            gone = [path for path in tree if path.startswith(prefix)]
            if not gone:
                raise Refusal(404, "A folder with this name doesn't exist", "EntryNotFound")
            for path in gone:
                del tree[path]
        elif line["key"] != "header":
            raise Refusal(400, f"Unknown operation {line['key']}")
    return Commit((base.oid,), title, message, author, call.state.now(), tree)


def _checked(path: str) -> str:
    parts = path.split("/")
    if not path or any(part in ("", ".", "..", ".git") for part in parts):
        raise Refusal(400, f"Invalid path: {path}")
    return path


def _decoded(value: dict[str, str]) -> bytes:
    if value.get("encoding") != "base64":
        return value["content"].encode()
    try:
        return base64.b64decode(value["content"], validate=True)
    except binascii.Error:
        raise Refusal(400, f"{value['path']} is not base64") from None


def _large(call: Call, repo: Repo, value: dict[str, Any]) -> Blob:
    blob = repo.objects.get(value["oid"])
    if blob is None and call.state.xet_dir is not None:
        blob = find_stored(call.state.xet_dir, value["oid"])
    if blob is None:
        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
    repo.objects[value["oid"]] = blob
    if value.get("size") not in (None, blob.size):
        raise Refusal(400, f"{value['path']} has {blob.size} bytes, not {value['size']}")
    return blob


def _committed(call: Call, repo: Repo, made: Commit, pull: int | None) -> Reply:
    prefix = "" if repo.type == "model" else f"{repo.type}s/"
    address = f"{call.state.endpoint}/{prefix}{repo.id}"
    answer: dict[str, Any] = {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{address}/commit/{made.oid}",
        "hookOutput": "",
    }
    if pull is not None:
        answer["pullRequestUrl"] = f"{address}/discussions/{pull}"
    return Reply.json(answer)


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


def read_token(call: Call, repo: Repo, revision: str = "main") -> Reply:
    call.state.open_gate(repo, call.user)
    repo.find(revision)
    return _token(call, "read")


def write_token(call: Call, repo: Repo, revision: str = "main") -> Reply:
    """Whoever may open a pull request gets one, with ``create_pr``."""
    if call.flag("create_pr"):
        call.state.writer(call.user)
    else:
        call.state.may_write(repo, call.user, repo.ref_of(revision) or "")
    return _token(call, "write")


def _token(call: Call, kind: str) -> Reply:
    if call.state.xet_dir is None:
        raise Refusal(404, "Xet storage is not enabled here")
    fields = {"casUrl": f"local://{call.state.xet_dir}", "exp": _EXPIRY, "accessToken": kind}
    return Reply.json(
        fields,
        X_Xet_Cas_Url=fields["casUrl"],
        X_Xet_Access_Token=kind,
        X_Xet_Token_Expiration=str(_EXPIRY),
    )
