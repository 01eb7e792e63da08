"""What is this file? The answer for every layout that people share, from its header alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.errors import HubError
from gmi_registry.weights import (
    DESCRIBED,
    Header,
    Tensor,
    architecture_title,
    identify,
    may_be,
    require_described,
)
from gmi_registry.weights.architectures import ARCHITECTURES
from gmi_registry.weights.identify import hints
from tests.support.layouts import ADAPTERS, FLUX, LAYOUTS, PARTS, SD1, XL, Layout, header


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_file_is(name: str) -> None:
    layout = LAYOUTS[name]
    file = identify(layout.header)
    assert (file.kind, layout.title in file.title) == (layout.kind, True), file
    found = {field: getattr(file, field) for field in layout.expected}
    assert found == layout.expected


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name.startswith("part: ")])
def test_a_part_is_refused_by_what_it_is_with_a_way_out(name: str) -> None:
    file = identify(LAYOUTS[name].header)
    assert re.match(r"(an?|the) |no ", file.title)
    with pytest.raises(HubError) as caught:
        require_described(file, "hf:ada/part")
    assert caught.value.message.startswith(f"hf:ada/part is {file.title}")
    assert caught.value.hint == hints()[file.kind]


@pytest.mark.parametrize("kind", sorted(set(hints()) - {"unknown"}))
def test_a_hint_is_about_its_kind(kind: str) -> None:
    assert kind not in DESCRIBED
    assert 20 < len(hints()[kind]) < 160
    assert kind in {layout.kind for layout in LAYOUTS.values()} | {"audio"}


def test_families_whose_layers_are_alike_may_be_each_other() -> None:
    assert may_be("flux1", "chroma")
    assert may_be("kolors", "sdxl")
    assert may_be(None, "sd1")
    assert may_be("sd1", None)
    assert not may_be("sdxl", "sd1")
    assert not may_be("flux1", "flux2")


def test_every_architecture_has_a_title() -> None:
    assert len({architecture_title(name) for name in ARCHITECTURES}) == len(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("whole: SD 1.5 for inpainting", "reads 9 channels, and 4 are the noise's"),
        ("whole: the refiner", "needs an image to begin with"),
        ("network: Wan", "Wan makes videos"),
        ("network: UNet without prompts", "takes no prompt"),
        ("adapter: Wan", "Wan makes videos"),
    ],
)
def test_a_model_that_makes_no_image_of_a_prompt_alone_is_refused(name: str, reason: str) -> None:
    with pytest.raises(HubError, match=reason):
        require_described(identify(LAYOUTS[name].header), "the model")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, (None, False)),
        ({"modelspec.prediction_type": "v"}, ("v_prediction", False)),
        ({"modelspec.prediction_type": "V-Prediction"}, ("v_prediction", False)),
        ({"modelspec.prediction_type": "epsilon"}, ("epsilon", False)),
        ({"ss_v_parameterization": "True"}, ("v_prediction", False)),
        ({"ss_v_parameterization": "False"}, (None, False)),
        ({"ss_zero_terminal_snr": "True"}, (None, True)),
        ({"ss_network_args": '{"v_parameterization": true}'}, ("v_prediction", False)),
        ({"ss_network_args": "[" * 100_000}, (None, False)),
    ],
)
def test_what_a_network_predicts(metadata: dict[str, str], expected: object) -> None:
    for rows in (SD1, ADAPTERS["kohya, SD 1.5"].rows):
        file = identify(header(rows, metadata=metadata))
        assert (file.prediction_type, file.zero_terminal_snr) == expected


@pytest.mark.parametrize(
    ("metadata", "claim", "name", "digest"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl_base_v1-0", None, None),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "flux-1-dev/lora", None, None),
        ({"ss_v2": "True", "ss_base_model_version": "None"}, "sd_v2", None, None),
        ({"ss_v2": "False"}, None, None, None),
        (
            {"ss_sd_model_name": "ponyV6.safetensors", "ss_sd_model_hash": "67ab2fd8ec"},
            None,
            "ponyV6.safetensors",
            "67ab2fd8ec",
        ),
        ({"ss_sd_model_hash": "a", "ss_new_sd_model_hash": "b" * 64}, None, None, "b" * 64),
        ({"ss_sd_model_name": "a\x1b[31m\nb"}, None, "a\\x1b[31m b", None),
    ],
)
def test_what_a_file_says_of_its_base(
    metadata: dict[str, str], claim: str | None, name: str | None, digest: str | None
) -> None:
    file = identify(header(XL, metadata=metadata))
    assert (file.base_claim, file.base_name, file.base_hash) == (claim, name, digest)


def test_layers_count_and_not_what_the_metadata_claim() -> None:
    file = identify(header(FLUX, metadata={"ss_base_model_version": "sd_v1"}))
    assert (file.architecture, file.base_claim) == ("flux1", "sd_v1")


@pytest.mark.parametrize("dtype", ["Q4_K", "Q8_0", "Q5_1", "IQ4_XS"])
def test_a_gguf_network_is_told_like_another(dtype: str) -> None:
    tensors = {
        name: Tensor(dtype if len(tensor.shape) > 1 else "F32", tensor.shape)
        for name, tensor in header(FLUX).tensors.items()
    }
    file = identify(Header("gguf", tensors, {"general.architecture": "flux"}))
    assert (file.kind, file.architecture, file.quantisation) == (
        "network",
        "flux1",
        f"GGUF {dtype}",
    )


def test_a_language_model_in_gguf_is_no_image_model() -> None:
    rows = "token_embd.weight 32000 4096\nblk.0.attn_q.weight 4096 4096\nblk.0.ffn_up.weight 1 1"
    file = identify(Header("gguf", header(rows, "Q4_K").tensors, {"general.architecture": "llama"}))
    assert (file.kind, file.is_described) == ("language-model", False)


def test_a_file_without_tensors_is_called_that() -> None:
    file = identify(Header("safetensors", {}, {}))
    assert (file.kind, file.is_described) == ("empty", False)


def test_names_of_strangers_are_shown_escaped_and_short() -> None:
    names = {"\x1b[2Jboo\n" + "x" * 900: Tensor("F16", (1,)), "b": Tensor("F16", (1, 2, 3))}
    file = identify(Header("safetensors", names, {}))
    assert file.kind == "unknown"
    assert file.title.isprintable()
    assert len(file.title) < 300


WORDS = sorted(
    {
        word
        for layout in LAYOUTS.values()
        for name in layout.header.tensors
        for word in re.split(r"[._]", name)
        if word
    }
)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=6),
            st.sampled_from("._"),
            st.lists(st.integers(0, 4000), max_size=5),
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_mixture_of_names_has_an_answer(parts: list[tuple[list[str], str, list[int]]]) -> None:
    names = {sign.join(words): Tensor("F16", tuple(sides)) for words, sign, sides in parts}
    file = identify(Header("safetensors", names, {}))
    assert file.title
    assert file.is_described or file.hint or file.refusal


@given(st.sampled_from(sorted(LAYOUTS)), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_tensors_does_not_matter(name: str, random: object) -> None:
    layout: Layout = LAYOUTS[name]
    rows = list(layout.header.tensors.items())
    random.shuffle(rows)  # type: ignore[attr-defined]
    if layout.kind != "unknown":  # whose title shows the first names
        one = identify(layout.header)
        other = identify(Header("safetensors", dict(rows), layout.metadata))
        shown = ("kind", "title", "architecture", "variant", "parts", "quantisation", "layers")
        assert [getattr(one, it) for it in shown] == [getattr(other, it) for it in shown]


def test_a_large_file_takes_no_time() -> None:
    rows = {
        f"model.diffusion_model.{name.replace('.0.', f'.{number}.')}": tensor
        for number in range(400)
        for name, tensor in header(FLUX).tensors.items()
    }
    assert identify(Header("safetensors", rows, {})).architecture == "flux1"
    assert len(PARTS) > 40
