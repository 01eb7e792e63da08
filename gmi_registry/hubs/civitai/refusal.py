"""What Civitai's refusals mean, each as one clear error with its fix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gmi_registry.errors import AuthError, GmiError, HubError, RateLimitError, SpecNotFoundError
from gmi_registry.sanitize import add_secret, one_line

__all__ = ["Asked", "BusyError", "clean", "refusal", "stranger", "unreachable"]

_LONGEST = 200
_AGAIN = "run the same command again in a few minutes"
_DISABLED = re.compile(r"disabled downloads?|downloads? (?:is|are) disabled", re.IGNORECASE)


class BusyError(HubError):
    """No answer, or one that says that the server failed: asking again may help.

    ``reached`` says whether there was one at all.
    """

    def __init__(self, message: str, *, hint: str | None = None, reached: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.reached = reached


@dataclass(frozen=True)
class Asked:
    """What was asked for, for the message where it fails.

    ``name`` is the model as people type it, or the hub's address; ``page`` where a person looks it
    up. ``has_token`` says whether a token was sent, never which; ``download`` is for the weights.
    """

    endpoint: str
    name: str
    page: str
    has_token: bool
    download: bool = False

    @property
    def token_page(self) -> str:
        """Where its owner makes a token."""
        return f"{self.endpoint}/user/account"


def refusal(
    status: int, headers: Mapping[str, str], body: object, asked: Asked, token: str | None
) -> GmiError:
    """The error for an answer of 400 and above. ``body`` is its JSON, or None.

    ``token`` is what a server may echo, and is taken out of what it said.
    """
    said = _said(body, token)
    more = f" ({said})" if said else ""
    if status == 401:
        return _unauthorized(asked, said)
    if status == 403:
        return _forbidden(asked, body, more)
    if status == 404:
        return SpecNotFoundError(
            f"{asked.endpoint} holds no {asked.name}, or does not show it{more}",
            hint=f"check the number: {asked.page}",
        )
    if status == 410:
        return HubError(
            f"{asked.name} is archived: Civitai no longer gives its files out",
            hint=f"choose another version: {asked.page}",
        )
    if status == 429:
        return _too_many(headers, asked)
    if status >= 500 or status == 408:
        return BusyError(
            f"{asked.endpoint} is out of order: it answers {status} for {asked.name}", hint=_AGAIN
        )
    return HubError(f"{asked.name}: Civitai refuses with {status}{more}", hint=f"see {asked.page}")


def unreachable(
    error: BaseException, asked: Asked, *, reached: bool, at_home: bool = True
) -> BusyError:
    """For a connection that did not come about, or broke; ``at_home`` says whether to Civitai."""
    reason = clean(str(error)) or type(error).__name__
    where = asked.endpoint if at_home else f"the storage that Civitai names for {asked.name}"
    what = "broke off" if reached else "cannot be reached"
    return BusyError(
        f"{where} {what}: {reason}",
        hint="check the network and CIVITAI_ENDPOINT, then run the same command again",
        reached=reached,
    )


def stranger(asked: Asked, why: str) -> HubError:
    """For an answer that Civitai would not give."""
    return HubError(
        f"{asked.endpoint} does not answer as Civitai does: {why}",
        hint="check CIVITAI_ENDPOINT, and whether a proxy answers in its place",
    )


def clean(text: str, token: str | None = None) -> str:
    """One short line of somebody else's words, without the token and control characters."""
    add_secret(token)
    return one_line(text, _LONGEST)


def _unauthorized(asked: Asked, said: str) -> GmiError:
    if asked.download and _DISABLED.search(said):
        return HubError(
            f"{asked.name}: its author lets nobody download it", hint=f"see {asked.page}"
        )
    if asked.has_token:
        return AuthError(
            f"{asked.endpoint} does not accept the token for {asked.name}",
            hint=f"make a new one at {asked.token_page}, then set CIVITAI_TOKEN to it",
        )
    return AuthError(
        f"{asked.name} is only for those who are logged in, and no token was sent",
        hint=f"make a token at {asked.token_page}, then set CIVITAI_TOKEN to it",
    )


def _forbidden(asked: Asked, body: object, more: str) -> AuthError:
    if not asked.download:
        return AuthError(f"{asked.name}: access is refused{more}", hint=f"see {asked.page}")
    until = ""
    deadline = body.get("deadline") if isinstance(body, dict) else None
    if isinstance(deadline, str):
        try:
            until = f" until {datetime.fromisoformat(deadline):%Y-%m-%d}"
        except ValueError:
            until = ""
    return AuthError(
        f"{asked.name} is in early access{until}, which this account has not bought"
        if asked.has_token
        else f"{asked.name} is in early access{until}, and no token was sent",
        hint=f"wait, or buy access at {asked.page}, then run the same command again",
    )


def _too_many(headers: Mapping[str, str], asked: Asked) -> RateLimitError:
    stated = (headers.get("Retry-After") or "").strip()
    wait = float(stated) if stated.isascii() and stated.isdigit() and len(stated) < 10 else None
    when = "in a few minutes" if wait is None else f"in {wait:,.0f} s"
    more = "" if asked.has_token else "; set CIVITAI_TOKEN, which may allow more"
    return RateLimitError(
        f"{asked.endpoint} has had too many requests",
        hint=f"run the same command again {when}{more}",
        retry_after=wait,
    )


def _said(body: object, token: str | None) -> str:
    if not isinstance(body, dict):
        return ""
    parts = [body.get(name) for name in ("message", "error")]
    return next((clean(part, token) for part in parts if isinstance(part, str) and part), "")
