"""Where a collection is served: ``qdrant://host:port/collection?tls=1``."""

from __future__ import annotations

import ipaddress
import os
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from gmi_registry.errors import InputError, MissingExtraError
from gmi_registry.sanitize import add_secret

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["KEY_VARIABLE", "SCHEME", "Place", "again", "checked_name"]

SCHEME = "qdrant"
KEY_VARIABLE = "QDRANT_API_KEY"

_PORT = 6333
_TIMEOUT = 60  # seconds, of one request
_FORM = "write qdrant://HOST:PORT/COLLECTION, with ?tls=1 where the server speaks TLS"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_OURS = re.compile(r".*--[0-9a-f]{16}")
_HOST = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")
_KEY = re.compile(r"[!-~]+")
_TLS = {"0": False, "1": True}


@dataclass(frozen=True)
class Place:
    """A collection on a server. ``tls`` is None where the URL said nothing of it: then there is
    none. Raises InputError for a name that no collection of ours may have."""

    host: str
    port: int
    collection: str
    tls: bool | None = None

    def __post_init__(self) -> None:
        checked_name(self.collection)

    @classmethod
    def parse(cls, url: str) -> Place:
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
                hint=f"export {KEY_VARIABLE}=... with the key alone",
            )
        if key is not None and self.tls is None and not self.is_here:
            raise InputError(
                f"{KEY_VARIABLE} would be sent to {self.address} without TLS",
                hint="add ?tls=1 to the URL, or ?tls=0 where the network may see the key",
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


def again(address: str) -> str:
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
