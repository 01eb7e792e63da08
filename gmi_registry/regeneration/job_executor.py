"""Jobs on Hugging Face's machines, one a model.

``python -m gmi_registry.regeneration.job_executor`` is what such a Job runs: one work from its
environment, one result into its log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from gmi_registry.errors import AuthError, GmiError, InputError, requirement_elsewhere
from gmi_registry.regeneration.processes import usual_perform
from gmi_registry.regeneration.work import (
    Perform,
    Result,
    Work,
    failed,
    lost,
    performed,
    require_workers,
)
from gmi_registry.sanitize import add_secret, guarded_output

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WORK = "GMI_WORK"
"""The variable that holds the work as JSON."""

_MARK = "gmi-result "
_LONGEST = 16_384
_DONE = ("published", "proposed", "fresh", "busy", "set aside")


def job_main(perform: Perform | None = None) -> int:
    """Do the work of ``GMI_WORK`` and print its result; 0 unless it failed.

    Tokens are those of the environment, HF_TOKEN and CIVITAI_TOKEN. Raises InputError where the
    variable holds no work.
    """
    with tempfile.TemporaryDirectory(prefix="gmi-work-") as folder:
        work = read_work(os.environ.get(WORK, ""), folder)
        result = performed(perform or usual_perform(), work)
    print(result_line(result), flush=True)
    return 0 if result.outcome in _DONE else 1


def work_text(work: Work) -> str:
    """The work for another machine: without tokens, and without folders of this one.

    The registry is named that GMI_REGISTRY names here.
    """
    document = asdict(work)
    document["options"]["registry"] = work.options.registry or os.environ.get("GMI_REGISTRY")
    for name in ("work", "cache_dir", "token", "civitai_token", "device"):
        del document["options"][name]
    return json.dumps(document, sort_keys=True)


def read_work(text: str, folder: str) -> Work:
    """What :func:`work_text` wrote, to be done in ``folder``. Raises InputError for others."""
    try:
        document = json.loads(text)
        document["options"] = {"work": folder, **document["options"]}
        if document["options"]["work"] != folder:
            raise ValueError("a work says nothing of the folders of another machine")
        return TypeAdapter(Work).validate_json(json.dumps(document), strict=True)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{WORK} holds no work", hint="gmi regenerate --executor hf-jobs starts Jobs"
        ) from error


def result_line(result: Result) -> str:
    """One line of a log."""
    return _MARK + json.dumps(asdict(result), sort_keys=True)


def read_result(lines: Iterable[str], model: str) -> Result | None:
    """The last result of ``model`` among the lines of a log, of which anybody may print some.

    None where there is none that is whole.
    """
    found = None
    for line in lines:
        if line.startswith(_MARK) and len(line) <= _LONGEST:
            result = _result(line.removeprefix(_MARK))
            if result is not None and result.model == model:
                found = result
    return found


def _result(text: str) -> Result | None:
    try:
        result = TypeAdapter(Result).validate_json(text, strict=True)
    except ValueError:
        return None
    texts = (result.reason, result.where, result.hint, result.digest, result.error)
    return result if all(text is None or text.isprintable() for text in texts) else None


_COMMAND = ("-m", "gmi_registry.regeneration.job_executor")
_LABEL = "gmi-regenerate"
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")
_OVER = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
_TAIL = 200
_UNHEARD = 5


def job_package(named: str | None = None, *, pinned: bool) -> str:
    """What a Job installs, as for pip: ``named``, else what GMI_PACKAGE says, else what this copy
    was installed from.

    Of a repository that is this very commit where it is ``pinned``, as for a Job that speaks with
    this copy; else what it holds when the Job runs, as for one that stands for years. Raises
    InputError where it was a folder of this machine, or cannot be told: the bare name may be a
    stranger's.
    """
    found = (
        named or os.environ.get("GMI_PACKAGE") or requirement_elsewhere("publish", pinned=pinned)
    )
    if found is None:
        raise InputError(
            "a Job cannot install this package from where this copy came from",
            hint="name a repository that it can reach: "
            "export GMI_PACKAGE='gmi-registry[publish] @ git+https://ADDRESS'",
        )
    return found


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
    ``timeout`` the most seconds of one, or a text such as ``2h``; ``package`` what a Job installs
    (None: see :func:`job_package`). ``token`` (None: the one of ``hf auth login`` or HF_TOKEN)
    starts the Jobs, and is given to them as a secret, which the hub keeps encrypted: they push with
    it. So is ``civitai_token``.

    Each is asked after every ``interval`` seconds; the result is read from its log, and where the
    result has no address of its own, ``where`` is the Job's page, which shows the log. A Job that
    ended without a result, or that the hub does not speak of five times, is ``lost``. Closing the
    iterator, or Ctrl-C in it, cancels those under way. Models in a folder of this machine cannot be
    reached from there, and fail; where a Job cannot be begun it says nothing of the model either.

    Raises InputError for fewer than one worker, and where no Job could install this package.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        namespace: str | None = None,
        flavor: str | None = None,
        timeout: int | str | None = None,
        package: str | None = None,
        token: str | None = None,
        civitai_token: str | None = None,
        endpoint: str | None = None,
        interval: float = 10.0,
    ) -> None:
        require_workers(workers)
        self._workers = workers
        self._namespace = namespace
        self._flavor = flavor
        self._timeout = timeout
        self._package = job_package(package, pinned=True)
        self._token = token
        self._civitai_token = civitai_token
        self._endpoint = endpoint
        self._interval = interval

    def run(self, works: Iterator[Work]) -> Iterator[Result]:
        """The results in the order in which the Jobs end.

        Raises AuthError without a token, or with one that the hub does not know.
        """
        add_secret(self._civitai_token)
        api = hub_api(self._token, "Jobs need a token, and you have none", self._endpoint)
        token = str(api.token)
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

    def _own_name(self, api: HfApi) -> str:
        from gmi_registry.hubs.huggingface.client import retried

        with hub_errors(api):
            return str(retried(api.whoami)["name"])

    def _begin(self, api: HfApi, namespace: str, token: str, work: Work) -> _Running | Result:
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
            with hub_errors(api, writing=True), warnings.catch_warnings():
                # That the call may change is for us to know.
                warnings.simplefilter("ignore", UserWarning)
                job = api.run_uv_job("python", script_args=list(_COMMAND), **settings)
        except GmiError as error:
            return failed(work, error, passing=True)
        return _Running(work, job.id, job.url, time.monotonic())

    def _look(self, api: HfApi, namespace: str, job: _Running) -> Result | None:
        """What became of it; None while it goes on."""
        try:
            with hub_errors(api):
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


def hub_api(token: str | None, missing: str, endpoint: str | None = None) -> HfApi:
    """The client of the hub at ``endpoint`` (None: HF_ENDPOINT's), for ``token`` (None: the one of
    ``hf auth login`` or HF_TOKEN). Raises AuthError, which says what is ``missing``, without."""
    from huggingface_hub import HfApi, constants, get_token

    place = (endpoint or constants.ENDPOINT).rstrip("/")
    found = token or get_token()
    add_secret(found)
    if not found:
        raise AuthError(f"{place}: {missing}", hint="hf auth login")
    return HfApi(place, token=found, library_name="gmi-registry")


@contextlib.contextmanager
def hub_errors(api: HfApi, *, writing: bool = False) -> Iterator[None]:
    """Around calls of the client: its errors become those of this package."""
    from gmi_registry.hubs.huggingface.client import HubRequest, translated_errors

    with translated_errors(HubRequest(api.endpoint, True, writing=writing)):
        yield


if __name__ == "__main__":
    with guarded_output():
        sys.exit(job_main())
