"""Civitai's HTTP API: what is asked, with which token, and how much of an answer is read."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.hubs.civitai.documents import Page, WireModel, WireVersion
from gmi_registry.hubs.civitai.errors import (
    BusyError,
    CivitaiRequest,
    answered_instead,
    is_login,
    refusal,
    stranger,
    unreachable,
)
from gmi_registry.hubs.requests import Passing, RequestCounter, log_wait, retry
from gmi_registry.sanitize import add_secret, first_fault, one_line
from gmi_registry.spec import ModelRef
from gmi_registry.spec.address import CIVITAI_HOSTS

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
Document = TypeVar("Document", bound=BaseModel)
BODY_LIMIT = 48 * 1024 * 1024
"""Bytes: a hundred models with all that their authors wrote about them are some ten million."""
REFUSAL_LIMIT = 64 * 1024
"""Bytes of an answer that says why not."""
_LONGEST_ANSWER = 120.0
"""Seconds for one answer that is no file."""
DEFAULT_ENDPOINT = "https://civitai.com"
OTHER_ENDPOINT = "https://civitai.red"
"""Of the same site: what is rated above PG may be there alone. (civitai.green has no model that
civitai.com has not.)"""
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]+)?|https?://\[[0-9a-f:]+\](?::[0-9]+)?")
_HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9a-f:]+")
_TOKEN = re.compile(r"[!-~]{1,500}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOPS = 4
_MOST_DIGESTS = 100
_http_log = logging.getLogger("httpx2")


def passing(error: Exception) -> Passing | None:
    """How often Civitai is asked again after a failure; None for one that does not pass."""
    if isinstance(error, RateLimitError):
        return Passing(tries=5, stated=error.retry_after)
    if isinstance(error, BusyError):
        # Nobody waits long for a hub that is not there.
        return Passing(tries=4 if error.reached else 3)
    return None


def parsed(kind: type[Document], content: object, asked: CivitaiRequest) -> Document:
    """What a document holds. Raises HubError where it cannot be used."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise HubError(
            f"{asked.name}: what Civitai says about it cannot be used: {first_fault(error, 120)}",
            hint=f"see {asked.page}",
        ) from None


def read(response: httpx2.Response, limit: int, asked: CivitaiRequest) -> bytes:
    """The body. Raises HubError for more than ``limit`` bytes, BusyError where it breaks off or
    takes too long."""
    import httpx2

    content = bytearray()
    start = time.monotonic()
    try:
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > limit:
                raise stranger(asked, f"its answer has more than {limit:,} bytes")
            if time.monotonic() - start > _LONGEST_ANSWER:
                raise BusyError(
                    f"{asked.endpoint} takes more than {_LONGEST_ANSWER:.0f} s for an answer"
                )
    except httpx2.HTTPError as error:
        raise unreachable(error, asked, reached=True) from error
    return bytes(content)


def decoded(
    content: bytes, response: httpx2.Response, asked: CivitaiRequest, token: str | None
) -> Any:
    """A body that is JSON and says so, and not why there is none. Raises an error of this package
    for any other."""
    error = answered_instead(content, response.url.path, asked, token)
    if error is not None:
        raise error
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise stranger(asked, f"it sends {one_line(kind, 60) or 'something'} in place of JSON")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise stranger(asked, "its JSON is broken") from None


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address: what a token is good for."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def without_query(record: logging.LogRecord) -> bool:
    """A filter of the HTTP library's log: an address with its query is a permission to download."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            str(part).partition("?")[0] if type(part).__name__ == "URL" else part
            for part in record.args
        )
    return True


class CivitaiClient:
    """Talks to ``endpoint`` (None: CIVITAI_ENDPOINT, else civitai.com).

    What ``endpoint`` does not have is asked of ``others``: some models live on civitai.red alone.
    None means that address where nobody named an endpoint, and no other where somebody did.

    ``token`` (None: CIVITAI_TOKEN) goes to these hosts alone and, where one of them is Civitai's,
    to its other ones, which share their accounts; never to a storage, and never into a message.
    ``offline`` makes no request: everything then raises OfflineError. Usable by several threads at
    once. Raises InputError for an endpoint that is no address, for a token that is none, and for
    one that would travel unencrypted.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        offline: bool = False,
        traffic: RequestCounter | None = None,
        others: Sequence[str] | None = None,
    ) -> None:
        named = endpoint or os.environ.get("CIVITAI_ENDPOINT")
        self.endpoint = (named or DEFAULT_ENDPOINT).rstrip("/")
        if others is None:
            others = () if named else (OTHER_ENDPOINT,)
        self.others = tuple(other.rstrip("/") for other in others)
        self.offline = offline
        self.traffic = RequestCounter() if traffic is None else traffic
        self._token = (token or os.environ.get("CIVITAI_TOKEN") or "").strip() or None
        self._lock = threading.Lock()
        self._http: httpx2.Client | None = None
        self._homes: dict[str, str] = {}
        if not _ENDPOINT.fullmatch(self.endpoint):
            raise InputError(
                f"{self.endpoint[:120]!r} is not the address of a hub",
                hint="set CIVITAI_ENDPOINT to one that begins with https://",
            )
        add_secret(self._token)
        if self._token is not None and not _TOKEN.fullmatch(self._token):
            raise InputError(
                "the Civitai token holds characters that no token has",
                hint=f"copy it again from {self.endpoint}/user/account into CIVITAI_TOKEN",
            )
        own = {origin(address) for address in (self.endpoint, *self.others)}
        family = {origin(f"https://{host}") for host in CIVITAI_HOSTS}
        self._origins = own | family if own & family else own
        parts = urlsplit(self.endpoint)
        if self._token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise InputError(
                f"a token for {self.endpoint} would travel unencrypted",
                hint="set CIVITAI_ENDPOINT to an address that begins with https://",
            )

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            if self._http is not None:
                self._http.close()
                self._http = None
        _http_log.removeFilter(without_query)

    def model(self, model_id: str) -> WireModel:
        """The model with its published versions. One request, and one to each of the others where
        it is not there."""
        asked = self.asked(ModelRef("civitai", model_id))
        content = self._somewhere(asked, f"/api/v1/models/{model_id}")
        found = parsed(WireModel, content, asked)
        if str(found.id) != model_id:
            raise stranger(asked, f"asked for model {model_id} it gives {found.id}")
        return found

    def version(self, version_id: str, *, of: ModelRef | None = None) -> WireVersion:
        """The version with its files. Requests as for a model. ``of`` is how the message calls
        it."""
        asked = self.asked(of, version_id)
        content = self._somewhere(asked, f"/api/v1/model-versions/{version_id}")
        found = parsed(WireVersion, content, asked)
        if str(found.id) != version_id or found.model_id is None:
            raise stranger(asked, f"asked for version {version_id} it gives another")
        return found

    def versions_with(self, digests: list[str]) -> list[WireVersion]:
        """The published versions that have a file with one of these SHA-256 (hex), at most 100.

        One request, and one to each of the others while none is found. Sorted by model and version,
        each once.
        """
        if not 0 < len(digests) <= _MOST_DIGESTS:
            raise InputError(f"{len(digests)} digests are too many for one request")
        body = [digest.upper() for digest in digests]
        versions: list[WireVersion] = []
        for home in (self.endpoint, *self.others):
            asked = self._asked_of_hub(home)
            content = self._json(asked, "/api/v1/model-versions/by-hash", body=body, home=home)
            if not isinstance(content, list) or len(content) > 10 * _MOST_DIGESTS:
                raise stranger(asked, "it does not give files as a list")
            # A version whose files are hidden comes as null.
            versions = [parsed(WireVersion, item, asked) for item in content if item is not None]
            if versions:
                break
        by_number = {(found.model_id, found.id): found for found in versions if found.model_id}
        return [by_number[key] for key in sorted(by_number, key=lambda key: (key[0] or 0, key[1]))]

    def page(
        self,
        query: Mapping[str, str | list[str]],
        *,
        home: str | None = None,
        patient: bool = True,
    ) -> Page:
        """One page of a listing, of ``home`` (None: of ``endpoint``). One request, and without
        ``patient`` no other where it fails."""
        asked = self._asked_of_hub(home)
        content = self._json(asked, "/api/v1/models", query=query, home=home, patient=patient)
        return parsed(Page, content, asked)

    @contextmanager
    def weights(
        self, ref: ModelRef, file_id: int, *, start: int = 0, stop: int | None = None
    ) -> Iterator[httpx2.Response]:
        """The answer of the storage that has a version's file, from byte ``start`` on, unread.

        ``stop`` is the number of the first byte that is not wanted; a storage may send it all the
        same.

        Its status is 200, 206 or 416. One request to Civitai and one to each host that it sends
        on to, which gets no token. Raises BusyError where a connection breaks, in the block too.
        """
        import httpx2

        asked = self.asked(ref, download=True)
        headers = {"Accept-Encoding": "identity"}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        home = self._home_of(ref)
        url = f"{home}/api/download/models/{ref.revision}?fileId={file_id}"
        with self._open(asked, "GET", url, headers=headers) as response:
            try:
                yield response
            except httpx2.HTTPError as error:
                raise unreachable(error, asked, reached=True) from error

    def asked(
        self, ref: ModelRef | None, version_id: str | None = None, *, download: bool = False
    ) -> CivitaiRequest:
        """For messages about a model, or about a version whose model is not known."""
        if ref is None:
            name, page = f"version {version_id}", f"{self.endpoint}/model-versions/{version_id}"
        else:
            name, page = str(ref), self.page_of(ref)
        endpoint = self.endpoint if ref is None else self._home_of(ref)
        return CivitaiRequest(endpoint, name, page, self._token is not None, download)

    def retried(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, asked for again while Civitai is busy."""
        return retry(call, passing, self._wait)

    def page_of(self, ref: ModelRef) -> str:
        """Where a person looks at the version, or at the model."""
        version = "" if ref.revision is None else f"?modelVersionId={ref.revision}"
        return f"{self._home_of(ref)}/models/{ref.id}{version}"

    def require_file(
        self, content: bytes, response: httpx2.Response, asked: CivitaiRequest
    ) -> None:
        """Raise what a body says that came in place of a file, where it does not look like one."""
        at_home = origin(str(response.url)) in self._origins
        error = answered_instead(content, response.url.path, asked, self._token, at_home=at_home)
        if error is not None:
            raise error

    def _wait(self, seconds: float) -> None:
        log_wait(seconds)
        self.traffic.tell(seconds)

    def _asked_of_hub(self, home: str | None = None) -> CivitaiRequest:
        home = home or self.endpoint
        return CivitaiRequest(home, home, home, self._token is not None)

    def _home_of(self, ref: ModelRef) -> str:
        """Where the model was found; the endpoint where nobody looked."""
        paths = (f"/api/v1/model-versions/{ref.revision}", f"/api/v1/models/{ref.id}")
        known = (self._homes[path] for path in paths if path in self._homes)
        return next(known, self.endpoint)

    def _somewhere(self, asked: CivitaiRequest, path: str) -> Any:
        """What ``endpoint`` has at a path, else what one of the others has."""
        known = self._homes.get(path)
        first, *others = [known] if known else [self.endpoint, *self.others]
        try:
            return self._found(asked, path, first)
        except SpecNotFoundError as error:
            missed = error
        for home in others:
            try:
                return self._found(asked, path, home)
            except SpecNotFoundError:
                continue
            except (AuthError, RateLimitError):
                raise  # it is there, or may be
            except HubError as error:
                # Nobody knows, so it is not said to be gone.
                raise HubError(
                    f"{first} holds no {asked.name}, and the other address does not answer: "
                    f"{error.message}",
                    hint=error.hint,
                ) from error
        if not others:
            raise missed
        raise SpecNotFoundError(
            f"{' and '.join((first, *others))} hold no {asked.name}, or do not show it",
            hint=missed.hint,
        ) from missed

    def _found(self, asked: CivitaiRequest, path: str, home: str) -> Any:
        content = self._json(replace(asked, endpoint=home), path, home=home)
        with self._lock:
            self._homes[path] = home
        return content

    def _json(
        self,
        asked: CivitaiRequest,
        path: str,
        *,
        query: Mapping[str, str | list[str]] | None = None,
        body: object = None,
        home: str | None = None,
        patient: bool = True,
    ) -> Any:
        def call() -> Any:
            method = "GET" if body is None else "POST"
            headers = {"Accept": "application/json"}
            url = f"{home or self.endpoint}{path}"
            with self._open(asked, method, url, headers=headers, query=query, body=body) as answer:
                return decoded(read(answer, BODY_LIMIT, asked), answer, asked, self._token)

        return self.retried(call) if patient else call()

    @contextmanager
    def _open(
        self,
        asked: CivitaiRequest,
        method: str,
        url: str,
        *,
        headers: dict[str, str],
        query: Mapping[str, str | list[str]] | None = None,
        body: object = None,
    ) -> Iterator[httpx2.Response]:
        """The answer that is neither a refusal nor leads on; only a download may lead elsewhere
        than to another of Civitai's hosts."""
        import httpx2

        if self.offline:
            raise OfflineError(
                f"{asked.name} is not on this disk, and the network is switched off",
                hint="leave out --offline (or unset HF_HUB_OFFLINE) and run the same command again",
            )
        http = self._client()
        for _ in range(_HOPS):
            at_home = origin(url) in self._origins
            sent = dict(headers)
            if at_home and self._token:
                sent["Authorization"] = f"Bearer {self._token}"
            request = http.build_request(method, url, headers=sent, params=query, json=body)
            self.traffic.count(method)
            try:
                response = http.send(request, stream=True)
            except httpx2.HTTPError as error:
                reached = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                raise unreachable(error, asked, reached=reached, at_home=at_home) from error
            try:
                if response.is_redirect:
                    url = self._next(response, asked)
                    continue
                self._require_usable(response, asked, at_home=at_home)
                yield response
                return
            finally:
                response.close()
        raise stranger(asked, "it redirects again and again")

    def _next(self, response: httpx2.Response, asked: CivitaiRequest) -> str:
        """Where a download goes on. Its address is a permission, so no message holds it."""
        import httpx2

        try:
            target = response.url.join(response.headers.get("Location", ""))
        except (httpx2.InvalidURL, ValueError):
            target = httpx2.URL()
        if not _HOST.fullmatch(target.host):
            raise stranger(asked, "it redirects to no address")
        at_home = origin(str(target)) in self._origins
        # A browser would be led to the page to log in.
        if is_login(target.path) or (
            at_home and asked.download and not target.path.startswith("/api/")
        ):
            raise refusal(401, {}, b"", asked, self._token)
        if not asked.download and not at_home:
            where = f"{target.scheme}://{target.netloc.decode('ascii', 'replace')}"[:120]
            raise stranger(
                asked,
                f"it redirects to {where}",
                hint=f"if Civitai is there now, set CIVITAI_ENDPOINT={where}",
            )
        if target.scheme not in ("https", urlsplit(self.endpoint).scheme):
            raise stranger(asked, "it redirects to an address that is not encrypted")
        return str(target)

    def _require_usable(
        self, response: httpx2.Response, asked: CivitaiRequest, *, at_home: bool
    ) -> None:
        status = response.status_code
        if status < 400 or (asked.download and status == 416):
            return
        if not at_home:
            # Its permission is short-lived: a new one may do.
            raise BusyError(
                f"the storage that Civitai names for {asked.name} answers {status}",
                hint="run the same command again; it continues where it stopped",
            )
        try:
            content = read(response, REFUSAL_LIMIT, asked)
        except HubError:
            content = b""
        raise refusal(status, response.headers, content, asked, self._token)

    def _client(self) -> httpx2.Client:
        with self._lock:
            if self._http is None:
                import httpx2

                from gmi_registry import __version__

                _http_log.addFilter(without_query)
                self._http = httpx2.Client(
                    headers={"User-Agent": f"gmi-registry/{__version__}"},
                    timeout=httpx2.Timeout(30.0, connect=10.0),
                )
            return self._http
