"""``gmi regenerate``: make specifications again where they are out of date."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Device,
    HubText,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    cache_folder,
    new_app,
    show_log,
    work_folder,
)
from gmi_registry.cli.output import (
    FAILED,
    INTERRUPTED,
    StageProgress,
    announce_waits,
    handle_errors,
    without_future_warnings,
    write_json,
    write_line,
    write_message,
    write_rows,
)
from gmi_registry.errors import GmiError, InputError
from gmi_registry.report.file import require_place, write_whole

if TYPE_CHECKING:
    from gmi_registry.regeneration import RegenerationPlan, Summary


class ModelMessages:
    """Names each model when it begins, with what there is to do."""

    def __init__(self, plan: RegenerationPlan) -> None:
        self._reasons = {str(model.ref): model.reason for model in plan.due}

    def __call__(self, ended: int, due: int, model: str) -> None:
        reason = self._reasons.pop(model, None)
        if reason is not None:
            write_message(f"{ended + 1} of {due}: {model}: {reason}")


def silent(ended: int, due: int, model: str) -> None:
    """Says nothing."""


def write_plan(plan: RegenerationPlan, *, as_json: bool, quiet: bool) -> None:
    """Every model with its state and why; with ``quiet`` the names of those that are due."""
    from gmi_registry.regeneration.verdict import State

    if as_json:
        write_json(plan.to_json())
    elif quiet:
        write_rows([str(model.ref)] for model in plan.due)
    else:
        write_rows((str(model.ref), model.state, model.reason) for model in plan.models)
        counts = ", ".join(f"{plan.count(state)} {state}" for state in get_args(State))
        write_message(f"{counts}; nothing was done; leave out --plan to do it")


def write_summary(done: Summary, *, as_json: bool, quiet: bool) -> None:
    """What was done on stdout, the rest on stderr."""
    if as_json:
        write_json(done.to_json())
    elif quiet:
        write_rows([result.model] for result in done.done)
    else:
        write_rows((it.model, it.outcome, it.where or "") for it in done.done)
        if not done.results and not done.left:
            write_line(f"nothing to do: {done.fresh} are fresh")
    if quiet:
        return
    for result in done.passed:
        write_message(f"{result.model}: {result.outcome}: {result.reason}")
    for model in done.set_aside:
        write_message(f"{model.ref}: set aside: {model.reason}")
    for left in done.left:
        write_message(f"{left.model.ref}: left for next time: {left.why}")
    for result in done.failed:
        write_message(f"error: {result.model}: {result.reason}")
        if result.hint:
            write_message(f"hint: {result.hint}")
    if done.set_aside:
        write_message("hint: gmi regenerate --retry takes up what was set aside")
    if done.index is not None:
        write_message(f"the index has {done.index.change.rows:,} models")


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


app = new_app()


@app.command()
@handle_errors()
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
    show_log(verbose)
    if summary is not None:
        require_place(summary, "summary", hint="name another file: --summary FILE.md")
    if index is not None and index.exists() and not index.is_dir():
        raise InputError(f"{index} is no folder", hint="name one: gmi regenerate --index DIR")
    if install_webhook:
        from gmi_registry.cli.webhook import install

        install(install_webhook, job=True, token=token, registry=registry, quiet=quiet)
        return
    from gmi_registry.hubs.open import opened_hub
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
    with opened_hub(hub, options.access) as opened, without_future_warnings():
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
                progress=silent if quiet else ModelMessages(found),
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
