"""``gmi webhook``: let a hub tell of models that have changed, and listen to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.atomic import user_cache
from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    Device,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    WorkDir,
    command,
    new_app,
    show_log,
    work_folder,
)
from gmi_registry.cli.output import write_json, write_message, write_rows
from gmi_registry.errors import InputError
from gmi_registry.sanitize import add_secret

if TYPE_CHECKING:
    from huggingface_hub import WebhookInfo

    from gmi_registry.regeneration.webhook_install import WebhookChange

app = new_app(
    "Let a hub report models that change, so that their specifications are made again at once."
)

_SECRET = "GMI_WEBHOOK_SECRET"

Repos = Annotated[list[str], typer.Argument(metavar="REPO...", help="Models, as owner/name.")]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where gmi webhook serve can be reached from the hub."),
]
SecretVariable = Annotated[
    str,
    typer.Option(
        "--secret-env",
        metavar="NAME",
        help="The environment variable with the secret that the hub and the receiver share.",
    ),
]


@dataclass(frozen=True)
class JobOptions:
    """How a job of the hub runs."""

    flavor: Annotated[
        str, typer.Option(help="With --job: the hardware, as in hf jobs hardware.")
    ] = "t4-small"
    timeout: Annotated[str, typer.Option(help="With --job: the most time, such as 90m or 2h.")] = (
        "2h"
    )
    package: Annotated[
        str | None,
        typer.Option(
            envvar="GMI_PACKAGE",
            help="With --job: what the job installs, as for pip; default: where this copy came "
            "from.",
        ),
    ] = None
    script: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="With --job: the address of a script such as ci/hf_job.py, instead of --package.",
        ),
    ] = None
    namespace: Annotated[
        str | None, typer.Option(help="With --job: the organisation that pays.")
    ] = None
    job_token_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --job: the variable with the token that the job publishes with; default: "
            "your token.",
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="With --job: also run at fixed times, such as @daily or '0 3 * * 1'.",
        ),
    ] = None


@command(app)
def install(
    repos: Repos,
    url: Url = None,
    job: Annotated[
        bool, typer.Option("--job", help="Start a job on the hub's machines, which costs money.")
    ] = False,
    secret_env: SecretVariable = _SECRET,
    *,
    options: JobOptions,
    registry: RegistryText = None,
    token: Token = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Let the hub report every change of models: to a receiver at --url, or with a --job.

    A webhook that is there already is not made twice.
    """
    from gmi_registry.regeneration.webhook_install import (
        JobSettings,
        account_api,
        install_schedule,
        install_webhook,
    )
    from gmi_registry.regeneration.webhook_receiver import Secret

    if options.schedule is not None and not job:
        raise InputError("--schedule needs --job", hint="add --job, or use a timer of your own")
    secret = Secret.of_environment(secret_env)
    api = account_api(token)
    order: JobSettings | None = None
    if job:
        order = JobSettings(
            token=_job_token(options.job_token_env, str(api.token)),
            flavor=options.flavor,
            timeout=options.timeout,
            package=options.package,
            script=options.script,
            namespace=options.namespace,
            registry=registry or os.environ.get("GMI_REGISTRY") or None,
        )
    done = install_webhook(api, repos, secret=secret, url=url, job=order)
    _write(done, as_json, quiet)
    if order is not None and options.schedule is not None:
        identifier = install_schedule(api, repos, order, options.schedule)
        if not quiet:
            write_message(f"scheduled job {identifier}: hf jobs scheduled ps")


@command(app, "list")
def list_(token: Token = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show the webhooks of your account: id, on or off, where to, and what they watch."""
    from gmi_registry.regeneration.webhook_install import account_api, list_webhooks

    found = [_shown(webhook) for webhook in list_webhooks(account_api(token))]
    if as_json:
        write_json({"webhooks": found})
    elif quiet:
        write_rows([str(it["id"])] for it in found)
    else:
        write_rows(
            [
                str(it["id"]),
                "off" if it["disabled"] else "on",
                str(it["to"]),
                " ".join(it["watched"]) if isinstance(it["watched"], list) else "",
            ]
            for it in found
        )


@command(app)
def remove(
    repos: Repos,
    url: Url = None,
    job: Annotated[bool, typer.Option("--job", help="Those that start a job.")] = False,
    token: Token = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove the webhooks of models: those to a receiver at --url, or those that start a --job."""
    from gmi_registry.regeneration.webhook_install import account_api, remove_webhook

    _write(remove_webhook(account_api(token), repos, url=url, job=job), as_json, quiet)


@command(
    app,
    interrupted="stopped: waiting models are on the disk, and the next start continues with them",
)
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free one.")],
    host: Annotated[
        str, typer.Option(help="0.0.0.0 for all networks of this machine.")
    ] = "127.0.0.1",
    secret_env: SecretVariable = _SECRET,
    queue: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where waiting models are kept; default: in the cache."),
    ] = None,
    capacity: Annotated[int, typer.Option(min=1, help="How many models may wait.")] = 1000,
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Also do the work, not only receive.")
    ] = True,
    create_pr: Annotated[
        bool | None,
        typer.Option(
            "--create-pr/--no-create-pr",
            help="Whether to open pull requests; by default only for models that you cannot write "
            "to.",
        ),
    ] = None,
    device: Device = None,
    work: WorkDir = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Listen to the hub, and describe each model that has changed again, one after the other.

    Put a server with TLS before it. Another process does the work, with your token.
    """
    from gmi_registry.regeneration.webhook_receiver import Secret
    from gmi_registry.regeneration.webhook_service import WorkerSettings
    from gmi_registry.regeneration.webhook_service import serve as listen

    show_log(verbose)
    cache = user_cache(cache_dir)
    if worker and device is not None:
        from gmi_registry.device import require_device

        require_device(device)
    settings = (
        WorkerSettings(work_folder(work, cache), cache_dir, device, create_pr) if worker else None
    )

    def ready(address: str) -> None:
        if not quiet:
            write_message(f"listening at {address}; Ctrl-C stops it")

    listen(
        Secret.of_environment(secret_env),
        cache / "webhook" if queue is None else queue,
        host=host,
        port=port,
        capacity=capacity,
        worker=settings,
        secret_variable=secret_env,
        ready=ready,
    )


def _job_token(variable: str | None, own: str) -> str:
    if variable is None:
        return own
    found = os.environ.get(variable)
    if not found:
        raise InputError(f"{variable} holds no token", hint=f"export {variable}=hf_...")
    add_secret(found)
    return found


def _write(done: tuple[WebhookChange, ...], as_json: bool, quiet: bool) -> None:
    if as_json:
        found = [{"model": f"hf:{it.repo}", "id": it.id, "state": it.state} for it in done]
        write_json({"webhooks": found})
    elif quiet:
        write_rows([it.id] for it in done if it.id is not None)
    else:
        write_rows([f"hf:{it.repo}", it.id or "", it.state] for it in done)


def _shown(webhook: WebhookInfo) -> dict[str, str | bool | list[str]]:
    """What may be seen of it; the secret is not."""
    from gmi_registry.regeneration.webhook_install import shown_address

    where = "a job" if webhook.url is None else shown_address(webhook.url)
    return {
        "id": webhook.id,
        "to": where,
        "disabled": bool(webhook.disabled),
        "domains": [str(domain) for domain in webhook.domains],
        "watched": [f"{item.type}:{item.name}" for item in webhook.watched],
    }
