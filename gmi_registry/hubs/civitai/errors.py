"""What Civitai's refusals mean, each as one clear error with its fix.

A refusal need not say so by its status: pages to log in, checks for browsers and errors come with
200 as well. Nothing is told that the answer does not say; where it says nothing, what it may be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gmi_registry.errors import AuthError, GmiError, HubError, RateLimitError, SpecNotFoundError
from gmi_registry.sanitize import add_secret, one_line

_LONGEST = 200
_AGAIN = "run the same command again in a few minutes"
_DISABLED = re.compile(r"disabled downloads?|downloads? (?:is|are) disabled", re.IGNORECASE)
_LOGGED_IN = re.compile(r"logged in|log in|sign(?:ed)? in|unauthori[sz]ed", re.IGNORECASE)
_REGION = re.compile(r"\b(?:region|country|jurisdiction)\b", re.IGNORECASE)
_EARLY = re.compile(r"early[ -]?access", re.IGNORECASE)
_LOGIN_PATH = re.compile(r"(?:^|/)(?:log-?in|sign-?in)(?:/|$)", re.IGNORECASE)
_PAGE = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?\s*(?:<!--(?:(?!-->).){0,2000}-->\s*|<\?xml[^>]{0,200}>\s*){0,4}"
    rb"<(?:!doctype\s+html|html|head|body|script)",
    re.IGNORECASE | re.DOTALL,
)
_LOGIN_TITLE = re.compile(rb"log ?in|sign ?in", re.IGNORECASE)
_TITLE = re.compile(rb"<title[^>]*>([^<]{0,200})", re.IGNORECASE)
_BOT_CHECK = re.compile(
    rb"just a moment|attention required|checking your browser|verify(?:ing)? you are human"
    rb"|cf-chl|challenge-platform|captcha",
    re.IGNORECASE,
)


class BusyError(HubError):
    """No answer, or one that says that the server failed: asking again may help.

    ``reached`` says whether there was one at all.
    """

    def __init__(self, message: str, *, hint: str | None = None, reached: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.reached = reached


@dataclass(frozen=True)
class CivitaiRequest:
    """What was requested, for the message where it fails.

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


def is_web_page(content: bytes) -> bool:
    """Whether the beginning of a body is that of a page for browsers, whatever it is called."""
    return _PAGE.match(content) is not None


def is_login(path: str) -> bool:
    """Whether a path is that of a page to log in."""
    return _LOGIN_PATH.search(path) is not None


def refusal(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    asked: CivitaiRequest,
    token: str | None,
) -> GmiError:
    """The error for an answer of 400 and above, whose body is ``content``.

    ``token`` is what a server may echo, and is taken out of what it said.
    """
    if is_web_page(content) and _BOT_CHECK.search(content):
        return _bot_check(asked, status)
    body = _json(content)
    said = _said(body, token)
    more = f" ({said})" if said else ""
    if status == 401:
        return _unauthorized(asked, said)
    if status == 403:
        return _forbidden(asked, body, said)
    if status == 451:
        return _elsewhere(asked, f"answers 451{more}")
    if status == 404:
        return SpecNotFoundError(
            f"{asked.endpoint} holds no {asked.name}, or does not show it{more}",
            hint=f"check the number: {asked.page}",
        )
    if status == 410:
        return HubError(
            f"{asked.name} is archived: Civitai no longer offers its files",
            hint=f"choose another version: {asked.page}",
        )
    if status == 429:
        return _too_many(headers, asked)
    if status >= 500 or status == 408:
        return BusyError(
            f"{asked.endpoint} is out of order and answers {status} for {asked.name}", hint=_AGAIN
        )
    return HubError(f"{asked.name}: Civitai refuses with {status}{more}", hint=f"see {asked.page}")


def answered_instead(
    content: bytes, path: str, asked: CivitaiRequest, token: str | None, *, at_home: bool = True
) -> GmiError | None:
    """The error for a body with status 200 that is not what was requested, or None where it may be.

    ``path`` is where it came from in the end, ``at_home`` whether from Civitai: its storage has no
    accounts, and a page of its own means that a permission to download has run out.
    """
    if is_web_page(content):
        title = _TITLE.search(content)
        if _BOT_CHECK.search(content):
            return _bot_check(asked, 200)
        if is_login(path) or (title and _LOGIN_TITLE.search(title[1])):
            return _unauthorized(asked, "")
        if at_home and asked.download:
            return _page_in_place(asked)
        if not at_home:
            return HubError(
                f"the storage that Civitai names for {asked.name} sends a page, not the file",
                hint="run the same command again; it continues where it stopped",
            )
        return None
    body = _json(content)
    said = _said(body, token)
    if not said or not isinstance(body, dict) or body.keys() & {"id", "items"}:
        return None
    if _EARLY.search(said) or "deadline" in body:
        return _forbidden(asked, body, said)
    if _LOGGED_IN.search(said) or _DISABLED.search(said):
        return _unauthorized(asked, said)
    return HubError(f"{asked.name}: Civitai refuses it: {said}", hint=f"see {asked.page}")


def unreachable(
    error: BaseException, asked: CivitaiRequest, *, reached: bool, at_home: bool = True
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


def stranger(asked: CivitaiRequest, why: str, *, hint: str | None = None) -> HubError:
    """For an answer that Civitai would not give."""
    return HubError(
        f"{asked.endpoint} does not answer like Civitai: {why}",
        hint=hint or "check CIVITAI_ENDPOINT, and whether a proxy answers in its place",
    )


def clean(text: str, token: str | None = None) -> str:
    """One short line of somebody else's words, without the token and control characters."""
    add_secret(token)
    return one_line(text, _LONGEST)


def _unauthorized(asked: CivitaiRequest, said: str) -> GmiError:
    if asked.download and _DISABLED.search(said):
        return HubError(
            f"{asked.name}: its author does not allow downloads", hint=f"see {asked.page}"
        )
    more = f" ({said})" if said else ""
    if asked.has_token:
        return AuthError(
            f"{asked.endpoint} does not accept the token for {asked.name}{more}",
            hint=f"make a new one at {asked.token_page}, then set CIVITAI_TOKEN to it",
        )
    return AuthError(
        f"{asked.name} is only for users who are logged in, and no token was sent{more}",
        hint=f"log in: make a token at {asked.token_page}, then set CIVITAI_TOKEN to it",
    )


def _page_in_place(asked: CivitaiRequest) -> AuthError:
    """A page for browsers, of which nothing says what it is: mostly the one to log in."""
    if asked.has_token:
        return AuthError(
            f"{asked.endpoint} sends a page instead of {asked.name}: the token may not be enough",
            hint=f"see {asked.page}; make a new token at {asked.token_page}",
        )
    return AuthError(
        f"{asked.endpoint} sends a page instead of {asked.name}: it may be only for users who "
        f"are logged in, and no token was sent",
        hint=f"log in: make a token at {asked.token_page}, then set CIVITAI_TOKEN to it",
    )


def _bot_check(asked: CivitaiRequest, status: int) -> HubError:
    return HubError(
        f"{asked.endpoint} is behind a browser check, which a program cannot pass; it answers "
        f"{status} with a page for {asked.name}",
        hint="run the same command again later, or from another network, without proxy or VPN",
    )


def _elsewhere(asked: CivitaiRequest, why: str) -> HubError:
    return HubError(
        f"{asked.name}: Civitai does not offer it in your country: it {why}",
        hint=f"see {asked.page}, or choose another model",
    )


def _forbidden(asked: CivitaiRequest, body: object, said: str) -> GmiError:
    """Only what the answer says is told; early access, and that it can be bought, alone where it
    says so."""
    deadline = body.get("deadline") if isinstance(body, dict) else None
    words = (
        " ".join(str(body.get(name, "")) for name in ("error", "message"))
        if isinstance(body, dict)
        else ""
    )
    if _EARLY.search(words) or isinstance(deadline, str):
        return _early_access(asked, deadline)
    if _REGION.search(said):
        return _elsewhere(asked, f"answers 403 ({said})")
    if said and _LOGGED_IN.search(said) and not asked.has_token:
        return _unauthorized(asked, said)
    if asked.has_token:
        hint = f"check whether your account has access: {asked.page}"
    else:
        hint = (
            f"see {asked.page}; if you have to log in: make a token at {asked.token_page}, then "
            "set CIVITAI_TOKEN to it"
        )
    if said:
        return AuthError(f"{asked.name}: Civitai refuses it: {said}", hint=hint)
    return AuthError(
        f"{asked.name}: Civitai answers 403 and does not say why; this account may have no access, "
        "the model may be in early access, or not be offered in your country",
        hint=hint,
    )


def _early_access(asked: CivitaiRequest, deadline: object) -> AuthError:
    until = ""
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


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _too_many(headers: Mapping[str, str], asked: CivitaiRequest) -> RateLimitError:
    stated = (headers.get("Retry-After") or "").strip()
    wait = float(stated) if stated.isascii() and stated.isdigit() and len(stated) < 10 else None
    when = "in a few minutes" if wait is None else f"in {wait:,.0f} s"
    more = "" if asked.has_token else "; with CIVITAI_TOKEN more may be allowed"
    return RateLimitError(
        f"{asked.endpoint} got too many requests",
        hint=f"run the same command again {when}{more}",
        retry_after=wait,
    )


def _said(body: object, token: str | None) -> str:
    if not isinstance(body, dict):
        return ""
    parts = [body.get(name) for name in ("message", "error")]
    return next((clean(part, token) for part in parts if isinstance(part, str) and part), "")
