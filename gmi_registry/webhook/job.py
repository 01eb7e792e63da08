"""What a job of the hub runs, started by a webhook or a timer.

``python -m gmi_registry.webhook.job`` looks at the model that WEBHOOK_PAYLOAD tells of, if
WEBHOOK_SECRET is the one in GMI_WEBHOOK_SECRET. With names of models it looks at those.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gmi_registry.errors import AuthError, GmiError, InputError
from gmi_registry.hubs.resolve import endpoints
from gmi_registry.sanitize import guarded_output
from gmi_registry.spec.address import read_address
from gmi_registry.webhook.look import Look, Looked, look_with
from gmi_registry.webhook.payload import Ignored, decide
from gmi_registry.webhook.secret import SECRET_VARIABLE, Secret

__all__ = ["main", "run"]

_PAYLOAD = "WEBHOOK_PAYLOAD"
_GIVEN = "WEBHOOK_SECRET"


def run(
    models: Sequence[str], environment: Mapping[str, str], look: Look
) -> tuple[tuple[str, Looked], ...]:
    """Look at ``models`` (``hf:owner/name``), or without any at the one of the delivery.

    Returns each with what the look came to; empty where there is nothing to look at. A model that
    fails does not keep the others from their turn. Raises AuthError for a delivery without the
    secret, InputError for what is no delivery, no secret, or no model.
    """
    repos = [_repo(text) for text in models]
    if not repos:
        change = _delivered(environment)
        repos = [] if change is None else [change]
    return tuple((repo, _looked(look, repo)) for repo in repos)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its status is 1 where a look failed, so that the hub shows the job as failed."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gmi-work-") as folder:
        try:
            models = sys.argv[1:] if arguments is None else arguments
            done = run(models, os.environ, look_with(Path(folder)))
        except GmiError as error:
            print(f"error: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"hint: {error.hint}", file=sys.stderr)
            return 1
    for repo, looked in done:
        print(f"hf:{repo}: {looked.outcome}: {looked.reason}")
    return 0 if all(looked.outcome == "done" for _, looked in done) else 1


def _delivered(environment: Mapping[str, str]) -> str | None:
    """The model that a delivery asks to look at; None where there is none, which is said."""
    payload = environment.get(_PAYLOAD)
    if not payload:
        print("no delivery: this run only lets webhooks start the job again")
        return None
    expected = environment.get(SECRET_VARIABLE)
    if not expected:
        raise InputError(
            f"{SECRET_VARIABLE} is not among the secrets of this job, so no delivery is believed",
            hint="gmi webhook install owner/name --job",
        )
    if not Secret(expected).matches(environment.get(_GIVEN, "")):
        raise AuthError(
            "the secret of the delivery is missing or wrong",
            hint="gmi webhook install owner/name --job, which gives both sides the same",
        )
    decision = decide(payload)
    if isinstance(decision, Ignored):
        print(f"ignored: {decision.reason}")
        return None
    return decision.repo


def _repo(text: str) -> str:
    named = read_address(text, "hf", endpoints())
    if named is None or named.model is None or named.hub != "hf":
        raise InputError(
            f"{text[:120]!r} is not on Hugging Face", hint="name models as hf:owner/name"
        )
    return named.model.id


def _looked(look: Look, repo: str) -> Looked:
    try:
        return look(repo)
    except GmiError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Looked("failed", f"{error.message}{hint}")


if __name__ == "__main__":
    with guarded_output():
        sys.exit(main())
