import json

import pytest

from gmi_registry.cli.main import app
from gmi_registry.cli.spec import _partial
from gmi_registry.spec import LoraPartial, Manifest, WeightFile, write_spec
from tests.support.cli_specs import OTHER_PROMPTS, make_spec


def test_show_names_what_matters(call, folder):
    done = call(app, "spec", "show", folder(url="https://example.org/x", base_model="zoo/base"))
    assert done.exit_code == 0
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["model"] == "local:flat"
    assert said["tags"] == "flat, icons"
    assert said["base model"] == "zoo/base"
    assert said["prompts"] == "general 1: 4 prompts"
    assert said["images"] == "4, 6 numbers each, seeds 0"
    assert said["generated with"] == "DDIM, 5 steps, guidance 3, 8 x 8"


def test_show_as_a_table(call, folder, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    done = call(app, "spec", "show", folder(title="[red]not markup[/red]"))
    assert "[red]not markup[/red]" in done.stdout


def test_show_takes_the_folder_gmi_itself(call, folder):
    assert call(app, "spec", "show", folder() / "gmi").exit_code == 0


def test_show_json_holds_the_manifest(call, folder):
    done = call(app, "spec", "show", folder(), "--json")
    document = json.loads(done.stdout)
    assert document["digest"] == make_spec().digest
    assert Manifest.model_validate(document["manifest"]) == make_spec().manifest


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_model_needs_a_hub(call, command):
    done = call(app, "spec", command, "local:flat")
    assert done.exit_code == 1
    assert "no hub is named" in done.stderr
    assert "hint: " in done.stderr


def test_a_folder_without_a_specification(call, tmp_path):
    done = call(app, "spec", "show", tmp_path)
    assert done.exit_code == 1
    assert "holds no gmi/spec.json" in done.stderr


def test_a_specification_cut_short(call, folder):
    place = folder()
    tensors = place / "gmi" / "spec.tensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    before = sorted(path.stat().st_mtime_ns for path in place.rglob("*"))
    done = call(app, "spec", "show", place)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 2
    assert sorted(path.stat().st_mtime_ns for path in place.rglob("*")) == before


def test_verify_a_good_one(call, folder):
    done = call(app, "spec", "verify", folder())
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["manifest", "ok"],
        ["tensors", "ok"],
        ["preview", "skipped"],
        ["weights", "ok"],
    ]


def test_verify_finds_other_weights(call, folder):
    place = folder()
    (place / "w.safetensors").write_bytes(b"others")
    done = call(app, "spec", "verify", place)
    assert done.exit_code == 1
    assert "is not the file that was described" in done.stdout
    assert "hint: the model changed" in done.stdout
    assert call(app, "spec", "verify", place, "--no-weights").exit_code == 0


def test_verify_json(call, folder):
    place = folder()
    assert json.loads(call(app, "spec", "verify", place, "--json").stdout)["ok"] is True
    (place / "gmi" / "spec.json").write_text("{}")
    done = call(app, "spec", "verify", place, "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert document["findings"][0]["status"] == "failed"


def test_diff_of_the_same(call, folder):
    done = call(app, "spec", "diff", folder(), folder())
    assert done.exit_code == 0
    assert done.stdout.startswith("identical: ")


def test_diff_names_fields_and_prompts(call, folder):
    done = call(app, "spec", "diff", folder(), folder(seed=1, steps=9, licence=None))
    assert done.exit_code == 0
    assert "generation.recipe.steps: 5 -> 9\n" in done.stdout
    assert "model.licence: mit -> absent\n" in done.stdout
    assert "squared maximum mean discrepancy" in done.stdout
    assert "moved by" in done.stdout


def test_diff_of_what_cannot_be_compared(call, folder):
    done = call(app, "spec", "diff", folder(), folder(encoder_name="other"))
    assert done.exit_code == 0
    assert "images: not comparable, other encoders" in done.stdout


def test_diff_json(call, folder):
    done = call(app, "spec", "diff", folder(), folder(prompts=OTHER_PROMPTS), "--json")
    document = json.loads(done.stdout)
    assert document["identical"] is False
    assert document["mmd2"] is None
    assert "other default prompts" in document["incomparable"]
    assert {"path", "old", "new"} == document["fields"][0].keys()


def test_many_changes_are_cut(call, folder):
    tags = tuple(f"tag-{number}" for number in range(60))
    done = call(app, "spec", "diff", folder(), folder(tags=tags))
    assert "more fields; --json has them all" in done.stdout


def test_show_names_the_weights_that_a_lora_was_loaded_on(call, folder):
    base = (
        WeightFile(path="unet/a.safetensors", size=1234, sha256="1" * 64),
        WeightFile(path="vae/b.safetensors", size=5, sha256="2" * 64),
    )
    done = call(app, "spec", "show", folder(base_weights=base))
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    described = make_spec(base_weights=base).manifest.model
    assert said["weights digest"] == described.weights_digest
    assert said["base weights"] == ("unet/a.safetensors (1,234 bytes), vae/b.safetensors (5 bytes)")
    assert said["base weights digest"] == described.base_weights_digest != said["weights digest"]


@pytest.mark.parametrize(("kind", "said"), [("lora", "not stated"), ("checkpoint", None)])
def test_show_says_where_a_base_is_not_known(call, folder, kind, said):
    place = folder()
    write_spec(make_spec(kind=kind), place)
    done = call(app, "spec", "show", place)
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines.get("base weights") == said
    assert "base weights digest" not in lines


def test_a_lora_that_is_there_in_part_is_shown():
    recipe = make_spec().manifest.generation.recipe
    assert _partial(recipe) == []
    share = LoraPartial(applied=64, tensors=128)
    partial = recipe.model_copy(update={"lora_scale": 1.0, "lora_partial": share})
    assert _partial(partial) == [("partial LoRA", "64 of 128 tensors are applied")]
