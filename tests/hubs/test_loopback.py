"""The loopback hub against the real client: every address that it serves, every fault it has."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
    list_models,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.loopback import Fault, LoopbackHub, Quota, User, fixtures

ADA = User("ada-example", "hf_ada", orgs=("colours",))
BEN = User("ben-example", "hf_ben")
EVE = User("eve-example", "hf_eve", role="read", orgs=("colours",))
CARD = b"---\ntags: [anime, gmi-spec]\nbase_model: colours/base\nlicense: mit\n---\n# A model\n"
TENSORS = b"\0\1\2\xff" * 5000
FILES = {"README.md": CARD, "unet/weights.safetensors": TENSORS, "gmi/spec.json": b'{"a": 1}\n'}


@pytest.fixture
def hub(hf_hub):
    for user in (ADA, BEN, EVE):
        hf_hub.add_user(user)
    hf_hub.add_repo("colours/red", FILES, downloads=7)
    return hf_hub


@pytest.fixture
def ada(hub):
    return HfApi(token=ADA.token)


@pytest.fixture
def ben(hub):
    return HfApi(token=BEN.token)


@pytest.fixture
def waits(monkeypatch):
    """What the client would have slept, in seconds; nobody waits for it."""
    slept = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", slept.append)
    return slept


def status_of(error):
    return error.value.response.status_code


def wrote(api, files, repo="colours/red", **options):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(repo, operations, commit_message="A change", **options)


def seen(hub, method):
    return [request for request in hub.requests if request.method == method]


# Accounts and repositories


def test_who_is_asking(hub, ada):
    found = ada.whoami()
    assert (found["name"], [org["name"] for org in found["orgs"]]) == (ADA.name, ["colours"])
    assert HfApi(token=EVE.token).whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(token="hf_wrong").whoami()
    assert status_of(error) == 401
    assert [request.token_user for request in hub.requests] == [ADA.name, EVE.name, None]


def test_repositories_come_and_go(hub, ada, ben):
    assert ada.create_repo("ada-example/new").repo_id == "ada-example/new"
    assert list(hub.files("ada-example/new")) == [".gitattributes"]
    assert ada.repo_exists("ada-example/new")
    with pytest.raises(HfHubHTTPError) as error:
        ada.create_repo("ada-example/new")
    assert status_of(error) == 409
    assert ada.create_repo("ada-example/new", exist_ok=True).repo_id == "ada-example/new"
    for api in (ben, HfApi(token=EVE.token)):
        with pytest.raises(HfHubHTTPError) as error:
            api.create_repo("colours/another")
        assert status_of(error) == 403
    ada.delete_repo("ada-example/new")
    assert not ada.repo_exists("ada-example/new")


def test_a_data_set_is_no_model(hub, ada):
    ada.create_repo("colours/index", repo_type="dataset")
    wrote(ada, {"specs.bin": TENSORS}, "colours/index", repo_type="dataset")
    path = hf_hub_download("colours/index", "specs.bin", repo_type="dataset")
    assert Path(path).read_bytes() == TENSORS
    assert not ada.repo_exists("colours/index")
    assert [info.id for info in ada.list_datasets()] == ["colours/index"]


def test_access(hub, ada, ben):
    hub.repo("colours/red").gated = "auto"
    assert ada.model_info("colours/red").gated == "auto"
    ada.auth_check("colours/red", write=True)
    with pytest.raises(GatedRepoError):
        ben.auth_check("colours/red")
    with pytest.raises(HfHubHTTPError) as error:
        ben.auth_check("colours/red", write=True)
    assert status_of(error) == 403


def test_webhooks_are_kept(hub, ada):
    watched = [{"type": "model", "name": "colours/red"}]
    made = ada.create_webhook(
        url="http://127.0.0.1:1/", watched=watched, domains=["repo"], secret="s"
    )
    assert (made.url, made.secret, made.domains) == ("http://127.0.0.1:1/", "s", ["repo"])
    assert [hook.id for hook in ada.list_webhooks()] == [made.id]


# Uploads


@pytest.mark.parametrize("chunk", [None, 4096])
def test_a_commit_holds_all_its_files(tmp_path, monkeypatch, chunk):
    with LoopbackHub(multipart_chunk=chunk) as hub:
        fixtures.turn_client(monkeypatch, hub.endpoint, tmp_path)
        hub.add_user(ADA)
        api = HfApi(token=ADA.token)
        api.create_repo("ada-example/new")
        made = wrote(api, FILES, "ada-example/new")
        assert hub.history("ada-example/new")[0].oid == made.oid
        written = hub.files("ada-example/new")
        assert {path: written[path] for path in FILES} == FILES
        puts = seen(hub, "PUT")
        assert len(puts) == (1 if chunk is None else 5)
        assert all(request.host.startswith("localhost:") for request in puts)
        # Known bytes are not sent again, under whatever name.
        hub.clear_requests()
        wrote(api, {"copy.safetensors": TENSORS}, "ada-example/new")
        assert not seen(hub, "PUT")
        assert hub.files("ada-example/new")["copy.safetensors"] == TENSORS
        assert not hub.failures


def test_what_is_there_already_is_no_commit(hub, ada):
    before = hub.history("colours/red")
    assert wrote(ada, FILES).oid == before[0].oid
    assert hub.history("colours/red") == before


def test_bytes_with_another_digest_are_not_stored(hub):
    address = f"{hub.state.storage}/upload/model/colours/red/{'0' * 64}"
    request = urllib.request.Request(address, b"other", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)


def test_a_stale_parent_is_refused(hub, ada):
    parent = ada.model_info("colours/red").sha
    newer = hub.commit("colours/red", {"notes.txt": b"x"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        wrote(ada, {"gmi/spec.json": b"{}"}, parent_commit=parent)
    assert status_of(error) == 412
    assert hub.files("colours/red")["gmi/spec.json"] == FILES["gmi/spec.json"]
    made = wrote(ada, {"gmi/spec.json": b"{}"}, parent_commit=newer)
    assert [commit.oid for commit in hub.history("colours/red")][:2] == [made.oid, newer]


def test_files_and_folders_are_deleted(hub, ada):
    gone = [CommitOperationDelete("gmi/"), CommitOperationDelete("unet/weights.safetensors")]
    ada.create_commit("colours/red", gone, commit_message="Away")
    assert list(hub.files("colours/red")) == ["README.md"]
    with pytest.raises(EntryNotFoundError):
        ada.create_commit("colours/red", gone, commit_message="Away")


def test_only_owners_write(hub, ben):
    for api, text in ((ben, "create_pr"), (HfApi(token=EVE.token), "write token")):
        with pytest.raises(HfHubHTTPError, match=text) as error:
            wrote(api, {"gmi/spec.json": b"{}"})
        assert status_of(error) == 403
    with pytest.raises(HfHubHTTPError) as error:
        wrote(HfApi(token=False), {"gmi/spec.json": b"{}"})
    assert status_of(error) == 401


def test_a_broken_card_is_refused_with_its_line(hub, ada):
    with pytest.raises(ValueError, match=r"\(3:"):
        wrote(ada, {"README.md": b"---\nlicense: mit\ntags: ]\n---\n"})
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        wrote(ada, {"README.md": b"# No front matter\n"})


# Pull requests


def test_a_stranger_proposes_and_the_owner_merges(hub, ada, ben):
    head = ada.model_info("colours/red").sha
    made = wrote(ben, {"gmi/spec.json": b"{}", "new.bin": TENSORS[4:]}, create_pr=True)
    assert (made.pr_num, made.pr_revision) == (1, "refs/pr/1")
    assert ada.model_info("colours/red").sha == head
    path = hf_hub_download("colours/red", "new.bin", revision="refs/pr/1")
    assert Path(path).read_bytes() == TENSORS[4:]
    wrote(ben, {"gmi/spec.json": b"[]"}, revision="refs/pr/1")
    pull = ada.get_discussion_details("colours/red", 1)
    assert (pull.status, pull.author, pull.is_pull_request) == ("open", BEN.name, True)
    assert (pull.target_branch, pull.conflicting_files) == ("refs/heads/main", [])
    assert [event.type for event in pull.events] == ["comment", "commit", "commit"]
    refs = ada.list_repo_refs("colours/red", include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests] == ["refs/pr/1"]
    with pytest.raises(HfHubHTTPError):
        ben.merge_pull_request("colours/red", 1)
    hub.commit("colours/red", {"notes.txt": b"meanwhile"})
    ada.merge_pull_request("colours/red", 1)
    files = hub.files("colours/red")
    assert (files["gmi/spec.json"], files["new.bin"]) == (b"[]", TENSORS[4:])
    assert files["notes.txt"] == b"meanwhile"
    merged = ada.get_discussion_details("colours/red", 1)
    assert merged.status == "merged"
    assert merged.merge_commit_oid == hub.history("colours/red")[0].oid


def test_a_pull_request_starts_from_the_parent_that_it_names(hub, ada, ben):
    parent = ben.model_info("colours/red").sha
    hub.commit("colours/red", {"gmi/spec.json": b"theirs"})
    wrote(ben, {"gmi/spec.json": b"ours"}, create_pr=True, parent_commit=parent)
    assert hub.history("colours/red", "refs/pr/1")[1].oid == parent
    assert ada.get_discussion_details("colours/red", 1).conflicting_files == ["gmi/spec.json"]
    with pytest.raises(HfHubHTTPError) as error:
        ada.merge_pull_request("colours/red", 1)
    assert status_of(error) == 409


# Reading


def test_what_the_hub_says_of_a_model(hub, ada):
    info = ada.model_info("colours/red", files_metadata=True)
    assert info.sha == hub.history("colours/red")[0].oid
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert set(files) == set(FILES)
    assert files["unet/weights.safetensors"].lfs.size == len(TENSORS)
    assert files["unet/weights.safetensors"].lfs.sha256 == hashlib.sha256(TENSORS).hexdigest()
    assert files["README.md"].lfs is None
    for tag in ("anime", "gmi-spec", "license:mit", "base_model:colours/base"):
        assert tag in info.tags
    assert (info.downloads, info.card_data.license) == (7, "mit")
    short = ada.model_info("colours/red", expand=["sha", "gated"])
    assert (short.sha, short.gated, short.siblings) == (info.sha, False, None)


def test_trees_and_paths(hub, ada):
    found = {item.path for item in ada.list_repo_tree("colours/red", recursive=True)}
    assert found == {*FILES, "gmi", "unet"}
    top = [item.path for item in ada.list_repo_tree("colours/red")]
    assert top == ["README.md", "gmi", "unet"]
    newer = hub.commit("colours/red", {"gmi/spec.json": b"{}"})
    expanded = list(ada.list_repo_tree("colours/red", recursive=True, expand=True))
    changed = [item.path for item in expanded if item.last_commit.oid == newer]
    assert "gmi/spec.json" in changed
    assert "README.md" not in changed
    infos = ada.get_paths_info("colours/red", ["unet/weights.safetensors", "gmi", "none"])
    assert [item.path for item in infos] == ["unet/weights.safetensors", "gmi"]
    assert infos[0].lfs.size == len(TENSORS)
    with pytest.raises(EntryNotFoundError):
        list(ada.list_repo_tree("colours/red", "none"))


def test_branches_tags_and_history(hub, ada):
    first = ada.model_info("colours/red").sha
    ada.create_tag("colours/red", tag="v1")
    ada.create_branch("colours/red", branch="trial/one")
    made = wrote(ada, {"gmi/spec.json": b"{}"}, revision="trial/one")
    assert [item.commit_id for item in ada.list_repo_commits("colours/red")] == [first]
    commits = ada.list_repo_commits("colours/red", revision="trial/one")
    assert [(item.commit_id, item.authors) for item in commits] == [
        (made.oid, [ADA.name]),
        (first, ["colours"]),
    ]
    refs = ada.list_repo_refs("colours/red")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {
        "main": first,
        "trial/one": made.oid,
    }
    assert [ref.name for ref in refs.tags] == ["v1"]
    with pytest.raises(HfHubHTTPError) as error:
        ada.create_tag("colours/red", tag="v1")
    assert status_of(error) == 409


@pytest.fixture
def many(tmp_path, monkeypatch):
    with LoopbackHub(page_size=100) as hub:
        fixtures.turn_client(monkeypatch, hub.endpoint, tmp_path)
        hub.add_user(ADA)
        for number in range(250):
            tags = ["gmi-spec", "anime" if number % 2 else "photo"]
            card = f"---\n{yaml.safe_dump({'tags': tags})}---\n".encode()
            hub.add_repo(f"colours/m{number:03}", {"README.md": card}, downloads=number)
        hub.add_repo("colours/hidden", {"README.md": CARD}, private=True)
        hub.add_repo("ada-example/gate", {"README.md": CARD}, gated="manual", downloads=1000)
        yield hub


def test_listing_filters_and_pages(many):
    fields = ["sha", "siblings", "tags", "lastModified", "gated", "downloads"]
    found = list(list_models(filter=["gmi-spec", "anime"], expand=fields))
    assert len({info.id for info in found}) == len(found) == 126
    assert len(many.requests) == 2
    assert all({"gmi-spec", "anime"} <= set(info.tags) for info in found)
    assert all(info.sha and info.siblings and info.last_modified for info in found)
    assert len(list(list_models(filter="gmi-spec"))) == 251
    assert list(list_models(filter="no-such-tag")) == []
    with pytest.raises(HfHubHTTPError) as error:
        list(list_models(expand=["nonsense"]))
    assert status_of(error) == 400


# Files


def test_files_come_whole_and_once(hub):
    sha = hub.history("colours/red")[0].oid
    for path, content in FILES.items():
        got = hf_hub_download("colours/red", path, revision=sha)
        assert Path(got).read_bytes() == content
    assert [request.method for request in hub.requests] == ["HEAD", "GET"] * 3
    large = [request for request in hub.requests if request.host.startswith("localhost:")]
    assert [request.path.startswith("/storage/colours/red/") for request in large] == [True]
    hub.clear_requests()
    for path in FILES:
        hf_hub_download("colours/red", path, revision=sha)
    assert hub.requests == []


def test_part_of_a_file(hub):
    address = f"{hub.endpoint}/colours/red/resolve/main/README.md"
    for wanted, part in (
        ("bytes=4-7", CARD[4:8]),
        ("bytes=10-", CARD[10:]),
        ("bytes=-3", CARD[-3:]),
    ):
        request = urllib.request.Request(address, headers={"Range": wanted})
        with urllib.request.urlopen(request) as answer:
            assert (answer.status, answer.read()) == (206, part)


def test_what_is_not_there(hub, ada):
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("colours/red", "none.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("colours/red", "README.md", revision="none")
    for token in (False, ADA.token):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("colours/none", "README.md", token=token)
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).model_info("colours/none")
    assert not ada.file_exists("colours/red", "none.json")
    assert ada.file_exists("colours/red", "README.md")


def test_private_and_gated(hub):
    hub.add_repo("colours/hidden", FILES, private=True)
    hub.add_repo("colours/gate", FILES, gated=True)
    for token in (False, BEN.token):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("colours/hidden", "README.md", token=token)
        with pytest.raises(GatedRepoError) as error:
            hf_hub_download("colours/gate", "README.md", token=token)
        assert status_of(error) == (403 if token else 401)
        assert HfApi(token=token).model_info("colours/gate").gated == "auto"
    assert hf_hub_download("colours/hidden", "README.md", token=EVE.token)
    hub.grant("colours/gate", BEN.name)
    assert hf_hub_download("colours/gate", "README.md", token=BEN.token)


def test_another_process_needs_the_environment_only(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ADA.token)
    program = "from huggingface_hub import whoami; print(whoami()['name'])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{ADA.name}\n"


def test_equal_calls_make_equal_commits():
    shas = []
    for _ in range(2):
        hub = LoopbackHub()
        shas.append([hub.add_repo("a/b", FILES), hub.commit("a/b", {"x": b"y", "README.md": None})])
    assert shas[0] == shas[1]
    assert shas[0][0] != shas[0][1]


# Too many requests


def test_a_quota_is_counted_and_told(tmp_path, monkeypatch, waits):
    with LoopbackHub(quota=Quota(api=2, window=3600)) as hub:
        fixtures.turn_client(monkeypatch, hub.endpoint, tmp_path)
        hub.add_repo("colours/red", FILES)
        list(list_models())
        list(list_models())
        with pytest.raises(HfHubHTTPError, match="reached your 'api' rate limit") as error:
            HfApi().model_info("colours/red")
        assert error.value.response.headers["RateLimit-Policy"] == '"fixed window";"api";q=2;w=3600'
        with pytest.raises(HfHubHTTPError):
            list(list_models())
        assert len(waits) == 5
        assert all(3000 < seconds <= 3601 for seconds in waits)
        assert hf_hub_download("colours/red", "README.md")


# Faults


@pytest.mark.parametrize("path", ["unet/weights.safetensors", "README.md"])
@pytest.mark.parametrize(("chunk", "status"), [(10 * 1024 * 1024, 200), (16, 206)])
def test_a_cut_download_is_tried_again(hub, waits, monkeypatch, path, chunk, status):
    # The client goes on where it ended, but forgets what came of a chunk that was not whole.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", chunk)
    hub.inject(Fault("cut", method="GET", path_regex=path))
    got = hf_hub_download("colours/red", path)
    assert Path(got).read_bytes() == FILES[path]
    assert [request.status for request in seen(hub, "GET")] == [200, status]
    assert waits == [1]


def test_a_slow_body(hub):
    hub.inject(Fault("slow", method="GET", path_regex="weights", seconds=0.5))
    start = time.monotonic()
    got = hf_hub_download("colours/red", "unet/weights.safetensors")
    assert time.monotonic() - start >= 0.5
    assert Path(got).read_bytes() == TENSORS


def test_a_file_changes_between_head_and_get(hub):
    sha = hub.history("colours/red")[0].oid
    hub.inject(Fault("changed-file", method="GET", path_regex="spec.json", content=b'{"b": 1}\n'))
    got = hf_hub_download("colours/red", "gmi/spec.json", revision=sha)
    assert Path(got).read_bytes() == FILES["gmi/spec.json"]
    assert hub.files("colours/red")["gmi/spec.json"] == b'{"b": 1}\n'
    hub.inject(Fault("changed-file", method="GET", path_regex="weights", content=b"new"))
    got = hf_hub_download("colours/red", "unet/weights.safetensors")
    assert Path(got).read_bytes() == TENSORS
    assert hub.files("colours/red")["unet/weights.safetensors"] == b"new"


@pytest.mark.parametrize("path", ["unet/weights.safetensors", "gmi/spec.json"])
def test_bytes_that_are_not_what_their_digest_says(hub, path):
    hub.inject(Fault("wrong-digest", path_regex=path))
    got = Path(hf_hub_download("colours/red", path)).read_bytes()
    assert len(got) == len(FILES[path])
    assert sum(a != b for a, b in zip(got, FILES[path], strict=True)) == 1


@pytest.mark.parametrize("path", ["unet/weights.safetensors", "gmi/spec.json"])
def test_hostile_content(hub, tmp_path, path):
    hub.inject(Fault("hostile-content", path_regex=path, content=b"[" * 50_000))
    got = hf_hub_download("colours/red", path)
    assert Path(got).read_bytes() == b"[" * 50_000
    # In the cache it stays, force_download or not: a commit's files are taken to be for ever.
    again = hf_hub_download("colours/red", path, cache_dir=tmp_path / "another")
    assert Path(again).read_bytes() == FILES[path]


def test_a_request_that_breaks_the_server_is_told_to_the_test(tmp_path):
    with LoopbackHub() as hub:
        hub.add_repo("a/b", FILES)
        hub.add_user(ADA)
        request = urllib.request.Request(
            f"{hub.endpoint}/api/models/a/b/preupload/main?create_pr=1",
            json.dumps({"files": [{}]}).encode(),
            {"Authorization": f"Bearer {ADA.token}"},
        )
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(request)
        assert "KeyError" in hub.failures[0]


# Xet


def test_a_round_trip_through_xet(tmp_path, monkeypatch):
    store = tmp_path / "store"
    store.mkdir()
    with LoopbackHub(xet_dir=store) as hub:
        fixtures.turn_client(monkeypatch, hub.endpoint, tmp_path / "home", xet=True)
        hub.add_user(ADA)
        hub.add_user(BEN)
        api = HfApi(token=ADA.token)
        api.create_repo("ada-example/new")
        wrote(api, FILES, "ada-example/new")
        assert not seen(hub, "PUT")
        info = api.model_info("ada-example/new", files_metadata=True)
        assert {file.rfilename: file.lfs.size for file in info.siblings if file.lfs} == {
            "unet/weights.safetensors": len(TENSORS)
        }
        hub.clear_requests()
        got = hf_hub_download("ada-example/new", "unet/weights.safetensors")
        assert Path(got).read_bytes() == TENSORS
        assert not [request for request in hub.requests if request.path.startswith("/storage/")]
        assert any("/xet-read-token/" in request.path for request in hub.requests)
        wrote(HfApi(token=BEN.token), {"b.bin": TENSORS[1:]}, "ada-example/new", create_pr=True)
        # The server has the bytes as well, for those who come without Xet.
        assert hub.files("ada-example/new", "refs/pr/1")["b.bin"] == TENSORS[1:]
        fixtures.turn_client(monkeypatch, hub.endpoint, tmp_path / "other", xet=False)
        got = hf_hub_download("ada-example/new", "unet/weights.safetensors")
        assert Path(got).read_bytes() == TENSORS
        assert not hub.failures


def test_without_a_store_there_are_no_xet_tokens(hub, ada, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    before = hub.history("colours/red")
    with pytest.raises(Exception, match="404"):
        wrote(ada, {"new.bin": TENSORS})
    assert hub.history("colours/red") == before
