"""The JSON schema of the manifest: ``python -m gmi_registry.spec.schema`` prints it."""

from __future__ import annotations

import json
import sys
from typing import Any

from gmi_registry.spec.manifest import Manifest

__all__ = ["manifest_schema"]


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of ``spec.json``, as the file is written.

    Two rules of the file differ from the Python classes: a field without a value is absent and
    never null, and every other field is present even where Python has a default for it. What
    fields mean and the rules that tie them together are in SPEC.md alone.
    """
    schema = Manifest.model_json_schema(mode="validation")
    for part in (schema, *schema["$defs"].values()):
        _as_written(part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:gmi-spec:manifest:1",
        **schema,
    }


def _as_written(part: dict[str, Any]) -> None:
    part.pop("description")  # the docstring: about Python, and no part of the contract
    part["required"] = []
    for name, field in part["properties"].items():
        field.pop("title", None)
        if "default" in field and field.pop("default") is None:
            (kept,) = (option for option in field.pop("anyOf") if option != {"type": "null"})
            field.update(kept)
        else:
            part["required"].append(name)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(manifest_schema(), indent=2, sort_keys=True) + "\n")
