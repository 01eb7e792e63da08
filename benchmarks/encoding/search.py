"""``python -m benchmarks.encoding.search``: where the time of one search goes, and what a process
that stays could save of it.

Sixteen specifications of random numbers in a folder; the encoder is that of the zoo in this
repository, or one that ``python -m benchmarks.encoding --keep DIR`` left in ``DIR/ARCHITECTURE``.
The cache is filled. Times of the processor stand beside those of the clock, since they say more
where other work shares the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.encoding.age import aged
from benchmarks.encoding.hub import filled

_TREE = Path(__file__).parents[2]
_ZOO = _TREE / "zoo" / "hub" / "encoders" / "gmi-zoo-clip" / "icons-v1"
_PICTURE = next(iter(sorted((_TREE / "zoo" / "queries").glob("*.png"))))

# In one process: imports, a search, the same again, and again with the encoder that is there.
_INSIDE = """
import json, sys, time
began = time.perf_counter()
took = {}
def passed(name):
    global began
    now = time.perf_counter()
    took[name], began = now - began, now
from gmi_registry import search
from gmi_registry.cli import main
passed("imports")
picture, hub, cache, export = sys.argv[1:]
from pathlib import Path
where = {"hub": hub, "cache_dir": Path(cache)}
search(picture, **where)
passed("first search")
search(picture, **where)
passed("next search")
from gmi_registry.encoders.onnx import open_export
encoder = open_export(Path(export), Path(cache) / "hub")
encoder.encode_images([__import__("PIL.Image").Image.open(picture)])
passed("encoder loaded, first image")
search(picture, encoder=encoder, **where)
passed("search with a kept encoder")
print(json.dumps(took))
"""


def run(command: list[str]) -> tuple[float, float, str]:
    """Seconds of the clock, of the processor, and what it printed."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, help="for the hub, on the encoder's disk")
    parser.add_argument("--encoder", type=Path, default=_ZOO, metavar="DIR")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gmi-search-", dir=arguments.home) as scratch:
        hub, cache = Path(scratch) / "hub", Path(scratch) / "cache"
        filled(hub, arguments.encoder)
        aged(hub)
        program = str(Path(sys.executable).with_name("gmi-search"))
        place = ["--quiet", "--hub", str(hub), "--cache-dir", str(cache)]
        (export,) = hub.glob("encoders/*/*/onnx")
        works = {
            "gmi-search": [program, str(_PICTURE), *place],
            "gmi-search --help": [program, "--help"],
            "an interpreter": [sys.executable, "-c", "pass"],
        }
        inside = [sys.executable, "-c", _INSIDE, *map(str, (_PICTURE, hub, cache, export))]
        run(works["gmi-search"])
        run(inside)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        parts: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            for name, command in works.items():
                found[name].append(run(command)[:2])
            for name, seconds in json.loads(run(inside)[2]).items():
                parts.setdefault(name, []).append(seconds)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {arguments.rounds}\n")
    print("| a process | ms | CPU ms |\n|---|---|---|")
    for name, times in found.items():
        wall, used = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        print(f"| {name} | {wall:,.0f} | {used:,.0f} |")
    print("\n| within one | ms |\n|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {statistics.median(seconds) * 1e3:,.0f} |")


if __name__ == "__main__":
    main()
