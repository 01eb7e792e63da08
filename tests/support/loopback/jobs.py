"""Jobs, and the webhooks that start them: what the client asks of them, and no machine behind it.

``Jobs.serve_with(monkeypatch)`` puts these addresses before the hub's others. A job is kept as it
was requested; tests move it on by its ``status``. Nothing is run, and nothing is delivered.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from . import server
from .call import Call
from .records import Refusal, Reply
from .repo import timestamp
from .server import answer as hub_answer

__all__ = ["Jobs"]

PACKAGE = "gmi-registry[publish] @ git+https://example.org/paint/gmi-registry"
_STATES = ("enable", "disable")


class Jobs:
    """``made``, ``scheduled`` and ``webhooks`` hold everything that was made, by id.

    ``secrets`` are those that came with a job or webhook, by its id: the hub keeps them, and shows
    their names only. ``allowed`` says whether the account has paid for jobs.
    """

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        self.scheduled: dict[str, dict[str, Any]] = {}
        self.webhooks: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.allowed = True
        self._owners: dict[str, str] = {}
        self._lock = threading.Lock()
        self._count = 0

    def serve_with(self, monkeypatch: Any) -> None:
        """Let every loopback hub of the test answer for these too, and jobs install PACKAGE."""
        monkeypatch.setattr(server, "answer", self.answer)
        monkeypatch.setenv("GMI_PACKAGE", PACKAGE)

    def answer(self, call: Call) -> Reply:
        """The answer to a request. Raises Refusal."""
        method = "GET" if call.method == "HEAD" else call.method
        match method, call.segments:
            case _, ["api", "settings", "webhooks", *rest]:
                return self._settings(call, method, rest)
            case _, ["api", "jobs", namespace, *rest]:
                return self._jobs(call, method, namespace, rest)
            case _, ["api", "scheduled-jobs", namespace, *rest]:
                return self._schedules(call, method, namespace, rest)
        return hub_answer(call)

    def _jobs(self, call: Call, method: str, namespace: str, rest: list[str]) -> Reply:
        self._may(call, namespace)
        if not rest and method == "POST":
            self._require_payment()
            return Reply.json(self._add(call, namespace, call.json()))
        if not rest:
            wanted = dict(text.partition("=")[::2] for text in call.many("label"))
            stages = call.many("stage")
            found = [
                job
                for job in self.made.values()
                if job["owner"]["name"] == namespace
                and wanted.items() <= (job.get("labels") or {}).items()
                and (not stages or job["status"]["stage"] in stages)
            ]
            return Reply.json(found[::-1])
        job = self.made.get(rest[0])
        if job is None or job["owner"]["name"] != namespace:
            raise Refusal(404, "Job not found")
        if rest[1:] == ["cancel"] and method == "POST":
            job["status"] = {"stage": "CANCELED", "message": None}
        elif rest[1:]:
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        return Reply.json(job)

    def _schedules(self, call: Call, method: str, namespace: str, rest: list[str]) -> Reply:
        self._may(call, namespace)
        if not rest and method == "POST":
            self._require_payment()
            fields = call.json()
            identifier = self._id()
            spec = fields["jobSpec"]
            self.secrets[identifier] = spec.pop("secrets", {})
            self.scheduled[identifier] = {
                "id": identifier,
                "createdAt": timestamp(call.state.now()),
                "jobSpec": spec | {"secrets": dict.fromkeys(self.secrets[identifier], "")},
                "schedule": fields["schedule"],
                "suspend": fields.get("suspend", False),
                "concurrency": fields.get("concurrency", False),
                "status": {"lastJob": None, "nextJobRunAt": None},
                "owner": {"id": "0", "name": namespace, "type": "user"},
            }
            return Reply.json(self.scheduled[identifier])
        own = {key: it for key, it in self.scheduled.items() if it["owner"]["name"] == namespace}
        if not rest:
            key, _, value = (call.one("label") or "").partition("=")
            return Reply.json(
                [it for it in own.values() if not key or it["jobSpec"]["labels"].get(key) == value]
            )
        if rest[0] not in own:
            raise Refusal(404, "Scheduled job not found")
        if method == "DELETE":
            del self.scheduled[rest[0]]
            return Reply(204)
        return Reply.json(own[rest[0]])

    def _settings(self, call: Call, method: str, rest: list[str]) -> Reply:
        user = call.state.writer(call.user)
        if not rest and method == "GET":
            own = [it for key, it in self.webhooks.items() if self._owners[key] == user.name]
            return Reply.json(own)
        if not rest:
            identifier = self._id()
            self.webhooks[identifier] = {"id": identifier, "disabled": False}
            self._owners[identifier] = user.name
            try:
                return self._changed(call, identifier, fresh=True)
            except Refusal:
                del self.webhooks[identifier]
                raise
        if self._owners.get(rest[0]) != user.name or rest[0] not in self.webhooks:
            raise Refusal(404, "Webhook not found")
        if method == "DELETE":
            del self.webhooks[rest[0]]
            return Reply(200)
        if method == "POST" and rest[1:] and rest[1] in _STATES:
            self.webhooks[rest[0]]["disabled"] = rest[1] == "disable"
        elif method == "POST":
            return self._changed(call, rest[0], fresh=False)
        return Reply.json({"webhook": self.webhooks[rest[0]]})

    def _changed(self, call: Call, identifier: str, *, fresh: bool) -> Reply:
        webhook, fields = self.webhooks[identifier], call.json()
        if not fields.get("watched"):
            raise Refusal(400, '"watched" must contain at least 1 items')
        if fresh:
            webhook |= {"domains": ["repo", "discussion"], "secret": None}
        webhook |= {
            name: fields[name] for name in ("watched", "domains", "secret") if name in fields
        }
        if "url" in fields:
            webhook["url"] = fields["url"]
            webhook.pop("job", None)
        elif "jobSourceId" in fields:
            source = self.made.get(fields["jobSourceId"])
            if source is None:
                raise Refusal(404, "Job not found")
            # Nor do its volumes: the hub's documentation warns of that.
            named = ("dockerImage", "spaceId", "command", "arguments", "environment", "flavor")
            webhook["job"] = {name: source.get(name) for name in (*named, "labels", "timeout")}
            webhook.pop("url", None)
            # Of the source's own secrets none goes over to the webhook.
            self.secrets[identifier] = {
                **self.secrets.get(identifier, {}),
                **fields.get("secrets", {}),
            }
            webhook["job"]["secrets"] = dict.fromkeys(self.secrets[identifier], "")
        return Reply.json({"webhook": json.loads(json.dumps(webhook))})

    def _add(self, call: Call, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
        identifier = self._id()
        self.secrets[identifier] = spec.get("secrets", {})
        self.made[identifier] = spec | {
            "id": identifier,
            "createdAt": timestamp(call.state.now()),
            "secrets": dict.fromkeys(self.secrets[identifier], ""),
            "timeout": spec.get("timeoutSeconds"),
            "status": {"stage": "SCHEDULING", "message": None},
            "owner": {"id": "0", "name": namespace, "type": "user"},
        }
        return self.made[identifier]

    def _id(self) -> str:
        with self._lock:
            self._count += 1
            return f"{self._count:024x}"

    def _require_payment(self) -> None:
        if not self.allowed:
            raise Refusal(402, "Payment Required: jobs need a plan or credits")

    def _may(self, call: Call, namespace: str) -> None:
        if not call.state.writer(call.user).owns(namespace):
            raise Refusal(403, "Forbidden: you may not use jobs of this namespace")
