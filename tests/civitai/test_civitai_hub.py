"""Civitai as a hub: what the store has, what a version has, and where they meet."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gmi_registry.bases import base_named, known_bases
from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    SpecError,
    SpecNotFoundError,
    UnsupportedOperationError,
)
from gmi_registry.hubs import Filters, Hub, KnowsWeights, is_stale
from gmi_registry.hubs.civitai import CivitaiHub
from gmi_registry.hubs.civitai.documents import WireModel, card_of, licence_of
from gmi_registry.hubs.civitai.models import GivesConfigurations
from gmi_registry.hubs.open import FindsModels
from gmi_registry.hubs.protocol import Describes, ModelOutline
from gmi_registry.hubs.requests import RequestCounter
from gmi_registry.model import ModelFiles
from gmi_registry.search.run import Remote
from gmi_registry.spec import ModelRef, read_manifest, read_spec, write_spec
from tests.support.civitai_loopback import Fault, File, Model, Version
from tests.support.civitai_specs import (
    checkpoint_bytes,
    describe,
    embedding_bytes,
    lora_bytes,
    network_bytes,
    spec_of,
    style,
    vae_bytes,
    version_of,
)

REF = ModelRef("civitai", "1", "11")


@pytest.fixture
def filled(civitai):
    old = version_of(11, 1, published="2024-01-01T00:00:00.000Z")
    new = version_of(12, 1, published="2025-01-01T00:00:00.000Z")
    civitai.add(style(1, versions=[new, old]), style(2, 21))
    return civitai


@pytest.fixture
def written(tmp_path):
    """Write a specification into a folder of its own, as publishing does."""

    def write(spec):
        folder = tmp_path / f"work-{spec.digest[:8]}"
        return write_spec(spec, folder)

    return write


def test_it_is_what_searches_and_publications_ask_for(hub):
    assert isinstance(hub, KnowsWeights)
    assert isinstance(hub, Remote)
    assert isinstance(hub, Describes)
    assert isinstance(hub, FindsModels)
    typed: Hub = hub
    assert typed.name == "civitai"
    assert hub.offline is False
    assert hub.fetch_encoder("ViT-L-14", "openai") is None


def test_specifications_come_from_the_store(filled, hub, store):
    describe(store, filled, "civitai:1@11", "civitai:2@21")
    folder = hub.fetch_spec(REF)
    assert folder.name == "gmi"
    assert read_manifest(folder.parent, expected=REF).model.ref == REF
    assert hub.fetch_preview(REF) is None
    (folder / "preview.webp").write_bytes(b"a picture")
    assert hub.fetch_preview(REF) == folder / "preview.webp"
    with pytest.raises(SpecNotFoundError):
        hub.fetch_spec(ModelRef("civitai", "1", "12"))
    assert filled.requests == []


def test_without_a_version_reading_means_the_newest_described_one(filled, hub, store):
    describe(store, filled, "civitai:1@11")
    assert hub.fetch_spec(ModelRef("civitai", "1")).parent.name == "11"
    describe(store, filled, "civitai:1@12")
    assert hub.fetch_spec(ModelRef("civitai", "1")).parent.name == "12"
    with pytest.raises(SpecNotFoundError):
        hub.fetch_spec(ModelRef("civitai", "7"))
    assert filled.requests == []


def test_a_specification_goes_into_the_store_as_a_proposal(filled, hub, store, written):
    content = filled.state.file(110).content
    folder = written(spec_of(REF, content))
    hub.check_writable(REF)
    where = hub.push_spec(REF, folder)
    assert where == str(store.root / "civitai" / "1" / "11" / "gmi")
    assert store.proposals == [REF]
    assert read_spec(hub.fetch_spec(REF).parent, expected=REF).manifest.model.title == "Model 1"
    hub.push_spec(REF, folder, create_pr=False)
    assert store.proposals == [REF]


def test_without_a_version_writing_means_the_newest_and_stays_with_it(filled, hub, store, written):
    hub.check_writable(ModelRef("civitai", "1"))
    filled.state.models[1].versions.append(version_of(13, 1))
    folder = written(spec_of(ModelRef("civitai", "1", "12"), lora_bytes(12)))
    hub.push_spec(ModelRef("civitai", "1"), folder)
    assert store.proposals == [ModelRef("civitai", "1", "12")]
    assert hub.fetch_spec(ModelRef("civitai", "1")).parent.name == "12"


def test_weights_that_changed_meanwhile_stop_a_publication(filled, hub, store, written):
    folder = written(spec_of(REF, filled.state.file(110).content))
    filled.state.file(110).content = lora_bytes(999)
    with pytest.raises(HubError, match="describes other weights than civitai:1@11 has now"):
        hub.push_spec(REF, folder)
    assert list(store.listings("civitai")) == []


def test_a_specification_of_another_model_is_not_taken(filled, hub, store, written):
    folder = written(spec_of(ModelRef("civitai", "2", "21"), filled.state.file(110).content))
    with pytest.raises(SpecError):
        hub.push_spec(REF, folder)
    with pytest.raises(InputError):
        hub.push_spec(REF, store.root)
    assert list(store.listings("civitai")) == []


def test_a_closed_store_is_said_before_anything_else(filled, hub, store):
    store.open = False
    with pytest.raises(AuthError, match="is closed"):
        hub.check_writable(REF)


def test_a_replaced_file_makes_a_specification_stale(filled, hub, store, tmp_path):
    describe(store, filled, "civitai:1@11", "civitai:2@21")
    described = read_manifest(hub.fetch_spec(REF).parent).model.weights
    assert is_stale(described, hub.weight_digests(REF)) is False
    assert len(filled.requests) == 1
    hub.weight_digests(REF)
    assert len(filled.requests) == 1
    filled.state.file(110).content = lora_bytes(999)
    later = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache")
    assert is_stale(described, later.weight_digests(REF)) is True
    filled.state.file(110).content = lora_bytes(11)
    filled.state.models[1].versions[1].files.append(File(112, lora_bytes(1), primary=False))
    renamed = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache")
    filled.state.file(110).name = "another name.safetensors"
    assert is_stale(described, renamed.weight_digests(REF)) is False


def test_a_version_that_is_gone_has_no_weights(filled, hub, store):
    assert hub.weight_digests(ModelRef("civitai", "1", "99")) == {}
    assert hub.weight_digests(ModelRef("civitai", "2", "11")) == {}
    assert hub.weight_digests(ModelRef("civitai", "1")) is None


def test_of_an_archived_model_nothing_is_known(filled, hub, store):
    describe(store, filled, "civitai:1@11")
    filled.state.models[1].archived = True
    list(hub.list_specs(Filters(("style",))))
    assert hub.weight_digests(REF) is None
    with pytest.raises(HubError, match="offers no files; the model may be archived"):
        hub.fetch_model(REF)


def test_offline_nothing_is_asked(filled, store, tmp_path, monkeypatch):
    describe(store, filled, "civitai:1@11")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache")
    assert hub.offline is True
    assert hub.weight_digests(REF) is None
    assert hub.fetch_spec(ModelRef("civitai", "1")).parent.name == "11"
    with pytest.raises(OfflineError):
        hub.fetch_model(REF)
    assert filled.requests == []


def test_names_that_say_all_are_not_looked_up(filled, hub):
    for text in (
        "civitai:1@11",
        "1@11",
        "urn:air:sd1:lora:civitai:1@11",
        "https://civitai.com/models/1/style?modelVersionId=11",
    ):
        assert hub.find(text) == REF
    assert filled.requests == []
    assert hub.find("civitai:1") == ModelRef("civitai", "1", "12")
    assert len(filled.requests) == 1


def test_offline_a_model_means_its_newest_described_version(filled, store, tmp_path):
    describe(store, filled, "civitai:1@11")
    hub = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", offline=True)
    assert hub.find("civitai:1") == REF
    with pytest.raises(OfflineError):
        hub.find("https://civitai.com/model-versions/11")
    assert filled.requests == []


def test_closing_closes_the_store_as_well(hub, store):
    closed = []
    store.close = lambda: closed.append(True)
    hub.close()
    assert closed == [True]


def test_names_of_other_hubs_are_refused(hub):
    for ask in (hub.fetch_spec, hub.fetch_model, hub.weight_digests, hub.check_writable):
        with pytest.raises(UnsupportedOperationError, match="not on this hub"):
            ask(ModelRef("hf", "owner/name"))


def test_requests_of_the_registry_are_counted_as_well(filled, store, tmp_path):
    store.traffic = RequestCounter()
    for method in ("GET", "GET", "GET", "HEAD"):
        store.traffic.count(method)
    told = []
    hub = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", on_wait=told.append)
    filled.inject(Fault("500"))
    hub.weight_digests(REF)
    assert hub.traffic.methods == {"GET": 5, "HEAD": 1}
    assert told == [1.0]
    assert store.traffic.on_wait == told.append
    hub.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "Controlnet"}, "civitai:1@11 is a ControlNet$"),
        ({"type": "Upscaler"}, "is an upscaler$"),
        ({"type": "VAE"}, "is a VAE$"),
        ({"type": "MotionModule"}, "is a motion module$"),
        ({"type": "Hypernetwork"}, "is a hypernetwork$"),
        ({"type": "AestheticGradient"}, "is an aesthetic gradient$"),
        ({"type": "Detection"}, "is a detector$"),
        ({"type": "Poses"}, "is a set of poses$"),
        ({"type": "Wildcards"}, "is a list of words for prompts$"),
        ({"type": "Workflows"}, "is a workflow for another program$"),
        ({"type": "Other"}, "is of the type Other, and only Checkpoint, LORA, LoCon, DoRA, LyC"),
        ({"base_model": "Wan Video"}, r"is made for Wan Video, which makes videos"),
        ({"usage": "InternalGeneration"}, "only Civitai may use it"),
    ],
)
def test_models_that_are_not_described(filled, hub, changes, message):
    if "type" in changes:
        filled.state.models[1].type = changes["type"]
    for version in filled.state.models[1].versions:
        version.base_model = changes.get("base_model", "SD 1.5")
        version.usage = changes.get("usage", "Download")
    with pytest.raises(HubError, match=message) as caught:
        hub.fetch_model(REF)
    assert caught.value.hint
    assert "storage" not in "".join(filled.paths)


class Bases:
    """A hub of base models that keeps note of what it was asked for."""

    name = "hf"

    def __init__(self, error=None):
        self.asked = []
        self.error = error

    def fetch_model(self, ref):
        self.asked.append(("model", ref))
        if self.error:
            raise self.error
        return replace(self._files, ref=ref)

    _files = ModelFiles(REF, "checkpoint", None, None, ())


class Configured(Bases):
    def fetch_configuration(self, ref):
        self.asked.append(("configuration", ref))
        return replace(self._files, ref=ref)


PONY = "stablediffusionapi/pony-diffusion-v6-xl"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.mark.parametrize(
    ("model_type", "base", "bases", "expected"),
    [
        ("LORA", "Pony", Configured(), ("model", PONY)),
        ("Checkpoint", "Pony", Configured(), ("configuration", SDXL)),
        ("Checkpoint", "SD 1.5", Bases(), ("model", SD)),
    ],
)
def test_the_base_that_a_version_stands_on(
    filled, store, tmp_path, model_type, base, bases, expected
):
    filled.state.models[1].type = model_type
    filled.state.models[1].versions[1].base_model = base
    if model_type == "Checkpoint":
        filled.state.file(110).content = checkpoint_bytes()
    hub = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", bases=bases)
    assert isinstance(bases, GivesConfigurations) is (type(bases) is Configured)
    files = hub.fetch_model(REF)
    what, repository = expected
    assert bases.asked == [(what, ModelRef("hf", repository))]
    assert files.base is not None
    assert files.card.base_model == base
    hub.close()


class Outlining(Configured):
    """One that also tells beforehand what it would fetch."""

    def outline(self, ref, base=None):
        self.asked.append(("outline", ref))
        return ModelOutline(ref, "checkpoint", None, None, {}, 1000)

    def outline_configuration(self, ref):
        self.asked.append(("outline of the configuration", ref))
        return ModelOutline(ref, "checkpoint", None, None, {}, 10)


@pytest.mark.parametrize(
    ("model_type", "file", "content", "kind", "what", "repository"),
    [
        ("Checkpoint", {}, checkpoint_bytes(), "single-file", "configuration", SDXL),
        ("Checkpoint", {}, network_bytes(), "single-file", "model", PONY),
        ("Checkpoint", {"type": "UNet"}, network_bytes(), "single-file", "model", PONY),
        ("Checkpoint", {"type": "Diffusion Model"}, network_bytes(), "single-file", "model", PONY),
        # What the file is counts more than what it is filed under.
        ("Checkpoint", {}, lora_bytes(), "lora", "model", PONY),
        ("LyCORIS", {}, lora_bytes(), "lora", "model", PONY),
        ("LORA", {}, checkpoint_bytes(), "single-file", "configuration", SDXL),
        ("TextualInversion", {}, embedding_bytes(), "textual-inversion", "model", PONY),
    ],
)
def test_what_a_file_is_says_what_of_its_base_is_needed(
    filled, store, tmp_path, model_type, file, content, kind, what, repository
):
    model = filled.state.models[1]
    model.type, model.versions[1].base_model = model_type, "Pony"
    model.versions[1].files = [File(110, content, **file)]
    bases = Outlining()
    with CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", bases=bases) as hub:
        outline = hub.outline(REF)
        assert outline.kind == kind
        assert outline.base.missing == (10 if what == "configuration" else 1000)
        assert {it.status for it in filled.requests if "/storage" in it.path} == {206}
        assert hub.fetch_model(REF).kind == kind
    word = "outline of the configuration" if what == "configuration" else "outline"
    assert bases.asked == [(word, ModelRef("hf", repository)), (what, ModelRef("hf", repository))]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (vae_bytes(), "is a VAE"),
        (pickle.dumps({"a": 1}), "is a pickle"),
        (checkpoint_bytes()[:-100], "ends too early|cut short|is shorter|is missing"),
        (b"\x80" * 8, "is no safetensors file"),
    ],
)
def test_a_wrong_file_is_refused_before_it_and_its_base_arrive(
    filled, store, tmp_path, content, told
):
    filled.state.models[1].type = "Checkpoint"
    filled.state.file(110).content = content
    bases = Bases()
    with CivitaiHub(
        store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", bases=bases
    ) as hub, pytest.raises(HubError, match=told) as caught:  # fmt: skip
        hub.fetch_model(REF)
    assert "civitai:1@11" in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_storage_without_ranges_tells_no_less(filled, store, tmp_path):
    filled.state.models[1].type = "Checkpoint"
    filled.state.file(110).content = vae_bytes()
    filled.inject(Fault("whole", path_regex="/storage"))
    with CivitaiHub(
        store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", bases=Bases()
    ) as hub, pytest.raises(HubError, match="is a VAE"):  # fmt: skip
        hub.outline(REF)


def test_a_base_that_is_closed_or_missing_is_said_before_a_large_file_arrives(
    filled, store, tmp_path
):
    filled.state.models[1].type = "Checkpoint"
    filled.state.file(110).content = checkpoint_bytes()
    for error, kind in (
        (AuthError("hf:o/n is gated", hint="ask for it"), AuthError),
        (SpecNotFoundError("hf:o/n is not there", hint="check it"), HubError),
    ):
        hub = CivitaiHub(
            store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", bases=Bases(error)
        )
        with pytest.raises(
            kind, match=r"the base model of civitai:1@11, SD 1\.5, is not"
        ) as caught:
            hub.fetch_model(REF)
        assert caught.value.hint == error.hint
        hub.close()
    # Of the file no more than its beginning was requested.
    assert {it.status for it in filled.requests if "/storage" in it.path} == {206}


def test_a_small_file_that_is_refused_is_said_before_a_large_base_arrives(filled, store, tmp_path):
    filled.state.models[1].versions[1].login = True
    bases = Bases()
    hub = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", bases=bases)
    with pytest.raises(AuthError, match="no token was sent"):
        hub.fetch_model(REF)
    assert bases.asked == []
    hub.close()


def test_a_version_of_another_model_is_not_fetched(filled, hub):
    with pytest.raises(SpecNotFoundError, match="which is civitai:1@11"):
        hub.fetch_model(ModelRef("civitai", "2", "11"))


def wire(**changes):
    model = Model(
        1, "Ink  and\tpaper", tags=["ink"], versions=[Version(11, "v1.0", **changes.pop("v", {}))]
    )
    for name, value in changes.items():
        setattr(model, name, value)
    found = WireModel.model_validate(model.shown("https://civitai.example"))
    return found, found.model_versions[0]


def test_the_card_says_what_civitai_says():
    card = card_of(*wire(v={"words": ["ink style", "black, white,"], "base_model": "SDXL 1.0"}))
    assert card.title == "Ink and paper · v1.0"
    assert (card.tags, card.base_model, card.downloads) == (("ink",), "SDXL 1.0", 7)
    assert card.trigger_words == ("ink style", "black, white")
    assert card.licence == (
        "Civitai: commercial use: Image, RentCivit; derivatives allowed; the same licence for "
        "them; no credit needed"
    )
    assert card.nsfw is False


def test_words_that_would_leave_no_room_for_a_prompt_are_left_out():
    card = card_of(*wire(v={"words": ["a" * 60, "b" * 41, "c"]}))
    assert card.trigger_words == ("a" * 60,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"nsfw": True}, True),
        ({"v": {"level": 31}}, False),
        ({"v": {"level": 28}}, True),
        ({"v": {"level": 0}}, True),
    ],
)
def test_what_is_rated_pg(changes, expected):
    assert card_of(*wire(**changes)).nsfw is expected


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        (["Sell", "Rent"], "commercial use: Sell, Rent"),
        ("Sell", "commercial use: Sell"),
        ("{None}", "commercial use: none"),
        ([], "commercial use: none"),
        ([{"a": 1}] * 1000, "commercial use: a"),
    ],
)
def test_what_others_may_do(uses, expected):
    found, _ = wire(uses=uses)
    licence = licence_of(found)
    assert licence is not None
    assert expected in licence
    assert len(licence) <= 200


def test_a_licence_that_is_not_stated_is_none():
    assert licence_of(wire(uses=None)[0]) is None


def test_every_base_that_is_known_has_its_words():
    assert {"SD 1.5", "SDXL 1.0", "Pony", "Illustrious", "Flux.1 D"} <= set(known_bases())
    for name in known_bases():
        base = base_named(name.upper(), "civitai:1@2")
        for repository in (base.repository, base.layout):
            assert str(ModelRef("hf", repository)) == f"hf:{repository}"
        air = ModelRef("civitai", "1", "2").air(base.ecosystem, "lora")
        assert ModelRef.parse(air) == ModelRef("civitai", "1", "2")


def test_the_page_names_every_base():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "civitai.md").read_text()
    for name in known_bases():
        row = next(line for line in page.splitlines() if line.startswith("|") and name in line)
        assert base_named(name, "").repository in row


def test_a_search_over_civitai(filled, hub, store, tmp_path):
    """The real search, with an encoder that is not needed for a model near a model."""
    from gmi_registry import search

    filled.add(style(3, 31))
    rng = np.random.default_rng(5)
    near = rng.standard_normal(6)
    for number, (model, version, vector) in enumerate(
        [("1", "11", near), ("2", "21", -near), ("3", "31", near + 0.01)]
    ):
        ref = ModelRef("civitai", model, version)
        content = filled.state.file(int(version) * 10).content
        folder = store.root / "civitai" / model / version
        folder.mkdir(parents=True)
        spread = np.random.default_rng(number).standard_normal((3, 6)) * 0.01
        write_spec(spec_of(ref, content, vector=vector + spread[0]), folder)
    found = search(
        [], hub, like="civitai:1@11", tags=("style",), nsfw=True, cache_dir=tmp_path / "cache"
    )
    assert found.skipped == ()
    assert [str(hit.ref) for hit in found.hits] == ["civitai:3@31", "civitai:2@21"]
    assert found.requests == {"GET": 1}
    assert [hit.stale for hit in found.hits] == [False, False]


def test_digests_are_those_of_the_bytes(filled, store, tmp_path):
    hub = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "c", bases=Bases())
    files = hub.fetch_model(ModelRef("civitai", "1"))
    assert files.ref == ModelRef("civitai", "1", "12")
    assert files.url == f"{filled.endpoint}/models/1?modelVersionId=12"
    (weight,) = files.weights
    assert (weight.path, weight.size) == ("120.safetensors", len(lora_bytes(12)))
    assert weight.sha256 == hashlib.sha256(lora_bytes(12)).hexdigest()
    filled.clear_requests()
    assert hub.weight_digests(files.ref) == {"120.safetensors": weight.sha256}
    assert filled.requests == []
    hub.close()


ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def kohya(width, **metadata):
    """A LoRA of kohya's scripts; width 768 is that of Stable Diffusion 1, 2048 that of SDXL."""
    tensors = {
        f"{ATTENTION}.lora_down.weight": np.ones((2, width), np.float32),
        f"{ATTENTION}.lora_up.weight": np.ones((64, 2), np.float32),
    }
    return save(tensors, metadata=metadata or None)


def stands_on(filled, store, tmp_path, base_model, content, named=None):
    """The model with ``content`` that Civitai files under ``base_model``, and what was asked."""
    version = filled.state.models[1].versions[1]
    version.base_model, version.files = base_model, [File(110, content)]
    bases = Bases()
    cache = tmp_path / f"cache-{len(filled.requests)}"
    hub = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=cache, bases=bases)
    try:
        return hub.fetch_model(REF, named), [ref.id for _, ref in bases.asked]
    finally:
        hub.close()


def test_a_base_that_is_named_goes_before_civitais_name(filled, store, tmp_path):
    from gmi_registry.generation import describe

    named = ModelRef("hf", "ada/base", "v1")
    for name in ("SDXL 1.0", "Wan Video", "Other", "a name of tomorrow"):
        files, asked = stands_on(filled, store, tmp_path, name, kohya(2048), named)
        assert asked == ["ada/base"]
        weights = files.weights[0].model_copy(update={"path": "unet.safetensors"})
        described = describe(replace(files, base=replace(files.base, weights=(weights,))))
        assert (described.base_model, described.base_origin) == ("ada/base", "option")
        assert described.named_base == ModelRef("hf", "ada/base", "v1", "unet.safetensors")
        assert described.base_weights == (weights,)
    with pytest.raises(InputError, match="is on Hugging Face"):
        stands_on(filled, store, tmp_path, "SDXL 1.0", kohya(2048), ModelRef("local", "x"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("SD 1.5", kohya(2048), r"was made for SDXL, while Civitai files it under SD 1\.5"),
        ("Pony", kohya(768), r"was made for Stable Diffusion 1\.x, while Civitai"),
        ("Flux.1 D", kohya(2048), r"was made for SDXL.*FLUX\.1"),
    ],
)
def test_a_file_for_another_base_than_civitai_says_is_refused(
    filled, store, tmp_path, name, content, message
):
    with pytest.raises(HubError, match=message) as caught:
        stands_on(filled, store, tmp_path, name, content)
    assert "--base REPO" in caught.value.hint
    named = ModelRef("hf", "ada/base")
    assert stands_on(filled, store, tmp_path, name, content, named)[1] == ["ada/base"]


def test_v_prediction_in_a_file_means_the_base_that_was_trained_for_it(filled, store, tmp_path):
    plain, v = kohya(2048), kohya(2048, ss_v_parameterization="True")
    epsilon = kohya(2048, **{"modelspec.prediction_type": "epsilon"})
    files, asked = stands_on(filled, store, tmp_path, "NoobAI", v)
    assert asked == ["Laxhar/noobai-XL-Vpred-1.0"]
    assert "its file says v-prediction" in files.notes[0]
    files, asked = stands_on(filled, store, tmp_path, "NoobAI", plain)
    assert asked == ["Laxhar/noobai-XL-1.1"]
    assert "--base Laxhar/noobai-XL-Vpred-1.0" in files.notes[0]
    files, asked = stands_on(filled, store, tmp_path, "NoobAI", epsilon)
    assert (asked, files.notes) == (["Laxhar/noobai-XL-1.1"], ())


def test_a_model_on_a_refused_name_has_an_air_all_the_same(filled, hub):
    filled.state.models[1].versions[1].base_model = "a name of tomorrow"
    text = hub.snippet(REF, "0" * 64, "https://example.org")
    assert "civitai:1@11" in text
