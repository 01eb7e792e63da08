"""Where a receiver can be reached from the hub."""

from __future__ import annotations

from urllib.parse import urlsplit

from gmi_registry.errors import InputError
from gmi_registry.webhook.receiver import PATH

__all__ = ["receiver_address", "shown_address"]

_LONGEST = 2000
_HERE = ("localhost", "127.0.0.1", "::1")


def receiver_address(text: str) -> str:
    """``text`` as the hub is to have it: with the receiver's path where it names only the host.

    Raises InputError for what is no https address; plain http is for this machine alone, since the
    secret goes with each delivery. User names, queries and fragments are refused: they are shown in
    lists, and some hold passwords.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    clean = len(text) <= _LONGEST and all("!" <= letter <= "~" for letter in text)
    secure = parts.scheme == "https" or (parts.scheme == "http" and host in _HERE)
    odd = parts.username is not None or parts.query or parts.fragment or port == 0
    if not (clean and secure and host) or odd or "\\" in text:
        raise InputError(
            "the address of a receiver is https, a host, and perhaps a port and a path",
            hint="gmi webhook install owner/name --url https://hooks.example.org",
        )
    path = parts.path.rstrip("/")
    if not path.endswith(PATH):
        path += PATH
    return f"{parts.scheme}://{parts.netloc}{path}"


def shown_address(text: str) -> str:
    """An address of anybody's for a list: without user names, queries and fragments."""
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{host}{parts.path}"[:_LONGEST]
