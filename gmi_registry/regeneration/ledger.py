"""What failed, how often, when and why; what was proposed; what was begun and never ended."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from gmi_registry.atomic import write_file
from gmi_registry.errors import InputError
from gmi_registry.regeneration.address import folder_about, model_folder
from gmi_registry.regeneration.executor import Result
from gmi_registry.regeneration.lock import model_lock
from gmi_registry.spec.canonical import canonical_digest

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

__all__ = ["FAILURES", "Failure", "Ledger", "Standing"]

FAILURES = 3
"""So many, with the same weights, and a model is set aside."""

_NAME = "ledger.json"
# One name, since there is one writer: what a killed one left is written over.
_UNFINISHED = f".{_NAME}.unfinished"
_PATIENCE = 60.0  # seconds that another runner may take to write its lines

_log = logging.getLogger(__name__)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True)


class Failure(_Line):
    """One failure: ``when`` is in UTC (ISO 8601), ``reason`` one line."""

    when: str
    reason: str
    error: str | None = None


class Standing(_Line):
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


class _Format(_Line):
    name: str = "gmi-regeneration-ledger"
    version: int = 1


class _Document(_Line):
    format: _Format = _Format()
    models: dict[str, Standing] = {}
    seal: str | None = None
    """The digest of ``models``; None in files of earlier versions."""

    @classmethod
    def of(cls, models: dict[str, Standing]) -> _Document:
        """Sorted and sealed."""
        plain = cls(models=dict(sorted(models.items())))
        return plain.model_copy(update={"seal": plain.digest})

    @property
    def digest(self) -> str:
        """Of ``models``."""
        models = {name: standing.model_dump() for name, standing in self.models.items()}
        return canonical_digest(models)


class Ledger:
    """The file ``ledger.json`` in ``folder``, which several runners of one machine may share.

    It is replaced whole, under a lock, so that a reader or a crash finds the old one or the new
    one. One that cannot be read counts as empty: what it held is found out again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def about(cls, work: Path, hub: Hub) -> Ledger:
        """The ledger on ``hub`` in the work folder ``work``."""
        return cls(folder_about(work, hub))

    def standing(self, model: str, key: str) -> Standing:
        """Of a model; an empty one where nothing is known of it with this ``key``."""
        found = self._read().models.get(model)
        return found if found is not None and found.key == key else Standing(key=key)

    def begin(self, model: str, key: str) -> None:
        """Note that work on a model begins. Raises InputError where that cannot be written."""
        with self._changed() as models:
            before = _of(models, model, key)
            models[model] = before.model_copy(update={"unfinished": True})

    def settle(self, model: str, key: str, result: Result | None) -> Standing:
        """Note how it ended; None where it was stopped in between, which is nobody's fault.

        Returns what is known of the model now. A failure counts unless it is a passing one.
        """
        with self._changed() as models:
            now = _of(models, model, key).model_copy(update={"unfinished": False})
            outcome = None if result is None else result.outcome
            if result is not None and outcome == "failed" and not result.passing:
                when = datetime.now(UTC).isoformat(timespec="seconds")
                failure = Failure(when=when, reason=result.reason, error=result.error)
                now = now.model_copy(update={"failures": (*now.failures, failure)})
            elif result is not None and outcome == "proposed":
                now = Standing(key=key, proposed=result.where)
            elif outcome == "lost":
                now = now.model_copy(update={"unfinished": True})
            elif outcome in ("published", "fresh"):
                now = Standing(key=key)
            if now == Standing(key=key):
                models.pop(model, None)
            else:
                models[model] = now
        return now

    def forget(self, models: Iterable[str]) -> None:
        """Let go what was known of models with which all is well. Writes where that was anything.

        A runner that was killed after it had published leaves its pictures, which go too.
        """
        known = self._read().models.keys()
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
            with self._changed() as standings:
                for model in gone:
                    standings.pop(model, None)

    def _read(self) -> _Document:
        path = self.folder / _NAME
        try:
            document = _Document.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return _Document()
        except (OSError, ValidationError) as error:
            _log.warning("%s cannot be read, and counts as empty: %s", path, type(error).__name__)
            return _Document()
        if document.seal in (None, document.digest):
            return document
        _log.warning("%s is damaged, and counts as empty: failures are counted anew", path)
        return _Document()

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Standing]]:
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{_NAME}.lock", timeout=_PATIENCE):
                models = dict(self._read().models)
                yield models
                document = _Document.of(models)
                write_file(
                    self.folder / _NAME,
                    document.model_dump_json(indent=2).encode() + b"\n",
                    scratch=_UNFINISHED,
                )
        except Timeout:
            raise InputError(
                f"another program has been writing {self.folder / _NAME} for a minute",
                hint="try again when it has ended",
            ) from None
        except OSError as error:
            raise InputError(
                f"{self.folder / _NAME} cannot be written: {error.strerror or error}",
                hint="choose a work folder that you may write to: gmi regenerate --work DIR",
            ) from error


def _of(models: dict[str, Standing], model: str, key: str) -> Standing:
    found = models.get(model)
    return found if found is not None and found.key == key else Standing(key=key)
