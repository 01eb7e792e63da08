"""Publishing into a local hub: all or nothing, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gmi_registry import atomic
from gmi_registry.atomic import exchange
from gmi_registry.errors import (
    AuthError,
    DigestMismatchError,
    GmiError,
    HubError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
)
from gmi_registry.hubs import files
from gmi_registry.spec import ModelRef, read_spec, write_spec

REF = ModelRef("local", "style")
RED, BLUE = (250, 0, 0), (0, 0, 250)


@pytest.fixture
def upload(built, tmp_path):
    """A folder to publish, of a model whose pictures have that colour."""
    if not built.folder("style").exists():
        built.add_lora("style", card="---\ntags: [flat]\n---\n# Style\n")
    count = iter(range(100))

    def make(colour=RED, *, preview=None):
        spec = built.make_spec("style", colour)
        return spec, write_spec(spec, tmp_path / f"upload-{next(count)}", preview=preview)

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(params=["one call", "two renames"])
def way(request, monkeypatch):
    """Both ways to swap folders: systems differ in what they offer."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchange", lambda first, second: False)


@pytest.mark.usefixtures("way")
class TestPush:
    def test_the_first_and_a_second(self, built, upload):
        card = (built.folder("style") / "README.md").read_bytes()
        for colour in (RED, BLUE):
            spec, folder = upload(colour, preview=b"sheet")
            where = built.hub.push_spec(REF, folder)
            assert where == str(built.folder("style") / "gmi")
            assert read_spec(built.folder("style"), expected=REF) == spec
        assert (names(built.folder("style"))) == [
            "README.md",
            "gmi",
            "pytorch_lora_weights.safetensors",
        ]
        assert (built.folder("style") / "README.md").read_bytes() == card

    def test_an_old_preview_goes_and_other_files_stay(self, built, upload):
        built.hub.push_spec(REF, upload(RED, preview=b"sheet")[1])
        (built.folder("style") / "gmi" / "signature").write_bytes(b"kept")
        built.hub.push_spec(REF, upload(BLUE)[1])
        assert (names(built.folder("style") / "gmi")) == [
            "signature",
            "spec.json",
            "spec.tensors",
        ]

    def test_hidden_files_are_not_published(self, built, upload):
        _, folder = upload()
        (folder / ".DS_Store").touch()
        built.hub.push_spec(REF, folder)
        assert not (built.folder("style") / "gmi" / ".DS_Store").exists()

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    @pytest.mark.parametrize("call", [1, 2, 3])
    def test_a_full_disk_changes_nothing(self, built, upload, monkeypatch, number, call):
        built.hub.push_spec(REF, upload(RED, preview=b"sheet")[1])
        _, folder = upload(BLUE)
        before = snapshot(built.folder("style"))
        calls = iter(range(1, 100))
        real = os.fsync

        def full(handle):
            if next(calls) == call:
                raise OSError(number, os.strerror(number))
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(HubError, match="the disk is full") as caught:
            built.hub.push_spec(REF, folder)
        assert "free" in caught.value.hint
        assert snapshot(built.folder("style")) == before
        assert not list(built.folder("style").glob(".gmi-*"))

    def test_an_interrupt_changes_nothing(self, built, upload, monkeypatch):
        built.hub.push_spec(REF, upload(RED)[1])
        _, folder = upload(BLUE)
        before = snapshot(built.folder("style"))

        def interrupted(handle):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            built.hub.push_spec(REF, folder)
        assert snapshot(built.folder("style")) == before


def test_a_failed_second_rename_is_undone(built, upload, monkeypatch):
    first, folder = upload(RED)
    built.hub.push_spec(REF, folder)
    _, folder = upload(BLUE)
    monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    real = Path.rename

    def rename(self, target):
        if self.name == "gmi" and self.parent.name.startswith(".gmi-"):
            raise OSError(errno.EIO, "broken")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(HubError, match="cannot be written: broken"):
        built.hub.push_spec(REF, folder)
    assert read_spec(built.folder("style")) == first


KILLED = """
import os, signal, sys
from pathlib import Path
from gmi_registry import atomic
from gmi_registry.hubs import LocalHub, files
from gmi_registry.spec import ModelRef

root, folder, cache, step, way = sys.argv[1:]
left = int(step)

def die_at_last(real):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*args, **kwargs)
    return call

hub = LocalHub(root, Path(cache))
os.fsync = die_at_last(os.fsync)
Path.rename = die_at_last(Path.rename)
files.shutil.rmtree = die_at_last(files.shutil.rmtree)
if way == "two renames":
    atomic.exchange = lambda first, second: False
else:
    atomic.exchange = die_at_last(atomic.exchange)
hub.push_spec(ModelRef("local", "style"), Path(folder))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("way", ["one call", "two renames"])
def test_killed_at_any_step_the_specification_is_the_old_or_the_new_one(built, upload, way):
    old, old_folder = upload(RED)
    new, new_folder = upload(BLUE)
    gmi = built.folder("style") / "gmi"
    steps = []
    for step in range(12):
        built.hub.push_spec(REF, old_folder)
        command = [built.root, new_folder, built.cache, str(step), way]
        done = subprocess.run([sys.executable, "-c", KILLED, *map(str, command)], check=False)
        between = way == "two renames" and not gmi.exists()
        if not between:
            assert read_spec(built.folder("style")) in (old, new)
        steps.append("between" if between else read_spec(built.folder("style")) == new)
        # The next call puts right what the killed one left, even when it fails itself.
        if between:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(files, "_filled", full_disk)
                with pytest.raises(HubError):
                    built.hub.push_spec(REF, new_folder)
            assert read_spec(built.folder("style")) == old
        built.hub.push_spec(REF, old_folder)
        assert not list(built.folder("style").glob(".gmi-*"))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert done.returncode == 0, "the steps were not all tried"
    assert steps[0] is False
    assert steps[-1] is True
    assert ("between" in steps) == (way == "two renames")


def full_disk(*_):
    raise OSError(errno.ENOSPC, "full")


def test_many_at_a_time_leave_one_whole_specification(built, upload):
    uploads = [upload((shade, 0, 0), preview=bytes([shade])) for shade in range(0, 250, 25)]
    failures = []

    def push(folder):
        try:
            built.hub.push_spec(REF, folder)
        except GmiError as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(folder,)) for _, folder in uploads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    kept = read_spec(built.folder("style"))
    shade = (built.folder("style") / "gmi" / "preview.webp").read_bytes()[0]
    assert kept == uploads[shade // 25][0]
    assert not list(built.folder("style").glob(".gmi-*"))


def test_leftovers_that_are_links_or_files_are_left_alone(built, upload, tmp_path):
    _, folder = upload()
    (tmp_path / "precious").mkdir()
    (built.folder("style") / ".gmi-link").symlink_to(tmp_path / "precious")
    (built.folder("style") / ".gmi-file").touch()
    built.hub.push_spec(REF, folder)
    assert (tmp_path / "precious").is_dir()
    assert (built.folder("style") / ".gmi-file").exists()


def test_a_folder_that_cannot_be_locked_is_written_all_the_same(built, upload, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (built.folder("style") / ".gmi-other").mkdir()  # perhaps in use by another call
    spec, folder = upload()
    built.hub.push_spec(REF, folder)
    assert read_spec(built.folder("style")) == spec
    assert (built.folder("style") / ".gmi-other").exists()


class TestRefused:
    def test_an_unknown_model(self, built, upload):
        _, folder = upload()
        with pytest.raises(SpecNotFoundError):
            built.hub.push_spec(ModelRef("local", "other"), folder)

    def test_the_specification_of_another_model(self, built, upload):
        _, folder = upload()
        built.add_lora("other")
        with pytest.raises(SpecFormatError, match="describes local:style"):
            built.hub.push_spec(ModelRef("local", "other"), folder)

    def test_weights_that_changed_meanwhile(self, built, upload):
        _, folder = upload()
        pinned = built.hub.fetch_model(REF).ref
        built.add_lora("style", seed=99)
        with pytest.raises(HubError, match="describes weights"):
            built.hub.push_spec(REF, folder)
        with pytest.raises(SpecNotFoundError, match="is gone"):
            built.hub.push_spec(pinned, folder)
        assert not (built.folder("style") / "gmi").exists()

    def test_a_damaged_upload(self, built, upload):
        _, folder = upload()
        data = bytearray((folder / "spec.tensors").read_bytes())
        data[-1] ^= 1
        (folder / "spec.tensors").write_bytes(data)
        with pytest.raises(DigestMismatchError):
            built.hub.push_spec(REF, folder)

    @pytest.mark.parametrize("name", ["spec.json", "spec.tensors"])
    def test_an_incomplete_upload(self, built, upload, name):
        _, folder = upload()
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"holds no {name}"):
            built.hub.push_spec(REF, folder)

    def test_an_upload_with_a_link_or_a_folder(self, built, upload, tmp_path):
        _, folder = upload()
        (folder / "preview.webp").symlink_to(tmp_path / "secret")
        with pytest.raises(InputError, match=r"symbolic link, so the folder cannot"):
            built.hub.push_spec(REF, folder)
        (folder / "preview.webp").unlink()
        (folder / "more").mkdir()
        with pytest.raises(InputError, match="not a regular file"):
            built.hub.push_spec(REF, folder)
        (folder / "more").rmdir()
        os.mkfifo(folder / "pipe")
        with pytest.raises(InputError, match="not a regular file"):
            built.hub.push_spec(REF, folder)

    def test_a_missing_upload(self, built, upload, tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            built.hub.push_spec(REF, tmp_path / "nothing")

    def test_a_target_that_is_a_link_or_a_file(self, built, upload, tmp_path):
        _, folder = upload()
        (tmp_path / "elsewhere").mkdir()
        gmi = built.folder("style") / "gmi"
        gmi.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(HubError, match="is not a folder"):
            built.hub.push_spec(REF, folder)
        assert not list((tmp_path / "elsewhere").iterdir())
        gmi.unlink()
        gmi.touch()
        with pytest.raises(HubError, match="is not a folder"):
            built.hub.push_spec(REF, folder)


class TestWritable:
    def test_a_model_that_can_be_written(self, built, upload):
        before = snapshot(built.root)
        built.hub.check_writable(REF)
        assert snapshot(built.root) == before
        assert not list(built.folder("style").glob(".gmi-*"))

    def test_an_unknown_model(self, built):
        with pytest.raises(SpecNotFoundError):
            built.hub.check_writable(REF)

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
    def test_no_right_to_write(self, built, upload, monkeypatch, number):
        # The suite may run as root, whom no permission bit stops: the refusal is injected.
        _, folder = upload()

        def refuse(*_, **__):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
        for attempt in (
            lambda: built.hub.check_writable(REF),
            lambda: built.hub.push_spec(REF, folder),
        ):
            with pytest.raises(AuthError, match="you cannot write there"):
                attempt()

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() == 0,
        reason="root may write anywhere; the test above injects the refusal",
    )
    def test_a_folder_without_the_right_to_write(self, built, upload):
        built.folder("style").chmod(0o555)
        try:
            with pytest.raises(AuthError):
                built.hub.check_writable(REF)
        finally:
            built.folder("style").chmod(0o755)


class TestExchange:
    @pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="renameat2 is a call of Linux alone"
    )
    def test_two_folders_change_places(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).touch()
        assert exchange(tmp_path / "a", tmp_path / "b")
        assert names(tmp_path / "a") == ["b"]
        assert names(tmp_path / "b") == ["a"]

    def test_a_missing_one_is_an_error(self, tmp_path):
        (tmp_path / "a").mkdir()
        with contextlib.suppress(FileNotFoundError):
            assert not exchange(tmp_path / "a", tmp_path / "b")

    def test_elsewhere_it_says_that_it_cannot(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "platform", "other")
        assert not exchange(tmp_path, tmp_path)

    @pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="renameat2 is a call of Linux alone"
    )
    def test_a_file_system_that_does_not_know_the_call(self, tmp_path, monkeypatch):
        class Library:
            @staticmethod
            def renameat2(*_):
                import ctypes

                ctypes.set_errno(errno.EINVAL)
                return -1

        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Library)
        assert not exchange(tmp_path, tmp_path)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="needs the right to mount",
)
def test_a_disk_that_is_really_full(built, upload, tmp_path):
    _, folder = upload(RED)
    (folder / "large").write_bytes(bytes(600_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("containers may not mount; a full disk is injected in the tests above")
    try:
        hub = type(built.hub).create(disk, tmp_path / "cache")
        shutil.copytree(built.folder("style"), disk / "models" / "style")
        hub.push_spec(REF, upload(BLUE)[1])
        before = snapshot(disk)
        (disk / "filler").write_bytes(bytes(200_000))
        with pytest.raises(HubError, match="the disk is full; nothing was changed"):
            hub.push_spec(REF, folder)
        (disk / "filler").unlink()
        assert snapshot(disk) == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)
