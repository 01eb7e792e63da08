"""What ``gmi regenerate`` prints: the plan, what begins, and what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from gmi_registry.cli.screen import remark, write_json, write_line, write_rows

if TYPE_CHECKING:
    from gmi_registry.regeneration import RegenerationPlan, Summary

__all__ = ["Announced", "silent", "write_plan", "write_summary"]


class Announced:
    """Names each model when it begins, with what there is to do."""

    def __init__(self, plan: RegenerationPlan) -> None:
        self._reasons = {str(model.ref): model.reason for model in plan.due}

    def __call__(self, ended: int, due: int, model: str) -> None:
        reason = self._reasons.pop(model, None)
        if reason is not None:
            remark(f"{ended + 1} of {due}: {model}: {reason}")


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
        remark(f"{counts}; nothing was done; leave out --plan to do it")


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
        remark(f"{result.model}: {result.outcome}: {result.reason}")
    for model in done.set_aside:
        remark(f"{model.ref}: set aside: {model.reason}")
    for left in done.left:
        remark(f"{left.model.ref}: left for next time: {left.why}")
    for result in done.failed:
        remark(f"error: {result.model}: {result.reason}")
        if result.hint:
            remark(f"hint: {result.hint}")
    if done.set_aside:
        remark("hint: gmi regenerate --retry takes up what was set aside")
    if done.index is not None:
        remark(f"the index has {done.index.change.rows:,} models")
