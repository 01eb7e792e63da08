"""``python -m benchmarks.publishing``: images a second, publishing beside the bare loop.

Works take turns, and ratios are of one turn. A ratio by the clock counts whatever else the machine
does; one of processor seconds does not, and knows nothing of work done side by side. Memory is
that of a process that does one work, once, with the pipeline and the encoder loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.publishing.memory import resident
from benchmarks.publishing.work import Cost, Setting, Works

NAMES = ("bare", "encoded", "published")


def works_of(works: Works, names: Sequence[str]) -> Mapping[str, Callable[[], Cost]]:
    return {name: getattr(works, name) for name in names}


def timed(works: Works, names: Sequence[str], rounds: int) -> dict[str, list[Cost]]:
    """``rounds`` turns; what is loaded late is loaded before, by one batch."""
    works.pipeline(["a cat"] * 2, num_inference_steps=1)
    works.encoder.encode_texts(["a cat"])
    found: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, work in works_of(works, names).items():
            found[name].append(work())
            print(f"{name}: {found[name][-1].seconds:.1f} s", file=sys.stderr)
    return found


def ratio(above: Sequence[Cost], below: Sequence[Cost], field: int) -> float:
    return statistics.median(
        one[field] / other[field] for one, other in zip(above, below, strict=True)
    )


def alone(works: Works, name: str) -> None:
    """For a process of its own: one work, and what it took of memory, as JSON."""
    works.pipeline  # noqa: B018  loaded before it counts
    before, _ = resident()
    works_of(works, NAMES)[name]()
    print(json.dumps({"before": before, "peak": resident()[1]}))


def memory(arguments: argparse.Namespace, name: str, prompts: int) -> tuple[float, float]:
    """Megabytes before drawing and at most."""
    command = [sys.executable, "-m", "benchmarks.publishing", "--alone", name]
    for option in ("folder", "side", "batch", "encoder"):
        command += [f"--{option}", str(getattr(arguments, option))]
    command += ["--steps", "1", "--prompts", str(prompts)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["before"], found["peak"]


def show_times(found: Mapping[str, Sequence[Cost]], prompts: int) -> None:
    print("| work | images/s | s an image | processor s an image | ratio | of processor s |")
    print("|---|---|---|---|---|---|")
    for name, costs in found.items():
        seconds = statistics.median(cost.seconds for cost in costs)
        processor = statistics.median(cost.processor for cost in costs)
        cells = [
            f"{prompts / seconds:.3f}",
            f"{seconds / prompts:.3f}",
            f"{processor / prompts:.3f}",
            *(f"{ratio(found[next(iter(found))], costs, field):.3f}" for field in (0, 1)),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def show_memory(arguments: argparse.Namespace) -> None:
    if not arguments.memory:
        return
    print("\n| work | prompts | MB before drawing | MB at most | more |")
    print("|---|---|---|---|---|")
    for name in arguments.works:
        for prompts in arguments.memory:
            before, peak = memory(arguments, name, prompts)
            print(f"| {name} | {prompts} | {before:.0f} | {peak:.0f} | {peak - before:.0f} |")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="of a picture, in pixels")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=55, help="55 or more")
    parser.add_argument("--encoder", default="ViT-B-32", help="an architecture of open_clip")
    parser.add_argument(
        "--works", nargs="+", choices=NAMES, default=NAMES, help="ratios are to the first"
    )
    parser.add_argument("--rounds", type=int, default=3, help="0 measures memory alone")
    parser.add_argument("--memory", type=int, nargs="*", default=[55, 220], help="prompts")
    parser.add_argument("--folder", type=Path, help="keeps the model from one run to the next")
    parser.add_argument("--alone", choices=NAMES, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    setting = Setting(
        arguments.folder,
        arguments.side,
        arguments.steps,
        arguments.batch,
        arguments.prompts,
        arguments.encoder,
    )
    works = Works(setting)
    if arguments.alone is not None:
        alone(works, arguments.alone)
        return
    if arguments.rounds:
        load = os.getloadavg()[0]
        found = timed(works, arguments.works, arguments.rounds)
        print(
            f"{arguments.prompts} prompts, {arguments.side} x {arguments.side}, {arguments.steps} "
            f"steps, {arguments.batch} at a time, {arguments.encoder}; torch {torch.__version__}, "
            f"{torch.get_num_threads()} threads, load before {load:.1f}, after "
            f"{os.getloadavg()[0]:.1f}, {arguments.rounds} rounds\n"
        )
        show_times(found, arguments.prompts)
    show_memory(arguments)


def main() -> None:
    arguments = read_arguments()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        run(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = Path(folder)
        run(arguments)


if __name__ == "__main__":
    main()
