"""Tags, base models, kinds and ratings, page by page, and pages that never end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmi_registry.errors import HubError
from gmi_registry.filters import fold
from gmi_registry.hubs import Filters
from gmi_registry.hubs.civitai import CivitaiClient, CivitaiHub
from gmi_registry.hubs.civitai.hub import list_among
from gmi_registry.indexing import index_hubs
from gmi_registry.search.result import StageTimer
from gmi_registry.search.source import SearchSource, open_index
from tests.support.civitai_loopback import Fault, LoopbackCivitai
from tests.support.civitai_specs import describe, style, version_of
from tests.support.folder_store import FolderStore

ANIME = Filters(tags=("anime",), nsfw=False)
DESCRIBED = [f"civitai:{name}" for name in ("1@11", "1@12", "2@21", "3@31", "4@41", "6@61")]


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
        # What is listed does not tell them: the specification does.
        ({"kind": "checkpoint", "base_model": "Pony"}, ["1@11", "1@12", "2@21", "6@61"]),
        ({"tags": ("anime", "INK")}, ["1@11", "1@12"]),
        ({"not_tags": ("ink",)}, ["2@21", "6@61"]),
        ({"tags": ("gothic",)}, []),
    ],
)
def test_versions_that_may_pass(filled, hub, store, wanted, expected):
    describe(store, filled, *DESCRIBED)
    wanted = Filters(**{"tags": ("anime",), "nsfw": False} | wanted)
    assert names(hub.list_specs(wanted)) == [f"civitai:{name}" for name in expected]


def test_what_is_asked_for(filled, client):
    list_among(client, ["1", "3"])
    (request,) = filled.requests
    assert request.path == "/api/v1/models?limit=100&nsfw=true&ids=1%2C3"
    assert list_among(client, []).versions == []
    assert len(filled.requests) == 1


def test_a_version_has_a_rating_of_its_own(filled, client):
    filled.state.models[1].versions[0].level = 8
    filled.state.models[2].versions[0].level = 0
    found = {str(it.ref): it.mature for it in list_among(client, ["1", "2"]).versions}
    assert found == {"civitai:1@11": True, "civitai:1@12": False, "civitai:2@21": True}


def test_a_model_that_makes_no_sense_does_not_stop_the_rest(filled, client):
    filled.state.models[2].name = "two\x00names"
    filled.state.models[1].tags = ["anime", "\u202egnp.exe"]
    found = list_among(client, ["1", "2", "6"]).versions
    assert names(found) == ["civitai:1@11", "civitai:1@12", "civitai:6@61"]
    assert found[0].tags == ("anime",)


def test_pages_are_read_to_the_end():
    with LoopbackCivitai(page_size=3) as civitai:
        civitai.add(*(style(number, number * 10, tags=("anime",)) for number in range(1, 131)))
        client = CivitaiClient(endpoint=civitai.endpoint)
        among = [str(number) for number in range(1, 111)]
        found = list_among(client, among).versions
        client.close()
        assert [item.ref.id for item in found] == among
        assert len(civitai.requests) == 34 + 4
        assert "cursor=3%7C4" in civitai.requests[1].path


MANY = [str(number) for number in range(1, 251)]


@pytest.fixture
def many(civitai):
    """Models on three pages: 1 to 250."""
    civitai.add(*(style(int(number), int(number) * 10, tags=("anime",)) for number in MANY))
    return civitai


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        # A page that fails alone, even when it is asked for again: its halves do not.
        (Fault("500", path_regex="ids=101%2C|ids=101,", times=4), 2 + 4 + 2),
        (Fault("circle", path_regex="ids=101%2C|ids=101,", times=2), 12),
        (Fault("loop", path_regex="ids=101%2C|ids=101,", times=2), 12),
        (Fault("hostile", path_regex="ids=101", content=b'{"items": {}}', times=1), 5),
        # One model of which no listing can be made: by halves, then by its own address.
        (Fault("stumble", model=77, times=999), 3 + 4 + 2 * 7 + 1 + 2),
    ],
)
def test_what_one_page_lacks_is_asked_for_in_halves(many, client, fault, requests):
    many.inject(fault)
    found = list_among(client, MANY)
    assert [item.ref.id for item in found.versions] == MANY
    assert found.failed == {}
    assert len(many.requests) <= requests


def test_a_model_of_which_nothing_can_be_learnt_is_named_and_keeps_its_own_tags(
    filled, hub, store, caplog
):
    describe(store, filled, "civitai:1@11", "civitai:2@21", "civitai:3@31")
    filled.state.models[2].tags = ["photo"]
    assert names(hub.list_specs(ANIME)) == ["civitai:1@11"]
    filled.inject(Fault("stumble", model=1, path_regex="ids=", times=999))
    filled.inject(Fault("500", path_regex="models/1$", times=999))
    found = list(hub.list_specs(ANIME))
    # Nothing is known of now: what the store says goes on to the filter by manifests.
    assert [(str(item.ref), item.tags) for item in found] == [("civitai:1@11", ("anime", "ink"))]
    assert "which tags civitai:1 carry now" in caplog.text
    assert "answers 500" in caplog.text


def test_where_nothing_is_answered_the_search_ends(filled, client):
    filled.inject(Fault("500", times=999))
    with pytest.raises(HubError, match="answers 500"):
        list_among(client, ["1", "2"])


def test_what_lives_at_the_other_address_alone_is_found_there(filled, caplog):
    with LoopbackCivitai() as red:
        red.add(style(7, 71, tags=("anime",), nsfw=True, level=28))
        client = CivitaiClient(endpoint=filled.endpoint, others=[red.endpoint])
        found = list_among(client, ["1", "7"])
        assert names(found.versions) == ["civitai:1@11", "civitai:1@12", "civitai:7@71"]
        assert [request.path.rpartition("&ids=")[2] for request in red.requests] == ["7"]
        red.inject(Fault("500", times=99))
        assert len(list_among(client, ["1", "7"]).versions) == 2
        assert f"what only {red.endpoint} has is not known" in caplog.text
        client.close()


@pytest.mark.parametrize("kind", ["endless", "loop", "circle"])
def test_pages_without_an_end_are_given_up(filled, client, kind):
    filled.inject(Fault(kind, times=10_000))
    # What a listing does not give is asked for by itself.
    assert names(list_among(client, ["1"]).versions) == ["civitai:1@11", "civitai:1@12"]
    assert len(filled.requests) <= 21


def test_the_hub_lists_what_is_described_and_carries_the_tag_now(filled, hub, store):
    describe(store, filled, "civitai:1@11", "civitai:1@12", "civitai:3@31", "civitai:4@41")
    filled.state.models[3].tags = ["photo", "Anime"]
    found = list(hub.list_specs(ANIME))
    assert names(found) == ["civitai:1@11", "civitai:1@12", "civitai:3@31"]
    assert found[2].tags == ("photo", "Anime")
    assert found[0].url == f"{filled.endpoint}/models/1?modelVersionId=11"
    assert {item.trust for item in found} == {"self-published"}
    assert all(item.spec_digest and item.stamp for item in found)
    assert names(hub.list_specs(Filters(("anime",))))[-1] == "civitai:4@41"


def test_a_rating_is_that_of_today_with_a_tag_and_without(filled, hub, store):
    describe(store, filled, "civitai:1@11", "civitai:4@41")
    for wanted in (Filters(nsfw=False), Filters(kind="lora", nsfw=False), ANIME):
        assert names(hub.list_specs(wanted)) == ["civitai:1@11"]
    filled.clear_requests()
    (first, second) = hub.list_specs(Filters())
    assert (first.tags, first.nsfw, second.nsfw) == (("anime", "ink"), False, True)
    assert len(filled.requests) == 1


def test_where_civitai_cannot_be_asked_specifications_tell(filled, hub, store, caplog):
    describe(store, filled, "civitai:1@11", "civitai:2@21")
    filled.inject(Fault("500", times=999))
    found = list(hub.list_specs(ANIME))
    # They may be those of another day, so that what reads them decides.
    assert names(found) == ["civitai:1@11", "civitai:2@21"]
    assert [it.nsfw for it in found] == [None, None]
    assert "tags and ratings are those of the time when the models were described" in caplog.text


def test_offline_the_last_listing_is_asked(filled, hub, store, tmp_path):
    describe(store, filled, "civitai:1@11", "civitai:1@12", "civitai:2@21", "civitai:4@41")
    assert hub.catalogue_age is None
    list(hub.list_specs(ANIME))
    filled.clear_requests()
    offline = CivitaiHub(
        store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache", offline=True
    )
    for wanted in (ANIME, Filters(tags=("Ink",)), Filters(tags=("gothic",)), Filters()):
        assert list(offline.list_specs(wanted)) == list(hub.list_specs(wanted))
    assert offline.catalogue_age is not None
    assert 0 <= offline.catalogue_age < 60
    filled.state.models[1].tags = ["ink"]
    assert "civitai:1@11" not in names(hub.list_specs(ANIME))
    assert "civitai:1@11" not in names(offline.list_specs(ANIME))


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2, "listed": -1, "versions": []}'])
def test_a_broken_catalogue_counts_as_empty(filled, store, tmp_path, content):
    describe(store, filled, "civitai:1@11")
    place = tmp_path / "cache" / "civitai" / "catalogue.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    offline = CivitaiHub(
        store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache", offline=True
    )
    assert offline.catalogue_age is None
    assert [it.nsfw for it in offline.list_specs(ANIME)] == [None]


def test_a_listing_tells_the_digests_so_that_no_version_is_asked(filled, hub, store):
    describe(store, filled, "civitai:1@11")
    (listing,) = hub.list_specs(ANIME)
    filled.clear_requests()
    digest = filled.state.file(110).digest.lower()
    assert hub.weight_digests(listing.ref) == {"110.safetensors": digest}
    assert filled.requests == []


def test_drafts_are_not_listed(filled, client):
    filled.state.models[1].versions.append(version_of(13, 1, status="Draft"))
    assert "civitai:1@13" not in names(list_among(client, ["1"]).versions)


WORDS = st.sampled_from(
    ["anime", "Anime ", "INK", "ink", "Straße", "strasse", "p\u00e9", "pe\u0301"]
)
TAGS = st.lists(WORDS, max_size=3, unique=True).map(tuple)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    described=st.lists(st.tuples(TAGS, TAGS, st.booleans(), st.booleans()), min_size=1, max_size=6),
    asked=st.lists(
        st.builds(Filters, tags=TAGS, not_tags=TAGS, nsfw=st.booleans()), min_size=3, max_size=5
    ),
)
def test_the_same_versions_listed_offline_and_by_an_index(civitai, described, asked):
    """Of models with tags and ratings of the day when they were described, and others of today;
    and some that Civitai does not list any more."""
    civitai.state.models.clear()
    numbers = range(1, len(described) + 1)
    civitai.add(*(style(number, 10 * number, tags=()) for number in numbers))
    with tempfile.TemporaryDirectory() as room:
        store, cache = FolderStore(Path(room) / "store"), Path(room) / "cache"
        for number, (then, _, _, _) in zip(numbers, described, strict=True):
            plain = [" ".join(it.split()) for it in then]
            civitai.state.models[number].tags = list(dict.fromkeys(plain))
            describe(store, civitai, f"civitai:{number}@{10 * number}")
        for number, (_, now, mature, gone) in zip(numbers, described, strict=True):
            model = civitai.state.models[number]
            model.tags, model.nsfw, model.level = list(now), mature, 28 if mature else 1
            if gone:
                del civitai.state.models[number]
        options = {"endpoint": civitai.endpoint, "cache_dir": cache}
        with CivitaiHub(store, **options) as hub, CivitaiHub(store, offline=True, **options) as off:
            index_hubs(Path(room) / "index", [hub], cache_dir=cache)
            opened = open_index(Path(room) / "index", hub, cache_dir=cache)
            for chosen in asked:
                listed = set()
                for number, (then, now, mature, gone) in zip(numbers, described, strict=True):
                    words = {fold(it) for it in (not gone and now) or then}
                    if (
                        all(fold(it) in words for it in chosen.tags)
                        and not any(fold(it) in words for it in chosen.not_tags)
                        and (chosen.nsfw or gone or not mature)
                    ):
                        listed.add(f"civitai:{number}@{10 * number}")
                for way in (hub, off):
                    timer = StageTimer(lambda stage, done, total: None)
                    specs = SearchSource(way, cache, workers=1).load(chosen, timer)
                    assert selected(specs, chosen) == listed
                assert selected(opened, chosen) == listed
            opened.close()


def selected(index, chosen):
    return {str(part.group.entries[row].ref) for part in index.select(chosen) for row in part.rows}
