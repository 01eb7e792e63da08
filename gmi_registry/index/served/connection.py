"""Talking to a Qdrant server, with errors that say what to do."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import stamina

from gmi_registry.errors import AuthError, GmiError, HubError, RateLimitError, SpecNotFoundError
from gmi_registry.index.served.place import KEY_VARIABLE, Place, again, checked_name
from gmi_registry.sanitize import one_line

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import UnexpectedResponse

__all__ = ["Connection"]

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
    def to(cls, target: str | Place | QdrantClient, collection: str | None) -> Connection:
        """By a URL, which names the collection, or by a client that is open already.

        Raises InputError for a URL or a name that cannot be, or a client without a name;
        MissingExtraError without qdrant-client.
        """
        if isinstance(target, str):
            target = Place.parse(target)
        if isinstance(target, Place):
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
            hint=again(self.address).replace("it again", "one"),
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
                hint="check the address, whether the server runs, and whether it wants ?tls=1",
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
                else f"{self.address} wants a key",
                hint=f"export {KEY_VARIABLE}=... with a key that may do this",
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
