"""Any number of runs with faults: ``python -m tests.hubs.soak [RUNS] [--from SEED] [--seed SEED]``.

What was done is in the journal, a line a run; killed and started again, it goes on where it was,
and runs again what failed. A journal of other code is begun anew. Progress is on stderr, a summary
on stdout; exit status 1 where a run failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from tests.support.fault_plan import draw
from tests.support.fault_run import Outcome, run
from tests.support.fault_world import World, open_world

__all__ = ["main"]

_TESTS = Path(__file__).parents[1]
_RUNS = 5000
_JOURNAL = _TESTS.parent / "build" / "soak.jsonl"
_REPORTED = 15.0  # seconds between two lines of progress
_STUCK = 900.0  # seconds after which a run shows where it hangs

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    options = _options(arguments)
    seeds = options.seed or range(options.first, options.first + options.runs)
    code = _fingerprint()
    known = {} if options.seed else _read(options.journal, code)
    done = [known[seed] for seed in seeds if seed in known and not known[seed]["failed"]]
    waiting = [seed for seed in seeds if seed not in {row["seed"] for row in done}]
    if done:
        _say(f"{len(done):,} of {len(seeds):,} runs are in {options.journal}; going on")
    options.journal.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="gmi-soak-") as folder,
        open_world(Path(folder)) as world,
        options.journal.open("a", encoding="utf-8") as journal,
    ):
        journal.write("\n")  # the line before may have been cut off
        _write(journal, {"code": code})
        done += _runs(world, waiting, len(done), lambda row: _write(journal, row))
    failed = [row for row in done if row["failed"]]
    _summarise(done, failed)
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s soak --", description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=_RUNS, help="how many (%(default)s)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, action="append", help="this run alone; repeatable")
    parser.add_argument("--journal", type=Path, default=_JOURNAL, help="%(default)s")
    return parser.parse_args(arguments)


def _runs(world: World, seeds: list[int], before: int, note: Callable[[Row], None]) -> list[Row]:
    rows: list[Row] = []
    start = told = time.monotonic()
    for seed in seeds:
        faulthandler.dump_traceback_later(_STUCK, file=sys.__stderr__)
        row = _row(world, seed)
        faulthandler.cancel_dump_traceback_later()
        note(row)
        rows.append(row)
        if row["failed"]:
            _say(f"seed {seed} failed; replay it: nox -s soak -- --seed {seed}\n{row['failed']}")
        now = time.monotonic()
        if now - told >= _REPORTED or len(rows) == len(seeds):
            told = now
            rate = len(rows) / (now - start)
            failed = sum(1 for row in rows if row["failed"])
            _say(
                f"{before + len(rows):,} of {before + len(seeds):,} runs, {failed} failed, "
                f"{rate:.1f} a second, {(len(seeds) - len(rows)) / rate / 60:.0f} minutes left"
            )
    return rows


def _row(world: World, seed: int) -> Row:
    plan = draw(seed)
    try:
        outcome = run(world, plan)
    except Exception:  # of whatever kind: it is the finding, kept with its traceback
        failed = Outcome(seed, plan.stage, "failed", {})
        return {**asdict(failed), "failed": f"{plan}\n{traceback.format_exc()}"}
    return {**asdict(outcome), "failed": None}


def _summarise(rows: list[Row], failed: list[Row]) -> None:
    for stage in ("publish", "search"):
        mine = [row for row in rows if row["stage"] == stage]
        met: Counter[str] = Counter()
        for row in mine:
            met.update(row["met"])
        ends = Counter(row["first"] for row in mine)
        print(f"{stage}: {len(mine):,} runs; the attempt with faults: {_counts(ends)}")
        print(f"  requests that met a fault: {_counts(met)}")
    print(f"failed: {', '.join(str(row['seed']) for row in failed) or 'none'}")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items())) or "none"


def _fingerprint() -> str:
    """Of everything that a run's outcome depends on."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterable[Path]:
    for folder in (_TESTS.parent / "gmi_registry", _TESTS / "loopback", _TESTS / "hubs"):
        yield from sorted(folder.rglob("*.py"))


def _read(journal: Path, code: str) -> dict[int, Row]:
    """The runs of this code by seed; a line that was cut off counts as not written."""
    rows: dict[int, Row] = {}
    lines = journal.read_text("utf-8").splitlines() if journal.exists() else []
    current = None
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        current = row.get("code", current)
        if current == code and "seed" in row:
            rows[row["seed"]] = row
    return rows


def _write(journal: TextIO, row: Row) -> None:
    journal.write(json.dumps(row) + "\n")
    journal.flush()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    logging.disable()  # of what goes wrong on purpose
    sys.exit(main())
