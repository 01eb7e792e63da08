"""Specifications on disk: together or not at all, no links, nothing left behind."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gmi_registry import atomic, sanitize
from gmi_registry.errors import InputError, SpecFormatError, SpecNotFoundError
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    Spec,
    read_manifest,
    read_spec,
    write_spec,
)
from gmi_registry.spec import files as files_module
from tests.support import small_spec
from tests.support.small_spec import MakeSpec

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs links and permissions")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_write_and_read(spec: Spec, tmp_path: Path) -> None:
    folder = write_spec(spec, tmp_path / "new")
    assert folder == tmp_path / "new" / SPEC_DIR
    assert names(tmp_path / "new") == [SPEC_DIR]
    assert names(folder) == [MANIFEST_NAME, TENSORS_NAME]
    assert read_spec(tmp_path / "new") == spec
    assert read_manifest(tmp_path / "new") == spec.manifest


def test_a_signature_does_not_outlive_its_specification(
    spec: Spec, make_spec: small_spec.MakeSpec, tmp_path: Path
) -> None:
    folder = write_spec(spec, tmp_path)
    (folder / SIGNATURE_NAME).write_text("{}")
    write_spec(spec, tmp_path)
    assert names(folder) == [MANIFEST_NAME, SIGNATURE_NAME, TENSORS_NAME]
    write_spec(make_spec(gamma=0.03), tmp_path)
    assert names(folder) == [MANIFEST_NAME, TENSORS_NAME]


def test_replacing_keeps_what_is_not_ours(
    spec: Spec, make_spec: small_spec.MakeSpec, tmp_path: Path
) -> None:
    folder = write_spec(spec, tmp_path, preview=b"RIFF____WEBP")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("kept")
    (tmp_path / "model.safetensors").write_bytes(b"w")
    other = make_spec(gamma=0.03, previous=spec.digest)
    write_spec(other, tmp_path)
    assert read_spec(tmp_path) == other
    assert (folder / "notes" / "a.txt").read_text() == "kept"
    assert (folder / PREVIEW_NAME).read_bytes() == b"RIFF____WEBP"
    write_spec(other, tmp_path, preview=b"new")
    assert (folder / PREVIEW_NAME).read_bytes() == b"new"
    assert names(tmp_path) == [SPEC_DIR, "model.safetensors"]


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_everything_as_it_was(
    spec: Spec,
    make_spec: small_spec.MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
    existing: bool,
) -> None:
    target = tmp_path / "model"
    if existing:
        write_spec(make_spec(gamma=0.5), target, preview=b"old")
    before = tree(tmp_path)
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files_module.os, "fsync", fsync)
    with pytest.raises(InputError, match="disk is full") as caught:
        write_spec(spec, target, preview=b"new")
    assert caught.value.hint
    assert tree(tmp_path) == before
    assert names(tmp_path) == (["model"] if existing else [])


@posix
def test_a_truly_full_disk(spec: Spec, tmp_path: Path) -> None:
    """A file size limit is the one shortage that a test may cause without rights."""
    import resource
    import signal

    child = os.fork()
    if child == 0:  # pragma: no cover -- another process
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            write_spec(spec, tmp_path / "model")
        except InputError as error:
            os._exit(7 if "\n" not in error.message else 8)
        os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert names(tmp_path) == []


def test_a_failed_exchange_puts_the_old_folder_back(
    spec: Spec, make_spec: small_spec.MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_spec(gamma=0.5)
    write_spec(old, tmp_path)
    rename = Path.rename

    def failing(self: Path, target: Any) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    # As on a system that cannot exchange two folders by one call.
    monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write_spec(spec, tmp_path)
    monkeypatch.undo()
    assert read_spec(tmp_path) == old
    assert names(tmp_path) == [SPEC_DIR]


def test_places_that_cannot_be_written(spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_spec(spec, tmp_path / "missing" / "deeper")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write_spec(spec, tmp_path / "file")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / SPEC_DIR).write_text("x")
    with pytest.raises(InputError, match="not a folder"):
        write_spec(spec, tmp_path / "model")
    with pytest.raises(InputError, match="preview"):
        write_spec(spec, tmp_path, preview=b"x" * (8 * 1024 * 1024 + 1))


@posix
def test_writing_does_not_follow_links(spec: Spec, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.json").write_text("precious")
    model = tmp_path / "model"
    model.mkdir()
    (model / SPEC_DIR).symlink_to(outside)
    with pytest.raises(InputError, match="not a folder"):
        write_spec(spec, model)
    (model / SPEC_DIR).unlink()
    (model / SPEC_DIR).mkdir()
    (model / SPEC_DIR / MANIFEST_NAME).symlink_to(outside / "precious.json")
    write_spec(spec, model)
    assert (outside / "precious.json").read_text() == "precious"
    assert read_spec(model) == spec


@posix
def test_links_are_followed_only_when_trusted(spec: Spec, tmp_path: Path) -> None:
    write_spec(spec, tmp_path / "blobs")
    snapshot = tmp_path / "snapshot" / SPEC_DIR
    snapshot.mkdir(parents=True)
    for name in (MANIFEST_NAME, TENSORS_NAME):
        (snapshot / name).symlink_to(tmp_path / "blobs" / SPEC_DIR / name)
    with pytest.raises(SpecFormatError, match="symbolic link"):
        read_spec(tmp_path / "snapshot")
    assert read_spec(tmp_path / "snapshot", follow_links=True) == spec
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / SPEC_DIR).symlink_to(tmp_path / "blobs" / SPEC_DIR)
    with pytest.raises(SpecFormatError, match="symbolic link"):
        read_manifest(tmp_path / "whole")
    assert read_manifest(tmp_path / "whole", follow_links=True) == spec.manifest


def test_nothing_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SpecNotFoundError) as caught:
            read_spec(folder)
        assert caught.value.hint


def test_a_file_that_changes_while_it_is_read(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_spec(spec, tmp_path)
    fstat = os.fstat

    class Longer:
        def __init__(self, real: os.stat_result) -> None:
            self.st_mode = real.st_mode
            self.st_size = real.st_size + 1
            self.st_nlink = real.st_nlink

    monkeypatch.setattr(files_module.os, "fstat", lambda number: Longer(fstat(number)))
    with pytest.raises(SpecFormatError, match="changed while"):
        read_manifest(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_a_folder_in_place_of_a_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "gmi" / "spec.json").mkdir(parents=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(SpecFormatError, match="Is a directory"):
        read_spec(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_secret_of_this_process_is_never_written(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub may have put the token that it was sent into the model's title."""
    spec = make_spec()
    title = spec.manifest.model.title
    monkeypatch.setattr(sanitize, "_secrets", sanitize._Secrets())
    sanitize.add_secret(f"{title} and more")
    write_spec(spec, tmp_path / "first")
    sanitize.add_secret(title)
    with pytest.raises(SpecFormatError, match="token or password of yours"):
        write_spec(spec, tmp_path / "second")
    assert not (tmp_path / "second").exists()
