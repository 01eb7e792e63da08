"""How long a light search takes from the start of its process to the end.

::

    python -m benchmarks.startup [--hub demo/hub] [--image IMAGE] [--rounds 15]

A search of a local hub by one image, the import of the libraries that it cannot do without, and
``gmi --help`` are started in turns, so that whatever else the machine does slows all of them. It
prints the median of each in seconds, and the ratio of the first to the second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
IMAGE = ROOT / "zoo" / "queries" / "openmoji-rooster.png"
LIBRARIES = "import numpy, onnxruntime, PIL.Image, pydantic, typer"
PROGRAM = "from gmi_registry.cli.main import {name}; {name}()"


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """The median of ``rounds`` runs of each command, run in turns after one that warms caches."""
    for arguments in commands.values():
        seconds(arguments)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            taken[name].append(seconds(arguments))
    return {name: median(times) for name, times in taken.items()}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hub", default=str(ROOT / "demo" / "hub"))
    parser.add_argument("--image", default=str(IMAGE))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    search = PROGRAM.format(name="search_main")
    found = measure(
        {
            "search": ["-c", search, options.image, "--hub", options.hub],
            "libraries": ["-c", LIBRARIES],
            "gmi --help": ["-c", PROGRAM.format(name="main"), "--help"],
        },
        options.rounds,
    )
    for name, median_seconds in found.items():
        print(f"{name:<12} {median_seconds:.3f} s")
    print(f"{'ratio':<12} {found['search'] / found['libraries']:.2f}")


if __name__ == "__main__":
    main()
