"""The file of the reader's database, and its tables."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
from pathlib import Path

from gmi_registry.index.eviction import StoredFile

__all__ = [
    "DAMAGE",
    "PATIENCE",
    "database_path",
    "discard",
    "is_damage",
    "is_replaced",
    "kept_database",
    "opened",
]

# Part of the name: a program that stores something else stores it elsewhere.
_NAME = "stored-index-v2.sqlite"
# What earlier versions of this program left.
_EARLIER = ("stored-index-v1.sqlite",)
DAMAGE = (sqlite3.Error, UnicodeError, OverflowError, MemoryError, ValueError, TypeError)
"""What reading a damaged file runs into: SQLite's complaints, which may quote anything, and those
of Python about what it read."""
_TRIES = 4
PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

_SCHEMA = """
pragma cell_size_check = on;
create table if not exists entry (
    owner text not null, place integer not null, seal blob not null, value blob not null,
    primary key (owner, place)
);
create table if not exists use (owner text primary key, used real not null) without rowid;
create table if not exists checked (mark text primary key, used real not null) without rowid;
"""

# Of SQLite's result codes those that say nothing of the file's content. Where the system cannot
# read the file (SQLITE_IOERR), its place on the disk is done with, as if it were damaged.
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}

_log = logging.getLogger(__name__)


def opened(directory: Path | None) -> tuple[sqlite3.Connection, os.stat_result | None]:
    """The database in ``directory``, made where it is missing or damaged, and which file it is.

    In memory, without a file, where that is None, or cannot be written, of which a warning is
    logged.
    """
    if directory is not None:
        path = directory / _NAME
        for _ in range(_TRIES):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                database = _connected(path)
            except (OSError, *DAMAGE) as error:
                if is_replaced(error):
                    continue
                if not is_damage(error, path):
                    _log.warning("cannot write the cache %s: %s", directory, error)
                    break
                _log.debug("%s is damaged and will be made again: %s", path, error)
                discard(directory)
                continue
            for name in _EARLIER:
                with contextlib.suppress(OSError):
                    (directory / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                return database, path.stat()
            return database, None
    return _connected(":memory:"), None


def is_damage(error: BaseException, path: Path | None) -> bool:
    """Whether an error of SQLite, or of what reads its answers, says that the file at ``path`` is
    not what was written to it."""
    if isinstance(error, OSError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_READONLY:
        # Its header may say so, where the system does not.
        return path is not None and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return code is None or (code & 0xFF) not in _PASSING


def is_replaced(error: BaseException) -> bool:
    """Whether an error of SQLite says that another process deleted the file, or made it anew."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED


def discard(directory: Path, file: os.stat_result | None = None) -> None:
    """Delete the database in ``directory``, if that is possible; nothing in it is lost for good.

    With ``file`` only where it is still that one: another process may have made it anew.
    """
    path = directory / _NAME
    if file is not None:
        try:
            if not os.path.samestat(path.stat(), file):
                return
        except OSError:
            return
    for left in (path, *(path.with_name(f"{_NAME}{it}") for it in ("-journal", "-wal", "-shm"))):
        with contextlib.suppress(OSError):
            left.unlink(missing_ok=True)


def database_path(directory: Path) -> Path:
    """Where ``opened`` keeps the database; it need not be there."""
    return directory / _NAME


def kept_database(path: Path) -> StoredFile | None:
    """The database at ``path``, where there is one, its journal counted with it.

    It is deleted only while no process writes into it. One that has it open goes on with what it
    read, and does without it where it would write.
    """
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    size = status.st_size
    with contextlib.suppress(OSError):
        size += path.with_name(f"{path.name}-journal").lstat().st_size
    return StoredFile(path, size, status.st_mtime, delete=_deleted)


def _deleted(path: Path) -> bool:
    # Closed only when it is gone, so that nobody begins to write into a file without a name.
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
        try:
            database.execute("begin exclusive")
        except DAMAGE as error:
            if not is_damage(error, path):
                _log.debug("%s is in use, and stays: %s", path, error)
                return False
            _log.debug("%s is damaged, and in nobody's use: %s", path, error)
        discard(path.parent)
    return not path.exists()


def _connected(path: Path | str) -> sqlite3.Connection:
    # The ledger has a lock, so threads may share the connection; it says where changes begin.
    database = sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
