"""Digests of weights, remembered."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from gmi_registry.errors import HubError
from gmi_registry.hubs import files as digest_module
from gmi_registry.hubs.files import FileDigests

OLD = time.time() - 3600


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def digests(tmp_path):
    return FileDigests(tmp_path / "cache")


@pytest.fixture
def hashed(monkeypatch):
    """Counts the digests that are really computed."""
    counted = []
    real = hashlib.sha256

    class Counting:
        @staticmethod
        def sha256(*data):
            if not data:  # a file is hashed piece by piece, a key at once
                counted.append(1)
            return real(*data)

    monkeypatch.setattr(digest_module, "hashlib", Counting)
    return counted


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once(file, digests, hashed):
    assert digests.sha256(file) == sha256(b"weights")
    assert FileDigests(digests.directory).sha256(file) == sha256(b"weights")
    assert len(hashed) == 1


def test_a_change_is_noticed_even_with_the_old_size_and_time(file, digests):
    digests.sha256(file)
    file.write_bytes(b"WEIGHTS")
    os.utime(file, (OLD, OLD))
    assert digests.sha256(file) == sha256(b"WEIGHTS")


def test_a_file_of_this_moment_is_not_remembered(file, digests, hashed):
    os.utime(file)
    for _ in range(2):
        assert digests.sha256(file) == sha256(b"weights")
    assert len(hashed) == 2


def test_a_damaged_note_is_made_again(file, digests):
    digests.sha256(file)
    (note,) = digests.directory.iterdir()
    whole = note.read_bytes()
    for content in (b"", b"x" * 64, b"0" * 65, sha256(b"others").encode()):
        note.write_bytes(content)
        assert digests.sha256(file) == sha256(b"weights")
        assert note.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(file, tmp_path):
    (tmp_path / "occupied").touch()
    assert FileDigests(tmp_path / "occupied").sha256(file) == sha256(b"weights")


def test_nothing_is_left_where_the_disk_is_full(file, digests, monkeypatch):
    def full(self, target):
        raise OSError(28, "full")

    monkeypatch.setattr("pathlib.Path.replace", full)
    assert digests.sha256(file) == sha256(b"weights")
    assert not list(digests.directory.iterdir())


def test_a_missing_file_is_an_error(tmp_path, digests):
    with pytest.raises(HubError, match="cannot be read"):
        digests.sha256(tmp_path / "nothing")


def test_a_file_that_grows_while_it_is_read_is_an_error(file, digests, monkeypatch):
    real = hashlib.sha256

    class Growing:
        @staticmethod
        def sha256(*data):
            if not data:
                with file.open("ab") as stream:
                    stream.write(b"more")
            return real(*data)

    monkeypatch.setattr(digest_module, "hashlib", Growing)
    with pytest.raises(HubError, match="changed while it was read"):
        digests.sha256(file)
