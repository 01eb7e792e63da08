"""The job that a webhook starts on the hub's machines: what it runs, and on what."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import HubError, InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo

__all__ = ["JOB_MODULE", "JOB_PACKAGE", "JobOrder", "is_ours", "schedule_job", "source_job"]

JOB_MODULE = "gmi_registry.webhook.job"
JOB_PACKAGE = "gmi-registry[publish]"

_LABEL = "purpose"
_PURPOSE = "gmi-webhook"
_SCHEDULED = "gmi-webhook-schedule"
_DIGEST = "gmi-order"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADDRESS = re.compile(r"https://[!-~]{1,1000}")
_GONE = "DELETED"
_PROGRAM = "python"


@dataclass(frozen=True)
class JobOrder:
    """What a job is to be.

    ``token`` is what it publishes with. ``flavor`` is the hardware, as in ``hf jobs hardware``;
    ``timeout`` a number of seconds, or of minutes or hours as ``90m`` and ``2h``. It installs
    ``package`` and runs this package's entry, or else ``script``, the address of a script with a
    PEP 723 header. ``namespace`` pays (None: whoever the token belongs to). ``registry`` is the
    dataset for what is not beside its model.

    Raises InputError for a script that is no https address: the client would put a file into a
    volume, and a run that a webhook starts has none.
    """

    token: str = field(repr=False)
    flavor: str = "t4-small"
    timeout: str = "2h"
    package: str = JOB_PACKAGE
    script: str | None = None
    namespace: str | None = None
    registry: str | None = None

    def __post_init__(self) -> None:
        if self.script is not None and not _ADDRESS.fullmatch(self.script):
            raise InputError(
                f"{self.script[:120]!r} is no address that a job can fetch its script from",
                hint="put the script somewhere it can: --script https://...",
            )

    def digest(self, *more: str) -> str:
        """16 hex digits by which the same order is known again; the token is not in it."""
        named = [self.flavor, self.timeout, self.package, self.script, self.registry, *more]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]

    def settings(self, endpoint: str, purpose: str, *arguments: str) -> dict[str, Any]:
        """Arguments of ``run_uv_job`` and its like, ``script`` apart."""
        environment = {"HF_ENDPOINT": endpoint}
        if self.registry is not None:
            environment["GMI_REGISTRY"] = self.registry
        own = [] if self.script is not None else ["-m", JOB_MODULE]
        return {
            "script_args": [*own, *arguments],
            "dependencies": None if self.script is not None else [self.package],
            "env": environment,
            "flavor": self.flavor,
            "timeout": self.timeout,
            "labels": {_LABEL: purpose, _DIGEST: self.digest(*arguments)},
        }

    @property
    def program(self) -> str:
        """What ``uv run`` is to run."""
        return self.script or _PROGRAM


def source_job(api: HfApi, order: JobOrder) -> str:
    """The id of a job that webhooks can start again: one that was run for the same order, or a new
    one.

    The hub knows what to start from a job that was run once. Without a delivery it ends at once; it
    gets no secret. Raises the client's errors, HubError for an impossible answer.
    """
    namespace = order.namespace or str(api.whoami()["name"])
    settings = order.settings(api.endpoint, _PURPOSE)
    wanted = settings["labels"]
    # The client filters by one label at most in some versions, and a server may by none.
    for job in api.list_jobs(labels=wanted, namespace=namespace):
        if wanted.items() <= (job.labels or {}).items() and str(job.status.stage) != _GONE:
            return _checked(job)
    with _asking(order):
        return _checked(api.run_uv_job(order.program, namespace=namespace, **settings))


def schedule_job(api: HfApi, order: JobOrder, repos: Sequence[str], schedule: str) -> str:
    """The id of a job that looks at ``repos`` (``owner/name``) at every turn of ``schedule``.

    ``schedule`` is ``@hourly``, ``@daily`` and the like, or five fields as of cron. It finds what
    no delivery told of. One for the same order, models and times is not made twice. Raises as
    :func:`source_job`.
    """
    namespace = order.namespace or str(api.whoami()["name"])
    # Whole references, so that the client takes none for a file, there or missing.
    models = [f"hf:{repo}@main" for repo in sorted(repos)]
    settings = order.settings(api.endpoint, _SCHEDULED, *models)
    digest = order.digest(*models, schedule)
    settings["labels"][_DIGEST] = digest
    for made in api.list_scheduled_jobs(labels={_DIGEST: digest}, namespace=namespace):
        return _checked(made)
    with _asking(order):
        made = api.create_scheduled_uv_job(
            order.program,
            schedule=schedule,
            secrets={"HF_TOKEN": order.token},
            namespace=namespace,
            **settings,
        )
    return _checked(made)


def is_ours(job: Any) -> bool:
    """Whether the job of a webhook (the client's ``JobSpec``) is one that :func:`source_job` made.

    By its label, or by what it runs where the hub leaves labels out.
    """
    if job is None:
        return False
    if (job.labels or {}).get(_LABEL) == _PURPOSE:
        return True
    return JOB_MODULE in [*(job.command or ()), *(job.arguments or ())]


def _checked(job: JobInfo | Any) -> str:
    identifier = job.id
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise HubError("the hub gives a job an impossible id", hint="check HF_ENDPOINT")
    return identifier


@contextmanager
def _asking(order: JobOrder) -> Iterator[None]:
    """Around the client's call: what it says by the way is no data of ours, and no news."""
    if order.script is None and Path(_PROGRAM).is_file():
        raise InputError(
            f"this folder holds a file called {_PROGRAM}, which would be sent for the program",
            hint="cd to another folder, and run the same command there",
        )
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is experimental", category=UserWarning)
        yield
