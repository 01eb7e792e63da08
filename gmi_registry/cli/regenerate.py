"""``gmi regenerate``: make specifications again where they are out of date."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from gmi_registry.cli.options import (
    AccessOptions,
    Device,
    HubText,
    OutputOptions,
    Tags,
    command,
    new_app,
    show_log,
    work_folder,
)
from gmi_registry.cli.output import (
    FAILED,
    INTERRUPTED,
    StageProgress,
    announce_waits,
    without_future_warnings,
    write_json,
    write_line,
    write_message,
    write_rows,
)
from gmi_registry.errors import GmiError, InputError

if TYPE_CHECKING:
    from gmi_registry.regeneration import RegenerationPlan, Summary

_STAGES = {
    "look": "checking models",
    "generate": "generating images",
    "encode": "encoding images",
    "write": "writing",
}
_OTHER_FILE = "name another file: --summary FILE.md"


class ExecutorChoice(StrEnum):
    """As in :data:`gmi_registry.regeneration.run.EXECUTORS`."""

    LOCAL = "local"
    RAY = "ray"
    HF_JOBS = "hf-jobs"


app = new_app()


@command(app)
def regenerate(
    hub: HubText = "hf",
    repo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Check this model, also if it has no specification yet; repeatable.",
        ),
    ] = None,
    tag: Tags = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Only models that changed then or later (UTC)."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be done and why, and do nothing.")
    ] = False,
    max_models: Annotated[
        int | None, typer.Option(min=0, help="Start at most this many models.")
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="Start no model after this time; models that were started are finished."
        ),
    ] = None,
    executor: Annotated[
        ExecutorChoice,
        typer.Option(help="Where images are generated: here, in a Ray cluster, in the hub's Jobs."),
    ] = ExecutorChoice.LOCAL,
    at_once: Annotated[
        int, typer.Option("--workers", min=1, help="Models at a time, if there is enough memory.")
    ] = 1,
    install_webhook: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="In place of all this, let the hub start a job when the model changes: as "
            "gmi webhook install --job; repeatable.",
        ),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry", help="Include models that were set aside, or have an open pull request."
        ),
    ] = False,
    create_pr: Annotated[
        bool | None,
        typer.Option(
            "--create-pr/--no-create-pr",
            help="Propose changes to the owners, or make them, as with gmi publish.",
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Then update this index, with all models or those of --tag.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where images and the list of failures are kept from run to run; else in the "
            "cache.",
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Write a Markdown summary to this file."),
    ] = None,
    device: Device = None,
    *,
    access: AccessOptions,
    show: OutputOptions,
) -> None:
    """Make specifications again where weights, encoder or prompts have changed.

    You may stop this at any time and run it again, or run it twice at once. A model that failed
    three times is set aside until it changes. Exit status 1 where a model failed.
    """
    moment = _moment(since)
    show_log(show.verbose)
    from gmi_registry.atomic import require_writable_file, write_text

    if summary is not None:
        require_writable_file(summary, "summary", hint=_OTHER_FILE)
    if index is not None and index.exists() and not index.is_dir():
        raise InputError(f"{index} is not a folder", hint="name one: gmi regenerate --index DIR")
    if install_webhook:
        from gmi_registry.cli.webhook import JobOptions, install

        install(
            install_webhook,
            job=True,
            options=JobOptions(),
            registry=access.registry,
            token=access.token,
            as_json=False,
            quiet=show.quiet,
        )
        return
    from gmi_registry.regeneration import Options, Round, SequentialExecutor
    from gmi_registry.regeneration.run import executor_named

    if device is not None and not plan and executor is ExecutorChoice.LOCAL:
        from gmi_registry.device import require_device

        require_device(device)
    folder = access.cache_dir
    options = Options(
        work=str(work_folder(work, access.cache).absolute()),
        cache_dir=None if folder is None else str(folder.absolute()),
        registry=access.registry,
        create_pr=create_pr,
        device=device,
        token=access.token,
        civitai_token=access.civitai_token,
    )
    quiet = show.quiet
    with access.opened(hub) as opened, without_future_warnings():
        if not (plan or repo or tag) and create_pr is None:
            _require_own(opened.name)
        if not quiet and not show.verbose:
            announce_waits(opened)
        this = Round(opened, options, repos=repo or (), tags=tag or (), since=moment, retry=retry)
        with StageProgress(_STAGES, quiet=quiet) as checking:
            found = this.plan(progress=lambda done, total: checking("look", done, total))
        if plan:
            _write_plan(found, show)
            return
        with StageProgress(_STAGES, quiet=quiet) as generating:
            done = this.run(
                found,
                SequentialExecutor(opened, progress=generating)
                if executor is ExecutorChoice.LOCAL and at_once == 1
                else executor_named(
                    executor.value,
                    at_once,
                    token=access.token,
                    civitai_token=access.civitai_token,
                ),
                max_models=max_models,
                max_seconds=max_seconds,
                progress=_ModelMessages(found, quiet=quiet),
            )
        fault = None
        if index is not None and not done.interrupted:
            try:
                done = this.index(done, index, cache_dir=access.cache)
            except GmiError as error:
                fault = error  # the summary is written all the same
    if summary is not None:
        write_text(summary, done.to_markdown(), "summary", hint=_OTHER_FILE)
    _write_summary(done, show)
    if fault is not None:
        raise fault
    if done.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not done.is_well:
        raise typer.Exit(FAILED)


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


def _require_own(hub: str) -> None:
    """Nobody opens pull requests for every stranger's model because of three words."""
    if hub != "local":
        raise InputError(
            f"most models on {hub} are other people's, and each of them would get a pull request",
            hint="name models: --repo owner/model; or a tag: --tag TAG; or say --create-pr",
        )


class _ModelMessages:
    """Names each model when it begins, with what there is to do."""

    def __init__(self, plan: RegenerationPlan, *, quiet: bool) -> None:
        self._reasons = {} if quiet else {str(model.ref): model.reason for model in plan.due}

    def __call__(self, ended: int, due: int, model: str) -> None:
        reason = self._reasons.pop(model, None)
        if reason is not None:
            write_message(f"{ended + 1} of {due}: {model}: {reason}")


def _write_plan(plan: RegenerationPlan, show: OutputOptions) -> None:
    """Every model with its state and why; with --quiet the names of those that are due."""
    from gmi_registry.regeneration.plan import State

    if show.as_json:
        write_json(plan.to_json())
    elif show.quiet:
        write_rows([str(model.ref)] for model in plan.due)
    else:
        write_rows((str(model.ref), model.state, model.reason) for model in plan.models)
        counts = ", ".join(f"{plan.count(state)} {state}" for state in get_args(State))
        write_message(f"{counts}; nothing was done; leave out --plan to start")


def _write_summary(done: Summary, show: OutputOptions) -> None:
    """What was done on stdout, the rest on stderr."""
    if show.as_json:
        write_json(done.to_json())
    elif show.quiet:
        write_rows([result.model] for result in done.done)
    else:
        write_rows((it.model, it.outcome, it.where or "") for it in done.done)
        if not done.results and not done.left:
            write_line(f"nothing to do: {done.fresh} are fresh")
    if show.quiet:
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
        write_message("hint: gmi regenerate --retry tries these models again")
    if done.index is not None:
        write_message(f"the index has {done.index.change.rows:,} models")
