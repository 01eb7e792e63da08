"""Audits with real diffusers, and the commands of a maintainer, against a hub on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load, save
from typer.testing import CliRunner

import gmi_registry.audit as audit_module
from gmi_registry import generation
from gmi_registry.audit import audit, choose_prompts
from gmi_registry.cli.main import app
from gmi_registry.errors import HubError, IncomparableSpecsError, InputError
from gmi_registry.generation import RecipeOverrides
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.entries import entry_of
from gmi_registry.hubs.registry.review import compare_images
from gmi_registry.index.stored import NewSpec, update_index
from gmi_registry.spec import ModelRef, PromptSet, read_spec, write_spec
from tests.support.grey_encoder import GreyEncoder
from tests.support.hub_builder import altered_spec
from tests.support.loopback import User
from tests.support.publishing import publish
from tests.support.registry_author import RED, REPO, civitai, described, entry_files, spec_of
from tests.support.tiny_models import files_below

BASE, LORA = ModelRef("hf", "owner/base"), ModelRef("hf", "owner/lora")
FEW = PromptSet("few", 1, ("a cat", "the sea", "snow", "a red house", "an old man", "a tree"))
CARD = "---\ntags: [tiny]\nlicense: cc0-1.0\n{more}---\n# A tiny model\n"


@pytest.fixture(scope="module")
def tiny(base_and_lora):
    """Two models as the files of repositories."""
    found = {}
    for ref, more in ((BASE, ""), (LORA, "base_model: owner/base\n")):
        found[ref] = files_below(base_and_lora / ref.id.partition("/")[2])
        found[ref]["README.md"] = CARD.format(more=more).encode()
    return found


@pytest.fixture
def models(hub, tiny, monkeypatch):
    """The hub with both models; their encoder needs no weights."""
    for ref, files in tiny.items():
        hub.add_repo(ref.id, files)
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: FEW)
    monkeypatch.setattr(audit_module, "load_encoder", lambda *_, **__: GreyEncoder())
    monkeypatch.setattr(audit_module, "check_encoder", lambda *_, **__: 0)
    return hub


@pytest.fixture
def propose(models, tmp_path):
    """What ``gmi-publish --to registry`` does for ada."""

    def published(ref=BASE, hub=None, **more):
        wanted = {"store": Registry(token="hf_ada")} | more
        with contextlib.nullcontext(hub) if hub else HuggingFaceHub() as opened:
            return publish(
                ref,
                opened,
                encoder=GreyEncoder(),
                overrides=RecipeOverrides(steps=2, batch_size=4, seeds=(0, 7)),
                work=tmp_path / "work",
                device="cpu",
                **wanted,
            )

    return published


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run ``gmi registry ...`` in this process."""
    monkeypatch.delenv("GMI_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    def run(*arguments):
        return CliRunner().invoke(app, ["registry", *map(str, arguments)])

    return run


def merge(number=1):
    Registry(token="hf_keeper").dataset.api.merge_pull_request(REPO, number, repo_type="dataset")


def proposed(hub, revision="refs/pr/1"):
    """The specification in a proposal."""
    files = hub.files(REPO, revision, repo_type="dataset")
    return {path: data for path, data in files.items() if path.startswith("hf/")}


def unpacked(files, folder):
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (manifest,) = folder.rglob("spec.json")
    return read_spec(manifest.parents[1])


@pytest.mark.parametrize("place", ["the registry", "the model"])
def test_what_is_proposed_already_is_not_generated_again(propose, models, place):
    def again(**more):
        if place == "the registry":
            return propose(LORA, **more)
        with HuggingFaceHub(token="hf_ada") as opened:
            return propose(LORA, hub=opened, store=None, **more)

    first = again()
    assert (first.outcome, first.images) == ("published", 12)
    for dry_run in (True, False):
        second = again(dry_run=dry_run)
        assert (second.outcome, second.images, second.where) == ("already proposed", 0, first.where)
        assert second.spec_digest == first.spec_digest
        assert second.plan.proposal == first.where
    card = CARD.format(more="base_model: owner/base\n").replace("[tiny]", "[tiny, flat]")
    models.commit(LORA.id, {"README.md": card.encode()})
    third = again()
    assert (third.outcome, third.images, third.plan.reuses_images) == ("published", 0, True)
    assert third.where != first.where
    kind = "dataset" if place == "the registry" else "model"
    files = models.files(REPO if kind == "dataset" else LORA.id, "refs/pr/2", repo_type=kind)
    assert any(path.endswith("gmi/preview.webp") for path in files)


def test_of_a_commit_it_is_main_that_is_up_to_date_or_not(propose, models):
    models.add_user(User("owner", "hf_owner"))
    before = models.history(LORA.id)[0].oid
    with HuggingFaceHub(token="hf_owner") as opened:

        def again(revision):
            ref = dataclasses.replace(LORA, revision=revision)
            return propose(ref, hub=opened, store=None)

        assert again(None).images == 12
        with_one = models.history(LORA.id)[0].oid
        assert again(before).outcome == "up to date"
        files = {path: None for path in models.files(LORA.id) if path.startswith("gmi/")}
        models.commit(LORA.id, files)
        assert again(with_one).outcome == "published"
    assert "gmi/spec.json" in models.files(LORA.id)


@pytest.mark.parametrize("ref", [BASE, LORA])
def test_a_true_specification_agrees_whatever_the_batches(propose, models, tmp_path, ref):
    propose(ref)
    spec = unpacked(proposed(models), tmp_path / "spec")
    told = []
    prompts = choose_prompts(spec, 3, 5)
    with HuggingFaceHub() as hub:
        found = audit(
            spec,
            hub,
            prompts,
            work=tmp_path / "w",
            device="cpu",
            progress=lambda *s: told.append(s),
        )
    assert found.agrees
    assert found.mean < 0.01
    assert [(image.prompt, image.seed) for image in found.images] == [
        (prompt, seed) for prompt in prompts for seed in (0, 7)
    ]
    assert ("generate", 6, 6) in told
    assert not [path for path in (tmp_path / "w").rglob("*") if path.is_file()]


def test_a_forged_one_does_not(propose, models, tmp_path):
    propose()
    spec = unpacked(proposed(models), tmp_path / "spec")
    forgeries = {
        "other images": altered_spec(spec, images=spec.image_embeddings[::-1] * 1.4),
        "one image": altered_spec(
            spec, images=np.where(np.arange(12)[:, None] == 0, 3, spec.image_embeddings)
        ),
        "every image a little": altered_spec(spec, images=spec.image_embeddings * 1.15),
        "other words": altered_spec(spec, texts=spec.prompt_embeddings * 2),
    }
    with HuggingFaceHub() as hub:
        for name, forged in forgeries.items():
            found = audit(forged, hub, FEW.prompts, work=tmp_path / "w", device="cpu")
            assert not found.agrees, name


def test_prompts_are_chosen_by_the_seed_alone(propose, models, tmp_path):
    spec = spec_of(described())
    chosen = choose_prompts(spec, 2, 1)
    assert chosen == choose_prompts(spec, 2, 1)
    assert len(chosen) == 2
    assert set(choose_prompts(spec, 99, 1)) == set(spec.manifest.prompt_sets[0].prompts)
    assert len({choose_prompts(spec, 2, seed) for seed in range(20)}) > 3


def test_what_cannot_be_compared(tmp_path):
    spec = spec_of(described())
    other = dataclasses.replace(
        spec,
        manifest=spec.manifest.model_copy(
            update={"encoder": spec.manifest.encoder.model_copy(update={"name": "other"})}
        ),
    )
    with pytest.raises(IncomparableSpecsError, match="images seen by"):
        compare_images(other, spec)
    lone = altered_spec(spec)
    block = lone.manifest.prompt_sets[0].model_copy(update={"prompts": ("x", "y", "z")})
    lone = dataclasses.replace(
        lone, manifest=lone.manifest.model_copy(update={"prompt_sets": (block,)})
    )
    with pytest.raises(IncomparableSpecsError, match="no image of 'x' with seed 0"):
        compare_images(spec, lone)
    with pytest.raises(InputError, match="has no prompt 'a dog'"):
        audit(spec, HuggingFaceHub(), ["a dog"], work=tmp_path)
    with pytest.raises(InputError, match="no prompt to use"):
        audit(spec, HuggingFaceHub(), [], work=tmp_path)


def test_a_base_that_was_named_is_the_one_that_is_audited(propose, models, tmp_path):
    content = {path: data for path, data in models.files(BASE.id).items() if path != "README.md"}
    models.add_repo("owner/other", content)
    propose(LORA, base="owner/other")
    spec = unpacked(proposed(models), tmp_path / "spec")
    assert (spec.manifest.model.base_model, spec.manifest.model.base_origin) == (
        "owner/other",
        "option",
    )
    name = "vae/diffusion_pytorch_model.safetensors"
    models.commit(BASE.id, {name: content["unet/diffusion_pytorch_model.safetensors"]})
    with HuggingFaceHub() as hub:
        found = audit(spec, hub, FEW.prompts[:1], work=tmp_path / "w", device="cpu")
    assert found.agrees


def test_of_a_lora_the_stated_share_is_applied(propose, models, tmp_path):
    path = "pytorch_lora_weights.safetensors"
    tensors = load(models.files(LORA.id)[path])
    alien = {
        name.replace("unet.", "unet.nowhere."): value
        for name, value in list(tensors.items())
        if "to_q" in name
    }
    models.commit(LORA.id, {path: save(tensors | alien)})
    propose(LORA, allow_partial=True)
    spec = unpacked(proposed(models), tmp_path / "spec")
    share = spec.manifest.generation.recipe.lora_partial
    assert share is not None
    assert (share.applied, share.tensors) == (len(tensors), len(tensors) + len(alien))
    with HuggingFaceHub() as hub:
        found = audit(spec, hub, FEW.prompts[:2], work=tmp_path / "w", device="cpu")
    assert found.agrees
    assert found.mean < 0.01
    other = share.model_copy(update={"applied": share.applied - 2})
    with pytest.raises(HubError, match=r"reach its base here, and .* did when it was described"):
        audit_module._require_share(spec, other)


def test_other_weights_of_the_model_or_its_base_stop_it(propose, models, tmp_path):
    propose(LORA)
    spec = unpacked(proposed(models), tmp_path / "spec")
    content = models.files(BASE.id)
    name = "vae/diffusion_pytorch_model.safetensors"
    models.commit(BASE.id, {name: content["unet/diffusion_pytorch_model.safetensors"]})
    with HuggingFaceHub() as hub:
        with pytest.raises(HubError, match="its base owner/base has other weights"):
            audit(spec, hub, FEW.prompts[:1], work=tmp_path / "w", device="cpu")
        files = models.files(LORA.id)
        path = "pytorch_lora_weights.safetensors"
        tensors = {name: 2 * value for name, value in load(files[path]).items()}
        models.commit(LORA.id, {path: save(tensors), "README.md": files["README.md"]})
        with pytest.raises(HubError, match="hf:owner/lora has other weights than those described"):
            audit(spec, hub, FEW.prompts[:1], work=tmp_path / "w", device="cpu")


@pytest.mark.parametrize(
    ("model", "path", "asked"),
    [
        (described(), "a.safetensors", "hf:owner/style/a.safetensors"),
        (described(), "v2/a.safetensors", "hf:owner/style/v2/a.safetensors"),
        (described(revision="a" * 40), "a.gguf", "hf:owner/style/a.gguf"),
        (described(name="style"), "a.safetensors", "hf:style"),
        (described("local", "run"), "v2/a.safetensors", "local:run/v2/a.safetensors"),
        (civitai(), "110.safetensors", "civitai:123@456"),
    ],
)
def test_the_file_that_is_described_is_the_one_that_is_asked_for(model, path, asked):
    weights = (model.weights[0].model_copy(update={"path": path}),)
    spec = spec_of(model.model_copy(update={"weights": weights}))
    assert str(audit_module._model_ref(spec)) == asked


class TestCheck:
    def test_a_sound_proposal(self, propose, models, call):
        done = propose()
        assert done.where.endswith("/discussions/1")
        shown = call("check", "--revision", "refs/pr/1")
        assert shown.exit_code == 0, shown.output
        rows = [line.split()[:2] for line in shown.stdout.splitlines()]
        assert [tuple(row) for row in rows[:3]] == [
            ("paths", "ok"),
            ("sizes", "ok"),
            ("manifest", "ok"),
        ]
        # The registry has no index yet to compare with.
        alone = ["norms", "copies", "hubness"]
        assert [tuple(row) for row in rows[-3:]] == [(name, "skipped") for name in alone]
        assert {status for _, status in rows[:-3]} == {"ok"}

    def test_beside_the_models_of_an_index(self, propose, models, call, tmp_path):
        """Of which one has the same images."""
        propose()
        spec = unpacked(proposed(models), tmp_path / "new")
        random = np.random.default_rng(0)
        images = spec.image_embeddings.astype(np.float32)
        width, length = images.shape[1], np.linalg.norm(images, axis=1).mean()
        rows = []
        for number in range(12):
            away = np.zeros(width) if number == 0 else length * random.standard_normal(width)
            row = NewSpec.of(altered_spec(spec, images=images + away.astype(np.float32)))
            entry = dataclasses.replace(
                row.indexed.entry, ref=ModelRef("local", f"m{number:02}"), digest=f"{number:064x}"
            )
            indexed = dataclasses.replace(row.indexed, entry=entry)
            rows.append(dataclasses.replace(row, indexed=indexed))
        update_index(tmp_path / "index", rows)
        shown = call("check", "--revision", "refs/pr/1", "--index", tmp_path / "index", "--json")
        found = {it["check"]: it for it in json.loads(shown.stdout)["findings"]}
        assert found["copies"]["status"] == "ok"
        assert found["copies"]["detail"] == "the same images as local:m00"
        assert found["hubness"]["status"] == "ok"
        assert found["hubness"]["detail"].startswith("first for ")
        assert "of 144 images of other models" in found["hubness"]["detail"]

    def test_the_document(self, propose, models, call):
        propose()
        shown = call("check", "--revision", "refs/pr/1", "--audit", 2, "--audit-seed", 3, "--json")
        assert shown.exit_code == 0, shown.output
        document = json.loads(shown.stdout)
        commit = models.repo(REPO, "dataset").refs["refs/pr/1"]
        (manifest,) = [path for path in proposed(models) if path.endswith("json")]
        entry = manifest.split("/")[3]
        findings = document.pop("findings")
        assert document == {
            "ok": True,
            "registry": REPO,
            "revision": "refs/pr/1",
            "commit": commit,
            "author": "ada",
            "entry": f"hf:owner/base@{entry}",
        }
        assert {frozenset(finding) for finding in findings} == {
            frozenset({"check", "status", "detail", "hint"})
        }
        last = findings[-1]
        assert (last["check"], last["status"]) == ("audit", "ok")
        assert "4 images of 2 prompts (seed 3): mean shift 0.000 of 0.1" in last["detail"]

    def test_a_forged_one_fails_at_the_audit(self, propose, models, call, tmp_path):
        propose()
        spec = unpacked(proposed(models), tmp_path / "spec")
        forged = altered_spec(spec, images=spec.image_embeddings[::-1] * 1.4)
        folder = write_spec(forged, tmp_path / "forged")
        Registry(token="hf_ben").push_spec(BASE, folder)
        assert call("check", "--revision", "refs/pr/2").exit_code == 0
        shown = call("check", "--revision", "refs/pr/2", "--audit", 3)
        assert shown.exit_code == 1
        last = shown.stdout.splitlines()[-2:]
        assert last[0].split()[:2] == ["audit", "failed"]
        assert last[1].strip().startswith("hint: ")

    def test_what_failed_before_is_not_drawn(self, propose, models, call):
        propose()
        more = {"verified.json": b"{}"}
        models.commit(REPO, more, repo_type="dataset", ref="refs/pr/1", author="ada")
        shown = call("check", "--revision", "refs/pr/1", "--audit", 1)
        assert shown.exit_code == 1
        assert "verified.json is not a file of an entry" in shown.stdout
        assert "audit     skipped" in shown.stdout

    def test_two_folders(self, propose, models, call, tmp_path):
        propose()
        unpacked(proposed(models), tmp_path / "new")
        (tmp_path / "base").mkdir()
        shown = call("check", tmp_path / "new", "--base", tmp_path / "base", "--json")
        assert shown.exit_code == 0, shown.output
        document = json.loads(shown.stdout)
        assert document["ok"] is True
        assert (document["registry"], document["commit"], document["author"]) == (None,) * 3
        quiet = call("check", tmp_path / "new", "--base", tmp_path / "base", "-q")
        assert quiet.stdout == f"{document['entry']}\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--base", "x"],
            ["x"],
            ["x", "--base", "y", "--revision", "z"],
            ["--revision", "z", "--audit", "-1"],
        ],
    )
    def test_usage(self, call, arguments):
        assert call("check", *arguments).exit_code == 2

    def test_a_registry_that_is_not_there(self, hub, call):
        shown = call("check", "--revision", "refs/pr/1", "--registry", "no/where")
        assert shown.exit_code == 1
        assert "error: " in shown.stderr
        assert "--registry" in shown.stderr
        assert shown.stdout == ""


class TestVerifyEntry:
    @pytest.fixture
    def entry(self, propose, models):
        propose()
        merge()
        (listing,) = Registry().listings("hf")
        assert listing.trust == "self-published"
        return listing.ref

    def test_what_is_drawn_again_is_verified(self, models, call, entry):
        shown = call("verify-entry", entry, "--audit", 2, "--token", "hf_keeper")
        assert shown.exit_code == 0, shown.output
        assert "audit     ok" in shown.stdout
        (listing,) = Registry().listings("hf")
        assert listing.trust == "verified"
        assert listing.spec_digest in shown.stdout
        head = models.history(REPO, repo_type="dataset")[0].oid
        assert "hf_keeper" not in shown.output
        again = call("verify-entry", entry, "--audit", 1, "--token", "hf_keeper", "--json")
        document = json.loads(again.stdout)
        assert document["ok"] is True
        assert document["digest"] == listing.spec_digest
        assert document["where"].endswith(f"/blob/{head}/verified.json")
        assert models.history(REPO, repo_type="dataset")[0].oid == head

    def test_what_somebody_else_adds_meanwhile_stays(self, models, call, entry):
        from gmi_registry.hubs.registry.entries import Verified
        from tests.support.loopback import Fault

        theirs = Verified({}).with_spec(b"theirs")
        models.inject(Fault("stale-parent", files={"verified.json": theirs.to_bytes()}))
        shown = call("verify-entry", entry, "--audit", 1, "--token", "hf_keeper")
        assert shown.exit_code == 0, shown.output
        held = models.files(REPO, repo_type="dataset")["verified.json"]
        assert len(Verified.from_bytes(held).specs) == 2

    def test_what_cannot_be_read_is_not_overwritten(self, models, call, entry):
        models.commit(REPO, {"verified.json": b"broken"}, repo_type="dataset")
        shown = call("verify-entry", entry, "--audit", 1, "--token", "hf_keeper")
        assert shown.exit_code == 1
        assert "verified.json is not JSON" in shown.stderr
        assert models.files(REPO, repo_type="dataset")["verified.json"] == b"broken"

    def test_whoever_may_not_write_proposes_it(self, models, call, entry):
        shown = call("verify-entry", entry, "--audit", 1, "--token", "hf_ben", "--create-pr")
        assert shown.exit_code == 0, shown.output
        assert "/discussions/2" in shown.stdout
        assert "verified.json" not in models.files(REPO, repo_type="dataset")

    def test_weights_that_changed(self, models, call, entry):
        models.commit(BASE.id, {"unet/diffusion_pytorch_model.safetensors": b"other"})
        shown = call("verify-entry", entry, "--audit", 1, "--token", "hf_keeper")
        assert shown.exit_code == 1
        assert "is another file than the one that was described" in shown.stdout
        assert "audit     skipped" in shown.stdout
        assert "verified.json" not in models.files(REPO, repo_type="dataset")

    def test_a_specification_in_anothers_place(self, models, call):
        right, wrong = civitai("1", "2"), civitai("1", "3")
        files = {
            path.replace("civitai/1/2/", "civitai/1/3/"): data
            for path, data in entry_files(spec_of(right, RED)).items()
        }
        models.commit(REPO, files | entry_files(spec_of(right)), repo_type="dataset")
        shown = call("verify-entry", entry_of(wrong), "--token", "hf_keeper")
        assert shown.exit_code == 1
        assert "describes civitai:1@2, but was found at civitai:1@3" in shown.stderr
        assert shown.stdout == ""
