"""Specifications that stay true: what is out of date is found, described anew and published.

::

    from gmi_registry.hubs import opened_hub

    with opened_hub("hf") as hub:
        this = Round(hub, Options(work="work"), tags=["anime"])
        summary = this.run(this.plan(), max_models=5)
    print(summary.to_markdown())
"""

from gmi_registry.regeneration.executor import (
    Executor,
    Options,
    Outcome,
    Result,
    SequentialExecutor,
    Work,
)
from gmi_registry.regeneration.ledger import Ledger
from gmi_registry.regeneration.plan import PlannedModel, RegenerationPlan, make_plan
from gmi_registry.regeneration.round import Round
from gmi_registry.regeneration.run import regenerate
from gmi_registry.regeneration.summary import Summary

__all__ = [
    "Executor",
    "Ledger",
    "Options",
    "Outcome",
    "PlannedModel",
    "RegenerationPlan",
    "Result",
    "Round",
    "SequentialExecutor",
    "Summary",
    "Work",
    "make_plan",
    "regenerate",
]
