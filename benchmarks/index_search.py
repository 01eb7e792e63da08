"""What a search by the registry's index costs: requests, bytes and seconds, cold and warm.

    python benchmarks/index_search.py [--models 10000]

A loopback hub (``tests/loopback``) holds an index of specifications of 55 images in 768 dimensions.
Each search is a process of its own: cold with an empty cache, then warm, then for a tag that one
model in a hundred has, then after 100 models joined, and offline. ``seconds`` are those of the
whole search without the import of this package, ``open`` and ``rank`` its stages. The encoder only
stands for one, so that the index alone is measured; the hub is on this machine, so that requests
are nearly free.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.stored_index import ADDED, ENCODER, RARE, Source  # noqa: E402
from gmi_registry.index.stored import DOCUMENT_NAME, IndexDocument, update_index  # noqa: E402
from tests.support.loopback import LoopbackHub  # noqa: E402
from tests.support.loopback.fixtures import client_environment  # noqa: E402

REGISTRY = "gmi-registry/specs"
SEARCHES = (("cold", {}), ("warm", {}), ("tag", {"tags": [RARE]}))


class StandIn:
    """Gives one embedding to every picture; nothing is asked in words."""

    ref = ENCODER

    def encode_images(self, images):
        row = Source().query().image_embeddings
        return np.repeat(row, len(images), axis=0).astype(np.float32)


def put(hub: LoopbackHub, folder: Path) -> None:
    """Make the registry's index folder what ``folder`` holds."""
    document = IndexDocument.from_bytes((folder / DOCUMENT_NAME).read_bytes())
    wanted = {f"index/v1/{name}": folder / name for name in (DOCUMENT_NAME, *document.files)}
    there = hub.files(REGISTRY, repo_type="dataset")
    gone = {path: None for path in there if path.startswith("index/") and path not in wanted}
    new = {path: place.read_bytes() for path, place in wanted.items()}
    hub.commit(REGISTRY, gone | new, repo_type="dataset")


def one(what: str, cache: Path, options: dict[str, object]) -> None:
    """A search in this process; prints what it took."""
    import gmi_registry

    start = time.perf_counter()
    result = gmi_registry.search(
        Image.new("RGB", (8, 8)), "hf", encoder=StandIn(), cache_dir=cache, **options
    )
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert result.index is not None
    assert result.hits
    row = {
        "search": what,
        "models": result.looked_at,
        "matched": result.matched,
        "requests": sum((result.requests or {}).values()),
        "seconds": round(seconds, 3),
        "open": round(result.timings.list, 3),
        "rank": round(result.timings.rank, 3),
        "cache MB": round(size / 1e6, 1),
    }
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        what, cache, options = chosen.one
        one(what, Path(cache), json.loads(options))
        return
    with tempfile.TemporaryDirectory() as scratch, LoopbackHub() as hub:
        folder, cache = Path(scratch) / "index", Path(scratch) / "cache"
        hub.add_repo(REGISTRY, {"README.md": b"# Specifications\n"}, repo_type="dataset")
        source = Source()
        update_index(folder, source.rows(0, chosen.models))
        put(hub, folder)
        environment = os.environ | client_environment(hub.endpoint, Path(scratch) / "home")
        environment["GMI_REGISTRY"] = REGISTRY

        def search(what: str, options: dict[str, object]) -> None:
            given = ["--one", what, str(cache), json.dumps(options)]
            subprocess.run([sys.executable, __file__, *given], env=environment, check=True)

        for what, options in SEARCHES:
            search(what, options)
        update_index(folder, source.rows(chosen.models, chosen.models + ADDED))
        put(hub, folder)
        search("after 100 joined", {})
        search("offline", {"offline": True})


if __name__ == "__main__":
    main()
