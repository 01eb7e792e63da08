"""The files of an index, each checked once, and the reader's database, which remembers that.

The database holds what was worked out of an index's files, and which were checked. It is made on
this machine from checked files, and never travels. Everything in it can be made anew, and nothing
in it is believed unseen: each value carries the SHA-256 of itself and of the name that it lies
under, so that whatever a disk, a crash or another program does to the file, a value is found as it
was written or not at all. A file that SQLite cannot read is thrown away.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import DigestMismatchError, SpecFormatError, SpecNotFoundError
from gmi_registry.index.cache import StoredFile
from gmi_registry.index.stored.format import (
    BUILD_AGAIN,
    DOCUMENT_LIMIT,
    DOCUMENT_NAME,
    MEAN_NORMS,
    ArrayLayout,
    FileMetadata,
    GroupMetadata,
    IndexDocument,
    PartMetadata,
    Statistics,
    StoredMetadata,
    kernel_fault,
    norm_fault,
    prompts_layout,
    statistics_fault,
)
from gmi_registry.spec.canonical import NORM_RANGE

_log = logging.getLogger(__name__)

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


def open_database(directory: Path | None) -> tuple[sqlite3.Connection, os.stat_result | None]:
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
                discard_database(directory)
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


def discard_database(directory: Path, file: os.stat_result | None = None) -> None:
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
        discard_database(path.parent)
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


_DAY = 24 * 3600.0
_UNUSED = 14 * _DAY
"""Seconds after which what no index asked for goes."""


class LocalDatabase:
    """A database in ``directory``, in memory where that is None or nothing can be written there.

    A value has an owner, a text, and a place among its owner's values. Any number of processes and
    threads may share the file. No method raises anything for a damaged or full disk: what cannot be
    read is not there, and what cannot be written is not kept.
    """

    def __init__(self, directory: str | Path | None) -> None:
        self._directory = None if directory is None else Path(directory)
        self._lock = threading.RLock()
        self._warned = self._quiet = False
        self._database, self._file = open_database(self._directory)

    def close(self) -> None:
        """Let the database go; nothing is found from then on."""
        with self._lock:
            self._database.close()

    def get(self, owner: str, place: int = 0) -> bytes | None:
        """The value that ``put`` was given, or None."""
        return self.values(owner, [place]).get(place)

    def values(self, owner: str, places: Collection[int]) -> dict[int, bytes]:
        """Those of an owner's values at ``places`` that are there."""
        rows = self._ask(
            "select place, seal, value from entry where owner = ?"
            " and place in (select value from json_each(?))",
            owner,
            json.dumps(sorted(places)),
        )
        return {
            place: value
            for place, seal, value in rows
            if isinstance(value, bytes) and _seal(owner, place, value) == seal
        }

    def put(self, owner: str, values: Mapping[int, bytes]) -> None:
        """Keep an owner's values, in place of those that it has there."""

        def change(database: sqlite3.Connection) -> None:
            database.executemany(
                "insert or replace into entry values (?, ?, ?, ?)",
                ((owner, place, _seal(owner, place, it), it) for place, it in values.items()),
            )
            database.execute("insert or replace into use values (?, ?)", (owner, time.time()))

        self._change(change)

    def note(self, owners: Collection[str]) -> None:
        """These are in use."""
        found = self._ask(
            "select owner, used from use where owner in (select value from json_each(?))",
            json.dumps(sorted(owners)),
        )
        now = time.time()
        # Not at every use, since to write takes longer than to read; and without it all works.
        known = {owner for owner, used in found if isinstance(used, float) and now - used < _DAY}
        if len(known) == len(owners):
            return

        def change(database: sqlite3.Connection) -> None:
            database.executemany(
                "insert or replace into use values (?, ?)",
                [(owner, now) for owner in sorted(owners) if owner not in known],
            )

        self._change_now(change)

    def forget(self) -> None:
        """Let go what has not been in use for two weeks."""
        before = time.time() - _UNUSED
        self._change(lambda database: _forget(database, before))

    def is_checked(self, file: str, path: Path, status: os.stat_result) -> bool:
        """Whether the file at ``path`` was found to be ``file``, and has not changed since."""
        mark = _mark(file, path, status)
        found = self._ask("select used from checked where mark = ?", mark)
        if not found:
            return False
        used = found[0][0]
        if not isinstance(used, float) or time.time() - used > _DAY:
            change = "insert or replace into checked values (?, ?)"
            row = mark, time.time()
            self._change_now(lambda database: database.execute(change, row))
        return True

    def set_checked(self, file: str, path: Path, status: os.stat_result) -> None:
        """Remember that the file at ``path``, as it is now, is ``file``."""
        row = _mark(file, path, status), time.time()
        change = "insert or replace into checked values (?, ?)"
        self._change(lambda database: database.execute(change, row))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written meanwhile reaches the disk at once, or not at all: one at a time would
        wait for the disk each time."""
        with self._lock:
            self._attempt(lambda database: database.execute("begin immediate"))
            try:
                yield
            except BaseException:
                self._attempt(lambda database: database.rollback())
                raise
            self._attempt(lambda database: database.commit())

    def _ask(self, question: str, *values: object) -> list[Any]:
        with self._lock:
            try:
                return self._database.execute(question, values).fetchall()
            except sqlite3.ProgrammingError:
                return []  # closed
            except DAMAGE as error:
                self._failed(error)
                return []

    def _change(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Make a change whole, or not at all."""

        def changed(database: sqlite3.Connection) -> None:
            if database.in_transaction:
                change(database)
                return
            with database:
                database.execute("begin immediate")
                change(database)

        with self._lock:
            self._attempt(changed)

    def _change_now(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Likewise of what can be done without: not where another process writes."""
        with self._lock:
            self._attempt(lambda database: database.execute("pragma busy_timeout = 0"))
            self._quiet = True
            try:
                self._change(change)
            finally:
                self._quiet = False
                wait = f"pragma busy_timeout = {int(1000 * PATIENCE)}"
                self._attempt(lambda database: database.execute(wait))

    def _attempt(self, step: Callable[[sqlite3.Connection], object]) -> None:
        try:
            step(self._database)
        except sqlite3.ProgrammingError:
            pass  # closed
        except DAMAGE as error:
            self._failed(error)

    @property
    def _path(self) -> Path | None:
        return None if self._directory is None else database_path(self._directory)

    def _failed(self, error: BaseException) -> None:
        """Begin a damaged database anew; of a full or busy disk say so once."""
        if is_replaced(error):
            # One that was deleted stays so until an index is opened again.
            if self._path is not None and self._path.exists():
                self._begin_anew()
            return
        if not is_damage(error, self._path):
            if not self._warned and not self._quiet:
                _log.warning("cannot use the cache %s: %s", self._directory, error)
                self._warned = True
            return
        _log.debug("the cache %s is damaged and will be made again: %s", self._directory, error)
        if self._directory is not None:
            discard_database(self._directory, self._file)
        self._begin_anew()

    def _begin_anew(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._database, self._file = open_database(self._directory)


def _forget(database: sqlite3.Connection, before: float) -> None:
    old = "(select owner from use where used < ?)"
    database.execute(f"delete from entry where owner in {old}", (before,))
    database.execute("delete from use where used < ?", (before,))
    database.execute("delete from checked where used < ?", (before,))


def _seal(owner: str, place: int, value: bytes) -> bytes:
    # What is read from another row is not this one either.
    found = hashlib.sha256(f"{owner}\n{place}\n".encode())
    found.update(value)
    return found.digest()


def _mark(file: str, path: Path, status: os.stat_result) -> str:
    """A name that nothing else has: that it is there says all, and no damage can bring it about."""
    # The change time as well: programs that unpack or copy put the modification time back.
    parts = [file, os.fspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return hashlib.sha256(json.dumps([*parts, status.st_ino]).encode()).hexdigest()


class IndexFiles(Protocol):
    """Something that has the files of one state of an index."""

    def fetch(self, name: str, *, sha256: str | None, size: int | None) -> Path:
        """The file ``name``, relative to ``index.json`` and divided by ``/``, on this disk.

        ``sha256`` and ``size`` (bytes) are what ``index.json`` says of it, None for that document
        itself; whoever asks checks the bytes against them, so that they need only serve to find
        the file, or to refuse one that is too large. Raises some GmiError where there is none.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether the file would be there at once, without anything being asked of a network."""
        ...


class FolderFiles:
    """An index in a folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def fetch(self, name: str, *, sha256: str | None, size: int | None) -> Path:
        """The file itself.

        Raises SpecNotFoundError where the folder holds no index, SpecFormatError for a file that
        is missing, or in whose place lies a link or no plain file.
        """
        path = self.folder.joinpath(*name.split("/"))
        if name == DOCUMENT_NAME and not path.exists():
            raise SpecNotFoundError(
                f"{self.folder} holds no {DOCUMENT_NAME}",
                hint="make the index with gmi index build, or name the folder where it lies",
            )
        if path.is_symlink() or path.parent.is_symlink():
            raise SpecFormatError(f"{path} is a symbolic link", hint="put the file itself there")
        if not path.is_file():
            raise SpecFormatError(f"{path} is missing", hint=BUILD_AGAIN)
        return path

    def has(self, name: str) -> bool:
        """All of an index in a folder is there."""
        return True


Arrays = dict[str, NDArray[Any]]
_READ_AT_ONCE = 1 << 20
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)


class CheckedFiles:
    """What ``files`` has, less everything that is not what ``index.json`` says.

    Methods raise DigestMismatchError for other bytes and SpecFormatError for bytes that break a
    rule, besides what ``files`` raises. What was checked is remembered in ``database``, so that a
    file is read to check it once. Without one, arrays are taken for what they should be, by their
    size and header alone: for a writer that looks into its own files here and there.
    """

    def __init__(self, files: IndexFiles, database: LocalDatabase | None) -> None:
        self._files = files
        self._database = database

    def document(self) -> tuple[IndexDocument, str]:
        """``index.json`` and its digest."""
        path = self._files.fetch(DOCUMENT_NAME, sha256=None, size=None)
        with _opened(path, DOCUMENT_NAME) as stream:
            data = stream.read(DOCUMENT_LIMIT + 1)
        return IndexDocument.from_bytes(data), hashlib.sha256(data).hexdigest()

    def lines(self, part: PartMetadata) -> list[tuple[StoredMetadata, bytes]]:
        """The metadata of a part's rows, and the bytes of each."""
        file = part.entries
        with self._of_right_size(file) as stream:
            data = stream.read()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise _mismatch(file)
        rows = data.split(b"\n")
        if rows.pop() != b"" or len(rows) != part.rows:
            raise _broken(file, f"has {len(rows)} whole lines, not {part.rows}")
        return [
            (StoredMetadata.from_bytes(row, f"{file.name}:{number}"), row)
            for number, row in enumerate(rows, 1)
        ]

    def prompts(self, group: GroupMetadata) -> NDArray[np.float16]:
        """[P, E] of a group."""
        layout = prompts_layout(len(group.prompt_set.prompts), group.encoder.text_dim)
        return self._array("prompts", group.prompt_embeddings, layout)

    def statistics(self, group: GroupMetadata) -> Statistics:
        """What the default score needs to know of a group."""
        numbers = group.statistics
        layout = Statistics.layout(group.encoder.image_dim)
        arrays = self._arrays(numbers.file, layout, statistics_fault)
        return Statistics.from_arrays(arrays, numbers.freedom, numbers.temperature)

    def part(self, part: PartMetadata, kind: str, layout: ArrayLayout) -> NDArray[Any]:
        """The ``means``, ``images`` or ``grams`` of a part, mapped."""
        return self._array(kind, getattr(part, kind), layout)

    def has_images(self, part: PartMetadata) -> bool:
        """Whether the images of a part would be there at once."""
        return self._files.has(part.images.name)

    def _array(self, kind: str, file: FileMetadata, layout: ArrayLayout) -> NDArray[Any]:
        return self._arrays(file, layout, lambda arrays: _fault(kind, arrays[kind]))[kind]

    def _arrays(
        self, file: FileMetadata, layout: ArrayLayout, fault: Callable[[Arrays], str | None]
    ) -> Arrays:
        with self._of_right_size(file) as stream:
            found = layout.mapped(stream)
            if found is None:
                raise _broken(file, "does not begin with the header that its rows imply")
            path, status = Path(stream.name), os.fstat(stream.fileno())
            # The name says what the file is for, and so how its values were checked.
            if self._database is None or self._database.is_checked(file.name, path, status):
                return found
            if _digest(stream) != file.sha256:
                raise _mismatch(file)
            reason = fault(found)
            if reason is not None:
                raise _broken(file, reason)
            self._database.set_checked(file.name, path, status)
        return found

    def _of_right_size(self, file: FileMetadata) -> IO[bytes]:
        path = self._files.fetch(file.name, sha256=file.sha256, size=file.size)
        stream = _opened(path, file.name)
        size = os.fstat(stream.fileno()).st_size
        if size != file.size:
            stream.close()
            raise DigestMismatchError(
                f"{file.name} has {size:,} bytes, but {DOCUMENT_NAME} names {file.size:,}",
                hint=BUILD_AGAIN,
            )
        return stream


def _fault(kind: str, array: NDArray[Any]) -> str | None:
    if kind == "grams":
        return kernel_fault(array)
    return norm_fault(array, MEAN_NORMS if kind == "means" else NORM_RANGE)


def _opened(path: Path, name: str) -> IO[bytes]:
    try:
        # A pipe would keep the reader waiting for ever.
        raw = io.FileIO(path, "rb", opener=lambda it, how: os.open(it, how | _NO_WAITING))
    except OSError as error:
        raise SpecFormatError(
            f"{name} cannot be read: {error.strerror}", hint=BUILD_AGAIN
        ) from error
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        raw.close()
        raise SpecFormatError(f"{name} is not a regular file", hint=BUILD_AGAIN)
    return io.BufferedReader(raw)


def _digest(stream: IO[bytes]) -> str:
    stream.seek(0)
    found = hashlib.sha256()
    while piece := stream.read(_READ_AT_ONCE):
        found.update(piece)
    return found.hexdigest()


def _mismatch(file: FileMetadata) -> DigestMismatchError:
    return DigestMismatchError(
        f"{file.name} is not the file whose digest {DOCUMENT_NAME} names", hint=BUILD_AGAIN
    )


def _broken(file: FileMetadata, reason: str) -> SpecFormatError:
    return SpecFormatError(f"{file.name} {reason}", hint=BUILD_AGAIN)
