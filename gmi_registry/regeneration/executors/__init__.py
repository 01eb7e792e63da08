"""Executors that do several models at a time: processes here, a Ray cluster, Jobs of the hub."""

from gmi_registry.regeneration.executors.table import EXECUTORS, ExecutorName, executor_named

__all__ = ["EXECUTORS", "ExecutorName", "executor_named"]
