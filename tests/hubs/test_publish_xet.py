"""Publishing through Xet storage: the real hf_xet, and a store of its own on this disk."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("hf_xet")

from gmi_registry.errors import HubError
from gmi_registry.hubs.huggingface import download
from gmi_registry.spec import ModelRef, read_spec
from gmi_registry.spec.specification import encode_spec
from tests.support.fault_plan import draw
from tests.support.fault_world import REF, open_world
from tests.support.loopback import Fault

TENSORS = "gmi/spec.tensors"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with open_world(tmp_path_factory.mktemp("xet")) as world:
        yield world


@pytest.fixture
def begin(opened):
    """The world with one model and an empty store; its author, or a stranger, asks."""

    def start(*, owner=True):
        plan = draw(0)
        plan.xet, plan.owner, plan.before, plan.workers = True, owner, "nothing", 1
        opened.begin(plan)
        opened.add_style(plan)
        return opened

    yield start
    assert not opened.hub.failures


def publish(world):
    """Push what describes the model, and return it with its address."""
    with world.open() as hub:
        folder = world.folder(hub.fetch_model(REF).weights, preview=True)
        spec = read_spec(folder.parent, expected=REF)
        return spec, hub.push_spec(REF, folder)


@pytest.fixture
def by_client(monkeypatch):
    """Every file comes by hf_xet, as weights do, and none by a plain request."""
    monkeypatch.setattr(download, "fetch_small", lambda *_, **__: None)


def fetched(world, ref=REF):
    """What a program with an empty disk reads."""
    shutil.rmtree(world.cache, ignore_errors=True)
    with world.open() as hub:
        return read_spec(hub.fetch_spec(ref).parent, expected=ref, follow_links=True)


def stored(world):
    """The one file in the store that holds bytes."""
    folder = world.hub.state.xet_dir / "xet" / "xorbs" / "xorbs"
    (found,) = [path for path in folder.iterdir() if path.suffix != ".tagset"]
    return found


def asked(world, word):
    return [request for request in world.hub.requests if f"/{word}" in request.path]


def test_a_specification_goes_there_and_comes_back(begin):
    world = begin()
    spec, url = publish(world)
    assert "/commit/" in url
    assert asked(world, "xet-write-token/")
    assert not [request for request in world.hub.requests if request.method == "PUT"]
    assert not asked(world, f"{REF.id}.git/info/lfs")
    head = world.hub.history(REF.id)[0]
    assert head.files[TENSORS].xet_hash
    assert head.files[TENSORS].content == encode_spec(spec)[1]
    world.hub.clear_requests()
    # So small a file is not worth a token: the storage behind it has the same bytes.
    assert fetched(world) == spec
    assert asked(world, "storage/")
    assert not asked(world, "xet-read-token/")


def test_the_client_reads_it_from_there(begin, by_client):
    world = begin()
    spec, _ = publish(world)
    world.hub.clear_requests()
    assert fetched(world) == spec
    assert asked(world, "xet-read-token/")
    assert not asked(world, "storage/")


def test_a_second_time_is_up_to_date(begin):
    world = begin()
    publish(world)
    world.hub.clear_requests()
    _, url = publish(world)
    assert "/tree/" in url
    assert not asked(world, "xet-write-token/")
    assert len(world.hub.history(REF.id)) == 2


def test_a_stranger_proposes(begin):
    world = begin(owner=False)
    spec, url = publish(world)
    assert url.endswith("/discussions/1")
    assert any("create_pr" in request.path for request in asked(world, "xet-write-token/"))
    assert TENSORS not in world.hub.files(REF.id)
    assert fetched(world, ModelRef("hf", REF.id, "refs/pr/1")) == spec


def test_a_commit_in_between_is_built_upon(begin):
    world = begin()
    world.hub.inject(Fault("stale-parent"))
    spec, _ = publish(world)
    assert [commit.author for commit in world.hub.history(REF.id)][:2] == ["alice", "somebody-else"]
    assert fetched(world) == spec


@pytest.mark.parametrize("kind", ["429", "500", "cut"])
def test_a_token_that_does_not_come_at_once_is_asked_for_again(begin, kind):
    world = begin()
    fault = world.hub.inject(Fault(kind, path_regex="xet-write-token"))
    spec, _ = publish(world)
    assert fault.seen == 1
    assert len(asked(world, "xet-write-token/")) == 2
    assert fetched(world) == spec


def test_no_token_at_all_is_an_error_and_the_model_as_it_was(begin):
    world = begin()
    before = world.hub.history(REF.id)
    store, world.hub.state.xet_dir = world.hub.state.xet_dir, None
    with pytest.raises(HubError, match=f"{REF}: the upload failed: ") as caught:
        publish(world)
    assert caught.value.hint == "run the same command again"
    assert world.hub.history(REF.id) == before
    world.hub.state.xet_dir = store
    spec, _ = publish(world)
    assert fetched(world) == spec


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda content: content[: len(content) // 4], "the download failed: "),
        (
            lambda content: bytes([*content[:185], content[185] ^ 0xFF, *content[186:]]),
            "is not what",
        ),
        (None, "the download failed: "),
    ],
    ids=["cut", "flipped", "gone"],
)
def test_a_damaged_store_is_noticed_and_leaves_the_cache_usable(begin, by_client, harm, says):
    world = begin()
    spec, _ = publish(world)
    place = stored(world)
    whole = place.read_bytes()
    place.chmod(0o644)
    if harm is None:
        place.unlink()
    else:
        place.write_bytes(harm(whole))
    with pytest.raises(HubError, match=says) as caught:
        fetched(world)
    assert caught.value.hint.startswith("run the same command again")
    place.write_bytes(whole)
    with world.open() as hub:
        assert read_spec(hub.fetch_spec(REF).parent, follow_links=True) == spec
