"""What a maintainer's runner learns of a proposal, from a pull request or from two folders."""

from __future__ import annotations

import pytest

from tests.support.registry_author import (
    BLUE,
    GREEN,
    PREVIEW,
    REPO,
    civitai,
    described,
    entry_files,
    spec_of,
)

# isort: split
from gmi_registry.errors import HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.entries import entry_of, entry_path
from gmi_registry.hubs.registry.review import compare_folders, inspect, read_pull
from gmi_registry.spec import ModelRef, encode_spec
from tests.support.hostile_specs import hostile_cases, hostile_files
from tests.support.loopback import Fault

MODEL = described()
WEIGHTS = {"w0.safetensors": b"weights"}
OTHER = described(name="owner/other")


class Shop:
    """A hub that knows the weights of one version, as Civitai's does."""

    def __init__(self, ref, files):
        self.known = {ref: files}

    def weight_digests(self, ref):
        return self.known.get(ref)


def digests(model):
    return {weight.path: weight.sha256 for weight in model.weights}


@pytest.fixture
def registry(hub):
    """With one entry, of ben's; the model that others propose is on the hub."""
    hub.add_repo(MODEL.id, WEIGHTS)
    hub.add_repo(OTHER.id, WEIGHTS)
    propose(hub, "ben", entry_files(spec_of(OTHER)))
    merge(hub)
    return hub


def propose(hub, who, files, **more):
    """A pull request of somebody's; its revision."""
    token = f"hf_{who}"
    api = Registry(token=token).dataset.api
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    info = api.create_commit(
        REPO,
        [
            CommitOperationDelete(path) if data is None else CommitOperationAdd(path, data)
            for path, data in files.items()
        ],
        commit_message="Mine",
        repo_type="dataset",
        create_pr=True,
        **more,
    )
    return info.pr_revision


def merge(hub, number=1):
    keeper = Registry(token="hf_keeper").dataset.api
    keeper.merge_pull_request(REPO, number, repo_type="dataset")


@pytest.fixture
def check(registry, tmp_path):
    """The findings of a pull request, as check: status, and what was looked at."""

    def run(revision, **hubs):
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        known = {"hf": HuggingFaceHub(), **hubs}
        found = inspect(read_pull(Registry().dataset, revision, scratch), known)
        return found, {item.check: item for item in found.findings}

    return run


def failed(found):
    return [(item.check, item.detail) for item in found.findings if item.status == "failed"]


class TestPull:
    def test_a_sound_one_passes(self, registry, check):
        spec = spec_of(MODEL)
        revision = propose(registry, "ada", entry_files(spec, preview=PREVIEW))
        found, findings = check(revision)
        assert found.passed
        assert {name: item.status for name, item in findings.items()} == dict.fromkeys(
            ["paths", "sizes", "manifest", "tensors", "preview", "place", "owner", "weights"], "ok"
        )
        assert found.entry == entry_of(MODEL)
        assert found.spec == spec
        assert findings["owner"].detail == "a new entry"
        assert all("\n" not in item.detail for item in found.findings)

    def test_with_a_signature(self, registry, check):
        path = f"{entry_path(entry_of(MODEL))}/gmi/spec.sig"
        revision = propose(registry, "ada", entry_files(spec_of(MODEL)) | {path: b"{}"})
        assert check(revision)[0].passed
        revision = propose(registry, "ada", entry_files(spec_of(MODEL)) | {path: b" " * 65_537})
        assert [name for name, _ in failed(check(revision)[0])] == ["sizes"]

    def test_of_civitai(self, registry, check):
        model = civitai()
        revision = propose(registry, "ada", entry_files(spec_of(model)))
        shop = Shop(ModelRef("civitai", "123", "456"), digests(model))
        assert check(revision, civitai=shop)[0].passed
        found, _ = check(revision)
        assert failed(found) == [
            ("weights", "civitai:123@456: this program cannot ask civitai from here")
        ]
        gone = Shop(ModelRef("civitai", "1", "1"), {})
        assert "does not say which weights" in failed(check(revision, civitai=gone)[0])[0][1]

    def test_main_may_go_on_meanwhile(self, registry, check):
        revision = propose(registry, "ada", entry_files(spec_of(MODEL)))
        more = {"civitai/5/5/gmi/spec.json": b"x", "index/v1/a": b"b", "README.md": None}
        registry.commit(REPO, more, repo_type="dataset")
        assert check(revision)[0].passed

    @pytest.mark.parametrize("new", [True, False])
    def test_only_folders_that_differ_are_looked_into(self, registry, check, new):
        registry.state.page_size = 40
        crowd = {f"hf/owner/m{n}/{'a' * 64}/gmi/spec.json": b"{}" for n in range(100)}
        registry.commit(REPO, crowd | {"index/v1/rows": b"\0"}, repo_type="dataset")
        spec = spec_of(MODEL if new else OTHER, GREEN)
        revision = propose(registry, "ben", entry_files(spec))
        registry.clear_requests()
        found, _ = check(revision)
        assert found.passed
        trees = [request.path for request in registry.requests if "/tree/" in request.path]
        assert not [path for path in trees if "recursive=True" in path]
        # Both sides: the root, hf, the three pages of hf/owner; and what is below on one or both.
        assert len(trees) == 2 * (1 + 1 + 3) + 2 * 3
        assert not [path for path in trees if "/index" in path]

    def test_where_many_differ_all_is_listed(self, registry, check):
        files = {f"hf/owner/m{n}/{'a' * 64}/gmi/spec.json": b"{}" for n in range(30)}
        revision = propose(registry, "ben", files)
        registry.clear_requests()
        assert "30 entries are touched" in failed(check(revision)[0])[0][1]
        assert len([None for request in registry.requests if "/tree/" in request.path]) < 60

    def test_nothing_of_it_stays_in_the_cache(self, registry, check, tmp_path):
        check(propose(registry, "ada", entry_files(spec_of(MODEL))))
        assert not list((tmp_path / "hf-home").rglob("spec.json"))

    def test_an_unknown_revision(self, registry, check):
        with pytest.raises(SpecNotFoundError, match="has no revision refs/pr/77"):
            check("refs/pr/77")

    def test_one_that_is_not_built_on_main(self, registry, check):
        revision = propose(registry, "ada", entry_files(spec_of(MODEL)))
        repo = registry.repo(REPO, "dataset")
        commit = repo.find(revision)
        object.__setattr__(commit, "parents", ())
        with pytest.raises(SpecNotFoundError, match="is not built on main"):
            check(revision)

    def test_a_file_that_arrives_damaged(self, registry, check):
        revision = propose(registry, "ada", entry_files(spec_of(MODEL)))
        registry.inject(Fault("wrong-digest", path_regex=r"spec\.json", times=9))
        with pytest.raises(HubError, match="is not what"):
            check(revision)


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "verified.json",
            "README.md",
            ".gitattributes",
            "index/v1/rows",
            "notes.txt",
            "civitai/1/1/gmi/model.safetensors",
            "hf/owner/style/gmi/spec.json",
        ],
    )
    def test_no_other_path_is_touched(self, registry, check, path):
        files = entry_files(spec_of(MODEL)) | {path: b"mine"}
        found, findings = check(propose(registry, "ada", files))
        assert failed(found) == [("paths", f"{path} is not a file of an entry")]
        assert findings.keys() == {"paths"}
        assert "maintainers" in findings["paths"].hint

    def test_not_even_one_that_goes(self, registry, check):
        files = entry_files(spec_of(MODEL)) | {"README.md": None}
        assert failed(check(propose(registry, "ada", files))[0]) == [
            ("paths", "README.md is not a file of an entry")
        ]

    def test_one_entry_at_a_time(self, registry, check):
        files = entry_files(spec_of(MODEL)) | entry_files(spec_of(civitai()))
        assert failed(check(propose(registry, "ada", files))[0]) == [
            ("paths", f"2 entries are touched: civitai:123@456, {entry_of(MODEL)}")
        ]

    def test_an_entry_is_not_removed(self, registry, check):
        files = dict.fromkeys(entry_files(spec_of(OTHER)))
        details = [detail for _, detail in failed(check(propose(registry, "ben", files))[0])]
        assert details == [f"{path} would be removed" for path in sorted(files)]

    def test_many_wrong_paths_are_counted(self, registry, check):
        files = {f"junk/{number:02}": b"" for number in range(40)}
        details = [detail for _, detail in failed(check(propose(registry, "ada", files))[0])]
        assert len(details) == 6
        assert details[-1] == "and 35 more paths"

    def test_nothing_is_no_proposal(self, registry, check):
        revision = propose(registry, "ada", {"README.md": b"other"})
        registry.commit(
            REPO, {"README.md": b"# Specifications\n"}, repo_type="dataset", ref=revision
        )
        assert failed(check(revision)[0]) == [("paths", "nothing is changed")]

    def test_a_name_that_forges_lines_is_escaped(self, registry, check):
        found, _ = check(propose(registry, "ada", {"x\nweights ok": b""}))
        assert failed(found) == [("paths", "'x\\nweights ok' is not a file of an entry")]


class TestFiles:
    def test_what_is_too_large_is_not_downloaded(self, registry, check):
        files = entry_files(spec_of(MODEL))
        path = next(path for path in files if path.endswith("json"))
        revision = propose(registry, "ada", files | {path: b" " * (256 * 1024 + 1)})
        registry.clear_requests()
        found, _ = check(revision)
        assert failed(found) == [("sizes", f"{path} has 262,145 bytes, more than 262,144")]
        assert not [request for request in registry.requests if "/resolve/" in request.path]

    @pytest.mark.parametrize("case", hostile_cases()[::4])
    def test_hostile_files_are_findings(self, registry, check, case):
        folder = entry_path(entry_of(MODEL))
        hostile = hostile_files(case)
        files = {
            f"{folder}/{path}": data for path, data in hostile.items() if path.startswith("gmi/")
        }
        found, _ = check(propose(registry, "ada", files))
        assert not found.passed
        assert found.spec is None

    def test_tensors_of_another_specification(self, registry, check):
        files = entry_files(spec_of(MODEL))
        tensors = encode_spec(spec_of(MODEL, BLUE))[1]
        path = next(path for path in files if path.endswith("tensors"))
        _, findings = check(propose(registry, "ada", files | {path: tensors}))
        assert findings["tensors"].status == "failed"
        assert "place" not in findings

    def test_half_of_one(self, registry, check):
        files = dict(list(entry_files(spec_of(MODEL)).items())[:1])
        _, findings = check(propose(registry, "ada", files))
        assert findings["tensors"].status == "failed"
        assert findings["tensors"].detail == "gmi/spec.tensors is missing"

    def test_a_preview_that_is_no_picture(self, registry, check):
        revision = propose(registry, "ada", entry_files(spec_of(MODEL), preview=b"<script>"))
        assert failed(check(revision)[0]) == [("preview", "gmi/preview.webp is not a WebP picture")]


class TestPlace:
    def test_another_models_place(self, registry, check):
        wrong = entry_path(entry_of(described(name="owner/popular")))
        files = {
            path.replace(entry_path(entry_of(MODEL)), wrong): data
            for path, data in entry_files(spec_of(MODEL)).items()
        }
        found, _ = check(propose(registry, "ada", files))
        assert [name for name, _ in failed(found)] == ["manifest"]
        assert "describes hf:owner/style, but was found at" in failed(found)[0][1]

    def test_the_place_of_other_weights(self, registry, check):
        right, wrong = entry_of(MODEL), entry_of(described(weights=(b"better",)))
        files = {
            path.replace(entry_path(right), entry_path(wrong)): data
            for path, data in entry_files(spec_of(MODEL)).items()
        }
        assert failed(check(propose(registry, "ada", files))[0]) == [
            ("place", f"what spec.json describes belongs into {entry_path(right)}")
        ]

    def test_the_place_of_another_version(self, registry, check):
        files = {
            path.replace("123/456", "123/7"): data
            for path, data in entry_files(spec_of(civitai())).items()
        }
        shop = Shop(ModelRef("civitai", "123", "7"), digests(civitai()))
        assert failed(check(propose(registry, "ada", files), civitai=shop)[0]) == [
            ("place", "what spec.json describes belongs into civitai/123/456")
        ]


class TestOwner:
    def replaced(self, registry, who):
        return propose(registry, who, entry_files(spec_of(OTHER, GREEN)))

    def test_ones_own_entry_may_be_replaced(self, registry, check):
        found, findings = check(self.replaced(registry, "ben"))
        assert found.passed
        assert findings["owner"].detail == "ben replaces an entry of their own"

    def test_somebody_elses_may_not(self, registry, check):
        found, findings = check(self.replaced(registry, "ada"))
        assert failed(found) == [("owner", "replaces an entry of ben")]
        assert "merges by hand" in findings["owner"].hint

    def test_whoever_merged_it_is_not_its_owner(self, registry, check):
        assert failed(check(self.replaced(registry, "keeper"))[0]) == [
            ("owner", "replaces an entry of ben")
        ]

    def test_a_direct_commit_is_its_authors(self, registry, check):
        registry.commit(
            REPO, entry_files(spec_of(OTHER, BLUE)), "Mine (#1)", repo_type="dataset", author="ada"
        )
        assert check(self.replaced(registry, "ada"))[0].passed
        assert failed(check(self.replaced(registry, "ben"))[0]) == [
            ("owner", "replaces an entry of ada")
        ]

    def test_an_entry_that_came_since_counts(self, registry, check):
        mine = propose(registry, "ada", entry_files(spec_of(MODEL)))
        propose(registry, "ben", entry_files(spec_of(MODEL, BLUE)))
        merge(registry, 3)
        assert failed(check(mine)[0]) == [("owner", "replaces an entry of ben")]

    def test_a_number_in_a_title_proves_nothing(self, registry, check):
        # A commit of cleo's that claims to be the merge of ada's pull request.
        propose(registry, "ada", entry_files(spec_of(MODEL)))
        registry.commit(
            REPO, entry_files(spec_of(OTHER, BLUE)), "x (#2)", repo_type="dataset", author="cleo"
        )
        assert failed(check(self.replaced(registry, "ada"))[0]) == [
            ("owner", "replaces an entry of cleo")
        ]

    def test_a_preview_alone_is_theirs_too(self, registry, check):
        path = f"{entry_path(entry_of(OTHER))}/gmi/preview.webp"
        assert check(propose(registry, "ben", {path: PREVIEW}))[0].passed
        assert failed(check(propose(registry, "ada", {path: PREVIEW}))[0]) == [
            ("owner", "replaces an entry of ben")
        ]


class TestWeights:
    def test_others_than_the_model_has(self, registry, check):
        revision = propose(registry, "ada", entry_files(spec_of(MODEL)))
        registry.commit(MODEL.id, {"w0.safetensors": b"other"})
        assert failed(check(revision)[0]) == [
            (
                "weights",
                "hf:owner/style: w0.safetensors is another file than the one that was described",
            )
        ]
        registry.commit(MODEL.id, {"w0.safetensors": None, "w1.safetensors": b"weights"})
        assert failed(check(revision)[0]) == [("weights", "hf:owner/style has no w0.safetensors")]

    def test_a_pull_request_to_the_model_does_not_make_them_its_weights(self, registry, check):
        registry.commit(MODEL.id, {"w0.safetensors": b"foreign"}, ref="refs/pr/1")
        commit = registry.repo(MODEL.id).refs["refs/pr/1"]
        model = described(revision=commit, weights=(b"foreign",))
        assert (
            "is another file"
            in failed(check(propose(registry, "ada", entry_files(spec_of(model))))[0])[0][1]
        )

    def test_a_model_that_is_not_there(self, registry, check):
        model = described(name="owner/none")
        found, _ = check(propose(registry, "ada", entry_files(spec_of(model))))
        assert [name for name, _ in failed(found)] == ["weights"]
        assert "owner/none" in failed(found)[0][1]


HUBS = {"hf": Shop(ModelRef("hf", MODEL.id), digests(MODEL))}


class TestFolders:
    @pytest.fixture
    def both(self, tmp_path):
        """A checkout of the registry, and the same with a proposal in it."""

        def make(proposed, base=None):
            folders = []
            for name, files in (("base", base or {}), ("new", (base or {}) | proposed)):
                root = tmp_path / name
                for path, data in ({"README.md": b"#", ".git/x": name.encode()} | files).items():
                    if data is not None:
                        place = root / path
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(data)
                folders.append(root)
            return folders

        return make

    def test_a_sound_one_passes(self, both):
        base, new = both(entry_files(spec_of(MODEL), preview=PREVIEW))
        found = inspect(compare_folders(base, new), HUBS)
        assert found.passed
        assert found.spec == spec_of(MODEL)

    def test_an_entry_that_is_there_is_a_maintainers(self, both):
        base, new = both(entry_files(spec_of(MODEL)), entry_files(spec_of(MODEL, BLUE)))
        assert failed(inspect(compare_folders(base, new), HUBS)) == [
            ("owner", "replaces an entry of somebody unknown")
        ]

    def test_links_are_refused(self, both, tmp_path):
        base, new = both(entry_files(spec_of(MODEL)))
        manifest = new / entry_path(entry_of(MODEL)) / "gmi" / "spec.json"
        manifest.rename(tmp_path / "elsewhere")
        manifest.symlink_to(tmp_path / "elsewhere")
        assert failed(inspect(compare_folders(base, new), HUBS)) == [
            ("manifest", "gmi/spec.json is a symbolic link")
        ]
        (new / "civitai").symlink_to(tmp_path)
        assert ("paths", "civitai is not a file of an entry") in failed(
            inspect(compare_folders(base, new), HUBS)
        )

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(InputError, match="is not a folder"):
            compare_folders(tmp_path, tmp_path / "none")

    def test_two_equal_ones(self, both):
        base, _ = both({})
        assert failed(inspect(compare_folders(base, base), {})) == [("paths", "nothing is changed")]
