"""The package and the independent reader agree on files that nobody thought of."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.errors import GmiError
from gmi_registry.spec import ModelRef, PromptSet, read_spec
from gmi_registry.spec.canonical import canonical_digest, canonical_json
from tests.conformance import independent_reader
from tests.conformance.vector_base import (
    JSON,
    TENSORS,
    base_spec,
    described,
    files_of,
    recipe,
    weight,
)

FILES = files_of(
    base_spec(
        model=described(
            revision="main",
            url="https://example.org/",
            base_weights=(weight("a"), weight("b/c")),
            tags=("a",),
            downloads=3,
        ),
        prompt_sets=[PromptSet("example", 1, ("a fox", "a hen")), PromptSet("own", 1, ("x",))],
        recipe=recipe(seeds=(1, 2), lora_scale=0.5, trigger_words=("w",)),
    )
)
STRANGE = st.sampled_from(
    [None, True, False, 0, 1, -1, 2, 0.5, 1e-9, 8193, 2**53 - 1, "", " ", "a", "a ", "A", "..",
     "a/b", "/", "a//b", "a\\b", "a:b", "x" * 97, "x" * 201, "x" * 1001, "x" * 2001, "\u2028",
     "\u00a0a", "\u200b", "\ud7ff", "1.0", "1.1", "1.01", "0", "01", "main.", "a--b", "{prompt}",
     "0" * 64, "F" * 64, "hf", "local", "civitai", "http://x", "https://", "http://a b", "rbf",
     "checkpoint", "single-file",
     [], {}, [0, 4], [1, 2], ["a", "a"], ["b", "a"], {"a": 1}, {"a": None}, [[]], "\u00e9", "1\n",
     "0" * 64 + "\n", "main\n", "\u0661"]
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside ``value``."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(item, (*path, key))
    return found


DOCUMENT = json.loads(FILES[JSON])
PLACES = places(DOCUMENT)


def repair(document: Any) -> None:
    """Make ids right again, so that the change itself is what is judged."""
    generation = document.get("generation")
    if isinstance(generation, dict) and isinstance(generation.get("recipe"), dict):
        hashed = {k: v for k, v in generation["recipe"].items() if k not in ("libraries", "added")}
        generation["id"] = canonical_digest(hashed)
    blocks = document.get("prompt_sets")
    for block in blocks if isinstance(blocks, list) else []:
        if isinstance(block, dict) and "prompts" in block:
            block["id"] = canonical_digest(block["prompts"])


@settings(deadline=None, max_examples=400)
@given(
    place=st.sampled_from(PLACES),
    act=st.sampled_from(["replace", "delete", "add"]),
    value=STRANGE,
    version=st.sampled_from(["1.0", "1.5"]),
    repaired=st.booleans(),
)
def test_agreement(
    tmp_path_factory: pytest.TempPathFactory,
    place: tuple[Any, ...],
    act: str,
    value: Any,
    version: str,
    repaired: bool,
) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["format"]["version"] = version
    *parents, last = place
    target = document
    for step in parents:
        target = target[step]
    if act == "delete":
        del target[last]
    elif act == "replace" or isinstance(target, list):
        target[last] = value
    else:
        target["added"] = value
    if repaired:
        repair(document)
    folder = tmp_path_factory.mktemp("model")
    (folder / "gmi").mkdir()
    (folder / JSON).write_bytes(canonical_json(document) + b"\n")
    (folder / TENSORS).write_bytes(FILES[TENSORS])
    assert verdict(folder) == independent_reader.judge(folder)[0]


OWN = {file["path"]: file["sha256"] for file in DOCUMENT["model"]["weights"]}


@settings(deadline=None, max_examples=200)
@given(
    hub=st.sampled_from(["hf", "local"]),
    name=st.sampled_from(["example/model", "example/other", "other"]),
    own=st.none()
    | st.dictionaries(
        st.sampled_from([*OWN, "another.safetensors"]),
        st.sampled_from([*OWN.values(), "0" * 64, None]),
    ),
)
def test_agreement_on_whose_it_is(
    tmp_path_factory: pytest.TempPathFactory,
    hub: str,
    name: str,
    own: dict[str, str | None] | None,
) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / "gmi").mkdir()
    for path, content in FILES.items():
        (folder / path).write_bytes(content)
    expected = ModelRef.parse(f"{hub}:{name}")
    found = verdict(folder, expected, own)
    assert found == independent_reader.judge(folder, str(expected), own)[0]
    right = (own or {}).items() >= OWN.items() if name != "example/model" else True
    assert (found == "accept") == (hub == "hf" and right)


def verdict(
    folder: Path, expected: ModelRef | None = None, own: dict[str, str | None] | None = None
) -> str:
    """What the package makes of a folder, in the words of the table."""
    try:
        read_spec(folder, expected=expected, own_weights=lambda: own)
    except GmiError as error:
        return type(error).__name__
    return "accept"
