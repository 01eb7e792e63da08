"""Where a collection is served, ``qdrant://host:port/collection?tls=1``, and the requests to it."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlsplit

import stamina

from gmi_registry.errors import (
    AuthError,
    GmiError,
    HubError,
    InputError,
    MissingExtraError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.sanitize import add_secret, one_line

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import UnexpectedResponse

SCHEME = "qdrant"
KEY_VARIABLE = "QDRANT_API_KEY"

_PORT = 6333
_TIMEOUT = 60  # seconds, of one request
_FORM = "write qdrant://HOST:PORT/COLLECTION, with ?tls=1 if the server speaks TLS"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_OURS = re.compile(r".*--[0-9a-f]{16}")
_HOST = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")
_KEY = re.compile(r"[!-~]+")
_TLS = {"0": False, "1": True}


@dataclass(frozen=True)
class Location:
    """A collection on a server. ``tls`` is None where the URL said nothing of it: then there is
    none. Raises InputError for a name that no collection of ours may have."""

    host: str
    port: int
    collection: str
    tls: bool | None = None

    def __post_init__(self) -> None:
        checked_name(self.collection)

    @classmethod
    def parse(cls, url: str) -> Location:
        """Read what ``str()`` writes; without a port it is 6333.

        Raises InputError for anything else, also for a key or password in the URL, which would
        end up in logs.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or _PORT
        except ValueError:
            raise InputError("this is not the URL of a Qdrant server", hint=_FORM) from None
        host = parts.hostname or ""
        if parts.scheme != SCHEME or not _is_host(host):
            raise InputError("this is not the URL of a Qdrant server", hint=_FORM)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "@" in parts.netloc or any("key" in name.casefold() for name in options):
            raise InputError(
                "a key or password does not belong in a URL, which ends up in logs",
                hint=f"export {KEY_VARIABLE}=... and leave it out of the URL",
            )
        # Whatever else is there is not shown: it may be a secret under another name.
        if options.keys() - {"tls"} or parts.fragment or options.get("tls", "0") not in _TLS:
            raise InputError("only ?tls=0 or ?tls=1 may follow the collection", hint=_FORM)
        tls = _TLS[options["tls"]] if "tls" in options else None
        return cls(host, port, parts.path.strip("/"), tls)

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine."""
        return _is_loopback(self.host)

    def __str__(self) -> str:
        tls = "" if self.tls is None else f"?tls={int(self.tls)}"
        return f"{SCHEME}://{self.address}/{self.collection}{tls}"

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def client(self) -> QdrantClient:
        """A client of the server, with the key in the environment variable QDRANT_API_KEY, if
        any; nothing is sent yet.

        Raises MissingExtraError without qdrant-client, and InputError where the key cannot be one,
        or would cross a network that it can be read on, unless the URL says ``?tls=0``.
        """
        try:
            from qdrant_client import QdrantClient
        except ModuleNotFoundError:
            raise MissingExtraError(
                "qdrant-client", extra="qdrant", purpose="an index on a Qdrant server"
            ) from None
        key = os.environ.get("QDRANT_API_KEY", "").strip() or None
        add_secret(key)
        if key is not None and not _KEY.fullmatch(key):
            raise InputError(
                f"{KEY_VARIABLE} holds a letter that no key has",
                hint=f"export {KEY_VARIABLE}=... with only the key",
            )
        if key is not None and self.tls is None and not self.is_here:
            raise InputError(
                f"{KEY_VARIABLE} would be sent to {self.address} without TLS",
                hint="add ?tls=1 to the URL, or ?tls=0 if the network is allowed to see the key",
            )
        with warnings.catch_warnings():
            # That the key goes without TLS was decided above.
            warnings.simplefilter("ignore", UserWarning)
            return QdrantClient(
                url=f"{'https' if self.tls else 'http'}://{self.address}",
                api_key=key,
                timeout=_TIMEOUT,
                # It would warn of a server that is not there, which the first request tells better.
                check_compatibility=False,
            )


def checked_name(collection: str) -> str:
    """The name itself. Raises InputError where no collection of ours may be called so."""
    if not _NAME.fullmatch(collection) or _OURS.fullmatch(collection):
        raise InputError(
            f"{collection[:120]!r} cannot be the name of a collection",
            hint="take 1 to 100 letters, digits, dots, hyphens and underscores, e.g. models",
        )
    return collection


def load_again(address: str) -> str:
    """The hint where what a server holds cannot be used; ``address`` is its URL, or some words."""
    url = address if address.startswith(f"{SCHEME}:") else f"{SCHEME}://HOST:PORT/COLLECTION"
    return f"load it again: gmi index serve-into DIR {url}"


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


P = ParamSpec("P")
T = TypeVar("T")

_TRIES = 3
_WAIT = 0.25  # seconds, doubling
_PASSING = (500, 502, 503, 504)
_LONGEST = 200


class Connection:
    """``client`` and the ``collection`` on it that is meant; ``address`` names the server.
    ``owned`` says that nobody else has the client, which is then closed with the connection."""

    def __init__(self, client: QdrantClient, collection: str, address: str, *, owned: bool) -> None:
        self.client = client
        self.collection = collection
        self.address = address
        self._owned = owned

    @classmethod
    def to(cls, target: str | Location | QdrantClient, collection: str | None) -> Connection:
        """By a URL, which names the collection, or by a client that is open already.

        Raises InputError for a URL or a name that cannot be, or a client without a name;
        MissingExtraError without qdrant-client.
        """
        if isinstance(target, str):
            target = Location.parse(target)
        if isinstance(target, Location):
            name = checked_name(collection or target.collection)
            return cls(target.client(), name, str(target), owned=True)
        return cls(target, checked_name(collection or ""), "the Qdrant client", owned=False)

    def ask(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``call``, a method of the client that may be made twice, returns.

        Raises SpecNotFoundError where the collection is not there, AuthError, RateLimitError, and
        HubError for a server that does not answer or answers otherwise. Faults that may pass are
        tried again twice.
        """
        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        @stamina.retry(
            on=_may_pass, attempts=_TRIES, timeout=None, wait_initial=_WAIT, wait_jitter=0
        )
        def asked() -> T:
            return call(*args, **kwargs)

        logging.getLogger("stamina").addFilter(_not_ours)
        try:
            return asked()
        except ResourceExhaustedResponse as error:
            raise self._busy(error.retry_after_s) from None
        except ResponseHandlingException as error:
            raise self._unreadable(error.source) from None
        except UnexpectedResponse as error:
            raise self._refused(error) from None
        except ValueError as error:
            # What stands in for a server within this process has no other way to say so.
            if str(error).startswith("Collection ") and str(error).endswith(" not found"):
                raise self.missing() from None
            raise

    def missing(self) -> SpecNotFoundError:
        """The error that says that the collection is not there."""
        return SpecNotFoundError(
            f"{self.address} holds no index under the name {self.collection!r}",
            hint=load_again(self.address).replace("it again", "one"),
        )

    def close(self) -> None:
        """Let the client go, unless it was handed in open."""
        if self._owned:
            self.client.close()

    def _busy(self, seconds: int | None) -> RateLimitError:
        when = "" if seconds is None else f", in {seconds} s"
        return RateLimitError(
            f"{self.address} asks to slow down",
            hint=f"run the same command again later{when}; it goes on where it stopped",
            retry_after=seconds,
        )

    def _unreadable(self, source: Exception) -> HubError:
        import httpx

        if isinstance(source, httpx.TransportError):
            return HubError(
                f"{self.address} does not answer ({type(source).__name__})",
                hint="check the address, whether the server runs, and whether it needs ?tls=1",
            )
        return HubError(
            f"{self.address} answers with something that no Qdrant server says",
            hint="check the address: the port is that of the REST interface, 6333 if nobody chose",
        )

    def _refused(self, error: UnexpectedResponse) -> GmiError:
        if error.status_code in (401, 403):
            return AuthError(
                f"{self.address} refuses the key"
                if os.environ.get(KEY_VARIABLE)
                else f"{self.address} needs a key",
                hint=f"export {KEY_VARIABLE}=... with a key that is allowed to do this",
            )
        if error.status_code == 404:
            return self.missing()
        if error.status_code == 429:
            return self._busy(None)
        return HubError(
            f"{self.address} answers {error.status_code}: {_said(error.content)}",
            hint="look into the server's log",
        )


def _may_pass(error: Exception) -> bool:
    import httpx
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, httpx.TransportError)
    return isinstance(error, UnexpectedResponse) and error.status_code in _PASSING


def _not_ours(record: logging.LogRecord) -> bool:
    """A filter: the library warns of every wait, and these pass in less than a second."""
    return not str(getattr(record, "stamina.callable", "")).startswith(__name__)


def _said(content: bytes) -> str:
    """The server's own words, in one line, without the key."""
    try:
        words = str(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return "and no more"
    return one_line(words, _LONGEST)
