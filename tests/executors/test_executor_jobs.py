"""Jobs: the real client against a loopback hub, with a machine behind it that runs them."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from gmi_registry import errors
from gmi_registry.errors import AuthError, InputError, install_command, upgrade_hint
from gmi_registry.regeneration import Options, Result, Work
from gmi_registry.regeneration.job_executor import (
    HfJobsExecutor,
    job_main,
    job_package,
    read_result,
    read_work,
    result_line,
    work_text,
)
from gmi_registry.regeneration.webhook_install import JobSettings
from tests.support import deeds
from tests.support.jobs_machine import Machine
from tests.support.loopback import Fault, User
from tests.support.loopback.fixtures import hf_hub
from tests.support.loopback.jobs import PACKAGE

__all__ = ["hf_hub"]

TOKEN = "hf_runnerrunnerrunner"


@pytest.fixture
def machine(hf_hub, monkeypatch):
    found = Machine()
    found.serve_with(monkeypatch)
    hf_hub.add_user(User("runner", TOKEN, orgs=("studio",)))
    return found


def executor(workers=2, **settings):
    return HfJobsExecutor(workers, **{"token": TOKEN, "interval": 0.05} | settings)


def results(run, works):
    return {result.model: result for result in run.run(iter(works))}


def test_each_model_has_a_job_and_its_result_comes_out_of_the_log(machine, tmp_path):
    works = deeds.works(tmp_path, "sleep 0", "refuse", "fail", "sleep 0", token=TOKEN)
    found = results(executor(flavor="t4-small", timeout="2h"), works)
    outcomes = [found[work.model].outcome for work in works]
    assert outcomes == ["published", "failed", "failed", "published"]
    assert found[works[0].model].images == 3
    assert found[works[1].model].hint == "train it"
    assert len(machine.made) == 4
    for identifier, job in machine.made.items():
        model = json.loads(job["environment"]["GMI_WORK"])["model"]
        assert machine.commands[identifier] == [
            "uv", "run", "--with", PACKAGE,
            "python", "-m", "gmi_registry.regeneration.job_executor",
        ]  # fmt: skip
        assert found[model].where.endswith(f"/jobs/runner/{identifier}")
        assert (job["flavor"], job["timeout"]) == ("t4-small", 7200)
        name = f"gmi-{model.replace(':', '-').replace('/', '-')}"
        assert job["labels"] == {"purpose": "gmi-regenerate", "name": name}


def test_a_token_goes_as_a_secret_and_no_other_way(machine, tmp_path):
    works = deeds.works(tmp_path, "fail", token=TOKEN)
    works = [
        replace(work, options=replace(work.options, civitai_token="of-civitai")) for work in works
    ]
    found = results(executor(), works)
    (identifier,) = machine.made
    assert machine.secrets[identifier] == {"HF_TOKEN": TOKEN, "CIVITAI_TOKEN": "of-civitai"}
    shown = json.dumps(machine.made[identifier]) + str(machine.commands) + str(found)
    assert TOKEN not in shown
    assert "of-civitai" not in shown
    assert str(tmp_path) not in shown


def test_what_dies_without_a_result_is_lost(machine, tmp_path):
    works = deeds.works(tmp_path, "die", "sleep 0", "sleep 0", "sleep 0")
    machine.stages = {
        works[1].model: "CANCELED",
        works[2].model: "DELETED",
        works[3].model: "ERROR",
    }
    found = results(executor(4), works)
    assert {result.outcome for result in found.values()} == {"lost"}
    assert found[works[1].model].reason == "its Job was cancelled: as it was told"
    assert found[works[3].model].reason == "its Job ended as ERROR without a result: as it was told"
    for result in found.values():
        assert "/jobs/runner/" in result.hint


def test_no_more_jobs_than_workers(machine, tmp_path):
    most = 0

    def source():
        for work in deeds.works(tmp_path, *["sleep 0.1"] * 5):
            nonlocal most
            under_way = [
                job
                for job in machine.made.values()
                if job["status"]["stage"] in ("SCHEDULING", "RUNNING")
            ]
            most = max(most, len(under_way))
            yield work

    assert len(list(executor(2).run(source()))) == 5
    # Asked before each begins: at most one other is under way then.
    assert most <= 1


def test_closing_cancels_what_is_under_way(machine, tmp_path):
    run = executor(3).run(iter(deeds.works(tmp_path, "sleep 0", "sleep 60", "sleep 60")))
    assert next(run).outcome == "published"
    run.close()
    stages = sorted(job["status"]["stage"] for job in machine.made.values())
    assert stages == ["CANCELED", "CANCELED", "COMPLETED"]


def test_an_account_without_a_plan(machine, tmp_path):
    machine.allowed = False
    (result,) = executor().run(iter(deeds.works(tmp_path, "sleep 0")))
    assert (result.outcome, result.passing) == ("failed", True)
    assert "402" in result.reason


def test_nobody_is_asked_twice_to_begin(machine, hf_hub, tmp_path):
    """A Job may run though the answer to the question for it was lost; a second would too."""
    hf_hub.inject(Fault("500", method="POST", path_regex="/api/jobs/"))
    (result,) = executor().run(iter(deeds.works(tmp_path, "sleep 0")))
    assert (result.outcome, result.passing) == ("failed", True)
    asked = [it for it in hf_hub.requests if it.method == "POST" and "/api/jobs/" in it.path]
    assert len(asked) == 1


def test_a_hub_that_is_silent_for_a_while(machine, hf_hub, tmp_path):
    hf_hub.inject(Fault("500", method="GET", path_regex="/api/jobs/", times=4))
    (result,) = executor().run(iter(deeds.works(tmp_path, "sleep 0")))
    assert result.outcome == "published"
    hf_hub.inject(Fault("500", method="GET", path_regex="/api/jobs/", times=5))
    (result,) = executor().run(iter(deeds.works(tmp_path, "sleep 0")))
    assert result.outcome == "lost"
    assert result.reason.startswith("the hub says nothing of its Job: ")


def test_models_of_this_machine_are_out_of_reach(machine, tmp_path):
    work = Work(str(tmp_path), "local:flat", "changed", Options(str(tmp_path)))
    (result,) = executor().run(iter([work]))
    assert (result.outcome, result.passing, result.hint) == ("failed", True, "use --executor local")
    assert machine.made == {}


def test_jobs_of_an_organisation_and_of_strangers(machine, tmp_path):
    works = deeds.works(tmp_path, "sleep 0")
    (result,) = executor(namespace="studio").run(iter(works))
    assert "/jobs/studio/" in result.where
    (refused,) = executor(namespace="strangers").run(iter(works))
    assert (refused.outcome, refused.error) == ("failed", "AuthError")


def test_without_a_token(hf_hub, tmp_path):
    with pytest.raises(AuthError) as caught:
        list(HfJobsExecutor(1, package=PACKAGE).run(iter(deeds.works(tmp_path, "sleep 0"))))
    assert caught.value.hint == "hf auth login"


RESULT = Result("hf:a/b", "published", "done", digest="1" * 64, images=3, seconds=1.5)


def test_results_and_works_survive_their_texts(monkeypatch):
    monkeypatch.delenv("GMI_REGISTRY", raising=False)
    assert read_result(["a", result_line(RESULT), "b"], "hf:a/b") == RESULT
    work = Work("hf", "hf:a/b", "x", Options("/here", "/there", "r/r", True, "cuda", "hf_t", "c"))
    read = read_work(work_text(work), "elsewhere")
    assert read == replace(work, options=Options("elsewhere", registry="r/r", create_pr=True))
    bare = replace(work, options=Options("/here"))
    assert read_work(work_text(bare), "there") == replace(work, options=Options("there"))
    monkeypatch.setenv("GMI_REGISTRY", "my/registry")
    assert read_work(work_text(bare), "there").options.registry == "my/registry"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "gmi-result ",
        "gmi-result []",
        "gmi-result " + "[" * 100_000,
        result_line(replace(RESULT, model="hf:another/one")),
        result_line(replace(RESULT, outcome="splendid")),
        result_line(replace(RESULT, reason="\x1b[31mred")),
        result_line(replace(RESULT, images="many")),
        result_line(replace(RESULT, where=["x"])),
        result_line(RESULT)[:-5],
        "printed first: " + result_line(RESULT),
    ],
)
def test_other_lines_are_no_result(line):
    assert read_result([line], "hf:a/b") is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"hub": 1}', '{"options": {"work": "/etc"}}'])
def test_other_texts_are_no_work(text, monkeypatch):
    monkeypatch.setenv("GMI_WORK", text)
    with pytest.raises(InputError, match="holds no work"):
        job_main(deeds.do)


@pytest.mark.parametrize(
    ("origin", "package"),
    [
        (None, "gmi-registry[publish]"),
        (
            '{"url": "https://example.org/g.whl"}',
            "gmi-registry[publish] @ https://example.org/g.whl",
        ),
        (
            '{"url": "https://example.org/g", "vcs_info": {"vcs": "git", "commit_id": "1f"}}',
            "gmi-registry[publish] @ git+https://example.org/g",
        ),
    ],
)
def test_a_job_installs_what_this_copy_was_installed_from(monkeypatch, origin, package):
    install_from(monkeypatch, origin)
    commit = "@1f" if "git+" in package else ""
    assert job_package(pinned=True) == package + commit
    # What stands for long is the same order after an update, and follows the repository.
    assert job_package(pinned=False) == package
    assert JobSettings(token=TOKEN).package == package
    assert upgrade_hint() == f"pip install --upgrade '{package.replace('[publish]', '')}'"
    assert job_package("other", pinned=True) == "other"


@pytest.mark.parametrize(
    "origin",
    [
        '{"url": "file:///home/ada/gmi%20registry", "dir_info": {}}',
        "not json",
        "[]",
        '{"url": "https://example.org/g", "vcs_info": "git"}',
        PackageNotFoundError("gmi-registry"),
    ],
)
def test_a_job_is_refused_where_nothing_says_what_it_would_install(monkeypatch, origin):
    install_from(monkeypatch, origin)
    with pytest.raises(InputError, match="from where this copy came from") as refused:
        HfJobsExecutor(1)
    assert "GMI_PACKAGE" in refused.value.hint
    folder = (
        "/home/ada/gmi registry" if "file:" in str(origin) else Path(errors.__file__).parents[1]
    )
    assert install_command("web") == f"pip install '{folder}[web]'"
    assert upgrade_hint() == f"update gmi-registry in {folder}"
    monkeypatch.setattr(errors, "__file__", "/usr/lib/site-packages/gmi_registry/errors.py")
    if "file:" not in str(origin):  # no checkout either
        assert install_command("web") == "pip install 'gmi-registry[web]'"
    monkeypatch.setenv("GMI_PACKAGE", PACKAGE)
    assert job_package(pinned=True) == PACKAGE


def install_from(monkeypatch, origin):
    """Let the package have come from ``origin``, the text of its direct_url.json."""

    def distribution(name):
        if isinstance(origin, Exception):
            raise origin
        return SimpleNamespace(read_text=lambda name: origin)

    monkeypatch.delenv("GMI_PACKAGE", raising=False)
    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
