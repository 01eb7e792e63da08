"""Which engine should hold thousands of specifications, measured on the work of a search.

    python benchmarks/index_engines.py [--models 1000,10000] [--engines lancedb,sqlite] [--runs 3]
                                       [--scratch DIR] [--json FILE] [--hub]

Specifications are synthetic: 55 images in 768 dimensions, float16, the sum of content, style and
rest with the variances and power-law spectra of the zoo's, styles in families, and metadata as an
entry of the index has it. All engines hold the same rows, the arithmetic after reading is the same
code, and every ranking is checked against the source arrays. A figure is the median over processes
of their own, the page cache warm, after one that does not count. The shared prompt embeddings, the
pooled scatter (as the inverse that whitens) and its norm of every mean lie beside every engine
alike. ``--hub`` also opens each index, at the first size, in a dataset of a loopback hub.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from engines import ENGINES
from engines.operation import CHOSEN, child, paper_distances, top
from engines.source import ADDED, ARRAYS, RARE, ROUNDS, make_source
from engines.table import markdown, weight_of

SECONDS, MEMORY = 240, 12 << 30  # that one operation may take


def ask(
    name: str,
    work: str,
    folder: Any,
    source: Path,
    start: int = 0,
    stop: int = 0,
    **environment: str,
) -> dict[str, Any]:
    """What a child measured; ``failed`` says why it did not."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    words = [
        sys.executable,
        __file__,
        "child",
        name,
        work,
        str(folder),
        str(source),
        str(start),
        str(stop),
    ]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=os.environ | environment,
            preexec_fn=bound,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"over {SECONDS} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]
        return {"failed": f"over {MEMORY >> 30} GiB" if "MemoryError" in last else last}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {str(it.relative_to(folder)): it.stat() for it in folder.rglob("*") if it.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def measure(name: str, source: Path, folder: Path, models: int, runs: int) -> dict[str, Any]:
    folder.mkdir()
    built = ask(name, "build", folder, source, 0, models)
    out: dict[str, Any] = {"engine": name, "models": models, "build": built, "runs": {}}
    if "failed" in built:
        return out
    out["disk"] = sum(size for size, _ in files_of(folder).values())
    works = ["default", "filtered", "paper", "fetch"]
    if "index.sqlite" in ENGINES[name].local:
        works.insert(0, "compile")
    for work in works:
        done = []
        for _ in range(1 + runs):
            if work == "compile":
                (folder / "index.sqlite").unlink()
            done.append(ask(name, work, folder, source))
            if "failed" in done[-1]:
                return out | {"failed": f"{work}: {done[-1]['failed']}"}
        out["runs"][work] = done[1:]
    added, sent, kept = [], [], []
    for start in range(models, models + ROUNDS * ADDED, ADDED):
        before = files_of(folder)
        added.append(ask(name, "add", folder, source, start, start + ADDED))
        new = {it: facts for it, facts in files_of(folder).items() if before.get(it) != facts}
        sent.append(sum(size for it, (size, _) in new.items() if it not in ENGINES[name].local))
        kept.append(sum(size for size, _ in new.values()))
    out["runs"]["add"] = added
    out |= {"sent": statistics.median(sent), "written": statistics.median(kept)}
    out["after"] = ask(name, "default", folder, source)
    return out


def agree(results: list[dict[str, Any]], source: Path, models: int) -> None:
    """Raises SystemExit where an engine's ranking is not that of the source arrays."""
    query, beside = dict(np.load(source / "query.npz")), dict(np.load(source / "beside.npz"))
    entries = json.loads((source / "entries.json").read_text())
    given = {it: np.load(source / f"{it}.npy", mmap_mode="r")[:models] for it in ARRAYS}
    every = np.arange(models)
    rare = np.array([row for row in every if RARE in entries[row]["tags"]])
    offset = given["mean"] - query["image"]
    plain = np.einsum("md,md->m", offset @ beside["whitener"], offset)
    wanted = {
        "default": top(every, plain),
        "filtered": top(rare, plain[rare]),
        "paper": top(every, paper_distances(query, given | {"row": every})),
    }
    total = float(given["images"][CHOSEN].sum(dtype=float))
    for result in results:
        for work, runs in result["runs"].items():
            for run in runs:
                if "best" in run and run["best"] != wanted[work]:
                    raise SystemExit(
                        f"{result['engine']}: {work} found {run['best']}, not {wanted[work]}"
                    )
                if "refs" in run and run["refs"] != [entries[row]["ref"] for row in run["best"]]:
                    raise SystemExit(f"{result['engine']}: the models of other rows")
                if "sum" in run and not np.isclose(run["sum"], total):
                    raise SystemExit(f"{result['engine']}: fetched other embeddings")


def remote(name: str, source: Path, folder: Path) -> dict[str, Any]:
    """The filtered search of an index on a hub, by what the engine has for it, with nothing cached.

    LanceDB reads ``hf://`` itself, Parquet is read through HfFileSystem; of the others the client
    downloads all files but those with images and Gram matrices, of Qdrant's all.
    """
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support.loopback import LoopbackHub, reading
    from tests.support.loopback.fixtures import client_environment

    served: list[int] = []
    plain = reading.serve

    def counted(*asked: Any) -> Any:
        reply = plain(*asked)
        served.append(len(reply.body))
        return reply

    reading.serve = counted
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as home:
        files = {
            it: (folder / it).read_bytes()
            for it in files_of(folder)
            if it not in ENGINES[name].local
        }
        hub.add_repo("owner/registry", files=files, repo_type="dataset")
        environment = client_environment(hub.endpoint, Path(home))
        done = ask(name, "filtered", "hf://datasets/owner/registry", source, **environment)
        assert not hub.failures, hub.failures[0]
        facts = {
            "requests": len(hub.requests),
            "served": sum(served),
            "whole": sum(map(len, files.values())),
        }
    reading.serve = plain
    return done | facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", default="1000,10000")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hub", action="store_true")
    options = parser.parse_args()
    everything: list[dict[str, Any]] = []
    for models in map(int, options.models.split(",")):
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            source = Path(scratch) / "source"
            source.mkdir()
            make_source(source, models + ROUNDS * ADDED)
            results = []
            for name in options.engines.split(","):
                folder = Path(scratch) / "index"
                found = measure(name, source, folder, models, options.runs)
                found["installs"] = weight_of(ENGINES[name].packages)
                if options.hub and not everything and "sent" in found:
                    found["hub"] = remote(name, source, folder)
                shutil.rmtree(folder)
                results.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
            agree(results, source, models)
        everything += results
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    print(markdown(everything))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:5], Path(sys.argv[5]), *map(int, sys.argv[6:8]))
    else:
        main()
