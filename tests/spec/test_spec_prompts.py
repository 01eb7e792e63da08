"""Prompt sets, and the files they are read from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.errors import InputError
from gmi_registry.spec import PromptSet


def test_id_is_the_digest_of_the_prompts_alone() -> None:
    prompts = ("a cat", "ein Käfer")
    expected = hashlib.sha256('["a cat","ein Käfer"]'.encode()).hexdigest()
    assert PromptSet("x", 1, prompts).id == expected
    assert PromptSet("y", 2, prompts).id == expected
    assert PromptSet("x", 1, prompts[::-1]).id != expected


@pytest.mark.parametrize(
    ("name", "version", "prompts"),
    [
        ("", 1, ("a",)),
        ("has space", 1, ("a",)),
        ("-x", 1, ("a",)),
        ("x", 0, ("a",)),
        ("x", 1, ()),
        ("x", 1, tuple(map(str, range(1001)))),
        ("x", 1, ("a", "")),
        ("x", 1, ("a", " b")),
        ("x", 1, ("a", "a")),
        ("x", 1, ("a" * 1001,)),
        ("x", 1, ("a\nb",)),
    ],
)
def test_refused(name: str, version: int, prompts: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        PromptSet(name, version, prompts)


def test_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# comment\r\n\r\na cat\r\n# more\r\n  ein Käfer \r\n\r\n".encode())
    assert PromptSet.from_file(path) == PromptSet("mine", 1, ("a cat", "ein Käfer"))
    assert PromptSet.from_file(path, name="set", version=4).version == 4
    assert len(PromptSet.from_file(path)) == 2


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        (b"", ":", "holds no prompts"),
        (b"# only\n\n", ":", "holds no prompts"),
        (b"a\n\nb\n", ":2:", "blank line"),
        (b"a\n#\n\n\nb\n", ":3:", "blank line"),
        (b"a\nb\nword " + b"word " * 2000, ":3:", "characters"),
        (b"a\n\xff\n", ":2:", "UTF-8"),
        (b"a\nb\n# c\na\n", ":4:", "already"),
        (b"a\nb\x1b[2J\n", ":2:", "U+001B"),
        (b"\n".join(b"%d" % n for n in range(1001)), ":", "1,001"),
        (b"x" * 4_000_001, ":", "larger"),
    ],
)
def test_bad_file_names_file_and_line(
    tmp_path: Path, content: bytes, place: str, reason: str
) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        PromptSet.from_file(path)
    assert caught.value.message.startswith(f"{path}{place}")
    assert reason in caught.value.message
    assert caught.value.message.isprintable()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        PromptSet.from_file(tmp_path / "none.txt")


@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=30)
        .map(str.strip)
        .filter(lambda text: text and not text.startswith("#")),
        min_size=1,
        max_size=20,
        unique=True,
    )
)
def test_a_file_of_the_prompts_is_the_set(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("prompts") / "p.txt"
    path.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    assert PromptSet.from_file(path).prompts == tuple(prompts)
