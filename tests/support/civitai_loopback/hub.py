"""The hub as tests hold it: start, fill, look, break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.loopback_server import LoopbackServer

from .fault import Fault, Faults
from .routes import State
from .server import CivitaiServer
from .world import Model

__all__ = ["LoopbackCivitai", "Request"]


@dataclass(frozen=True)
class Request:
    """One request. ``path`` has its query; ``user`` is empty without a (known) token.

    ``token`` says whether any was sent; ``host`` tells the API (127.0.0.1) from the storage
    (localhost); ``range`` is the header of that name.
    """

    method: str
    path: str
    status: int
    user: str
    token: bool
    host: str
    range: str | None = None


class LoopbackCivitai(LoopbackServer):
    """A Civitai on 127.0.0.1, from ``with`` to the end of its block.

    ``page_size`` is the most models that one page of a listing holds.
    """

    def __init__(self, *, page_size: int = 100) -> None:
        super().__init__(State())
        self.state.page_size = page_size
        self.requests: list[Request] = []
        self._faults = Faults()

    def make_server(self) -> CivitaiServer:
        return CivitaiServer(self.state, self._faults, self._note)

    @property
    def paths(self) -> list[str]:
        """The paths of all requests so far, without their queries."""
        return [request.path.partition("?")[0] for request in self.requests]

    def add_user(self, name: str, token: str) -> str:
        self.state.users[token] = name
        return token

    def add(self, *models: Model) -> None:
        for model in models:
            self.state.models[model.id] = model

    def inject(self, fault: Fault) -> Fault:
        """Let the next requests that match meet ``fault``; those injected first come first."""
        self._faults.add(fault)
        return fault

    def clear_faults(self) -> None:
        self._faults.clear()

    def clear_requests(self) -> None:
        self.requests.clear()

    def _note(self, *fields: Any) -> None:
        self.requests.append(Request(*fields))
