"""One runner at a time for one model, among the processes of one machine.

Two machines do not see each other's locks. There the hub decides: see
:mod:`gmi_registry.regeneration.worker`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmi_registry.errors import InputError

__all__ = ["model_lock"]


@contextmanager
def model_lock(folder: Path, model: str) -> Iterator[bool]:
    """Whether the block has ``model`` for itself; False at once where somebody else has it.

    The lock lies in ``folder``, which is made where it is missing. The system lets it go when its
    holder ends, however that may be. Raises InputError where the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    from gmi_registry.spec.canonical import canonical_digest

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A model's name may hold what no file's may.
        lock = FileLock(folder / f"{canonical_digest([model])[:32]}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}",
            hint="choose a work folder that you may write to: gmi regenerate --work DIR",
        ) from error
    try:
        yield True
    finally:
        lock.release()
