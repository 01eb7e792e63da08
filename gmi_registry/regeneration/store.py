"""What is kept between runs, in SQLite: failures and proposals of models, and deliveries."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from filelock import FileLock, Timeout

from gmi_registry.errors import InputError
from gmi_registry.regeneration.work import Result
from gmi_registry.sanitize import one_line
from gmi_registry.spec.canonical import canonical_digest

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

FAILURES = 3
"""So many, with the same weights, and a model is set aside."""

_HINT_WORK = "choose a work folder that you can write to: gmi regenerate --work DIR"
_PATIENCE = 60.0  # seconds that another runner may take to write its lines
# SQLite's names of what is no fault of a file.
_NOT_DAMAGE = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "CANTOPEN", "READONLY", "FULL", "IOERR", "PERM")
)

_DAMAGED = "%s is damaged and counts as empty; failures are counted from zero"
_log = logging.getLogger(__name__)


# --- Folders and locks ---------------------------------------------------------------------------


def folder_about(work: Path, hub: Hub) -> Path:
    """Where in the folder ``work`` is kept what runs know about ``hub``; it need not exist.

    Two hubs that are called alike are told apart by their folders or endpoints.
    """
    root, endpoint = getattr(hub, "root", None), getattr(hub, "endpoint", None)
    if isinstance(root, Path):
        name = f"local:{root.resolve()}"
    else:
        name = f"{hub.name}:{endpoint}" if isinstance(endpoint, str) else hub.name
    return work / "regeneration" / canonical_digest([name])[:16]


def model_folder(about: Path, model: str) -> Path:
    """Where in the folder ``about`` a hub the images of one model wait; it need not exist.

    Of its own, so that it can go as a whole once the model is described, whatever was killed in it.
    """
    # A model's name may hold what no file's may.
    return about / "work" / canonical_digest([model])[:32]


@contextlib.contextmanager
def model_lock(folder: Path, model: str) -> Iterator[bool]:
    """Whether the block has ``model`` for itself; False at once where somebody else has it.

    The lock lies in ``folder``, which is made where it is missing. The system lets it go when its
    holder ends, however that may be. It holds among the processes of one machine; between machines
    the hub decides: see :mod:`gmi_registry.regeneration.describe`. Raises InputError where the
    folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{canonical_digest([model])[:32]}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}", hint=_HINT_WORK
        ) from error
    try:
        yield True
    finally:
        lock.release()


# --- The database --------------------------------------------------------------------------------

_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS models (
  model TEXT PRIMARY KEY, key TEXT NOT NULL, failures TEXT NOT NULL, proposed TEXT,
  unfinished INTEGER NOT NULL, seal TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS repos (
  repo TEXT PRIMARY KEY, state TEXT NOT NULL, sha TEXT NOT NULL, place INTEGER NOT NULL,
  due REAL NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, later TEXT, reason TEXT,
  seal TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS in_turn ON repos (state, place);
CREATE TABLE IF NOT EXISTS ours (
  place INTEGER PRIMARY KEY AUTOINCREMENT, repo TEXT NOT NULL, sha TEXT NOT NULL,
  seal TEXT, UNIQUE (repo, sha)
) STRICT;
"""
_COLUMNS = {
    "models": "model, key, failures, proposed, unfinished",
    "repos": "repo, state, sha, place, due, tries, later, reason",
    "ours": "place, repo, sha",
}
# Every line carries a digest of itself: what a disk did to one shows when the file is opened.
_SEALS = "".join(
    f"""
CREATE TRIGGER IF NOT EXISTS {table}_{step.split()[0]} AFTER {step} ON {table} BEGIN
  UPDATE {table} SET seal = seal_of({", ".join(f"NEW.{it}" for it in columns.split(", "))})
  WHERE rowid = NEW.rowid;
END;
"""
    for table, columns in _COLUMNS.items()
    for step in ("INSERT", f"UPDATE OF {columns}")
)
# What reading a damaged file runs into, besides SQLite's own complaints.
_DAMAGE = (sqlite3.Error, OSError, ValueError, TypeError, OverflowError)


class _Database:
    """The file ``path``, made with its folder where it is missing, open and checked.

    Several processes may use it at once, and every method is safe in any thread. A call waits for
    other threads, and again for other processes, no longer than ``patience`` seconds. With ``wal``
    readers do not wait for a writer; it is not for disks of other machines. Raises what is in
    ``_DAMAGE``; what was there before is then as it was.
    """

    def __init__(self, path: Path, *, patience: float, wal: bool = False) -> None:
        self.path = path
        self._patience = patience
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            path, timeout=patience, isolation_level=None, check_same_thread=False
        )
        try:
            # On the disk before the caller goes on: a hub does not say a second time what it said.
            for line in (f"journal_mode = {'WAL' if wal else 'DELETE'}", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {line}")
            self._db.create_function("seal_of", -1, _seal_of, deterministic=True)
            if self._db.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                with self.transaction() as db:
                    self._prepare(db)
            self._check()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """All or nothing of what the block does."""
        # Not for ever: many who wait for a file that is held would wait one after the other.
        if not self._lock.acquire(timeout=self._patience):
            raise sqlite3.OperationalError("too many wait for it")
        try:
            self._db.execute(f"BEGIN {kind}")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        finally:
            self._lock.release()

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Tables and triggers; lines that an earlier version of this program began get seals."""
        for statement in _statements(_TABLES):
            db.execute(statement)
        for table, columns in _COLUMNS.items():
            if "seal" not in [row[1] for row in db.execute(f"PRAGMA table_info({table})")]:
                db.execute(f"ALTER TABLE {table} ADD COLUMN seal TEXT")
                db.execute(f"UPDATE {table} SET seal = seal_of({columns})")
        for statement in _statements(_SEALS):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_VERSION}")

    def _check(self) -> None:
        """Raise sqlite3.DatabaseError where the file is not what was written."""
        ((found,),) = self._db.execute("PRAGMA integrity_check(1)").fetchall()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        for table, columns in _COLUMNS.items():
            wrong = f"SELECT 1 FROM {table} WHERE seal IS NOT seal_of({columns}) LIMIT 1"
            if self._db.execute(wrong).fetchone():
                raise sqlite3.DatabaseError(f"a line of {table} is not what was written")


def _statements(script: str) -> Iterator[str]:
    """One by one: ``executescript`` would end the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _seal_of(*values: object) -> str:
    """A digest of a line's values, SQL's way of telling numbers apart not counted."""
    plain = [float(value) if isinstance(value, int) else value for value in values]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


# --- Failures and proposals ----------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """One failure: ``when`` is in UTC (ISO 8601), ``reason`` one line."""

    when: str
    reason: str
    error: str | None = None


@dataclass(frozen=True)
class ModelHistory:
    """What is known of one model, as long as ``key`` (:attr:`.Verdict.key`) is what it was.

    ``proposed`` is where a new specification waits for the owner. ``unfinished`` says that a runner
    began the model and did not come back.
    """

    key: str = ""
    failures: tuple[Failure, ...] = ()
    proposed: str | None = None
    unfinished: bool = False

    @property
    def reason(self) -> str | None:
        """Why the model is set aside; None where it is not."""
        if self.proposed is not None:
            return f"proposed, and the owner has not decided: {self.proposed}"
        if len(self.failures) < FAILURES:
            return None
        last = self.failures[-1]
        return f"failed {len(self.failures)} times, last on {last.when[:10]}: {last.reason}"

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """From a line of the table, or of the file of earlier versions."""
        failures = row.get("failures", ())
        listed = json.loads(failures) if isinstance(failures, str) else failures
        return cls(
            str(row["key"]),
            tuple(Failure(it["when"], it["reason"], it.get("error")) for it in listed),
            row.get("proposed"),
            bool(row.get("unfinished")),
        )


class FailureStore:
    """The file ``failures.sqlite3`` in ``folder``, which several runners of one machine may share.

    One that cannot be read counts as empty: what it held is found out again. ``ledger.json`` of
    earlier versions is taken over when something is first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "failures.sqlite3"
        self._former = folder / "ledger.json"

    @classmethod
    def about(cls, work: Path, hub: Hub) -> FailureStore:
        """What is known of ``hub`` in the work folder ``work``."""
        return cls(folder_about(work, hub))

    def histories(self) -> dict[str, ModelHistory]:
        """Of every model of which something is known. Makes no file, and changes none."""
        former = _former_histories(self._former)
        if not self._path.exists():
            return former
        try:
            with self._opened() as database, database.transaction("DEFERRED") as db:
                return former | _read_histories(db)
        except _DAMAGE as error:
            _log.warning("%s cannot be read, and counts as empty: %s", self._path, _reason(error))
            return {}

    def begin(self, model: str, key: str) -> None:
        """Note that work on a model begins. Raises InputError where that cannot be written."""
        with self._changed() as db:
            before = _with_key(_read_histories(db).get(model), key)
            _write_history(db, model, replace(before, unfinished=True))

    def record(self, model: str, key: str, result: Result | None) -> ModelHistory:
        """Note how it ended; None where it was stopped in between, which is nobody's fault.

        Returns what is known of the model now. A failure counts unless it is a passing one.
        """
        with self._changed() as db:
            before = _with_key(_read_histories(db).get(model), key)
            now = replace(before, unfinished=False)
            outcome = None if result is None else result.outcome
            if result is not None and outcome == "failed" and not result.passing:
                when = datetime.now(UTC).isoformat(timespec="seconds")
                failure = Failure(when, result.reason, result.error)
                now = replace(now, failures=(*now.failures, failure))
            elif result is not None and outcome == "proposed":
                now = ModelHistory(key, proposed=result.where)
            elif outcome == "lost":
                now = replace(now, unfinished=True)
            elif outcome in ("published", "fresh"):
                now = ModelHistory(key)
            _write_history(db, model, now)
        return now

    def forget(self, models: Iterable[str]) -> None:
        """Let go what was known of models with which all is well. Writes where that was anything.

        A runner that was killed after it had published leaves its images, which go too.
        """
        known = self.histories().keys()
        gone = []
        for model in models:
            room = model_folder(self.folder, model)
            if room.exists():
                with model_lock(self.folder / "locks", model) as mine:
                    if mine:
                        shutil.rmtree(room, ignore_errors=True)
            if model in known:
                gone.append(model)
        if gone:
            with self._changed() as db:
                for model in gone:
                    db.execute("DELETE FROM models WHERE model = ?", (model,))

    @contextlib.contextmanager
    def _changed(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._opened() as database:
                with database.transaction() as db:
                    known = _read_histories(db)
                    for model, history in _former_histories(self._former).items():
                        if model not in known:
                            _write_history(db, model, history)
                    yield db
                if self._former.exists():
                    # Only now: whoever is killed before takes it over once more.
                    self._former.unlink(missing_ok=True)
        except _DAMAGE as error:
            raise InputError(
                f"{self._path} cannot be written: {_reason(error)}", hint=_HINT_WORK
            ) from error

    def _opened(self) -> _Database:
        """Open; begun anew where the file is damaged."""
        try:
            return _Database(self._path, patience=_PATIENCE)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
        # One at a time, so that nobody removes what another has just begun.
        with FileLock(self.folder / "failures.lock", timeout=_PATIENCE):
            try:
                return _Database(self._path, patience=_PATIENCE)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
            _log.warning(_DAMAGED, self._path)
            for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
                path.unlink(missing_ok=True)
            return _Database(self._path, patience=_PATIENCE)


def _with_key(found: ModelHistory | None, key: str) -> ModelHistory:
    return found if found is not None and found.key == key else ModelHistory(key)


def _read_histories(db: sqlite3.Connection) -> dict[str, ModelHistory]:
    rows = db.execute(f"SELECT {_COLUMNS['models']} FROM models ORDER BY model")
    names = _COLUMNS["models"].split(", ")
    return {row[0]: ModelHistory.of(dict(zip(names, row, strict=True))) for row in rows}


def _write_history(db: sqlite3.Connection, model: str, history: ModelHistory) -> None:
    db.execute("DELETE FROM models WHERE model = ?", (model,))
    if history == ModelHistory(history.key):
        return
    failures = json.dumps([asdict(failure) for failure in history.failures])
    db.execute(
        f"INSERT INTO models ({_COLUMNS['models']}) VALUES (?, ?, ?, ?, ?)",
        (model, history.key, failures, history.proposed, int(history.unfinished)),
    )


def _former_histories(path: Path) -> dict[str, ModelHistory]:
    """What ``ledger.json`` of earlier versions holds; nothing where it is damaged."""
    try:
        document = json.loads(path.read_bytes())
        models = document["models"]
        if document.get("seal") in (None, canonical_digest(models)):
            return {model: ModelHistory.of(row) for model, row in models.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    _log.warning(_DAMAGED, path)
    return {}


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is at fault, and not another program or the disk."""
    return not str(getattr(error, "sqlite_errorname", "")).startswith(_NOT_DAMAGE)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(str(error))


# --- Deliveries ----------------------------------------------------------------------------------

Receipt = Literal["queued", "waiting", "ours", "set aside", "full"]
"""What became of a delivery: its model waits now; it did already; the commit was made here; the
model has failed too often since that commit; or there is no room."""

_SEVERAL = "*"
_TRIES = 3
_LONGEST_REASON = 500
_MOST_OURS = 10_000
_MOST_ASIDE = 1_000


@dataclass(frozen=True)
class QueuedModel:
    """A model that somebody works on; ``tries`` counts this time too."""

    repo: str
    tries: int


@dataclass(frozen=True)
class QueueCounts:
    """How many models wait, are worked on, and were set aside after failures."""

    waiting: int
    taken: int
    aside: int


class DeliveryQueue:
    """The queue in ``folder``, which is made where it is missing; at most ``capacity`` models wait.

    Several processes may use it at once, and every method is safe in any thread. A call waits for
    other threads, and again for other processes, no longer than ``patience`` seconds. Every method
    raises InputError where the file cannot be read or written; what was there before is then as it
    was.
    """

    def __init__(self, folder: Path, *, capacity: int = 1000, patience: float = 0.4) -> None:
        self.capacity = capacity
        self._path = folder / "queue.sqlite3"
        with self._explained():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = _Database(self._path, patience=patience, wal=True)

    def close(self) -> None:
        """Let the file go."""
        self._database.close()

    def put(self, repo: str, sha: str) -> Receipt:
        """Note that ``repo`` is at the commit ``sha`` now, unless that is a commit of ours.

        A model that is being worked on is looked at once more afterwards: whether the work has seen
        this commit cannot be known. One that was set aside comes back with another commit.
        """
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM ours WHERE repo = ? AND sha = ?", (repo, sha)).fetchone():
                return "ours"
            row = db.execute(
                "SELECT state, sha, later FROM repos WHERE repo = ?", (repo,)
            ).fetchone()
            if row is not None and row[0] == "taken":
                later = sha if row[2] in (None, sha) else _SEVERAL
                db.execute("UPDATE repos SET later = ? WHERE repo = ?", (later, repo))
                return "waiting"
            if row is not None and row[1] == sha:
                return "set aside" if row[0] == "aside" else "waiting"
            if row is None or row[0] == "aside":
                used = "SELECT count(*) FROM repos WHERE state IN ('waiting', 'taken')"
                if db.execute(used).fetchone()[0] >= self.capacity:
                    return "full"
                self._wait(db, repo, sha)
                return "queued"
            # Another commit may be what mends a failure: it need not wait for the next try.
            db.execute("UPDATE repos SET sha = ?, due = 0, tries = 0 WHERE repo = ?", (sha, repo))
            return "waiting"

    def take(self) -> QueuedModel | None:
        """The model that has waited longest and is due, marked as worked on; None for none.

        The try counts from now on, so that a model that ends its worker every time is set aside.
        """
        with self._transaction() as db:
            row = db.execute(
                "UPDATE repos SET state = 'taken', tries = tries + 1, later = NULL WHERE repo = "
                "(SELECT repo FROM repos WHERE state = 'waiting' AND due <= ? ORDER BY place "
                "LIMIT 1) RETURNING repo, tries",
                (time.time(),),
            ).fetchone()
        return None if row is None else QueuedModel(*row)

    def finish(self, taken: QueuedModel, commit: str | None = None) -> None:
        """It was looked at, and put right by the commit ``commit`` where there was need.

        That commit is remembered: the hub tells of it as of any other. It is right to ignore it
        even where the branch is set back to it later, since in it specification and weights agree.
        """
        with self._transaction() as db:
            if commit is not None:
                values = (taken.repo, commit)
                db.execute("INSERT OR IGNORE INTO ours (repo, sha) VALUES (?, ?)", values)
                db.execute(
                    "DELETE FROM ours WHERE place <= (SELECT max(place) FROM ours) - ?",
                    (_MOST_OURS,),
                )
            if not self._came_later(db, taken.repo, commit):
                db.execute("DELETE FROM repos WHERE repo = ?", (taken.repo,))

    def fail(self, taken: QueuedModel, reason: str, *, after: float) -> bool:
        """It failed, and is due again in ``after`` seconds; True where it was set aside instead.

        It is set aside at the third failure, unless something has happened to it meanwhile.
        """
        with self._transaction() as db:
            if self._came_later(db, taken.repo, None):
                return False
            if taken.tries < _TRIES:
                self._put_back(db, taken.repo, due=time.time() + after)
                return False
            db.execute(
                "UPDATE repos SET state = 'aside', reason = ?, place = ? WHERE repo = ?",
                (reason[:_LONGEST_REASON], self._next(db), taken.repo),
            )
            db.execute(
                "DELETE FROM repos WHERE state = 'aside' AND repo NOT IN (SELECT repo FROM repos "
                "WHERE state = 'aside' ORDER BY place DESC LIMIT ?)",
                (_MOST_ASIDE,),
            )
            return True

    def postpone(self, taken: QueuedModel, *, after: float) -> None:
        """It could not be looked at, by no fault of its own: due again in ``after`` seconds."""
        with self._transaction() as db:
            if not self._came_later(db, taken.repo, None):
                self._put_back(db, taken.repo, due=time.time() + after)
                db.execute("UPDATE repos SET tries = tries - 1 WHERE repo = ?", (taken.repo,))

    def recover(self) -> tuple[str, ...]:
        """Take back what a worker that is gone had taken; its models, those set aside for it.

        For the one worker there is, before it begins.
        """
        with self._transaction() as db:
            rows = db.execute("SELECT repo, tries FROM repos WHERE state = 'taken'").fetchall()
        lost = [QueuedModel(*row) for row in rows]
        reason = "its process was ended from outside, perhaps because memory ran out"
        return tuple(taken.repo for taken in lost if self.fail(taken, reason, after=0.0))

    def counts(self) -> QueueCounts:
        """What there is now."""
        with self._transaction("DEFERRED") as db:
            found = dict(db.execute("SELECT state, count(*) FROM repos GROUP BY state").fetchall())
        return QueueCounts(found.get("waiting", 0), found.get("taken", 0), found.get("aside", 0))

    def set_aside(self) -> tuple[tuple[str, str], ...]:
        """The models that failed too often, each with its reason; the latest first."""
        with self._transaction("DEFERRED") as db:
            return tuple(
                db.execute(
                    "SELECT repo, reason FROM repos WHERE state = 'aside' ORDER BY place DESC"
                )
            )

    @staticmethod
    def _next(db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT coalesce(max(place), 0) + 1 FROM repos").fetchone()[0])

    def _wait(self, db: sqlite3.Connection, repo: str, sha: str) -> None:
        db.execute(
            "INSERT OR REPLACE INTO repos (repo, state, sha, place) VALUES (?, 'waiting', ?, ?)",
            (repo, sha, self._next(db)),
        )

    def _put_back(self, db: sqlite3.Connection, repo: str, *, due: float) -> None:
        db.execute(
            "UPDATE repos SET state = 'waiting', due = ?, place = ? WHERE repo = ?",
            (due, self._next(db), repo),
        )

    def _came_later(self, db: sqlite3.Connection, repo: str, ours: str | None) -> bool:
        """Let the model wait anew, if something was told of it since it was taken."""
        (later,) = db.execute("SELECT later FROM repos WHERE repo = ?", (repo,)).fetchone()
        if later is None or later == ours:
            return False
        self._wait(db, repo, later)
        return True

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._explained(), self._database.transaction(kind) as db:
            yield db

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise InputError(
                f"{self._path} cannot be used: {one_line(str(error))}",
                hint="choose another --queue, or move that file away and start again",
            ) from error
