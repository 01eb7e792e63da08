"""Searching Hugging Face with what its models' owners have not put beside them."""

from __future__ import annotations

import hashlib

import pytest

from tests.support.registry_author import REPO

# isort: split

import gmi_registry
from gmi_registry.hubs import Filters
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.entries import entry_of, entry_path
from gmi_registry.hubs.registry.registry import SupplementedHub
from gmi_registry.spec import Manifest, ModelRef
from tests.support.hub_builder import picture
from tests.support.remote_hub import COLOURS, WEIGHTS, Author


class Contributor(Author):
    """Puts specifications of others' models into the registry."""

    def contribute(self, name, colour, weights=None, tags=("anime",)):
        """An entry for ``owner/NAME``, whose weights are its name unless said otherwise."""
        files = self.spec_files(name, colour, weights or name.encode(), tags)
        entry = entry_of(Manifest.from_bytes(files["gmi/spec.json"]).model)
        self.hub.commit(
            REPO,
            {f"{entry_path(entry)}/{path}": content for path, content in files.items()},
            repo_type="dataset",
        )
        return entry

    def bare(self, name, weights=None):
        """A model whose owner has published nothing."""
        self.hub.add_repo(f"owner/{name}", {WEIGHTS: weights or name.encode()})


@pytest.fixture
def author(hub):
    return Contributor(hub)


@pytest.fixture
def opened(author, tmp_path):
    cache = tmp_path / "cache"
    with SupplementedHub(Registry(cache_dir=cache), cache_dir=cache) as found:
        yield found


def names(listings):
    return [str(listing.ref.without_revision) for listing in listings]


def test_the_owners_word_goes_before_the_registrys(author, opened):
    author.publish("red")
    author.contribute("red", COLOURS["blue"])
    author.bare("green")
    entry = author.contribute("green", COLOURS["green"])
    found = list(opened.list_specs(Filters()))
    assert names(found) == ["hf:owner/red", "hf:owner/green"]
    assert [listing.trust for listing in found] == ["owner", "self-published"]
    assert found[1].ref == entry


def test_a_search_says_who_stands_behind_what(author, tmp_path):
    author.publish("blue")
    author.bare("red")
    author.contribute("red", COLOURS["red"])
    options = {"tags": ["anime"], "cache_dir": tmp_path / "cache", "encoder": author.encoder}
    result = gmi_registry.search(picture(COLOURS["red"], 99), "hf", **options)
    first, second = result.hits
    assert (first.ref.id, first.trust, first.stale) == ("owner/red", "self-published", False)
    assert (second.ref.id, second.trust, second.stale) == ("owner/blue", "owner", False)
    assert result.skipped == ()


def test_tags_of_an_entry_are_those_of_its_manifest(author, tmp_path):
    for name, tags in (("red", ("anime",)), ("blue", ("photo",))):
        author.bare(name)
        author.contribute(name, COLOURS[name], tags=tags)
    options = {"cache_dir": tmp_path / "cache", "encoder": author.encoder}
    result = gmi_registry.search(picture(COLOURS["red"]), "hf", tags=["photo"], **options)
    assert [hit.ref.id for hit in result.hits] == ["owner/blue"]


def test_of_several_weights_those_of_today_count(author, opened):
    author.bare("red", b"second")
    for weights in (b"first", b"second", b"third"):
        author.contribute("red", COLOURS["red"], weights)
    (listing,) = opened.list_specs(Filters())
    digests = opened.weight_digests(listing.ref)
    assert digests == {WEIGHTS: hashlib.sha256(b"second").hexdigest()}
    folder = opened.fetch_spec(listing.ref)
    manifest = Manifest.from_bytes((folder / "spec.json").read_bytes())
    assert manifest.model.weights[0].sha256 == digests[WEIGHTS]


def test_weights_that_moved_on_are_stale(author, tmp_path):
    author.bare("red", b"newer")
    author.contribute("red", COLOURS["red"], b"older")
    options = {"cache_dir": tmp_path / "cache", "encoder": author.encoder}
    (hit,) = gmi_registry.search(picture(COLOURS["red"]), "hf", **options).hits
    assert hit.stale


@pytest.mark.parametrize("repo", ["gmi-registry/none", REPO])
def test_without_entries_the_hub_is_as_it_was(author, tmp_path, repo):
    author.publish("red")
    opened = SupplementedHub(Registry(repo, cache_dir=tmp_path), cache_dir=tmp_path)
    with opened:
        (listing,) = opened.list_specs(Filters())
        assert listing.ref.without_revision == ModelRef("hf", "owner/red")
        assert opened.fetch_spec(listing.ref).name == "gmi"
        assert opened.fetch_preview(listing.ref) is None


def test_offline_both_answer_from_this_disk(author, tmp_path):
    author.publish("blue")
    author.bare("red")
    author.contribute("red", COLOURS["red"])
    options = {"cache_dir": tmp_path / "cache", "encoder": author.encoder}
    online = gmi_registry.search(picture(COLOURS["red"]), "hf", **options)
    author.hub.clear_requests()
    offline = gmi_registry.search(picture(COLOURS["red"]), "hf", offline=True, **options)
    assert author.hub.requests == []
    assert [hit.ref for hit in offline.hits] == [hit.ref for hit in online.hits]
    assert [hit.trust for hit in offline.hits] == [hit.trust for hit in online.hits]
