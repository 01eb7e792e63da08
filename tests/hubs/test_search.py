"""The identification stage, over real hubs in a temporary folder."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys

import numpy as np
import pytest

import gmi_registry
import gmi_registry.encoders
from gmi_registry import search
from gmi_registry.errors import IncomparableSpecsError, InputError, RateLimitError
from gmi_registry.hubs import Filters
from gmi_registry.index import Ranking
from gmi_registry.search.request import SearchRequest
from gmi_registry.search.result import Timings
from gmi_registry.spec import ModelRef
from tests.support.hub_builder import OTHER_PROMPTS, HubBuilder, ProjectionEncoder, picture

COLOURS = {"blue": (20, 30, 230), "green": (30, 200, 40), "red": (240, 20, 10)}


@pytest.fixture
def colours(built):
    """A hub of three models, each of which paints in one colour."""
    for name, colour in COLOURS.items():
        tags = ("warm",) if name == "red" else ("cold", name)
        built.publish(name, colour, tags=tags, base_model="base")
    return built


@pytest.fixture
def look(built, encoder):
    """Searches the hub with the encoder of its specifications."""

    def call(*images, **options):
        options = {"cache_dir": built.cache, "encoder": encoder} | options
        return search(list(images), built.hub, **options)

    return call


@pytest.fixture
def on_the_hub(monkeypatch, built):
    """Has ``load_encoder`` give a certain encoder, and notes what it was asked for."""
    asked = []

    def give(encoder):
        def load(name, pretrained, folder=None, **options):
            asked.append((name, pretrained, folder))
            return encoder

        monkeypatch.setattr(gmi_registry.encoders, "load_encoder", load)
        return asked

    return give


@pytest.mark.parametrize("score", ["default", "paper", "rkme-clip"])
@pytest.mark.parametrize("name", sorted(COLOURS))
def test_the_model_that_paints_so_comes_first(colours, look, name, score):
    result = look(picture(COLOURS[name], 99), score=score)
    assert result.hits[0].ref.id == name
    assert [hit.rank for hit in result.hits] == [1, 2, 3]
    assert isinstance(result, Ranking)
    assert result.score == score


def test_what_the_result_says(colours, look, encoder, tmp_path):
    path = tmp_path / "mine.png"
    picture(COLOURS["red"]).save(path)
    result = look(path, picture(COLOURS["red"], 1), prompt="a cat", top=2)
    assert result.images == (str(path), "image 2")
    assert result.pseudo_prompts == ("a cat", "a cat")
    assert result.interrogator == "prompt"
    assert result.encoder == encoder.ref
    assert (result.looked_at, result.matched, result.skipped) == (3, 3, ())
    assert (result.read, result.from_cache) == (3, 0)
    assert len(result.hits) == 2
    hit = result.hits[0]
    assert hit.ref == colours.hub.fetch_model(ModelRef("local", "red")).ref
    assert hit.best_prompts[0].prompt in ("a cat", "a tree", "a car")
    assert result.timings.total == pytest.approx(
        sum(getattr(result.timings, name) for name in ("list", "index", "query", "rank")), abs=0.1
    )


def test_the_python_api_takes_names(colours, encoder, monkeypatch):
    options = {"encoder": encoder, "cache_dir": colours.cache}
    red = picture(COLOURS["red"])
    monkeypatch.delenv("GMI_HUB", raising=False)
    found = gmi_registry.search(red, colours.root, workers=2, **options).hits[0]
    assert found.ref.id == "red"
    for hub in (colours.hub, str(colours.root)):
        assert gmi_registry.load_spec(str(found.ref), hub).digest == found.digest
    assert gmi_registry.load_spec(colours.folder("red")).digest == found.digest
    with pytest.raises(InputError, match="no hub is named"):
        gmi_registry.load_spec("red")
    monkeypatch.setenv("GMI_HUB", f"local:{colours.root}")
    assert gmi_registry.load_spec("red").digest == found.digest
    assert gmi_registry.search([red, red], tags=["Warm"], **options).matched == 1


def test_the_json_is_plain_and_complete(colours, look, encoder):
    colours.publish("house", COLOURS["red"], prompts=OTHER_PROMPTS)
    document = json.loads(json.dumps(look(picture(COLOURS["red"])).to_json(), allow_nan=False))
    assert document["query"] == {
        "images": ["image 1"],
        "pseudo_prompts": [None],
        "interrogator": "none",
        "text": None,
        "like": None,
        "not_like": [],
        "not_like_prompts": [],
        "style": None,
    }
    assert (document["results"][0]["trust"], document["results"][0]["versions"]) == (None, [])
    assert document["score"] == "default"
    first = document["results"][0]
    assert (first["rank"], first["model"].split("@")[0]) == (1, "local:red")
    assert first["tags"] == ["warm"]
    assert first["base_model"] == "base"
    assert first["margin"] > 0
    assert first["url"] is None
    assert set(first["best_prompts"][0]) == {"index", "prompt", "contribution"}
    assert "ref" not in first
    assert [row["model"].split("@")[0] for row in document["other_groups"][0]["results"]] == [
        "local:house"
    ]
    assert [group["members"] for group in document["groups"]] == [3, 1]
    assert document["encoder"]["weights_sha256"] == encoder.ref.weights_sha256
    assert document["skipped"] == []
    assert {"looked_at", "matched", "read", "from_cache"} <= document.keys()
    assert document["timings"].keys() == {"list", "index", "encoder", "query", "rank"}


class TestCache:
    def test_a_second_search_reads_nothing_again(self, colours, look, monkeypatch):
        first = look(picture(COLOURS["red"]))
        monkeypatch.setattr(sys.modules["gmi_registry.search.source"], "read_from", None)
        second = look(picture(COLOURS["red"]))
        assert (first.read, first.from_cache) == (3, 0)
        assert (second.read, second.from_cache) == (0, 3)
        assert second.hits == first.hits

    def test_only_what_changed_is_read(self, colours, look):
        look(picture(COLOURS["red"]))
        colours.publish("green", COLOURS["red"])
        colours.publish("new", COLOURS["blue"])
        result = look(picture(COLOURS["red"]))
        assert (result.read, result.from_cache) == (2, 2)
        assert {hit.ref.id for hit in result.hits[:2]} == {"red", "green"}

    def test_a_filtered_search_fills_the_same_cache(self, colours, look):
        assert look(picture(COLOURS["red"]), tags=("cold",)).read == 2
        assert look(picture(COLOURS["red"])).read == 1

    def test_without_a_folder_the_users_own_cache_is_meant(
        self, colours, look, monkeypatch, tmp_path
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
        assert look(picture(COLOURS["red"]), cache_dir=None).read == 3
        assert look(picture(COLOURS["red"]), cache_dir=None).read == 0


class TestFilters:
    def test_only_what_passes_is_ranked(self, colours, look):
        result = look(picture(COLOURS["red"]), tags=("Cold",))
        assert {hit.ref.id for hit in result.hits} == {"blue", "green"}
        assert (result.looked_at, result.matched, result.read) == (2, 2, 2)

    def test_nothing_matches(self, colours, look, encoder):
        result = look(picture(COLOURS["red"]), tags=("none",), prompt="a cat")
        assert (result.hits, result.groups, result.skipped) == ((), (), ())
        assert (result.looked_at, result.matched) == (3, 0)
        assert (result.pseudo_prompts, result.interrogator) == (("a cat",), "prompt")
        assert result.timings.query == 0
        assert encoder.images_encoded == 9  # by the builder, none of the query

    def test_an_empty_hub(self, built, look, on_the_hub):
        asked = on_the_hub(None)
        result = look(picture(COLOURS["red"]), encoder=None)
        assert (result.looked_at, result.hits, result.encoder) == (0, (), None)
        assert not asked
        assert result.to_json()["encoder"] is None

    def test_the_manifest_decides_whatever_the_hub_lets_through(self, colours, look, monkeypatch):
        everything = list(colours.hub.list_specs(Filters()))
        monkeypatch.setattr(colours.hub, "list_specs", lambda wanted: iter(everything))
        result = look(picture(COLOURS["red"]), tags=("warm",))
        assert [hit.ref.id for hit in result.hits] == ["red"]


class TestListing:
    def test_a_filtered_search_lists_the_hub_once(self, colours, look, monkeypatch):
        asked = []
        listed = colours.hub.list_specs
        monkeypatch.setattr(
            colours.hub, "list_specs", lambda wanted: asked.append(wanted) or listed(wanted)
        )
        look(picture(COLOURS["red"]), tags=("cold",))
        assert asked == [Filters()]
        look(picture(COLOURS["red"]), tags=("none",))
        assert asked[1:] == [Filters()]

    @pytest.mark.parametrize("stale", [True, False, None])
    def test_what_the_hub_knows_of_the_weights_is_shown(self, colours, look, monkeypatch, stale):
        listings = [
            dataclasses.replace(listing, stale=stale if listing.ref.id == "red" else None)
            for listing in colours.hub.list_specs(Filters())
        ]
        monkeypatch.setattr(colours.hub, "list_specs", lambda wanted: iter(listings))
        result = look(picture(COLOURS["red"]))
        assert [hit.stale for hit in result.hits] == [stale, None, None]
        assert result.to_json()["results"][0]["stale"] is stale
        fresh = look(picture(COLOURS["red"]), fresh_only=True)
        assert len(fresh.hits) == (2 if stale else 3)
        assert fresh.stale_left_out == bool(stale)

    def test_how_encoders_are_loaded(self, colours, look, monkeypatch, tmp_path):
        asked = []

        def load(name, pretrained, folder, **options):
            asked.append(options)
            return colours.encoder

        monkeypatch.setattr(gmi_registry.encoders, "load_encoder", load)
        loading = importlib.import_module("gmi_registry.search.query")
        monkeypatch.setattr(loading, "require_device", lambda name: name)
        result = look(picture(COLOURS["red"]), encoder=None, offline=True, device="cuda:1")
        assert asked == [{"cache_dir": colours.cache / "hub", "offline": True, "device": "cuda:1"}]
        assert (result.offline, result.requests, result.catalogue_age) == (True, None, None)


class TestSkipped:
    def test_broken_specifications_are_named_with_the_reason(self, colours, look, tmp_path):
        for name in ("cut", "garbled", "empty", "linked", "manifest", "tensors-gone"):
            colours.publish(name, COLOURS["red"])
        gmi = {path.parent.name: path for path in colours.root.glob("models/*/gmi")}
        data = (gmi["cut"] / "spec.tensors").read_bytes()
        (gmi["cut"] / "spec.tensors").write_bytes(data[:-7])
        (gmi["garbled"] / "spec.tensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        for path in gmi["empty"].iterdir():
            path.unlink()
        (gmi["manifest"] / "spec.json").write_bytes(b'{"format": {"version": "2.0"}}')
        (gmi["tensors-gone"] / "spec.tensors").unlink()
        gmi["linked"].rename(tmp_path / "elsewhere")
        gmi["linked"].symlink_to(tmp_path / "elsewhere")
        result = look(picture(COLOURS["red"]), not_tags=("cold",))
        assert [hit.ref.id for hit in result.hits] == ["red"]
        reasons = {skipped.model.id: skipped.reason for skipped in result.skipped}
        assert "names" in reasons["cut"]
        assert "SHA-256" in reasons["garbled"]
        assert "holds no" in reasons["empty"]
        assert "symbolic link" in reasons["linked"]
        assert "version 2.0" in reasons["manifest"]
        assert "missing" in reasons["tensors-gone"]
        assert len(reasons) == 6
        assert result.looked_at == 7  # those that the filter let through, broken ones included

    def test_a_specification_of_another_model_is_skipped(self, colours, look):
        colours.add_lora("copy", seed=1)
        (colours.folder("copy") / "gmi").mkdir()
        for name in ("spec.json", "spec.tensors"):
            content = (colours.folder("red") / "gmi" / name).read_bytes()
            (colours.folder("copy") / "gmi" / name).write_bytes(content)
        for _ in range(2):  # from the hub, then from the cache
            (skipped,) = look(picture(COLOURS["red"])).skipped
            assert skipped.model.id == "copy"
            assert "describes local:red" in skipped.reason

    def test_a_specification_that_vanishes_meanwhile_is_skipped(self, colours, look, monkeypatch):
        listings = list(colours.hub.list_specs(Filters()))
        monkeypatch.setattr(colours.hub, "list_specs", lambda wanted: iter(listings))
        for path in (colours.folder("blue") / "gmi").iterdir():
            path.unlink()
        (colours.folder("blue") / "gmi").rmdir()
        result = look(picture(COLOURS["red"]))
        assert [skipped.model.id for skipped in result.skipped] == ["blue"]
        assert len(result.hits) == 2

    def test_only_broken_ones_are_an_empty_answer(self, built, look):
        (built.folder("broken") / "gmi").mkdir(parents=True)
        result = look(picture(COLOURS["red"]), encoder=None)
        assert (result.looked_at, result.hits) == (1, ())
        assert [skipped.model.id for skipped in result.skipped] == ["broken"]

    def test_a_hub_that_asks_to_slow_down_ends_the_search(self, colours, look, monkeypatch):
        def slow(ref):
            raise RateLimitError("slow down", retry_after=3)

        monkeypatch.setattr(colours.hub, "fetch_spec", slow)
        with pytest.raises(RateLimitError):
            look(picture(COLOURS["red"]))


class TestEncoder:
    def test_the_hubs_own_encoder_is_chosen(self, colours, look, encoder, on_the_hub):
        folder = colours.root / "encoders" / "projection" / "seed-0"
        folder.mkdir(parents=True)
        asked = on_the_hub(encoder)
        result = look(picture(COLOURS["red"]), encoder=None)
        assert asked == [("projection", "seed-0", folder)]
        assert result.hits[0].ref.id == "red"
        assert result.timings.encoder > 0

    def test_that_of_the_largest_group_wins_and_the_others_are_skipped(
        self, colours, look, on_the_hub
    ):
        rare = ProjectionEncoder("rare", seed=3)
        colours.publish("odd", COLOURS["red"], encoder=rare)
        asked = on_the_hub(colours.encoder)
        result = look(picture(COLOURS["red"]), encoder=None)
        assert asked == [("projection", "seed-0", None)]
        assert len(result.hits) == 3
        (skipped,) = result.skipped
        assert skipped.model.id == "odd"
        assert "rare/seed-0" in skipped.reason

    def test_other_weights_under_the_same_name_are_refused(self, colours, look, on_the_hub):
        other = ProjectionEncoder(seed=9)
        on_the_hub(other)
        with pytest.raises(IncomparableSpecsError) as caught:
            look(picture(COLOURS["red"]), encoder=None)
        ours, theirs = (e.ref.weights_sha256[:12] for e in (other, colours.encoder))
        assert f"weights {ours}, not {theirs}" in caught.value.message

    def test_so_is_other_preprocessing_of_the_same_weights(
        self, colours, look, on_the_hub, monkeypatch
    ):
        other = ProjectionEncoder()
        changed = other.ref.preprocess.model_copy(update={"interpolation": "nearest"})
        other.ref = other.ref.model_copy(update={"preprocess": changed})
        on_the_hub(other)
        with pytest.raises(IncomparableSpecsError, match="the same weights with another preproc"):
            look(picture(COLOURS["red"]), encoder=None)
        # From the cache, with the file gone in the meantime, the ids have to do.
        listings = list(colours.hub.list_specs(Filters()))
        monkeypatch.setattr(colours.hub, "list_specs", lambda wanted: iter(listings))
        for path in colours.root.glob("models/*/gmi/spec.json"):
            path.unlink()
        with pytest.raises(IncomparableSpecsError, match=f"id {other.ref.id}, not"):
            look(picture(COLOURS["red"]), encoder=None)

    def test_a_given_encoder_that_made_none_of_them_is_refused(self, colours, look):
        with pytest.raises(IncomparableSpecsError, match="none of the 3 models"):
            look(picture(COLOURS["red"]), encoder=ProjectionEncoder(seed=9))

    def test_a_name_that_is_none_is_refused(self, built, look):
        built.publish("odd", encoder=ProjectionEncoder("../../etc", seed=3))
        with pytest.raises(IncomparableSpecsError, match="cannot be loaded"):
            look(picture(COLOURS["red"]), encoder=None)


class TestBadInput:
    def test_a_bad_image_is_found_before_anything_is_read(self, colours, look, monkeypatch):
        monkeypatch.setattr(colours.hub, "list_specs", None)
        with pytest.raises(InputError, match="no such file"):
            look("nothing.png")
        with pytest.raises(InputError, match="nothing to search with: name an IMAGE, or give"):
            look()

    def test_one_path_is_not_a_list_of_images(self):
        with pytest.raises(InputError, match="images are a list"):
            SearchRequest(images="red.png")

    def test_an_unknown_score(self, colours, look, monkeypatch):
        monkeypatch.setattr(colours.hub, "list_specs", None)
        with pytest.raises(InputError, match="no score named 'best'"):
            look(picture(COLOURS["red"]), score="best")


def test_with_a_real_encoder_that_the_hub_carries(built, tmp_path):
    """open_clip's own architecture and loader, with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from gmi_registry.encoders import load_encoder

    tower = {"width": 32, "layers": 1}
    sizes = {
        "embed_dim": 16,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": tower | {"context_length": 16, "vocab_size": 49408, "heads": 2},
    }
    settings = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    torch.manual_seed(0)
    folder = built.root / "encoders" / "tiny" / "random"
    folder.mkdir(parents=True)
    save_file(open_clip.CLIP(**sizes).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": sizes, "preprocess_cfg": settings})
    )
    real = load_encoder("tiny", "random", folder)
    for name, colour in COLOURS.items():
        built.publish(name, colour, encoder=real)
    result = search([picture(COLOURS["blue"], 5)], built.hub, cache_dir=built.cache, prompt="a cat")
    assert result.hits[0].ref.id == "blue"
    assert result.encoder == real.ref


def test_progress_is_told_stage_by_stage(colours, look):
    told = []
    look(picture(COLOURS["red"]), progress=lambda *step: told.append(step))
    assert told == [
        ("list", 0, 1),
        ("list", 1, 1),
        ("index", 1, 3),
        ("index", 2, 3),
        ("index", 3, 3),
        ("encoder", 0, 1),
        ("encoder", 1, 1),
        ("query", 0, 1),
        ("query", 1, 1),
        ("rank", 0, 1),
        ("rank", 1, 1),
    ]


def test_two_hubs_share_a_cache(colours, look, tmp_path, encoder):
    look(picture(COLOURS["red"]))
    other = HubBuilder(tmp_path / "other", colours.cache, encoder)
    other.publish("red", COLOURS["red"], tags=("warm",), base_model="base")
    result = search([picture(COLOURS["red"])], other.hub, cache_dir=colours.cache, encoder=encoder)
    assert (result.read, result.from_cache) == (0, 1)


def test_timings_add_up():
    assert Timings(list=1.0, rank=2.0).total == 3.0
    assert np.isclose(Timings().total, 0)
