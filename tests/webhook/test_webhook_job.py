"""What a job does with a delivery: the environment that the hub gives it, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gmi_registry.errors import AuthError, GenerationError, InputError
from gmi_registry.regeneration import Result
from gmi_registry.regeneration.webhook_service import CheckResult, check_result, run_job
from tests.support.delivery import SECRET, body
from tests.support.loopback import User
from tests.support.regenerator import WEIGHTS, Regenerator, card, digest_of

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "ci" / "hf_job.py"


def given(content=None, **changes):
    """What the hub sets, with the secret that was handed over at the installation."""
    found = {
        "WEBHOOK_PAYLOAD": (content or body()).decode(),
        "WEBHOOK_REPO_ID": "ada/style",
        "WEBHOOK_SECRET": SECRET,
        "GMI_WEBHOOK_SECRET": SECRET,
    }
    return {name: text for name, text in (found | changes).items() if text is not None}


def fresh(repo):
    return CheckResult("done", "fresh")


def never(repo):
    raise AssertionError(repo)


def test_a_change_is_looked_at():
    assert run_job([], given(), fresh) == (("ada/style", CheckResult("done", "fresh")),)


def test_the_payload_counts_and_not_the_name_beside_it():
    (done,) = run_job([], given(WEBHOOK_REPO_ID="eve/other"), fresh)
    assert done[0] == "ada/style"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (body(ref="refs/pr/1"), "ignored: not the branch main"),
        (body(kind="dataset"), "ignored: not a model"),
        (body(scope="discussion"), "ignored: no change of files"),
        (b"", "no delivery"),
    ],
)
def test_what_is_not_concerned_ends_at_once(content, words, capsys):
    environment = given() | {"WEBHOOK_PAYLOAD": content.decode()}
    assert run_job([], environment, never) == ()
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("secret", [None, "", "x", SECRET[:-1], SECRET + "x", SECRET[::-1]])
def test_a_delivery_without_the_secret_is_refused(secret):
    with pytest.raises(AuthError, match="missing or wrong") as refused:
        run_job([], given(WEBHOOK_SECRET=secret), never)
    assert SECRET not in refused.value.message + str(refused.value.hint)


@pytest.mark.parametrize("expected", [None, "", "short"])
def test_without_a_secret_of_its_own_a_job_believes_nothing(expected):
    with pytest.raises(InputError, match="GMI_WEBHOOK_SECRET"):
        run_job([], given(GMI_WEBHOOK_SECRET=expected, WEBHOOK_SECRET=expected), never)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\x00", b"x" * 70_000])
def test_what_is_no_payload_is_refused(content):
    with pytest.raises(InputError, match="cannot be read"):
        run_job([], given(content), never)


def test_named_models_are_looked_at_without_a_delivery():
    def look(repo):
        if repo == "ada/broken":
            raise GenerationError("it cannot be drawn", hint="mend it")
        return fresh(repo)

    assert run_job(["hf:ada/broken@main", "ada/style"], {}, look) == (
        ("ada/broken", CheckResult("failed", "it cannot be drawn (mend it)")),
        ("ada/style", CheckResult("done", "fresh")),
    )
    with pytest.raises(InputError):
        run_job(["civitai:1@2"], {}, never)


def test_two_jobs_for_one_change_describe_it_once(hf_hub):
    """They share nothing but the hub."""
    hf_hub.add_user(User("ada", "hf_ada"))
    sha = hf_hub.add_repo("ada/style", {"README.md": card(), WEIGHTS: b"weights"})
    one, two = Regenerator(hf_hub, "hf_ada"), Regenerator(hf_hub, "hf_ada")
    for runner in (one, two):
        (done,) = run_job([], given(body("ada/style", sha)), runner.look)
        assert done[1].outcome == "done"
        runner.stop()
    assert (one.made, two.made) == ([("ada/style", digest_of(b"weights"))], [])


COMMIT = "c" * 40


@pytest.mark.parametrize(
    ("result", "looked"),
    [
        (
            {"outcome": "published", "where": f"http://hub/ada/style/commit/{COMMIT}"},
            CheckResult("done", "published: why", commit=COMMIT),
        ),
        (
            {"outcome": "published", "where": "http://hub/ada/style/tree/main/gmi"},
            CheckResult("done", "published: why"),
        ),
        (
            {"outcome": "proposed", "where": "http://hub/ada/style/discussions/1"},
            CheckResult("done", "proposed: why"),
        ),
        ({"outcome": "fresh"}, CheckResult("done", "fresh: why")),
        ({"outcome": "set aside"}, CheckResult("done", "set aside: why")),
        ({"outcome": "busy"}, CheckResult("passing", "why")),
        ({"outcome": "lost"}, CheckResult("passing", "why")),
        ({"outcome": "failed"}, CheckResult("failed", "why")),
        ({"outcome": "failed", "error": "AuthError"}, CheckResult("passing", "why", after=600.0)),
        ({"outcome": "failed", "passing": True}, CheckResult("passing", "why")),
    ],
)
def test_what_a_regeneration_came_to(result, looked):
    assert check_result([Result("hf:ada/style", reason="why", **result)]) == looked
    if looked.outcome != "done":
        assert check_result(
            [Result("hf:ada/a", "fresh", "x"), Result("hf:ada/b", reason="why", **result)]
        )


def start(command, tmp_path, **environment):
    """The program as the hub starts it; nothing of this account's."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=kept | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | environment,
    )


@pytest.mark.parametrize(
    "command", [["-m", "gmi_registry.regeneration.webhook_service", "job"], [str(SCRIPT)]]
)
def test_the_first_run_of_a_job_costs_nothing(command, tmp_path):
    done = start(command, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no delivery")


def test_a_delivery_that_is_refused_fails_the_job(tmp_path):
    done = start([str(SCRIPT)], tmp_path, **given(WEBHOOK_SECRET="x" * 32))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: the secret of the delivery is missing or wrong"
    assert SECRET not in done.stdout + done.stderr


def test_the_script_names_what_it_needs():
    """As PEP 723 wants it: a block of comments that is TOML."""
    found = re.search(r"(?m)^# /// script$\n((?:^#(?: .*)?$\n)+?)^# ///$", SCRIPT.read_text())
    header = tomllib.loads("".join(line[2:] for line in found[1].splitlines(keepends=True)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert header["requires-python"] == project["requires-python"]
    # Nobody holds the name on the package index yet, so the script names a repository.
    (wanted,) = header["dependencies"]
    assert wanted.startswith("gmi-registry[publish] @ git+https://example.org/")
    assert "publish" in project["optional-dependencies"]
