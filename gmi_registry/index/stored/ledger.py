"""The reader's own database: metadata that can be asked, and files that were checked.

It is made on this machine from checked files, and never travels. Everything in it can be made
anew: a database that is damaged, or of another layout, is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.index.standing import Standing
from gmi_registry.index.stored.database import opened
from gmi_registry.index.stored.line import EntryLine
from gmi_registry.index.stored.members import Member, Members
from gmi_registry.index.stored.selection import BASE_WORDS, stored_words
from gmi_registry.spec import ModelRef

__all__ = ["Ledger", "LedgerError"]

_ROW_BITS = 16
_DAY = 24 * 3600.0
_UNUSED = 14 * _DAY
"""Seconds after which what no index asked for goes."""
# So many rows take longer to find than to keep; of questions that are short themselves.
_MANY = 10_000
_SHORT = 1000


class LedgerError(InputError):
    """The database cannot be used. ``damaged``: nor will it ever be."""

    damaged = False


class Ledger:
    """A database in ``directory``, in memory where that is None or nothing can be written there.

    Any number of processes and threads may share it. Rows are known by numbers of its own. Every
    method raises LedgerError for a damaged database or a full disk.
    """

    def __init__(self, directory: str | Path | None) -> None:
        self._lock = threading.RLock()
        self._database = opened(None if directory is None else Path(directory))

    def close(self) -> None:
        """Let the database go."""
        with self._lock:
            self._database.close()

    def part(self, sha256: str, rows: int) -> int | None:
        """The number of a part whose metadata are known, by the digest of its entries."""
        found = self._ask("select id, rows, used from part where sha256 = ?", sha256)
        if not found or found[0][1] != rows:
            return None
        number, _, used = found[0]
        self._note(used, "update part set used = ? where id = ?", number)
        return int(number)

    def add_part(self, sha256: str, lines: Sequence[tuple[EntryLine, bytes]]) -> int:
        """Take in the metadata of a part: each line, and the bytes that it was read from."""
        with self._changing() as database:
            # Another process may have been quicker.
            known = database.execute("select id from part where sha256 = ?", (sha256,)).fetchone()
            if known is not None:
                return int(known[0])
            number = database.execute(
                "insert into part (sha256, rows, used) values (?, ?, ?)",
                (sha256, len(lines), time.time()),
            ).lastrowid
            assert number is not None
            first = number << _ROW_BITS
            database.executemany(
                "insert into row values (?, ?, ?, ?, ?, ?, ?, ?)",
                (_columns(row, *line) for row, line in enumerate(lines, first)),
            )
            # In the table's own order, which is faster.
            words = {
                (word, row)
                for row, (line, _) in enumerate(lines, first)
                for word in stored_words(line.traits)
            }
            database.executemany("insert into tag values (?, ?)", sorted(words))
        return number

    def members(self, digest: str, folder: str) -> Members | None:
        """What ``set_members`` was told of a group of the index with that digest."""
        found = self._ask(
            "select names, numbers, codes, stamps, used from members"
            " where digest = ? and folder = ?",
            digest,
            folder,
        )
        if not found:
            return None
        *columns, used = found[0]
        self._note(
            used, "update members set used = ? where digest = ? and folder = ?", digest, folder
        )
        return Members.from_columns(*columns)

    def set_members(self, digest: str, folder: str, members: Members) -> None:
        """Remember a group's live rows; what has not been asked for in two weeks is forgotten."""
        with self._changing() as database:
            database.execute(
                "insert or replace into members values (?, ?, ?, ?, ?, ?, ?)",
                (digest, folder, *members.to_columns(), time.time()),
            )
            self._forget(database)

    def live(self, number: int, removed: Sequence[int]) -> list[Member]:
        """The rows of a part, less the ``removed``."""
        first = number << _ROW_BITS
        rows = self._ask(
            "select id, line from row where id between ? and ?",
            first,
            first + (1 << _ROW_BITS) - 1,
        )
        gone = {first + row for row in removed}
        return [_member(row, line) for row, line in rows if row not in gone]

    @staticmethod
    def place(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of rows as numbers of parts, and places within these."""
        return rows >> _ROW_BITS, rows & ((1 << _ROW_BITS) - 1)

    def lines(self, rows: Iterable[int]) -> list[bytes]:
        """The metadata of rows as they were written, in the order of ``rows``."""
        wanted = list(rows)
        if len(wanted) == 1:
            return [line for (line,) in self._ask("select line from row where id = ?", *wanted)]
        found = dict(
            self._ask(
                "select id, line from row where id in (select value from json_each(?))",
                json.dumps(wanted),
            )
        )
        return [found[row] for row in wanted]

    def base_models(self) -> set[str]:
        """What base models are called in any index, folded."""
        first, last = BASE_WORDS
        found = self._ask("select distinct tag from tag where tag >= ? and tag < ?", first, last)
        return {word.removeprefix(first) for (word,) in found}

    def downloads(self, rows: Iterable[int]) -> dict[int, int | None]:
        """Download counts of rows."""
        return dict(
            self._ask(
                "select id, downloads from row where id in (select value from json_each(?))",
                json.dumps(list(rows)),
            )
        )

    def numbers(self, question: str, values: Sequence[object]) -> NDArray[np.int64]:
        """The numbers of rows, of any index, that a question of
        :class:`~gmi_registry.index.stored.selection.Selection` gives."""
        asked, parts = json.dumps([question, *values]), self._parts()
        known = self._ask("select numbers, used, parts from answer where asked = ?", asked)
        if known and known[0][2] == parts:
            self._note(known[0][1], "update answer set used = ? where asked = ?", asked)
            return np.frombuffer(known[0][0], np.int64)
        ((found,),) = self._ask(question, *values)
        numbers = np.fromstring(found or "", np.int64, sep=",")
        # What another process takes in meanwhile is in the answer or not; then it is asked again.
        if len(numbers) >= _MANY and len(asked) <= _SHORT and parts == self._parts():
            row = (asked, parts, numbers.tobytes(), time.time())
            self._try("insert or replace into answer values (?, ?, ?, ?)", *row)
        return numbers

    def _parts(self) -> str:
        """The same for the same parts: a number is given once."""
        ((newest, count),) = self._ask("select max(id), count(*) from part")
        return f"{newest} {count}"

    def is_checked(self, file: str, path: Path, status: os.stat_result) -> bool:
        """Whether the file at ``path`` was found to be ``file``, and has not changed since."""
        found = self._ask(
            "select size, modified, used from checked where file = ? and path = ?",
            file,
            os.fspath(path),
        )
        if not found or found[0][:2] != (status.st_size, status.st_mtime_ns):
            return False
        self._note(
            found[0][2],
            "update checked set used = ? where file = ? and path = ?",
            file,
            os.fspath(path),
        )
        return True

    def set_checked(self, file: str, path: Path, status: os.stat_result) -> None:
        """Remember that the file at ``path``, as it is now, is ``file``."""
        with self._changing() as database:
            database.execute(
                "insert or replace into checked values (?, ?, ?, ?, ?)",
                (file, os.fspath(path), status.st_size, status.st_mtime_ns, time.time()),
            )

    def _ask(self, question: str, *values: object) -> list[Any]:
        with self._lock, _explained():
            return self._database.execute(question, values).fetchall()

    def _note(self, used: float, change: str, *values: object) -> None:
        # Not at every use, since to write takes longer than to read; and without it all works.
        if time.time() - used > _DAY:
            self._try(change, time.time(), *values)

    def _try(self, change: str, *values: object) -> None:
        """Write what can be done without, unless another process writes."""
        with self._lock, contextlib.suppress(LedgerError), _explained():
            if self._database.in_transaction:
                self._database.execute(change, values)
                return
            patience = self._database.execute("pragma busy_timeout").fetchone()[0]
            self._database.execute("pragma busy_timeout = 0")
            try:
                with self._database as database:
                    database.execute("begin immediate")
                    database.execute(change, values)
            finally:
                self._database.execute(f"pragma busy_timeout = {int(patience)}")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written meanwhile reaches the disk at once, or not at all: a part at a time
        would wait for the disk each time."""
        with self._changing():
            yield

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained():
            if self._database.in_transaction:
                yield self._database
                return
            with self._database as database:
                database.execute("begin immediate")
                yield database

    @staticmethod
    def _forget(database: sqlite3.Connection) -> None:
        before = time.time() - _UNUSED
        old = database.execute("select id from part where used < ?", (before,)).fetchall()
        for (number,) in old:
            span = (number << _ROW_BITS, ((number + 1) << _ROW_BITS) - 1)
            database.execute("delete from tag where row between ? and ?", span)
            database.execute("delete from row where id between ? and ?", span)
            database.execute("delete from part where id = ?", (number,))
        for table in ("members", "checked", "answer"):
            database.execute(f"delete from {table} where used < ?", (before,))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        refusal = LedgerError(
            f"the index's database in the cache cannot be used: {error}",
            hint="delete the folder of the cache, or name another with --cache-dir",
        )
        # What is full, locked or read-only is told by the other class.
        refusal.damaged = not isinstance(error, sqlite3.OperationalError)
        raise refusal from error


def _columns(row: int, line: EntryLine, data: bytes) -> tuple[object, ...]:
    ref = ModelRef.parse(line.model)
    return (
        row,
        str(ref.identity),
        ref.hub,
        line.kind,
        int(line.nsfw),
        line.downloads,
        int(line.stale or False),
        data,
    )


def _member(row: int, data: bytes) -> Member:
    # Checked before it came into the database.
    line = json.loads(data)
    standing = Standing(line.get("stale"), line.get("trust"), line.get("stamp"))
    return Member(line["model"], row, standing)
