"""The manifest: bytes and objects are inverse, unknown fields of newer minors stay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gmi_registry.errors import SpecFormatError, UnsupportedVersionError
from gmi_registry.spec import DescribedModel, Manifest, PromptSet, Spec, WeightFile, build_spec
from gmi_registry.spec.canonical import MANIFEST_LIMIT, canonical_digest, canonical_json
from tests.support import small_spec

TEXT = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
# Names that no part of the manifest has, now or likely.
UNKNOWN = st.dictionaries(st.from_regex(r"new_[a-z]{1,5}", fullmatch=True), JSON, max_size=3)
OBJECTS = [
    (),
    ("format",),
    ("model",),
    ("model", "weights", 0),
    ("encoder", "preprocess"),
    ("prompt_sets", 0),
    ("generation", "recipe", "sampler"),
    ("kernel",),
    ("tensors", "entries", "image_prompt"),
    ("tool",),
]


def document(spec: Spec) -> Any:
    return json.loads(spec.manifest.to_bytes())


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@given(
    title=TEXT,
    tags=st.lists(TEXT, max_size=5, unique=True),
    prompts=st.lists(TEXT.map(str.strip).filter(bool), min_size=2, max_size=2, unique=True),
    gamma=st.floats(1e-12, 1e6),
    downloads=st.none() | st.integers(0, 2**53 - 1),
    url=st.none() | st.just("https://example.org/x?y=<z>"),
    mean=st.tuples(*[st.floats(-1e6, 1e6)] * 3),
)
def test_bytes_and_manifest_are_inverse(
    title: str,
    tags: list[str],
    prompts: list[str],
    gamma: float,
    downloads: int | None,
    url: str | None,
    mean: tuple[float, float, float],
) -> None:
    parts = small_spec.parts()
    parts["model"] = DescribedModel(
        **{
            **parts["model"].model_dump(),
            "title": title,
            "tags": tuple(tags),
            "downloads": downloads,
            "url": url,
        }
    )
    encoder = parts["encoder"].model_dump()
    encoder["preprocess"]["mean"] = mean
    parts["encoder"] = type(parts["encoder"])(**encoder)
    parts["prompt_sets"] = [PromptSet("p", 1, tuple(prompts))]
    manifest = build_spec(**parts, gamma=gamma).manifest
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data
    assert again.encoder.id == manifest.encoder.id


@given(st.dictionaries(st.sampled_from(OBJECTS), UNKNOWN, max_size=4), st.integers(1, 9999))
def test_unknown_fields_of_a_newer_minor_are_kept(
    unknown: dict[tuple[str | int, ...], dict[str, Any]], minor: int
) -> None:
    spec = build_spec(**small_spec.parts())
    changed = document(spec)
    changed["format"]["version"] = f"1.{minor}"
    for path, fields in unknown.items():
        at(changed, path).update(fields)
    data = canonical_json(changed) + b"\n"
    manifest = Manifest.from_bytes(data)
    assert manifest.to_bytes() == data
    assert manifest.generation.id == spec.manifest.generation.id
    assert manifest.encoder.id == spec.manifest.encoder.id


@pytest.mark.parametrize("path", OBJECTS)
def test_unknown_fields_of_this_version_are_named(spec: Spec, path: tuple[str | int, ...]) -> None:
    changed = document(spec)
    at(changed, path)["licens"] = "mit"
    with pytest.raises(SpecFormatError, match=r"licens"):
        Manifest.from_bytes(canonical_json(changed) + b"\n")


def test_a_rewritten_manifest_keeps_what_it_does_not_know(spec: Spec) -> None:
    changed = document(spec)
    changed["format"]["version"] = "1.3"
    changed["model"]["colour"] = {"hue": [1, None]}
    manifest = Manifest.from_bytes(canonical_json(changed) + b"\n")
    retagged = manifest.model_copy(
        update={"model": manifest.model.model_copy(update={"tags": ("new",)})}
    )
    changed["model"]["tags"] = ["new"]
    assert json.loads(retagged.to_bytes()) == changed


@pytest.mark.parametrize("version", ["2.0", "2", "10.4", "99999.0"])
def test_newer_major(version: str) -> None:
    with pytest.raises(UnsupportedVersionError, match=version) as caught:
        Manifest.from_bytes(b'{ "format": {"version": "%s"}}' % version.encode())
    assert caught.value.hint


@pytest.mark.parametrize("format_", [None, [], {"version": 2}, {"version": "x.1"}, {"version": ""}])
def test_version_that_is_none(format_: Any) -> None:
    with pytest.raises(SpecFormatError):
        Manifest.from_bytes(canonical_json({"format": format_}) + b"\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_line(data: bytes) -> None:
    with pytest.raises(SpecFormatError) as caught:
        Manifest.from_bytes(data)
    assert caught.value.message.isprintable()


@given(st.data())
def test_any_spoiled_manifest_is_refused_or_reads_as_itself(data: st.DataObject) -> None:
    original = build_spec(**small_spec.parts()).manifest.to_bytes()
    start = data.draw(st.integers(0, len(original)))
    stop = data.draw(st.integers(start, min(len(original), start + 8)))
    spoiled = original[:start] + data.draw(st.binary(max_size=4)) + original[stop:]
    try:
        manifest = Manifest.from_bytes(spoiled)
    except (SpecFormatError, UnsupportedVersionError):
        return
    assert manifest.to_bytes() == spoiled


def test_sizes(spec: Spec) -> None:
    with pytest.raises(SpecFormatError, match="more than"):
        Manifest.from_bytes(b" " * (MANIFEST_LIMIT + 1))
    large = spec.manifest.model_copy(update={"later": "x" * MANIFEST_LIMIT})
    with pytest.raises(SpecFormatError, match="more than"):
        large.to_bytes()
    unspeakable = spec.manifest.model_copy(update={"later": object()})
    with pytest.raises(SpecFormatError, match="cannot be written"):
        unspeakable.to_bytes()


def test_references(spec: Spec) -> None:
    model = spec.manifest.model
    assert str(model.ref) == "hf:someone/model@0123abc"
    assert (
        model.weights_digest
        != model.model_copy(
            update={"weights": (model.weights[0].model_copy(update={"sha256": "4" * 64}),)}
        ).weights_digest
    )
    assert spec.manifest.prompt_sets[0].prompt_set == PromptSet("default", 1, ("a cat", "a dog"))


def weight_files(*paths: str, sha256: str = "5" * 64) -> tuple[WeightFile, ...]:
    return tuple(WeightFile(path=path, size=1, sha256=sha256) for path in paths)


def test_base_weights_have_a_digest_of_their_own(spec: Spec) -> None:
    model = spec.manifest.model
    assert model.base_weights is None
    assert model.base_weights_digest is None
    on_base = DescribedModel(**{**vars(model), "base_weights": weight_files("a", "b")})
    assert on_base.weights_digest == model.weights_digest
    assert on_base.base_weights_digest == canonical_digest([["a", "5" * 64], ["b", "5" * 64]])
    retrained = DescribedModel(
        **{**vars(model), "base_weights": weight_files("a", "b", sha256="6" * 64)}
    )
    assert retrained.base_weights_digest not in (None, on_base.base_weights_digest)
    assert "base_weights" not in model.model_dump()
    assert [file["path"] for file in on_base.model_dump()["base_weights"]] == ["a", "b"]


def test_200_base_weight_files_are_read_again_and_no_more() -> None:
    files = weight_files(*(f"part-{number:03}" for number in range(200)))
    parts = small_spec.parts()
    parts["model"] = DescribedModel(**{**vars(parts["model"]), "base_weights": files})
    data = build_spec(**parts).manifest.to_bytes()
    assert Manifest.from_bytes(data).model.base_weights == files
    more = {"base_weights": weight_files(*(f"{number:03}" for number in range(201)))}
    with pytest.raises(ValidationError, match="at most 200 items"):
        DescribedModel(**{**vars(parts["model"]), **more})
