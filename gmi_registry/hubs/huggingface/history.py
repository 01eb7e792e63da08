"""The commits of a model in which its specification was another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from huggingface_hub import HfApi

from gmi_registry.errors import OfflineError
from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.hubs.huggingface.errors import Asked, explained, offline_error
from gmi_registry.hubs.huggingface.patience import patiently
from gmi_registry.hubs.huggingface.shelf import MANIFEST
from gmi_registry.sanitize import add_secret
from gmi_registry.spec import ModelRef
from gmi_registry.spec.manifest import MANIFEST_LIMIT

__all__ = ["earlier_commits"]

_MOST_LOOKS = 60


def earlier_commits(
    endpoint: str, ref: ModelRef, *, token: str | None, offline: bool
) -> Iterator[str]:
    """Commits that gave the model another ``spec.json``, the newest first, as they are wanted.

    A request a page of commits, and one for each that is looked at, 60 at most. Raises OfflineError
    where ``offline``, and HubError, AuthError or RateLimitError where the hub says no.
    """
    asked = Asked(endpoint, token is not None, ref.id)
    if offline:
        error = offline_error(asked)
        raise OfflineError(
            f"older commits of hf:{ref.id} have to be asked for, and the network is switched off",
            hint=error.hint,
        )
    add_secret(token)
    api = HfApi(endpoint, token=token, library_name="gmi-registry")
    with explained(asked):
        listed = patiently(lambda: api.list_repo_commits(ref.id))
    commits = [it.commit_id for it in listed if COMMIT.fullmatch(it.commit_id)]
    position = {commit: number for number, commit in enumerate(commits)}
    at = 0
    for _ in range(_MOST_LOOKS):
        if at >= len(commits):
            return
        commit = commits[at]

        def look(commit: str = commit) -> list[Any]:
            return list(api.get_paths_info(ref.id, MANIFEST, revision=commit, expand=True))

        with explained(asked):
            files = patiently(look)
        if not files:
            at += 1
            continue
        # The same file lies in all commits from its last change up to this one.
        last = getattr(files[0].last_commit, "oid", None)
        changed = position.get(str(last), at)
        if (getattr(files[0], "size", None) or 0) <= MANIFEST_LIMIT:
            yield commits[max(at, changed)]
        at = max(at, changed) + 1
