"""A folder that behaves as a hub."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from gmi_registry.errors import (
    HubError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedOperationError,
    upgrade_hint,
)
from gmi_registry.hubs import Filters, Hub, HubAccess, Listing, LocalHub, open_hub
from gmi_registry.spec import ModelRef, read_spec
from tests.support.hub_builder import INDEX, save_lora, save_whole

ALL = Filters()


def names(listings):
    return [listing.ref.id for listing in listings]


def test_a_local_hub_is_a_hub(built):
    hub: Hub = built.hub
    assert hub.name == "local"


class TestOpening:
    def test_create_makes_the_layout_and_keeps_what_is_there(self, tmp_path):
        root = tmp_path / "some" / "hub"
        LocalHub.create(root, tmp_path / "cache")
        (root / "models" / "kept").mkdir()
        mark = (root / "hub.json").read_bytes()
        LocalHub.create(root, tmp_path / "cache")
        assert json.loads(mark) == {"format": {"name": "gmi-local-hub", "version": 1}}
        assert (root / "hub.json").read_bytes() == mark
        assert sorted(path.name for path in root.iterdir()) == ["encoders", "hub.json", "models"]
        assert (root / "models" / "kept").is_dir()

    def test_an_empty_folder_is_refused_with_the_command_that_makes_it_a_hub(self, tmp_path):
        with pytest.raises(InputError, match=r"is not a hub: it holds no hub\.json") as caught:
            LocalHub(tmp_path)
        assert "LocalHub.create" in caught.value.hint

    def test_a_missing_folder_and_a_file_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="there is no such folder"):
            LocalHub(tmp_path / "nothing")
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="is a file"):
            LocalHub(tmp_path / "file")

    def test_create_in_the_place_of_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be made a hub"):
            LocalHub.create(tmp_path / "file")

    @pytest.mark.parametrize(
        "mark",
        [
            b"",
            b"{}",
            b"[]",
            b"\xff",
            b"null",
            b"[" * 60_000,
            b'{"format": {"name": "other", "version": 1}}',
            b'{"format": {"name": "gmi-local-hub", "version": true}}',
            b'{"format": {"name": "gmi-local-hub", "version": "1"}}',
        ],
    )
    def test_a_mark_that_says_something_else_is_refused(self, tmp_path, mark):
        (tmp_path / "hub.json").write_bytes(mark)
        with pytest.raises(HubError, match="does not describe a hub"):
            LocalHub(tmp_path)

    def test_a_newer_version_is_refused(self, tmp_path):
        (tmp_path / "hub.json").write_text('{"format": {"name": "gmi-local-hub", "version": 2}}')
        with pytest.raises(HubError, match="version 2") as caught:
            LocalHub(tmp_path)
        assert caught.value.hint == upgrade_hint()

    def test_a_mark_that_is_a_link_or_too_large_is_refused(self, tmp_path, built):
        (tmp_path / "hub.json").symlink_to(built.root / "hub.json")
        with pytest.raises(HubError, match="symbolic link"):
            LocalHub(tmp_path)
        (tmp_path / "hub.json").unlink()
        (tmp_path / "hub.json").write_bytes(b" " * 100_000)
        with pytest.raises(HubError, match="more than 65,536 bytes"):
            LocalHub(tmp_path)

    def test_open_hub_takes_a_path_with_or_without_its_prefix(self, built, tmp_path):
        for text in (str(built.root), f"local:{built.root}"):
            opened = open_hub(text, HubAccess(tmp_path))
            assert isinstance(opened, LocalHub)
            assert opened.root == built.root

    def test_open_hub_knows_the_hubs_across_the_network(self, tmp_path):
        for name in ("hf", "civitai"):
            assert open_hub(name, HubAccess(tmp_path, offline=True)).name == name

    def test_without_a_cache_folder_the_users_own_is_meant(self, built, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
        assert isinstance(open_hub(str(built.root)), LocalHub)


class TestListing:
    def test_lists_models_with_a_specification_by_name(self, built):
        for name in ("zebra", "apple"):
            built.publish(name, tags=("flat", "3d"))
        built.add_lora("unpublished")
        listings = list(built.hub.list_specs(ALL))
        assert names(listings) == ["apple", "zebra"]
        apple = listings[0]
        content = (built.folder("apple") / "gmi" / "spec.json").read_bytes()
        manifest = json.loads(content)
        assert (apple.tags, apple.traits.tags) == ((), {"flat", "3d"})
        assert apple.spec_digest == hashlib.sha256(content).hexdigest()
        assert apple.ref.revision == manifest["model"]["revision"]
        assert apple.ref == built.hub.fetch_model(ModelRef("local", "apple")).ref

    def test_no_weights_are_read(self, built, monkeypatch):
        built.publish("one")
        for path in built.folder("one").glob("*.safetensors"):
            path.unlink()
        assert names(built.hub.list_specs(ALL)) == ["one"]

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (Filters(tags=("FLAT",)), ["flat-lora", "flat-old"]),
            (Filters(tags=("flat", "old")), ["flat-old"]),
            (Filters(not_tags=("Old",)), ["flat-lora", "whole"]),
            (Filters(base_model="Base"), ["flat-lora"]),
            (Filters(kind="checkpoint"), ["whole"]),
            (Filters(tags=("none such",)), []),
        ],
    )
    def test_filters_by_the_manifest(self, built, wanted, found):
        built.publish("flat-lora", tags=("flat",), base_model="base")
        built.publish("flat-old", tags=("flat", "old"))
        built.add_checkpoint("whole")
        built.publish("whole")
        assert names(built.hub.list_specs(wanted)) == found

    @pytest.mark.parametrize(
        "manifest",
        [
            b"",
            b"not json",
            b"[]",
            b"[" * 60_000,
            b'{"model": 5}',
            b'{"model": {"weights": 5}}',
            b'{"model": {"kind": "lora", "weights": [{"path": "w", "sha256": "short"}]}}',
            b'{"model": {"kind": "lora", "tags": [5], "weights": []}}',
            b'{"model": {"kind": "lora", "tags": "flat", "weights": []}}',
            b'{"model": {"kind": "lora", "base_model": 5, "weights": []}}',
            b'{"model": {"kind": null, "weights": []}}',
            b'{"model": {"kind": "lora", "weights": [{"path": 1e999, "sha256": "'
            + b"0" * 64
            + b'"}]}}',
            b" " * 300_000,
        ],
    )
    def test_a_broken_manifest_is_listed_whatever_the_filter(self, built, manifest):
        gmi = built.folder("broken") / "gmi"
        gmi.mkdir(parents=True)
        (gmi / "spec.json").write_bytes(manifest)
        listings = list(built.hub.list_specs(Filters(tags=("flat",))))
        assert listings == [Listing(ModelRef("local", "broken"), ())]

    def test_so_are_an_empty_folder_a_file_and_links(self, built, tmp_path):
        spec_elsewhere = tmp_path / "elsewhere"
        built.publish("good")
        (built.folder("good") / "gmi").rename(spec_elsewhere)
        for name in ("empty", "file", "link", "manifest-link"):
            built.folder(name).mkdir()
        (built.folder("empty") / "gmi").mkdir()
        (built.folder("file") / "gmi").touch()
        (built.folder("link") / "gmi").symlink_to(spec_elsewhere)
        (built.folder("manifest-link") / "gmi").mkdir()
        (built.folder("manifest-link") / "gmi" / "spec.json").symlink_to(
            spec_elsewhere / "spec.json"
        )
        (built.root / "models" / "outside").symlink_to(tmp_path)
        listings = list(built.hub.list_specs(Filters(tags=("flat",))))
        assert names(listings) == ["empty", "file", "link", "manifest-link", "outside"]
        assert all(listing.spec_digest is None for listing in listings)

    def test_names_that_no_reference_can_hold_are_passed_over_with_a_warning(self, built, caplog):
        for name in ("a b", "a--b", "-x", "naïve", ".hidden"):
            built.folder(name).mkdir()
        (built.root / "models" / "note.txt").touch()
        with caplog.at_level(logging.WARNING):
            assert list(built.hub.list_specs(ALL)) == []
        assert len(caplog.records) == 4

    def test_a_hub_without_models_lists_nothing(self, built):
        (built.root / "models").rmdir()
        assert list(built.hub.list_specs(ALL)) == []

    def test_models_in_the_place_of_a_file_is_an_error(self, built):
        (built.root / "models").rmdir()
        (built.root / "models").touch()
        with pytest.raises(HubError, match="cannot be read"):
            list(built.hub.list_specs(ALL))

    def test_models_that_lead_elsewhere_is_an_error(self, built, tmp_path):
        (built.root / "models").rmdir()
        (built.root / "models").symlink_to(tmp_path)
        with pytest.raises(HubError, match="leads out of the hub"):
            list(built.hub.list_specs(ALL))


class TestFetching:
    def test_a_specification_where_it_lies(self, built):
        spec = built.publish("one")
        ref = next(built.hub.list_specs(ALL)).ref
        folder = built.hub.fetch_spec(ref)
        assert folder == built.folder("one") / "gmi"
        assert read_spec(folder.parent, expected=ref) == spec

    def test_a_longer_pin_of_the_same_weights_is_accepted(self, built):
        spec = built.publish("one")
        whole = ModelRef("local", "one", spec.manifest.model.weights_digest)
        assert built.hub.fetch_spec(whole).is_dir()
        assert built.hub.fetch_model(whole).ref.revision == whole.revision[:16]

    def test_a_pin_that_no_longer_matches_says_so(self, built):
        built.publish("one")
        stale = ModelRef("local", "one", "0123456789abcdef")
        with pytest.raises(SpecNotFoundError, match="is gone: its specification describes"):
            built.hub.fetch_spec(stale)
        with pytest.raises(SpecNotFoundError, match="is gone: it now has weights"):
            built.hub.fetch_model(stale)

    def test_a_broken_manifest_is_left_to_its_reader(self, built):
        built.publish("one")
        pinned = next(built.hub.list_specs(ALL)).ref
        (built.folder("one") / "gmi" / "spec.json").write_bytes(b"{")
        folder = built.hub.fetch_spec(pinned)
        with pytest.raises(SpecFormatError, match=r"spec\.json"):
            read_spec(folder.parent)

    def test_no_model_no_specification(self, built):
        with pytest.raises(SpecNotFoundError, match="holds no model 'one'"):
            built.hub.fetch_spec(ModelRef("local", "one"))
        built.add_lora("one")
        with pytest.raises(SpecNotFoundError, match="has no specification") as caught:
            built.hub.fetch_spec(ModelRef("local", "one"))
        assert caught.value.hint == f"gmi-publish local:one --hub {built.hub.root}"

    def test_a_reference_to_another_hub_or_with_an_owner(self, built):
        with pytest.raises(UnsupportedOperationError):
            built.hub.fetch_spec(ModelRef("hf", "one"))
        built.folder("owner").mkdir()
        (built.folder("owner") / "one").mkdir()
        with pytest.raises(SpecNotFoundError):
            built.hub.fetch_spec(ModelRef("local", "owner/one"))

    def test_links_out_of_the_hub_are_not_followed(self, built, tmp_path):
        built.publish("one")
        built.folder("one").rename(tmp_path / "elsewhere")
        built.folder("one").symlink_to(tmp_path / "elsewhere")
        built.folder("two").mkdir()
        (built.folder("two") / "gmi").symlink_to(tmp_path / "elsewhere" / "gmi")
        with pytest.raises(HubError, match="leads out of the hub"):
            built.hub.fetch_spec(ModelRef("local", "one"))
        with pytest.raises(HubError, match="leads out of the hub"):
            built.hub.fetch_model(ModelRef("local", "one"))
        with pytest.raises(HubError, match="symbolic link"):
            built.hub.fetch_spec(ModelRef("local", "two"))

    def test_the_preview(self, built):
        built.publish("one", preview=b"RIFF")
        ref = ModelRef("local", "one")
        preview = built.hub.fetch_preview(ref)
        assert preview.read_bytes() == b"RIFF"
        target = preview.rename(built.root / "elsewhere")
        assert built.hub.fetch_preview(ref) is None
        preview.symlink_to(target)
        assert built.hub.fetch_preview(ref) is None

    def test_an_encoder(self, built):
        folder = built.root / "encoders" / "ViT-B-32" / "tag"
        folder.mkdir(parents=True)
        assert built.hub.fetch_encoder("ViT-B-32", "tag") == folder
        assert built.hub.fetch_encoder("ViT-B-32", "other") is None

    @given(
        st.text(max_size=6) | st.sampled_from(["..", ".", "a/b", "a\\b", "C:", "", "/etc", "x\0"])
    )
    def test_no_name_of_an_encoder_leads_anywhere_else(self, tmp_path_factory, name):
        root = tmp_path_factory.getbasetemp() / "encoder-names"
        hub = LocalHub.create(root, root)
        (root / "tag").mkdir(exist_ok=True)
        for found in (hub.fetch_encoder(name, "tag"), hub.fetch_encoder("..", name)):
            assert found is None

    def test_an_encoder_that_leads_elsewhere(self, built, tmp_path):
        (tmp_path / "e" / "tag").mkdir(parents=True)
        (built.root / "encoders" / "ViT").symlink_to(tmp_path / "e")
        with pytest.raises(HubError, match="leads out of the hub"):
            built.hub.fetch_encoder("ViT", "tag")


class TestModels:
    def test_a_lora_with_its_base(self, built):
        built.add_checkpoint("base")
        ref = built.add_lora("style", card="---\nbase_model: base\ntags: [flat]\n---\n# Style\n")
        model = built.hub.fetch_model(ref)
        content = (built.folder("style") / "pytorch_lora_weights.safetensors").read_bytes()
        assert model.kind == "lora"
        assert model.path == built.folder("style")
        assert model.url is None
        assert [weight.sha256 for weight in model.weights] == [hashlib.sha256(content).hexdigest()]
        assert model.weights[0].size == len(content)
        assert model.card.title == "Style"
        assert model.card.tags == ("flat",)
        assert model.base.kind == "checkpoint"
        assert model.base.path == built.folder("base")
        assert [weight.path for weight in model.base.weights] == [
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ]

    def test_the_revision_is_that_of_the_manifest_and_survives_publishing(self, built):
        ref = built.add_lora("style")
        before = built.hub.fetch_model(ref)
        spec = built.publish("style")
        assert spec.manifest.model.weights_digest.startswith(before.ref.revision)
        assert built.hub.fetch_model(before.ref).ref == before.ref

    def test_other_weights_are_another_revision(self, built):
        ref = built.add_lora("style", seed=1)
        first = built.hub.fetch_model(ref).ref
        built.add_lora("style", seed=2)
        assert built.hub.fetch_model(ref).ref != first

    def test_a_lora_is_known_by_its_tensors_under_any_name(self, built):
        ref = built.add_lora("style", file="anything.safetensors")
        model = built.hub.fetch_model(ref)
        assert (model.kind, model.path) == ("lora", built.folder("style"))
        assert model.weights[0].path == "anything.safetensors"

    def test_the_words_that_were_taught_with_a_lora_lie_beside_it(self, built):
        ref = built.add_lora("style", file="zebra.safetensors")
        save_file(
            {"emb_params": np.ones((2, 768), np.float32)},
            built.folder("style") / "a_emb.safetensors",
        )
        save_lora(built.folder("style") / "b_emb.safetensors")
        model = built.hub.fetch_model(ref)
        paths = [weight.path for weight in model.weights]
        assert (model.kind, paths) == ("lora", ["a_emb.safetensors", "zebra.safetensors"])
        named = ModelRef("local", "style", None, "zebra.safetensors")
        assert built.hub.fetch_model(named).weights == model.weights
        assert built.hub.fetch_model(replace(named, file="z*")).ref.file == "zebra.safetensors"
        spec = built.publish("style")
        assert read_spec(built.folder("style"), expected=named) == spec

    def test_the_usual_name_wins_over_other_files(self, built):
        ref = built.add_lora("style")
        save_whole(built.folder("style") / "other.safetensors")
        assert len(built.hub.fetch_model(ref).weights) == 1

    def test_a_single_file(self, built):
        built.add_checkpoint("base")
        built.folder("whole").mkdir()
        save_whole(built.folder("whole") / "whole.safetensors")
        (built.folder("whole") / "README.md").write_text("---\nbase_model: [local:base]\n---\n")
        model = built.hub.fetch_model(ModelRef("local", "whole"))
        assert model.kind == "single-file"
        assert model.path == built.folder("whole") / "whole.safetensors"
        assert model.base.ref.id == "base"

    def test_a_specification_beside_the_weights_changes_nothing(self, built):
        ref = built.add_lora("style", file="anything.safetensors")
        before = built.hub.fetch_model(ref)
        built.publish("style")
        save_whole(built.folder("style") / "gmi" / "extra.safetensors")
        assert built.hub.fetch_model(ref) == before

    @pytest.mark.parametrize("base", ["absent", "Owner/Other", "../style", "hf:a/b", "a b"])
    def test_a_base_that_is_not_here_is_left_out(self, built, base):
        ref = built.add_lora("style", card=f"---\nbase_model: '{base}'\n---\n")
        model = built.hub.fetch_model(ref)
        assert model.base is None
        assert model.card.base_model == base

    def test_a_checkpoint_needs_no_base(self, built):
        ref = built.add_checkpoint("derived", card="---\nbase_model: derived\n---\n")
        assert built.hub.fetch_model(ref).base is None

    def test_a_circle_of_bases_is_refused(self, built):
        built.add_lora("a", card="---\nbase_model: b\n---\n")
        built.add_lora("b", card="---\nbase_model: a\n---\n")
        with pytest.raises(HubError, match=r"in a circle.*a -> b -> a"):
            built.hub.fetch_model(ModelRef("local", "a"))

    def test_a_file_may_stand_on_the_pipeline_that_it_lies_beside(self, built):
        built.add_checkpoint("both")
        save_whole(built.folder("both") / "alone.safetensors")
        ref = ModelRef("local", "both", None, "alone.safetensors")
        base = built.hub.fetch_model(ref, ModelRef("local", "both")).base
        assert base is not None
        assert base.kind == "checkpoint"
        with pytest.raises(InputError, match="is the model itself"):
            built.hub.fetch_model(ref, ref)

    def test_a_model_is_not_its_own_base(self, built):
        ref = built.add_lora("style")
        with pytest.raises(InputError, match="is the model itself"):
            built.hub.fetch_model(ref, ref.without_revision)

    def test_so_is_a_chain_without_end(self, built):
        for number in range(12):
            built.add_lora(f"m{number}", card=f"---\nbase_model: m{number + 1}\n---\n")
        with pytest.raises(HubError, match="on for too long"):
            built.hub.fetch_model(ModelRef("local", "m0"))

    def test_no_weights(self, built):
        built.folder("none").mkdir()
        with pytest.raises(HubError, match="holds no weights"):
            built.hub.fetch_model(ModelRef("local", "none"))
        (built.folder("none") / "model_index.json").write_text(json.dumps(INDEX))
        with pytest.raises(HubError, match="holds no weights in the folders"):
            built.hub.fetch_model(ModelRef("local", "none"))
        (built.folder("none") / "model_index.json").write_bytes(b"")
        with pytest.raises(HubError, match="is not a JSON object"):
            built.hub.fetch_model(ModelRef("local", "none"))

    def test_pickles_are_refused_with_the_reason(self, built):
        (built.folder("old") / "unet").mkdir(parents=True)
        (built.folder("old") / "model_index.json").write_text(json.dumps(INDEX))
        (built.folder("old") / "unet" / "diffusion_pytorch_model.bin").touch()
        with pytest.raises(HubError, match="only as pickles"):
            built.hub.fetch_model(ModelRef("local", "old"))

    def test_several_files_are_refused(self, built):
        built.folder("many").mkdir()
        for name in ("a", "b"):
            save_whole(built.folder("many") / f"{name}.safetensors")
        with pytest.raises(HubError, match=r"2 weight files \(a\.safetensors, b\.safetensors\)"):
            built.hub.fetch_model(ModelRef("local", "many"))

    def test_a_file_that_only_looks_like_safetensors(self, built):
        built.folder("bad").mkdir()
        (built.folder("bad") / "model.safetensors").write_bytes(b"\xff" * 64)
        with pytest.raises(HubError, match="is no safetensors file"):
            built.hub.fetch_model(ModelRef("local", "bad"))

    def test_weights_that_lead_out_of_the_hub(self, built, tmp_path):
        save_whole(tmp_path / "private.safetensors")
        built.folder("file").mkdir()
        (built.folder("file") / "w.safetensors").symlink_to(tmp_path / "private.safetensors")
        built.add_checkpoint("folder")
        (built.folder("folder") / "text_encoder").symlink_to(tmp_path)
        for name in ("file", "folder"):
            with pytest.raises(HubError, match="leads out of the hub"):
                built.hub.fetch_model(ModelRef("local", name))

    def test_links_inside_the_hub_are_followed(self, built):
        built.add_lora("style", file="w.safetensors")
        built.folder("alias").mkdir()
        (built.folder("alias") / "w.safetensors").symlink_to(
            built.folder("style") / "w.safetensors"
        )
        first, second = (
            built.hub.fetch_model(ModelRef("local", name)).weights for name in ("style", "alias")
        )
        assert first == second

    def test_a_card_that_is_a_link_is_refused(self, built, tmp_path):
        (tmp_path / "secret").write_text("# Secret")
        ref = built.add_lora("style")
        (built.folder("style") / "README.md").symlink_to(tmp_path / "secret")
        with pytest.raises(HubError, match="symbolic link"):
            built.hub.fetch_model(ref)
