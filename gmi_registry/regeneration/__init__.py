"""Specifications that stay true: what is out of date is found, described anew and published."""

from gmi_registry.regeneration.executor import (
    Executor,
    Options,
    Outcome,
    Result,
    SequentialExecutor,
    Work,
)

__all__ = ["Executor", "Options", "Outcome", "Result", "SequentialExecutor", "Work"]
