"""What a delivery says has happened, and whether that is anything to look at.

The client has a model of the same payload, ``huggingface_hub.WebhookPayload``. It refuses what it
does not know, such as a new kind of repository, while a receiver has to answer that it is not
concerned; and importing it takes longer than a delivery may. So only what decides is read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gmi_registry.errors import InputError
from gmi_registry.sanitize import fault_place
from gmi_registry.spec.reference import ModelRef

__all__ = ["PAYLOAD_LIMIT", "Change", "Ignored", "decide"]

PAYLOAD_LIMIT = 64 * 1024
"""Bytes. What a hub sends is a twentieth of it."""

_MAIN = "refs/heads/main"
_SCOPE = "repo.content"
_SHA = re.compile(r"[0-9a-f]{40}")
_NO_COMMIT = "0" * 40
_Word = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True)
class Change:
    """The branch main of the model ``repo`` (``owner/name``) is at the commit ``sha`` now.

    It was when this was sent: deliveries come late, twice and out of order, so ``sha`` serves to
    know our own commits by, and what is to be done is for the model as it is when it is looked at.
    """

    repo: str
    sha: str


@dataclass(frozen=True)
class Ignored:
    """Nothing to look at; ``reason`` is one line without anything that the sender wrote."""

    reason: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Event(_Part):
    action: _Word
    scope: _Word


class _Repo(_Part):
    type: _Word
    name: _Word


class _Ref(_Part):
    ref: Annotated[str, Field(max_length=1000)]
    newSha: _Word | None = None  # noqa: N815, as it is sent


class _Payload(_Part):
    event: _Event
    repo: _Repo
    updatedRefs: list[_Ref] = []  # noqa: N815

    @field_validator("updatedRefs", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return [] if value is None else value


def decide(body: bytes | str) -> Change | Ignored:
    """What a delivery asks for.

    Another kind of event, repository or branch is ignored, and so is a branch that was deleted.
    Raises InputError for what is no payload of a hub: too long, no JSON, parts that are missing, a
    name that no model can have.
    """
    if len(body) > PAYLOAD_LIMIT:
        raise _unreadable("it is too long")
    try:
        found = _Payload.model_validate_json(body)
    except (ValidationError, ValueError) as error:
        raise _unreadable(_where(error)) from None
    if found.repo.type != "model":
        return Ignored("not a model")
    if not _concerns_files(found.event):
        return Ignored("no change of files")
    heads = [ref.newSha for ref in found.updatedRefs if ref.ref == _MAIN]
    if not heads:
        return Ignored("not the branch main")
    sha = heads[-1]
    if sha is None or sha == _NO_COMMIT:
        return Ignored("the branch main was deleted")
    if not _SHA.fullmatch(sha):
        raise _unreadable("a commit is 40 hex digits")
    try:
        repo = ModelRef("hf", found.repo.name).id
    except InputError:
        raise _unreadable("no model can be called so") from None
    return Change(repo, sha)


def _concerns_files(event: _Event) -> bool:
    # A hub may narrow a scope one day; whatever happens in it is then an update of the wider one.
    return event.scope.startswith(f"{_SCOPE}.") or (
        event.scope == _SCOPE and event.action == "update"
    )


def _where(error: Exception) -> str:
    """The place of the first fault. Its value is the sender's, and goes into no log."""
    if not isinstance(error, ValidationError):
        return "it is no text"
    place = fault_place(error)
    return f"{place} is missing or wrong" if place else "it is no JSON object"


def _unreadable(reason: str) -> InputError:
    return InputError(
        f"the payload of a webhook cannot be read: {reason}",
        hint="send what a hub sends: event, repo and updatedRefs, as one JSON object",
    )
