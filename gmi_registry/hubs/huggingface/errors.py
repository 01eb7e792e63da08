"""The one place where errors of huggingface_hub and its HTTP client become ours."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from gmi_registry.errors import (
    AuthError,
    GmiError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.hubs.huggingface.limit import retry_after, wait_after
from gmi_registry.hubs.huggingface.reach import NeverReached, http_library
from gmi_registry.sanitize import one_line

__all__ = ["Asked", "explained", "offline_error", "translate"]

# Of httpx or httpx2, whichever this version of huggingface_hub was built on.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]
_LOGIN = "hf auth login"


@dataclass(frozen=True)
class Asked:
    """What was asked of the hub, for the message where it fails.

    ``id`` is the repository, or None for the listing; ``path`` a file in it. ``has_token`` says
    whether a token was sent, never which. ``writing`` is for calls that change something.
    """

    endpoint: str
    has_token: bool
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    writing: bool = False

    @property
    def url(self) -> str:
        """The repository's page, or the hub's."""
        return self.endpoint if self.id is None else f"{self.endpoint}/{self.id}"

    @property
    def name(self) -> str:
        """The model as people type it, or the hub's address."""
        return self.endpoint if self.id is None else f"hf:{self.id}"


@contextmanager
def explained(asked: Asked) -> Iterator[None]:
    """Raise, in place of any error of the client in the block, one of ours with its fix."""
    try:
        yield
    except Exception as error:
        mine = translate(error, asked)
        if mine is None or mine is error:
            raise
        raise mine from error


def translate(error: BaseException, asked: Asked) -> GmiError | None:
    """The error of ours that says what ``error`` means; None for one that is not the hub's."""
    if isinstance(error, GmiError):
        return error
    if isinstance(error, NeverReached):
        return _unreachable(error.__cause__ or error, asked)
    if isinstance(error, OfflineModeIsEnabled):
        return offline_error(asked)
    if isinstance(error, LocalTokenNotFoundError):
        return AuthError(f"{asked.name}: this needs a token, and there is none", hint=_LOGIN)
    if isinstance(error, LocalEntryNotFoundError):
        # The client looked in its cache because it could not reach the hub: the cause says why.
        cause = error.__cause__
        known = None if cause is None else translate(cause, asked)
        return offline_error(asked) if known is None else known
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, asked)
    if isinstance(error, http_library.TooManyRedirects):
        return HubError(
            f"{asked.endpoint} sends requests for {asked.name} on and on, without an answer",
            hint="check HF_ENDPOINT, or run the same command again later",
        )
    if isinstance(error, _HTTP_ERROR):
        return _unreachable(error, asked)
    if isinstance(error, FileMetadataError):
        return _no_hub(asked)
    if isinstance(error, HFValidationError):
        return InputError(f"{asked.name}: {one_line(str(error))}", hint="write hf:owner/name")
    if isinstance(error, OSError | RuntimeError):  # the latter from hf_xet
        return _disk(error, asked)
    if isinstance(error, ValueError | KeyError | TypeError | AttributeError):
        return _no_hub(asked)
    return None


def offline_error(asked: Asked) -> OfflineError:
    """What was asked for is not on this disk, and the network is switched off."""
    if asked.writing:
        return OfflineError(
            f"{asked.name}: publishing needs the network, which is switched off",
            hint="unset HF_HUB_OFFLINE and run the same command again, or write to --output DIR",
        )
    what = asked.name if asked.path is None else f"{asked.path} of {asked.name}"
    return OfflineError(
        f"{what} is not on this disk, and the network is switched off",
        hint="leave out --offline (or unset HF_HUB_OFFLINE) and run the same command again",
    )


def _refusal(error: HfHubHTTPError, asked: Asked) -> GmiError:
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return SpecNotFoundError(
            f"{asked.name} has no revision {asked.revision or 'main'}",
            hint=f"name the model without a revision: {asked.name}",
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return SpecNotFoundError(
            f"{asked.name} holds no {asked.path or 'such file'}",
            hint=f"see what it holds: {asked.url}/tree/main",
        )
    if isinstance(error, GatedRepoError):
        return _gated(asked)
    if isinstance(error, DisabledRepoError):
        return HubError(f"{asked.name} was disabled by the hub", hint=f"see {asked.url}")
    if status == 429:
        return _too_many(error, asked)
    if status == 401 and asked.has_token and not isinstance(error, RepositoryNotFoundError):
        return AuthError(f"{asked.endpoint} does not accept the token", hint=_LOGIN)
    if status == 401:
        return _unknown(asked)
    if isinstance(error, RepositoryNotFoundError) or (status == 404 and asked.id is not None):
        return _unknown(asked)
    if status == 403:
        return _forbidden(error, asked)
    if status >= 500 or status == 408:
        return HubError(
            f"{asked.endpoint} is out of order: it answers {status} for {asked.name}",
            hint="run the same command again in a few minutes",
        )
    said = _said(error)
    return HubError(f"{asked.name}: the hub refuses with {status}{said}", hint=f"see {asked.url}")


def _gated(asked: Asked) -> AuthError:
    if asked.has_token:
        return AuthError(
            f"{asked.name} is gated, and this account may not read it",
            hint=f"ask for access at {asked.url}, then run the same command again",
        )
    return AuthError(
        f"{asked.name} is gated, and no token was sent",
        hint=f"accept its conditions at {asked.url}, then: {_LOGIN}",
    )


def _unknown(asked: Asked) -> GmiError:
    if asked.id is None:
        return AuthError(
            f"{asked.endpoint} shows its models to nobody without a token", hint=_LOGIN
        )
    if asked.has_token:
        return SpecNotFoundError(
            f"{asked.endpoint} holds no model {asked.id}, or this account may not see it",
            hint="check the name; for a private model, use a token of its owner: hf auth login",
        )
    return AuthError(
        f"{asked.endpoint} shows no model {asked.id} to somebody without a token: it is private, "
        "or not there",
        hint=f"check the name; for a private model: {_LOGIN}",
    )


def _forbidden(error: HfHubHTTPError, asked: Asked) -> AuthError:
    if asked.writing:
        return AuthError(
            f"{asked.name}: this token may not write there{_said(error)}",
            hint=f"make one that may at {asked.endpoint}/settings/tokens, then: {_LOGIN}",
        )
    who = "this account may not read it" if asked.has_token else "no token was sent"
    return AuthError(
        f"{asked.name}: access is refused, {who}{_said(error)}",
        hint=f"ask for access at {asked.url}" if asked.has_token else _LOGIN,
    )


def _too_many(error: HfHubHTTPError, asked: Asked) -> RateLimitError:
    wait = retry_after(error.response.headers)
    when = "in a few minutes" if wait is None else f"in {wait:,.0f} s"
    more = "" if asked.has_token else f"; more are allowed with a token: {_LOGIN}"
    asks = ""
    if wait is not None and wait_after(error.response.headers, wait) is None:
        asks = f", and asks for a wait of {wait:,.0f} s"
        when = f"in {math.ceil(wait / 60):,} minutes"
    return RateLimitError(
        f"{asked.endpoint} has had too many requests{asks}",
        hint=f"run the same command again {when}{more}",
        retry_after=wait,
    )


def _unreachable(error: BaseException, asked: Asked) -> HubError:
    instead = "gmi-search --offline uses what is on this disk"
    return HubError(
        f"{asked.endpoint} cannot be reached: {one_line(str(error)) or type(error).__name__}",
        hint="check the network and HF_ENDPOINT; "
        + ("then run the same command again" if asked.writing else instead),
    )


def _no_hub(asked: Asked) -> HubError:
    return HubError(
        f"{asked.endpoint} does not answer as a Hugging Face hub does",
        hint="check HF_ENDPOINT, and whether a proxy answers in its place",
    )


def _disk(error: OSError | RuntimeError, asked: Asked) -> HubError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return HubError(
            f"{asked.name}: the disk is full", hint="free some space: hf cache ls, hf cache prune"
        )
    reason = getattr(error, "strerror", None) or one_line(str(error))
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return HubError(
            f"{asked.name}: the cache cannot be written: {reason}",
            hint="set HF_HOME to a folder that you may write to",
        )
    what = "upload" if asked.writing else "download"
    return HubError(f"{asked.name}: the {what} failed: {reason}", hint="run the same command again")


def _said(error: HfHubHTTPError) -> str:
    said = one_line(error.server_message or "")
    return f" ({said})" if said else ""
