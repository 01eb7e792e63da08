"""Takes models from the queue one by one, and lets each be looked at. One a queue.

``python -m gmi_registry.webhook.worker DIR --work DIR`` works on the queue in a folder until it is
stopped, at any point.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from gmi_registry.errors import AuthError, GmiError, InputError, OfflineError, RateLimitError
from gmi_registry.sanitize import guarded_output
from gmi_registry.webhook.look import RIGHTS_SECONDS, Look, Looked, look_with
from gmi_registry.webhook.queue import RepoQueue, Taken

__all__ = ["main", "only_worker", "work"]

# By name: as a program this module is called __main__.
_LOG = logging.getLogger("gmi_registry.webhook.worker")
_LOCK = "worker.lock"
_POLL = 1.0
_AGAIN = 60.0
_LONGEST = 3600.0


def work(
    queue: RepoQueue,
    look: Look,
    *,
    stop: threading.Event,
    poll: float = _POLL,
    again: float = _AGAIN,
    ended: Callable[[Taken, Looked], None] | None = None,
) -> None:
    """Let ``look`` look at one model after the other, until ``stop`` is set.

    The queue is asked every ``poll`` seconds. After a failure a model is due again in ``again``
    seconds, then in ten times as many, and is then set aside; the others go on meanwhile. What is
    the hub's or the network's fault counts as no failure. ``ended`` is told of each look. Errors
    that are no GmiError count as failures of the model. Raises InputError where the queue cannot be
    used.
    """
    for repo in queue.recover():
        _LOG.warning("%s is set aside: it ended its worker each time", repo)
    while not stop.is_set():
        taken = queue.take()
        if taken is None:
            stop.wait(poll)
            continue
        looked = _looked(look, taken.repo)
        _note(queue, taken, looked, again)
        if ended is not None:
            ended(taken, looked)


@contextlib.contextmanager
def only_worker(folder: Path) -> Iterator[None]:
    """Keep a second worker from the queue in ``folder``. Raises InputError where there is one."""
    from filelock import FileLock, Timeout

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another program works on the queue in {folder}",
            hint="let it, or choose another --queue",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _looked(look: Look, repo: str) -> Looked:
    try:
        return look(repo)
    except RateLimitError as error:
        wait = None if error.retry_after is None else min(error.retry_after, _LONGEST)
        return Looked("passing", error.message, after=wait)
    except (AuthError, OfflineError) as error:
        return Looked("passing", error.message, after=RIGHTS_SECONDS)
    except GmiError as error:
        return Looked("failed", error.message)
    except Exception as error:
        # A fault of this program must not keep the other models from their turn.
        _LOG.exception("%s could not be looked at", repo)
        return Looked("failed", f"{type(error).__name__} in this program")


def _note(queue: RepoQueue, taken: Taken, looked: Looked, again: float) -> None:
    _LOG.info("%s: %s: %s", taken.repo, looked.outcome, looked.reason)
    if looked.outcome == "done":
        queue.finish(taken, looked.commit)
    elif looked.outcome == "passing":
        queue.postpone(taken, after=again if looked.after is None else looked.after)
    elif queue.fail(taken, looked.reason, after=again * 10 ** (taken.tries - 1)):
        _LOG.warning("%s is set aside: %s", taken.repo, looked.reason)


def _end_with_parent() -> None:
    """End at once when standard input does, as it does with whoever holds its other end.

    A look that is cut off is done again, or goes on from where it was.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 64):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="gmi-webhook-parent", daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """The program; its status is 1 where the queue cannot be used."""
    parser = argparse.ArgumentParser(prog="gmi-webhook-worker", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--create-pr", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--until-input-ends", action="store_true")
    asked = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("gmi_registry.webhook").setLevel(logging.INFO)
    if asked.until_input_ends:
        _end_with_parent()
    try:
        look = look_with(
            asked.work,
            cache_dir=asked.cache_dir,
            device=asked.device,
            create_pr=asked.create_pr,
        )
        with only_worker(asked.folder):
            work(RepoQueue(asked.folder, patience=30.0), look, stop=threading.Event())
    except GmiError as error:
        for line in filter(None, (f"error: {error.message}", error.hint and f"hint: {error.hint}")):
            sys.stderr.write(line + "\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    with guarded_output():
        sys.exit(main())
