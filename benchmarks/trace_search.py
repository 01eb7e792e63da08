"""Which files of this project run in a search of a local hub.


A search is run once to warm the cache, and once more in a process that is watched. A file counts
when one of its functions runs; what only an import runs (a module's and a class's own lines) does
not. The call stack at the first distance is the way from the command line to the arithmetic.

usage: trace_search.py [--hub HUB] [--image IMAGE] [--functions] [OPTION ...]
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gmi_registry"
IMAGE = ROOT / "zoo" / "queries" / "openmoji-rooster.png"
ARITHMETIC = PACKAGE / "scoring"
_RESULT = "TRACE_SEARCH_RESULT"


def watch(arguments: list[str]) -> dict[str, object]:
    """Run ``gmi-search`` in this process: functions that ran, by file, and the way to the score."""
    ran: dict[str, set[str]] = defaultdict(set)
    way: list[str] = []

    def called(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(f"{PACKAGE}/"):
            return
        if not code.co_flags & CO_OPTIMIZED:
            return
        ran[code.co_filename].add(code.co_qualname)
        if not way and is_distance(code):
            above: FrameType | None = frame
            while above is not None:
                if above.f_code.co_filename.startswith(f"{PACKAGE}/"):
                    way.append(f"{above.f_code.co_filename}")
                above = above.f_back

    threading.setprofile(called)
    sys.setprofile(called)
    from gmi_registry.cli.main import search_main

    sys.argv = ["gmi-search", *arguments]
    try:
        search_main()
    except SystemExit as end:
        if end.code:
            raise
    imported = [
        str(module.__file__)
        for module in list(sys.modules.values())
        if str(getattr(module, "__file__", "")).startswith(f"{PACKAGE}/")
    ]
    return {
        "ran": {file: sorted(names) for file, names in ran.items()},
        "way": way[::-1],
        "imported": imported,
    }


def is_distance(code: CodeType) -> bool:
    """Whether a function is one that works out distances of models from a query."""
    return Path(code.co_filename).is_relative_to(ARITHMETIC) and "distances" in code.co_name
