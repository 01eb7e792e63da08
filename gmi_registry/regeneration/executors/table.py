"""The executors by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from gmi_registry.errors import InputError

if TYPE_CHECKING:
    from gmi_registry.regeneration.executor import Executor

__all__ = ["EXECUTORS", "ExecutorName", "executor_named"]

ExecutorName = Literal["local", "ray", "hf-jobs"]

EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)
"""What ``--executor`` may be."""


def executor_named(
    name: str,
    workers: int = 1,
    *,
    address: str | None = None,
    namespace: str | None = None,
    flavor: str | None = None,
    timeout: int | str | None = None,
    token: str | None = None,
    civitai_token: str | None = None,
) -> Executor:
    """The executor called ``name``, for ``workers`` models at a time.

    ``address`` is of a Ray cluster, and for ``ray`` alone. ``namespace``, ``flavor``, ``timeout``
    (seconds, or a text such as ``2h``) and the tokens are for ``hf-jobs`` alone; the others find
    tokens in the works. Nothing is imported, started or asked that this executor does not need.

    Raises InputError for another name, or fewer than one worker; MissingExtraError for ``ray``
    without its extra.
    """
    if name == "local":
        from gmi_registry.regeneration.executors.local import LocalExecutor

        return LocalExecutor(workers)
    if name == "ray":
        from gmi_registry.regeneration.executors.ray import RayExecutor

        return RayExecutor(workers, address=address)
    if name == "hf-jobs":
        from gmi_registry.regeneration.executors.hf_jobs import HfJobsExecutor

        return HfJobsExecutor(
            workers,
            namespace=namespace,
            flavor=flavor,
            timeout=timeout,
            token=token,
            civitai_token=civitai_token,
        )
    raise InputError(
        f"{name[:80]!r} is no executor", hint=f"use --executor {' or '.join(EXECUTORS)}"
    )
