"""What happens after a delivery: a worker compares the model with its specification.

``serve`` is the receiver and a worker in a process of its own; ``python -m
gmi_registry.regeneration.webhook_service worker DIR --work DIR`` is that process, and
``... webhook_service job [MODEL...]`` what a job of the hub runs.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from gmi_registry.errors import AuthError, GmiError, InputError, OfflineError, RateLimitError
from gmi_registry.hubs.open import endpoints
from gmi_registry.regeneration.processes import ChildProcess, end_with_parent
from gmi_registry.regeneration.store import DeliveryQueue, QueuedModel
from gmi_registry.regeneration.webhook_receiver import (
    PATH,
    SECRET_VARIABLE,
    Ignored,
    Secret,
    create_app,
    decide,
    listen,
    make_server,
)
from gmi_registry.sanitize import guarded_output
from gmi_registry.spec.address import read_address

if TYPE_CHECKING:
    from gmi_registry.regeneration.work import Result

RIGHTS_SECONDS = 600.0
"""Until a model is checked again for which rights were missing.

A token that has run out is the fault of none of the models that come meanwhile.
"""

_COMMIT = re.compile(r"/commit/([0-9a-f]{40})")


@dataclass(frozen=True)
class CheckResult:
    """What became of a check; ``reason`` is one line.

    ``done``: there is nothing more to do, by the commit ``commit`` (40 hex digits) where one was
    made. ``failed``: the model's fault. ``passing``: a fault of the hub, the network or somebody
    else's, to be tried again, in ``after`` seconds where that is known.
    """

    outcome: Literal["done", "failed", "passing"]
    reason: str
    commit: str | None = None
    after: float | None = None


Check = Callable[[str], CheckResult]
"""Compares the model ``owner/name`` with its specification, and describes it anew if need be.

A GmiError that it raises counts as ``failed``; an AuthError, an OfflineError and a RateLimitError
as ``passing``.
"""


def model_check(
    work: Path,
    *,
    cache_dir: Path | None = None,
    device: str | None = None,
    create_pr: bool | None = None,
) -> Check:
    """A check that is one round of regeneration over one model of Hugging Face.

    ``work`` is where unfinished work and failures are kept, and the rest as for
    :class:`~gmi_registry.regeneration.Options`. The token is the one of the environment.
    """

    def check(repo: str) -> CheckResult:
        from gmi_registry.hubs.open import opened_hub
        from gmi_registry.regeneration.run import Round
        from gmi_registry.regeneration.work import Options

        options = Options(
            work=str(work),
            cache_dir=None if cache_dir is None else str(cache_dir),
            create_pr=create_pr,
            device=device,
        )
        with opened_hub("hf", options.access) as hub:
            runner = Round(hub, options, repos=[f"hf:{repo}"])
            plan = runner.plan()
            summary = runner.run(plan)
        if summary.interrupted:
            raise KeyboardInterrupt
        if summary.results:
            return check_result(summary.results)
        states = [f"{model.state}: {model.reason}" for model in plan.models]
        return CheckResult("done", "; ".join(states))

    return check


def check_result(results: Sequence[Result]) -> CheckResult:
    """What became of a check whose run gave these ``results``, of which there is at least one.

    The first that went wrong decides.
    """
    for result in results:
        if result.outcome in ("busy", "lost") or (result.outcome == "failed" and result.passing):
            return CheckResult("passing", result.reason)
        if result.error == "AuthError":
            return CheckResult("passing", result.reason, after=RIGHTS_SECONDS)
        if result.outcome == "failed":
            return CheckResult("failed", result.reason)
    last = results[-1]
    commit = _COMMIT.search(last.where or "")
    return CheckResult(
        "done",
        f"{last.outcome}: {last.reason}",
        commit=commit[1] if commit is not None and last.outcome == "published" else None,
    )


_PAYLOAD = "WEBHOOK_PAYLOAD"
_GIVEN = "WEBHOOK_SECRET"


def run_job(
    models: Sequence[str], environment: Mapping[str, str], check: Check
) -> tuple[tuple[str, CheckResult], ...]:
    """Check ``models`` (``hf:owner/name``), or without any the one of the delivery.

    Returns each with its result; empty where there is nothing to check. A model that
    fails does not keep the others from their turn. Raises AuthError for a delivery without the
    secret, InputError for what is no delivery, no secret, or no model.
    """
    repos = [_repo(text) for text in models]
    if not repos:
        change = _delivered(environment)
        repos = [] if change is None else [change]
    return tuple((repo, _check_for_job(check, repo)) for repo in repos)


def job_main(models: Sequence[str] = ()) -> int:
    """The program ``job``; its status is 1 where a check failed, and the hub shows that."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gmi-work-") as folder:
        try:
            done = run_job(models, os.environ, model_check(Path(folder)))
        except GmiError as error:
            return _say(error)
    for repo, result in done:
        print(f"hf:{repo}: {result.outcome}: {result.reason}")
    return 0 if all(result.outcome == "done" for _, result in done) else 1


def _delivered(environment: Mapping[str, str]) -> str | None:
    """The model that a delivery asks to check; None where there is none, which is said."""
    payload = environment.get(_PAYLOAD)
    if not payload:
        print("no delivery: this run only lets webhooks start the job again")
        return None
    expected = environment.get(SECRET_VARIABLE)
    if not expected:
        raise InputError(
            f"{SECRET_VARIABLE} is not among the secrets of this job, so no delivery is believed",
            hint="gmi webhook install owner/name --job",
        )
    if not Secret(expected).matches(environment.get(_GIVEN, "")):
        raise AuthError(
            "the secret of the delivery is missing or wrong",
            hint="gmi webhook install owner/name --job, which gives both sides the same",
        )
    decision = decide(payload)
    if isinstance(decision, Ignored):
        print(f"ignored: {decision.reason}")
        return None
    return decision.repo


def _repo(text: str) -> str:
    named = read_address(text, "hf", endpoints())
    if named is None or named.model is None or named.hub != "hf":
        raise InputError(
            f"{text[:120]!r} is not on Hugging Face", hint="name models as hf:owner/name"
        )
    return named.model.id


def _check_for_job(check: Check, repo: str) -> CheckResult:
    try:
        return check(repo)
    except GmiError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return CheckResult("failed", f"{error.message}{hint}")


# By name: as a program this module is called __main__.
_LOG = logging.getLogger("gmi_registry.regeneration.webhook_service")
_LOCK = "worker.lock"
_POLL = 1.0
_AGAIN = 60.0
_LONGEST = 3600.0


def work_off(
    queue: DeliveryQueue,
    check: Check,
    *,
    stop: threading.Event,
    poll: float = _POLL,
    again: float = _AGAIN,
    ended: Callable[[QueuedModel, CheckResult], None] | None = None,
) -> None:
    """Check one model of the queue after the other, until ``stop`` is set.

    The queue is asked every ``poll`` seconds. After a failure a model is due again in ``again``
    seconds, then in ten times as many, and is then set aside; the others go on meanwhile. What is
    the hub's or the network's fault counts as no failure. ``ended`` is told of each check. Errors
    that are no GmiError count as failures of the model. Raises InputError where the queue cannot be
    used.
    """
    for repo in queue.recover():
        _LOG.warning("%s is set aside: it ended its worker each time", repo)
    while not stop.is_set():
        model = queue.take()
        if model is None:
            stop.wait(poll)
            continue
        result = _check_for_worker(check, model.repo)
        _LOG.info("%s: %s: %s", model.repo, result.outcome, result.reason)
        if result.outcome == "done":
            queue.finish(model, result.commit)
        elif result.outcome == "passing":
            queue.postpone(model, after=again if result.after is None else result.after)
        elif queue.fail(model, result.reason, after=again * 10 ** (model.tries - 1)):
            _LOG.warning("%s is set aside: %s", model.repo, result.reason)
        if ended is not None:
            ended(model, result)


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


def _check_for_worker(check: Check, repo: str) -> CheckResult:
    try:
        return check(repo)
    except RateLimitError as error:
        wait = None if error.retry_after is None else min(error.retry_after, _LONGEST)
        return CheckResult("passing", error.message, after=wait)
    except (AuthError, OfflineError) as error:
        return CheckResult("passing", error.message, after=RIGHTS_SECONDS)
    except GmiError as error:
        return CheckResult("failed", error.message)
    except Exception as error:
        # A fault of this program must not keep the other models from their turn.
        _LOG.exception("%s could not be checked", repo)
        return CheckResult("failed", f"{type(error).__name__} in this program")


def worker_main(arguments: Sequence[str]) -> int:
    """The program ``worker``; its status is 1 where the queue cannot be used."""
    parser = argparse.ArgumentParser(prog="gmi-webhook-worker", description=work_off.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--create-pr", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--until-input-ends", action="store_true")
    given = vars(parser.parse_args(arguments))
    folder = given.pop("folder")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    _LOG.setLevel(logging.INFO)
    if given.pop("until_input_ends"):
        end_with_parent(sys.stdin.buffer)
    try:
        with only_worker(folder):
            queue = DeliveryQueue(folder, patience=30.0)
            work_off(queue, model_check(**given), stop=threading.Event())
    except GmiError as error:
        return _say(error)
    except KeyboardInterrupt:
        return 130
    return 0


def _say(error: GmiError) -> int:
    """The error on standard error, as the command line says it; the exit status."""
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    return 1


_MODULE = "gmi_registry.regeneration.webhook_service"
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_STEADY = 60.0
_GOODBYE = 10.0
_WATCH = 0.1


class WorkerKeeper:
    """The worker in a process of its own, begun again whenever it ends, from ``with`` on.

    It does not get the environment variables ``without``: secrets that are no business of its.

    Between two starts lies a second, twice as long each time up to a minute, until one has run for
    a minute. It generates images, and so may run out of memory: the model that was its turn is
    taken up again, and set aside after the third time. At the end of the block it is ended at once;
    what it was at is safe to cut off.
    """

    def __init__(self, arguments: Sequence[str], *, without: Sequence[str] = ()) -> None:
        self._environment = {k: v for k, v in os.environ.items() if k not in without}
        self._arguments = ["-m", _MODULE, "worker", "--until-input-ends", *arguments]
        self._stop = threading.Event()
        self._process: ChildProcess | None = None
        self._thread = threading.Thread(target=self._keep, name="gmi-webhook-worker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(_GOODBYE)

    def is_alive(self) -> bool:
        """Whether it runs now."""
        process = self._process
        return process is not None and not process.is_over()

    def _keep(self) -> None:
        wait = _FIRST_WAIT
        while not self._stop.is_set():
            begun = time.monotonic()
            process = self._process = ChildProcess(self._arguments, self._environment)
            while not process.ended() and not self._stop.wait(_WATCH):
                pass
            process.stop()
            wait = _FIRST_WAIT if time.monotonic() - begun > _STEADY else wait
            self._stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)


@dataclass(frozen=True)
class WorkerSettings:
    """How the worker works: the arguments of :func:`model_check`."""

    work: Path
    cache_dir: Path | None = None
    device: str | None = None
    create_pr: bool | None = None

    def arguments(self, folder: Path) -> list[str]:
        """Those of the program ``worker`` for the queue in ``folder``."""
        found = [str(folder), "--work", str(self.work)]
        found += [] if self.cache_dir is None else ["--cache-dir", str(self.cache_dir)]
        found += [] if self.device is None else ["--device", self.device]
        if self.create_pr is not None:
            found.append("--create-pr" if self.create_pr else "--no-create-pr")
        return found


def serve(
    secret: Secret,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int,
    capacity: int = 1000,
    worker: WorkerSettings | None = None,
    secret_variable: str = SECRET_VARIABLE,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Listen until a signal comes, with the queue in ``folder``; ``ready`` is told the address.

    With ``worker`` a process of its own does the work as well; it does not get
    ``secret_variable``. Raises MissingExtraError without the extra ``web``, InputError where
    nothing can listen there or the queue cannot be used, KeyboardInterrupt for Ctrl-C.
    """
    with ExitStack() as stack:
        queue = DeliveryQueue(folder, capacity=capacity)
        stack.callback(queue.close)
        process = None
        if worker is not None:
            process = WorkerKeeper(worker.arguments(folder), without=(secret_variable,))
        alive = None if process is None else process.is_alive
        server = make_server(create_app(secret, queue, worker_alive=alive))
        socket = stack.enter_context(listen(host, port))
        if process is not None:
            stack.enter_context(process)
        name, number = socket.getsockname()[:2]
        ready(f"http://[{name}]:{number}{PATH}" if ":" in name else f"http://{name}:{number}{PATH}")
        server.run(sockets=[socket])


def main() -> int:
    """The program: ``worker`` or ``job``, and what follows is theirs."""
    programs: dict[str, Callable[[Sequence[str]], int]] = {"worker": worker_main, "job": job_main}
    name, *arguments = sys.argv[1:] or [""]
    if name not in programs:
        sys.stderr.write(f"usage: python -m {_MODULE} {'|'.join(programs)} ...\n")
        return 2
    return programs[name](arguments)


if __name__ == "__main__":
    with guarded_output():
        sys.exit(main())
