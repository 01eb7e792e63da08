"""Webhooks of an account: made once, whatever is asked how often; listed; removed."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gmi_registry.errors import AuthError, HubError, InputError
from gmi_registry.sanitize import add_secret
from gmi_registry.webhook.address import receiver_address
from gmi_registry.webhook.order import JobOrder, is_ours, schedule_job, source_job
from gmi_registry.webhook.secret import SECRET_VARIABLE, Secret

if TYPE_CHECKING:
    from huggingface_hub import HfApi, WebhookInfo

__all__ = [
    "Installed",
    "account_api",
    "install_schedule",
    "install_webhook",
    "list_webhooks",
    "remove_webhook",
]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Installed:
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
    from huggingface_hub import HfApi, constants, get_token

    found = token or get_token()
    add_secret(found)
    if not found:
        raise AuthError(
            f"{constants.ENDPOINT}: webhooks belong to an account, and there is no token",
            hint="hf auth login",
        )
    return HfApi(constants.ENDPOINT, token=found, library_name="gmi-registry")


def install_webhook(
    api: HfApi,
    repos: Sequence[str],
    *,
    secret: Secret,
    url: str | None = None,
    job: JobOrder | None = None,
) -> tuple[Installed, ...]:
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
    with _explained(api):
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


def install_schedule(api: HfApi, repos: Sequence[str], job: JobOrder, schedule: str) -> str:
    """Let a job look at ``repos`` again and again; the id of it, which is not made twice.

    As :func:`.schedule_job`; raises as :func:`install_webhook`.
    """
    names = [_existing(api, text) for text in repos]
    with _explained(api):
        return schedule_job(api, job, list(dict.fromkeys(names)), schedule)


def remove_webhook(
    api: HfApi, repos: Sequence[str], *, url: str | None = None, job: bool = False
) -> tuple[Installed, ...]:
    """Let the hub no longer tell the receiver at ``url``, or start our job, for ``repos``.

    A webhook that watches more than the model goes on watching the rest. Raises as
    :func:`install_webhook`, but for a model that is gone.
    """
    if (url is None) != job:
        raise InputError(
            "which webhooks are meant is not clear", hint="--url URL or --job, and not both"
        )
    address = None if url is None else receiver_address(url)
    done: list[Installed] = []
    for repo in dict.fromkeys(_name(text) for text in repos):
        # Anew each time: one webhook may watch several of them.
        found = _of(_webhooks(api), repo, address)
        with _explained(api):
            done.extend(_remove(api, repo, webhook) for webhook in found)
        if not found:
            done.append(Installed(repo, None, "none"))
    return tuple(done)


def list_webhooks(api: HfApi) -> tuple[WebhookInfo, ...]:
    """All webhooks of the account, by their ids. Each holds its secret: show only the rest."""
    return tuple(sorted(_webhooks(api), key=lambda webhook: webhook.id))


def _install(
    api: HfApi, repo: str, found: Sequence[WebhookInfo], target: dict[str, Any], secret: Secret
) -> Installed:
    watched = [{"type": "model", "name": repo}]
    if not found:
        made = api.create_webhook(
            watched=list(watched), domains=["repo"], secret=secret.reveal(), **target
        )
        return Installed(repo, _checked(made).id, "made")
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
    return Installed(repo, found[0].id, state)


def _remove(api: HfApi, repo: str, webhook: WebhookInfo) -> Installed:
    rest = [item for item in webhook.watched if (item.type, item.name) != ("model", repo)]
    if rest:
        api.update_webhook(webhook.id, watched=list(rest))
    else:
        api.delete_webhook(webhook.id)
    return Installed(repo, webhook.id, "removed")


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
    with _explained(api):
        return [_checked(webhook) for webhook in _patiently(api.list_webhooks)]


def _checked(webhook: WebhookInfo) -> WebhookInfo:
    if not isinstance(webhook.id, str) or not _ID.fullmatch(webhook.id):
        raise HubError("the hub gives a webhook an impossible id", hint="check HF_ENDPOINT")
    return webhook


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
    from gmi_registry.hubs.resolve import endpoints
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
        _log.warning("%s: webhooks tell of every change of %s, not of that alone", ref, ref.id)
    return ref.id


def _require_secrets(api: HfApi, job: JobOrder | None) -> None:
    if job is not None and "secrets" not in inspect.signature(api.create_webhook).parameters:
        raise InputError(
            "this version of huggingface_hub cannot hand a token to a webhook's job",
            hint="pip install --upgrade huggingface_hub",
        )


def _patiently(call: Callable[[], T]) -> T:
    from gmi_registry.hubs.huggingface.client import retried

    return retried(call)


@contextmanager
def _explained(api: HfApi) -> Iterator[None]:
    from gmi_registry.hubs.huggingface.client import HubRequest, translated_errors

    with translated_errors(HubRequest(api.endpoint, True, writing=True)):
        yield
