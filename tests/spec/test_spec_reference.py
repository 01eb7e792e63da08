"""Names of models and encoders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.errors import InputError
from gmi_registry.spec import EncoderRef, ModelRef, Spec


@given(st.text(max_size=60) | st.from_regex(r"(hf|civitai|local):[ -~]{0,40}", fullmatch=True))
def test_any_text_is_a_model_that_prints_the_same_or_an_input_error(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except InputError:
        return
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "owner/name",
        "hf:",
        "HF:owner/name",
        "hf:a/b/c",
        "hf:../name",
        "hf:a/..",
        "hf:-a/b",
        "hf:a/b-",
        "hf:a--b/c",
        "hf:a/b@",
        "hf:a/b@../x",
        "hf:a/b@main.",
        "hf:a/b@x//y",
        "hf:a/b@" + "x" * 201,
        "hf:a b/c",
        "hf:a/b\n",
        "hf:" + "a" * 97,
        "civitai:name",
        "civitai:0",
        "civitai:12@main",
        "civitai:１２",
        "local:name@XYZ",
        "local:name@0123",
        "ftp:a/b",
        "urn:air:sdxl:lora:elsewhere:1@2",
    ],
)
def test_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InputError) as caught:
        ModelRef.parse(text)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_air_and_back() -> None:
    ref = ModelRef.parse("civitai:123@456")
    assert ref.air("sdxl", "lora") == "urn:air:sdxl:lora:civitai:123@456"
    assert ModelRef.parse(ref.air("sdxl", "lora")) == ref
    assert ref.without_revision == ModelRef("civitai", "123")


@pytest.mark.parametrize(
    ("text", "ecosystem"), [("civitai:123", "sdxl"), ("hf:a/b@c", "sdxl"), ("civitai:1@2", "SD:XL")]
)
def test_no_air(text: str, ecosystem: str) -> None:
    with pytest.raises(InputError):
        ModelRef.parse(text).air(ecosystem, "lora")


def test_encoder_id_covers_every_known_field_and_no_other(spec: Spec) -> None:
    encoder = spec.manifest.encoder
    values = encoder.model_dump()
    assert len(encoder.id) == 16
    assert EncoderRef(**values).id == encoder.id
    assert EncoderRef(**values, later="x").id == encoder.id
    for change in (
        {"name": "other"},
        {"weights_sha256": "3" * 64},
        {"normalized": True},
        {"preprocess": {**values["preprocess"], "size": 33}},
    ):
        assert EncoderRef(**{**values, **change}).id != encoder.id
