"""Describe a model with prompts of your own.

``python publish_with_own_prompts.py MODEL HUB PROMPT ...``

The default prompts stay in the specification, since they alone are compared between models. What
your prompts add is what a search by ``--prompt`` can weigh.
"""

import sys

import gmi_registry
from gmi_registry.spec import PromptSet

model, hub, *prompts = sys.argv[1:]
published = gmi_registry.publish(
    model,
    hub,
    prompts=PromptSet("mine", 1, tuple(prompts)),
    progress=lambda stage, done, total: print(f"{stage} {done}/{total}", file=sys.stderr),
)
print(f"{published.outcome}: {published.where}")
