"""``verified.json``, written and read."""

import hashlib
import json
import subprocess

import pytest

from gmi_registry.errors import HubError, upgrade_hint
from gmi_registry.hubs.registry.entries import VERIFIED_LIMIT, Verified, git_name

ONE = {"digest": "1" * 64, "git": "2" * 40}


def document(*rows, **changes):
    whole = {"format": {"name": "gmi-verified", "version": 1}, "specs": list(rows)}
    return json.dumps(whole | changes).encode()


def test_what_is_written_is_read_and_does_not_depend_on_the_order():
    contents = [b"one", b"two", b"three"]
    forth = back = Verified({})
    for content in contents:
        forth = forth.with_spec(content)
    for content in reversed(contents):
        back = back.with_spec(content)
    assert forth.to_bytes() == back.to_bytes()
    read = Verified.from_bytes(forth.to_bytes())
    assert read.specs == {git_name(c): hashlib.sha256(c).hexdigest() for c in contents}
    assert forth.with_spec(b"two").to_bytes() == forth.to_bytes()
    assert Verified.from_bytes(Verified({}).to_bytes()).specs == {}


def test_the_second_name_is_the_one_that_git_gives(tmp_path):
    (tmp_path / "file").write_bytes(b"some content\n")
    done = subprocess.run(
        ["git", "hash-object", "file"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert git_name(b"some content\n") == done.stdout.strip()


def test_fields_of_later_are_passed_over():
    assert Verified.from_bytes(document(ONE | {"by": "keeper"}, more=1)).specs == {
        "2" * 40: "1" * 64
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"[]", "is not JSON with"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (document(format=None), "is not JSON with"),
        (document(format={"name": "other", "version": 1}), "another format"),
        (document(format={"name": "gmi-verified", "version": True}), "another format"),
        (document(specs={}), "not a list"),
        (document("1" * 64), "without the two digests"),
        (document({"digest": "1" * 64}), "without the two digests"),
        (document(ONE | {"digest": "A" * 64}), "without the two digests"),
        (document(ONE | {"git": "2" * 64}), "without the two digests"),
        (document(ONE, ONE | {"digest": "3" * 64}), "two digests"),
        (b'{"format": 1, "format": 2}', "is not JSON with"),
        (b" " * (VERIFIED_LIMIT + 1), "more than"),
    ],
)
def test_what_is_no_such_file_is_refused(content, message):
    with pytest.raises(HubError, match=message) as caught:
        Verified.from_bytes(content)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_newer_version_is_refused_by_name():
    with pytest.raises(HubError, match="version 2; this program") as caught:
        Verified.from_bytes(document(format={"name": "gmi-verified", "version": 2}))
    assert caught.value.hint == upgrade_hint()
