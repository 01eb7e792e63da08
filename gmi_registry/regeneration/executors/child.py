"""What a worker process runs: one work from its standard input, one result into a file.

``python -P -c "from gmi_registry.regeneration.executors.child import main; main()"``
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import IO

from gmi_registry.atomic import write_file
from gmi_registry.regeneration.executors.failure import performed
from gmi_registry.sanitize import guarded_output

__all__ = ["main"]


def main() -> None:
    """Do the work and end. SIGTERM ends it early, as Ctrl-C would; so does the parent's end."""
    signal.signal(signal.SIGTERM, _stop)
    # A terminal sends Ctrl-C to everybody; who stops what is the parent's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = sys.stdin.buffer
    # From the parent, which is this user's own process, over a pipe that nobody else has.
    perform, work, place = pickle.load(orders)
    threading.Thread(target=_end_with_parent, args=(orders,), daemon=True).start()
    with guarded_output():
        write_file(Path(place), pickle.dumps(performed(perform, work)), flush=False)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _end_with_parent(orders: IO[bytes]) -> None:
    """The parent never writes again, so that the pipe ends with it, however it ends."""
    while orders.read(1):
        pass
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)
