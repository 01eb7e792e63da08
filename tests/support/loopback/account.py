"""Who is asking, and repositories as a whole."""

from __future__ import annotations

import re
from typing import Any

import yaml

from .call import Call
from .records import Refusal, Reply, User
from .repo import Repo

__all__ = [
    "auth_check", "create_repo", "create_webhook", "delete_repo", "list_webhooks",
    "validate_yaml", "whoami",
]  # fmt: skip

_NAME = re.compile(r"[\w][\w.-]{0,95}")
_FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)


def whoami(call: Call) -> Reply:
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    return Reply.json(call.user.whoami())


def create_repo(call: Call) -> Reply:
    user = call.state.writer(call.user)
    fields = call.json()
    repo_type, repo_id = _named(user, fields)
    namespace, name = repo_id.split("/")
    if not user.owns(namespace):
        raise Refusal(
            403,
            f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"',
        )
    if not _NAME.fullmatch(name) or "--" in name or ".." in name:
        raise Refusal(400, f"Invalid repo name: {name}")
    prefix = "" if repo_type == "model" else f"{repo_type}s/"
    answer = {"url": f"{call.state.endpoint}/{prefix}{repo_id}", "name": repo_id}
    if (repo_type, repo_id) in call.state.repos:
        message = f"You already created this {repo_type} repo"
        reply = Reply.json(answer | {"error": message}, 409)
        reply.headers["X-Error-Message"] = message
        return reply
    private = fields.get("visibility") == "private" or fields.get("private") is True
    repo = call.state.create(repo_type, repo_id, private=private)
    call.state.start(repo, user.name)
    return Reply.json(answer | {"id": repo.id})


def delete_repo(call: Call) -> Reply:
    user = call.state.writer(call.user)
    repo_type, repo_id = _named(user, call.json())
    repo = call.state.readable(repo_type, repo_id, user)
    call.state.may_write(repo, user)
    del call.state.repos[repo_type, repo_id]
    return Reply(200)


def auth_check(call: Call, repo: Repo, kind: str = "read") -> Reply:
    if kind == "write":
        call.state.may_write(repo, call.user)
    else:
        call.state.open_gate(repo, call.user)
    return Reply.json({})


def validate_yaml(call: Call) -> Reply:
    """Errors with the line in the file, as far as YAML itself can tell."""
    content = call.json().get("content", "")
    found = _FRONT.match(content)
    if not found:
        message = "empty or missing yaml metadata in repo card"
        return Reply.json({"errors": [], "warnings": [{"message": message}]})
    problem = _problem(found)
    if problem is None:
        return Reply.json({"errors": [], "warnings": []})
    return Reply.json({"errors": [{"message": problem}], "warnings": []}, 400)


def create_webhook(call: Call) -> Reply:
    """Kept, and shown in lists; nothing is sent."""
    user = call.state.writer(call.user)
    fields = call.json()
    made: dict[str, Any] = {
        "id": f"{len(call.state.webhooks) + 1:024x}",
        "watched": fields["watched"],
        "domains": fields.get("domains", ["repo", "discussion"]),
        "secret": fields.get("secret"),
        "disabled": False,
    }
    if "url" in fields:
        made["url"] = fields["url"]
    else:
        made["job"] = {"id": fields.get("jobSourceId"), "docker_image": None, "command": []}
    call.state.webhooks.append({"owner": user.name, "webhook": made})
    return Reply.json({"webhook": made})


def list_webhooks(call: Call) -> Reply:
    user = call.state.writer(call.user)
    own = [item["webhook"] for item in call.state.webhooks if item["owner"] == user.name]
    return Reply.json(own)


def _named(user: User, fields: dict[str, Any]) -> tuple[str, str]:
    repo_type = fields.get("type") or "model"
    return repo_type, f"{fields.get('organization') or user.name}/{fields.get('name', '')}"


def _problem(front: re.Match[str]) -> str | None:
    keys = re.findall(r"^([\w-]+)[ \t]*:", front[1], re.M)
    twice = next((place for place, key in enumerate(keys) if key in keys[:place]), None)
    if twice is not None:  # as js-yaml, and unlike PyYAML
        line = front[1][: list(re.finditer(r"^[\w-]+[ \t]*:", front[1], re.M))[twice].start()]
        above = front.string[: front.start(1)].count("\n")
        return f"duplicated mapping key ({line.count(chr(10)) + above + 1}:1)"
    try:
        fields = yaml.safe_load(front[1])
    except yaml.MarkedYAMLError as error:
        above = front.string[: front.start(1)].count("\n")
        line = error.problem_mark.line + above + 1 if error.problem_mark else above + 1
        return f"{error.problem} ({line}:1)"
    except (yaml.YAMLError, ValueError) as error:
        return str(error)
    return None if isinstance(fields, dict | None) else '"metadata" must be a mapping'
