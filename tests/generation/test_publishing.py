"""The submitting stage, with real diffusers and the hub that is a folder."""

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gmi_registry.encoders
from gmi_registry import generation, publish_plan
from gmi_registry.errors import (
    GenerationError,
    GmiError,
    HubError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedVersionError,
)
from gmi_registry.generation import RecipeOverrides, specification
from gmi_registry.spec import MANIFEST_NAME, ModelRef, PromptSet, read_spec, verify
from tests.support.grey_encoder import GreyEncoder

# The package's own name "publish" is the function.
publish_module = importlib.import_module("gmi_registry.publish")

BASE, LORA = ModelRef("local", "base"), ModelRef("local", "lora")
QUICK = RecipeOverrides(steps=1, batch_size=4)
FEW = PromptSet("few", 1, ("a cat", "the sea", "snow", "a red house", "an old man", "a tree"))
CARD = "---\ntags: [tiny]\nlicense: cc0-1.0\n{more}---\n# A tiny model\n"
OWN = PromptSet("own", 1, ("a purple cow", "a quiet street"))


@pytest.fixture
def hub(base_hub, tiny):
    models = base_hub.root / "models"
    shutil.copytree(tiny / "lora", models / "lora")
    for name, more in (("base", ""), ("lora", "base_model: base\ngmi: {prompt_set: icons-v1}\n")):
        (models / name / "README.md").write_text(CARD.format(more=more))
    return base_hub


@pytest.fixture
def few(default_prompts):
    default_prompts(FEW)


@pytest.fixture
def run(hub, publishing):
    return publishing(hub, overrides=QUICK)


def files_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def gmi_of(hub, ref=BASE):
    return hub.root / "models" / ref.id / "gmi"


def test_a_model_gets_its_three_files(run, hub, tmp_path):
    told = []
    done = run(progress=lambda *step: told.append(step))
    assert done.outcome == "published"
    assert done.where == str(gmi_of(hub))
    assert {path.name for path in gmi_of(hub).iterdir()} == {
        "preview.webp",
        "spec.json",
        "spec.tensors",
    }
    assert {finding.status for finding in verify(gmi_of(hub).parent)} == {"ok"}
    spec = read_spec(gmi_of(hub).parent, expected=BASE)
    assert spec.digest == done.spec_digest
    manifest = spec.manifest
    assert (manifest.model.title, manifest.model.licence) == ("A tiny model", "cc0-1.0")
    assert (manifest.model.tags, manifest.model.kind) == (("tiny",), "checkpoint")
    assert manifest.prompt_sets[0].name == "general"
    assert manifest.previous is None
    assert done.images == len(spec.image_prompt) == 55
    assert {stage for stage, _, _ in told} == {"check", "generate", "encode", "write"}
    assert ("generate", 55, 55) in told
    assert list((tmp_path / "work").iterdir()) == []


def test_the_plan_knows_the_sizes_of_the_files(run, hub):
    done = run(LORA)
    sizes = {file.path: file.size for file in done.plan.files if file.exact}
    assert sizes == {
        f"gmi/{name}": (gmi_of(hub, LORA) / name).stat().st_size
        for name in ("spec.json", "spec.tensors")
    }
    assert done.plan.kind == "lora"
    assert [block.name for block in done.plan.prompt_sets] == ["icons"]


def test_a_second_time_is_up_to_date_and_draws_nothing(run, hub, monkeypatch, few):
    first = run()
    before = files_below(gmi_of(hub))
    monkeypatch.setattr(generation, "generate", None)
    second = run()
    assert (second.outcome, second.images) == ("up to date", 0)
    assert second.spec_digest == first.spec_digest
    assert files_below(gmi_of(hub)) == before


def test_a_changed_card_goes_out_without_a_new_picture(run, hub, monkeypatch, tmp_path, few):
    first = run()
    run(output=tmp_path / "out")
    before = read_spec(gmi_of(hub).parent)
    preview = (gmi_of(hub) / "preview.webp").read_bytes()
    card = (hub.root / "models" / "base" / "README.md").read_text()
    changed = card.replace("tags: [tiny]", "tags: [tiny, flat]")
    (hub.root / "models" / "base" / "README.md").write_text(changed)
    monkeypatch.setattr(generation, "generate", None)
    planned = run(dry_run=True)
    assert (planned.outcome, planned.plan.reuses_images) == ("planned", True)
    done = run()
    assert (done.outcome, done.images) == ("published", 0)
    after = read_spec(gmi_of(hub).parent)
    assert after.manifest.model.tags == ("tiny", "flat")
    assert after.manifest.previous == first.spec_digest
    assert (after.image_embeddings == before.image_embeddings).all()
    assert (gmi_of(hub) / "preview.webp").read_bytes() == preview
    assert run().outcome == "up to date"
    assert run(output=tmp_path / "out").images == 0
    assert (tmp_path / "out" / "gmi" / "preview.webp").read_bytes() == preview


def test_a_folder_that_cannot_be_made_is_one_clear_line(run, monkeypatch, tmp_path, few):
    make = Path.mkdir

    def refuse(path, *arguments, **options):
        if "deep" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied")
        make(path, *arguments, **options)

    run(keep_images=True)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="cannot be made: Permission denied"):
        run(output=tmp_path / "deep" / "out")


def test_force_publishes_again_and_names_what_it_replaces(run, hub, few):
    first = run()
    again = run(force=True)
    assert again.outcome == "published"
    assert read_spec(gmi_of(hub).parent).manifest.previous == first.spec_digest


def test_other_settings_or_prompts_replace_the_specification(run, hub, few):
    first = run()
    second = run(prompts=OWN)
    assert second.outcome == "published"
    spec = read_spec(gmi_of(hub).parent)
    assert [block.name for block in spec.manifest.prompt_sets] == ["few", "own"]
    assert spec.manifest.previous == first.spec_digest
    assert run(prompts=OWN, overrides=RecipeOverrides(steps=2)).outcome == "published"


def test_own_prompts_leave_the_default_block_alone(run, tmp_path, few):
    run(output=tmp_path / "plain")
    run(output=tmp_path / "own", prompts=OWN)
    plain, own = read_spec(tmp_path / "plain"), read_spec(tmp_path / "own")
    assert (own.image_embeddings[own.default_rows] == plain.image_embeddings).all()
    assert len(own.image_prompt) == 8


def test_output_leaves_the_hub_alone_and_gives_the_same_bytes_again(run, hub, tmp_path, few):
    one = run(output=tmp_path / "deep" / "one")
    assert one.where == str(tmp_path / "deep" / "one" / "gmi")
    run(output=tmp_path / "two")
    first = files_below(tmp_path / "deep" / "one" / "gmi")
    second = files_below(tmp_path / "two" / "gmi")
    assert list(first.values()) == list(second.values())
    assert not gmi_of(hub).exists()
    assert run(output=tmp_path / "two").outcome == "up to date"


def test_a_dry_run_plans_and_writes_nothing(run, hub, tmp_path, few):
    hub.fetch_model(BASE)  # fills the hub's own cache of digests
    before = files_below(tmp_path)
    done = run(dry_run=True, prompts=OWN)
    assert (done.outcome, done.spec_digest, done.images) == ("planned", None, 0)
    assert (done.plan.images, done.plan.images_kept) == (8, 0)
    assert done.plan.target == "local:base"
    assert done.plan.scratch > 8 * 16 * 16 * 3
    assert done.plan.warnings == ()
    assert files_below(tmp_path) == before
    assert not (tmp_path / "work").exists()


def test_an_interrupted_publication_goes_on_to_the_same_bytes(run, hub, tmp_path, few):
    run(output=tmp_path / "whole")

    def interrupt(stage, done, total):
        if stage == "generate" and done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt)
    assert not gmi_of(hub).exists()
    assert run(dry_run=True).plan.images_kept == 4
    done = run()
    assert done.images == 2
    assert list(files_below(gmi_of(hub)).values()) == list(
        files_below(tmp_path / "whole" / "gmi").values()
    )


def test_pictures_stay_where_they_are_wanted(run, tmp_path, few):
    run(keep_images=True)
    assert len(list((tmp_path / "work").rglob("*.png"))) == 6


def test_a_failed_push_keeps_the_pictures(run, hub, monkeypatch, tmp_path, few):
    def refuse(ref, folder):
        raise HubError("the hub is down", hint="try again")

    monkeypatch.setattr(hub, "push_spec", refuse)
    with pytest.raises(HubError, match="down"):
        run()
    assert run(dry_run=True).plan.images_kept == 6
    assert [path for path in (tmp_path / "work").iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_while_writing_leaves_the_old_specification(run, hub, monkeypatch, few):
    import gmi_registry.spec.files as spec_files

    run()
    before = files_below(gmi_of(hub))

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spec_files, "write_new", full)
    with pytest.raises(InputError, match="the disk is full"):
        run(force=True)
    assert files_below(gmi_of(hub)) == before


def test_files_that_read_back_otherwise_are_not_published(run, hub, monkeypatch, few):
    def other(spec, directory, *, preview):
        changed = spec.manifest.model_copy(update={"previous": "5" * 64})
        from dataclasses import replace

        from gmi_registry.spec import write_spec

        return write_spec(replace(spec, manifest=changed), directory, preview=preview)

    monkeypatch.setattr(publish_module, "write_spec", other)
    with pytest.raises(GenerationError, match="not those that were written"):
        run()
    assert not gmi_of(hub).exists()


class _NoDrawing:
    """Fails the test where a picture would be drawn before the checks are through."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(generation, "generate", self)

    def __call__(self, *arguments, **settings):
        pytest.fail("a picture was drawn although a check should have failed")


def test_checks_come_before_any_picture(run, hub, tmp_path, monkeypatch, few):
    _NoDrawing(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    long = PromptSet("long", 1, ("one two three four five six seven eight nine ten " * 3 + "x",))
    cases = {
        "is not a folder": {"output": tmp_path / "file"},
        "tokens": {"prompts": long},
        "steps": {"overrides": RecipeOverrides(steps=0)},
        "1000 steps|1,?001": {"overrides": RecipeOverrides(steps=1001)},
        "width 18: its sides are multiples of 8": {"overrides": RecipeOverrides(width=18)},
        "height 63": {"overrides": RecipeOverrides(height=63)},
        "no model": {"ref": ModelRef("local", "nobody")},
    }
    for message, options in cases.items():
        with pytest.raises(GmiError, match=message):
            run(**options)
    monkeypatch.setattr(
        specification.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0)
    )
    with pytest.raises(InputError, match="bytes free"):
        run()


def test_long_trigger_words_of_a_card_are_left_out_with_a_warning(run, hub, few):
    words = "instance_prompt: " + "flat icons of " * 8 + "\n"
    (hub.root / "models" / "base" / "README.md").write_text(CARD.format(more=words))
    plan = run(dry_run=True).plan
    assert plan.recipe.trigger_words == ()
    assert any("trigger words of the model card are left out" in it for it in plan.warnings)
    with pytest.raises(InputError, match="tokens"):
        run(dry_run=True, overrides=RecipeOverrides(trigger_words=("flat icons of " * 8,)))


def test_a_dry_run_says_where_every_setting_comes_from(run, hub, tmp_path, few):
    card = hub.root / "models" / "base" / "README.md"
    card.write_text(CARD.format(more="gmi: {guidance_scale: 2}\n"))
    plan = run(LORA, dry_run=True).plan
    assert plan.origins["steps"] == plan.origins["batch_size"] == "as requested"
    assert plan.origins["guidance_scale"] == "the model card of local:base"
    assert plan.origins["width"] == "the network's own"
    assert (plan.base.id, plan.device, plan.seconds) == ("base", "cpu", None)
    assert plan.destination == f"the folder {gmi_of(hub, LORA)}"


def test_a_guess_of_a_distilled_model_is_a_warning_of_the_plan(run, hub, few):
    card = hub.root / "models" / "base" / "README.md"
    card.write_text(CARD.format(more="title: Tiny LCM 6 steps\n"))
    plan = run(dry_run=True, overrides=RecipeOverrides()).plan
    assert (plan.recipe.steps, plan.recipe.guidance_scale) == (6, 1.0)
    assert plan.recipe.sampler.name == "LCMScheduler"
    assert any("looks like LCM" in warning for warning in plan.warnings)


def test_the_time_that_is_left_is_told_by_what_is_done(run, tmp_path, few):
    def interrupt(stage, done, total):
        if stage == "generate" and done >= 4:
            raise KeyboardInterrupt

    small = RecipeOverrides(steps=1, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt, overrides=small)
    (cache,) = (tmp_path / "work").iterdir()
    for number, batch in enumerate(sorted(cache.iterdir())):
        os.utime(batch, (0, 10 * number + (500 if number > 2 else 0)))  # a pause after the third
    planned = run(dry_run=True, overrides=small).plan
    assert planned.images_kept == 4
    assert planned.seconds == pytest.approx(10 * 2)


def test_a_place_without_rights_is_refused(run, tmp_path, monkeypatch, few):
    monkeypatch.setattr(specification.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written"):
        run(output=tmp_path / "out")


def test_a_lora_whose_base_is_missing_names_it(run, hub, few):
    shutil.rmtree(hub.root / "models" / "base")
    with pytest.raises(GenerationError, match="its base model base is not here"):
        run(LORA)


def test_a_card_without_licence_or_tags_is_a_warning(run, hub, few):
    (hub.root / "models" / "base" / "README.md").write_text("# Bare\n")
    warnings = run(dry_run=True).plan.warnings
    assert len(warnings) == 2
    assert "licence" in warnings[0]


def test_a_broken_specification_is_replaced_and_a_newer_one_is_not(run, hub, few):
    run()
    manifest = gmi_of(hub) / MANIFEST_NAME
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:100])
    assert run().outcome == "published"
    document = json.loads(whole)
    document["format"]["version"] = "2.0"
    manifest.write_text(json.dumps(document))
    with pytest.raises(UnsupportedVersionError):
        run()


def test_the_card_names_the_encoder(run, hub, monkeypatch, few):
    asked = []

    def load(name, pretrained, folder, *, device):
        asked.append((name, pretrained, folder, device))
        return GreyEncoder()

    monkeypatch.setattr(publish_plan, "load_encoder", load)
    monkeypatch.setattr(publish_plan, "check_encoder", lambda *asked, **settings: 0)
    run(encoder=None, dry_run=True)
    card = hub.root / "models" / "base" / "README.md"
    card.write_text(CARD.format(more="gmi: {encoder: grey/none}\n"))
    folder = hub.root / "encoders" / "grey" / "none"
    folder.mkdir(parents=True)
    run(LORA, encoder=None, dry_run=True)
    assert asked == [
        (*gmi_registry.encoders.DEFAULT_ENCODER, None, "cpu"),
        ("grey", "none", folder, "cpu"),
    ]


def test_an_unknown_model_is_not_found(run, few):
    with pytest.raises(SpecNotFoundError):
        run(ModelRef("local", "nobody"))


def test_importing_it_loads_no_heavy_library():
    heavy = ("torch", "diffusers", "transformers", "open_clip", "peft")
    program = f"import sys, gmi_registry.publish; print([m for m in {heavy} if m in sys.modules])"
    root = Path(publish_module.__file__).parent.parent
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert shown.stdout.strip() == "[]"


@pytest.fixture
def with_strangers(hub):
    """The LoRA with two more layers, for which its base has no place."""
    from safetensors.torch import load_file, save_file

    path = hub.root / "models" / "lora" / "pytorch_lora_weights.safetensors"
    tensors = load_file(path)
    fitting = len(tensors)
    keys = [key for key in tensors if "attn1.to_q" in key and "down_blocks.1" in key]
    for number in (7, 8):
        for key in keys:
            other = key.replace("down_blocks.1", f"down_blocks.{number}")
            tensors[other] = tensors[key].clone()
    save_file(tensors, path)
    return fitting, len(tensors)


def test_a_lora_that_fits_in_part_is_refused_or_published_with_its_share(
    run, hub, few, with_strangers
):
    fitting, tensors = with_strangers
    with pytest.raises(GenerationError) as caught:
        run(LORA, dry_run=True)
    assert f"({tensors - fitting} of {tensors} tensors)" in caught.value.message
    assert "--allow-partial" in caught.value.hint
    done = run(LORA, allow_partial=True)
    assert done.outcome == "published"
    assert any("no place for 2 of" in warning for warning in done.plan.warnings)
    recipe = read_spec(gmi_of(hub, LORA).parent).manifest.generation.recipe
    assert (recipe.lora_partial.applied, recipe.lora_partial.tensors) == (fitting, tensors)
    again = run(LORA, allow_partial=True)
    assert again.outcome == "up to date"


def test_a_part_is_for_a_lora_only(run):
    with pytest.raises(InputError, match="--allow-partial is for LoRAs"):
        run(BASE, allow_partial=True)


def test_a_textual_inversion_is_published_with_its_word(run, hub, few):
    import torch
    from safetensors.torch import save_file

    folder = hub.root / "models" / "word"
    folder.mkdir()
    (folder / "README.md").write_text(CARD.format(more="base_model: base\n"))
    vectors = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, folder / "zxcstyle.safetensors")
    ref = ModelRef("local", "word")
    done = run(ref)
    assert done.outcome == "published"
    manifest = read_spec(gmi_of(hub, ref).parent).manifest
    assert manifest.model.kind == "textual-inversion"
    assert manifest.model.base_model == "base"
    assert manifest.model.base_weights
    assert manifest.generation.recipe.trigger_words == ("zxcstyle",)
    assert manifest.generation.recipe.lora_scale is None


def test_a_file_is_described_under_its_own_name_whatever_pattern_named_it(run, hub, few, tmp_path):
    folder = hub.root / "models" / "run"
    for number in (1, 2):
        shutil.copytree(hub.root / "models" / "lora", folder / f"checkpoint-{number}")
    (folder / "README.md").write_text(CARD.format(more="base_model: base\n"))
    ref = ModelRef.parse("local:run/*-2/*")
    planned = run(ref, dry_run=True)
    named = ModelRef("local", "run", None, "checkpoint-2/pytorch_lora_weights.safetensors")
    assert (planned.ref, planned.plan.ref.without_revision) == (named, named)
    done = run(ref)
    assert (done.ref, done.outcome) == (named, "published")
    spec = read_spec(folder, expected=named)
    assert [weight.path for weight in spec.manifest.model.weights] == [named.file]
    assert run(named).outcome == "up to date"
    with pytest.raises(HubError, match="2 weight files like"):
        run(ModelRef.parse("local:run/*-?/*"))
    other = ModelRef("local", "run", None, "checkpoint-1/pytorch_lora_weights.safetensors")
    assert run(other).outcome == "published"
    with pytest.raises(SpecFormatError, match="describes checkpoint-1"):
        read_spec(folder, expected=named)
