"""A signature travels with its specification, and none outlives it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec

from gmi_registry.errors import OfflineError, SpecError, SpecNotFoundError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.registry import Registry
from gmi_registry.signature import PrivateKey, sign_spec, verify_signature
from gmi_registry.signature.signing import find_signature
from gmi_registry.spec import (
    DescribedModel,
    ModelRef,
    read_spec,
    write_spec,
)
from tests.support.hub_builder import random_spec, weight_file
from tests.support.loopback import User

REF = ModelRef("hf", "alice/style")
WEIGHTS = b"\0weights of the style"
NAME = "pytorch_lora_weights.safetensors"
SIGNATURE = "gmi/spec.sig"
REPO = "gmi-registry/specs"


@pytest.fixture
def by(tmp_path):
    path = tmp_path / "key.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    )
    return PrivateKey.read(path)


@pytest.fixture
def upload(tmp_path, by):
    """A folder to publish; another ``seed`` gives another specification."""

    def make(seed=0, *, signed=True):
        weights = (weight_file(WEIGHTS, NAME),)
        spec = random_spec(
            DescribedModel(hub="hf", id=REF.id, title="Style", kind="lora", weights=weights), seed
        )
        place = tmp_path / f"upload-{seed}-{signed}"
        folder = write_spec(spec, place)
        if signed:
            sign_spec(place, by)
        return folder

    return make


@pytest.fixture
def hub(hf_hub, monkeypatch):
    monkeypatch.setenv("GMI_REGISTRY", REPO)
    hf_hub.add_user(User("alice", "hf_alice", orgs=("gmi-registry",)))
    hf_hub.add_repo(REF.id, {"README.md": b"# Style\n", NAME: WEIGHTS})
    hf_hub.add_repo(REPO, {"README.md": b"# Specifications\n"}, repo_type="dataset")
    with HuggingFaceHub(token="hf_alice") as opened:
        yield opened


def signature(hub, ref=REF):
    folder = hub.fetch_spec(ref).parent
    return folder, find_signature(ref, folder, hub)


def test_it_is_published_and_found(hub, hf_hub, upload, by):
    folder = upload()
    hub.push_spec(REF, folder)
    assert hf_hub.files(REF.id)[SIGNATURE] == (folder / "spec.sig").read_bytes()
    folder, found = signature(hub)
    assert verify_signature(folder, by.public, signature=found, follow_links=True)
    hf_hub.clear_requests()
    pinned = ModelRef("hf", REF.id, folder.name)
    assert signature(hub, pinned) == (folder, None)  # beside the two files, where it is cached
    assert verify_signature(folder, by.public, follow_links=True)
    assert hf_hub.requests == []


def test_an_old_one_does_not_outlive_its_specification(hub, hf_hub, upload, by):
    hub.push_spec(REF, upload())
    hub.push_spec(REF, upload(1, signed=False))
    assert SIGNATURE not in hf_hub.files(REF.id)
    assert signature(hub)[1] is None
    with pytest.raises(SpecError, match="is missing"):
        verify_signature(signature(hub)[0], by.public, follow_links=True)


def test_a_new_one_goes_to_a_specification_that_is_there(hub, hf_hub, upload, by):
    hub.push_spec(REF, upload(signed=False))
    before = hf_hub.files(REF.id)
    hub.push_spec(REF, upload())
    after = hf_hub.files(REF.id)
    assert after.keys() - before.keys() == {SIGNATURE}
    assert {path: after[path] for path in before} == before
    folder, found = signature(hub)
    assert verify_signature(folder, by.public, signature=found, follow_links=True)


def test_it_is_asked_for_at_the_commit_of_the_specification(hub, hf_hub, upload, by):
    hub.push_spec(REF, upload())
    folder = hub.fetch_spec(REF).parent
    hf_hub.commit(REF.id, {SIGNATURE: b"another"})
    found = find_signature(REF, folder, hub)
    assert verify_signature(folder, by.public, signature=found, follow_links=True)


def test_one_that_is_too_large_is_none(hub, hf_hub, upload):
    hub.push_spec(REF, upload(signed=False))
    hf_hub.commit(REF.id, {SIGNATURE: b" " * 65_537})
    assert signature(hub)[1] is None


def test_offline_it_is_not_taken_for_missing(hub, upload):
    hub.push_spec(REF, upload())
    folder = hub.fetch_spec(REF).parent
    with HuggingFaceHub(offline=True) as offline, pytest.raises(OfflineError):
        find_signature(ModelRef("hf", REF.id, folder.name), folder, offline)


def test_a_model_that_is_not_there(hub):
    with pytest.raises(SpecNotFoundError):
        hub.fetch_signature(ModelRef("hf", "alice/none"))


def test_an_entry_of_the_registry(hub, hf_hub, upload, by):
    with Registry(token="hf_alice") as registry:
        registry.push_spec(REF, upload(), create_pr=False)
        folder, found = signature(registry)
        assert verify_signature(folder, by.public, signature=found, follow_links=True)
        registry.push_spec(REF, upload(1, signed=False), create_pr=False)
        held = hf_hub.files(REPO, "main", repo_type="dataset")
        assert [path for path in held if path.endswith("spec.sig")] == []
        assert signature(registry)[1] is None


def test_one_that_comes_later_to_an_entry_is_seen(hub, upload, by):
    with Registry(token="hf_alice") as registry:
        registry.push_spec(REF, upload(signed=False), create_pr=False)
        assert len(list(registry.listings("hf"))) == 1
        assert signature(registry)[1] is None
        registry.push_spec(REF, upload(), create_pr=False)
    with Registry(token="hf_alice") as registry:
        assert len(list(registry.listings("hf"))) == 1
        folder, found = signature(registry)
        assert verify_signature(folder, by.public, signature=found, follow_links=True)


def test_in_a_local_hub(built, by, tmp_path):
    built.add_lora("style", card="---\ntags: [flat]\n---\n# Style\n")
    ref, place = ModelRef("local", "style"), built.folder("style")
    red, again, blue = [
        write_spec(built.make_spec("style", colour), tmp_path / f"upload-{n}")
        for n, colour in enumerate([(250, 0, 0), (250, 0, 0), (0, 0, 250)])
    ]
    sign_spec(red.parent, by)
    built.hub.push_spec(ref, red)
    built.hub.push_spec(ref, again)
    assert verify_signature(place, by.public)  # of the same specification, so it stays
    built.hub.push_spec(ref, blue)
    assert not (place / SIGNATURE).exists()


def test_in_an_output_folder(upload, by):
    folder, other = upload(), upload(1, signed=False)
    write_spec(read_spec(folder.parent), folder.parent)
    assert verify_signature(folder.parent, by.public)
    write_spec(read_spec(other.parent), folder.parent)
    assert sorted(path.name for path in folder.iterdir()) == ["spec.json", "spec.tensors"]
