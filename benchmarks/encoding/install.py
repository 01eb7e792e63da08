"""``python -m benchmarks.encoding.install``: what an install without extras weighs, and its start.

Into a fresh virtual environment, which is deleted afterwards; packages come from wherever pip takes
them. pip itself, which every environment has, is not counted.
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
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LISTING = """
import importlib.metadata, json
found = []
for package in importlib.metadata.distributions():
    sizes = {True: 0, False: 0}
    for file in package.files or ():
        path = file.locate()
        if path.is_file():
            sizes[path.suffix == ".pyc"] += path.stat().st_size
    found.append((package.name, package.version, sizes[False], sizes[True]))
print(json.dumps(found))
"""
_OWN = {"pip", "setuptools", "wheel"}


@dataclass(frozen=True)
class Package:
    """Bytes of its files, of the byte code that pip made of them, and of what was downloaded."""

    name: str
    version: str
    files: int
    compiled: int
    downloaded: int


def installed(tree: Path, home: Path) -> list[Package]:
    """The largest first."""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    report = home / "report.json"
    python = str(home / "bin" / "python")
    command = [python, "-m", "pip", "install", "-q", "--report", str(report), str(tree)]
    subprocess.run(command, check=True)
    listed = subprocess.run([python, "-c", _LISTING], check=True, stdout=subprocess.PIPE).stdout
    sources = json.loads(report.read_bytes())["install"]
    downloads = {_plain(it["metadata"]["name"]): _size(it) for it in sources}
    found = [
        Package(name, version, files, compiled, downloads.get(_plain(name), 0))
        for name, version, files, compiled in json.loads(listed)
        if name not in _OWN
    ]
    return sorted(found, key=lambda it: -it.files - it.compiled)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _size(source: dict[str, Any]) -> int:
    address = source["download_info"]["url"]
    place = urllib.parse.urlparse(address)
    if place.scheme == "file":
        path = Path(urllib.parse.unquote(place.path))
        return path.stat().st_size if path.is_file() else 0
    with urllib.request.urlopen(urllib.request.Request(address, method="HEAD")) as answer:
        return int(answer.headers["Content-Length"])


def start(home: Path, runs: int = 10) -> tuple[list[float], float]:
    """Seconds of ``gmi --help``, each in a process of its own, after one that does not count.

    And the processor's seconds of one of them, which grow less where other work is done.
    """
    command = [str(home / "bin" / "gmi"), "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found, before = [], os.times()
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    after = os.times()
    used = after.children_user + after.children_system
    return found, (used - before.children_user - before.children_system) / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", nargs="?", type=Path, default=Path(), help="a checkout")
    tree = parser.parse_args().tree.absolute()
    with tempfile.TemporaryDirectory(prefix="gmi-install-") as scratch:
        home = Path(scratch) / "venv"
        packages = installed(tree, home)
        print("| package | installed MB | without byte code | downloaded |\n|---|---|---|---|")
        for package in packages[:12]:
            _row(f"{package.name} {package.version}", [package])
        _row(f"all {len(packages)}", packages)
        took, used = start(home)
    print(
        f"\ngmi --help: median of {len(took)} {statistics.median(took):.2f} s, least "
        f"{min(took):.2f}, most {max(took):.2f}; {used:.2f} s of the processor; load "
        f"{os.getloadavg()[0]:.1f}"
    )


def _row(title: str, packages: list[Package]) -> None:
    files = sum(package.files for package in packages)
    whole = files + sum(package.compiled for package in packages)
    downloaded = sum(package.downloaded for package in packages)
    print(f"| {title} | {whole / 1e6:.1f} | {files / 1e6:.1f} | {downloaded / 1e6:.1f} |")


if __name__ == "__main__":
    main()
