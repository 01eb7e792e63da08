"""Small files of the caches are found as they were written, or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.hubs.files import FileDigests
from gmi_registry.hubs.huggingface import listing as hugging_face


def damages(content: bytes) -> dict[str, bytes]:
    found = {
        "empty": b"",
        "cut": content[:-1],
        "longer": content + b"x",
        "zeros": bytes(len(content)),
        "the seal alone": content[:32],
    }
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), 40).tolist():
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        found[f"bit {bit}"] = bytes(spoilt)
    return found


@given(content=st.binary(max_size=300), data=st.data())
def test_no_other_content_is_ever_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "folder" / "file"
    write_sealed(path, content)
    assert read_sealed(path) == content
    assert [it.name for it in path.parent.iterdir()] == ["file"]
    spoilt = bytearray(path.read_bytes())
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))])
    assert read_sealed(path) is None
    assert not path.exists()
    assert read_sealed(path) is None


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a", b"12345")
    assert read_sealed(tmp_path / "a", limit=5) == b"12345"
    assert read_sealed(tmp_path / "a", limit=4) is None


def test_a_digest_of_weights_is_never_another_one(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    old = time.time() - 60
    os.utime(weights, (old, old))
    digests = FileDigests(tmp_path / "digests")
    wanted = digests.sha256(weights)
    (note,) = digests.directory.iterdir()
    for damage, content in damages(note.read_bytes()).items():
        note.write_bytes(content)
        assert digests.sha256(weights) == wanted, damage
        assert len(list(digests.directory.iterdir())) == 1


def test_a_damaged_listing_is_an_empty_one(tmp_path: Path) -> None:
    model = hugging_face.ListedModel("o/m", ("a" * 40,), ("icon",), None)
    known = hugging_face.KnownModels("https://hub", None, tmp_path)
    known.keep([model])
    known.keep_weights("o/m", "a" * 40, {"w": "b" * 64})
    listing, note = tmp_path / "catalogue.json", tmp_path / "weights" / "o--m.json"
    assert known.models() == [model]
    for damage, content in damages(listing.read_bytes()).items():
        listing.write_bytes(content)
        assert (known.models(), known.cache.listed) == ([], None), damage
    for damage, content in damages(note.read_bytes()).items():
        note.write_bytes(content)
        assert known.weights("o/m", "a" * 40) is None, damage
