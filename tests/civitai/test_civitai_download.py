"""Weights: resumed, checked, replaced, refused; the client against a loopback Civitai."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import sys
import threading

import numpy as np
import pytest
from safetensors.numpy import save

from gmi_registry.errors import AuthError, HubError, InputError, OfflineError
from gmi_registry.hubs.civitai import CivitaiClient
from gmi_registry.hubs.civitai.documents import digests_of, select_file
from gmi_registry.hubs.civitai.download import Downloads
from gmi_registry.hubs.files import FileDigests
from gmi_registry.spec import ModelRef
from tests.support.civitai_loopback import Fault, File, Model, Version
from tests.support.civitai_specs import vae_bytes

REF = ModelRef("civitai", "5", "55")
SIZE = 3_000_000


def content_of(seed=0, name="lora_unet_x.lora_up.weight"):
    rng = np.random.default_rng(seed)
    return save({name: rng.integers(0, 255, SIZE, dtype=np.uint8)})


OLD, NEW = content_of(0), content_of(1)


@pytest.fixture
def filled(civitai):
    civitai.add(
        Model(5, versions=[Version(55, files=[File(555, OLD, name="../../etc/a.safetensors")])])
    )
    return civitai


@pytest.fixture
def downloads(client, tmp_path):
    folder = tmp_path / "civitai"
    return Downloads(client, folder, FileDigests(folder / "digests"))


@pytest.fixture
def fetch(client, downloads):
    """Ask what the version has now, and bring it here."""

    def fetched(kind="lora"):
        version = client.version("55", of=REF)
        return downloads.fetch(REF, select_file(version, client.asked(REF)), kind)

    return fetched


def storage(civitai):
    return [request for request in civitai.requests if request.path.startswith("/storage")]


def parts(downloads):
    return sorted(path.name for path in downloads.folder.rglob("*.part"))


def test_a_file_lies_under_its_number_whatever_it_is_called(filled, fetch, downloads):
    seen = []
    downloads.on_progress = lambda done, total: seen.append((done, total))
    place, weights = fetch()
    assert place == downloads.folder / "models" / "5" / "55" / "555.safetensors"
    assert place.read_bytes() == OLD
    assert weights.sha256 == hashlib.sha256(OLD).hexdigest()
    assert (weights.path, weights.size) == ("555.safetensors", len(OLD))
    assert seen[-1] == (len(OLD), len(OLD))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert parts(downloads) == []
    assert not any("etc" in path.parts for path in downloads.folder.rglob("*"))


def test_where_nobody_watches_a_bar_is_drawn(filled, fetch, capfd, monkeypatch):
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, tqdm

    module = sys.modules[tqdm.__module__]
    monkeypatch.setattr(module, "HF_HUB_DISABLE_PROGRESS_BARS", None, raising=False)
    enable_progress_bars()
    fetch()
    shown = capfd.readouterr().err
    assert "civitai:5@55" in shown
    assert "3.00M/3.00M" in shown
    disable_progress_bars()
    try:
        filled.state.file(555).content = NEW
        fetch()
        assert capfd.readouterr().err == ""
    finally:
        enable_progress_bars()


def test_what_is_here_is_not_downloaded_again(filled, fetch):
    fetch()
    filled.clear_requests()
    fetch()
    assert storage(filled) == []


def test_a_download_that_broke_off_goes_on_where_it_stopped(filled, fetch):
    filled.inject(Fault("cut", path_regex="/storage", times=2))
    place, _ = fetch()
    assert place.read_bytes() == OLD
    asked = [request.range for request in storage(filled)]
    assert asked[0] is None
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in asked[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(OLD)
    assert filled.paths.count("/api/download/models/55") == 3


def test_the_next_call_goes_on_as_well(filled, fetch, downloads):
    filled.inject(Fault("cut", path_regex="/storage", times=4))
    with pytest.raises(HubError, match="broke off"):
        fetch()
    (part,) = downloads.folder.rglob("*.part")
    have = part.stat().st_size
    assert have > len(OLD) * 0.9
    filled.clear_requests()
    assert fetch()[0].read_bytes() == OLD
    assert [request.range for request in storage(filled)] == [f"bytes={have}-"]
    assert parts(downloads) == []


def test_a_file_that_breaks_off_often_goes_on_while_it_arrives(filled, fetch, monkeypatch):
    from gmi_registry.hubs.civitai import download

    monkeypatch.setattr(download, "_PROGRESS", 1000)
    filled.inject(Fault("cut", path_regex="/storage", times=9))
    assert fetch()[0].read_bytes() == OLD
    assert len(storage(filled)) == 10


def test_a_storage_without_ranges_begins_again(filled, fetch):
    filled.inject(Fault("cut", path_regex="/storage"))
    filled.inject(Fault("whole", path_regex="/storage"))
    assert fetch()[0].read_bytes() == OLD


def test_a_part_that_is_whole_already_is_only_checked(filled, fetch, downloads):
    place = downloads.folder / "models" / "5" / "55"
    place.mkdir(parents=True)
    digest = hashlib.sha256(OLD).hexdigest()
    (place / f"555.{digest[:16]}.part").write_bytes(OLD)
    assert fetch()[0].read_bytes() == OLD
    assert [request.status for request in storage(filled)] == [416]


@pytest.mark.parametrize("spoilt", [b"x" * 1000, b"x" * (len(OLD) + 5)])
def test_a_spoilt_part_is_thrown_away_and_fetched_whole(filled, fetch, downloads, spoilt):
    place = downloads.folder / "models" / "5" / "55"
    place.mkdir(parents=True)
    digest = hashlib.sha256(OLD).hexdigest()
    (place / f"555.{digest[:16]}.part").write_bytes(spoilt)
    assert fetch()[0].read_bytes() == OLD
    assert parts(downloads) == []


def test_a_wrong_digest_is_never_placed(filled, fetch, downloads):
    filled.inject(Fault("wrong-digest", path_regex="/storage", times=10))
    with pytest.raises(HubError, match="the download has the SHA-256") as caught:
        fetch()
    assert "run the same command again" in str(caught.value.hint)
    assert list(downloads.folder.rglob("*.safetensors")) == []
    assert parts(downloads) == []
    filled.clear_faults()
    assert fetch()[0].read_bytes() == OLD


def test_a_file_that_its_author_replaced_is_noticed(filled, fetch, client):
    first, _ = fetch()
    filled.state.file(555).content = NEW
    second, weights = fetch()
    assert second == first
    assert second.read_bytes() == NEW
    assert weights.sha256 == hashlib.sha256(NEW).hexdigest()
    assert digests_of(client.version("55")) == {"555.safetensors": weights.sha256}


def test_a_file_that_is_replaced_while_it_is_asked_for(filled, fetch, downloads):
    filled.inject(Fault("changed-file", path_regex="/api/download", file=555, content=NEW))
    with pytest.raises(HubError, match="the download has the SHA-256"):
        fetch()
    assert fetch()[0].read_bytes() == NEW
    assert parts(downloads) == []


def test_half_of_an_old_file_is_not_continued_with_a_new_one(filled, fetch, downloads):
    filled.inject(Fault("cut", path_regex="/storage", times=4))
    with pytest.raises(HubError, match="broke off"):
        fetch()
    filled.state.file(555).content = NEW
    filled.clear_requests()
    assert fetch()[0].read_bytes() == NEW
    assert storage(filled)[0].range is None
    assert parts(downloads) == []


def test_a_file_that_changes_between_two_halves_is_fetched_whole(filled, fetch):
    """Civitai still says what it said, the storage has something else for a moment."""
    filled.inject(Fault("cut", path_regex="/storage"))
    filled.inject(Fault("wrong-digest", path_regex="/storage"))
    assert fetch()[0].read_bytes() == OLD
    assert [request.range is None for request in storage(filled)] == [True, False, True]


def test_a_file_that_was_spoilt_on_this_disk_is_fetched_again(filled, fetch):
    place, _ = fetch()
    place.write_bytes(b"spoilt")
    assert fetch()[0].read_bytes() == OLD


def test_a_link_in_its_place_is_not_followed(filled, fetch, tmp_path):
    place, _ = fetch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(OLD)
    place.unlink()
    place.symlink_to(elsewhere)
    again, _ = fetch()
    assert not again.is_symlink()
    assert elsewhere.read_bytes() == OLD


def test_an_address_that_has_run_out_is_asked_for_anew(filled, fetch):
    filled.inject(Fault("expired", path_regex="/storage"))
    assert fetch()[0].read_bytes() == OLD
    assert [request.status for request in storage(filled)] == [403, 200]


@pytest.mark.parametrize("kind", ["500", "429"])
def test_a_busy_hub_is_asked_again(filled, fetch, kind):
    filled.inject(Fault(kind, path_regex="/api/download", times=2))
    assert fetch()[0].read_bytes() == OLD


def test_a_storage_that_stays_shut_is_one_clear_error(filled, fetch):
    filled.inject(Fault("expired", path_regex="/storage", times=100))
    with pytest.raises(
        HubError, match="the storage that Civitai names for civitai:5@55 answers 403"
    ) as error:
        fetch()
    assert "Signature" not in error.value.message
    assert len(storage(filled)) == 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            Fault("hostile", content=b"<html>", content_type="text/html"),
            "sends a page, not the file",
        ),
        (Fault("hostile", content=b"<html>", content_type="application/x"), "sends a page, not"),
        (Fault("hostile", content=b"x", content_type="application/x", status=206), "another part"),
        (Fault("hostile", content=b"", content_type="application/x", status=204), "answers 204"),
        (Fault("hostile", content=b"x" * 40_000_000, content_type="application/x"), "or more, and"),
    ],
)
def test_what_no_storage_would_send(filled, fetch, downloads, fault, message):
    fault.path_regex = "/storage"
    filled.inject(fault)
    with pytest.raises(HubError, match=message):
        fetch()
    assert list(downloads.folder.rglob("*.safetensors")) == []


@pytest.mark.parametrize("kind", ["text/html", "application/json", "", "text/plain"])
def test_bytes_are_told_by_their_digest_whatever_they_are_called(filled, fetch, kind):
    filled.inject(Fault("hostile", path_regex="/storage", content=OLD, content_type=kind))
    assert fetch()[0].read_bytes() == OLD


def test_a_body_that_never_ends_is_cut_short(filled, fetch, downloads, monkeypatch):
    """No length is stated, so only what arrives can be judged."""
    from gmi_registry.hubs.civitai import download

    monkeypatch.setattr(download, "_SPARE", 0)
    filled.state.file(555).size_kb = 100.0
    with pytest.raises(HubError, match=r"Civitai says about 102,400"):
        fetch()
    assert parts(downloads) == []


def test_too_little_room_is_said_before_anything_arrives(filled, fetch, downloads, monkeypatch):
    from gmi_registry.hubs.civitai import download

    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000)
    )
    with pytest.raises(HubError, match=r"needs 3,000,\d+ more bytes .* 1,000 are free"):
        fetch()
    assert parts(downloads) == []


def test_a_folder_that_cannot_be_written_is_one_clear_line(filled, client, tmp_path):
    (tmp_path / "file").write_text("in the way")
    blocked = Downloads(client, tmp_path / "file", FileDigests(tmp_path / "digests"))
    version = client.version("55", of=REF)
    with pytest.raises(InputError, match="cannot be written"):
        blocked.fetch(REF, select_file(version, client.asked(REF)), "lora")


def test_two_at_once_download_once(filled, fetch):
    filled.inject(Fault("slow", path_regex="/storage", seconds=0.5))
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch()[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [place.read_bytes() == OLD for place in found] == [True] * 3
    assert len(storage(filled)) == 1


def test_offline_nothing_is_asked(filled, tmp_path, client):
    version = client.version("55", of=REF)
    offline = CivitaiClient(endpoint=filled.endpoint, offline=True)
    there = Downloads(offline, tmp_path / "civitai", FileDigests(tmp_path / "digests"))
    with pytest.raises(OfflineError):
        there.fetch(REF, select_file(version, client.asked(REF)), "lora")


def test_a_token_opens_what_is_for_accounts(filled, client, tmp_path):
    filled.state.models[5].versions[0].login = True
    file = select_file(client.version("55", of=REF), client.asked(REF))
    shut = Downloads(client, tmp_path / "a", FileDigests(tmp_path / "digests"))
    with pytest.raises(AuthError):
        shut.fetch(REF, file, "lora")
    token = filled.add_user("ada-example", "secret-of-ada")
    opened = CivitaiClient(endpoint=filled.endpoint, token=token)
    place, _ = Downloads(opened, tmp_path / "b", FileDigests(tmp_path / "digests")).fetch(
        REF, file, "lora"
    )
    opened.close()
    assert place.read_bytes() == OLD
    assert not any(b"secret-of-ada" in path.read_bytes() for path in tmp_path.rglob("*.*")
                   if path.is_file())  # fmt: skip


def test_a_pickle_under_another_name_is_refused(filled, fetch, downloads):
    filled.state.file(555).content = pickle.dumps({"weights": [1.0] * 1000})
    with pytest.raises(HubError, match="civitai:5@55 is a pickle"):
        fetch()
    assert [path for path in downloads.folder.rglob("*555*") if path.is_file()] == []


def test_what_cannot_be_described_is_called_what_it_is_and_not_kept(filled, fetch, downloads):
    filled.state.file(555).content = vae_bytes()
    with pytest.raises(HubError, match="civitai:5@55 is a VAE") as caught:
        fetch()
    assert "publish the checkpoint that it belongs to" in caught.value.hint
    assert [path for path in downloads.folder.rglob("*555*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([File(1, b"x", name="a.ckpt", format="PickleTensor")], "pickle .*can run any program"),
        ([File(1, b"x", name="a.pt", format="SafeTensor")], "pickle .*can run any program"),
        ([File(1, b"x", name="a.safetensors", format="PickleTensor")], "can run any program"),
        ([File(1, b"x", name="a", format="PickleTensor")], "pickle .*can run any program"),
        ([File(1, b"x", name="a.ckpt", format=None)], "pickle .*can run any program"),
        ([File(1, b"x", name="a.zip", format=None)], "only a packed archive"),
        ([File(1, b"x", name="a.zip", format="SafeTensor")], "only a packed archive"),
        ([File(1, b"x", name="a.zip", format="Other")], "only a packed archive"),
        (
            [File(1, b"x", name="a.zip", format="Diffusers")],
            "only an archive in the layout of diff",
        ),
        ([File(1, b"x", type="Archive", name="a.zip", format="Other")], "only a packed archive"),
        ([File(1, b"x", name="a", format="Core ML")], "only a file for Core ML"),
        ([File(1, b"x", name="a", format="Other")], "only a file of another kind"),
        ([File(1, b"x", name="a", format=None)], "only a file of another kind"),
        (
            [File(1, b"x", name="a.pt", format=None), File(2, b"x", name="b.zip", format=None)],
            r"only a pickle \('a.pt'\), a packed archive \('b.zip'\)$",
        ),
        ([File(1, b"x", type="VAE")], "offers no weights, only: VAE"),
        ([File(1, b"x", type="Training Data", name="a.zip")], "offers no weights"),
        ([File(1, b"x", type="UNet", name="a.ckpt", format="PickleTensor")], "only a pickle"),
        ([File(1, b"x", type="Config", name="a.yaml", format="Other")], "no weights, only: Config"),
        ([], "offers no files; the model may be archived"),
        ([File(1, b"x", virus_scan="Danger")], "to be dangerous"),
        ([File(1, b"x", pickle_scan="Danger")], "to be dangerous"),
        ([File(1, b"x", hashed=False)], "names no SHA-256"),
        ([File(1, b"x", sha256=" ")], "names no SHA-256"),
    ],
)
def test_versions_without_weights_to_take(filled, client, files, message):
    filled.state.models[5].versions[0].files = files
    with pytest.raises(HubError, match=message) as caught:
        select_file(client.version("55", of=REF), client.asked(REF))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("style", "SafeTensor"),
        ("style_v1.5", "SafeTensor"),
        ("style.safetensors", None),
        ("STYLE.SafeTensors ", "Other"),
        ("style.safetensors", "SafeTensor"),
    ],
)
def test_a_file_goes_by_its_format_where_the_name_does_not_say_otherwise(
    filled, client, name, stated
):
    filled.state.models[5].versions[0].files = [File(1, b"x", name=name, format=stated)]
    assert select_file(client.version("55", of=REF), client.asked(REF)).id == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"PK\x03\x04" + b"x" * 40, r"a packed archive \(zip"), (b"GGUF" + b"x" * 40, "no GGUF file"),
     (pickle.dumps({"a": 1}), "a pickle"), (b"x" * 40, "no safetensors file")],
)  # fmt: skip
def test_what_arrives_is_called_what_it_is(filled, fetch, content, told):
    filled.state.file(555).content = content
    with pytest.raises(HubError, match=f"civitai:5@55 is {told}"):
        fetch()


def test_of_several_files_the_primary_one_is_taken(filled, client):
    version = filled.state.models[5].versions[0]
    version.files = [
        File(9, b"pickle", name="a.ckpt", format="PickleTensor", primary=True),
        File(8, b"full", primary=False),
        File(7, b"pruned", type="Pruned Model", primary=False),
    ]
    asked = client.asked(REF)
    assert select_file(client.version("55", of=REF), asked).id == 7
    version.files[1].primary = True
    assert select_file(client.version("55", of=REF), asked).id == 8
    assert list(digests_of(client.version("55"))) == ["7.safetensors", "8.safetensors"]


@pytest.mark.parametrize(
    ("files", "number"),
    [
        ([("Model", "a.safetensors", "fp16"), ("Model", "b.safetensors", "fp32")], 2),
        ([("Model", "a.safetensors", "nf4"), ("Pruned Model", "b.safetensors", "fp16")], 2),
        ([("Model", "a.safetensors", "fp8"), ("Model", "b.safetensors", "bf16")], 2),
        ([("UNet", "a.safetensors", None), ("Model", "b.safetensors", None)], 2),
        ([("Model", "a-Q8_0.gguf", None), ("UNet", "b.safetensors", None)], 2),
        ([("VAE", "a.safetensors", None), ("Diffusion Model", "b.safetensors", None)], 2),
        ([("Training Data", "a.zip", None), ("Model", "b-Q8_0.gguf", None)], 2),
    ],
)
def test_of_several_files_the_fullest_is_taken(filled, client, files, number):
    filled.state.models[5].versions[0].files = [
        File(n, b"x", name=name, type=type_name, format=None, fp=precision, primary=False)
        for n, (type_name, name, precision) in enumerate(files, start=1)
    ]
    version = client.version("55", of=REF)
    chosen = select_file(version, client.asked(REF))
    assert chosen.id == number
    assert chosen.path == f"{number}{'.gguf' if 'gguf' in files[1][1] else '.safetensors'}"
    assert chosen.path in digests_of(version)


@pytest.mark.parametrize("kind", ["lora", "textual-inversion"])
def test_an_adapter_is_no_part_of_a_model_and_no_gguf_file(filled, client, kind):
    filled.state.models[5].versions[0].files = [
        File(1, b"x", name="a.gguf", format="GGUF"), File(2, b"x", type="UNet")
    ]  # fmt: skip
    with pytest.raises(HubError, match="has no safetensors file"):
        select_file(client.version("55", of=REF), client.asked(REF), kind)
