"""Ray tasks: on a cluster, or on a Ray that is started here for the run."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

from gmi_registry.errors import InputError, MissingExtraError
from gmi_registry.regeneration.processes import estimated_need, usual_perform
from gmi_registry.regeneration.work import Perform, Result, Work, lost, performed, require_workers

_STORE = 80 * 2**20  # works and results are a few kB; Ray takes no less than 75 MiB
_LOOK_AGAIN = 1.0
_ANSWER = 10.0


class RayExecutor:
    """Up to ``workers`` Ray tasks at a time, one model each.

    ``address`` is that of a cluster, on whose nodes this package is installed. Tokens are not sent
    there: each node has its own, in HF_TOKEN. Without it (None) the Ray of the caller serves where
    he has one, else one is started on this machine and ended with the run; nothing is reported to
    its makers.

    A task claims ``num_cpus``, ``num_gpus`` (None: one where the cluster has any) and the memory in
    bytes that its model is estimated to ``need``, so that Ray begins no more than fit. A task whose
    worker died is begun again ``max_retries`` times, and goes on from the images that are kept;
    then the work is ``lost``. Closing the iterator, or Ctrl-C in it, cancels all tasks.

    Raises MissingExtraError without the package ray, InputError for fewer than one worker.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        perform: Perform | None = None,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        max_retries: int = 1,
        need: Callable[[Work], int] = estimated_need,
    ) -> None:
        require_workers(workers)
        self._ray = _library()
        self._workers = workers
        self._perform = perform
        self._address = address
        self._num_cpus = num_cpus
        self._num_gpus = num_gpus
        self._max_retries = max_retries
        self._need = need

    def run(self, works: Iterator[Work]) -> Iterator[Result]:
        """The results in the order in which the models are done.

        Raises InputError where ``address`` leads to no cluster.
        """
        ray = self._ray
        perform = self._perform or usual_perform()
        first = next(works, None)
        if first is None:
            # Starting Ray takes some seconds.
            return
        works = itertools.chain((first,), works)
        started = not ray.is_initialized()
        pending: dict[Any, Work] = {}
        more = True
        try:
            if started:
                self._start()
            task = ray.remote(performed)
            gpus, room = self._gpus(), _largest_node(ray)
            while more or pending:
                while more and len(pending) < self._workers:
                    work = next(works, None)
                    if work is None:
                        more = False
                        break
                    settings = {
                        "num_cpus": self._num_cpus,
                        "num_gpus": gpus,
                        # More than any node has would wait for ever.
                        "memory": min(self._need(work), room),
                        "max_retries": self._max_retries,
                        "retry_exceptions": False,
                        "name": work.model,
                    }
                    pending[task.options(**settings).remote(perform, self._sent(work))] = work
                if not pending:
                    break
                # Not without an end: the wait itself cannot be interrupted everywhere.
                done, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_AGAIN)
                for reference in done:
                    work = pending.pop(reference)
                    yield self._result(reference, work)
        finally:
            for reference in pending:
                with contextlib.suppress(Exception):  # it may end in this moment
                    ray.cancel(reference, force=True)
            if started:
                ray.shutdown()

    def _start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"logging_level": "error", "log_to_driver": False}
        if self._address is not None:
            try:
                _require_answer(self._address)
                self._ray.init(address=self._address, **quiet)
            except Exception as error:  # of half a dozen classes, none of which says what to do
                raise InputError(
                    f"no Ray cluster answers at {self._address[:120]!r}",
                    hint="ray status, or leave the address out to start one on this machine",
                ) from error
            return
        cpus = math.ceil(self._workers * self._num_cpus)
        threads = max(1, (os.cpu_count() or 1) // self._workers)
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._ray.init(
            address="local",
            num_cpus=cpus,
            # Neither asked of a name server nor open to the network.
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            object_store_memory=_STORE,
            runtime_env={"env_vars": environment},
            **quiet,
        )

    def _gpus(self) -> float:
        if self._num_gpus is not None:
            return self._num_gpus
        return 1 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0

    def _sent(self, work: Work) -> Work:
        if self._address is None:
            return work
        registry = work.options.registry or os.environ.get("GMI_REGISTRY")
        options = dataclasses.replace(
            work.options, token=None, civitai_token=None, registry=registry
        )
        return dataclasses.replace(work, options=options)

    def _result(self, reference: Any, work: Work) -> Result:
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return lost(
                work,
                f"its Ray task ended with {type(error).__name__}",
                hint="run it again, with fewer --workers if memory was short",
            )
        return found if isinstance(found, Result) else lost(work, "its Ray task gave no result")


def _library() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError("ray", extra="ray", purpose="the executor ray") from error


def _require_answer(address: str) -> None:
    """Raises OSError where nothing listens there, which Ray takes two minutes to find out."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()


def _largest_node(ray: Any) -> int:
    nodes = (node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
    return int(max(nodes, default=0))
