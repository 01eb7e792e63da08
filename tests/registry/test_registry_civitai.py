"""A version on Civitai, from the proposal of its specification to its verification."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import stamina
from typer.testing import CliRunner

import gmi_registry.audit as audit_module
from gmi_registry import generation
from gmi_registry.cli.main import app
from gmi_registry.generation import RecipeOverrides
from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.hubs.registry import Registry
from gmi_registry.spec import ModelRef, PromptSet
from tests.support.civitai_loopback import File, LoopbackCivitai, Model, Version
from tests.support.grey_encoder import GreyEncoder
from tests.support.publishing import publish
from tests.support.registry_author import REPO
from tests.support.tiny_models import files_below

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
FEW = PromptSet("few", 1, ("a cat", "the sea", "snow"))
REF = ModelRef("civitai", "1", "11")


@pytest.fixture
def civitai(hub, base_and_lora, monkeypatch):
    """With one version of one LoRA; its base is on the other hub, beside the registry."""
    hub.add_repo(BASE, files_below(base_and_lora / "base"))
    for name in ("CIVITAI_TOKEN", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GMI_REGISTRY", REPO)
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: FEW)
    monkeypatch.setattr(audit_module, "load_encoder", lambda *_, **__: GreyEncoder())
    monkeypatch.setattr(audit_module, "check_encoder", lambda *_, **__: 0)
    stamina.set_testing(True, attempts=3, cap=True)
    weights = (base_and_lora / "lora" / "pytorch_lora_weights.safetensors").read_bytes()
    with LoopbackCivitai() as shop:
        shop.add(Model(1, "Style", versions=[Version(11, files=[File(110, weights)])]))
        monkeypatch.setenv("CIVITAI_ENDPOINT", shop.endpoint)
        yield shop
    stamina.set_testing(False)


def call(*arguments):
    return CliRunner().invoke(app, ["registry", *map(str, arguments)])


def propose(tmp_path):
    with open_hub("civitai", HubAccess(tmp_path / "cache", token="hf_ada")) as opened:
        return publish(
            REF,
            opened,
            work=tmp_path / "work",
            encoder=GreyEncoder(),
            overrides=RecipeOverrides(steps=1),
            device="cpu",
        )


def test_proposed_checked_merged_and_verified(hub, civitai, tmp_path):
    assert propose(tmp_path).where.endswith(f"/datasets/{REPO}/discussions/1")
    cache = ("--cache-dir", tmp_path / "other", "--device", "cpu")
    checked = call("check", "--revision", "refs/pr/1", "--audit", 2, "--json", *cache)
    assert checked.exit_code == 0, checked.output
    document = json.loads(checked.stdout)
    assert document["entry"] == str(REF)
    found = {finding["check"]: finding["status"] for finding in document["findings"]}
    # There is no index yet to compare with.
    alone = [check for check, status in found.items() if status != "ok"]
    assert alone == ["norms", "copies", "hubness"]
    assert list(found)[-5:] == ["weights", "norms", "copies", "hubness", "audit"]

    keeper = Registry(token="hf_keeper")
    keeper.dataset.api.merge_pull_request(REPO, 1, repo_type="dataset")
    verified = call("verify-entry", REF, "--audit", 1, "--token", "hf_keeper", *cache)
    assert verified.exit_code == 0, verified.output
    (listing,) = Registry().listings("civitai")
    assert (listing.ref, listing.trust) == (REF, "verified")
    folder = Registry().fetch_spec(REF)
    assert listing.spec_digest in verified.stdout
    assert folder.parent.name == "11"


def test_another_file_of_that_version_is_found_out(hub, civitai, base_and_lora, tmp_path):
    propose(tmp_path)
    other = (base_and_lora / "base" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    civitai.add(Model(1, "Style", versions=[Version(11, files=[File(110, other)])]))
    checked = call("check", "--revision", "refs/pr/1", "--cache-dir", tmp_path / "other")
    assert checked.exit_code == 1
    assert [line for line in checked.stdout.splitlines() if " failed " in line] == [
        line for line in checked.stdout.splitlines() if line.startswith("weights   failed")
    ]


def test_a_version_that_is_gone_fails(hub, civitai, tmp_path):
    propose(tmp_path)
    civitai.state.models.clear()
    checked = call("check", "--revision", "refs/pr/1", "--cache-dir", tmp_path / "other")
    assert checked.exit_code == 1
    assert "weights   failed" in checked.stdout


@pytest.mark.parametrize("command", [[], ["check"], ["verify-entry"]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom gmi_registry.cli import main\n"
        f"sys.argv[1:] = {['registry', *command, '--help']!r}\n"
        "try:\n    main.main()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'diffusers', 'huggingface_hub', 'numpy', 'safetensors', 'PIL'}\n"
        "print(sorted(set(sys.modules) & heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"
    assert "Usage:" in done.stdout
