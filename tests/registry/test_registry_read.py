"""Reading from the registry: the real client, a hub on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.registry_author import (
    BLUE,
    PREVIEW,
    RED,
    REPO,
    civitai,
    described,
    entry_files,
    spec_of,
    weight_file,
)

# isort: split
from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedOperationError,
)
from gmi_registry.hubs import Filters, HubAccess, open_hub
from gmi_registry.hubs.open import open_registry
from gmi_registry.hubs.protocol import SpecStore
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.entries import Verified, entry_of
from gmi_registry.spec import ModelRef, encode_spec, read_spec
from tests.support.loopback import Fault

OLD, NEW = described(weights=(b"old",)), described(weights=(b"new",))


def add(hub, *specs, preview=None, **more):
    files = {}
    for spec in specs:
        files |= entry_files(spec, preview=preview)
    return hub.commit(REPO, files | more, repo_type="dataset")


def paths(hub):
    return [(request.method, request.path.partition("?")[0]) for request in hub.requests]


@pytest.fixture
def filled(hub):
    """Two versions of a model on Civitai, two sets of weights and another model on Hugging Face."""
    specs = [spec_of(civitai("9", "1000")), spec_of(civitai("9", "999"), BLUE)]
    specs += [spec_of(OLD), spec_of(NEW, BLUE), spec_of(described(name="owner/other"))]
    add(hub, *specs, preview=PREVIEW, **{"index/v1/part.bin": b"\0", "verified.json": b"{}"})
    hub.clear_requests()
    return hub


def test_it_is_a_store_of_specifications():
    store: SpecStore = Registry(REPO)
    assert store.listings
    assert store.dataset.id == store.id == REPO


@pytest.mark.parametrize("offline", [False, True])
def test_where_nobody_names_one_whoever_needs_it_says_so_and_others_do_without(
    filled, monkeypatch, offline
):
    monkeypatch.delenv("GMI_REGISTRY")
    access = HubAccess(offline=offline)
    entry = entry_of(OLD)
    with open_registry(access) as registry, open_hub("civitai", access) as shop:
        assert registry.id is None
        for needs in (
            lambda: list(registry.listings("hf")),
            lambda: registry.fetch_spec(entry),
            lambda: registry.check_writable(entry),
            registry.aggregate,
            lambda: list(shop.list_specs(Filters())),
            lambda: shop.fetch_spec(ModelRef("civitai", "9", "999")),
        ):
            with pytest.raises(InputError, match="no registry is named") as caught:
                needs()
            assert "--registry OWNER/NAME, or set GMI_REGISTRY" in caught.value.hint
        assert list(registry.others()) == []
    with open_hub("hf", access) as found:
        assert list(found.list_specs(Filters())) == []
        assert found.find_entry(entry.without_revision) is None
    assert not [request for request in filled.requests if "datasets" in request.path]


def test_every_entry_is_listed_pinned_and_in_order(filled):
    with Registry() as registry:
        listed = list(registry.listings("civitai"))
        assert [str(item.ref) for item in listed] == ["civitai:9@999", "civitai:9@1000"]
        assert {item.trust for item in listed} == {"self-published"}
        head = filled.history(REPO, repo_type="dataset")[0].oid
        assert listed[0].url == f"{filled.endpoint}/datasets/{REPO}/tree/{head}/civitai/9/999"
        assert {item.tags for item in listed} == {()}
        models = [item.ref for item in registry.listings("hf")]
    assert models == sorted([entry_of(OLD), entry_of(NEW), entry_of(described(name="owner/other"))])
    assert list(Registry().listings("local")) == []


def test_what_a_listing_costs(filled):
    registry = Registry()
    list(registry.listings("civitai"))
    assert [path.removeprefix(f"/api/datasets/{REPO}") for _, path in paths(filled)[:2]] == [
        "/revision/main",
        f"/tree/{filled.history(REPO, repo_type='dataset')[0].oid}/civitai",
    ]
    assert len(filled.requests) == 3
    filled.clear_requests()
    again = Registry()
    first = list(again.listings("civitai"))
    assert len(filled.requests) == 1
    assert again.traffic.total == 1
    again.close()
    registry.close()
    assert [item.stamp for item in first] == [item.stamp for item in Registry().listings("civitai")]


def test_a_listing_of_many_pages_is_read_to_its_end(hub):
    hub.state.page_size = 10
    add(hub, *(spec_of(civitai("1", str(number))) for number in range(1, 31)))
    hub.clear_requests()
    assert len(list(Registry().listings("civitai"))) == 30
    # 60 files in 61 folders.
    assert len([path for _, path in paths(hub) if "/tree/" in path]) == 13


def test_a_stamp_changes_with_the_specification_alone(filled):
    before = {item.ref: item.stamp for item in Registry().listings("civitai")}
    add(filled, spec_of(civitai("9", "999"), RED), **{"README.md": b"other"})
    after = {item.ref: item.stamp for item in Registry().listings("civitai")}
    assert before.keys() == after.keys()
    changed = [str(ref) for ref in before if before[ref] != after[ref]]
    assert changed == ["civitai:9@999"]
    assert len(set(after.values())) == 2


def test_half_an_entry_and_odd_files_are_passed_over(hub):
    whole = entry_files(spec_of(civitai("1", "1")))
    half = entry_files(spec_of(civitai("1", "2")))
    files = whole | dict(list(half.items())[:1])
    files |= {"civitai/1/x/gmi/spec.json": b"{}", "civitai/note.txt": b"", "civitai/1/1/x": b""}
    hub.commit(REPO, files, repo_type="dataset")
    assert [str(item.ref) for item in Registry().listings("civitai")] == ["civitai:1@1"]


def test_an_empty_registry_lists_nothing(hub):
    assert list(Registry().listings("hf")) == []


class TestTrust:
    def test_what_maintainers_drew_again_is_verified(self, filled):
        spec = spec_of(civitai("9", "999"), BLUE)
        verified = Verified({}).with_spec(encode_spec(spec)[0])
        filled.commit(REPO, {"verified.json": verified.to_bytes()}, repo_type="dataset")
        found = {str(item.ref): item for item in Registry().listings("civitai")}
        assert found["civitai:9@999"].trust == "verified"
        assert found["civitai:9@999"].spec_digest == spec.digest
        assert found["civitai:9@1000"].trust == "self-published"
        assert found["civitai:9@1000"].spec_digest is None

    def test_a_replaced_specification_is_no_longer(self, filled):
        spec = spec_of(civitai("9", "999"), BLUE)
        verified = Verified({}).with_spec(encode_spec(spec)[0]).to_bytes()
        add(filled, spec_of(civitai("9", "999"), RED), **{"verified.json": verified})
        assert {item.trust for item in Registry().listings("civitai")} == {"self-published"}

    def test_large_files_are_known_by_the_digest_itself(self, hub):
        spec, other = spec_of(civitai("9", "1")), spec_of(civitai("9", "2"))
        hub.commit(REPO, {".gitattributes": b"*.json filter=lfs\n"}, repo_type="dataset")
        add(hub, spec, other)
        verified = Verified({}).with_spec(encode_spec(spec)[0]).to_bytes()
        hub.commit(REPO, {"verified.json": verified}, repo_type="dataset")
        found = list(Registry().listings("civitai"))
        assert [item.spec_digest for item in found] == [spec.digest, other.digest]
        assert [item.trust for item in found] == ["verified", "self-published"]

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 9999, b'{"specs": 3}'])
    def test_a_broken_list_verifies_nothing(self, filled, content, caplog):
        filled.commit(REPO, {"verified.json": content}, repo_type="dataset")
        assert {item.trust for item in Registry().listings("civitai")} == {"self-published"}
        assert "nothing counts as verified" in caplog.text


class TestFetch:
    def test_the_files_of_an_entry(self, filled):
        spec = spec_of(civitai("9", "999"), BLUE)
        registry = Registry()
        ref = ModelRef("civitai", "9", "999")
        folder = registry.fetch_spec(ref)
        assert folder.name == "gmi"
        assert read_spec(folder.parent, expected=ref, follow_links=True) == spec
        assert registry.fetch_preview(ref).read_bytes() == PREVIEW
        filled.clear_requests()
        assert registry.fetch_spec(ref) == folder
        assert len(filled.requests) == 1

    def test_after_a_listing_it_is_only_the_files(self, filled):
        registry = Registry()
        refs = [item.ref for item in registry.listings("hf")]
        filled.clear_requests()
        found = {ref: registry.fetch_spec(ref) for ref in refs}
        # Two files, of which the large one lies elsewhere.
        assert len(filled.requests) == 3 * len(refs)
        assert {
            read_spec(path.parent, follow_links=True).manifest.model.id for path in found.values()
        } == {
            "owner/style",
            "owner/other",
        }
        filled.clear_requests()
        [registry.fetch_spec(ref) for ref in refs]
        assert not filled.requests

    def test_what_stays_the_same_is_not_asked_for_at_a_new_commit(self, filled):
        first = Registry()
        refs = [item.ref for item in first.listings("hf")]
        before = {ref: first.fetch_spec(ref) for ref in refs}
        add(filled, spec_of(civitai("9", "5")), spec_of(OLD, BLUE))
        again = Registry()
        list(again.listings("hf"))
        filled.clear_requests()
        after = {ref: again.fetch_spec(ref) for ref in refs}
        changed = entry_of(OLD)
        assert all(after[ref] == before[ref] for ref in refs if ref != changed)
        assert after[changed] != before[changed]
        assert {"owner/style" in path for _, path in paths(filled) if "resolve" in path} == {True}
        shown = read_spec(after[changed].parent, follow_links=True)
        assert shown == spec_of(OLD, BLUE)

    def test_a_history_that_was_cut_is_no_hindrance(self, filled):
        first = Registry()
        list(first.listings("civitai"))
        repo = filled.repo(REPO, "dataset")
        old = repo.refs["refs/heads/main"]
        add(filled, spec_of(civitai("1", "1")))
        again = Registry()
        list(again.listings("civitai"))
        del repo.commits[old]
        folder = again.fetch_spec(ModelRef("civitai", "9", "999"))
        assert read_spec(folder.parent, follow_links=True) == spec_of(civitai("9", "999"), BLUE)

    @pytest.mark.parametrize("listed", [True, False])
    def test_without_a_version_it_is_the_newest(self, filled, listed):
        registry = Registry()
        if listed:
            list(registry.listings("civitai"))
        folder = registry.fetch_spec(ModelRef("civitai", "9"))
        assert read_spec(folder.parent, follow_links=True).manifest.model.revision == "1000"

    @pytest.mark.parametrize("listed", [True, False])
    @pytest.mark.parametrize("revision", [None, "main", "a" * 40])
    def test_one_set_of_weights_needs_no_name_and_two_do(self, filled, listed, revision):
        registry = Registry()
        if listed:
            list(registry.listings("hf"))
        folder = registry.fetch_spec(ModelRef("hf", "owner/other", revision))
        assert read_spec(folder.parent, follow_links=True).manifest.model.id == "owner/other"
        with pytest.raises(SpecNotFoundError, match=r"2 specifications .* other weights") as caught:
            registry.fetch_spec(ModelRef("hf", "owner/style", revision))
        assert str(entry_of(OLD)) in caught.value.hint

    @pytest.mark.parametrize("listed", [True, False])
    @pytest.mark.parametrize(
        "ref", [ModelRef("civitai", "9", "1"), ModelRef("civitai", "8"), ModelRef("hf", "o/none")]
    )
    def test_what_is_not_there(self, filled, listed, ref):
        registry = Registry()
        if listed:
            list(registry.listings(ref.hub))
        with pytest.raises(SpecNotFoundError, match="has no specification of") as caught:
            registry.fetch_spec(ref)
        assert caught.value.hint == f"gmi-publish {ref}"
        assert registry.fetch_preview(ref) is None

    def test_another_hubs_models(self, filled):
        with pytest.raises(UnsupportedOperationError, match="Hugging Face and Civitai"):
            Registry().fetch_spec(ModelRef("local", "style"))

    def test_a_manifest_that_is_too_large_is_not_downloaded(self, hub):
        hub.commit(
            REPO,
            entry_files(spec_of(civitai("1", "1")))
            | {"civitai/1/1/gmi/spec.json": b" " * (256 * 1024 + 1)},
            repo_type="dataset",
        )
        with pytest.raises(SpecNotFoundError, match="has no specification"):
            Registry().fetch_spec(ModelRef("civitai", "1", "1"))

    def test_what_belongs_elsewhere_is_not_given(self, filled):
        pin = entry_of(described(weights=(b"better",)))
        moved = {
            path.replace("civitai/9/999/", "civitai/9/1/"): data
            for path, data in entry_files(spec_of(civitai("9", "999"), BLUE)).items()
        }
        moved |= {
            path.replace(entry_of(OLD).revision, pin.revision): data
            for path, data in entry_files(spec_of(OLD)).items()
        }
        filled.commit(REPO, moved, repo_type="dataset")
        for ref in (ModelRef("civitai", "9", "1"), pin):
            with pytest.raises(SpecFormatError, match=f"but was found at {ref}") as caught:
                Registry().fetch_spec(ref)
            assert "maintainer" in caught.value.hint

    def test_what_is_broken_is_given_to_its_reader(self, filled):
        ref = ModelRef("civitai", "9", "999")
        filled.commit(REPO, {"civitai/9/999/gmi/spec.json": b"{}"}, repo_type="dataset")
        folder = Registry().fetch_spec(ref)
        with pytest.raises(SpecFormatError):
            read_spec(folder.parent, expected=ref, follow_links=True)

    def test_a_signature_goes_with_it(self, filled):
        ref = ModelRef("civitai", "9", "999")
        assert Registry().fetch_signature(ref) is None
        filled.commit(REPO, {"civitai/9/999/gmi/spec.sig": b"{}"}, repo_type="dataset")
        registry = Registry()
        list(registry.listings("civitai"))
        assert registry.fetch_signature(ref).read_bytes() == b"{}"
        assert registry.fetch_signature(ref).parent == registry.fetch_spec(ref)

    def test_damage_on_the_way_is_noticed(self, filled):
        filled.inject(Fault("wrong-digest", path_regex=r"spec\.json", times=9))
        with pytest.raises(HubError, match="the registry gmi-registry/specs: the download of"):
            Registry().fetch_spec(ModelRef("civitai", "9", "999"))


class TestOffline:
    def test_what_was_listed_and_fetched_is_there(self, filled):
        registry = Registry()
        listed = {item.ref: item for item in registry.listings("civitai")}
        ref = ModelRef("civitai", "9", "999")
        folder = registry.fetch_spec(ref)
        filled.clear_requests()
        offline = Registry(offline=True)
        assert list(offline.listings("civitai")) == [listed[ref]]
        assert offline.fetch_spec(ref) == folder
        assert offline.fetch_preview(ref) is None
        with pytest.raises(OfflineError, match="network is switched off"):
            offline.fetch_spec(ModelRef("civitai", "9", "1000"))
        assert not filled.requests

    def test_what_was_never_listed_is_not(self, filled, tmp_path):
        offline = Registry(offline=True)
        for call in (
            lambda: list(offline.listings("hf")),
            lambda: offline.fetch_spec(ModelRef("civitai", "9")),
        ):
            with pytest.raises(
                OfflineError, match="the registry gmi-registry/specs is not on"
            ) as caught:
                call()
            assert "--offline" in caught.value.hint
        for call in (
            lambda: offline.check_writable(ModelRef("civitai", "9", "1")),
            lambda: offline.push_spec(ModelRef("civitai", "9", "1"), tmp_path),
        ):
            with pytest.raises(OfflineError, match="publishing needs the network") as caught:
                call()
            assert "HF_HUB_OFFLINE" in caught.value.hint
        assert not filled.requests

    @pytest.mark.parametrize(
        "content", [b"", b"[]", b"{}", b"\xff", b'{"format": {"version": 1}, "commit": 3}']
    )
    def test_a_damaged_note_counts_as_none(self, filled, content, tmp_path):
        registry = Registry()
        expected = list(registry.listings("civitai"))
        (note,) = (tmp_path / "hf-home").rglob("civitai.json")
        note.write_bytes(content)
        with pytest.raises(OfflineError):
            Registry(offline=True).listings("civitai")
        assert list(Registry().listings("civitai")) == expected

    def test_a_note_that_leads_elsewhere_counts_as_none(self, filled, tmp_path):
        list(Registry().listings("civitai"))
        (note,) = (tmp_path / "hf-home").rglob("civitai.json")
        document = json.loads(read_sealed(note))
        document["entries"][0][0] = "civitai/../../../etc"
        write_sealed(note, json.dumps(document).encode())
        with pytest.raises(OfflineError):
            Registry(offline=True).listings("civitai")


class TestRefusals:
    def test_a_dataset_that_is_not_there(self, hub):
        with pytest.raises(AuthError, match="shows no dataset none/here") as caught:
            list(Registry("none/here", token=False).listings("hf"))
        assert "--registry" in caught.value.hint
        assert "hf auth login" in caught.value.hint
        with pytest.raises(SpecNotFoundError, match="holds no dataset none/here") as caught:
            list(Registry("none/here", token="hf_ada").listings("hf"))
        assert "--registry" in caught.value.hint

    def test_a_private_one(self, hub):
        hub.add_repo("keeper/own", entry_files(spec_of(OLD)), repo_type="dataset", private=True)
        ref = entry_of(OLD)
        assert Registry("keeper/own", token="hf_keeper").fetch_spec(ref).is_dir()
        with pytest.raises(SpecNotFoundError, match="or this account may not see it"):
            Registry("keeper/own", token="hf_ben").fetch_spec(ref)

    def test_a_model_of_that_name_is_no_dataset(self, hub):
        hub.add_repo("ada/model", {"civitai/1/1/gmi/spec.json": b""})
        with pytest.raises(SpecNotFoundError, match="holds no dataset ada/model"):
            list(Registry("ada/model", token="hf_ada").listings("civitai"))

    @pytest.mark.parametrize("status", [307, 308])
    def test_one_that_has_another_name_now(self, hub, status, caplog):
        add(hub, spec_of(OLD))
        hub.rename(REPO, "new/name", repo_type="dataset", status=status)
        registry = Registry()
        assert [item.ref for item in registry.listings("hf")] == [entry_of(OLD)]
        assert read_spec(registry.fetch_spec(entry_of(OLD)).parent, follow_links=True).digest
        said = "the registry gmi-registry/specs is now called new/name"
        assert sum(said in line for line in caplog.messages) == 1
        assert [item.ref for item in Registry(offline=True).listings("hf")] == [entry_of(OLD)]

    @pytest.mark.parametrize("name", ["specs", "a/b/c", "../x/y", "a b/c", "https://x/y", "a/..b"])
    def test_no_name_for_a_dataset(self, name, monkeypatch):
        with pytest.raises(InputError, match="is not the name of a dataset"):
            Registry(name)
        monkeypatch.setenv("GMI_REGISTRY", name)
        with pytest.raises(InputError, match="is not the name of a dataset"):
            Registry()

    def test_the_environment_names_one(self, monkeypatch):
        monkeypatch.setenv("GMI_REGISTRY", "somebody/other")
        assert Registry().dataset.id == "somebody/other"
        assert Registry("mine/own").dataset.id == "mine/own"

    def test_an_address_that_is_none(self):
        with pytest.raises(InputError, match="not the address of a hub"):
            Registry(endpoint="file:///etc")

    def test_a_hub_that_is_not_there(self, hub):
        with pytest.raises(HubError, match=r"127\.0\.0\.1:9 cannot be reached"):
            list(Registry(endpoint="http://127.0.0.1:9").listings("hf"))

    def test_a_hub_that_asks_for_a_long_wait(self, filled):
        filled.inject(Fault("429", path_regex="/tree/", retry_after=4000))
        with Registry() as registry, pytest.raises(RateLimitError):
            list(registry.listings("hf"))

    def test_a_hub_that_is_out_of_order_for_a_moment(self, filled):
        fault = filled.inject(Fault("500", path_regex="/tree/"))
        assert len(list(Registry().listings("civitai"))) == 2
        assert fault.seen == 1

    def test_tokens_are_not_in_messages(self, hub):
        with pytest.raises(AuthError) as caught:
            Registry(token="hf_neverShown123").check_writable(ModelRef("civitai", "1", "2"))
        assert "neverShown" not in f"{caught.value.message} {caught.value.hint}"


def test_its_own_cache(filled, tmp_path):
    registry = Registry(cache_dir=tmp_path / "mine")
    (first, *_) = registry.listings("civitai")
    assert registry.fetch_spec(first.ref).is_relative_to(tmp_path / "mine" / "hub")
    assert list((tmp_path / "mine" / "assets").rglob("civitai.json"))
    assert not list(Path(tmp_path / "hf-home").rglob("spec.json"))


class TestRenamedModel:
    """An entry is called by the name that its model had."""

    @pytest.mark.parametrize("listed", [False, True])
    def test_it_is_found_by_the_weights_under_another_name(self, filled, listed):
        registry = Registry()
        if listed:
            list(registry.listings("hf"))
        folder = registry.fetch_spec(ModelRef("hf", "new/name", entry_of(NEW).revision))
        assert read_spec(folder.parent, expected=entry_of(NEW), follow_links=True) == spec_of(
            NEW, BLUE
        )

    def test_other_weights_are_nobody_s(self, filled):
        with pytest.raises(SpecNotFoundError, match="has no specification of hf:new/name"):
            Registry().fetch_spec(ModelRef("hf", "new/name", "0" * 64))
        assert Registry().find_weights({"w0.safetensors": "0" * 64}) is None
        assert Registry().find_weights({"w0.safetensors": None}) is None

    def test_weights_of_one_file_and_of_a_pipeline(self, hub):
        parts = ("text_encoder/model.safetensors", "unet/model.safetensors")
        files = tuple(weight_file(path.encode(), path) for path in parts)
        pipeline = described(name="owner/pipeline").model_copy(update={"weights": files})
        add(hub, spec_of(OLD), spec_of(pipeline))
        own = {file.path: file.sha256 for file in files}
        beside = {
            "unet/model.fp16.safetensors": "1" * 64,
            "safety_checker/model.safetensors": "2" * 64,
        }
        assert Registry().find_weights(own | beside) == entry_of(pipeline)
        lora = {file.path: file.sha256 for file in OLD.weights}
        assert Registry().find_weights(lora | {"z.safetensors": "3" * 64}) == entry_of(OLD)
        del own["unet/model.safetensors"]
        assert Registry().find_weights(own) is None

    def test_weights_of_a_file_in_a_folder_and_of_shards(self, hub):
        deep = weight_file(b"deep", "checkpoint-500/style.safetensors")
        shards = tuple(
            weight_file(name.encode(), f"transformer/{name}")
            for name in ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")
        )
        lora = described(name="owner/lora").model_copy(update={"weights": (deep,)})
        network = described(name="owner/network").model_copy(update={"weights": shards})
        add(hub, spec_of(lora), spec_of(network))
        other = {"checkpoint-1000/style.safetensors": "1" * 64}
        assert Registry().find_weights({deep.path: deep.sha256, **other}) == entry_of(lora)
        own = {file.path: file.sha256 for file in shards}
        assert Registry().find_weights({**own, **other}) == entry_of(network)
