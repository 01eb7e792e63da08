"""Print, for each folder named, how long its refusal took and how much memory it needed.

``seconds`` is the best of five, so that a busy machine does not count; ``megabytes`` is the rise
of the peak resident memory of a process that was forked for this folder alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

from gmi_registry.errors import GmiError
from gmi_registry.spec import manifest, read_spec, specification

# Reading imports these when it first needs them, which is no part of a refusal.
_IMPORTED = (manifest, specification, specification)

_KIB = 1024 if sys.platform != "darwin" else 1


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def refuse(folder: str) -> bool:
    try:
        read_spec(folder)
    except GmiError:
        return True
    return False


def measure(folder: str) -> dict[str, object]:
    before = peak_bytes()
    seconds: list[float] = []
    refused = True
    for _ in range(5):
        start = time.perf_counter()
        refused &= refuse(folder)
        seconds.append(time.perf_counter() - start)
    megabytes = (peak_bytes() - before) / 1e6
    return {
        "folder": folder,
        "refused": refused,
        "seconds": min(seconds),
        "megabytes": round(megabytes, 2),
    }


for named in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        sys.stdout.write(json.dumps(measure(named)) + "\n")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
