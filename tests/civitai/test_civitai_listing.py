"""Tags, base models, kinds and ratings, page by page, and pages that never end."""

from __future__ import annotations

import json

import pytest
from civitai_loopback import Fault, LoopbackCivitai, Model
from civitai_specs import describe, style, version_of

from gmi_registry.errors import HubError
from gmi_registry.hubs import ListingFilter
from gmi_registry.hubs.civitai import CivitaiClient, CivitaiHub
from gmi_registry.hubs.civitai.listing import list_among, list_versions

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

ANIME = ListingFilter(tags=("anime",))


def names(found):
    return [str(item.ref) for item in found]


@pytest.fixture
def filled(civitai):
    civitai.add(
        style(1, 11, 12, tags=("anime", "ink")),
        style(2, 21, tags=("Anime",), type="Checkpoint"),
        style(3, 31, tags=("photo",)),
        style(4, 41, tags=("anime",), nsfw=True, level=28),
        style(5, 51, tags=("anime",), type="TextualInversion"),
        style(6, 61, tags=("anime",), type="LoCon"),
    )
    civitai.state.models[1].versions[1].base_model = "SDXL 1.0"
    return civitai


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ["1@11", "1@12", "2@21", "6@61"]),
        ({"nsfw": True}, ["1@11", "1@12", "2@21", "4@41", "6@61"]),
        ({"kind": "lora"}, ["1@11", "1@12", "6@61"]),
        ({"kind": "checkpoint"}, ["2@21"]),
        ({"kind": "single-file"}, ["2@21"]),
        ({"base_model": "sdxl 1.0"}, ["1@12"]),
        ({"base_model": "Pony"}, []),
        ({"base_model": "A model of nobody"}, []),
        ({"tags": ("anime", "INK")}, ["1@11", "1@12"]),
        ({"not_tags": ("ink",)}, ["2@21", "6@61"]),
        ({"tags": ("gothic",)}, []),
    ],
)
def test_versions_that_pass(filled, client, wanted, expected):
    found = list_versions(client, ListingFilter(**{"tags": ("anime",)} | wanted))
    assert names(found) == [f"civitai:{name}" for name in expected]


def test_what_is_asked_for(filled, client):
    list_versions(client, ListingFilter(("ANIME", "ink"), base_model="sdxl 1.0", kind="lora"))
    (request,) = filled.requests
    assert request.path == (
        "/api/v1/models?limit=100&types=LORA&types=LoCon&types=DoRA&tag=anime&baseModels=SDXL+1.0"
    )
    list_versions(client, ListingFilter(("anime",), nsfw=True, base_model="No such base"))
    assert filled.requests[1].path.endswith("&tag=anime&nsfw=true")


def test_a_version_of_its_own_rating_is_left_out(filled, client):
    filled.state.models[1].versions[0].level = 8
    filled.state.models[2].versions[0].level = 0
    assert names(list_versions(client, ANIME)) == ["civitai:1@12", "civitai:6@61"]


def test_what_is_listed_is_compared_again_here(filled, client):
    """A hub that takes no notice of the filter."""
    shown = [model.shown(filled.endpoint) for model in filled.state.models.values()]
    content = json.dumps({"items": shown, "metadata": {}}).encode()
    filled.inject(Fault("hostile", content=content))
    found = list_versions(client, ListingFilter(("anime",), kind="lora", base_model="SD 1.5"))
    assert names(found) == ["civitai:1@11", "civitai:6@61"]


def test_a_model_that_makes_no_sense_does_not_stop_the_rest(filled, client):
    filled.state.models[2].name = "two\x00names"
    filled.state.models[1].tags = ["anime", "\u202egnp.exe"]
    found = list_versions(client, ANIME)
    assert names(found) == ["civitai:1@11", "civitai:1@12", "civitai:6@61"]
    assert found[0].tags == ("anime",)


def test_pages_are_read_to_the_end():
    with LoopbackCivitai(page_size=3) as civitai:
        civitai.add(*(style(number, number * 10, tags=("anime",)) for number in range(1, 11)))
        client = CivitaiClient(endpoint=civitai.endpoint)
        found = list_versions(client, ANIME)
        client.close()
        assert [int(item.ref.id) for item in found] == list(range(1, 11))
        assert len(civitai.requests) == 4
        assert "cursor=3%7C4" in civitai.requests[1].path


BY_TAG, BY_NUMBER = r"tag=anime(?!.*ids=)", r"ids="
MANY = [str(number) for number in range(1, 251)]


@pytest.fixture
def many(civitai):
    """Models of a tag on three pages: 1 to 250."""
    civitai.add(*(style(int(number), int(number) * 10, tags=("anime",)) for number in MANY))
    return civitai


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        # A page of the tag that fails alone, even when it is asked for again.
        ([Fault("500", path_regex="cursor=100", times=99)], 1 + 4 + 2),
        ([Fault("circle", path_regex=BY_TAG, times=99)], None),
        ([Fault("loop", path_regex=BY_TAG, times=99)], None),
        ([Fault("endless", path_regex=BY_TAG, times=99)], None),
        ([Fault("left-out", path_regex=BY_TAG, model=77, times=99)], 3 + 1),
        ([Fault("hostile", path_regex="cursor=100", content=b'{"items": {}}', times=99)], 2 + 2),
        # One model of which no listing can be made: by halves, then by its own address.
        ([Fault("stumble", model=77, times=999)], 4 + 4 + 2 * 7 + 1 + 2),
    ],
)
def test_what_one_page_lacks_is_asked_for_by_number(many, client, faults, requests):
    for fault in faults:
        many.inject(fault)
    found = list_among(client, ANIME, MANY)
    assert [item.ref.id for item in found.versions] == MANY
    assert found.failed == {}
    assert requests is None or len(many.requests) <= requests


def test_what_was_listed_before_is_missed_where_a_full_page_lacks_it(many, client):
    """A page that has its hundred models, and not all that it should have."""
    many.add(style(251, 2510, tags=("anime",)))
    wanted = [number for number in MANY if number != "77"]
    many.state.models[77].tags = ["photo"]
    assert "77" not in {item.ref.id for item in list_among(client, ANIME, MANY).versions}
    many.clear_requests()
    found = list_among(client, ANIME, MANY, remembered=["77"])
    assert [item.ref.id for item in found.versions] == wanted
    assert [request.path.rpartition("ids=")[2] for request in many.requests][-1] == "77"


def test_a_model_of_which_nothing_can_be_learnt_is_named_and_keeps_its_own_tags(
    filled, hub, store, caplog
):
    describe(store, filled, "civitai:1@11", "civitai:2@21", "civitai:3@31")
    filled.state.models[2].tags = ["photo"]
    assert names(hub.list_specs(ANIME)) == ["civitai:1@11"]
    filled.inject(Fault("stumble", model=1, path_regex=BY_NUMBER, times=999))
    filled.inject(Fault("500", path_regex="models/1$", times=999))
    found = list(hub.list_specs(ANIME))
    # Nothing is known of now: what the store says goes on to the filter by manifests.
    assert [(str(item.ref), item.tags) for item in found] == [("civitai:1@11", ("anime", "ink"))]
    assert "which tags civitai:1 carry now" in caplog.text
    assert "answers 500" in caplog.text


def test_where_nothing_is_answered_the_search_ends(filled, client):
    filled.inject(Fault("500", times=999))
    with pytest.raises(HubError, match="answers 500"):
        list_among(client, ANIME, ["1", "2"])


def test_what_lives_at_the_other_address_alone_is_found_there(filled, caplog):
    with LoopbackCivitai() as red:
        red.add(style(7, 71, tags=("anime",), nsfw=True, level=28))
        client = CivitaiClient(endpoint=filled.endpoint, others=[red.endpoint])
        assert names(list_among(client, ANIME, ["1", "7"]).versions) == [
            "civitai:1@11", "civitai:1@12",
        ]  # fmt: skip
        assert red.requests == []
        wanted = ListingFilter(("anime",), nsfw=True)
        found = list_among(client, wanted, ["1", "7"])
        assert names(found.versions) == ["civitai:1@11", "civitai:1@12", "civitai:7@71"]
        assert [request.path.rpartition("&ids=")[2] for request in red.requests] == ["7"]
        red.inject(Fault("500", times=99))
        assert len(list_among(client, wanted, ["1", "7"]).versions) == 2
        assert f"models that are at {red.endpoint} alone are left out" in caplog.text
        client.close()


@pytest.mark.parametrize("kind", ["endless", "loop", "circle"])
def test_pages_without_an_end_are_given_up(filled, client, kind):
    filled.inject(Fault(kind, times=10_000))
    with pytest.raises(HubError, match="the same pages without end"):
        list_versions(client, ANIME)
    assert len(filled.requests) <= 21


def test_pages_full_of_models_without_an_end_are_given_up(filled, client, monkeypatch):
    monkeypatch.setattr("gmi_registry.hubs.civitai.listing._MOST_PAGES", 30)
    filled.state.page_size = 1
    filled.add(*(Model(number, tags=["anime"]) for number in range(100, 200)))
    with pytest.raises(HubError, match="more than 3,000 models"):
        list_versions(client, ANIME)
    assert len(filled.requests) == 30


def test_models_that_matter_are_asked_for_by_number(filled, client):
    found = list_among(client, ANIME, ["1", "3"])
    assert names(found.versions) == ["civitai:1@11", "civitai:1@12"]
    (request,) = filled.requests
    assert request.path.endswith("&tag=anime&ids=1%2C3")
    assert list_among(client, ANIME, []).versions == []
    assert len(filled.requests) == 1


@pytest.mark.parametrize(("tagged", "first", "requests"), [(250, 1, 3), (1000, 701, 6)])
def test_the_cheaper_way_is_taken(civitai, client, tagged, first, requests):
    """Of 300 described models, three pages are three of the tag or one for each hundred."""
    civitai.add(*(style(number, number * 10, tags=("anime",)) for number in range(1, tagged + 1)))
    among = [str(number) for number in range(first, first + 300)]
    found = list_among(client, ANIME, among)
    assert len(found.versions) == min(tagged, 300)
    assert found.failed == {}
    assert len(civitai.requests) == requests


def test_the_hub_lists_what_is_described_and_carries_the_tag_now(filled, hub, store):
    describe(store, filled, "civitai:1@11", "civitai:1@12", "civitai:3@31", "civitai:4@41")
    filled.state.models[3].tags = ["photo", "Anime"]
    found = list(hub.list_specs(ANIME))
    assert names(found) == ["civitai:1@11", "civitai:1@12", "civitai:3@31"]
    assert found[2].tags == ("photo", "Anime")
    assert found[0].url == f"{filled.endpoint}/models/1?modelVersionId=11"
    assert {item.trust for item in found} == {"self-published"}
    assert all(item.spec_digest and item.stamp for item in found)
    assert names(hub.list_specs(ListingFilter(("anime",), nsfw=True)))[-1] == "civitai:4@41"


def test_without_a_tag_civitai_is_not_asked(filled, hub, store):
    describe(store, filled, "civitai:1@11", "civitai:4@41")
    found = list(hub.list_specs(ListingFilter(kind="lora")))
    assert names(found) == ["civitai:1@11", "civitai:4@41"]
    assert found[0].tags == ("anime", "ink")
    assert hub.traffic.methods == {}
    assert filled.requests == []


def test_offline_the_last_listing_is_asked(filled, hub, store, tmp_path):
    describe(store, filled, "civitai:1@11", "civitai:1@12", "civitai:2@21", "civitai:4@41")
    assert hub.catalogue_age is None
    list(hub.list_specs(ListingFilter(("anime",), nsfw=True)))
    filled.clear_requests()
    offline = CivitaiHub(
        store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache", offline=True
    )
    assert names(offline.list_specs(ANIME)) == ["civitai:1@11", "civitai:1@12", "civitai:2@21"]
    assert names(offline.list_specs(ListingFilter(("anime",), base_model="SDXL 1.0"))) == [
        "civitai:1@12"
    ]
    assert names(offline.list_specs(ListingFilter(("gothic",)))) == []
    assert offline.catalogue_age is not None
    assert 0 <= offline.catalogue_age < 60
    assert filled.requests == []


def test_what_has_lost_its_tag_is_forgotten(filled, hub, store, tmp_path):
    describe(store, filled, "civitai:1@11", "civitai:2@21")
    list(hub.list_specs(ANIME))
    filled.state.models[1].tags = ["ink"]
    list(hub.list_specs(ANIME))
    offline = CivitaiHub(
        store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache", offline=True
    )
    assert names(offline.list_specs(ANIME)) == ["civitai:2@21"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1, "listed": -1, "versions": []}'])
def test_a_broken_catalogue_counts_as_empty(filled, store, tmp_path, content):
    describe(store, filled, "civitai:1@11")
    place = tmp_path / "cache" / "civitai" / "catalogue.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    offline = CivitaiHub(
        store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache", offline=True
    )
    assert offline.catalogue_age is None
    assert list(offline.list_specs(ANIME)) == []


def test_a_listing_tells_the_digests_so_that_no_version_is_asked(filled, hub, store):
    describe(store, filled, "civitai:1@11")
    (listing,) = hub.list_specs(ANIME)
    filled.clear_requests()
    digest = filled.state.file(110).digest.lower()
    assert hub.weight_digests(listing.ref) == {"110.safetensors": digest}
    assert filled.requests == []


def test_drafts_are_not_listed(filled, client):
    filled.state.models[1].versions.append(version_of(13, 1, status="Draft"))
    assert "civitai:1@13" not in names(list_versions(client, ANIME))
