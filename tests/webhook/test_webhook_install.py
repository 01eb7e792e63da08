"""Webhooks are made once, by the real client; what the hub keeps is what is needed, and no more."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import HfApi
from typer.testing import CliRunner

from gmi_registry.cli.main import app
from gmi_registry.errors import AuthError, HubError, InputError, SpecNotFoundError
from gmi_registry.regeneration.webhook_install import (
    JobSettings,
    account_api,
    install_schedule,
    install_webhook,
    list_webhooks,
    receiver_address,
    remove_webhook,
    shown_address,
)
from gmi_registry.regeneration.webhook_receiver import Secret
from tests.support.delivery import SECRET
from tests.support.loopback import Fault, User
from tests.support.loopback.jobs import PACKAGE, Jobs

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

TOKEN = "hf_adaMayWrite"
JOB_TOKEN = "hf_onlyForTheJob"
URL = "https://hooks.example.org"
ADDRESS = f"{URL}/webhook"
REPOS = ("ada/one", "ada/two")


@pytest.fixture
def jobs(hf_hub, monkeypatch):
    made = Jobs()
    made.serve_with(monkeypatch)
    hf_hub.add_user(User("ada", TOKEN, orgs=("paint",)))
    hf_hub.add_user(User("ben", "hf_benMayRead", role="read"))
    for repo in (*REPOS, "ben/three"):
        hf_hub.add_repo(repo, {"README.md": b"# Style\n"})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("GMI_WEBHOOK_SECRET", SECRET)
    return made


@pytest.fixture
def api(jobs):
    return account_api()


def order(**changes):
    return JobSettings(**{"token": JOB_TOKEN, **changes})


def install(api, repos=REPOS, secret=SECRET, **where):
    return [it.state for it in install_webhook(api, repos, secret=Secret(secret), **where)]


def test_one_webhook_a_model_and_none_twice(api, jobs):
    assert install(api, url=URL) == ["made", "made"]
    assert install(api, url=URL) == ["there", "there"]
    assert install(api, ["hf:ada/two", "ben/three", "ben/three"], url=ADDRESS) == ["there", "made"]
    assert [webhook["url"] for webhook in jobs.webhooks.values()] == [ADDRESS] * 3
    assert [webhook["watched"] for webhook in jobs.webhooks.values()] == [
        [{"type": "model", "name": name}] for name in (*REPOS, "ben/three")
    ]
    assert {tuple(webhook["domains"]) for webhook in jobs.webhooks.values()} == {("repo",)}
    assert {webhook["secret"] for webhook in jobs.webhooks.values()} == {SECRET}


def test_another_place_is_another_webhook(api, jobs):
    install(api, url=URL)
    assert install(api, url="https://other.example.org/gmi/") == ["made", "made"]
    assert len(jobs.webhooks) == 4


def test_one_that_is_off_or_has_another_secret_is_put_right(api, jobs):
    install(api, url=URL)
    first, second = jobs.webhooks.values()
    first["disabled"] = True
    second["secret"] = "another-secret-of-before"
    second["watched"].append({"type": "org", "name": "paint"})
    assert install(api, url=URL) == ["updated", "updated"]
    assert (first["disabled"], second["secret"]) == (False, SECRET)
    assert second["watched"][1] == {"type": "org", "name": "paint"}
    assert install(api, url=URL) == ["there", "there"]
    assert len(jobs.webhooks) == 2


def test_a_job_is_run_once_and_each_webhook_starts_it(api, jobs, hf_hub):
    assert install(api, job=order()) == ["made", "made"]
    (job,) = jobs.made.values()
    assert job["command"] == [
        *("uv", "run", "--with", PACKAGE, "python", "-m"),
        *("gmi_registry.regeneration.webhook_service", "job"),
    ]
    assert (job["flavor"], job["timeoutSeconds"]) == ("t4-small", 7200)
    assert job["environment"] == {"HF_ENDPOINT": hf_hub.endpoint}
    # It is run without a delivery, so that it needs no token; the webhook's runs do.
    assert jobs.secrets[job["id"]] == {}
    for identifier in jobs.webhooks:
        given = {"HF_TOKEN": JOB_TOKEN, "GMI_WEBHOOK_SECRET": SECRET}
        assert jobs.secrets[identifier] == given
        assert jobs.webhooks[identifier]["job"]["command"] == job["command"]
    assert install(api, ["ben/three"], job=order()) == ["made"]
    assert len(jobs.made) == 1


def test_a_job_that_is_there_gets_the_order_and_the_token_of_now(api, jobs):
    install(api, job=order())
    assert install(api, job=order(token="hf_newerToken", flavor="l4x1")) == ["updated", "updated"]
    assert len(jobs.webhooks) == len(jobs.made) == 2
    assert {webhook["job"]["flavor"] for webhook in jobs.webhooks.values()} == {"l4x1"}
    assert {jobs.secrets[key]["HF_TOKEN"] for key in jobs.webhooks} == {"hf_newerToken"}


def test_a_job_without_labels_is_known_by_what_it_runs(api, jobs):
    install(api, job=order())
    for webhook in jobs.webhooks.values():
        webhook["job"]["labels"] = None
    assert install(api, job=order()) == ["updated", "updated"]
    assert len(jobs.webhooks) == 2


def test_somebody_elses_job_is_not_ours(api, jobs):
    install(api, job=order())
    for webhook in jobs.webhooks.values():
        webhook["job"] |= {"labels": {"purpose": "training"}, "command": ["python", "train.py"]}
    assert install(api, job=order()) == ["made", "made"]


def test_a_script_runs_in_place_of_the_package(api, jobs):
    install(api, job=order(script="https://hub.example/hf_job.py", registry="ada/specs"))
    (job,) = jobs.made.values()
    assert job["command"] == ["uv", "run", "https://hub.example/hf_job.py"]
    assert job["environment"]["GMI_REGISTRY"] == "ada/specs"
    assert install(api, job=order(script="https://hub.example/hf_job.py")) == ["updated"] * 2


@pytest.mark.parametrize(
    "script", ["ci/hf_job.py", "http://hub.example/x.py", "https://", "https://a b"]
)
def test_a_script_that_a_webhooks_run_cannot_fetch_is_refused(script):
    """A file would go into a volume, and a run that a webhook starts has none."""
    with pytest.raises(InputError, match="not an address") as refused:
        order(script=script)
    assert "--script https://" in refused.value.hint


def test_a_file_that_is_called_like_the_program_is_not_sent(api, jobs, tmp_path, monkeypatch):
    (tmp_path / "python").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a file called python"):
        install(api, job=order())
    assert jobs.made == jobs.webhooks == {}


def test_an_organisation_pays(api, jobs):
    install(api, job=order(namespace="paint"))
    (job,) = jobs.made.values()
    assert job["owner"]["name"] == "paint"
    with pytest.raises(AuthError, match="may not"):
        install(api, job=order(namespace="strangers"))


def test_a_timer_looks_at_the_same_models_and_is_not_made_twice(api, jobs):
    made = [install_schedule(api, REPOS, order(), "@daily") for _ in range(2)]
    assert made[0] == made[1] == next(iter(jobs.scheduled))
    (job,) = jobs.scheduled.values()
    assert job["schedule"] == "@daily"
    assert job["jobSpec"]["command"][-4:] == [
        "gmi_registry.regeneration.webhook_service",
        "job",
        "hf:ada/one@main",
        "hf:ada/two@main",
    ]
    assert jobs.secrets[job["id"]] == {"HF_TOKEN": JOB_TOKEN}
    install_schedule(api, REPOS, order(), "@hourly")
    assert len(jobs.scheduled) == 2


def test_a_timer_takes_no_models_name_for_a_file(api, jobs, hf_hub):
    hf_hub.add_repo("ada/style.py", {"README.md": b"# Style\n"})
    install_schedule(api, ["ada/style.py"], order(), "@daily")
    assert len(jobs.scheduled) == 1


def test_a_webhook_is_removed_and_others_stay(api, jobs):
    install(api, url=URL)
    install(api, job=order())
    one = next(iter(jobs.webhooks.values()))
    one["watched"].append({"type": "model", "name": "ben/three"})
    done = remove_webhook(api, ["ada/one", "ada/two", "ada/gone"], url=URL)
    assert [it.state for it in done] == ["removed", "removed", "none"]
    assert one["watched"] == [{"type": "model", "name": "ben/three"}]
    assert len(jobs.webhooks) == 3
    assert [it.state for it in remove_webhook(api, REPOS, job=True)] == ["removed", "removed"]
    assert list(jobs.webhooks.values()) == [one]


@pytest.mark.parametrize("repo", ["ada/one@main", "local:one", "civitai:1@2", "one", "a b/c", ""])
def test_what_cannot_be_watched_is_said_before_anything_is_made(api, jobs, repo):
    with pytest.raises(InputError):
        install(api, ["ada/one", repo], url=URL)
    assert jobs.webhooks == {}


def test_a_model_that_is_not_there_is_said_before_anything_is_made(api, jobs):
    with pytest.raises(SpecNotFoundError, match="ada/none"):
        install(api, ["ada/one", "ada/none"], job=order())
    assert jobs.webhooks == jobs.made == {}


def test_a_place_is_needed_and_one_only(api):
    for where in ({}, {"url": URL, "job": order()}):
        with pytest.raises(InputError, match="one place") as refused:
            install(api, **where)
        assert "--url" in refused.value.hint
    with pytest.raises(InputError, match="not clear"):
        remove_webhook(api, REPOS)


def test_rights_that_are_missing_are_said(jobs, monkeypatch):
    with pytest.raises(AuthError, match="cannot write"):
        install(account_api("hf_benMayRead"), url=URL)
    with pytest.raises(AuthError, match="does not accept the token"):
        list_webhooks(account_api("hf_unknown0000"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AuthError, match="you have no token") as refused:
        account_api()
    assert refused.value.hint == "hf auth login"


def test_jobs_that_are_not_paid_for_are_said(api, jobs):
    jobs.allowed = False
    with pytest.raises(HubError, match=r"402 \(.*plan or credits"):
        install(api, job=order())


class OldApi(HfApi):
    """A client of version 1, which hands no secrets to a webhook's job."""

    def create_webhook(self, *, url=None, job_id=None, watched, domains=None, secret=None):
        return super().create_webhook(
            url=url, job_id=job_id, watched=watched, domains=domains, secret=secret
        )


def test_an_old_client_installs_receivers_and_no_jobs(api, jobs):
    old = OldApi(api.endpoint, token=TOKEN)
    assert install(old, url=URL) == ["made", "made"]
    with pytest.raises(InputError, match="cannot hand a token") as refused:
        install(old, job=order())
    assert refused.value.hint == "pip install --upgrade huggingface_hub"
    assert jobs.made == {}


def test_an_answer_that_was_lost_makes_no_second_webhook(api, jobs, hf_hub):
    hf_hub.inject(Fault("cut", method="POST", path_regex="/settings/webhooks$"))
    with pytest.raises(HubError):
        install(api, url=URL)
    assert len(jobs.webhooks) == 1
    assert install(api, url=URL) == ["there", "made"]


def test_a_hub_that_is_busy_is_asked_again(api, hf_hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hf_hub.inject(Fault("500", method="GET", path_regex="/settings/webhooks$"))
    assert install(api, url=URL) == ["made", "made"]


@pytest.mark.parametrize("identifier", ["../../whoami-v2", "a/b", "", 7, "x" * 65])
def test_an_impossible_id_goes_into_no_address(api, jobs, identifier):
    install(api, url=URL)
    next(iter(jobs.webhooks.values()))["id"] = identifier
    with pytest.raises(HubError, match="impossible id"):
        remove_webhook(api, REPOS, url=URL)
    assert len(jobs.webhooks) == 2


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://a.example", "https://a.example/webhook"),
        ("https://a.example/", "https://a.example/webhook"),
        ("https://a.example:8443/gmi", "https://a.example:8443/gmi/webhook"),
        ("https://a.example/gmi/webhook/", "https://a.example/gmi/webhook"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/webhook"),
        ("http://[::1]:8000", "http://[::1]:8000/webhook"),
    ],
)
def test_an_address_is_completed(text, address):
    assert receiver_address(text) == address == receiver_address(address)


@pytest.mark.parametrize(
    "text",
    [
        "http://a.example", "ftp://a.example", "a.example", "", "https://", "https://ada:pw@a.example",
        "https://a.example/?key=1", "https://a.example/#x", "https://a.example:99999",
        "https://a.example/ x", "https://a.example\\@b", "https://[::1", "https://a.\u00e9xample",
        "https://a.example/" + "x" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_not_repeated(text):
    with pytest.raises(InputError, match="is https, a host") as refused:
        receiver_address(text)
    assert "pw" not in refused.value.message


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 15, "x" * 257, "with a blank inside", "é" * 20]
)
def test_a_secret_that_can_be_guessed_or_cannot_be_sent_is_refused(text, monkeypatch):
    monkeypatch.setenv("GMI_WEBHOOK_SECRET", text)
    with pytest.raises(InputError) as refused:
        Secret.of_environment()
    assert "openssl rand -hex 32" in refused.value.hint
    assert not text or text not in refused.value.message


def call(*arguments):
    return CliRunner().invoke(app, ["webhook", *arguments])


def test_from_the_command_line(jobs, monkeypatch):
    done = call("install", *REPOS, "--url", URL)
    assert done.exit_code == 0, done.output
    assert [line.split("\t")[::2] for line in done.stdout.splitlines()] == [
        ["hf:ada/one", "made"],
        ["hf:ada/two", "made"],
    ]
    monkeypatch.setenv("JOB_TOKEN", JOB_TOKEN)
    done = call(
        "install", "ada/one", "--job", "--job-token-env", "JOB_TOKEN", "--schedule", "@daily"
    )
    assert done.exit_code == 0, done.output
    assert "scheduled job" in done.stderr
    listed = json.loads(call("list", "--json").stdout)["webhooks"]
    assert [it["to"] for it in listed] == [ADDRESS, ADDRESS, "a job"]
    assert listed[0]["watched"] == ["model:ada/one"]
    assert call("list").stdout.splitlines()[0].split("\t")[1:] == ["on", ADDRESS, "model:ada/one"]
    assert len(call("list", "-q").stdout.split()) == 3
    removed = json.loads(call("remove", "ada/one", "--job", "--json").stdout)["webhooks"]
    assert [it["state"] for it in removed] == ["removed"]
    assert len(jobs.webhooks) == 2


def test_neither_secret_nor_token_is_shown(jobs):
    shown = []
    for arguments in (
        ["install", "ada/one", "--job"],
        ["install", "ada/one", "--url", URL, "--json"],
        ["list"],
        ["list", "--json"],
        ["install", "ada/none", "--url", URL],
        ["install", "ada/one", "--job", "--namespace", "strangers"],
    ):
        done = call(*arguments)
        shown.append(done.stdout + done.stderr)
    assert all(shown)
    assert SECRET not in "".join(shown)
    assert TOKEN not in "".join(shown)
    assert SECRET not in repr(Secret(SECRET)) + repr(order())
    assert JOB_TOKEN not in repr(order())


def test_what_is_wrong_is_one_line_and_the_next_thing_to_do(jobs, monkeypatch):
    for arguments, words in (
        (["install", "ada/one"], "--url URL or --job"),
        (["install", "ada/one", "--url", URL, "--schedule", "@daily"], "add --job"),
        (["install", "ada/one", "--job", "--job-token-env", "NONE"], "export NONE="),
        (["install", "ada/one", "--url", URL, "--secret-env", "NONE"], "export NONE="),
    ):
        done = call(*arguments)
        assert done.exit_code == 1
        error, hint = done.stderr.splitlines()
        assert error.startswith("error: ")
        assert words in hint


def test_an_address_in_a_list_shows_no_password():
    assert shown_address("https://ada:pw@a.example:1/x?key=1#y") == "https://a.example:1/x"
    assert shown_address("https://[") == "an address that cannot be read"


def test_as_an_option_of_regenerate(jobs):
    words = ["regenerate", "--install-webhook", "ada/one", "--install-webhook", "ada/two"]
    for state in ("made", "updated"):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert [line.split("\t")[::2] for line in done.stdout.splitlines()] == [
            ["hf:ada/one", state],
            ["hf:ada/two", state],
        ]
    assert len(jobs.webhooks) == 2
