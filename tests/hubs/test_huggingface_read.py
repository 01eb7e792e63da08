"""Listings and specifications from a loopback hub, with the real client: what they cost and say."""

from __future__ import annotations

import hashlib
import json
import time

import pytest

from gmi_registry.atomic import read_sealed
from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
    UnsupportedOperationError,
)
from gmi_registry.hubs import Filters, Hub, HubAccess, KnowsWeights, is_stale, open_hub
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.huggingface.client import ClientRequestCounter
from gmi_registry.hubs.registry.registry import SupplementedHub
from gmi_registry.spec import (
    DescribedModel,
    ModelRef,
    WeightFile,
    encode_spec,
    read_spec,
)
from tests.support.hub_builder import random_spec, weight_file
from tests.support.loopback import Fault, User

ADA = User("ada-example", "hf_adasecret")
EVERYTHING = Filters()
WEIGHTS = b"weights of a model"
LORA = "pytorch_lora_weights.safetensors"


def spec_files(model_id, weights=WEIGHTS, tags=("anime",)):
    """The two files of a specification of one weight file."""
    described = DescribedModel(
        hub="hf",
        id=model_id,
        title=model_id,
        kind="lora",
        weights=(weight_file(weights, LORA),),
        tags=tags,
    )
    spec = random_spec(described, len(model_id))
    manifest, tensors = encode_spec(spec)
    return {"gmi/spec.json": manifest, "gmi/spec.tensors": tensors}


def card(tags=("gmi-spec", "anime"), base=None):
    fields = f"tags: [{', '.join(tags)}]\n" + (f"base_model: {base}\n" if base else "")
    return f"---\n{fields}---\n# A model\n".encode()


def add(hub, model_id, *, tags=("gmi-spec", "anime"), base=None, **settings):
    files = {"README.md": card(tags, base), LORA: WEIGHTS, **spec_files(model_id)}
    return hub.add_repo(model_id, files, **settings)


@pytest.fixture
def opened(hf_hub):
    """Opens hubs on the loopback hub, and closes them."""
    hubs = []

    def open_one(**settings):
        hubs.append(HuggingFaceHub(**{"token": False, **settings}))
        return hubs[-1]

    hf_hub.add_user(ADA)
    yield open_one
    for hub in hubs:
        hub.close()


def methods(hub):
    return [request.method for request in hub.requests]


def ref(model_id, revision=None):
    return ModelRef("hf", model_id, revision)


# listing


def test_a_listing_is_read_to_its_end_in_one_order_and_pinned(hf_hub, opened):
    hf_hub.state.page_size = 2
    shas = {f"ada/m{n}": add(hf_hub, f"ada/m{n}", downloads=n, likes=n % 3) for n in range(5)}
    hf_hub.add_repo("ada/other", {"README.md": card(tags=("anime",))})
    hub = opened()
    found = list(hub.list_specs(EVERYTHING))
    assert [(it.ref.id, it.ref.revision) for it in found] == sorted(shas.items())
    assert methods(hf_hub) == ["GET"] * 3
    assert found[0].url == f"{hf_hub.endpoint}/ada/m0"
    assert found[0].spec_digest is None
    assert found[0].stale is None


def test_filters_are_applied_here_to_what_the_hub_lists(hf_hub, opened):
    add(hf_hub, "ada/a", tags=("gmi-spec", "anime"), base="ada/base")
    add(hf_hub, "ada/b", tags=("gmi-spec", "anime", "dark"), base="ada/base")
    add(hf_hub, "ada/c", tags=("gmi-spec",), base="ada/base")
    add(hf_hub, "ada/d", base="ada/another")
    hub = opened()
    wanted = Filters(tags=("Anime",), not_tags=("DARK",), base_model="Ada/Base")
    assert [it.ref.id for it in hub.list_specs(wanted)] == ["ada/a"]
    # The hub knows tags in one spelling, and is asked by the one that has no other.
    assert hf_hub.requests[0].path.startswith("/api/models?filter=gmi-spec&expand=")
    # One file at the root may be a LoRA or a whole model: which, the manifest knows.
    for kind in ("checkpoint", "lora", "single-file"):
        assert len(list(hub.list_specs(Filters(kind=kind)))) == 4


# specifications


def test_a_specification_costs_one_request_a_file_and_then_none(hf_hub, opened, tmp_path):
    sha = add(hf_hub, "ada/one")
    hub = opened()
    folder = hub.fetch_spec(ref("ada/one", sha))
    # The tensors are a large file, so the hub sends the client on to its storage.
    hosts = [request.host.partition(":")[0] for request in hf_hub.requests]
    assert hosts == ["127.0.0.1", "127.0.0.1", "localhost"]
    assert set(methods(hf_hub)) == {"GET"}
    assert all("/gmi/" in request.path for request in hf_hub.requests)
    assert folder == tmp_path / "hf-home/hub/models--ada--one/snapshots" / sha / "gmi"
    repo = folder.parents[2].resolve()
    assert all(path.resolve().is_relative_to(repo) for path in folder.iterdir())
    spec = read_spec(folder.parent, expected=ref("ada/one", sha), follow_links=True)
    assert spec.manifest.model.id == "ada/one"
    hf_hub.clear_requests()
    assert hub.fetch_spec(ref("ada/one", sha)) == folder
    (listed,) = hub.list_specs(EVERYTHING)
    assert listed.spec_digest == spec.digest
    assert methods(hf_hub) == ["GET"]


def test_without_a_revision_both_files_are_of_one_commit(hf_hub, opened):
    sha = add(hf_hub, "ada/one")
    hf_hub.inject(Fault("changed-file", method="GET", path_regex="spec.tensors", content=b"new"))
    folder = opened().fetch_spec(ref("ada/one"))
    assert folder.parent.name == sha
    assert read_spec(folder.parent, follow_links=True).manifest.model.id == "ada/one"
    assert len(hf_hub.requests) == 4


def test_after_a_commit_beside_it_nothing_is_downloaded_again(hf_hub, opened):
    add(hf_hub, "ada/one")
    hub = opened()
    hub.fetch_spec(ref("ada/one"))
    sha = hf_hub.commit("ada/one", {"README.md": card() + b"More.\n"})
    hf_hub.clear_requests()
    assert hub.fetch_spec(ref("ada/one", sha)).parent.name == sha
    assert methods(hf_hub) == ["HEAD", "HEAD"]


def test_what_is_not_there_is_asked_for_once(hf_hub, opened):
    sha = hf_hub.add_repo("ada/bare", {"README.md": card()})
    hub = opened()
    for _ in range(2):
        with pytest.raises(SpecNotFoundError, match="has no specification") as caught:
            hub.fetch_spec(ref("ada/bare", sha))
        assert caught.value.hint == "gmi-publish hf:ada/bare"
    assert methods(hf_hub) == ["GET"]
    assert hub.fetch_preview(ref("ada/bare", sha)) is None


@pytest.mark.parametrize("name", ["spec.json", "spec.tensors"])
def test_a_file_that_is_too_large_is_not_read(hf_hub, opened, name, tmp_path):
    limit = {"spec.json": 256 * 1024, "spec.tensors": 16 * 1024 * 1024}[name]
    files = spec_files("ada/big") | {f"gmi/{name}": b"\0" * (limit + 1)}
    sha = hf_hub.add_repo("ada/big", files)
    says = f"has no specification: .*gmi/{name} has .* bytes, more than {limit:,}"
    # As one that is missing, so that its author can publish over it.
    with pytest.raises(SpecNotFoundError, match=says) as caught:
        opened().fetch_spec(ref("ada/big", sha))
    assert caught.value.hint == "gmi-publish hf:ada/big"
    kept = [path.stat().st_size for path in (tmp_path / "hf-home/hub").rglob("*") if path.is_file()]
    assert max(kept, default=0) <= limit


def test_wrong_bytes_are_thrown_away_and_asked_for_again(hf_hub, opened):
    sha = add(hf_hub, "ada/one")
    hf_hub.inject(Fault("wrong-digest", path_regex="storage.*spec.tensors"))
    folder = opened().fetch_spec(ref("ada/one", sha))
    assert read_spec(folder.parent, follow_links=True).manifest.model.id == "ada/one"
    assert len(hf_hub.requests) == 5


def test_wrong_bytes_twice_are_an_error_and_the_cache_stays_usable(hf_hub, opened):
    sha = add(hf_hub, "ada/one")
    hf_hub.inject(Fault("wrong-digest", path_regex="spec.json", times=2))
    hub = opened()
    with pytest.raises(HubError, match=r"is not what http.* says it is"):
        hub.fetch_spec(ref("ada/one", sha))
    assert read_spec(hub.fetch_spec(ref("ada/one", sha)).parent, follow_links=True)


# without a network


def test_offline_lists_what_is_here_without_a_request(hf_hub, opened):
    shas = {name: add(hf_hub, name) for name in ("ada/a", "ada/b", "ada/c")}
    hub = opened()
    assert hub.catalogue_age is None
    for listed in list(hub.list_specs(EVERYTHING))[:2]:
        hub.fetch_spec(listed.ref)
    # Listed again at a commit that was never fetched: the older one is still here.
    hf_hub.commit("ada/a", {"notes.txt": b"x"})
    list(hub.list_specs(EVERYTHING))
    hf_hub.clear_requests()
    away = opened(offline=True)
    found = list(away.list_specs(Filters(tags=("Anime",))))
    assert {it.ref.id: it.ref.revision for it in found} == {n: shas[n] for n in ("ada/a", "ada/b")}
    assert all(it.spec_digest for it in found)
    assert 0 <= away.catalogue_age < 60
    assert away.fetch_spec(found[0].ref).is_dir()
    assert away.fetch_spec(ref("ada/b")).parent.name == shas["ada/b"]
    assert away.weight_digests(found[0].ref) is None
    assert away.fetch_preview(found[0].ref) is None
    for call in (away.fetch_spec, away.fetch_model, away.check_writable):
        with pytest.raises(OfflineError, match=r"the network.* is switched off"):
            call(ref("ada/c"))
    assert hf_hub.requests == []


def test_a_listing_says_when_a_model_changed_last(hf_hub, opened):
    add(hf_hub, "ada-example/ink")
    (listing,) = opened().list_specs(EVERYTHING)
    assert listing.modified is not None
    assert listing.modified.tzinfo is not None
    hf_hub.commit("ada-example/ink", {"more.txt": b"more"})
    (later,) = opened().list_specs(EVERYTHING)
    assert later.modified > listing.modified
    opened().fetch_spec(later.ref)
    (offline,) = opened(offline=True).list_specs(EVERYTHING)
    assert offline.modified == later.modified


def test_a_card_alone(hf_hub, opened):
    add(hf_hub, "ada-example/ink", base="ada-example/base")
    hf_hub.add_repo("ada-example/bare", {LORA: WEIGHTS})
    hub = opened()
    hf_hub.clear_requests()
    found = hub.fetch_card(ref("ada-example/ink"))
    assert (found.base_model, found.tags) == ("ada-example/base", ("gmi-spec", "anime"))
    assert len(hf_hub.requests) <= 2
    assert hub.fetch_card(ref("ada-example/bare")).base_model is None
    with pytest.raises(UnsupportedOperationError, match="not on this hub"):
        hub.fetch_card(ModelRef("local", "ink"))


def test_the_catalogue_forgets_what_the_hub_no_longer_lists(hf_hub, opened):
    for name in ("ada/a", "ada/b"):
        add(hf_hub, name)
    hub = opened()
    for listed in hub.list_specs(EVERYTHING):
        hub.fetch_spec(listed.ref)
    hf_hub.commit("ada/a", {"README.md": card(tags=("anime",))})
    list(hub.list_specs(EVERYTHING))
    assert [it.ref.id for it in opened(offline=True).list_specs(EVERYTHING)] == ["ada/b"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": {"version": 9}}', b"\xff"])
def test_a_broken_catalogue_counts_as_empty(hf_hub, opened, tmp_path, content):
    hub = opened()
    add(hf_hub, "ada/a")
    list(hub.list_specs(EVERYTHING))
    (path,) = tmp_path.rglob("catalogue.json")
    assert json.loads(read_sealed(path))["models"][0]["id"] == "ada/a"
    path.write_bytes(content)
    away = opened(offline=True)
    assert (list(away.list_specs(EVERYTHING)), away.catalogue_age) == ([], None)
    assert len(list(hub.list_specs(EVERYTHING))) == 1


# staleness


def test_staleness_costs_one_request_a_commit_and_is_in_the_next_listing(hf_hub, opened):
    add(hf_hub, "ada/one")
    hub = opened()
    assert isinstance(hub, KnowsWeights)
    (first,) = hub.list_specs(EVERYTHING)
    folder = hub.fetch_spec(first.ref)
    described = read_spec(folder.parent, follow_links=True).manifest.model.weights
    hf_hub.clear_requests()
    for _ in range(2):
        current = hub.weight_digests(first.ref)
        assert current == {LORA: hashlib.sha256(WEIGHTS).hexdigest()}
        assert is_stale(described, current) is False
    assert methods(hf_hub) == ["GET"]
    assert next(hub.list_specs(EVERYTHING)).stale is False

    hf_hub.commit("ada/one", {LORA: b"other weights"})
    (second,) = hub.list_specs(EVERYTHING)
    hub.fetch_spec(second.ref)
    assert second.stale is None
    assert is_stale(described, hub.weight_digests(second.ref)) is True
    hf_hub.clear_requests()
    assert next(hub.list_specs(EVERYTHING)).stale is True
    assert next(opened(offline=True).list_specs(EVERYTHING)).stale is True
    assert methods(hf_hub) == ["GET"]


@pytest.mark.parametrize(
    ("current", "stale"),
    [
        (None, None),
        ({"w": "a" * 64}, False),
        ({"w": "a" * 64, "new": "b" * 64}, False),
        ({"w": "b" * 64}, True),
        ({"w": None}, None),
        ({}, True),
    ],
)
def test_a_specification_is_stale_where_its_weights_are_gone_or_others(current, stale):
    assert is_stale([WeightFile(path="w", size=1, sha256="a" * 64)], current) is stale


# errors


def _listing(hub):
    return list(hub.list_specs(EVERYTHING))


@pytest.mark.parametrize(
    ("token", "model", "kind", "says", "hint"),
    [
        (False, "ada/gated", AuthError, "gated, and no token was sent", "hf auth login"),
        (ADA.token, "ada/gated", AuthError, "gated, and this account has no", "ask for access at"),
        (False, "ada/private", AuthError, "without a token: it is private", "hf auth login"),
        (ADA.token, "ada/private", SpecNotFoundError, "this account may not see it", "check the"),
        (False, "ada/nothing", AuthError, "or it does not exist", "check the name"),
        (ADA.token, "ada/nothing", SpecNotFoundError, "holds no model ada/nothing", "check the"),
        ("hf_wrongsecret", "ada/open", AuthError, "does not accept the token", "hf auth login"),
    ],
)
def test_refusals_say_what_to_do_and_no_token(
    hf_hub, opened, token, model, kind, says, hint, caplog
):
    add(hf_hub, "ada/gated", gated="manual")
    add(hf_hub, "ada/private", private=True)
    add(hf_hub, "ada/open")
    with pytest.raises(kind, match=says) as caught:
        opened(token=token).fetch_spec(ref(model))
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert "secret" not in f"{caught.value.message}{caught.value.hint}{caplog.text}"


def test_an_unknown_revision_and_a_model_of_another_hub(hf_hub, opened):
    add(hf_hub, "ada/one")
    with pytest.raises(SpecNotFoundError, match="hf:ada/one has no revision v9") as caught:
        opened().fetch_spec(ref("ada/one", "v9"))
    assert caught.value.hint == "name the model without a revision: hf:ada/one"
    with pytest.raises(UnsupportedOperationError, match="is not on this hub"):
        opened().fetch_spec(ModelRef("local", "one"))


@pytest.mark.parametrize("call", [_listing, lambda hub: hub.fetch_spec(ref("ada/one"))])
def test_an_unreachable_hub_is_told_after_visible_waits(hf_hub, opened, monkeypatch, call):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    waits = []
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached") as caught:
        call(opened(endpoint="http://127.0.0.1:9", on_wait=waits.append))
    assert "HF_ENDPOINT" in caught.value.hint
    assert waits


def test_an_address_that_is_no_hub(hf_hub, opened):
    with pytest.raises(HubError) as caught:
        _listing(opened(endpoint=f"{hf_hub.endpoint}/elsewhere"))
    assert caught.value.hint
    with pytest.raises(InputError, match="is not the address of a hub"):
        opened(endpoint="ftp:elsewhere")


def test_a_hub_that_fails_once_is_asked_again(hf_hub, opened, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    sha = add(hf_hub, "ada/one")
    for path in ("/api/models/ada", "resolve.*spec.json", "storage.*spec.tensors"):
        hf_hub.inject(Fault("500", path_regex=path, method=None))
    hub = opened()
    assert hub.fetch_spec(ref("ada/one", sha)).is_dir()
    assert hub.weight_digests(ref("ada/one", sha))


# traffic


def test_requests_are_counted_and_waits_are_told(hf_hub, opened, monkeypatch):
    naps = []
    monkeypatch.setattr(time, "sleep", naps.append)
    sha = add(hf_hub, "ada/one")
    told = []
    hub = opened(on_wait=told.append)
    hf_hub.inject(Fault("429", path_regex="/api/models", retry_after=7))
    list(hub.list_specs(EVERYTHING))
    assert (told, naps) == ([8.0], [8.0])
    hub.fetch_spec(ref("ada/one", sha))
    assert hub.traffic.total == len(hf_hub.requests) == 5
    assert hub.traffic.methods == {"GET": 5}
    assert str(hub.traffic) == "requests: 5 (GET 5)"


def test_a_limit_that_stays_is_an_error_that_says_when(hf_hub, opened, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hf_hub.inject(Fault("429", times=99, retry_after=42))
    hub = opened()
    for call in (_listing, lambda hub: hub.weight_digests(ref("ada/one", "a" * 40))):
        with pytest.raises(RateLimitError, match="too many requests") as caught:
            call(hub)
        assert caught.value.retry_after == 42
        assert "in 42 s; more are allowed with a token" in caught.value.hint


def test_the_client_is_as_before_once_the_last_counter_closes(hf_hub):
    from huggingface_hub.utils import _http

    before = _http._GLOBAL_CLIENT_FACTORY
    first, second = ClientRequestCounter(), ClientRequestCounter()
    first.open()
    with second:
        first.close()
        assert before != _http._GLOBAL_CLIENT_FACTORY
        HuggingFaceHub(token=False).fetch_encoder("a", "b")
    second.close()
    assert before == _http._GLOBAL_CLIENT_FACTORY
    assert str(first) == "requests: 0"


# the table


def test_the_table_opens_it_by_name(hf_hub):
    hub: Hub = open_hub("hf", HubAccess(token="hf_x"))
    assert (hub.name, hub.endpoint) == ("hf", hf_hub.endpoint)
    assert isinstance(hub, SupplementedHub)
