"""Jobs on Hugging Face's machines, one a model."""

from __future__ import annotations

import contextlib
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import AuthError, GmiError, InputError
from gmi_registry.regeneration.executor import Result, Work
from gmi_registry.regeneration.executors.failure import failed, lost
from gmi_registry.regeneration.executors.job import WORK, read_result, work_text
from gmi_registry.sanitize import add_secret

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from gmi_registry.hubs.huggingface.client import HubRequest

__all__ = ["HfJobsExecutor"]

PACKAGE = "gmi-registry[publish]"
_COMMAND = ("-m", "gmi_registry.regeneration.executors.job")
_LABEL = "gmi-regenerate"
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")
_OVER = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
_TAIL = 200
_UNHEARD = 5


@dataclass
class _Running:
    work: Work
    id: str
    url: str
    begun: float
    unheard: int = 0


class HfJobsExecutor:
    """Up to ``workers`` Jobs at a time, one model each, in ``namespace`` (None: the token's owner).

    Jobs cost their namespace money. ``flavor`` is the hardware, as in ``hf jobs hardware``;
    ``timeout`` the most seconds of one, or a text such as ``2h``; ``package`` what a Job installs.
    ``token`` (None: the one of ``hf auth login`` or HF_TOKEN) starts the Jobs, and is given to them
    as a secret, which the hub keeps encrypted: they push with it. So is ``civitai_token``.

    Each is asked after every ``interval`` seconds; the result is read from its log, and where the
    result has no address of its own, ``where`` is the Job's page, which shows the log. A Job that
    ended without a result, or that the hub does not speak of five times, is ``lost``. Closing the
    iterator, or Ctrl-C in it, cancels those under way. Models in a folder of this machine cannot be
    reached from there, and fail; where a Job cannot be begun it says nothing of the model either.

    Raises InputError for fewer than one worker.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        namespace: str | None = None,
        flavor: str | None = None,
        timeout: int | str | None = None,
        package: str = PACKAGE,
        token: str | None = None,
        civitai_token: str | None = None,
        endpoint: str | None = None,
        interval: float = 10.0,
    ) -> None:
        if workers < 1:
            raise InputError(f"{workers} workers do nothing", hint="use --workers 1 or more")
        self._workers = workers
        self._namespace = namespace
        self._flavor = flavor
        self._timeout = timeout
        self._package = package
        self._token = token
        self._civitai_token = civitai_token
        self._endpoint = endpoint
        self._interval = interval

    def run(self, works: Iterator[Work]) -> Iterator[Result]:
        """The results in the order in which the Jobs end.

        Raises AuthError without a token, or with one that the hub does not know.
        """
        api, token = self._api()
        namespace = self._namespace or self._own_name(api)
        running: list[_Running] = []
        more = True
        try:
            while more or running:
                while more and len(running) < self._workers:
                    work = next(works, None)
                    if work is None:
                        more = False
                        break
                    begun = self._begin(api, namespace, token, work)
                    if isinstance(begun, Result):
                        yield begun
                    else:
                        running.append(begun)
                if running:
                    # A Job tells nobody that it has ended, and a hub may not be asked all the time.
                    time.sleep(self._interval)
                for job in list(running):
                    result = self._look(api, namespace, job)
                    if result is not None:
                        running.remove(job)
                        yield replace(result, seconds=round(time.monotonic() - job.begun, 3))
        finally:
            for job in running:
                with contextlib.suppress(Exception):  # each of the others is to be cancelled too
                    api.cancel_job(job_id=job.id, namespace=namespace)

    def _api(self) -> tuple[HfApi, str]:
        from huggingface_hub import HfApi, constants, get_token

        endpoint = (self._endpoint or constants.ENDPOINT).rstrip("/")
        token = self._token or get_token()
        for secret in (token, self._civitai_token):
            add_secret(secret)
        if token is None:
            raise AuthError(
                f"{endpoint}: Jobs need a token, and there is none", hint="hf auth login"
            )
        return HfApi(endpoint, token=token, library_name="gmi-registry"), token

    def _own_name(self, api: HfApi) -> str:
        from gmi_registry.hubs.huggingface.client import retried, translated_errors

        with translated_errors(self._asked(api)):
            return str(retried(api.whoami)["name"])

    def _begin(self, api: HfApi, namespace: str, token: str, work: Work) -> _Running | Result:
        from gmi_registry.hubs.huggingface.client import translated_errors

        if work.hub not in ("hf", "civitai"):
            return failed(
                work,
                InputError(
                    f"{work.model} lies in a folder of this machine, which no Job can reach",
                    hint="use --executor local",
                ),
                passing=True,
            )
        secrets = {"HF_TOKEN": token}
        if self._civitai_token or work.options.civitai_token:
            secrets["CIVITAI_TOKEN"] = self._civitai_token or work.options.civitai_token or ""
        settings: dict[str, Any] = {
            "dependencies": [self._package],
            "env": {WORK: work_text(work), "HF_ENDPOINT": api.endpoint},
            "secrets": secrets,
            "flavor": self._flavor,
            "timeout": self._timeout,
            "name": f"gmi-{_NO_NAME.sub('-', work.model)}"[:60],
            "labels": {"purpose": _LABEL},
            "namespace": namespace,
        }
        try:
            # Once, and no second time: what looks like a failure may have begun a Job.
            with translated_errors(self._asked(api, writing=True)), warnings.catch_warnings():
                # That the call may change is for us to know.
                warnings.simplefilter("ignore", UserWarning)
                job = api.run_uv_job("python", script_args=list(_COMMAND), **settings)
        except GmiError as error:
            return failed(work, error, passing=True)
        return _Running(work, job.id, job.url, time.monotonic())

    def _look(self, api: HfApi, namespace: str, job: _Running) -> Result | None:
        """What became of it; None while it goes on."""
        from gmi_registry.hubs.huggingface.client import translated_errors

        try:
            with translated_errors(self._asked(api)):
                status = api.inspect_job(job_id=job.id, namespace=namespace).status
        except GmiError as error:
            job.unheard += 1
            if job.unheard < _UNHEARD:
                return None
            why = f"the hub says nothing of its Job: {error.message}"
            return lost(job.work, why, hint=f"see {job.url}", where=job.url)
        job.unheard = 0
        stage = str(getattr(status.stage, "value", status.stage))
        if stage not in _OVER:
            return None
        found = read_result(self._log(api, namespace, job), job.work.model)
        if found is not None:
            return found if found.where else replace(found, where=job.url)
        ended = "was cancelled" if stage == "CANCELED" else f"ended as {stage} without a result"
        said = f": {status.message}" if status.message else ""
        return lost(job.work, f"its Job {ended}{said}", hint=f"see {job.url}", where=job.url)

    def _log(self, api: HfApi, namespace: str, job: _Running) -> list[str]:
        """The last lines that it printed; none where the hub does not give them."""
        lines: list[str] = []
        with contextlib.suppress(Exception):  # of the stream; the Job itself is known to be over
            for line in api.fetch_job_logs(job_id=job.id, namespace=namespace, tail=_TAIL):
                lines.append(line)
                if len(lines) > 10 * _TAIL:
                    break
        return lines

    def _asked(self, api: HfApi, *, writing: bool = False) -> HubRequest:
        from gmi_registry.hubs.huggingface.client import HubRequest

        return HubRequest(api.endpoint, True, writing=writing)
