"""A specification goes beside its model in one commit, or is proposed as one pull request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from gmi_registry.errors import HubError
from gmi_registry.hubs.card import CARD_NAME
from gmi_registry.hubs.huggingface.card_edit import edit_card
from gmi_registry.hubs.huggingface.change import Change, Start, make
from gmi_registry.hubs.huggingface.preflight import (
    Preflight,
    asked_of,
    check_writable,
    read_file,
    stored_files,
)
from gmi_registry.hubs.upload import read_upload
from gmi_registry.sanitize import in_markdown
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    Manifest,
    ModelRef,
)

__all__ = ["push_spec"]

_MANIFEST = f"{SPEC_DIR}/{MANIFEST_NAME}"
_SIGNATURE = f"{SPEC_DIR}/{SIGNATURE_NAME}"

# git itself holds no larger file at the hub.
_REGULAR_LIMIT = 10 * 1024 * 1024


def push_spec(api: HfApi, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
    """Commit the specification in ``folder`` to the model, with the edit of its card.

    The files of a specification go together: an old preview or signature does not outlive its
    specification. Without the right to write, or with ``create_pr``, a pull request is opened,
    unless one of this account's is open with the same specification. A push that somebody else's
    commit overtook starts again from that commit. After a failure that leaves open whether the
    hub did what it was asked, the model is looked at before anything is sent again.

    Returns the address of the commit or of the pull request; where the model holds all of it
    already, nothing is sent, and it is the address of ``gmi`` at the current commit.

    Raises InputError or SpecError for files that are no specification of ``ref``, AuthError for
    want of rights, HubError where the model now has other weights, its card cannot be edited, or
    the hub does not answer; the model then holds its old specification or the whole new one.
    """
    manifest, contents = read_upload(folder, ref)
    names = (MANIFEST_NAME, TENSORS_NAME, PREVIEW_NAME, SIGNATURE_NAME)
    ours = {f"{SPEC_DIR}/{name}": contents.get(name) for name in names}
    beside = _Beside(api, ref, manifest, ours, create_pr)
    change = Change(asked_of(api, ref), "model", beside.look, beside.is_made, beside.describe)
    done = make(api, change, propose=create_pr)
    if isinstance(done, Start):
        return f"{change.asked.url}/tree/{done.parent_commit}/{SPEC_DIR}"
    return done


@dataclass(frozen=True)
class _Beside:
    """The change of one model: the files of its specification, and its card."""

    api: HfApi
    ref: ModelRef
    manifest: Manifest
    ours: Mapping[str, bytes | None]
    create_pr: bool

    def look(self) -> Start:
        now = check_writable(self.api, self.ref, create_pr=self.create_pr)
        self._require_same_weights(now)
        preview = self.ours[f"{SPEC_DIR}/{PREVIEW_NAME}"] is not None
        wanted = {**self.ours, CARD_NAME: edit_card(now.card, self.manifest, preview=preview)}
        if wanted[_SIGNATURE] is None and now.holds(_MANIFEST, self.ours[_MANIFEST]):
            del wanted[_SIGNATURE]  # of the same specification, so it holds
        new = _MANIFEST not in now.files
        return Start(
            user=now.user,
            can_write=now.can_write,
            branch=now.branch,
            parent_commit=now.parent_commit,
            files={path: file for path, file in wanted.items() if not now.holds(path, file)},
            title=f"{'Add' if new else 'Update'} the specification for search by picture",
        )

    def is_made(self, revision: str) -> bool:
        files = stored_files(self.api, self.ref.id, revision)
        return all(
            path not in files if new is None else path in files and files[path].holds(new)
            for path, new in self.ours.items()
        )

    def describe(self, propose: bool) -> str:
        made_by = self.manifest.tool
        tool = in_markdown(f"Made by {made_by.name} {made_by.version}.")
        if not propose:
            return tool
        return (
            f"Adds `{SPEC_DIR}/`, two small files (and a contact sheet) that describe what this "
            "model draws, so that people can find it by a picture, and says so in the model card. "
            f"No weights are touched. {tool}"
        )

    def _require_same_weights(self, now: Preflight) -> None:
        for weight in self.manifest.model.weights:
            stored = now.files.get(weight.path)
            found = None if stored is None else stored.sha256
            if stored is not None and found is None and stored.size == weight.size:
                limit = min(stored.size, _REGULAR_LIMIT)
                content = read_file(self.api, self.ref.id, weight.path, now.parent_commit, limit)
                found = hashlib.sha256(content).hexdigest()
            if found != weight.sha256:
                what = "is gone" if stored is None else "is another file now"
                model = self.ref.without_revision
                raise HubError(
                    f"{model}: {weight.path}, which the specification describes, {what}",
                    hint=f"the model changed meanwhile: gmi-publish {model}",
                )
