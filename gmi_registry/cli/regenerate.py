"""``gmi regenerate``: describe anew what is out of date."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gmi_registry.cli.folder import cache_folder, work_folder
from gmi_registry.cli.funnel import FAILED, INTERRUPTED, funnel
from gmi_registry.cli.option import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Device,
    HubText,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    say_more,
)
from gmi_registry.cli.progress import StageProgress
from gmi_registry.cli.regeneration import (
    Announced,
    silent,
    write_plan,
    write_summary,
)
from gmi_registry.cli.silence import without_future_warnings
from gmi_registry.cli.traffic import announce_waits
from gmi_registry.errors import GmiError, InputError
from gmi_registry.report.file import require_place, write_whole

__all__ = ["regenerate"]

_STAGES = {
    "look": "looking at models",
    "generate": "generating images",
    "encode": "encoding images",
    "write": "writing",
}


class ExecutorChoice(StrEnum):
    """As in :data:`gmi_registry.regeneration.run.EXECUTORS`."""

    LOCAL = "local"
    RAY = "ray"
    HF_JOBS = "hf-jobs"


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write a date such as 2026-01-31, or 2026-01-31T08:00",
            param_hint="--since",
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@funnel()
def regenerate(
    hub: HubText = "hf",
    repo: Annotated[
        list[str] | None,
        typer.Option(
            "--repo",
            metavar="MODEL",
            help="Look at this model, also where it has no specification yet; repeatable.",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            "-t",
            metavar="TAG",
            help="Only models with this tag; repeatable.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="DATE",
            help="Only models that changed then or later (UTC).",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what there is to do and why, and do nothing.")
    ] = False,
    max_models: Annotated[
        int | None,
        typer.Option("--max-models", min=0, help="Begin no more than that.", show_default=False),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds",
            min=0,
            help="Begin none after so long; what is begun is ended.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        ExecutorChoice,
        typer.Option("--executor", help="Who draws: this machine, a Ray cluster, the hub's Jobs."),
    ] = ExecutorChoice.LOCAL,
    at_once: Annotated[
        int, typer.Option("--workers", min=1, help="Models at a time, where memory allows it.")
    ] = 1,
    install_webhook: Annotated[
        list[str] | None,
        typer.Option(
            "--install-webhook",
            metavar="MODEL",
            help="In place of all this, let the hub start a job when the model changes: as "
            "gmi webhook install --job; repeatable.",
            show_default=False,
        ),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Take up what was set aside or proposed, too.")
    ] = False,
    create_pr: Annotated[
        bool | None,
        typer.Option(
            "--create-pr/--no-create-pr",
            help="Propose changes to the owners, or make them; as for gmi publish.",
            show_default=False,
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            metavar="DIR",
            help="Bring this index up to date afterwards, with all models or those of --tag.",
            show_default=False,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            metavar="DIR",
            help="Where images and what failed are kept from run to run; else in the cache.",
            show_default=False,
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            metavar="FILE.md",
            help="Write there what was done, for people.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    token: Token = None,
    registry: RegistryText = None,
    civitai_token: CivitaiToken = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Describe anew what is out of date: models whose weights, encoder or prompts have changed.

    Safe to stop at any point and to run again, or twice at once. A model that failed three times is
    set aside until it changes. Exit status 1 where a model failed.
    """
    moment = _moment(since)
    say_more(verbose)
    if summary is not None:
        require_place(summary, "summary", hint="name another file: --summary FILE.md")
    if index is not None and index.exists() and not index.is_dir():
        raise InputError(f"{index} is no folder", hint="name one: gmi regenerate --index DIR")
    if install_webhook:
        from gmi_registry.cli.webhook import install

        install(install_webhook, job=True, token=token, registry=registry, quiet=quiet)
        return
    from gmi_registry.place import hub_at
    from gmi_registry.regeneration import Options, Round, SequentialExecutor
    from gmi_registry.regeneration.run import executor_named

    if device is not None and not plan and executor is ExecutorChoice.LOCAL:
        from gmi_registry.device import require_device

        require_device(device)
    options = Options(
        work=str(work_folder(work, cache_folder(cache_dir)).absolute()),
        cache_dir=None if cache_dir is None else str(cache_dir.absolute()),
        registry=registry,
        create_pr=create_pr,
        device=device,
        token=token,
        civitai_token=civitai_token,
    )
    opening = hub_at(
        hub,
        cache_dir=cache_dir,
        token=token,
        registry=registry,
        civitai_token=civitai_token,
    )
    with opening as opened, without_future_warnings():
        if not (plan or repo or tag) and create_pr is None:
            _require_own(opened.name)
        if not quiet and not verbose:
            announce_waits(opened)
        this = Round(opened, options, repos=repo or (), tags=tag or (), since=moment, retry=retry)
        with StageProgress(_STAGES, quiet=quiet) as looking:
            found = this.plan(progress=lambda done, total: looking("look", done, total))
        if plan:
            write_plan(found, as_json=as_json, quiet=quiet)
            return
        with StageProgress(_STAGES, quiet=quiet) as drawing:
            done = this.run(
                found,
                SequentialExecutor(opened, progress=drawing)
                if executor is ExecutorChoice.LOCAL and at_once == 1
                else executor_named(
                    executor.value, at_once, token=token, civitai_token=civitai_token
                ),
                max_models=max_models,
                max_seconds=max_seconds,
                progress=silent if quiet else Announced(found),
            )
        fault = None
        if index is not None and not done.interrupted:
            try:
                done = this.index(done, index, cache_dir=cache_folder(cache_dir))
            except GmiError as error:
                fault = error  # what was done is to be told all the same
    if summary is not None:
        again = "name another file: --summary FILE.md"
        write_whole(summary, done.to_markdown(), "summary", hint=again)
    write_summary(done, as_json=as_json, quiet=quiet)
    if fault is not None:
        raise fault
    if done.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not done.is_well:
        raise typer.Exit(FAILED)


def _require_own(hub: str) -> None:
    """Nobody opens pull requests at every stranger's model because of three words."""
    if hub != "local":
        raise InputError(
            f"all of {hub} is other people's as well, and what you may not write is proposed",
            hint="name models: --repo owner/model; or a tag: --tag TAG; or say --create-pr",
        )
