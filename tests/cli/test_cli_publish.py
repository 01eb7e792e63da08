import errno
import json
import os
import shutil
import signal
import tempfile
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from gmi_registry.cli import publish as module
from gmi_registry.cli.main import app
from gmi_registry.cli.publish import app as publish_app
from gmi_registry.errors import HubError
from gmi_registry.spec import GenerationRecipe, read_spec
from tests.support.cli_hub import refused, write_card

QUICK = ("--steps", "1")


@pytest.fixture
def hub(unpublished, tmp_path):
    return shutil.copytree(unpublished, tmp_path / "hub")


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_dry_run_prints_the_plan_and_writes_nothing(call, hub):
    before = contents(hub)
    done = call(publish_app, "ink", "--hub", hub, "--dry-run", *QUICK)
    assert done.exit_code == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["model"].startswith("local:ink@")
    assert said["kind"] == "lora"
    assert "55; 0 are done already" in said["images"]
    assert "1 step," in said["generated with"]
    assert said["replaces"] == "nothing"
    assert done.stderr.endswith("nothing was written; leave out --dry-run to publish\n")
    assert contents(hub) == before


def test_scheduler_and_clip_skip_are_options_and_what_has_no_effect_is_refused(call, hub):
    ink = ("ink", "--hub", hub, "--dry-run", *QUICK)
    done = call(publish_app, *ink, "--scheduler", "DPM++ 2M Karras", "--clip-skip", "1")
    assert done.exit_code == 0, done.stderr
    named = "scheduler: DPMSolverMultistepScheduler (use_karras_sigmas) (as requested)"
    assert named in done.stdout
    assert "CLIP skip: 1 (as requested)" in done.stdout
    for options, said in (
        (("--true-cfg-scale", "3"), "takes no true CFG scale"),
        (("--negative-prompt", "blur", "--guidance", "1"), "has no effect"),
        (("--scheduler", "Eular a"), "perhaps you mean Euler a"),
        (("--clip-skip", "50"), "layers that can be left out"),
    ):
        done = call(publish_app, *ink, *options)
        assert done.exit_code != 0
        assert said in done.stderr
        assert "hint: " in done.stderr


def test_publish_then_up_to_date(call, hub):
    done = call(publish_app, "local:ink", "--hub", hub, "--seeds", "3", *QUICK)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("local:ink is published: ")
    assert "55 images generated in" in done.stderr
    spec = read_spec(hub / "models" / "ink")
    assert spec.manifest.generation.recipe.seeds == (3,)
    assert (hub / "models" / "ink" / "gmi" / "preview.webp").is_file()
    assert not list((hub.parent / "cache" / "work").iterdir())

    again = call(app, "publish", "ink", "--hub", hub, "--seeds", "3", *QUICK)
    assert again.stdout.startswith("local:ink is up to date: ")
    planned = call(app, "publish", "ink", "--hub", hub, "--seeds", "3", "--dry-run", *QUICK)
    assert "images: 55, described already\n" in planned.stdout
    assert "  seeds: 3 (as requested)\n" in planned.stdout
    assert f"to: the folder {hub / 'models' / 'ink' / 'gmi'}\n" in planned.stdout
    assert "up to date: there is nothing to do" in planned.stderr

    write_card(hub / "models" / "ink", "Ink", "tiny, wet", "base_model: base")
    renamed = ("ink", "--hub", hub, "--seeds", "3", *QUICK)
    planned = call(publish_app, *renamed, "--dry-run").stdout
    assert "images: 55, described already; only the description has changed\n" in planned
    done = call(publish_app, *renamed)
    assert done.exit_code == 0, done.stderr
    assert "only the description had changed" in done.stderr

    shown = call(app, "spec", "show", "ink", "--hub", hub)
    assert shown.exit_code == 0, shown.stderr
    assert "title: Ink\n" in shown.stdout
    assert "tags: tiny, wet\n" in shown.stdout
    checked = call(app, "spec", "verify", "local:ink", "--hub", hub)
    assert checked.exit_code == 0, checked.stdout
    assert "preview   ok" in checked.stdout


def test_json_and_another_folder(call, hub, tmp_path):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a dragon\na knight\n")
    output = tmp_path / "out"
    done = call(
        *(publish_app, "oil", "--hub", hub, "--output", output, "--prompts", prompts, "--json"),
        *QUICK,
    )
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["outcome"] == "published"
    assert document["digest"] == read_spec(output).digest
    assert document["plan"]["images"] == 57
    assert [block["prompts"] for block in document["plan"]["prompt_sets"]] == [55, 2]
    assert not (hub / "models" / "oil" / "gmi").exists()


def test_quiet_prints_the_name_alone(call, hub, tmp_path):
    done = call(publish_app, "oil", "--hub", hub, "--dry-run", "-q", *QUICK)
    assert done.stdout == "local:oil\n"
    assert done.stderr == ""


def test_a_warning_stops_nothing(call, hub):
    write_card(hub / "models" / "ink", "Ink", "", "base_model: base")
    done = call(publish_app, "ink", "--hub", hub, "--dry-run", *QUICK)
    assert done.exit_code == 0, done.stderr
    assert "warning: the model card has no tags" in done.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a cat\n\na dog\n", ":2: a blank line between prompts"),
        ("a cat\n" + "x" * 2000 + "\n", ":2: the prompt has 2,000 characters"),
        ("", "holds no prompts"),
    ],
)
def test_prompt_files_that_cannot_be_used(call, hub, tmp_path, content, reason):
    before = contents(hub)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(content)
    assert reason in refused(call(publish_app, "ink", "--hub", hub, "--prompts", prompts))
    assert contents(hub) == before


def test_a_prompt_file_that_is_not_there(call, hub, tmp_path):
    done = call(publish_app, "ink", "--hub", hub, "--prompts", tmp_path / "none.txt")
    assert "cannot read the prompts" in refused(done)


def test_a_lora_without_its_base(call, hub):
    shutil.rmtree(hub / "models" / "base")
    before = contents(hub)
    assert "base" in refused(call(publish_app, "ink", "--hub", hub, *QUICK))
    assert contents(hub) == before


def test_a_base_that_is_named(call, hub):
    shutil.copytree(hub / "models" / "base", hub / "models" / "other")
    planned = call(publish_app, "ink", "--hub", hub, "--base", "other", "--dry-run", *QUICK)
    assert planned.exit_code == 0, planned.stderr
    said = dict(line.split(": ", 1) for line in planned.stdout.splitlines())
    assert said["base model"].startswith("local:other@")
    assert said["base model"].endswith(" (named by --base)")
    shutil.rmtree(hub / "models" / "base")
    done = call(publish_app, "ink", "--hub", hub, *QUICK)
    assert "its base model base is not here" in refused(done)
    assert "--base local:NAME" in done.stderr
    done = call(publish_app, "ink", "--hub", hub, "--base", "local:other", "--json", *QUICK)
    assert done.exit_code == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert (plan["base_model"].partition("@")[0], plan["base_origin"]) == ("local:other", "option")
    shown = call(app, "spec", "show", "ink", "--hub", hub)
    assert "base model: other (named by --base)\n" in shown.stdout
    done = call(publish_app, "ink", "--hub", hub, "--base", "hf:a/b", *QUICK)
    assert "cannot be the base of a model on a local hub" in refused(done)
    done = call(publish_app, "other", "--hub", hub, "--base", "ink", *QUICK)
    assert "needs no base model" in refused(done)


@pytest.mark.parametrize(
    ("model", "folder", "reason"),
    [
        ("tusche", "hub", "holds no model 'tusche'"),
        ("hf:owner/name", "hub", "hf:owner/name"),
        ("ink", "empty", "empty"),
    ],
)
def test_models_and_hubs_that_are_not_there(call, hub, tmp_path, model, folder, reason):
    (tmp_path / "empty").mkdir()
    assert reason in refused(call(publish_app, model, "--hub", tmp_path / folder))


@pytest.mark.parametrize("place", ["work", "output"])
def test_places_that_cannot_be_written(call, hub, tmp_path, place):
    (tmp_path / "file").write_text("x")
    before = contents(hub)
    done = call(publish_app, "ink", "--hub", hub, f"--{place}", tmp_path / "file" / "x", *QUICK)
    assert "file" in refused(done)
    assert contents(hub) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_no_write_access(call, hub, monkeypatch, number):
    """The system's refusal is injected, since it forbids the superuser nothing."""
    before = contents(hub)
    allowed = tempfile.mkdtemp

    def refuse(*arguments, **options):
        if options.get("dir") and Path(options["dir"]).is_relative_to(hub):
            raise OSError(number, os.strerror(number))
        return allowed(*arguments, **options)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert "you cannot write there" in refused(call(publish_app, "ink", "--hub", hub, *QUICK))
    assert contents(hub) == before


def test_a_full_disk(call, hub, monkeypatch):
    before = contents(hub)
    usage = shutil.disk_usage(hub)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "1,000 bytes free" in refused(call(publish_app, "ink", "--hub", hub, *QUICK))
    assert contents(hub) == before


def test_an_interrupted_generation_goes_on(call, hub, monkeypatch):
    """Ctrl-C after the first batch: 130, what to do next, and the batch is taken over."""
    before = contents(hub)

    class Interrupted(module.StageProgress):
        def __call__(self, stage, done, total):
            super().__call__(stage, done, total)
            if stage == "generate" and done:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "StageProgress", Interrupted)
        done = call(publish_app, "ink", "--hub", hub, *QUICK)
    assert done.exit_code == 130
    assert "run the same command again to continue" in done.stderr
    assert contents(hub) == before

    done = call(publish_app, "ink", "--hub", hub, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert "kept from before" in done.stderr


def test_ctrl_c_in_a_process_of_its_own(start_only, call, hub):
    before = contents(hub)
    with start_only("publish_main", "ink", "--hub", hub, "--steps", "200") as process:
        for line in process.stderr:
            if line.startswith("generating"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        process.wait(300)
    assert process.returncode == 130
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert contents(hub) == before


@pytest.mark.parametrize("seeds", ["", "1,,2", "1.5", "one"])
def test_seeds_are_whole_numbers(call, hub, seeds):
    done = call(publish_app, "ink", "--hub", hub, "--seeds", seeds)
    assert done.exit_code == 2
    assert "--seeds" in done.stderr


def test_precisions_are_those_of_the_recipe():
    field = GenerationRecipe.model_fields["dtype"]
    assert {choice.value for choice in module.DtypeChoice} == set(get_args(field.annotation))


def test_a_folder_takes_no_pull_requests(call, hub):
    before = contents(hub)
    done = call(publish_app, "ink", "--hub", hub, "--create-pr", *QUICK)
    assert "takes no pull requests" in refused(done)
    assert "hint: leave out --create-pr" in done.stderr
    assert contents(hub) == before


def test_a_folder_of_ones_own_takes_none_either(call, hub, tmp_path):
    done = call(publish_app, "ink", "--hub", hub, "--create-pr", "--output", tmp_path / "out")
    assert "nothing can be proposed" in refused(done)
    assert "hint: leave out --output, or --create-pr" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_revision_that_is_not_there(call, hub):
    done = call(publish_app, "ink", "--hub", hub, "--revision", "0" * 16, *QUICK)
    assert "is gone" in refused(done)
    done = call(publish_app, "local:ink@" + "1" * 16, "--hub", hub, "--revision", "0" * 16)
    assert "--revision names 0000" in refused(done)


def test_what_is_passed_on(call, hub, monkeypatch):
    """The token and the wish for a pull request reach the hub, and no library's warnings us."""
    import warnings

    from gmi_registry.hubs.local import LocalHub

    asked = []

    class Remote(LocalHub):
        name = "far"

        def push_spec(self, ref, folder, *, create_pr=False):
            asked.append(create_pr)
            return "https://example.org/pull/1"

    def open_hub(hub, access=None):
        if isinstance(hub, Remote):
            return hub
        asked.append(access.token)
        return Remote(hub)

    def publish(request, hub, **options):
        warnings.warn("of no interest to users", FutureWarning, stacklevel=1)
        hub.push_spec(request.model, request.work, create_pr=request.create_pr)
        raise HubError("far enough")

    monkeypatch.setattr(import_module("gmi_registry.hubs.open"), "open_hub", open_hub)
    monkeypatch.setattr(import_module("gmi_registry.publish"), "publish", publish)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        done = call(
            *(publish_app, "hf:owner/ink", "--hub", hub, "--token", "hf_secret", "--create-pr"),
            *("--revision", "abcdef0"),
        )
    assert "far enough" in refused(done)
    assert asked == ["hf_secret", True]
    assert [str(item.message) for item in told if item.category is FutureWarning] == []
    assert "hf_secret" not in done.output
