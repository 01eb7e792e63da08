"""Specifications that stay true: what is out of date is found, described again and published.

::

    from gmi_registry.hubs import opened_hub

    with opened_hub("hf") as hub:
        this = Round(hub, Options(work="work"), tags=["anime"])
        summary = this.run(this.plan(), max_models=5)
    print(summary.to_markdown())
"""

from gmi_registry.regeneration.plan import PlannedModel, RegenerationPlan, make_plan
from gmi_registry.regeneration.run import Round, SequentialExecutor, Summary, regenerate
from gmi_registry.regeneration.store import FailureStore
from gmi_registry.regeneration.work import (
    Executor,
    Options,
    Outcome,
    Result,
    Work,
)

__all__ = [
    "Executor",
    "FailureStore",
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
