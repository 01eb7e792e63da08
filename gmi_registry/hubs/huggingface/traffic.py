"""What huggingface_hub's client sends, counted, and the waits that it makes, told."""

from __future__ import annotations

import functools
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http as client_http

from gmi_registry.hubs.huggingface.limit import LONGEST_WAIT, wait_after
from gmi_registry.hubs.huggingface.reach import Reach, require_same_host

__all__ = ["OnWait", "Traffic", "announce_wait"]

OnWait = Callable[[float], None]
"""Told the seconds that the client is going to wait before it asks the hub again."""

# The client says here when it waits, and to nobody else.
_CLIENT_LOGS = ("huggingface_hub.utils._http", "huggingface_hub.file_download")
_WAIT = re.compile(r"(?:Waiting|Retrying in) ([0-9]+(?:\.[0-9]+)?)s")
# Eight workers that are sent away at once wait for one and the same moment.
_SAME_MOMENT = 0.5

_log = logging.getLogger("gmi_registry.hubs")


class Traffic:
    """Counts the HTTP requests of huggingface_hub's client in this process while it is open.

    The client is one for the whole process, so requests of other parts of the program count as
    well, and several Traffics may be open at once; every hop of a redirect is a request. Data that
    hf_xet moves by its own means is not seen. ``on_wait`` is called in the thread that waits; the
    same is logged to ``gmi_registry.hubs``, in place of the client's own warnings, which hold
    addresses (a level above WARNING set for the client silences both). The client's factory that
    was set before is put back when the last Traffic closes, unless another was set meanwhile.

    While one is open the client's own loops give up sooner, too: where nothing ever answers
    (:class:`~.reach.Reach`), and where the hub asks for a wait that nobody sits through
    (:data:`~.limit.LONGEST_WAIT`).
    """

    def __init__(self, on_wait: OnWait | None = None) -> None:
        self.on_wait = on_wait
        self._methods: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Requests so far."""
        with self._lock:
            return self._methods.total()

    @property
    def methods(self) -> dict[str, int]:
        """Requests so far by method, the methods in alphabetical order."""
        with self._lock:
            return dict(sorted(self._methods.items()))

    def __str__(self) -> str:
        """E.g. ``requests: 1,003 (GET 503, HEAD 500)``."""
        methods = self.methods
        parts = ", ".join(f"{method} {count:,}" for method, count in methods.items())
        return f"requests: {sum(methods.values()):,}" + (f" ({parts})" if parts else "")

    def open(self) -> None:
        """Begin to count; without effect where it is open."""
        _hook.add(self)

    def close(self) -> None:
        """Stop counting; the numbers stay. Without effect where it is closed."""
        _hook.remove(self)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def moved(self, endpoint: str, kind: str, repo_id: str) -> str | None:
        """As :meth:`.Reach.moved`, since the first Traffic that is open was opened."""
        return _hook.moved(endpoint, kind, repo_id)

    def count(self, method: str) -> None:
        """One request more."""
        with self._lock:
            self._methods[method] += 1


def announce_wait(seconds: float) -> None:
    """Tell every open Traffic, and the log, of a wait that begins now."""
    _hook.announce(seconds)


class _Hook:
    """The one place in this process where the client is hooked."""

    def __init__(self) -> None:
        self._open: tuple[Traffic, ...] = ()
        self._lock = threading.RLock()
        self._factory: Callable[[], Any] | None = None
        self._told_until = 0.0
        self._reach = Reach()

    def add(self, traffic: Traffic) -> None:
        with self._lock:
            if traffic in self._open:
                return
            first = not self._open
            self._open = (*self._open, traffic)
            if first:
                self._told_until = 0.0
                self._reach.forget()
                self._factory = client_http._GLOBAL_CLIENT_FACTORY
                set_client_factory(self.make_client)
                for name in _CLIENT_LOGS:
                    logging.getLogger(name).addFilter(self.pass_on)

    def remove(self, traffic: Traffic) -> None:
        with self._lock:
            if traffic not in self._open:
                return
            self._open = tuple(other for other in self._open if other is not traffic)
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
        client.send = functools.partial(self._reach.send, client.send)
        return client

    def sent(self, request: Any) -> None:
        for traffic in self._open:
            traffic.count(request.method)

    def moved(self, endpoint: str, kind: str, repo_id: str) -> str | None:
        return self._reach.moved(endpoint, kind, repo_id)

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
        _log.info("the hub is asked again in %.0f s", seconds)
        for traffic in told:
            if traffic.on_wait is not None:
                traffic.on_wait(seconds)


_hook = _Hook()
