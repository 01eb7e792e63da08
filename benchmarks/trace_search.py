"""Which files of this project run in a warm search of a local hub.

::

    python -m benchmarks.trace_search [--hub demo/hub] [--image IMAGE] [--functions]

The search is run once to warm its cache, and once more in a process that is watched. A file counts
where one of its functions runs; what an import alone runs does not count. It prints these files and
their number, the files on the way from the command line to the first distance, and how many files
were imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gmi_registry"
IMAGE = ROOT / "zoo" / "queries" / "openmoji-rooster.png"
_PREFIX = f"{PACKAGE}{os.sep}"
_IMPORTS = "<frozen importlib._bootstrap>"


def watch(arguments: list[str]) -> dict[str, object]:
    """Run ``gmi-search`` in this process; the functions that ran by file, and the way."""
    ran: dict[str, set[str]] = defaultdict(set)
    way: list[str] = []

    def called(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(_PREFIX):
            return
        above = callers(frame)
        if not code.co_flags & CO_OPTIMIZED or any(_IMPORTS in file for file in above):
            return
        name = file_name(code.co_filename)
        ran[name].add(code.co_qualname)
        if not way and name.startswith("scoring/") and "distances" in code.co_name:
            way.extend(file_name(file) for file in reversed(above) if file.startswith(_PREFIX))

    from gmi_registry.cli.main import search_main

    sys.argv = ["gmi-search", *arguments]
    threading.setprofile(called)
    sys.setprofile(called)
    try:
        search_main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    imported = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    return {
        "ran": {name: sorted(functions) for name, functions in sorted(ran.items())},
        "way": list(dict.fromkeys(way)),
        "imported": sum(file.startswith(_PREFIX) for file in imported),
    }


def callers(frame: FrameType) -> list[str]:
    """The files of the functions that led to a call, from the inside out, its own left out."""
    found = []
    above = frame.f_back
    while above is not None:
        found.append(above.f_code.co_filename)
        above = above.f_back
    return found


def file_name(path: str) -> str:
    """The name of a file of the package."""
    return Path(path).relative_to(PACKAGE).as_posix()


def main() -> None:
    """Watch a search in a process of its own, and print what ran."""
    parser = argparse.ArgumentParser(description="Which files run in a search of a local hub.")
    parser.add_argument("--hub", default=str(ROOT / "demo" / "hub"))
    parser.add_argument("--image", default=str(IMAGE))
    parser.add_argument("--functions", action="store_true", help="name the functions as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        arguments = [options.image, "--hub", options.hub, "--cache-dir", f"{room}/cache", "--quiet"]
        code = (
            f"import json, sys; from {__spec__.name} import watch; found = watch({arguments!r}); "
        )
        code += f"json.dump(found, open({room + '/found.json'!r}, 'w'))"
        for _ in range(2):
            subprocess.run(
                [sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
            )
        found = json.loads(Path(room, "found.json").read_text())
    for name, functions in found["ran"].items():
        print(f"{name}: {', '.join(functions)}" if options.functions else name)
    print(f"{len(found['ran'])} files run, of {found['imported']} that are imported")
    print(f"{len(found['way'])} files to the arithmetic: {', '.join(found['way'])}")


if __name__ == "__main__":
    main()
