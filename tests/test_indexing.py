"""An index of what hubs hold, brought up to date, pushed, and searched in place of the hubs."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import gmi_registry
from gmi_registry.cli.main import app
from gmi_registry.errors import InputError, RateLimitError, SpecFormatError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.dataset import push_aggregate
from gmi_registry.hubs.registry.entries import entry_of, entry_path
from gmi_registry.hubs.registry.registry import SupplementedHub
from gmi_registry.index.stored import DOCUMENT_NAME, FolderFiles, IndexDocument, StoredIndex
from gmi_registry.indexing import index_hubs
from gmi_registry.spec import Manifest
from tests.support.hub_builder import picture
from tests.support.loopback import User
from tests.support.loopback.fixtures import hf_hub
from tests.support.registry_author import REPO
from tests.support.remote_hub import COLOURS, WEIGHTS, Author

__all__ = ["hf_hub"]


class Contributor(Author):
    """An author who also describes others' models, in the registry."""

    def contribute(self, name, colour):
        files = self.spec_files(name, colour, name.encode())
        entry = entry_of(Manifest.from_bytes(files["gmi/spec.json"]).model)
        self.hub.commit(
            REPO,
            {f"{entry_path(entry)}/{path}": content for path, content in files.items()},
            repo_type="dataset",
        )


@pytest.fixture
def author(hf_hub, monkeypatch):
    """Three colours beside their models, and a fourth model whose owner published nothing."""
    monkeypatch.setenv("GMI_REGISTRY", REPO)
    hf_hub.add_user(User("keeper", "hf_keeper", orgs=("gmi-registry",)))
    hf_hub.add_repo(REPO, {"README.md": b"# Specifications\n"}, repo_type="dataset")
    found = Contributor(hf_hub)
    for name in COLOURS:
        found.publish(name)
    hf_hub.add_repo("owner/crimson", {WEIGHTS: b"crimson"})
    found.contribute("crimson", (225, 20, 20))
    return found


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def index(author, folder, tmp_path):
    """Index both, and return what was done and the requests that it took."""

    def run(**options):
        cache = tmp_path / "runner"
        author.hub.clear_requests()
        hub = SupplementedHub(Registry(cache_dir=cache), cache_dir=cache)
        with hub:
            return index_hubs(folder, [hub], cache_dir=cache, **options)

    return run


@pytest.fixture
def push(folder):
    def run():
        document = IndexDocument.from_bytes((folder / DOCUMENT_NAME).read_bytes())
        names = [DOCUMENT_NAME, *document.files]
        push_aggregate(Registry(token="hf_keeper").dataset, {it: folder / it for it in names})

    return run


@pytest.fixture
def search(author, tmp_path):
    def run(*images, **options):
        author.hub.clear_requests()
        if "like" not in options:
            images = images or (picture(COLOURS["red"], 99),)
        options = {"cache_dir": tmp_path / "cache", "encoder": author.encoder} | options
        return gmi_registry.search(list(images), "hf", **options)

    return run


def names(result):
    return [hit.ref.id for hit in result.hits]


def asked(author):
    return [request.path.partition("?")[0] for request in author.hub.requests]


class TestIndexing:
    def test_all_that_is_there(self, index, folder, tmp_path):
        done = index()
        assert (done.listed, done.read, done.skipped) == (4, 4, ())
        assert (done.change.rows, done.change.added) == (4, 4)
        with StoredIndex.open(FolderFiles(folder), cache_dir=tmp_path / "c") as opened:
            trusts = {
                name.partition("@")[0]: opened.status(name).trust
                for group in opened.groups
                for name in group.names
            }
        assert trusts == {
            "hf:owner/blue": "owner",
            "hf:owner/crimson": "self-published",
            "hf:owner/green": "owner",
            "hf:owner/red": "owner",
        }

    def test_what_it_has_is_not_read_again(self, index, author, folder):
        index()
        before = (folder / DOCUMENT_NAME).read_bytes()
        again = index()
        assert (again.listed, again.read, again.change.written) == (4, 0, 0)
        assert (folder / DOCUMENT_NAME).read_bytes() == before
        # The registry's commit and the list of models, and nothing for each of them.
        assert len(author.hub.requests) <= 3

    def test_another_machine_reads_no_more_either(self, index, author, folder, tmp_path):
        index()
        author.hub.clear_requests()
        cache = tmp_path / "another"
        with SupplementedHub(Registry(cache_dir=cache), cache_dir=cache) as hub:
            again = index_hubs(folder, [hub], cache_dir=cache)
        assert again.read == 0
        assert not [path for path in asked(author) if "/resolve/" in path and "gmi/" in path]

    def test_what_is_new_comes_and_what_is_gone_goes(self, index, author):
        index()
        author.publish("white", (250, 250, 250))
        changed = author.spec_files("green", COLOURS["blue"], b"green")
        author.hub.commit("owner/green", changed)
        author.hub.commit("owner/red", {"README.md": b"---\ntags: [anime]\n---\n# red\n"})
        done = index()
        change = done.change
        assert (done.read, change.rows) == (2, 4)
        assert (change.added, change.replaced, change.removed) == (1, 1, 1)

    def test_a_broken_one_is_named_and_the_old_one_stays(self, index, author):
        index()
        author.hub.commit("owner/red", {"gmi/spec.json": b"{}"})
        done = index()
        (skipped,) = done.skipped
        assert skipped.model.id == "owner/red"
        assert done.change.rows == 4

    def test_a_hub_that_refuses_to_go_on(self, index, author, folder, monkeypatch):
        index()
        author.publish("white", (250, 250, 250))

        def refuse(*_):
            raise RateLimitError("slow down", retry_after=60)

        monkeypatch.setattr(HuggingFaceHub, "fetch_spec", refuse)
        with pytest.raises(RateLimitError, match="slow down"):
            index()
        monkeypatch.undo()
        assert len(IndexDocument.from_bytes((folder / DOCUMENT_NAME).read_bytes()).groups) == 1

    def test_one_hub_of_each_kind(self, folder, tmp_path):
        with pytest.raises(InputError, match="one hub of each kind") as caught:
            index_hubs(folder, [], cache_dir=tmp_path)
        assert caught.value.hint


class TestSearch:
    def test_the_index_answers_as_the_specifications_do(self, index, push, search, folder):
        plain = search(index="none")
        index()
        push()
        result = search()
        assert result.index.startswith(f"{REPO}@")
        assert plain.index is None
        assert [(hit.ref, hit.trust) for hit in result.hits] == [
            (hit.ref, hit.trust) for hit in plain.hits
        ]
        for ours, theirs in zip(result.hits, plain.hits, strict=True):
            assert ours.distance == pytest.approx(theirs.distance, rel=1e-6)
            assert ours.confidence == pytest.approx(theirs.confidence, rel=1e-6)
            # Their images are elsewhere, and are not fetched for what is told along the way.
            assert ours.best_prompts == ()
        here = search(index=folder)
        for ours, theirs in zip(here.hits, plain.hits, strict=True):
            assert ours.best_prompts == theirs.best_prompts

    def test_one_request_once_it_is_here(self, index, push, search, author):
        index()
        push()
        search()
        assert not [path for path in asked(author) if path.startswith("/api/models")]
        first = search(tags=["anime"])
        assert asked(author) == [f"/api/datasets/{REPO}/revision/main"]
        assert len(first.hits) == 4
        assert search(tags=["nothing of the kind"]).hits == ()

    def test_an_entry_that_changes_costs_what_changed(self, index, push, search, author):
        index()
        push()
        search()
        author.publish("white", (250, 250, 250))
        index()
        push()
        assert len(search().hits) == 5
        fetched = [path for path in asked(author) if "/index/v1/" in path]
        assert 0 < len(fetched) <= 12

    def test_a_model_of_the_index_is_near_to_others_without_a_request_for_it(
        self, index, push, search, author
    ):
        index()
        push()
        search(like="hf:owner/red", encoder=None)
        result = search(like="hf:owner/crimson", encoder=None)
        assert names(result)[0] == "owner/red"
        assert "owner/crimson" not in names(result)
        assert asked(author) == [f"/api/datasets/{REPO}/revision/main"]

    def test_fresh_models_alone_are_asked_for(self, index, push, search, author):
        index()
        push()
        author.hub.commit("owner/red", {WEIGHTS: b"trained some more"})
        assert names(search())[0] == "owner/red"
        fresh = search(fresh_only=True)
        assert "owner/red" not in names(fresh)
        assert fresh.stale_left_out == 1

    def test_without_an_index_specifications_are_read(self, search, author):
        result = search()
        assert (result.index, len(result.hits)) == (None, 4)

    def test_an_index_that_is_broken_is_passed_over_or_named(
        self, index, push, search, author, folder
    ):
        index()
        push()
        means = next(path for path in folder.rglob("*-means.tensors"))
        means.write_bytes(means.read_bytes()[:-4])
        push_broken = {it: folder / it for it in files_in(folder)}
        push_aggregate(Registry(token="hf_keeper").dataset, push_broken)
        result = search()
        assert (result.index, len(result.hits)) == (None, 4)
        with pytest.raises(SpecFormatError):
            search(index=folder)

    def test_offline_the_index_of_the_last_search_answers(self, index, push, search, author):
        index()
        push()
        online = search()
        offline = search(offline=True)
        assert author.hub.requests == []
        assert offline.hits == online.hits
        assert offline.index == online.index


def files_in(root):
    return [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]


class TestCommands:
    @pytest.fixture
    def call(self, author, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_TOKEN", "hf_keeper")
        monkeypatch.setenv("GMI_CACHE_DIR", str(tmp_path / "cache"))

        def run(*arguments):
            return CliRunner().invoke(app, ["index", *map(str, arguments)])

        return run

    def test_from_the_hub_into_the_registry(self, call, folder, author):
        built = call("build", folder, "--hub", "hf")
        assert built.exit_code == 0, built.output
        assert built.stdout == f"{folder}: 4 models\n"
        assert "4 added, 0 replaced" in built.stderr
        info = json.loads(call("info", folder, "--json").stdout)
        assert (info["models"], info["hubs"]) == (4, {"hf": 4})
        assert info["bytes"] == sum(group["bytes"] for group in info["groups"])
        (group,) = info["groups"]
        assert group["hubness"]["models"] <= 4
        assert sum(hub["first"] for hub in group["hubness"]["hubs"]) == pytest.approx(1)
        shown = call("info", folder)
        assert "models: 4 (hf 4)" in shown.stdout
        assert "hubs: 4 models are too few to say" in shown.stdout
        # Its encoder is that of the tests, which nobody can load.
        assert "background pictures are left out: " in shown.stderr
        pushed = call("push", folder)
        assert pushed.exit_code == 0, pushed.output
        assert pushed.stdout.startswith(author.hub.endpoint)
        there = {
            path.removeprefix("index/v1/")
            for path in author.hub.files(REPO, repo_type="dataset")
            if path.startswith("index/")
        }
        assert there == set(files_in(folder))
        again = call("update", folder, "--hub", "hf", "--json")
        assert json.loads(again.stdout)["read"] == 0

    def test_what_is_there_already_is_not_built_over(self, call, folder):
        assert call("update", folder, "--hub", "hf").exit_code == 1
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
        done = call("build", folder, "--hub", "hf")
        assert done.exit_code == 1
        assert "is not empty" in done.stderr
        assert [path.name for path in folder.iterdir()] == ["mine.txt"]
        done = call("build", folder / "mine.txt", "--hub", "hf")
        assert done.exit_code == 1
        assert "mine.txt is no folder" in done.stderr
        assert (folder / "mine.txt").read_text() == "mine"

    def test_a_folder_without_an_index(self, call, tmp_path):
        for command in ("info", "push"):
            done = call(command, tmp_path)
            assert done.exit_code == 1
            assert "holds no index.json" in done.stderr
            assert "hint: make the index with gmi index build" in done.stderr
