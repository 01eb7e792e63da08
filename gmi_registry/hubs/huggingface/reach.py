"""Whether there is a hub at all, and where it sends its clients on to.

Nobody waits long for a hub that is not there, and none hands its clients over to another host.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from gmi_registry.errors import HubError

__all__ = ["NeverReached", "Reach", "http_library", "require_same_host"]

_TRIES = 3
_PATIENCE = 3.0  # seconds
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,200}")
# The hub may lie below a path of its host.
_BELOW = r"(?:/[^/]+)*?"
_NAME = r"[^/]+/[^/]+"
_API = re.compile(rf"{_BELOW}/api/(models|datasets|spaces)/({_NAME})(?:/.*)?")
_FILE = re.compile(rf"{_BELOW}(?:/(datasets|spaces))?/({_NAME})/(?:resolve|raw)/.+")

http_library: Any = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
"""httpx or httpx2, whichever this version of huggingface_hub was built on."""


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
            late = time.monotonic() - self._since >= _PATIENCE
            return late or self._failures >= _TRIES


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
            f"{origin if named else 'another host'}, which is not the hub that it was told to ask",
            hint=f"if you mean that one: HF_ENDPOINT={origin}" if named else "check HF_ENDPOINT",
        )
