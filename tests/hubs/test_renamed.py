"""Models that were renamed, through every command: the real client, a loopback hub."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from gmi_registry import search
from gmi_registry.cli.document import search_document
from gmi_registry.cli.main import app
from gmi_registry.cli.search import write_comments
from gmi_registry.errors import AuthError, HubError, InputError, SpecFormatError, SpecNotFoundError
from gmi_registry.hubs import Filters
from gmi_registry.hubs.huggingface import HuggingFaceHub, client
from gmi_registry.hubs.huggingface.listing import KEPT_ELSEWHERE, Names, base_reference
from gmi_registry.hubs.open import find_spec, read_from
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.entries import entry_file, entry_of
from gmi_registry.hubs.registry.registry import SupplementedHub
from gmi_registry.indexing import index_hubs
from gmi_registry.report.page import search_page
from gmi_registry.search.request import SearchRequest
from gmi_registry.signature import PrivateKey, PublicKey, sign_spec, verify_signature
from gmi_registry.spec import ModelRef, WeightFile, encode_spec, write_spec
from tests.support.hub_builder import picture, style_spec
from tests.support.loopback import LoopbackHub, User

LORA = "pytorch_lora_weights.safetensors"
RED, BLUE = (240, 20, 10), (20, 30, 230)
OLD, NEW = "ada/rose", "ben/flower"


def weights(name):
    random = np.random.default_rng(list(name.encode()))
    return save({"unet.attn.to_q.lora_A.weight": random.normal(size=(2, 4)).astype("f4")})


def files_of(spec):
    manifest, tensors = encode_spec(spec)
    return {"gmi/spec.json": manifest, "gmi/spec.tensors": tensors}


class World:
    """A loopback hub with two models, ada/rose, which is red, and ada/sea; of one base."""

    def __init__(self, hub, encoder, room):
        self.hub, self.encoder, self.room = hub, encoder, room
        hub.add_user(User("ada", "hf_adasecret"))
        self.spec = self.add(OLD, RED)
        self.add("ada/sea", BLUE)

    def add(self, name, colour, *, base="ada/base", described=None):
        content = weights(name)
        digest = hashlib.sha256(content).hexdigest()
        file = WeightFile(path=LORA, size=len(content), sha256=digest)
        spec = self.describe(described or name, (file,), colour, base)
        card = f"---\nlicense: mit\nbase_model: {base}\ntags: [gmi-spec, icons]\n---\n# A style\n"
        files = {"README.md": card.encode(), LORA: content, **files_of(spec)}
        self.hub.add_repo(name, files)
        return spec

    def describe(self, name, files, colour, base):
        spec = style_spec(self.encoder, name, files, colour)
        model = spec.manifest.model.model_copy(
            update={"base_model": base, "tags": ("icons",), "url": f"{self.hub.endpoint}/{name}"}
        )
        return replace(spec, manifest=spec.manifest.model_copy(update={"model": model}))

    def open(self, **options):
        options = {"token": False, "cache_dir": self.room / "hf"} | options
        return HuggingFaceHub(**options)

    def search(self, hub=None, **options):
        options = {"cache_dir": self.room / "cache", "encoder": self.encoder} | options
        images = [] if "like" in options else [picture(RED, 99)]
        with hub or self.open(offline=options.get("offline", False)) as opened:
            return search(images, opened, **options)

    def call(self, *words):
        return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def world(hf_hub, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return World(hf_hub, encoder, tmp_path)


@pytest.fixture
def renamed(world):
    """ada/rose was transferred and renamed: it is ben/flower now."""
    world.search(tags=("icons",))
    world.hub.rename(OLD, NEW)
    return world


def ids(result):
    return [hit.ref.id for hit in result.hits]


@pytest.mark.parametrize("status", [307, 308])
def test_the_redirect_is_as_the_hub_s(world, status):
    world.hub.rename(OLD, NEW, status=status)
    world.hub.rename(NEW, "ben/third")
    with world.open() as hub:
        for name in (OLD, NEW, OLD.upper(), "Ben/Third"):
            assert hub.current(ModelRef("hf", name)).id == "ben/third"
            assert read_from(hub, ModelRef("hf", name)).digest
    world.hub.add_repo(OLD, {"README.md": b"# Another\n"})
    with world.open() as hub:
        assert hub.current(ModelRef("hf", OLD)).id == OLD
        assert hub.name_now(ModelRef("hf", OLD)).id == OLD


class TestSearch:
    def test_it_keeps_its_place_under_its_new_name_and_address(self, renamed):
        result = renamed.search(tags=("icons",))
        assert ids(result) == [NEW, "ada/sea"]
        hit = result.hits[0]
        assert hit.digest == renamed.spec.digest
        assert hit.url == f"{renamed.hub.endpoint}/{NEW}"
        assert str(hit.described_as) == f"hf:{OLD}"
        assert result.hits[1].described_as is None
        first = json.loads(json.dumps(result.to_json()))["results"][0]
        assert (first["url"], first["described_as"]) == (hit.url, f"hf:{OLD}")

    def test_people_are_told(self, renamed, capsys):
        result = renamed.search()
        write_comments(result, quiet=False, verbose=False)
        said = capsys.readouterr().err
        assert said.count("was called") == 1
        assert f"hf:{NEW} was called hf:{OLD} when it was described" in said
        document = search_document(result, SearchRequest(prompt="x"), "hf")
        assert [it.described_as for it in document.results] == [f"hf:{OLD}", None]
        page = search_page(result, [], settings=[], previews=lambda ref: None)
        cards = page.groups[0].cards
        assert cards[0].described_by == f"as hf:{OLD}, its name at the time"
        assert cards[0].url == f"{renamed.hub.endpoint}/{NEW}"
        assert cards[1].described_by == ""

    def test_its_weights_are_asked_for_once(self, renamed):
        counts = []
        for _ in range(3):
            renamed.hub.clear_requests()
            renamed.search()
            counts.append([it.path for it in renamed.hub.requests if "blobs" in it.path])
        # Whether its weights are those described is asked of every hit, once a commit.
        assert [sum(NEW in path for path in paths) for paths in counts] == [1, 0, 0]

    def test_offline_it_is_what_it_was_online(self, renamed):
        online = renamed.search()
        offline = renamed.search(offline=True)
        shown = [(hit.ref, hit.url, hit.described_as, hit.distance) for hit in online.hits]
        assert [(it.ref, it.url, it.described_as, it.distance) for it in offline.hits] == shown
        with renamed.open(offline=True) as hub:
            # By the old name as well, which is not on this disk.
            assert read_from(hub, ModelRef("hf", NEW)) == renamed.spec

    def test_a_copy_beside_other_weights_is_refused(self, world):
        world.hub.add_repo("eve/copy", world.hub.files(OLD) | {LORA: weights("other")})
        result = world.search()
        assert ids(result) == [OLD, "ada/sea"]
        (skipped,) = result.skipped
        assert skipped.model.id == "eve/copy"
        assert "whose weights are not those that it describes" in skipped.reason

    def test_an_old_name_may_be_another_model_s_now(self, renamed):
        renamed.add(OLD, BLUE)
        result = renamed.search()
        assert set(ids(result)) == {NEW, OLD, "ada/sea"}
        assert result.hits[0].ref.id == NEW
        (other,) = (hit for hit in result.hits if hit.ref.id == OLD)
        assert (other.described_as, other.digest == renamed.spec.digest) == (None, False)

    @pytest.mark.parametrize("digest", [None, "another"])
    def test_without_digests_the_name_decides(self, renamed, monkeypatch, digest):
        monkeypatch.setattr(HuggingFaceHub, "weight_digests", lambda hub, ref: {LORA: digest})
        result = renamed.search()
        assert ids(result) == ["ada/sea"]
        assert "describes hf:ada/rose, but was found at hf:ben/flower" in result.skipped[0].reason

    def test_one_of_several_files_stays_that_file_s(self, world):
        world.hub.commit(OLD, {"another.safetensors": weights("another")})
        world.hub.rename(OLD, NEW)
        with world.open() as hub:
            assert read_from(hub, ModelRef("hf", NEW, None, LORA)) == world.spec
            with pytest.raises(SpecFormatError, match=r"and not another\.safetensors"):
                read_from(hub, ModelRef("hf", NEW, None, "another.safetensors"))

    @pytest.mark.parametrize("name", [OLD, NEW])
    def test_it_is_not_its_own_neighbour(self, renamed, name):
        result = renamed.search(like=f"hf:{name}")
        assert ids(result) == ["ada/sea"]
        assert result.like.id == NEW


class TestIndex:
    def build(self, world):
        with world.open() as hub:
            return index_hubs(world.room / "index", [hub], cache_dir=world.room / "cache")

    def test_it_has_the_new_name_alone(self, world):
        self.build(world)
        world.hub.rename(OLD, NEW)
        done = self.build(world)
        assert (done.change.added, done.change.removed, done.skipped) == (1, 1, ())
        result = world.search(index=str(world.room / "index"))
        assert ids(result) == [NEW, "ada/sea"]
        hit = result.hits[0]
        assert (hit.url, str(hit.described_as)) == (f"{world.hub.endpoint}/{NEW}", f"hf:{OLD}")
        assert self.build(world).read == 0
        for name in (OLD, NEW):
            like = world.search(like=f"hf:{name}", index=str(world.room / "index"))
            assert ids(like) == ["ada/sea"], name

    def test_it_leaves_with_the_weights_that_proved_it(self, renamed):
        self.build(renamed)
        renamed.hub.commit(NEW, {LORA: weights("another")})
        done = self.build(renamed)
        assert [(it.model.id, "whose weights are not" in it.reason) for it in done.skipped] == [
            (NEW, True)
        ]
        assert (done.change.rows, done.change.removed) == (1, 1)
        renamed.hub.commit(NEW, {LORA: weights(OLD)})
        assert self.build(renamed).change.rows == 2

    def test_an_index_of_before_is_shown_by_what_is_known_now(self, world):
        self.build(world)
        world.hub.rename(OLD, NEW)
        before = world.search(index=str(world.room / "index"))
        assert ids(before) == [OLD, "ada/sea"]
        with world.open() as hub:
            hub.current(ModelRef("hf", OLD))
        after = world.search(index=str(world.room / "index"))
        assert ids(after) == [NEW, "ada/sea"]
        assert after.hits[0].url == f"{world.hub.endpoint}/{NEW}"


class TestCommands:
    @pytest.mark.parametrize("name", [OLD, NEW])
    def test_the_specification_is_shown_and_verified_by_both_names(self, renamed, name):
        shown = renamed.call("spec", "show", f"hf:{name}")
        assert shown.exit_code == 0, shown.output
        assert f"found at: hf:{NEW}" in shown.stdout
        assert f"model: hf:{OLD}" in shown.stdout
        document = json.loads(renamed.call("spec", "show", f"hf:{name}", "--json").stdout)
        assert document["found_at"] == f"hf:{NEW}"
        assert document["digest"] == renamed.spec.digest
        checked = renamed.call("spec", "verify", f"hf:{name}", "--no-weights")
        assert checked.exit_code == 0, checked.output
        offline = renamed.call("spec", "show", f"hf:{name}", "--offline")
        assert offline.exit_code == 0, offline.output

    def test_by_the_old_name_offline_where_it_was_read_by_the_new_one(self, renamed):
        renamed.call("spec", "show", f"hf:{NEW}")
        with HuggingFaceHub(token=False) as hub:
            hub.current(ModelRef("hf", OLD))
        offline = renamed.call("spec", "show", f"hf:{OLD}", "--offline")
        assert offline.exit_code == 0, offline.output
        assert f"found at: hf:{NEW}" in offline.stdout

    def test_two_of_it_are_identical(self, renamed):
        done = renamed.call("spec", "diff", f"hf:{OLD}", f"hf:{NEW}")
        assert (done.exit_code, done.stdout.split()[0]) == (0, "identical:")

    def test_described_anew_it_is_read_by_the_old_name(self, renamed):
        files = renamed.spec.manifest.model.weights
        anew = renamed.describe(NEW, files, BLUE, "ada/base")
        renamed.hub.commit(NEW, files_of(anew))
        with renamed.open() as hub:
            assert read_from(hub, ModelRef("hf", OLD)) == anew
            place = find_spec(f"hf:{OLD}", hub)
        assert (place.model.id, place.read()) == (NEW, anew)

    def test_its_signature_holds(self, world, tmp_path):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        secret, public = tmp_path / "key.pem", tmp_path / "key.pub"
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        write_spec(world.spec, tmp_path / "mine")
        sign_spec(tmp_path / "mine", PrivateKey.read(secret))
        content = (tmp_path / "mine/gmi/spec.sig").read_bytes()
        world.hub.commit(OLD, {"gmi/spec.sig": content})
        world.hub.add_repo("eve/copy", world.hub.files(OLD) | {LORA: weights("other")})
        world.hub.rename(OLD, NEW)
        for name in (NEW, OLD):
            done = world.call("spec", "verify", f"hf:{name}", "--no-weights", "--key", public)
            assert done.exit_code == 0, done.output
        # Whoever copies specification and signature beside other weights gets neither.
        with world.open() as hub:
            place = find_spec("hf:eve/copy", hub)
        with pytest.raises(SpecFormatError, match="whose weights are not those"):
            verify_signature(
                place.folder,
                PublicKey.read(public),
                expected=place.expected,
                own_weights=place.own_weights,
                follow_links=True,
            )


class TestFolder:
    """A hub in a folder: a model's folder that was given another name."""

    def test_it_keeps_its_specification(self, built, encoder):
        built.publish("ink", RED)
        built.publish("sea", BLUE)
        built.folder("ink").rename(built.folder("oil"))

        def found(**options):
            options = {"cache_dir": built.cache, "encoder": encoder} | options
            return search([picture(RED, 99)], built.hub, **options)

        first = found()
        assert [(hit.ref.id, str(hit.described_as)) for hit in first.hits] == [
            ("oil", "local:ink"),
            ("sea", "None"),
        ]
        index_hubs(built.root / "index", [built.hub], cache_dir=built.cache)
        assert ids(found(index=str(built.root / "index"))) == ["oil", "sea"]
        assert find_spec(str(first.hits[0].ref), built.hub).read().digest == first.hits[0].digest
        built.add_lora("oil", seed=7)
        index_hubs(built.root / "index", [built.hub], cache_dir=built.cache)
        assert ids(found(index=str(built.root / "index"))) == ids(found()) == ["sea"]

    def test_beside_other_weights_it_is_refused(self, built, encoder):
        built.publish("ink", RED)
        built.folder("ink").rename(built.folder("oil"))
        built.add_lora("oil", seed=7)
        result = search([picture(RED)], built.hub, cache_dir=built.cache, encoder=encoder)
        assert ids(result) == []
        assert "whose weights are not those" in result.skipped[0].reason
        (built.folder("oil") / LORA).unlink()
        result = search([picture(RED)], built.hub, cache_dir=built.cache, encoder=encoder)
        assert "which weights that model has is not known" in result.skipped[0].reason


class TestRegistry:
    """ada/rose has its specification in the registry alone."""

    @pytest.fixture
    def supplemented(self, world):
        spec = world.spec
        gone = dict.fromkeys(("gmi/spec.json", "gmi/spec.tensors"))
        world.hub.commit(OLD, gone | {"README.md": b"---\nlicense: mit\n---\n"})
        entry = entry_of(spec.manifest.model)
        files = {
            entry_file(entry, path.removeprefix("gmi/")): content
            for path, content in files_of(spec).items()
        }
        world.hub.add_repo("ada/specs", files, repo_type="dataset")
        return world, entry

    def open(self, world, **options):
        registry = Registry("ada/specs", token=False, cache_dir=world.room / "hf", **options)
        options = {"token": False, "cache_dir": world.room / "hf"} | options
        return SupplementedHub(registry, **options)

    def test_it_is_shown_and_read_under_the_new_name(self, supplemented):
        world, entry = supplemented
        assert ids(world.search(self.open(world))) == [OLD, "ada/sea"]
        world.hub.rename(OLD, NEW)
        result = world.search(self.open(world))
        assert ids(result) == [NEW, "ada/sea"]
        hit = result.hits[0]
        assert (hit.trust, hit.stale, hit.ref.revision) == ("self-published", False, entry.revision)
        assert (str(hit.described_as), hit.url) == (f"hf:{OLD}", f"{world.hub.endpoint}/{NEW}")
        with self.open(world) as hub:
            # As it was printed, as the registry has it, and by both plain names.
            for name in (str(hit.ref), str(entry), f"hf:{OLD}", f"hf:{NEW}"):
                assert find_spec(name, hub).read() == world.spec, name
            assert find_spec(f"hf:{NEW}", hub).model.id == NEW

    def test_one_beside_the_model_takes_its_place(self, supplemented):
        world, _ = supplemented
        world.hub.rename(OLD, NEW)
        world.search(self.open(world))
        world.hub.commit(
            NEW, {"README.md": b"---\ntags: [gmi-spec]\n---\n", **files_of(world.spec)}
        )
        result = world.search(self.open(world))
        assert [(hit.ref.id, hit.trust) for hit in result.hits] == [
            (NEW, "owner"),
            ("ada/sea", "owner"),
        ]

    def test_a_name_that_was_taken_makes_its_entry_stale(self, supplemented):
        world, _ = supplemented
        world.hub.rename(OLD, NEW)
        world.hub.add_repo(OLD, {LORA: weights("another")})
        (hit,) = (it for it in world.search(self.open(world)).hits if it.ref.id == OLD)
        assert (hit.stale, hit.described_as) == (True, None)
        with self.open(world) as hub:
            assert find_spec(f"hf:{NEW}", hub).read() == world.spec
            with pytest.raises(SpecNotFoundError, match="has no specification"):
                find_spec(f"hf:{OLD}@main", hub)


class TestOtherHosts:
    """What the hub says is for it alone to say, and the user's token is for it alone."""

    @pytest.fixture
    def other(self):
        with LoopbackHub() as hub:
            hub.add_repo(OLD, {"README.md": b"# Fake\n", LORA: b"fake", "gmi/spec.json": b"{}"})
            yield hub

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_nothing_is_asked_of_them(self, world, other, status):
        world.hub.redirect("ada/gone", f"{other.endpoint}/{OLD}", status=status)
        ref = ModelRef("hf", "ada/gone")
        with world.open(token="hf_adasecret") as hub:
            pinned = replace(ref, revision="0" * 40)
            for ask in (hub.fetch_spec, hub.fetch_card, hub.weight_digests, hub.fetch_model):
                for asked in (ref, pinned):
                    with pytest.raises(HubError, match="sends this program on to") as caught:
                        ask(asked)
                    assert f"HF_ENDPOINT={other.endpoint}" in caught.value.hint
                    assert "hf_adasecret" not in str(caught.value)
        assert other.requests == []

    def test_a_next_page_is_not_asked_of_them(self, world, other, monkeypatch):
        monkeypatch.setattr(world.hub.state, "page_size", 1)
        monkeypatch.setattr(world.hub.state, "endpoint", other.endpoint)  # in its Link headers
        with world.open(token="hf_adasecret") as hub, pytest.raises(HubError, match="sends this"):
            list(hub.list_specs(Filters()))
        assert other.requests == []

    @pytest.mark.parametrize("host", ["evil;reboot", "a b", "$(id)", "\u202eevil", "x" * 300])
    def test_a_host_that_is_none_is_not_repeated(self, world, host):
        world.hub.redirect("ada/gone", f"https://{host}/{OLD}")
        with world.open() as hub, pytest.raises(HubError) as caught:
            hub.weight_digests(ModelRef("hf", "ada/gone"))
        assert host not in caught.value.message + (caught.value.hint or "")

    def test_large_files_come_from_a_storage(self, world):
        world.hub.rename(OLD, NEW)
        with world.open(token="hf_adasecret") as hub:
            path = hub._downloads.fetch(OLD, LORA, "main", limit=10_000)
        assert path.read_bytes() == weights(OLD)
        stored = [it for it in world.hub.requests if it.host.startswith("localhost")]
        assert stored
        assert {it.token_user for it in stored} == {None}

    @pytest.mark.parametrize("chain", [("ada/a", "ada/b"), ("ada/a",)])
    def test_a_circle_ends(self, world, chain):
        for name, target in zip(chain, (*chain[1:], chain[0]), strict=True):
            world.hub.redirect(name, target)
        with world.open() as hub:
            for ask in (hub.fetch_spec, hub.weight_digests, hub.current):
                world.hub.clear_requests()
                with pytest.raises(HubError, match="again and again"):
                    ask(ModelRef("hf", "ada/a"))
                assert len(world.hub.requests) <= 25


class TestBases:
    """A LoRA's base by its former name, in another case, by its address, or kept elsewhere."""

    INDEX = b'{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet"]}'
    UNET = "unet/diffusion_pytorch_model.safetensors"

    @pytest.fixture
    def bases(self, hf_hub):
        def add(name, content=b"unet", **more):
            files = {"model_index.json": self.INDEX, self.UNET: content}
            hf_hub.add_repo(name, files | {"README.md": b"---\nlicense: mit\n---\n"}, **more)

        add("org/base")
        hf_hub.rename("org/base", "new-org/the-base")
        for new in ("stable-diffusion-v1-5/stable-diffusion-v1-5", "org/present"):
            add(new)
        return hf_hub, add

    @pytest.mark.parametrize(
        ("named", "used"),
        [
            ("org/base", "new-org/the-base"),
            ("hf:org/base", "new-org/the-base"),
            ("New-Org/The-Base", "new-org/the-base"),
            ("https://huggingface.co/org/present", "org/present"),
            ("huggingface.co/org/base/", "new-org/the-base"),
            ("https://hf.co/org/present/tree/main", "org/present"),
            (
                "runwayml/stable-diffusion-v1-5",
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
            ),
            (
                "https://huggingface.co/RunwayML/stable-diffusion-v1-5",
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
            ),
        ],
    )
    def test_it_is_found_and_named_as_it_is_called_now(self, bases, tmp_path, named, used):
        from gmi_registry.generation import describe
        from gmi_registry.generation.specification import _base_warnings

        hub, _ = bases
        card = f"---\nlicense: mit\nbase_model: {named}\n---\n".encode()
        hub.add_repo("ada/style", {"README.md": card, LORA: weights("style")})
        with HuggingFaceHub(token=False, cache_dir=tmp_path) as opened:
            model = opened.fetch_model(ModelRef("hf", "ada/style"))
            ref, digests = opened.base_weights(named)
        assert model.base.ref.id == ref.id == used
        assert digests == {self.UNET: hashlib.sha256(b"unet").hexdigest()}
        assert describe(model).base_model == used
        # Where a card says something else than what was used, somebody is told.
        told = list(_base_warnings(model))
        assert bool(told) == (named.rstrip("/").removesuffix("/tree/main")[-len(used) :] != used)
        page = named.removesuffix("/").removesuffix("/tree/main")
        assert all(used in line and "/".join(page.split("/")[-2:]) in line for line in told)

    @pytest.mark.parametrize("place", ["https://huggingface.co", "hf.co"])
    def test_an_address_of_one_revision_means_that_revision(self, bases, tmp_path, place):
        hub, add = bases
        add("org/tuned", b"first")
        first = hub.repo("org/tuned").refs["refs/heads/main"]
        hub.commit("org/tuned", {self.UNET: b"second"})
        card = f"---\nlicense: mit\nbase_model: {place}/org/tuned/tree/{first}\n---\n".encode()
        hub.add_repo("ada/style", {"README.md": card, LORA: weights("style")})
        with HuggingFaceHub(token=False, cache_dir=tmp_path) as opened:
            model = opened.fetch_model(ModelRef("hf", "ada/style"))
        assert [it.sha256 for it in model.base.weights] == [hashlib.sha256(b"first").hexdigest()]

    def test_what_is_there_is_not_replaced(self, bases, tmp_path):
        hub, add = bases
        add("runwayml/stable-diffusion-v1-5", b"the original")
        with HuggingFaceHub(token=False, cache_dir=tmp_path) as opened:
            ref, digests = opened.base_weights("runwayml/stable-diffusion-v1-5")
        assert ref.id == "runwayml/stable-diffusion-v1-5"
        assert digests == {self.UNET: hashlib.sha256(b"the original").hexdigest()}
        hub.repo("runwayml/stable-diffusion-v1-5").gated = "manual"
        card = b"---\nbase_model: runwayml/stable-diffusion-v1-5\n---\n"
        hub.add_repo("ada/style", {"README.md": card, LORA: weights("style")})
        with (
            HuggingFaceHub(token=False, cache_dir=tmp_path / "2") as opened,
            pytest.raises(AuthError, match="is gated"),
        ):
            # One that is there and may not be read is not one that is gone.
            opened.fetch_model(ModelRef("hf", "ada/style"))

    def test_a_circle_through_a_former_name(self, hf_hub, tmp_path):
        hf_hub.add_repo(
            "a/one", {"README.md": b"---\nbase_model: a/old\n---\n", LORA: weights("1")}
        )
        hf_hub.add_repo(
            "a/old", {"README.md": b"---\nbase_model: a/one\n---\n", LORA: weights("2")}
        )
        hf_hub.rename("a/old", "a/new")
        with (
            HuggingFaceHub(token=False, cache_dir=tmp_path) as opened,
            pytest.raises(HubError, match="circle"),
        ):
            opened.fetch_model(ModelRef("hf", "a/one"))

    @pytest.mark.parametrize(
        "text",
        [
            "https://evil.example/org/base",
            "https://huggingface.co.evil.example/org/base",
            "https://huggingface.co@evil.example/org/base",
            "https://huggingface.co/org/base/resolve/main/x.safetensors",
            "https://huggingface.co/org",
            "https://huggingface.co/org/base/blob/main",
            "hf:",
            "SD 1.5",
        ],
    )
    def test_no_base(self, text):
        with pytest.raises(InputError):
            base_reference(text, "http://127.0.0.1:1")

    def test_the_table_has_no_chains(self):
        assert all(name == name.casefold() for name in KEPT_ELSEWHERE)
        assert not KEPT_ELSEWHERE.keys() & {name.casefold() for name in KEPT_ELSEWHERE.values()}


class TestBaseFilter:
    @pytest.fixture
    def filled(self, world):
        """Of one base by three names, of one by two, and of one that is gone."""
        world.hub.add_repo("org/base", {"README.md": b"# A base\n"})
        for name, base in {
            "m/old": "org/base",
            "m/new": "New/Foundation",
            "m/case": "ORG/Base",
            "m/gone": "runwayml/stable-diffusion-v1-5",
            "m/kept": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "m/lost": "org/deleted",
            "m/page": "https://huggingface.co/org/base",
        }.items():
            world.add(name, RED, base=base)
        world.hub.rename("org/base", "New/Foundation")
        return world

    WANTED: ClassVar = {
        "org/base": {"m/old", "m/new", "m/case", "m/page"},
        "new/foundation": {"m/old", "m/new", "m/case", "m/page"},
        "RunwayML/stable-diffusion-v1-5": {"m/gone", "m/kept"},
        "stable-diffusion-v1-5/stable-diffusion-v1-5": {"m/gone", "m/kept"},
        "org/deleted": {"m/lost"},
        "org/nobody": set(),
        "base": set(),
    }

    def test_the_same_by_every_way(self, filled):
        with filled.open() as hub:
            index_hubs(filled.room / "index", [hub], cache_dir=filled.room / "cache")
        filled.search()  # so that all of it lies on this disk
        for base, wanted in self.WANTED.items():
            for options in ({}, {"index": str(filled.room / "index")}, {"offline": True}):
                found = filled.search(base_model=base, top=None, **options)
                assert set(ids(found)) == wanted, (base, options)

    def test_names_are_asked_for_once(self, filled):
        filled.search(base_model="new/foundation")
        filled.hub.clear_requests()
        filled.search(base_model="new/foundation")
        assert len(filled.hub.requests) == 1  # the listing

    def test_an_index_does_not_wait_for_a_hub_that_is_not_there(self, filled, monkeypatch, caplog):
        monkeypatch.setattr(client, "_CONNECTION_SECONDS", 0.0)
        with filled.open() as hub:
            index_hubs(filled.room / "index", [hub], cache_dir=filled.room / "cache")
        port = filled.hub.endpoint.rpartition(":")[2]
        nobody = HuggingFaceHub(f"http://127.0.0.1:{int(port) ^ 1}", cache_dir=filled.room / "x")
        found = filled.search(
            nobody,
            base_model="org/base",
            index=str(filled.room / "index"),
        )
        assert set(ids(found)) == {"m/old", "m/case", "m/page"}
        assert sum("are compared by their known names" in line for line in caplog.messages) == 1


class TestNames:
    def test_a_chain_is_followed_and_a_circle_ends(self, tmp_path):
        names = Names(tmp_path)
        for old, new in (("a/1", "a/2"), ("a/2", "a/3"), ("c/1", "c/2"), ("c/2", "c/1")):
            names.learn(old, new)
        assert Names(tmp_path).now("A/1") == "a/3"
        assert names.now("c/1") in ("c/1", "c/2")
        assert names.now("x/y") == "x/y"

    def test_a_name_that_was_taken_is_its_own_again(self, tmp_path):
        names = Names(tmp_path)
        names.learn("a/old", "a/new")
        names.learn("a/old", "a/old")
        assert Names(tmp_path).now("a/old") == "a/old"
        assert not names.knows("a/old")
        names.learn("a/old", "a/old", keep=True)
        assert Names(tmp_path).knows("A/old")

    def test_what_was_said_long_ago_is_asked_again(self, world, monkeypatch):
        world.hub.rename(OLD, NEW)
        ref = ModelRef("hf", OLD)
        with world.open() as hub:
            hub.current(ref)
        with world.open() as hub:
            assert hub.name_now(ref).id == NEW
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + 8 * 24 * 3600)
            assert hub.name_now(ref) == ref
        with world.open(offline=True) as hub:
            assert hub.name_now(ref).id == NEW
        world.add(OLD, BLUE)
        with world.open() as hub:
            list(hub.list_specs(Filters()))
        with world.open(offline=True) as hub:
            assert hub.name_now(ref) == ref

    @pytest.mark.parametrize(
        "content",
        [b"", b"[]", b"{", b'{"version":1,"names":[]}', b'{"version":2,"names":{"a/b":["c/d",1]}}']
        + [
            json.dumps({"version": 1, "names": {"a/b": new}}).encode()
            for new in ("c/d", ["c/d"], ["../d", 1], ["c/d", "1"], [None, 1], {"c/d": 1})
        ],
    )
    def test_what_cannot_be_read_counts_as_nothing(self, tmp_path, content):
        (tmp_path / "names.json").write_bytes(content)
        assert Names(tmp_path).now("a/b") == "a/b"
