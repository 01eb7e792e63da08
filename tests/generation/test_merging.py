"""Adapters that diffusers leaves out become part of the weights, by their papers' formulas."""

import pytest
import torch

from gmi_registry.errors import GenerationError
from gmi_registry.generation import load_model
from gmi_registry.generation.lora import set_lora_scale
from tests.support.lora_layouts import ATTENTION, RANK, Bases, kohya_names, write

pytestmark = pytest.mark.usefixtures("folders_loaded_once")

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
NAME = "lora_unet_" + LAYER.replace(".", "_")
CONVOLUTION = "down_blocks.1.resnets.0.conv1"
NORM = "down_blocks.1.attentions.0.transformer_blocks.0.norm1"


@pytest.fixture(scope="module")
def bases(model_store):
    return Bases(model_store)


@pytest.fixture(scope="module")
def plain(bases):
    return bases.pipeline("sd15").unet


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) / 2


def _weight(unet, layer):
    return unet.get_submodule(layer).weight.detach()


def _loaded(bases, tmp_path, tensors, **options):
    model = write(tmp_path / "adapter", tensors, bases.files("sd15"))
    return load_model(model, device="cpu", **options)


def _loha(weight):
    rows, columns = weight.shape
    a, b = _random(rows, RANK), _random(RANK, columns)
    c, d = _random(rows, RANK, seed=1), _random(RANK, columns, seed=1)
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    change = (a @ b) * (c @ d) / RANK
    return tensors | {"alpha": torch.tensor(1.0)}, lambda scale: weight + scale * change


def _lokr(weight):
    rows, columns = weight.shape
    one, left, right = _random(4, 4), _random(rows // 4, RANK), _random(RANK, columns // 4)
    tensors = {"lokr_w1": one, "lokr_w2_a": left, "lokr_w2_b": right}
    change = torch.kron(one, left @ right) * 3 / RANK
    return tensors | {"alpha": torch.tensor(3.0)}, lambda scale: weight + scale * change


def _lokr_whole(weight):
    rows, columns = weight.shape
    one, two = _random(4, 4), _random(rows // 4, columns // 4)
    change = torch.kron(one, two)  # alpha says nothing where nothing is decomposed
    tensors = {"lokr_w1": one, "lokr_w2": two, "alpha": torch.tensor(3.0)}
    return tensors, lambda scale: weight + scale * change


def _glora(weight):
    rows, columns = weight.shape
    a1, a2 = _random(columns, RANK), _random(RANK, columns)
    b1, b2 = _random(rows, RANK), _random(RANK, columns, seed=1)
    tensors = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2}
    change = (weight @ a1 @ a2 + b1 @ b2) / RANK
    return tensors | {"alpha": torch.tensor(1.0)}, lambda scale: weight + scale * change


def _oft(weight):
    size = 4
    blocks = _random(len(weight) // size, size, size) / 4
    skew = blocks - blocks.transpose(1, 2)
    one = torch.eye(size)
    turn = (one + skew) @ torch.linalg.inv(one - skew)
    parts = weight.view(-1, size, weight.shape[1])
    turned = torch.einsum("knm,kn...->km...", turn, parts).reshape(weight.shape)
    tensors = {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}
    return tensors, lambda scale: weight + scale * (turned - weight)


def _ia3(weight):
    vector = _random(weight.shape[1])
    tensors = {"weight": vector, "on_input": torch.tensor(1)}
    return tensors, lambda scale: weight * (1 + scale * vector)


def _ia3_of_outputs(weight):
    vector = _random(weight.shape[0])
    tensors = {"weight": vector, "on_input": torch.tensor(0)}
    return tensors, lambda scale: weight * (1 + scale * vector[:, None])


def _full(weight):
    change = _random(*weight.shape)
    return {"diff": change}, lambda scale: weight + scale * change


def _dora(weight, inputs=False):
    rows, columns = weight.shape
    down, up = _random(RANK, columns), _random(rows, RANK)
    magnitude = _random(1, columns).abs() if inputs else _random(rows, 1).abs()
    changed = weight + up @ down * 4 / RANK
    norm = changed.norm(dim=0 if inputs else 1, keepdim=True)
    tensors = {
        "lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(4.0),
        "dora_scale": magnitude,
    }  # fmt: skip
    decomposed = changed * magnitude / norm
    return tensors, lambda scale: weight + scale * (decomposed - weight)


ALGORITHMS = {
    "LoHa": _loha,
    "LoKr": _lokr,
    "LoKr, whole": _lokr_whole,
    "GLoRA": _glora,
    "OFT": _oft,
    "IA3": _ia3,
    "IA3 of outputs": _ia3_of_outputs,
    "full": _full,
    "DoRA": _dora,
    "DoRA of inputs": lambda weight: _dora(weight, inputs=True),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_layer_becomes_what_its_formula_says(algorithm, bases, plain, tmp_path):
    tensors, formula = ALGORITHMS[algorithm](_weight(plain, LAYER))
    named = {f"{NAME}.{role}": value for role, value in tensors.items()}
    loaded = _loaded(bases, tmp_path, named)
    assert loaded.lora_partial is None
    for scale in (1.0, 0.5, -2.0, 1.0):
        set_lora_scale(loaded.pipeline, scale)
        found = _weight(loaded.pipeline.unet, LAYER)
        torch.testing.assert_close(found, formula(scale), rtol=1e-4, atol=1e-4)
    for name, value in plain.named_parameters():
        if name != f"{LAYER}.weight":
            assert torch.equal(value, loaded.pipeline.unet.get_parameter(name)), name


def test_a_convolution_with_a_middle_factor(bases, plain, tmp_path):
    weight = _weight(plain, CONVOLUTION)
    rows, columns, height, width = weight.shape
    down, up = _random(RANK, columns, 1, 1), _random(rows, RANK, 1, 1)
    middle = _random(RANK, RANK, height, width)
    name = "lora_unet_" + CONVOLUTION.replace(".", "_")
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.lora_mid.weight": middle,
        f"{name}.alpha": torch.tensor(1.0),
    }
    change = torch.einsum("op,pqhw,qi->oihw", up[..., 0, 0], middle, down[..., 0, 0]) / RANK
    loaded = _loaded(bases, tmp_path, tensors, lora_scale=0.5)
    found = _weight(loaded.pipeline.unet, CONVOLUTION)
    torch.testing.assert_close(found, weight + change / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("roles", [("diff", "diff_b"), ("w_norm", "b_norm")])
def test_norms_and_biases_are_added(roles, bases, plain, tmp_path):
    norm = plain.get_submodule(NORM)
    change, bias = _random(*norm.weight.shape), _random(*norm.bias.shape, seed=1)
    name = "lora_unet_" + NORM.replace(".", "_")
    tensors = {f"{name}.{roles[0]}": change, f"{name}.{roles[1]}": bias}
    pipeline = _loaded(bases, tmp_path, tensors).pipeline
    found = pipeline.unet.get_submodule(NORM)
    torch.testing.assert_close(found.weight.detach(), norm.weight.detach() + change)
    torch.testing.assert_close(found.bias.detach(), norm.bias.detach() + bias)


def test_a_lora_with_a_bias_is_merged_with_it(bases, plain, tmp_path):
    made = bases.factors("sd15", unet=("conv1", "conv2"))
    tensors = kohya_names(made)
    shift = _random(len(_weight(plain, CONVOLUTION)))
    tensors["lora_unet_" + CONVOLUTION.replace(".", "_") + ".diff_b"] = shift
    pipeline = _loaded(bases, tmp_path, tensors).pipeline
    for (_, layer), (down, up) in made.of.items():
        before, after = plain.get_submodule(layer), pipeline.unet.get_submodule(layer)
        change = (up.flatten(1) @ down.flatten(1)).view(before.weight.shape) / RANK
        torch.testing.assert_close(after.weight.detach(), before.weight.detach() + change)
        moved = shift if layer == CONVOLUTION else 0
        torch.testing.assert_close(after.bias.detach(), before.bias.detach() + moved)


def test_a_layer_without_a_place_is_counted(bases, plain, tmp_path):
    tensors, _ = _loha(_weight(plain, LAYER))
    named = {f"{NAME}.{role}": value for role, value in tensors.items()}
    other = NAME.replace("blocks_1", "blocks_7", 1)
    more = {f"{other}.{role}": value for role, value in tensors.items()}
    with pytest.raises(GenerationError, match=r"1 of 2 layers \(5 of 10 tensors\)"):
        _loaded(bases, tmp_path, named | more)
    loaded = _loaded(bases, tmp_path, named | more, allow_partial=True)
    assert (loaded.lora_partial.applied, loaded.lora_partial.tensors) == (5, 10)


@pytest.mark.parametrize("change", ["rows", "columns", "one row"])
def test_tensors_that_do_not_fit_are_refused_and_not_stretched(change, bases, plain, tmp_path):
    tensors, _ = _loha(_weight(plain, LAYER))
    if change == "rows":
        tensors = {
            key: torch.cat([v, v]) if key.endswith("_a") else v for key, v in tensors.items()
        }
    elif change == "columns":
        tensors = {key: v[:, :3] if key.endswith("_b") else v for key, v in tensors.items()}
    else:
        tensors["hada_w1_a"] = tensors["hada_w1_a"][:1]
    with pytest.raises(GenerationError, match="does not fit its base model") as caught:
        _loaded(bases, tmp_path, {f"{NAME}.{role}": value for role, value in tensors.items()})
    assert "\n" not in caught.value.message


def test_the_original_names_of_sdxl_are_known(bases, tmp_path):
    """kohya's trainers call SDXL's layers by the names of the original code."""
    unet = bases.pipeline("sdxl").unet
    assert unet.config.layers_per_block == 1
    names = {
        "lora_unet_input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "lora_unet_input_blocks_2_0_op": "down_blocks.0.downsamplers.0.conv",
        "lora_unet_input_blocks_3_0_emb_layers_1": "down_blocks.1.resnets.0.time_emb_proj",
        "lora_unet_input_blocks_3_1_proj_in": "down_blocks.1.attentions.0.proj_in",
        "lora_unet_middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
        "lora_unet_middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
        "lora_unet_output_blocks_0_0_skip_connection": "up_blocks.0.resnets.0.conv_shortcut",
        "lora_unet_output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv",
        "lora_unet_time_embed_2": "time_embedding.linear_2",
        "lora_unet_label_emb_0_0": "add_embedding.linear_1",
        "lora_unet_out_2": "conv_out",
    }
    changes = {
        f"{name}.diff": _random(*_weight(unet, layer).shape) for name, layer in names.items()
    }
    model = write(tmp_path / "adapter", changes, bases.files("sdxl"))
    loaded = load_model(model, device="cpu")
    assert loaded.lora_partial is None
    for name, layer in names.items():
        expected = _weight(unet, layer) + changes[f"{name}.diff"]
        torch.testing.assert_close(_weight(loaded.pipeline.unet, layer), expected)


def test_images_follow_the_recipes_scale(bases, plain, tmp_path):
    from gmi_registry.generation import BatchCache, RecipeOverrides, default_recipe, generate

    changes = {
        f"lora_unet_{name.replace('.', '_')}.diff": _random(*module.weight.shape)
        for name, module in plain.named_modules()
        if name.endswith(ATTENTION)
    }
    model = write(tmp_path / "adapter", changes, bases.files("sd15"))
    pipeline = load_model(model, device="cpu").pipeline
    images = []
    for scale in (1.0, 0.25, 1.0):
        overrides = RecipeOverrides(steps=1, width=32, height=32, lora_scale=scale)
        recipe = default_recipe(pipeline, model, overrides)
        cache = BatchCache(tmp_path / f"work{len(images)}", model, recipe)
        images.append(generate(pipeline, ["a leopard"], recipe, cache=cache)[0].tobytes())
    assert images[0] != images[1]
    assert images[0] == images[2]
