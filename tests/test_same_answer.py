"""The same models pass by every way: listed and read, offline, an index in files, a server."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from gmi_registry import search
from gmi_registry.filters import Filters, fold, plain_tags
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.entries import entry_of, entry_path
from gmi_registry.hubs.registry.registry import SupplementedHub
from gmi_registry.index import ImageQuery
from gmi_registry.index.qdrant import QdrantIndex, serve_into
from gmi_registry.index.stored import FolderFiles, StoredIndex
from gmi_registry.indexing import index_hubs
from gmi_registry.regeneration.plan import make_plan
from gmi_registry.scoring import SCORES
from gmi_registry.search.query import build_query
from gmi_registry.spec import Manifest
from tests.support.hub_builder import HubBuilder, ProjectionEncoder, picture
from tests.support.loopback import Fault, LoopbackHub, repo
from tests.support.loopback.fixtures import turn_client
from tests.support.registry_author import REPO
from tests.support.remote_hub import Author

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

WORDS = [
    *("icons", "Icons", "pixel art", " Pixel  ART", "Straße", "STRASSE", "caf\u00e9", "CAFE\u0301"),
    *(
        "license:mit",
        "License:MIT",
        "region:us",
        "base_model:o/x",
        "no",
        "3",
        "\u65e5\u672c",
        "ß,a",
    ),
]
BASES = [None, "o/base", "O/Base", "o/x", "o/caf\u00e9"]
KINDS = ["lora", "checkpoint", "single-file"]

tags = st.lists(st.sampled_from(WORDS), max_size=3, unique=True).map(tuple)
filters = st.builds(
    Filters,
    tags=st.lists(st.sampled_from([*WORDS, "gmi-spec", "lone \udc80"]), max_size=2).map(tuple),
    not_tags=st.lists(st.sampled_from(WORDS), max_size=1).map(tuple),
    base_model=st.sampled_from([None, None, *BASES]),
    kind=st.sampled_from([None, None, *KINDS]),
    nsfw=st.booleans(),
)


@dataclass(frozen=True)
class Model:
    """``described`` are the tags of the specification, ``card`` those of today; ``place`` is where
    the specification lies."""

    described: tuple[str, ...]
    card: tuple[object, ...]
    base: str | None
    base_now: str | None
    kind: str
    pipeline: bool
    place: str

    @property
    def front(self) -> bytes:
        fields = {"tags": ["gmi-spec", *self.card]} if self.place != "registry" else {}
        base = {} if self.base_now is None else {"base_model": self.base_now}
        return f"---\n{json.dumps(fields | base | {'license': 'mit'})}\n---\n# x\n".encode()


# What a card holds that is no text, the hub makes one of, or leaves out.
cards = st.lists(st.sampled_from([*WORDS, None, 3, False]), max_size=3).map(tuple)
models = st.builds(
    Model,
    described=tags.map(lambda found: tuple(dict.fromkeys(" ".join(it.split()) for it in found))),
    card=cards,
    base=st.sampled_from(BASES),
    base_now=st.sampled_from(BASES),
    kind=st.sampled_from(KINDS),
    pipeline=st.booleans(),
    place=st.sampled_from(["model", "model", "registry", "nowhere"]),
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, LoopbackHub() as found:
        turn_client(patch, found.endpoint, tmp_path_factory.mktemp("home"))
        patch.setenv("GMI_REGISTRY", "gmi-registry/specs")
        yield found
        assert not found.failures


def same(text):
    """The rule, said once more: Unicode's canonical caseless matching, white space as one space."""
    apart = unicodedata.normalize("NFD", " ".join(text.split()))
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", apart.casefold()))


def expected(model, chosen):
    listed = []
    if model.place == "model":
        listed = [str(it) for it in ("gmi-spec", *model.card, "license:mit", "region:us")]
        listed = [it for it in listed if it != "None"]
        listed += [] if model.base_now is None else [f"base_model:{model.base_now}"]
        listed += ["diffusers:P"] if model.pipeline else []
    have = {same(it) for it in listed or model.described}
    bases = {it.rpartition(":")[2] for it in have if it.startswith("base_model:")}
    if not listed or not bases:
        bases = set() if model.base is None else {same(model.base)}
    kinds = {model.kind} | ({"checkpoint"} if model.kind == "single-file" else set())
    return (
        model.place != "nowhere"
        and all(same(it) in have for it in chosen.tags)
        and not any(same(it) in have for it in chosen.not_tags)
        and (chosen.base_model is None or same(chosen.base_model) in bases)
        and (chosen.kind is None or chosen.kind in kinds)
    )


class World(Author):
    """Models on a hub and in its registry, with what is kept of them in ``room``."""

    def __init__(self, hub, room):
        super().__init__(hub)
        self.room = room
        hub.clear()
        hub.add_repo(REPO, {"README.md": b"# Specifications\n"}, repo_type="dataset")

    def fill(self, found):
        for number, model in enumerate(found):
            name = f"m{number}"
            described = {"base_model": model.base, "kind": model.kind}
            spec = self.spec_files(
                name, (20 * number, 9, 9), name.encode(), model.described, **described
            )
            files = {"README.md": model.front, "w.bin": name.encode()}
            files |= {"model_index.json": b'{"_class_name": "P"}'} if model.pipeline else {}
            if model.place == "model":
                files |= spec
            elif model.place == "registry":
                folder = entry_path(entry_of(Manifest.from_bytes(spec["gmi/spec.json"]).model))
                entry = {f"{folder}/{path}": content for path, content in spec.items()}
                self.hub.commit(REPO, entry, repo_type="dataset")
            self.hub.add_repo(f"owner/{name}", files)

    @contextmanager
    def opened(self):
        cache = self.room / "builder"
        with SupplementedHub(Registry(cache_dir=cache), cache_dir=cache) as found:
            yield found

    def index(self, wanted=None):
        folder = self.room / f"index-{len(list(self.room.iterdir()))}"
        with self.opened() as opened:
            index_hubs(folder, [opened], cache_dir=self.room / "c", filters=wanted)
        return folder

    def hits(self, chosen, index="none", **options):
        """Those of a search that shows all."""
        found = search(
            picture((200, 9, 9)),
            "hf",
            tags=chosen.tags,
            not_tags=chosen.not_tags,
            base_model=chosen.base_model,
            kind=chosen.kind,
            nsfw=chosen.nsfw,
            top=None,
            index=index,
            cache_dir=self.room / "cache",
            encoder=self.encoder,
            **options,
        )
        return {hit.ref.id for hit in found.hits}


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    found=st.lists(models, min_size=3, max_size=6), asked=st.lists(filters, min_size=4, max_size=6)
)
def test_the_same_hits_by_every_way(hub, found, asked):
    with tempfile.TemporaryDirectory() as room:
        world = World(hub, Path(room))
        world.fill(found)
        folder = world.index()
        client = QdrantClient(":memory:")
        with StoredIndex.open(FolderFiles(folder), cache_dir=world.room / "c") as stored:
            for stack in stored.groups:
                serve_into(client, stack, stored.status, encoder=stack.encoder, collection="all")
        query = build_query([picture((200, 9, 9))], world.encoder, interrogator="none")
        question = ImageQuery(query, SCORES["default"])
        # The first fills the cache, so that all is at hand offline.
        for chosen in (Filters(), *asked):
            right = {f"owner/m{number}" for number, it in enumerate(found) if expected(it, chosen)}
            assert world.hits(chosen) == right, f"listed: {chosen}"
            assert world.hits(chosen, offline=True) == right, f"offline: {chosen}"
            assert world.hits(chosen, folder) == right, f"index: {chosen}"
            if client.get_collections().collections:
                with QdrantIndex.open(client, collection="all") as served:
                    served_hits = served.answer(question, chosen, hub="hf", top=None).hits
                assert {hit.ref.id for hit in served_hits} == right, f"server: {chosen}"
        # An index of some models holds those that pass.
        part = world.index(asked[0])
        assert world.hits(Filters(), part) == world.hits(asked[0])


@settings(max_examples=5, deadline=None)
@given(
    described=st.lists(tags, min_size=2, max_size=5),
    asked=st.lists(filters, min_size=3, max_size=5),
)
def test_a_folder_and_its_index(described, asked):
    with tempfile.TemporaryDirectory() as room:
        built = HubBuilder(Path(room) / "hub", Path(room) / "cache", ProjectionEncoder())
        for number, words in enumerate(described):
            built.publish(f"m{number}", (40 * number, 9, 9), tags=words, base_model="O/Base")
        folder = Path(room) / "index"
        index_hubs(folder, [built.hub], cache_dir=built.cache)
        for chosen in asked:
            hits = [
                {
                    hit.ref.id
                    for hit in search(
                        picture((200, 9, 9)),
                        built.hub,
                        tags=chosen.tags,
                        not_tags=chosen.not_tags,
                        base_model=chosen.base_model,
                        kind=chosen.kind,
                        top=None,
                        index=index,
                        cache_dir=built.cache,
                        encoder=built.encoder,
                    ).hits
                }
                for index in ("none", folder)
            ]
            assert hits[0] == hits[1], chosen


class TestIndexOfToday:
    """What a hub says of a model changes without its specification."""

    def test_new_tags_come_without_a_specification_being_read(self, hub, tmp_path):
        world = World(hub, tmp_path)
        world.publish("red", (240, 20, 10), tags=("old",))
        folder = world.index()
        card = b"---\ntags: [gmi-spec, new]\n---\n# red\n"
        hub.commit("owner/red", {"README.md": card})
        with world.opened() as opened:
            list(opened.list_specs(Filters()))
            # Its files are here under the new commit, too, as after any search.
            opened.fetch_spec(next(iter(opened.list_specs(Filters()))).ref)
            hub.clear_requests()
            done = index_hubs(folder, [opened], cache_dir=tmp_path / "c")
            assert (done.read, done.change.described) == (0, 1)
            again = index_hubs(folder, [opened], cache_dir=tmp_path / "c")
            assert again.change.written == 0
        assert all("/gmi/" not in request.path for request in hub.requests)
        assert world.hits(Filters(tags=("NEW",)), folder) == {"owner/red"}
        assert world.hits(Filters(tags=("old",)), folder) == set()

    def test_what_passes_no_more_leaves_and_so_does_what_has_no_specification(self, hub, tmp_path):
        world = World(hub, tmp_path)
        for name in ("red", "green", "blue"):
            world.publish(name, tags=("icons",))
        wanted = Filters(tags=("icons",))
        folder = world.index(wanted)
        hub.commit("owner/red", {"README.md": b"---\ntags: [gmi-spec]\n---\n"})
        hub.commit("owner/green", {"gmi/spec.json": None, "gmi/spec.tensors": None})
        with world.opened() as opened:
            done = index_hubs(folder, [opened], cache_dir=tmp_path / "c", filters=wanted)
        assert (done.listed, done.change.rows, done.change.removed) == (1, 1, 2)
        assert [(it.model.id, "no specification" in it.reason) for it in done.skipped] == [
            ("owner/green", True)
        ]


SIBLINGS = {
    "all": lambda names: names,
    "none": lambda names: None,
    "an empty list": lambda names: [],
    "cut off before the card": lambda names: [name for name in names if name < "README"],
    "cut off before the weights": lambda names: [name for name in names if name < "g"],
    "cut off within the folder": lambda names: [name for name in names if name < "gmi/spec.t"],
    "so long that it may be cut off": lambda names: (
        [name for name in names if "gmi/" not in name]
        + [f"unet/{number}" for number in range(1000)]
    ),
}


class TestFilesThatAListingNames:
    @pytest.mark.parametrize("cut", SIBLINGS)
    def test_a_list_that_may_not_be_whole_is_not_believed(self, hub, tmp_path, monkeypatch, cut):
        world = World(hub, tmp_path)
        world.publish("red")
        hub.commit("owner/red", {".gitattributes": b"", "weights.safetensors": b"x"})

        def siblings(repo, commit):
            names = SIBLINGS[cut](sorted(commit.files))
            return names and [{"rfilename": name} for name in names]

        monkeypatch.setitem(repo._FIELDS, "siblings", siblings)
        assert world.hits(Filters()) == {"owner/red"}
        assert world.hits(Filters(), offline=True) == {"owner/red"}

    def test_models_without_a_specification_cost_nothing(self, hub, tmp_path):
        world = World(hub, tmp_path)
        world.publish("red")
        for number in range(40):
            hub.add_repo(f"owner/fork{number}", {"README.md": b"---\ntags: [gmi-spec]\n---\n"})
        options = {"index": "none", "cache_dir": tmp_path / "cache", "encoder": world.encoder}
        hub.clear_requests()
        found = search(picture((240, 20, 10)), "hf", **options)
        assert not [request.path for request in hub.requests if "fork" in request.path]
        assert ([hit.ref.id for hit in found.hits], found.read, found.from_cache) == (
            ["owner/red"],
            1,
            0,
        )
        assert len(found.skipped) == 40
        assert "has no specification" in found.skipped[0].reason

    def test_the_registry_describes_what_its_owner_has_not(self, hub, tmp_path):
        world = World(hub, tmp_path)
        bare = Model(("icons",), ("icons",), None, None, "lora", False, "registry")
        world.fill([bare])
        hub.commit("owner/m0", {"README.md": b"---\ntags: [gmi-spec]\n---\n"})
        assert world.hits(Filters(tags=("icons",))) == {"owner/m0"}
        assert world.hits(Filters(), world.index()) == {"owner/m0"}


class TestPlan:
    @pytest.mark.parametrize("front", ["license: mit", "tags: [a\n"])
    def test_a_base_is_asked_about_once(self, hub, tmp_path, front):
        """Whoever stands on it, at the same time, and also where its card is broken."""
        world = World(hub, tmp_path)
        files = {"README.md": f"---\n{front}\n---\n".encode(), "unet/w.safetensors": b"base"}
        hub.add_repo("o/base", files)
        world.fill([Model((), (), "o/base", "o/base", "lora", False, "model")] * 12)
        hub.inject(Fault("slow", path_regex="/o/base", seconds=0.3, times=3))
        with world.opened() as opened:
            hub.clear_requests()
            plan = make_plan(opened, workers=8)
        states = {model.state for model in plan.models}
        assert states == ({"set aside"} if "[" in front else {"stale"})
        # What it has now, and its card by the name of a branch.
        assert sum("/o/base/" in request.path for request in hub.requests) <= 3

    def test_what_a_listing_names_is_not_asked_for_and_what_it_cannot_tell_is_compared(
        self, hub, tmp_path
    ):
        world = World(hub, tmp_path)
        world.fill([Model((word,), (), None, None, "lora", False, "registry") for word in "ab"])
        hub.add_repo("owner/bare", {"README.md": b"---\ntags: [gmi-spec, A]\n---\n"})
        with world.opened() as opened:
            hub.clear_requests()
            plan = make_plan(opened, tags=["A"])
        assert {(str(it.ref), it.state) for it in plan.models} == {
            ("hf:owner/bare", "missing"),
            ("hf:owner/m0", "stale"),
        }
        assert not [it.path for it in hub.requests if "bare" in it.path and "/gmi/" in it.path]


@given(st.text(max_size=20))
@example("\u0345\u0301a")
@example("\ufb03 \u1e9e\u0130")
def test_folding_is_the_rule_and_folds_nothing_further(text):
    assert fold(fold(text)) == fold(text) == fold(f"  {text}\t")
    clean = "".join(it for it in text if not "\ud800" <= it <= "\udfff")
    assert unicodedata.normalize("NFD", fold(clean)) == same(clean)
    for form in ("NFC", "NFD"):
        assert fold(unicodedata.normalize(form, clean)) == fold(clean)


def test_tags_of_a_hub_are_plain_and_few():
    odd = ["a", "a ", "", None, 3, ["b"], "x" * 201, "bad\u202e", "\ud800", "two  words"]
    assert plain_tags(odd) == ("a", "two words")
    assert plain_tags({"a": 1}) == plain_tags("abc") == plain_tags(None) == ()
    assert len(plain_tags([str(number) for number in range(900)])) == 500
    heavy = plain_tags([f"{number}" + "\U0001f600" * 190 for number in range(500)])
    assert 50 < len(heavy) < 100
