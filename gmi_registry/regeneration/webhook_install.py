"""Webhooks of an account: made once, whatever is asked how often; listed; removed."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from gmi_registry.errors import HubError, InputError
from gmi_registry.regeneration.job_executor import hub_api, hub_errors, job_package
from gmi_registry.regeneration.webhook_receiver import PATH, SECRET_VARIABLE, Secret

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo, WebhookInfo

_LONGEST = 2000
_HERE = ("localhost", "127.0.0.1", "::1")


def receiver_address(text: str) -> str:
    """``text`` as the hub is to have it: with the receiver's path where it names only the host.

    Raises InputError for what is no https address; plain http is for this machine alone, since the
    secret goes with each delivery. User names, queries and fragments are refused: they are shown in
    lists, and some hold passwords.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    clean = len(text) <= _LONGEST and all("!" <= letter <= "~" for letter in text)
    secure = parts.scheme == "https" or (parts.scheme == "http" and host in _HERE)
    odd = parts.username is not None or parts.query or parts.fragment or port == 0
    if not (clean and secure and host) or odd or "\\" in text:
        raise InputError(
            "the address of a receiver is https, a host, and perhaps a port and a path",
            hint="gmi webhook install owner/name --url https://hooks.example.org",
        )
    path = parts.path.rstrip("/")
    if not path.endswith(PATH):
        path += PATH
    return f"{parts.scheme}://{parts.netloc}{path}"


def shown_address(text: str) -> str:
    """An address of anybody's for a list: without user names, queries and fragments."""
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{host}{parts.path}"[:_LONGEST]


JOB_MODULE = "gmi_registry.regeneration.webhook_service"
_FORMER_MODULE = ".webhook.job"  # in jobs that version 0.1 made

_LABEL = "purpose"
_PURPOSE = "gmi-webhook"
_SCHEDULED = "gmi-webhook-schedule"
_DIGEST = "gmi-order"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADDRESS = re.compile(r"https://[!-~]{1,1000}")
_GONE = "DELETED"
_PROGRAM = "python"


@dataclass(frozen=True)
class JobSettings:
    """What a job is to be.

    ``token`` is what it publishes with. ``flavor`` is the hardware, as in ``hf jobs hardware``;
    ``timeout`` a number of seconds, or of minutes or hours as ``90m`` and ``2h``. It installs
    ``package`` (None: see :func:`.job_package`) and runs this package's entry, or else ``script``,
    the address of a script with a PEP 723 header. ``namespace`` pays (None: whoever the token
    belongs to). ``registry`` is the dataset for what is not beside its model.

    Raises InputError where no job could install this package, and for a script that is no https
    address: the client would put a file into a volume, and a run that a webhook starts has none.
    """

    token: str = field(repr=False)
    flavor: str = "t4-small"
    timeout: str = "2h"
    package: str | None = None
    script: str | None = None
    namespace: str | None = None
    registry: str | None = None

    def __post_init__(self) -> None:
        if self.script is not None and not _ADDRESS.fullmatch(self.script):
            raise InputError(
                f"{self.script[:120]!r} is not an address that a job can fetch its script from",
                hint="put the script where it can: --script https://...",
            )
        if self.script is None:
            object.__setattr__(self, "package", job_package(self.package, pinned=False))

    def digest(self, *more: str) -> str:
        """16 hex digits by which the same order is known again; the token is not in it."""
        parts = [self.flavor, self.timeout, self.package, self.script or JOB_MODULE]
        named = [*parts, self.registry, *more]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]

    def settings(self, endpoint: str, purpose: str, *arguments: str) -> dict[str, Any]:
        """Arguments of ``run_uv_job`` and its like, ``script`` apart."""
        environment = {"HF_ENDPOINT": endpoint}
        if self.registry is not None:
            environment["GMI_REGISTRY"] = self.registry
        own = [] if self.script is not None else ["-m", JOB_MODULE, "job"]
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


def source_job(api: HfApi, order: JobSettings) -> str:
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
            return _id_of(job, "job")
    with _asking(order):
        return _id_of(api.run_uv_job(order.program, namespace=namespace, **settings), "job")


def schedule_job(api: HfApi, order: JobSettings, repos: Sequence[str], schedule: str) -> str:
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
        return _id_of(made, "job")
    with _asking(order):
        made = api.create_scheduled_uv_job(
            order.program,
            schedule=schedule,
            secrets={"HF_TOKEN": order.token},
            namespace=namespace,
            **settings,
        )
    return _id_of(made, "job")


def is_ours(job: Any) -> bool:
    """Whether the job of a webhook (the client's ``JobSpec``) is one that :func:`source_job` made.

    By its label, or by what it runs where the hub leaves labels out.
    """
    if job is None:
        return False
    if (job.labels or {}).get(_LABEL) == _PURPOSE:
        return True
    words = [*(job.command or ()), *(job.arguments or ())]
    return any(word.endswith((JOB_MODULE, _FORMER_MODULE)) for word in words)


def _id_of(made: JobInfo | WebhookInfo | Any, what: str) -> str:
    """The id of a job or a webhook. Raises HubError for one that could lead elsewhere."""
    if not isinstance(made.id, str) or not _ID.fullmatch(made.id):
        raise HubError(f"the hub gives a {what} an impossible id", hint="check HF_ENDPOINT")
    return made.id


@contextmanager
def _asking(order: JobSettings) -> Iterator[None]:
    """Around the client's call: what it says by the way is no data of ours, and no news."""
    if order.script is None and Path(_PROGRAM).is_file():
        raise InputError(
            f"this folder holds a file called {_PROGRAM}, which would be sent for the program",
            hint="cd to another folder, and run the same command there",
        )
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is experimental", category=UserWarning)
        yield


T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebhookChange:
    """The webhook ``id`` for the model ``repo``, and what was done to it.

    ``made``; ``updated``: it was there, and is on again, with the secret or job of now; ``there``;
    ``removed``; ``none``: there was none to remove, and ``id`` is None.
    """

    repo: str
    id: str | None
    state: Literal["made", "updated", "there", "removed", "none"]


def account_api(token: str | None = None) -> HfApi:
    """The client of the hub that HF_ENDPOINT names, for ``token`` (None: of ``hf auth login``).

    Raises AuthError without a token.
    """
    return hub_api(token, "webhooks belong to an account, and you have no token")


def install_webhook(
    api: HfApi,
    repos: Sequence[str],
    *,
    secret: Secret,
    url: str | None = None,
    job: JobSettings | None = None,
) -> tuple[WebhookChange, ...]:
    """Let the hub tell of every change of the models ``repos`` (``owner/name`` or ``hf:...``).

    It tells a receiver at ``url``, or starts ``job``; one of the two. One webhook a model, so that
    each has the hub's daily number of deliveries to itself; one that is there already is not made
    twice, but turned on and given the secret (and job) of now. What an interrupted call made, the
    same call finds.

    Raises InputError for a name, an address or a choice that cannot be, SpecNotFoundError for a
    model that is not there, AuthError where the token may not do that, and HubError.
    """
    if (url is None) == (job is None):
        raise InputError(
            "a webhook has one place to go to", hint="--url URL or --job, and not both"
        )
    address = None if url is None else receiver_address(url)
    _require_secrets(api, job)
    names = [_existing(api, text) for text in repos]
    there = _webhooks(api)
    with hub_errors(api, writing=True):
        target = (
            {"url": address}
            if job is None
            else {
                "job_id": source_job(api, job),
                "secrets": {"HF_TOKEN": job.token, SECRET_VARIABLE: secret.reveal()},
            }
        )
        return tuple(
            _install(api, repo, _of(there, repo, address), target, secret)
            for repo in dict.fromkeys(names)
        )


def install_schedule(api: HfApi, repos: Sequence[str], job: JobSettings, schedule: str) -> str:
    """Let a job look at ``repos`` again and again; the id of it, which is not made twice.

    As :func:`.schedule_job`; raises as :func:`install_webhook`.
    """
    names = [_existing(api, text) for text in repos]
    with hub_errors(api, writing=True):
        return schedule_job(api, job, list(dict.fromkeys(names)), schedule)


def remove_webhook(
    api: HfApi, repos: Sequence[str], *, url: str | None = None, job: bool = False
) -> tuple[WebhookChange, ...]:
    """Let the hub no longer tell the receiver at ``url``, or start our job, for ``repos``.

    A webhook that watches more than the model goes on watching the rest. Raises as
    :func:`install_webhook`, but for a model that is gone.
    """
    if (url is None) != job:
        raise InputError(
            "which webhooks are meant is not clear", hint="--url URL or --job, and not both"
        )
    address = None if url is None else receiver_address(url)
    done: list[WebhookChange] = []
    for repo in dict.fromkeys(_name(text) for text in repos):
        # Anew each time: one webhook may watch several of them.
        found = _of(_webhooks(api), repo, address)
        with hub_errors(api, writing=True):
            done.extend(_remove(api, repo, webhook) for webhook in found)
        if not found:
            done.append(WebhookChange(repo, None, "none"))
    return tuple(done)


def list_webhooks(api: HfApi) -> tuple[WebhookInfo, ...]:
    """All webhooks of the account, by their ids. Each holds its secret: show only the rest."""
    return tuple(sorted(_webhooks(api), key=lambda webhook: webhook.id))


def _install(
    api: HfApi, repo: str, found: Sequence[WebhookInfo], target: dict[str, Any], secret: Secret
) -> WebhookChange:
    watched = [{"type": "model", "name": repo}]
    if not found:
        made = api.create_webhook(
            watched=list(watched), domains=["repo"], secret=secret.reveal(), **target
        )
        return WebhookChange(repo, _id_of(made, "webhook"), "made")
    state: Literal["updated", "there"] = "there"
    for webhook in found:
        # What secrets a job has the hub does not show, so that they are sent again.
        if "job_id" in target or not secret.matches(webhook.secret or ""):
            api.update_webhook(
                webhook.id, watched=list(webhook.watched), secret=secret.reveal(), **target
            )
            state = "updated"
        if webhook.disabled:
            api.enable_webhook(webhook.id)
            state = "updated"
    return WebhookChange(repo, found[0].id, state)


def _remove(api: HfApi, repo: str, webhook: WebhookInfo) -> WebhookChange:
    rest = [item for item in webhook.watched if (item.type, item.name) != ("model", repo)]
    if rest:
        api.update_webhook(webhook.id, watched=list(rest))
    else:
        api.delete_webhook(webhook.id)
    return WebhookChange(repo, webhook.id, "removed")


def _of(webhooks: Sequence[WebhookInfo], repo: str, address: str | None) -> list[WebhookInfo]:
    """Those for the model and the address, or with None for our job."""
    return [
        webhook
        for webhook in webhooks
        if (is_ours(webhook.job) if address is None else webhook.url == address)
        and "repo" in webhook.domains
        and any((item.type, item.name) == ("model", repo) for item in webhook.watched)
    ]


def _webhooks(api: HfApi) -> list[WebhookInfo]:
    with hub_errors(api, writing=True):
        found = _patiently(api.list_webhooks)
    for webhook in found:
        _id_of(webhook, "webhook")
    return found


def _existing(api: HfApi, text: str) -> str:
    """The model's id, once the hub says that it is there and called so."""
    from gmi_registry.hubs.huggingface.client import HubRequest, translated_errors

    name = _name(text)
    with translated_errors(HubRequest(api.endpoint, True, name)):
        found = _patiently(lambda: api.model_info(name, expand=["sha"])).id
    if found != name:
        raise HubError(f"hf:{name} is now called hf:{found}", hint=f"use that name: hf:{found}")
    return name


def _name(text: str) -> str:
    """The repository of a model that is named in any way: all of it is watched, at no revision."""
    from gmi_registry.hubs.open import endpoints
    from gmi_registry.spec.address import read_address

    named = read_address(text, "hf", endpoints())
    ref = None if named is None else named.model
    if ref is None or ref.hub != "hf" or "/" not in ref.id:
        shown = text.partition("?")[0][:120]
        raise InputError(
            f"{shown!r} cannot be watched: webhooks are for models of Hugging Face",
            hint="write owner/name",
        )
    if ref.revision is not None and not ref.is_pinned:
        raise InputError(
            f"{ref} cannot be watched: webhooks tell of every change of {ref.id}",
            hint=f"write {ref.id}",
        )
    if ref != ref.repository:
        _log.warning("%s: webhooks report every change of %s, not only of that file", ref, ref.id)
    return ref.id


def _require_secrets(api: HfApi, job: JobSettings | None) -> None:
    if job is not None and "secrets" not in inspect.signature(api.create_webhook).parameters:
        raise InputError(
            "this version of huggingface_hub cannot hand a token to a webhook's job",
            hint="pip install --upgrade huggingface_hub",
        )


def _patiently(call: Callable[[], T]) -> T:
    from gmi_registry.hubs.huggingface.client import retried

    return retried(call)
