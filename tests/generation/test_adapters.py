"""Every tensor of a LoRA file is accounted for, whatever its layout."""

import json
import logging
import math
import re
import warnings

import pytest
import torch

from gmi_registry.errors import GenerationError, GmiError, InputError
from gmi_registry.generation import RecipeOverrides, check_model, default_recipe, load_model
from gmi_registry.generation.lora import apply_lora, set_lora_scale
from tests.support.lora_layouts import (
    ATTENTION,
    RANK,
    T5,
    TEXT,
    Bases,
    Factors,
    attention_processors,
    diffusers_names,
    kohya_names,
    weight_now,
    write,
)

pytestmark = pytest.mark.usefixtures("folders_loaded_once")

CONVOLUTIONS = (*ATTENTION, "conv1", "conv_shortcut", "time_emb_proj", "proj_in")


@pytest.fixture(scope="module")
def bases(model_store):
    return Bases(model_store)


def _expected(bases, base, made, scale):
    for (part, layer), (down, up) in made.of.items():
        before = getattr(bases.pipeline(base), part).get_submodule(layer).weight.detach()
        change = (up.flatten(1) @ down.flatten(1)).view(before.shape)
        yield part, layer, before + scale * change


def _require_effect(pipeline, bases, base, made, scale=1.0):
    for part, layer, expected in _expected(bases, base, made, scale):
        found = weight_now(pipeline, part, layer)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def _with_alphas(tensors, alpha=1.0):
    names = {key.rpartition(".lora_")[0] for key in tensors}
    return tensors | {f"{name}.alpha": torch.tensor(alpha) for name in names}


LAYOUTS = {
    "diffusers": ("sd15", {"unet": CONVOLUTIONS}, diffusers_names, 1.0),
    "diffusers, text encoder": (
        "sd15", {"unet": ATTENTION, "text_encoder": TEXT}, diffusers_names, 1.0,
    ),
    "lora.down": (
        "sd15", {"unet": ATTENTION}, lambda made: diffusers_names(made, "lora.down", "lora.up"), 1.0
    ),
    "attention processors": ("sd15", {"unet": ATTENTION}, attention_processors, 1.0),
    "PEFT": (
        "sd15",
        {"unet": ATTENTION},
        lambda made: diffusers_names(made, prefix="base_model.model."),
        1.0,
    ),
    "PEFT's adapter name": (
        "sd15",
        {"unet": ATTENTION},
        lambda made: diffusers_names(made, "lora_A.default", "lora_B.default"),
        1.0,
    ),
    "no prefix": ("sd15", {"unet": ATTENTION}, lambda made: diffusers_names(made, prefix=""), 1.0),
    "diffusers' names with alphas": (
        "sd15", {"unet": ATTENTION}, lambda made: _with_alphas(diffusers_names(made)), 1 / RANK
    ),
    "kohya": ("sd15", {"unet": CONVOLUTIONS}, kohya_names, 1 / RANK),
    "kohya without alphas": (
        "sd15", {"unet": ATTENTION}, lambda made: kohya_names(made, alpha=None), 1.0
    ),
    # diffusers 0.42 with transformers 5 leaves out the attention of these text encoders.
    "kohya, text encoder": (
        "sd15",
        {"unet": ATTENTION, "text_encoder": TEXT},
        lambda made: kohya_names(made, prefixes={"text_encoder": "lora_te_"}),
        1 / RANK,
    ),
    "SDXL, kohya, both text encoders": (
        "sdxl",
        {"unet": ATTENTION, "text_encoder": TEXT, "text_encoder_2": TEXT},
        kohya_names,
        1 / RANK,
    ),
    "SDXL, both text encoders": (
        "sdxl",
        {"unet": ATTENTION, "text_encoder": TEXT, "text_encoder_2": TEXT},
        diffusers_names,
        1.0,
    ),
    "SD 3, T5 too": (
        "sd3",
        {"transformer": ATTENTION, "text_encoder": TEXT, "text_encoder_3": T5},
        diffusers_names,
        1.0,
    ),
    "SD 3, kohya, T5": ("sd3", {"text_encoder_3": T5}, kohya_names, 1 / RANK),
    "FLUX.1": ("flux1-dev", {"transformer": ATTENTION}, diffusers_names, 1.0),
    "FLUX.1 with alphas": (
        "flux1-dev",
        {"transformer": ATTENTION},
        lambda made: _with_alphas(diffusers_names(made), 3.0),
        3 / RANK,
    ),
    "FLUX.1, both text encoders": (
        "flux1-dev",
        {"transformer": ATTENTION, "text_encoder": TEXT, "text_encoder_2": T5},
        diffusers_names,
        1.0,
    ),
    "FLUX.1, OneTrainer": (
        "flux1-dev",
        {"transformer": ATTENTION, "text_encoder": TEXT},
        lambda made: kohya_names(made, prefixes={"transformer": "lora_transformer_"}),
        1 / RANK,
    ),
    "FLUX.1, ComfyUI": (
        "flux1-dev",
        {"transformer": ATTENTION},
        lambda made: diffusers_names(made, prefix="diffusion_model."),
        1.0,
    ),
    "Z-Image, AI-toolkit": (
        "z-image",
        {"transformer": ATTENTION},
        lambda made: _with_alphas(diffusers_names(made, prefix="diffusion_model.")),
        1 / RANK,
    ),
    "Qwen-Image, kohya": ("qwen-image", {"transformer": ATTENTION}, kohya_names, 1 / RANK),
    "AuraFlow with alphas": (
        "auraflow",
        {"transformer": ATTENTION},
        lambda made: _with_alphas(diffusers_names(made)),
        1 / RANK,
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lora_of_any_layout_is_applied_as_a_whole(layout, bases, tmp_path):
    base, parts, names, scale = LAYOUTS[layout]
    made = bases.factors(base, **parts)
    loaded = load_model(write(tmp_path / "lora", names(made), bases.files(base)), device="cpu")
    assert loaded.lora_partial is None
    assert not loaded.notes
    _require_effect(loaded.pipeline, bases, base, made, scale)
    set_lora_scale(loaded.pipeline, 0.5)
    _require_effect(loaded.pipeline, bases, base, made, scale / 2)


@pytest.mark.parametrize(
    "layout",
    [
        "attention processors",
        "kohya",
        "SDXL, kohya, both text encoders",
        "SD 3, T5 too",
        "FLUX.1, OneTrainer",
        "Qwen-Image, kohya",
    ],
)
def test_a_layer_without_a_place_is_counted_in_any_layout(layout, bases, tmp_path):
    base, parts, names, _ = LAYOUTS[layout]
    made = bases.factors(base, **parts)
    (part, layer), pair = next(iter(made.of.items()))
    stranger = (part, re.sub(r"\d+", "77", layer, count=1))
    fitting, tensors = names(made), names(Factors(made.of | {stranger: pair}))
    lost, files = len(tensors) - len(fitting), bases.files(base)
    model = write(tmp_path / "lora", tensors, files)
    both = f"1 of {len(made.of) + 1:,} layers ({lost} of {len(tensors):,} tensors)"
    if layout == "attention processors":  # the count is the same, whether it is allowed or not
        with pytest.raises(GenerationError) as caught:
            load_model(model, device="cpu")
        assert both in caught.value.message
        assert "77" in caught.value.message
        assert "--allow-partial" in caught.value.hint
    loaded = load_model(model, device="cpu", allow_partial=True)
    assert loaded.lora_partial.applied == len(fitting)
    assert loaded.lora_partial.tensors == len(tensors)
    assert both in loaded.notes[0]
    assert "77" in loaded.notes[0]
    _require_effect(loaded.pipeline, bases, base, made, LAYOUTS[layout][3])


@pytest.mark.parametrize(("dtype", "alpha"), [("bfloat16", 3.0), ("float16", 1.0)])
def test_rounding_is_no_loss(dtype, alpha, bases, tmp_path):
    made = bases.factors("sd15", unet=CONVOLUTIONS, text_encoder=TEXT)
    tensors = kohya_names(made, alpha, prefixes={"text_encoder": "lora_te_"})
    halved = {key: value.to(getattr(torch, dtype)) for key, value in tensors.items()}
    for name, content in (("half", halved), ("full", tensors)):
        model = write(tmp_path / name, content, bases.files("sd15"))
        assert load_model(model, device="cpu", dtype="bfloat16").lora_partial is None


def test_another_scale_is_a_loss(bases, tmp_path, monkeypatch):
    """What is compared is the change, alpha included: a reader that drops alphas is found out."""
    from gmi_registry.generation import lora
    from gmi_registry.generation.lora_layers import read_lora_file

    made = bases.factors("sd15", unet=ATTENTION)
    model = write(tmp_path / "lora", kohya_names(made, 4.0), bases.files("sd15"))
    pipeline = load_model(model, device="cpu").pipeline
    file = read_lora_file(model.path / "style.safetensors", "it")
    assert lora.unapplied(file, pipeline, "gmi") == []
    layer = next(m for m in pipeline.unet.modules() if "gmi" in getattr(m, "scaling", {}))
    layer.scaling["gmi"] *= 1.1
    assert len(lora.unapplied(file, pipeline, "gmi")) == 3
    layer.scaling["gmi"] /= 1.1
    with torch.no_grad():
        layer.lora_B["gmi"].weight[-1] += 0.01
    assert len(lora.unapplied(file, pipeline, "gmi")) == 3


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_the_scale_that_peft_writes_beside_a_file_counts(rank_stabilised, bases, tmp_path):
    made = bases.factors("sd15", unet=ATTENTION)
    model = write(
        tmp_path / "lora",
        diffusers_names(made, prefix="base_model.model."),
        bases.files("sd15"),
        file="adapter_model.safetensors",
    )
    config = {"r": RANK, "lora_alpha": 8, "use_rslora": rank_stabilised}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    loaded = load_model(model, device="cpu")
    scale = 8 / math.sqrt(RANK) if rank_stabilised else 8 / RANK
    _require_effect(loaded.pipeline, bases, "sd15", made, scale)


def test_the_scale_in_the_header_that_diffusers_writes_counts(bases, tmp_path):
    made = bases.factors("sd15", unet=("to_q", "to_v"))
    stated = {
        "unet.r": RANK, "unet.lora_alpha": 6, "unet.target_modules": ["to_q", "to_v"],
    }  # fmt: skip
    metadata = {"lora_adapter_metadata": json.dumps(stated)}
    files = bases.files("sd15")
    model = write(tmp_path / "lora", diffusers_names(made), files, metadata=metadata)
    loaded = load_model(model, device="cpu")
    _require_effect(loaded.pipeline, bases, "sd15", made, 6 / RANK)


def _flux_of_real_width():
    """FLUX.1 of two blocks, whose weights are never touched: memory that the system need not give.

    diffusers' reader of kohya's layout knows the real width alone.
    """
    import diffusers

    with torch.device("meta"):
        network = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    nothing = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"), None
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=network.to(torch.bfloat16).to_empty(device="cpu"),
        **nothing,
    )


FUSED = {
    "double_blocks.0.img_attn.qkv": (3 * 3072, 3072),
    "double_blocks.0.txt_attn.proj": (3072, 3072),
    "double_blocks.0.img_mlp.0": (4 * 3072, 3072),
    "single_blocks.0.linear1": (7 * 3072, 3072),
    "single_blocks.0.linear2": (3072, 5 * 3072),
}


@pytest.mark.parametrize(
    ("prefix", "down", "up", "alpha"),
    [
        ("lora_unet_", "lora_down", "lora_up", 3.0),
        ("diffusion_model.", "lora_A", "lora_B", None),
        ("", "lora_A", "lora_B", 8.0),
        ("base_model.model.", "lora_A", "lora_B", None),
    ],
)
def test_layers_that_are_several_of_the_bases_are_split_and_counted(
    prefix, down, up, alpha, tmp_path
):
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer, (rows, columns) in FUSED.items():
        name = prefix + (layer.replace(".", "_") if prefix == "lora_unet_" else layer)
        tensors[f"{name}.{down}.weight"] = torch.randn(2, columns, generator=generator).half() / 50
        tensors[f"{name}.{up}.weight"] = torch.randn(rows, 2, generator=generator).half() / 50
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    pipeline = _flux_of_real_width()
    assert apply_lora(pipeline, write(tmp_path / "lora", tensors, None)) == (None, [])
    module = pipeline.transformer.get_submodule("single_transformer_blocks.0.attn.to_v")
    key = next(key for key in tensors if "linear1" in key and up in key)
    change = tensors[key][2 * 3072 : 3 * 3072].float() @ tensors[key.replace(up, down)].float()
    change *= 1 if alpha is None else alpha / 2
    torch.testing.assert_close(module.get_delta_weight("gmi").float(), change, rtol=0.05, atol=2e-4)


def test_a_block_of_another_flux_is_counted(tmp_path):
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for number in (0, 5):
        name = f"lora_unet_double_blocks_{number}_img_attn_qkv"
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, 3072, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(3 * 3072, 2, generator=generator)
    with pytest.raises(GenerationError, match=r"1 of 2 layers \(2 of 4 tensors\)"):
        apply_lora(_flux_of_real_width(), write(tmp_path / "lora", tensors, None))


def test_xlabs_layers_are_counted(bases, tmp_path):
    width = bases.pipeline("flux1-dev").transformer.config.attention_head_dim * 2
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, rows in (("qkv_lora1", 3 * width), ("proj_lora2", width)):
        key = f"double_blocks.0.processor.{name}"
        tensors[f"{key}.down.weight"] = torch.randn(RANK, width, generator=generator)
        tensors[f"{key}.up.weight"] = torch.randn(rows, RANK, generator=generator)
    model = write(tmp_path / "lora", tensors, bases.files("flux1-dev"))
    assert load_model(model, device="cpu").lora_partial is None


# ---- files that are refused before anything is loaded


def _spoiled(bases, change):
    tensors = kohya_names(bases.factors("sd15", unet=ATTENTION), 1.0)
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    change(tensors, key)
    return tensors


def _spoil_nan(tensors, key):
    tensors[key][3, 1] = torch.nan


def _spoil_rank(tensors, key):
    tensors[key] = torch.ones(len(tensors[key]), 5)


def _spoil_alphas(tensors, key):
    tensors.update({name: torch.zeros(()) for name in tensors if name.endswith("alpha")})


def _spoil_ups(tensors, key):
    tensors.update({name: tensors[name] * 0 for name in tensors if name.endswith("up.weight")})


def _spoil_pair(tensors, key):
    del tensors[key]


def _spoil_shape(tensors, key):
    tensors[key] = torch.ones(3)


def _spoil_type(tensors, key):
    tensors[key] = (tensors[key] * 10).to(torch.int8)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil_nan, r"tensor lora_unet_\S+lora_up\.weight holds numbers that are not finite"),
        (_spoil_rank, "has a down factor of rank 2 and an up factor of rank 5"),
        (_spoil_alphas, "has no effect: its alphas are 0 in all"),
        (_spoil_ups, "has no effect: its factors are 0 in all"),
        (_spoil_pair, "has the down factor of a LoRA without the up factor"),
        (_spoil_shape, "which are not matrices"),
        (_spoil_type, r"a factor of whole numbers \(int8\): a LoRA that is quantised"),
    ],
)
def test_a_damaged_lora_is_refused_in_one_line(spoil, said, bases, tmp_path, monkeypatch):
    from gmi_registry.generation import lora

    monkeypatch.setattr(lora, "merge_adapter", None)  # nothing is put on the base
    model = write(tmp_path / "lora", _spoiled(bases, spoil), bases.files("sd15"))
    pipeline = bases.pipeline("sd15")
    with pytest.raises(GenerationError, match=said) as caught:
        apply_lora(pipeline, model)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert not any(pipeline.get_list_adapters().values())


def test_libraries_say_nothing_of_the_attempts(bases, tmp_path, caplog, monkeypatch):
    """Else a line for each tensor that does not fit, and one for each alpha unknown to PEFT."""
    made = bases.factors("sd15", unet=ATTENTION)
    tensors = {
        key: value[:, :-1] if key.endswith("lora_A.weight") else value
        for key, value in diffusers_names(made).items()
    }
    model = write(tmp_path / "lora", tensors, bases.files("sd15"))
    logger = logging.getLogger("diffusers")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        with pytest.raises(GenerationError):
            load_model(model, device="cpu")
    assert caplog.records == []
    assert [it for it in said if it.category is RuntimeWarning] == []


def test_a_lora_on_a_lora_is_refused(bases, tmp_path):
    """diffusers would load one in the place of the other, and the recipe would name both."""
    tensors = kohya_names(bases.factors("sd15", unet=ATTENTION))
    below = write(tmp_path / "below", tensors, bases.files("sd15"))
    model = write(tmp_path / "above", tensors, below)
    for refuse in (check_model, lambda model: load_model(model, device="cpu")):
        with pytest.raises(GenerationError, match="is a LoRA itself") as caught:
            refuse(model)
        assert f"--base {bases.files('sd15').ref.without_revision}" in caught.value.hint


def test_layers_of_no_effect_need_no_place(bases, tmp_path):
    made = bases.factors("sd15", unet=ATTENTION)
    tensors = kohya_names(made)
    for key in list(tensors):
        if "down_blocks_1" in key:
            tensors[key.replace("down_blocks_1", "down_blocks_9")] = tensors[key] * 0
    model = write(tmp_path / "lora", tensors, bases.files("sd15"))
    assert load_model(model, device="cpu").lora_partial is None


def test_a_scale_of_0_is_refused(bases):
    files = bases.files("sd15")
    with pytest.raises(InputError, match="a LoRA of scale 0 has no effect"):
        default_recipe(bases.pipeline("sd15"), files, RecipeOverrides(lora_scale=0.0))


@pytest.mark.parametrize("strangers", [1, 5])
def test_layers_that_are_all_the_same_are_counted_one_by_one(strangers, bases, tmp_path):
    made = bases.factors("sd15", unet=ATTENTION)
    same = {
        place: (torch.ones_like(down), torch.ones_like(up)) for place, (down, up) in made.of.items()
    }
    model = write(tmp_path / "same", diffusers_names(Factors(same)), bases.files("sd15"))
    assert load_model(model, device="cpu").lora_partial is None
    first = next(iter(same.values()))
    more = {("unet", f"down_blocks.9{n}.attn1.to_q"): first for n in range(strangers)}
    model = write(tmp_path / "more", diffusers_names(Factors(same | more)), bases.files("sd15"))
    with pytest.raises(GenerationError) as caught:
        load_model(model, device="cpu")
    assert f"no place for {strangers} of {len(same) + strangers} layers" in caught.value.message
    assert "such as unet.down_blocks.90" in caught.value.message


def test_a_key_of_no_layer_is_counted(bases, tmp_path):
    tensors = kohya_names(bases.factors("sd15", unet=ATTENTION))
    model = write(
        tmp_path / "lora", tensors | {"lora_unet_x.weird": torch.ones(3)}, bases.files("sd15")
    )
    with pytest.raises(GenerationError, match=r"such as lora_unet_x\.weird"):
        load_model(model, device="cpu")


def test_a_lora_for_another_architecture_is_refused_before_its_base_is_loaded(bases, tmp_path):
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{key}.lora_down.weight": torch.ones(2, 2048),
        f"{key}.lora_up.weight": torch.ones(640, 2),
    }
    with pytest.raises(GmiError, match="SDXL") as caught:
        check_model(write(tmp_path / "lora", tensors, bases.files("sd15")))
    assert "--base" in caught.value.hint
