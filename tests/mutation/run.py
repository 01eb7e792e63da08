"""Which of the defects in ``defects.toml`` the tests find: ``python tests/mutation/run.py``.

``--only M03,M07`` tries some, ``--tests AREA=PATH,PATH`` other tests, ``--checkout DIR`` another
checkout; ``--check`` only looks whether every line is there. The tracked files are copied, and the
copy is changed, one defect at a time. Results are in ``--out``, written after each; killed and
started again, it goes on where it was, and runs again what was an error. Results of other code are
begun anew. Exit status 1 where a line must be mended, or where a run was an error.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copy2
from typing import Any, Literal

__all__ = ["main"]

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_PACKAGE = "gmi_registry"
_AREAS = {
    "scoring": ("tests/scoring", "tests/index"),
    "spec": ("tests/spec", "tests/conformance"),
    "index": ("tests/index", "tests/index_stored", "tests/index_served", "tests/scoring"),
    "hubs": ("tests/hubs", "tests/civitai", "tests/registry"),
}
"""Where the tests of an area are; what is not there is left out."""
_REST = ("tests/test_*.py", "tests/cli", "tests/report", "tests/regeneration", "tests/bench")
"""What is tried where those find nothing."""
_LONGEST = 600.0  # seconds of one run of pytest
_FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+\.py[^\s\[]*)", re.MULTILINE)
"""A test without its parameters, or a file that cannot be imported."""

Status = Literal["found", "not found", "timeout", "error"]


@dataclass(frozen=True)
class Defect:
    """``old``, a part of one line of the package, becomes ``new``; ``tests`` are tried first."""

    id: str
    area: str
    where: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """``by`` is the first test that failed, or what an error says. ``whole``: whether the rest was
    tried as well where the area's tests found nothing. ``seconds`` are all that were spent."""

    id: str
    area: str
    status: Status
    seconds: float
    by: str
    whole: bool
    old: str
    new: str


class _RunError(Exception):
    """The tests could not be run."""


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    options = _options(arguments)
    # Or the copy, and a pytest that is running, would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    defects = _chosen(_read_defects(), options.only)
    areas = _AREAS | dict(options.tests)
    with tempfile.TemporaryDirectory(prefix="gmi-mutation-") as folder:
        copy = Path(folder).resolve() / "checkout"
        _copy(options.checkout.resolve(), copy)
        if not _are_there(copy, defects):
            return 1
        if options.check:
            return 0
        _require_own_package(copy)
        code = _fingerprint(copy)
        results = _known(options.out, code, defects)
        if results:
            print(f"{len(results)} of {len(defects)} are in {options.out}; going on", flush=True)
        trial = _Trial(copy)

        def keep(defect: Defect, result: Result) -> None:
            before = results.get(defect.id)
            spent = result.seconds + (0 if before is None else before.seconds)
            results[defect.id] = result = replace(result, seconds=round(spent, 1))
            print(f"{result.id} {result.status} {spent:.0f} s {result.by}", flush=True)
            _write(options.out, code, results.values())

        for defect in defects:
            if defect.id not in results:
                wanted = (*defect.tests, *areas[defect.area])
                keep(defect, trial.of([defect], wanted, whole=False)[0])
        # The rest takes long, and most of what got so far is found by nothing: where all of it
        # together passes each part does, and else it is parted until the one that fails is alone.
        waiting = [[it for it in defects if _needs_rest(results[it.id])]]
        while waiting:
            group = waiting.pop()
            found = trial.of(group, _REST, whole=True) if group else []
            if len(group) > 1 and found[0].status != "not found":
                half = len(group) // 2
                waiting += [group[half:], group[:half]]
                continue
            for defect, result in zip(group, found, strict=True):
                keep(defect, result)
    return _summary(defects, results)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="M03,M07")
    parser.add_argument(
        "--tests", type=_area_tests, action="append", default=[], metavar="AREA=PATH,PATH"
    )
    parser.add_argument("--checkout", type=Path, default=_ROOT, metavar="DIR")
    parser.add_argument(
        "--out", type=Path, default=_ROOT / "build" / "mutation.json", metavar="FILE.json"
    )
    parser.add_argument("--check", action="store_true")
    return parser.parse_args(arguments)


def _area_tests(text: str) -> tuple[str, tuple[str, ...]]:
    area, equals, paths = text.partition("=")
    if area not in _AREAS or not equals:
        raise argparse.ArgumentTypeError(f"write one of {', '.join(_AREAS)}, =, and paths")
    return area, tuple(path for path in paths.split(",") if path)


def _read_defects() -> list[Defect]:
    document = tomllib.loads((_HERE / "defects.toml").read_text(encoding="utf-8"))
    defects = [Defect(**row | {"tests": tuple(row.get("tests", ()))}) for row in document["defect"]]
    if len({defect.id for defect in defects}) != len(defects):
        raise SystemExit("defects.toml: an id stands twice")
    if not all(defect.area in _AREAS and defect.old != defect.new for defect in defects):
        raise SystemExit("defects.toml: an area is unknown, or a defect changes nothing")
    return defects


def _chosen(defects: list[Defect], only: Sequence[str] | None) -> list[Defect]:
    if only is None:
        return defects
    unknown = set(only) - {defect.id for defect in defects}
    if unknown:
        raise SystemExit(f"no defects: {', '.join(sorted(unknown))}")
    return [defect for defect in defects if defect.id in only]


def _copy(checkout: Path, copy: Path) -> None:
    """The tracked files as they are in the checkout, and the ones that it shares."""
    listed = subprocess.run(
        ["git", "-C", str(checkout), "ls-files", "-z"], check=True, capture_output=True
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        source, target = checkout / name, copy / name
        if source.is_dir() and not source.is_symlink():
            continue  # another repository
        if not os.path.lexists(source):
            continue  # removed, and not yet committed
        target.parent.mkdir(parents=True, exist_ok=True)
        copy2(source, target, follow_symlinks=False)
    # Tests may ask git what is tracked.
    for command in (["init", "-q"], ["add", "-A", "-f"]):
        subprocess.run(["git", "-C", str(copy), *command], check=True, capture_output=True)


def _sources(copy: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted((copy / _PACKAGE).rglob("*.py")):
        yield path, path.read_bytes().decode("utf-8")


def _are_there(copy: Path, defects: Sequence[Defect]) -> bool:
    """Whether the line of every defect is there once; says which is not."""
    sources = list(_sources(copy))
    wrong = 0
    for defect in defects:
        places = [
            f"{path.relative_to(copy)}:{number}"
            for path, text in sources
            for number, line in enumerate(text.split("\n"), 1)
            for _ in range(line.count(defect.old))
        ]
        if len(places) != 1:
            wrong += 1
            print(f"{defect.id} ({defect.where}) is there {len(places)} times: {defect.old}")
            for place in places[:5]:
                print(f"    {place}")
    if wrong:
        print(f"{wrong} of {len(defects)} must be mended by hand in {_HERE / 'defects.toml'},")
        print("or left out by --only")
    else:
        print(f"all {len(defects)} lines are there once")
    return not wrong


def _environment(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy)}


def _require_own_package(copy: Path) -> None:
    """The package that is tested is the copy's, also where another is installed."""
    program = f"import {_PACKAGE}; print({_PACKAGE}.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=copy / "tests",
        env=_environment(copy),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert Path(found).resolve().is_relative_to(copy), f"{found} would be tested, and not {copy}"


def _fingerprint(copy: Path) -> str:
    """Of all that results depend on but the defects."""
    found = hashlib.sha256()
    for path in sorted((*(copy / _PACKAGE).rglob("*"), *(copy / "tests").rglob("*"))):
        if path.is_file() and path.parent != copy / "tests" / "mutation":
            found.update(f"{path.relative_to(copy)}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _needs_rest(result: Result) -> bool:
    return result.status == "not found" and not result.whole


class _Trial:
    """Runs of the tests in a copy. A test that fails without a defect too, or at one time and not
    at another, tells nothing, and is left out from then on."""

    def __init__(self, copy: Path) -> None:
        self._copy = copy
        self._sound: dict[str, bool] = {}

    def of(self, defects: Sequence[Defect], wanted: Sequence[str], *, whole: bool) -> list[Result]:
        """What the tests ``wanted`` say of defects that are there together."""
        began = time.monotonic()
        status, by = self._said(defects, wanted)
        seconds = round(time.monotonic() - began, 1)
        return [
            Result(it.id, it.area, status, seconds, by, whole, it.old, it.new) for it in defects
        ]

    def _said(self, defects: Sequence[Defect], wanted: Sequence[str]) -> tuple[Status, str]:
        try:
            while True:
                with self._changed(defects):
                    failed = self._first_failure(wanted)
                    if failed is None:
                        return "not found", ""
                    again = self._pytest([failed]) is not None
                if self._sound.get(failed) is False:
                    return "error", f"{failed} fails without the defect too"
                if failed not in self._sound:
                    self._sound[failed] = again and self._pytest([failed]) is None
                if self._sound[failed]:
                    return "found", failed
                print(f"{failed} tells nothing, and is left out", flush=True)
        except subprocess.TimeoutExpired as error:
            return "timeout", f"after {error.timeout:.0f} s"
        except _RunError as error:
            return "error", str(error)

    @contextlib.contextmanager
    def _changed(self, defects: Sequence[Defect]) -> Iterator[None]:
        before: dict[Path, str] = {}
        try:
            for defect in defects:
                found = ((path, text) for path, text in _sources(self._copy) if defect.old in text)
                path, text = next(found)
                before.setdefault(path, text)
                _put(path, text.replace(defect.old, defect.new))
            yield
        finally:
            for path, text in before.items():
                _put(path, text)

    def _first_failure(self, wanted: Sequence[str]) -> str | None:
        """The first test that fails of those ``wanted``, in their order."""
        done: list[str] = []
        # One after the other, so that a run that takes long is one that hangs.
        for pattern in wanted:
            found = (path.relative_to(self._copy).as_posix() for path in self._copy.glob(pattern))
            paths = [path for path in sorted(found) if path not in done]
            if not paths:
                continue
            failed = self._pytest(paths, ignored=done)
            if failed is not None:
                return failed
            done += paths
        return None

    def _pytest(self, paths: Sequence[str], *, ignored: Sequence[str] = ()) -> str | None:
        """The first test that fails, None where all pass.

        Raises TimeoutExpired, and _RunError where pytest says neither.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-rfE"]
        command += [f"--ignore={path}" for path in ignored]
        unsound = [name for name, is_sound in self._sound.items() if not is_sound]
        command += [f"--deselect={name}" for name in unsound if name not in paths]
        with subprocess.Popen(
            [*command, *paths],
            cwd=self._copy,
            env=_environment(self._copy),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=_LONGEST)
            except BaseException:
                # Tests start processes of their own.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        if process.returncode == 0:
            return None
        if process.returncode not in (1, 2):
            raise _RunError(f"pytest ended with {process.returncode}: {said[-2000:]}")
        found = _FAILED.search(said)
        if found is None:
            raise _RunError(f"pytest failed and names no test: {said[-2000:]}")
        return found[1]


def _put(path: Path, text: str) -> None:
    """Write a source, always with a later time than before, by which its compiled form is told."""
    later = int(path.stat().st_mtime) + 10
    path.write_bytes(text.encode("utf-8"))
    os.utime(path, (later, later))


def _known(out: Path, code: str, defects: Sequence[Defect]) -> dict[str, Result]:
    """Results of the same code and the same defects that need not be had again."""
    try:
        document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if document["code"] != code:
        return {}
    wanted = {(defect.id, defect.old, defect.new) for defect in defects}
    found = [Result(**row) for row in document["results"]]
    return {it.id: it for it in found if (it.id, it.old, it.new) in wanted and it.status != "error"}


def _write(out: Path, code: str, results: Iterable[Result]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"code": code, "results": [asdict(result) for result in results]}
    scratch = out.with_suffix(".part")
    scratch.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    scratch.replace(out)


def _summary(defects: Sequence[Defect], results: Mapping[str, Result]) -> int:
    where = {defect.id: defect.where for defect in defects}
    statuses: tuple[Status, ...] = ("found", "not found", "timeout", "error")
    print()
    for result in sorted(results.values(), key=lambda it: it.id):
        print(f"{result.id}  {result.status:9}  {result.seconds:7.1f} s  {where[result.id]}")
    print(f"\n{'area':8}" + "".join(f"{status:>11}" for status in statuses))
    for area in _AREAS:
        own = [result.status for result in results.values() if result.area == area]
        if own:
            print(f"{area:8}" + "".join(f"{own.count(status):11}" for status in statuses))
    every = [result.status for result in results.values()]
    print(f"{'all':8}" + "".join(f"{every.count(status):11}" for status in statuses))
    return 1 if "error" in every else 0


if __name__ == "__main__":
    sys.exit(main())
