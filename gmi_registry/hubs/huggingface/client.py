"""The client of huggingface_hub: its requests are counted, its waits told, its errors become ours.

Nobody waits long for a hub that is not there, and no hub sends its clients on to another host.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from huggingface_hub import HfApi, constants, get_token, set_client_factory
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
from huggingface_hub.utils import _http as client_http
from huggingface_hub.utils._http import parse_ratelimit_headers

from gmi_registry.errors import (
    AuthError,
    GmiError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.hubs.requests import (
    LONGEST_WAIT,
    Passing,
    RequestCounter,
    log_wait,
    retry,
)
from gmi_registry.sanitize import add_secret, one_line

# Thirty years. A hub may name a number that no float holds, and no clock either.
_MOST = 10.0**9

_CONNECTION_TRIES = 3
_CONNECTION_SECONDS = 3.0  # seconds
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,200}")
# The hub may lie below a path of its host.
_BELOW = r"(?:/[^/]+)*?"
_NAME = r"[^/]+/[^/]+"
_API = re.compile(rf"{_BELOW}/api/(models|datasets|spaces)/({_NAME})(?:/.*)?")
_FILE = re.compile(rf"{_BELOW}(?:/(datasets|spaces))?/({_NAME})/(?:resolve|raw)/.+")
http_library: Any = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
"""httpx or httpx2, whichever this version of huggingface_hub was built on."""
# The client says here when it waits, and to nobody else.
_CLIENT_LOGS = ("huggingface_hub.utils._http", "huggingface_hub.file_download")
_WAIT = re.compile(r"(?:Waiting|Retrying in) ([0-9]+(?:\.[0-9]+)?)s")
# Eight workers that are sent away at once wait for one and the same moment.
_SAME_MOMENT = 0.5
T = TypeVar("T")
_BUSY_STATUSES = frozenset({500, 502, 503, 504})
# Its client tries again by itself, too.
_BUSY = Passing(tries=3)
_BROKEN = (
    http_library.RemoteProtocolError,
    http_library.ReadError,
    http_library.WriteError,
    http_library.ConnectError,
    http_library.TimeoutException,
)
# Of httpx or httpx2, whichever this version of huggingface_hub was built on.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]
_LOGIN = "hf auth login"
_ANOTHER_REGISTRY = "name another with --registry, or GMI_REGISTRY"
LIBRARY = "gmi-registry"
"""By this name huggingface_hub knows this package."""
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]/_-]+")
RepoType = Literal["model", "dataset"]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal for too many requests says to wait, or None where it does not."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(min(limit.reset_in_seconds, _MOST))
    value = (headers.get("Retry-After") or headers.get("retry-after") or "").strip()
    return min(float(value), _MOST) if value.isascii() and value.isdigit() else None


def wait_after(headers: Mapping[str, str], otherwise: float) -> float | None:
    """Seconds to wait after such a refusal: what it says, else ``otherwise``.

    None where it asks for more than :data:`LONGEST_WAIT`, which is not waited for.
    """
    return Passing(tries=2, stated=retry_after(headers), first=otherwise).seconds(1)


class NeverReached(OfflineModeIsEnabled):
    """No connection came about, now or before; the cause says why.

    The client's own loops try again after every broken connection, and its downloads look into
    the cache: this kind of error ends the former and leaves the latter.
    """


class Reach:
    """What became of the requests of one run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """A new run begins."""
        with self._lock:
            self._answered = False
            self._failures = 0
            self._since: float | None = None
            self._moves: dict[tuple[str, str, str], str] = {}

    def moved(self, endpoint: str, kind: str, repo_id: str) -> str | None:
        """Where the hub sent requests for a repository on to: an id, ``repo_id`` itself where it
        answered to that, None where it was not asked in this run.

        ``kind`` is ``models`` or ``datasets``.
        """
        with self._lock:
            return self._moves.get((urlsplit(endpoint).netloc, kind, repo_id.casefold()))

    def send(self, send: Callable[..., Any], request: Any, **settings: Any) -> Any:
        """What ``send`` returns for a request.

        Where nothing has answered yet, the third connection that fails, or the first after three
        seconds, raises NeverReached; every other error passes. Once something has answered the
        network is there, and how often to try again is for the caller to decide.
        """
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
        try:
            response = send(request, **settings)
        except (http_library.ConnectError, http_library.ConnectTimeout) as error:
            if self._is_hopeless():
                raise NeverReached(str(error)) from error
            raise
        self._answered = True
        self._note_moves(response)
        return response

    def _note_moves(self, response: Any) -> None:
        for answer in (*response.history, response):
            url = urlsplit(str(answer.url))
            asked = _repository_in(url.path)
            if asked is None:
                continue
            kind, name = asked
            if answer.has_redirect_location:
                target = urlsplit(urljoin(str(answer.url), answer.headers["Location"]))
                further = _repository_in(target.path)
                # A file's content may lie elsewhere; that is no other repository.
                if further is None or further[0] != kind or target.netloc != url.netloc:
                    continue
                found = further[1]
            elif answer.is_success:
                found = name
            else:
                continue
            with self._lock:
                self._moves[url.netloc, kind, name.casefold()] = found

    def _is_hopeless(self) -> bool:
        with self._lock:
            if self._answered or self._since is None:
                return False
            self._failures += 1
            late = time.monotonic() - self._since >= _CONNECTION_SECONDS
            return late or self._failures >= _CONNECTION_TRIES


def _repository_in(path: str) -> tuple[str, str] | None:
    """The kind (``models``, ``datasets``, ``spaces``) and id of what a path of the hub is about."""
    found = _API.fullmatch(path) or _FILE.fullmatch(path)
    return None if found is None else (found[1] or "models", unquote(found[2]))


def require_same_host(response: Any) -> None:
    """Raise HubError where the hub sends a request on to another host, before it goes there.

    By a redirect, or by the address of a listing's next page, to which the client would take the
    user's token along. The content of a large file may come from a storage, whose answer is
    compared with the digest that the hub states. Everything else is for the hub itself to say:
    whoever answers in its stead could say anything, and the token is for the hub alone.
    """
    asked = str(response.request.url)
    url = urlsplit(asked)
    of_api = "/api/" in url.path and "/api/resolve-cache/" not in url.path
    if not of_api and _repository_in(url.path) is None:
        return
    further = []
    if response.has_redirect_location and (of_api or "X-Linked-Etag" not in response.headers):
        further.append(response.headers["Location"])
    if "Link" in response.headers:
        further += [link["url"] for link in response.links.values() if "url" in link]
    for address in further:
        target = urlsplit(urljoin(asked, address))
        secured = (url.scheme, target.scheme) == ("http", "https")
        if (target.scheme, target.netloc) == (url.scheme, url.netloc) or (
            secured and target.hostname == url.hostname
        ):
            continue
        origin = f"{target.scheme}://{target.netloc}"
        named = _ORIGIN.fullmatch(origin) is not None
        raise HubError(
            f"{url.scheme}://{url.netloc} sends this program on to "
            f"{origin if named else 'another host'}, which is not the hub that you named",
            hint=f"if you mean that one: HF_ENDPOINT={origin}" if named else "check HF_ENDPOINT",
        )


class ClientRequestCounter(RequestCounter):
    """Counts the HTTP requests of huggingface_hub's client in this process while it is open.

    The client is one for the whole process, so requests of other parts of the program count as
    well, and several counters may be open at once; every hop of a redirect is a request. Data that
    hf_xet moves by its own means is not seen. Waits are logged to ``gmi_registry.hubs``, in place
    of the client's own warnings, which hold addresses (a level above WARNING set for the client
    silences both). The client's factory that was set before is put back when the last counter
    closes, unless another was set meanwhile.

    While one is open the client's own loops give up sooner, too: where nothing ever answers
    (:class:`Reach`), and where the hub asks for a wait that nobody sits through
    (:data:`.LONGEST_WAIT`).
    """

    def open(self) -> None:
        """Begin to count; without effect where it is open."""
        _hook.add(self)

    def close(self) -> None:
        """Stop counting; the numbers stay. Without effect where it is closed."""
        _hook.remove(self)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def moved(self, endpoint: str, kind: str, repo_id: str) -> str | None:
        """As :meth:`.Reach.moved`, since the first counter that is open was opened."""
        return _hook.reach.moved(endpoint, kind, repo_id)


class CountsRequests:
    """What counts its requests in ``traffic``, from the first one or ``with`` to ``close``."""

    traffic: ClientRequestCounter

    def close(self) -> None:
        """Stop counting requests; everything can still be used."""
        self.traffic.close()

    def __enter__(self) -> Self:
        self.traffic.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Hook:
    """The one place in this process where the client is hooked."""

    def __init__(self) -> None:
        self._open: tuple[ClientRequestCounter, ...] = ()
        self._lock = threading.RLock()
        self._factory: Callable[[], Any] | None = None
        self._told_until = 0.0
        self.reach = Reach()

    def add(self, counter: ClientRequestCounter) -> None:
        with self._lock:
            if counter in self._open:
                return
            first = not self._open
            self._open = (*self._open, counter)
            if first:
                self._told_until = 0.0
                self.reach.forget()
                self._factory = client_http._GLOBAL_CLIENT_FACTORY
                set_client_factory(self.make_client)
                for name in _CLIENT_LOGS:
                    logging.getLogger(name).addFilter(self.pass_on)

    def remove(self, counter: ClientRequestCounter) -> None:
        with self._lock:
            if counter not in self._open:
                return
            self._open = tuple(other for other in self._open if other is not counter)
            if self._open:
                return
            for name in _CLIENT_LOGS:
                logging.getLogger(name).removeFilter(self.pass_on)
            if self._factory is not None and self.make_client == client_http._GLOBAL_CLIENT_FACTORY:
                set_client_factory(self._factory)
            self._factory = None

    def make_client(self) -> Any:
        # Called with the client's own lock held: taking ours here could wait for ever.
        client: Any = (self._factory or client_http.default_client_factory)()
        hooks = client.event_hooks
        client.event_hooks = hooks | {
            "request": [*hooks.get("request", ()), self.sent],
            "response": [*hooks.get("response", ()), self.received],
        }
        client.send = functools.partial(self.reach.send, client.send)
        return client

    def sent(self, request: Any) -> None:
        for counter in self._open:
            counter.count(request.method)

    def received(self, response: Any) -> None:
        require_same_host(response)
        # The client would sleep for any time that it is told to.
        if response.status_code == 429 and wait_after(response.headers, LONGEST_WAIT) is None:
            client_http.hf_raise_for_status(response)

    def pass_on(self, record: logging.LogRecord) -> bool:
        """A filter of the client's logs: its waits become ours, its warnings leave the screen."""
        if record.levelno > logging.WARNING:
            return True
        found = _WAIT.search(record.getMessage())
        if found:
            self.announce(float(found.group(1)))
        return record.levelno < logging.WARNING

    def announce(self, seconds: float) -> None:
        with self._lock:
            until = time.monotonic() + seconds
            if until <= self._told_until + _SAME_MOMENT:
                return
            self._told_until = until
            told = self._open
        # Once to the log, however many are open.
        log_wait(seconds)
        for counter in told:
            counter.tell(seconds)


_hook = _Hook()


def pause(seconds: float) -> None:
    """Ask nothing of the hub for so long, and say so to every open counter.

    A hub that is asked again at once stays as busy as it is: the wait is what it asked for.
    """
    _hook.announce(seconds)
    time.sleep(seconds)


def retried(call: Callable[[], T], *, limited: bool = True) -> T:
    """What ``call`` returns, asked for again while the hub is busy, as :func:`.retry` does.

    After 429 that is four times, after an error of the server, or a connection that broke or did
    not come about, twice. ``limited=False`` is for calls that see to 429 and to connections by
    themselves.
    """

    def passing(error: Exception) -> Passing | None:
        if isinstance(error, HfHubHTTPError):
            if error.response.status_code == 429 and limited:
                return Passing(tries=5, stated=retry_after(error.response.headers), first=2.0)
            return _BUSY if error.response.status_code in _BUSY_STATUSES else None
        return _BUSY if limited and isinstance(error, _BROKEN) else None

    return retry(call, passing, _hook.announce)


@dataclass(frozen=True)
class HubRequest:
    """What was asked of the hub, for the message where it fails.

    ``id`` is the repository, or None for the listing; ``path`` a file in it. ``has_token`` says
    whether a token was sent, never which. ``writing`` is for calls that change something. The only
    dataset that is asked for is the registry.
    """

    endpoint: str
    has_token: bool
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    writing: bool = False
    repo_type: RepoType = "model"

    @property
    def url(self) -> str:
        """The repository's page, or the hub's."""
        if self.id is None:
            return self.endpoint
        return f"{self.endpoint}/{'' if self.repo_type == 'model' else 'datasets/'}{self.id}"

    @property
    def name(self) -> str:
        """The model as people type it, the registry, or the hub's address."""
        if self.id is None:
            return self.endpoint
        return f"hf:{self.id}" if self.repo_type == "model" else f"the registry {self.id}"


def connect(endpoint: str | None, token: str | bool | None) -> tuple[HfApi, HubRequest]:
    """The client for the hub at ``endpoint`` (None: HF_ENDPOINT, else Hugging Face).

    With it what messages about its requests say. Raises InputError for what is no address.
    """
    address = (endpoint or constants.ENDPOINT).rstrip("/")
    if not _ENDPOINT.fullmatch(address):
        raise InputError(
            f"{address[:120]!r} is not the address of a hub",
            hint="set HF_ENDPOINT to one that begins with https://",
        )
    api = HfApi(address, token=token, library_name=LIBRARY)
    return api, HubRequest(address, has_token(token))


def has_token(token: str | bool | None) -> bool:
    """Whether a token is sent, by default the one that is stored; messages never hold it."""
    known = get_token() if token is None else token
    add_secret(known if isinstance(known, str) else None)
    return bool(known)


@contextmanager
def translated_errors(asked: HubRequest) -> Iterator[None]:
    """Raise, in place of any error of the client in the block, one of ours with its fix."""
    try:
        yield
    except Exception as error:
        mine = translated(error, asked)
        if mine is None or mine is error:
            raise
        raise mine from error


def translated(error: BaseException, asked: HubRequest) -> GmiError | None:
    """The error of ours that says what ``error`` means; None for one that is not the hub's."""
    if isinstance(error, GmiError):
        return error
    if isinstance(error, NeverReached):
        return _unreachable(error.__cause__ or error, asked)
    if isinstance(error, OfflineModeIsEnabled):
        return offline_error(asked)
    if isinstance(error, LocalTokenNotFoundError):
        return AuthError(f"{asked.name}: this needs a token, and you have none", hint=_LOGIN)
    if isinstance(error, LocalEntryNotFoundError):
        # The client looked in its cache because it could not reach the hub: the cause says why.
        cause = error.__cause__
        known = None if cause is None else translated(cause, asked)
        return offline_error(asked) if known is None else known
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, asked)
    if isinstance(error, http_library.TooManyRedirects):
        return HubError(
            f"{asked.endpoint} redirects requests for {asked.name} again and again",
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


def offline_error(asked: HubRequest) -> OfflineError:
    """What was requested is not on this disk, and the network is switched off."""
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


def _refusal(error: HfHubHTTPError, asked: HubRequest) -> GmiError:
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        hint = f"name the model without a revision: {asked.name}"
        if asked.repo_type == "dataset":
            hint = f"see {asked.url}/discussions"
        return SpecNotFoundError(
            f"{asked.name} has no revision {asked.revision or 'main'}", hint=hint
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return SpecNotFoundError(
            f"{asked.name} holds no {asked.path or 'such file'}",
            hint=f"see what it has: {asked.url}/tree/main",
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
            f"{asked.endpoint} is out of order and answers {status} for {asked.name}",
            hint="run the same command again in a few minutes",
        )
    said = _said(error)
    return HubError(f"{asked.name}: the hub refuses with {status}{said}", hint=f"see {asked.url}")


def _gated(asked: HubRequest) -> AuthError:
    if asked.has_token:
        return AuthError(
            f"{asked.name} is gated, and this account has no access",
            hint=f"ask for access at {asked.url}, then run the same command again",
        )
    return AuthError(
        f"{asked.name} is gated, and no token was sent",
        hint=f"accept its conditions at {asked.url}, then: {_LOGIN}",
    )


def _unknown(asked: HubRequest) -> GmiError:
    if asked.id is None:
        return AuthError(f"{asked.endpoint} shows no models without a token", hint=_LOGIN)
    kind = asked.repo_type
    if asked.has_token:
        private = "check the name; for a private model, use a token of its owner: hf auth login"
        return SpecNotFoundError(
            f"{asked.endpoint} holds no {kind} {asked.id}, or this account may not see it",
            hint=private if kind == "model" else _ANOTHER_REGISTRY,
        )
    hint = f"check the name; for a private model: {_LOGIN}"
    return AuthError(
        f"{asked.endpoint} shows no {kind} {asked.id} without a token: it is private, or it does "
        f"not exist",
        hint=hint if kind == "model" else f"{_ANOTHER_REGISTRY}; for a private one: {_LOGIN}",
    )


def _forbidden(error: HfHubHTTPError, asked: HubRequest) -> AuthError:
    if asked.writing:
        return AuthError(
            f"{asked.name}: this token cannot write there{_said(error)}",
            hint=f"make one that can at {asked.endpoint}/settings/tokens, then: {_LOGIN}",
        )
    who = "this account cannot read it" if asked.has_token else "no token was sent"
    return AuthError(
        f"{asked.name}: access is refused, {who}{_said(error)}",
        hint=f"ask for access at {asked.url}" if asked.has_token else _LOGIN,
    )


def _too_many(error: HfHubHTTPError, asked: HubRequest) -> RateLimitError:
    wait = retry_after(error.response.headers)
    when = "in a few minutes" if wait is None else f"in {wait:,.0f} s"
    more = "" if asked.has_token else f"; more are allowed with a token: {_LOGIN}"
    asks = ""
    if wait is not None and wait_after(error.response.headers, wait) is None:
        asks = f", and asks for a wait of {wait:,.0f} s"
        when = f"in {math.ceil(wait / 60):,} minutes"
    return RateLimitError(
        f"{asked.endpoint} got too many requests{asks}",
        hint=f"run the same command again {when}{more}",
        retry_after=wait,
    )


def _unreachable(error: BaseException, asked: HubRequest) -> HubError:
    instead = "gmi-search --offline uses what is on this disk"
    return HubError(
        f"{asked.endpoint} cannot be reached: {one_line(str(error)) or type(error).__name__}",
        hint="check the network and HF_ENDPOINT; "
        + ("then run the same command again" if asked.writing else instead),
    )


def _no_hub(asked: HubRequest) -> HubError:
    return HubError(
        f"{asked.endpoint} does not answer as a Hugging Face hub does",
        hint="check HF_ENDPOINT, and whether a proxy answers in its place",
    )


def _disk(error: OSError | RuntimeError, asked: HubRequest) -> HubError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return HubError(
            f"{asked.name}: the disk is full", hint="free some space: hf cache ls, hf cache prune"
        )
    reason = getattr(error, "strerror", None) or one_line(str(error))
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return HubError(
            f"{asked.name}: the cache cannot be written: {reason}",
            hint="set HF_HOME to a folder that you can write to",
        )
    what = "upload" if asked.writing else "download"
    return HubError(f"{asked.name}: the {what} failed: {reason}", hint="run the same command again")


def _said(error: HfHubHTTPError) -> str:
    said = one_line(error.server_message or "")
    return f" ({said})" if said else ""
