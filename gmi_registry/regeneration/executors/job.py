"""What a Job of the hub runs: one work from its environment, one result into its log.

``python -m gmi_registry.regeneration.executors.job``
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, get_args, get_type_hints

from gmi_registry.errors import InputError
from gmi_registry.regeneration.executor import Options, Outcome, Result, Work
from gmi_registry.regeneration.executors.failure import Perform, performed, usual_perform
from gmi_registry.sanitize import guarded_output

__all__ = ["WORK", "main", "read_result", "read_work", "result_line", "work_text"]

WORK = "GMI_WORK"
"""The variable that holds the work as JSON."""

_MARK = "gmi-result "
_LONGEST = 16_384
_DONE = ("published", "proposed", "fresh", "busy", "set aside")


def main(perform: Perform | None = None) -> int:
    """Do the work of ``GMI_WORK`` and print its result; 0 unless it failed.

    Tokens are those of the environment, HF_TOKEN and CIVITAI_TOKEN. Raises InputError where the
    variable holds no work.
    """
    with tempfile.TemporaryDirectory(prefix="gmi-work-") as folder:
        work = read_work(os.environ.get(WORK, ""), folder)
        result = performed(perform or usual_perform(), work)
    print(result_line(result), flush=True)
    return 0 if result.outcome in _DONE else 1


def work_text(work: Work) -> str:
    """The work for another machine: without tokens, and without folders of this one.

    The registry is named that GMI_REGISTRY names here.
    """
    document = asdict(work)
    document["options"]["registry"] = work.options.registry or os.environ.get("GMI_REGISTRY")
    for name in ("work", "cache_dir", "token", "civitai_token", "device"):
        del document["options"][name]
    return json.dumps(document, sort_keys=True)


def read_work(text: str, folder: str) -> Work:
    """What :func:`work_text` wrote, to be done in ``folder``. Raises InputError for others."""
    try:
        document = json.loads(text)
        options = Options(work=folder, **document.pop("options"))
        work = Work(options=options, **document)
        for part in (work, options):
            _require_types(part)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{WORK} holds no work", hint="gmi regenerate --executor hf-jobs starts Jobs"
        ) from error
    return work


def result_line(result: Result) -> str:
    """One line of a log."""
    return _MARK + json.dumps(asdict(result), sort_keys=True)


def read_result(lines: Iterable[str], model: str) -> Result | None:
    """The last result of ``model`` among the lines of a log, of which anybody may print some.

    None where there is none that is whole.
    """
    found = None
    for line in lines:
        if line.startswith(_MARK) and len(line) <= _LONGEST:
            result = _result(line.removeprefix(_MARK))
            if result is not None and result.model == model:
                found = result
    return found


def _result(text: str) -> Result | None:
    try:
        document = json.loads(text)
        names = {field.name for field in fields(Result)}
        result = Result(**{name: value for name, value in document.items() if name in names})
        _require_types(result)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    if result.outcome not in get_args(Outcome):
        return None
    texts = (result.reason, result.where, result.hint, result.digest, result.error)
    return result if all(text is None or text.isprintable() for text in texts) else None


def _require_types(part: Any) -> None:
    """Raises TypeError for a field whose value is not what its annotation says."""
    hints: Mapping[str, Any] = get_type_hints(type(part))
    for field in fields(part):
        value, hint = getattr(part, field.name), hints[field.name]
        allowed = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}.get(hint)
        if allowed is None and type(None) in get_args(hint):
            allowed = (*(kind for kind in get_args(hint) if kind is not type(None)), type(None))
        if allowed is not None and type(value) not in allowed:
            raise TypeError(f"{field.name} is a {type(value).__name__}")


if __name__ == "__main__":
    with guarded_output():
        sys.exit(main())
