"""What both loopback hubs are: a server in a thread, from ``with`` to the end of its block."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self


class LoopbackServer:
    """``state`` is what the hub holds. Its API is on 127.0.0.1, its storage on localhost."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def make_server(self) -> Any:
        """A server that is not running yet, and that keeps its ``failures``."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._server = self.make_server()
        port = self._server.server_address[1]
        self.state.endpoint = f"http://127.0.0.1:{port}"
        self.state.storage = f"http://localhost:{port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server
        assert self._thread
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT or CIVITAI_ENDPOINT is to be."""
        endpoint: str = self.state.endpoint
        return endpoint

    @property
    def failures(self) -> list[str]:
        """Requests on which this server itself stumbled, with the traceback; they got a 500."""
        return self._server.failures if self._server else []
