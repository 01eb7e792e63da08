"""The machine behind a loopback hub's Jobs: it runs what a Job was asked to run, and keeps its log.

What draws is replaced by the deeds of these tests; the rest is what a Job would do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

from tests.support.loopback.call import Call
from tests.support.loopback.jobs import Jobs
from tests.support.loopback.records import Reply

_MAIN = """
import sys
from tests.support import deeds
from gmi_registry.regeneration.job_executor import job_main
sys.exit(job_main(deeds.do))
"""


class Machine(Jobs):
    """Begins each Job as it arrives. ``commands`` are what was requested, by the Job's id.

    ``stages`` replaces the run by a fate: Jobs of that model end so, without having begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.commands: dict[str, list[str]] = {}
        self.logs: dict[str, list[str]] = {}
        self.stages: dict[str, str] = {}

    def _jobs(self, call: Call, method: str, namespace: str, rest: list[str]) -> Reply:
        if rest[1:] == ["logs"] and rest[0] in self.made:
            self._may(call, namespace)
            return self._log(rest[0])
        before = set(self.made)
        reply = super()._jobs(call, method, namespace, rest)
        for identifier in set(self.made) - before:
            self.commands[identifier] = self.made[identifier]["command"]
            threading.Thread(target=self._run, args=(identifier,), daemon=True).start()
        return reply

    def _log(self, identifier: str) -> Reply:
        events = [
            {"data": line, "timestamp": "2025-01-01T00:00:00.000Z"}
            for line in ["===== Job started", *self.logs.get(identifier, [])]
        ]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        reply = Reply.json({})
        reply.body = body.encode()
        reply.headers["Content-Type"] = "text/event-stream"
        return reply

    def _run(self, identifier: str) -> None:
        job = self.made[identifier]
        work = json.loads(job["environment"]["GMI_WORK"])
        fate = self.stages.get(work["model"])
        if fate is not None:
            job["status"] = {"stage": fate, "message": "as it was told"}
            return
        job["status"] = {"stage": "RUNNING", "message": None}
        inside = os.environ | job["environment"] | self.secrets[identifier]
        done = subprocess.run(
            [sys.executable, "-c", _MAIN],
            env=inside,
            capture_output=True,
            text=True,
        )
        self.logs[identifier] = (done.stdout + done.stderr).splitlines()
        if job["status"]["stage"] == "RUNNING":
            stage = "COMPLETED" if done.returncode == 0 else "ERROR"
            job["status"] = {"stage": stage, "message": None}
