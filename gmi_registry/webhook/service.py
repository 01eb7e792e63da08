"""Queue, receiver and worker together: what ``gmi webhook serve`` runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.webhook.process import WorkerProcess
from gmi_registry.webhook.queue import RepoQueue
from gmi_registry.webhook.receiver import PATH, create_app
from gmi_registry.webhook.secret import SECRET_VARIABLE, Secret
from gmi_registry.webhook.server import listen, make_server

__all__ = ["Labour", "serve"]


@dataclass(frozen=True)
class Labour:
    """How the worker works: as :func:`.look_with`, whose arguments these are."""

    work: Path
    cache_dir: Path | None = None
    device: str | None = None
    create_pr: bool | None = None

    def arguments(self, folder: Path) -> list[str]:
        """Those of :mod:`.worker` on the queue in ``folder``."""
        found = [str(folder), "--work", str(self.work)]
        found += [] if self.cache_dir is None else ["--cache-dir", str(self.cache_dir)]
        found += [] if self.device is None else ["--device", self.device]
        if self.create_pr is not None:
            found.append("--create-pr" if self.create_pr else "--no-create-pr")
        return found


def serve(
    secret: Secret,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int,
    capacity: int = 1000,
    labour: Labour | None = None,
    secret_variable: str = SECRET_VARIABLE,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Listen until a signal comes, with the queue in ``folder``; ``ready`` is told the address.

    With ``labour`` a process of its own does the work as well; it does not get
    ``secret_variable``. Raises MissingExtraError without the extra ``web``, InputError where
    nothing can listen there or the queue cannot be used, KeyboardInterrupt for Ctrl-C.
    """
    with ExitStack() as stack:
        queue = RepoQueue(folder, capacity=capacity)
        stack.callback(queue.close)
        process = None
        if labour is not None:
            process = WorkerProcess(labour.arguments(folder), without=(secret_variable,))
        alive = None if process is None else process.is_alive
        server = make_server(create_app(secret, queue, worker_alive=alive))
        socket = stack.enter_context(listen(host, port))
        if process is not None:
            stack.enter_context(process)
        name, number = socket.getsockname()[:2]
        ready(f"http://[{name}]:{number}{PATH}" if ":" in name else f"http://{name}:{number}{PATH}")
        server.run(sockets=[socket])
