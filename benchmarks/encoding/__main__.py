"""``python -m benchmarks.encoding``: what a query's embedding costs, each way in its own process.

Encoders have random weights and are exported with this project's own code into a folder that is
deleted afterwards (``--keep`` keeps it, and takes what lies there). Processes take turns. Files are
in the system's cache, as they are for whoever searches twice.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.encoding.age import aged

WAYS = ("torch", "onnx", "half", "onnx checked")
COLUMNS = ("load", "first image", "next image", "first text", "next text")


def measured(way: str, name: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.encoding.process", way, name, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prepared(name: str, folder: Path) -> None:
    if not (folder / "half" / "encoder.json").is_file():
        command = [sys.executable, "-m", "benchmarks.encoding.made", name, str(folder)]
        subprocess.run(command, check=True)
        aged(folder)
    for way in WAYS:
        measured(way, name, folder)  # which checks, and brings the files into the cache


def row(name: str, way: str, runs: list[dict[str, Any]]) -> str:
    def middle(part: str, key: str) -> float:
        return statistics.median(run[part][key] for run in runs)

    took = {key: middle("took", key) for key in COLUMNS}
    cells = [name, way]
    cells += [f"{took[key] * 1e3:,.0f}" for key in COLUMNS]
    cells.append(f"{(took['load'] + took['first image']) * 1e3:,.0f}")
    cells += [f"{middle('of images', key) / 1e6:,.0f}" for key in ("peak", "own")]
    cells += [f"{middle('of both', key) / 1e6:,.0f}" for key in ("peak", "own")]
    return f"| {' | '.join(cells)} |"


def compared(names: list[str], home: Path, rounds: int) -> None:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in names:
        prepared(name, home / name)
    load = os.getloadavg()
    for _ in range(rounds):
        for name in names:
            for way in WAYS:
                found.setdefault((name, way), []).append(measured(way, name, home / name))
    print(
        f"{os.cpu_count()} cores, load before {load[0]:.1f}, after {os.getloadavg()[0]:.1f}, "
        f"medians of {rounds} processes; ms, MB\n"
    )
    titles = [*COLUMNS, "start to first image", "peak, images", "own", "peak, both", "own"]
    print(f"| encoder | way | {' | '.join(titles)} |")
    print("|" + "---|" * (2 + len(titles)))
    for (name, way), runs in found.items():
        print(row(name, way, runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=["ViT-B-32"], metavar="ARCHITECTURE")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.keep is not None:
        compared(arguments.encoders, arguments.keep, arguments.rounds)
        return
    with tempfile.TemporaryDirectory(prefix="gmi-encoding-") as home:
        compared(arguments.encoders, Path(home), arguments.rounds)


if __name__ == "__main__":
    main()
