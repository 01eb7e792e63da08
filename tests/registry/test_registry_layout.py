"""Names of entries and their files, there and back."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.errors import InputError, UnsupportedOperationError
from gmi_registry.hubs.huggingface import publishing
from gmi_registry.hubs.registry.entries import (
    ENTRY_FILES,
    SIGNATURE_NAME,
    entry_file,
    entry_of,
    entry_path,
    model_folder,
    parse_entry,
    parse_file,
)
from gmi_registry.signature import signing
from gmi_registry.spec import ModelRef
from tests.support.registry_author import civitai, described

PIN = "0123456789abcdef" * 4
NUMBERS = st.integers(1, 10**15 - 1).map(str)
WORDS = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,20}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda word: "--" not in word and ".." not in word
)
ENTRIES = st.one_of(
    st.builds(ModelRef, st.just("civitai"), NUMBERS, NUMBERS),
    st.builds(
        lambda owner, name, pin: ModelRef("hf", f"{owner}/{name}", pin),
        WORDS,
        WORDS,
        st.binary(min_size=32, max_size=32).map(bytes.hex),
    ),
)


@given(ENTRIES, st.sampled_from(sorted(ENTRY_FILES)))
def test_a_path_and_its_entry_are_inverse(ref, name):
    assert ref.is_entry
    assert parse_entry(entry_path(ref)) == ref
    assert parse_file(entry_file(ref, name)) == (ref, name)
    assert entry_path(ref).startswith(f"{model_folder(ref)}/")


@given(st.text(alphabet="civtahf/.\\:@0123456789abcdef \0\n-", max_size=90))
def test_whatever_is_read_is_spelled_the_same(path):
    ref = parse_entry(path)
    assert ref is None or entry_path(ref) == path
    file = parse_file(path)
    assert file is None or entry_file(*file) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "civitai",
        "civitai/1",
        "civitai/1/2/3",
        "civitai/01/2",
        "civitai/1/02",
        "civitai/1/main",
        "civitai/a/2",
        "/civitai/1/2",
        "civitai/1/2/",
        "civitai//2",
        "civitai/../2",
        "CIVITAI/1/2",
        "local/style/0123456789abcdef",
        f"hf/model/{PIN}",
        f"hf/owner/model/{PIN[:40]}",
        f"hf/owner/model/{PIN.upper()}",
        "hf/owner/model/main",
        f"hf/owner/../{PIN}",
        f"hf/./model/{PIN}",
        f"hf/owner/mo del/{PIN}",
        f"hf/owner\\model/x/{PIN}",
        f"hf/owner/model/file.safetensors/{PIN}",
        "index/v1/2",
    ],
)
def test_other_paths_are_no_entries(path):
    assert parse_entry(path) is None
    assert parse_file(f"{path}/gmi/spec.json") is None


@pytest.mark.parametrize("tail", ["spec.json", "gmi/README.md", "gmi/x/spec.json", "GMI/spec.json"])
def test_other_files_are_no_files_of_an_entry(tail):
    assert parse_file(f"civitai/1/2/{tail}") is None
    assert parse_file("verified.json") is None


def test_weights_name_the_entry_on_hugging_face():
    model = described(weights=(b"one", b"two"))
    pairs = [
        [f"w{n}.safetensors", hashlib.sha256(c).hexdigest()] for n, c in ((0, b"one"), (1, b"two"))
    ]
    digest = hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()
    assert entry_of(model) == ModelRef("hf", "owner/style", digest)
    assert entry_of(described(weights=(b"one",))) != entry_of(model)
    assert entry_of(described(revision="main", weights=(b"one", b"two"))) == entry_of(model)


def test_the_version_names_it_on_civitai():
    assert entry_path(entry_of(civitai("123", "456"))) == "civitai/123/456"
    with pytest.raises(InputError, match="names no version"):
        entry_of(described("civitai", "123"))


def test_a_signature_is_what_section_8_says():
    assert (SIGNATURE_NAME, ENTRY_FILES[SIGNATURE_NAME]) == (
        signing.SIGNATURE_NAME,
        signing.SIGNATURE_LIMIT,
    )
    assert publishing.SIGNATURE_NAME == signing.SIGNATURE_NAME


def test_what_has_no_place_is_refused():
    with pytest.raises(UnsupportedOperationError, match="Hugging Face and Civitai"):
        entry_of(described("local", "style"))
    with pytest.raises(UnsupportedOperationError, match="no owner"):
        entry_of(described("hf", "style"))
    with pytest.raises(InputError, match="which of the model's specifications") as caught:
        entry_path(ModelRef("hf", "owner/style", "main"))
    assert "64 digits" in caught.value.hint
    with pytest.raises(InputError, match="which of"):
        entry_path(ModelRef("civitai", "123"))
