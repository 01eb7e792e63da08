"""``python -m benchmarks.scale --models M --folder DIR``: an index of M models, made and asked.

With ``--images`` it is as ``gmi index build`` writes it, 96 kB a model; without, images and Gram
matrices are left out, and only the default score without a prompt is asked for, which reads
neither. ``--measure NPZ`` prints the spectrum of a benchmark's specifications instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.scale.ask import QUESTIONS, memory, operation
from benchmarks.scale.build import whole, without_images
from benchmarks.scale.hub import SHARES, MadeHub
from benchmarks.scale.spectrum import ICONS, Spectrum
from benchmarks.speed.blas import add_kernels, settle_blas
from benchmarks.speed.record import Row, machine, written
from gmi_registry.scoring.kernels import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100_000, help="thousands of them")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--child")
    add_kernels(parser)
    arguments = parser.parse_args()
    settle_blas(arguments.kernels, cores())
    if arguments.measure:
        print(Spectrum.measured(arguments.measure))
        return
    if arguments.folder is None or arguments.models % 1000:
        parser.error("give --folder DIR, and --models in whole thousands")
    folder = arguments.folder
    if arguments.child:
        found = operation(arguments.child, folder, arguments.queries)
        print(json.dumps(found | memory()))
        return
    if not (folder / "index" / "index.json").exists():
        began = time.perf_counter()
        make = whole if arguments.images else without_images
        make(folder / "index", arguments.models, MadeHub(ICONS))
        print(f"made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    works = ["prepare", "open", "truth", "default", *SHARES]
    works += QUESTIONS if arguments.images else ()
    results = {}
    for work in arguments.only or works:
        words = [sys.executable, "-m", "benchmarks.scale", "--child", work]
        words += ["--folder", str(folder), "--queries", str(arguments.queries)]
        words += ["--kernels", arguments.kernels] if arguments.kernels else []
        load = os.getloadavg()[0]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
        results[work] = json.loads(done.stdout)
        told = ", ".join(f"{name} {_short(value)}" for name, value in results[work].items())
        print(f"{work}: {told} (load {load:.1f})", flush=True)
    for part in ("index", "cache"):
        files = [path for path in (folder / part).rglob("*") if path.is_file()]
        print(f"{part}: {sum(path.stat().st_size for path in files) / 1e9:.2f} GB")
    rows = [
        Row(name, arguments.models, *value)
        for found in results.values()
        for name, value in found.items()
        if isinstance(value, list)
    ]
    written(folder / "rows.json", rows, machine=machine(["numpy"], {}))


def _short(value: float | list[float]) -> str:
    numbers = value if isinstance(value, list) else [value]
    return " / ".join(f"{number:.4g}" for number in numbers)


if __name__ == "__main__":
    main()
