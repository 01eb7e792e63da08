"""Specifications in memory, and their two spellings as bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import load

from gmi_registry.errors import DigestMismatchError, SpecFormatError
from gmi_registry.spec import ModelRef, PromptSet, Spec, build_spec, decode_spec, encode_spec
from gmi_registry.spec.specification import Arrays, decode_tensors, encode_tensors, storable
from tests.support import small_spec

VALUES = st.floats(-1000, 1000, width=16)


@given(
    images=arrays_of.arrays(np.float16, (4, 4), elements=VALUES),
    prompts=arrays_of.arrays(np.float16, (2, 3), elements=VALUES),
    order=st.permutations([0, 0, 1, 1]),
)
def test_encoding_and_decoding_are_inverse(
    images: np.ndarray[Any, Any], prompts: np.ndarray[Any, Any], order: list[int]
) -> None:
    # A row of zeros is refused; that is another test's business.
    images[:, 0] += np.where(np.abs(images).max(axis=1) < 0.01, 1, 0).astype(np.float16)
    prompts[:, 0] += np.where(np.abs(prompts).max(axis=1) < 0.01, 1, 0).astype(np.float16)
    parts = {
        **small_spec.parts(),
        "image_embeddings": images,
        "prompt_embeddings": prompts,
        "image_prompt": order,
    }
    spec = build_spec(**parts)
    manifest, tensors = encode_spec(spec)
    again = decode_spec(manifest, tensors)
    assert again == spec
    assert again.manifest == spec.manifest
    np.testing.assert_array_equal(again.image_embeddings, images)
    np.testing.assert_array_equal(again.prompt_embeddings, prompts)
    np.testing.assert_array_equal(again.image_prompt, order)
    assert encode_spec(again) == (manifest, tensors)
    assert build_spec(**parts).digest == spec.digest


def test_the_same_inputs_give_the_same_bytes_in_every_process(spec: Spec) -> None:
    program = (
        "import hashlib; from tests.support import small_spec;"
        "from gmi_registry.spec import build_spec, encode_spec;"
        "s = build_spec(**small_spec.parts()); m, t = encode_spec(s);"
        "print(s.digest, hashlib.sha256(m).hexdigest(), hashlib.sha256(t).hexdigest())"
    )
    manifest, tensors = encode_spec(spec)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        )
        assert done.stdout.split() == [
            spec.digest,
            hashlib.sha256(manifest).hexdigest(),
            hashlib.sha256(tensors).hexdigest(),
        ]
    assert spec.digest == hashlib.sha256(manifest).hexdigest()


def test_the_tensor_file_is_one_that_the_library_reads(spec: Spec) -> None:
    loaded = load(encode_tensors(spec.arrays))
    assert sorted(loaded) == ["image_embeddings", "image_prompt", "prompt_embeddings"]
    np.testing.assert_array_equal(loaded["image_embeddings"], spec.image_embeddings)
    assert loaded["image_prompt"].dtype == np.int32


@given(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 1200)))
def test_the_library_lays_out_tensors_as_the_contract_says(
    sizes: tuple[int, int, int, int],
) -> None:
    prompts, width, text_width, images = sizes
    arrays = Arrays(
        np.ones((images, width), np.float16),
        np.ones((prompts, text_width), np.float16),
        np.zeros(images, np.int32),
    )
    shapes: Any = {name: getattr(arrays, name).shape for name in vars(arrays)}
    decode_tensors(encode_tensors(arrays), shapes, normalized=False)


def test_arrays_are_read_only_and_stored_as_float16(spec: Spec) -> None:
    for array in vars(spec.arrays).values():
        assert not array.flags.writeable
    again = decode_spec(*encode_spec(spec))
    for array in vars(again.arrays).values():
        assert not array.flags.writeable
    assert spec.image_embeddings.dtype == np.float16


def test_big_endian_and_strided_input_give_the_same_bytes(make_spec: small_spec.MakeSpec) -> None:
    images = small_spec.parts()["image_embeddings"]
    plain = make_spec()
    assert make_spec(image_embeddings=images.astype(">f8")) == plain
    assert make_spec(image_embeddings=np.repeat(images, 2, axis=1)[:, ::2]) == plain
    assert make_spec(image_prompt=np.array([0, 0, 1, 1], ">i8")) == plain


def test_blocks(make_spec: small_spec.MakeSpec) -> None:
    rng = np.random.default_rng(1)
    spec = make_spec(
        prompt_sets=[PromptSet("default", 1, ("a", "b")), PromptSet("own", 2, ("c",))],
        image_embeddings=rng.normal(size=(6, 4)),
        prompt_embeddings=rng.normal(size=(3, 3)),
        image_prompt=[0, 1, 0, 1, 2, 2],
    )
    assert spec.default_rows == slice(0, 4)
    assert [block.rows for block in spec.manifest.prompt_sets] == [(0, 4), (4, 6)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_embeddings": np.ones((3, 4))}, "image_embeddings"),
        ({"image_embeddings": np.ones((4, 5))}, "image_embeddings"),
        ({"prompt_embeddings": np.ones((3, 3))}, "prompt_embeddings"),
        ({"image_embeddings": np.full((4, 4), 1e6)}, "norm inf"),
        ({"image_embeddings": np.full((4, 4), np.nan)}, "norm nan"),
        ({"image_embeddings": np.zeros((4, 4))}, "norm 0"),
        ({"image_prompt": [0, 0, 0, 1]}, "once per seed"),
        ({"image_prompt": [0, 0, 1, 2]}, "once per seed"),
        ({"image_prompt": [0, 0.5, 1, 1]}, "32-bit"),
        ({"image_prompt": [0, 0, 1, 2**40]}, "32-bit"),
        ({"gamma": 0}, "greater than 0"),
        ({"prompt_sets": []}, "at least 1"),
    ],
)
def test_parts_that_do_not_fit(
    make_spec: small_spec.MakeSpec, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SpecFormatError, match=reason):
        make_spec(**change)


def test_a_large_specification_is_refused(make_spec: small_spec.MakeSpec) -> None:
    values = small_spec.parts()
    encoder = values["encoder"].model_copy(update={"image_dim": 8192})
    recipe = values["recipe"].model_copy(update={"seeds": tuple(range(600))})
    with pytest.raises(SpecFormatError, match="more than 16,777,216"):
        make_spec(
            encoder=encoder,
            recipe=recipe,
            image_embeddings=np.ones((1200, 8192), np.float16),
            image_prompt=np.repeat([0, 1], 600),
        )


def test_a_tampered_spec_is_not_written(spec: Spec) -> None:
    other = np.array(spec.image_embeddings)
    other[0, 0] += 1
    with pytest.raises(DigestMismatchError):
        encode_spec(dataclasses.replace(spec, image_embeddings=other))
    with pytest.raises(SpecFormatError, match="float64"):
        encode_spec(dataclasses.replace(spec, image_embeddings=other.astype(float)))


def test_expected_model(spec: Spec) -> None:
    files = encode_spec(spec)
    decode_spec(*files, expected=ModelRef.parse("hf:someone/model@another"))
    for other in ("hf:someone/else", "local:someone/model"):
        with pytest.raises(SpecFormatError, match="describes hf:someone/model") as caught:
            decode_spec(*files, expected=ModelRef.parse(other))
        assert other in (caught.value.hint or "")


def test_equality_is_that_of_digests(spec: Spec, make_spec: small_spec.MakeSpec) -> None:
    assert spec == make_spec()
    assert hash(spec) == hash(make_spec())
    assert spec != make_spec(gamma=0.03)
    assert spec != "spec"


@given(st.binary(max_size=300))
def test_any_bytes_as_tensors(data: bytes) -> None:
    spec = build_spec(**small_spec.parts())
    with pytest.raises(SpecFormatError):
        decode_spec(spec.manifest.to_bytes(), data)
    shapes: Any = {name: array.shape for name, array in vars(spec.arrays).items()}
    with pytest.raises(SpecFormatError):
        decode_tensors(data, shapes, normalized=False)


def test_storable_copies() -> None:
    source = np.ones((1, 1), np.float16)
    stored = storable(Arrays(source, source, np.zeros(1, np.int32)))
    source[0, 0] = 5
    assert stored.image_embeddings[0, 0] == 1
