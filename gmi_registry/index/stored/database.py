"""The file of the reader's database, and its tables."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import stat
from pathlib import Path

from gmi_registry.index.eviction import StoredFile

__all__ = ["database_path", "discard", "kept_database", "opened"]

# Part of the name: a program that stores something else stores it elsewhere.
_NAME = "stored-index-v2.sqlite"
_PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

_SCHEMA = """
create table if not exists part (
    id integer primary key autoincrement, sha256 text not null unique, rows integer not null,
    used real not null
);
create table if not exists row (
    id integer primary key, identity text not null, hub text not null, kind text not null,
    nsfw integer not null, downloads integer, stale integer not null,
    line blob not null
);
create index if not exists row_identity on row (identity);
create index if not exists row_kind on row (kind);
create index if not exists row_stale on row (id) where stale <> 0;
create index if not exists row_nsfw on row (hub) where nsfw <> 0;
create table if not exists tag (
    tag text not null, row integer not null, primary key (tag, row)
) without rowid;
create index if not exists tag_row on tag (row);
create table if not exists members (
    digest text not null, folder text not null, names text not null, numbers blob not null,
    codes blob not null, stamps text not null, used real not null,
    primary key (digest, folder)
);
create table if not exists checked (
    file text not null, path text not null, size integer not null, modified integer not null,
    used real not null, primary key (file, path)
) without rowid;
create table if not exists answer (
    asked text primary key, parts text not null, numbers blob not null, used real not null
);
"""

_log = logging.getLogger(__name__)


def opened(directory: Path | None) -> sqlite3.Connection:
    """The database in ``directory``, made where it is missing or damaged.

    In memory where that is None, or cannot be written, of which a warning is logged.
    """
    if directory is not None:
        path = directory / _NAME
        for _ in range(2):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                return _connected(path)
            except (OSError, sqlite3.OperationalError) as error:
                _log.warning("cannot write the cache %s: %s", directory, error)
                break
            except sqlite3.DatabaseError as error:
                _log.debug("%s is damaged and will be made again: %s", path, error)
                discard(directory)
    return _connected(":memory:")


def discard(directory: Path) -> None:
    """Delete the database in ``directory``, if that is possible; nothing in it is lost for good."""
    for path in (directory / _NAME, _journal(directory / _NAME)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


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
        size += _journal(path).lstat().st_size
    return StoredFile(path, size, status.st_mtime, delete=_deleted)


def _deleted(path: Path) -> bool:
    # Closed only when it is gone, so that nobody begins to write into a file without a name.
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
        try:
            database.execute("begin exclusive")
        except sqlite3.OperationalError as error:
            _log.debug("%s is in use, and stays: %s", path, error)
            return False
        except sqlite3.DatabaseError as error:
            _log.debug("%s is damaged, and in nobody's use: %s", path, error)
        discard(path.parent)
    return not path.exists()


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


def _connected(path: Path | str) -> sqlite3.Connection:
    # The ledger has a lock, so threads may share the connection; it says where changes begin.
    database = sqlite3.connect(
        path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
