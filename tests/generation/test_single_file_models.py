"""Single files: what is in them is used, what is missing is the base's, all else is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmi_registry.errors import GenerationError, GmiError, install_command
from gmi_registry.generation import check_model, default_recipe, load_model
from gmi_registry.model import ModelFiles
from tests.support.models.files import architecture_folder, model_files
from tests.support.models.originals import SINGLE_FILES

pytestmark = pytest.mark.usefixtures("folders_loaded_once")

Tensors = dict[str, torch.Tensor]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
LINEAR = f"{UNET}input_blocks.3.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="session")
def bases(model_store):
    """Tiny diffusers folders by architecture, with their digests; loaded ones are kept, too."""
    known: dict[str, ModelFiles] = {}

    def base(name: str) -> ModelFiles:
        if name not in known:
            known[name] = model_files(architecture_folder(model_store, name), name)
        return known[name]

    return base


@pytest.fixture(scope="session")
def tensors_of(model_store):
    """The tensors of an architecture's single file, in a dict that a test may change."""
    known: dict[str, Tensors] = {}

    def tensors(name: str) -> Tensors:
        if name not in known:
            known[name] = SINGLE_FILES[name](architecture_folder(model_store, name))
        return dict(known[name])

    return tensors


@pytest.fixture
def saved(tmp_path, bases):
    """Write tensors as a single file on a base, as a hub hands it over."""

    def save(
        tensors: Tensors,
        base: str | ModelFiles = "sd15",
        metadata: dict[str, str] | None = None,
        name: str = "model",
        **card: Any,
    ) -> ModelFiles:
        path = tmp_path / f"{name}.safetensors"
        copies = {key: value.contiguous().clone() for key, value in tensors.items()}
        save_file(copies, path, metadata=metadata or {"format": "pt"})
        below = bases(base) if isinstance(base, str) else base
        return model_files(path, name, "single-file", base=below, **card)

    return save


def state(pipeline: Any, component: str = "unet") -> Tensors:
    return getattr(pipeline, component).state_dict()


def refusal(model: ModelFiles, **options: Any) -> GmiError:
    with pytest.raises(GmiError) as caught:
        load_model(model, device="cpu", **options)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert "download is complete" not in caught.value.hint
    return caught.value


# ---- what a file holds


@pytest.mark.parametrize("name", ["sd2-v", "sdxl", "sd3", "z-image"])
def test_what_the_file_holds_comes_from_the_file(bases, tensors_of, saved, name):
    """Every tensor is doubled in the file, so that the base's own would show."""
    doubled = {key: value * 2 for key, value in tensors_of(name).items()}
    ours = load_model(saved(doubled, name), device="cpu").pipeline
    theirs = load_model(bases(name), device="cpu").pipeline
    in_file = {"sd3": {"text_encoder", "text_encoder_2", "text_encoder_3"}}.get(name, set())
    whole = {"unet", "vae", "text_encoder", "text_encoder_2"} if name.startswith("sd") else set()
    for component, module in theirs.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        from_file = component in {"unet", "transformer"} | in_file | whole
        for key, value in module.state_dict().items():
            if component == "text_encoder" and key == "text_projection.weight":
                value = torch.eye(len(value)) / 2  # CLIP-L of Stable Diffusion 3 has none in files
            torch.testing.assert_close(state(ours, component)[key], value * (1 + from_file))


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_a_network_alone_is_completed_by_its_base(bases, tensors_of, saved, prefix):
    network = {
        prefix + key.removeprefix(UNET): value + 1
        for key, value in tensors_of("sdxl").items()
        if key.startswith(UNET)
    }
    loaded = load_model(saved(network, "sdxl"), device="cpu")
    base = load_model(bases("sdxl"), device="cpu").pipeline
    for key, value in state(base).items():
        torch.testing.assert_close(state(loaded.pipeline)[key], value + 1)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        for key, value in state(base, part).items():
            assert torch.equal(state(loaded.pipeline, part)[key], value)


def test_a_network_under_diffusers_names_is_completed_by_its_base(bases, saved):
    for name, part in (("sd15", "unet"), ("pixart-sigma", "transformer")):
        folder = bases(name).path / part
        network = load_file(next(folder.glob("*.safetensors")))
        loaded = load_model(saved(network, name), device="cpu", dtype="bfloat16").pipeline
        for key, value in network.items():
            assert torch.equal(state(loaded, part)[key], value.to(torch.bfloat16))


def test_a_network_in_a_folder_of_its_own_takes_the_place_of_its_bases(bases, tmp_path):
    folder = shutil.copytree(bases("sd3").path / "transformer", tmp_path / "network")
    path = next(folder.glob("*.safetensors"))
    save_file({key: it + 1 for key, it in load_file(path).items()}, path)
    model = model_files(folder, "network", "single-file", base=bases("sd3"))
    loaded = load_model(model, device="cpu").pipeline
    base = load_model(bases("sd3"), device="cpu").pipeline
    for key, value in state(base, "transformer").items():
        torch.testing.assert_close(state(loaded, "transformer")[key], value + 1)
    other = replace(model, base=bases("sd15"))
    assert "is a SD3Transformer2DModel, and the network of its base" in refusal(other).message


def test_the_real_flux_is_matched_by_its_header_alone(tmp_path):
    """Its converter counts on the real sizes, of which no test has the weights."""
    import diffusers
    from accelerate import init_empty_weights

    from gmi_registry.generation.single_file_parts import match_parts
    from gmi_registry.weights import Header, Tensor
    from gmi_registry.weights.quantisation import Scales

    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    wide = 3072
    for name, size in (("time_in", 256), ("guidance_in", 256), ("vector_in", 768)):
        linear(f"{name}.in_layer", wide, size)
        linear(f"{name}.out_layer", wide, wide)
    linear("txt_in", wide, 4096)
    linear("img_in", wide, 64)
    linear("final_layer.linear", 64, wide)
    linear("final_layer.adaLN_modulation.1", 2 * wide, wide)
    for block in range(19):
        for side in ("img", "txt"):
            stem = f"double_blocks.{block}.{side}"
            for name, rows, columns in (
                ("mod.lin", 6, 1), ("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.0", 4, 1),
                ("mlp.2", 1, 4),
            ):  # fmt: skip
                linear(f"{stem}_{name}", rows * wide, columns * wide)
            for part in ("query", "key"):
                shapes[f"{stem}_attn.norm.{part}_norm.scale"] = (128,)
    for block in range(38):
        stem = f"single_blocks.{block}"
        for name, rows, columns in (("modulation.lin", 3, 1), ("linear1", 7, 1), ("linear2", 1, 5)):
            linear(f"{stem}.{name}", rows * wide, columns * wide)
        for part in ("query", "key"):
            shapes[f"{stem}.norm.{part}_norm.scale"] = (128,)
    with init_empty_weights():
        diffusers.FluxTransformer2DModel(guidance_embeds=True).save_config(tmp_path / "transformer")
    index = {"transformer": ["diffusers", "FluxTransformer2DModel"]}
    base = model_files(tmp_path, "flux")
    model = model_files(tmp_path, "file", "single-file", base=base)

    def match(names: dict[str, tuple[int, ...]]) -> int:
        header = Header(
            "safetensors", {UNET + key: Tensor("BF16", it) for key, it in names.items()}
        )
        parts, _ = match_parts(model, header, Scales({}, frozenset()), base, index)
        return len(parts[0].expected)

    assert match(shapes) == 1160
    schnell = {key: it for key, it in shapes.items() if not key.startswith("guidance_in")}
    with pytest.raises(GenerationError, match="4 of 1,160 tensors missing"):
        match(schnell)


def test_a_base_without_weights_cannot_complete_a_network(bases, tensors_of, saved):
    bare = replace(bases("sd15"), weights=())
    network = {key: it for key, it in tensors_of("sd15").items() if key.startswith(UNET)}
    error = refusal(saved(network, bare))
    assert "without text encoders and VAE" in error.message
    assert "it has no text_encoder, vae" in error.message
    assert "is here without these weights" in error.message
    # A whole file needs nothing of it.
    assert load_model(saved(tensors_of("sd15"), bare), device="cpu").notes == ()


def test_parts_that_a_file_lacks_are_taken_from_the_base_and_named(bases, tensors_of, saved):
    without = {key: it for key, it in tensors_of("sd3").items() if "t5xxl" not in key}
    loaded = load_model(saved(without, "sd3"), device="cpu")
    assert any("has no text_encoder_3: taken from its base model" in it for it in loaded.notes)
    base = load_model(bases("sd3"), device="cpu").pipeline
    for key, value in state(base, "text_encoder_3").items():
        assert torch.equal(state(loaded.pipeline, "text_encoder_3")[key], value)


def test_moving_averages_and_marks_are_left_out(tensors_of, saved):
    tensors = tensors_of("sd15")
    average = {f"model_ema.{key[6:].replace('.', '')}": it + 1 for key, it in tensors.items()}
    beside = {
        "betas": torch.zeros(10), "model.alphas_cumprod": torch.ones(10), "ztsnr": torch.zeros(0),
        "model_ema.num_updates": torch.ones(()), f"{VAE}loss.discriminator.weight": torch.ones(3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }  # fmt: skip
    loaded = load_model(saved(tensors | average | beside), device="cpu")
    assert torch.equal(
        state(loaded.pipeline)["conv_in.bias"], tensors[f"{UNET}input_blocks.0.0.bias"]
    )
    assert len([it for it in loaded.notes if "moving average (EMA)" in it]) == 1


def test_other_tensors_are_counted_in_a_note(tensors_of, saved):
    strange = {f"mystery.{number}.weight": torch.ones(2) for number in range(5)}
    loaded = load_model(saved(tensors_of("sd15") | strange), device="cpu")
    assert "5 of the file's" in loaded.notes[0]
    assert "mystery.0.weight, mystery.1.weight, mystery.2.weight, …" in loaded.notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it.pop(LINEAR), "1 of 208 tensors missing (down_blocks.1"),
        (
            lambda it: it.update({LINEAR: torch.ones(3, 3)}),
            "1 tensor of another shape or type (down_blocks.1",
        ),
        (
            lambda it: it.update({f"{UNET}input_blocks.9.0.in_layers.2.weight": torch.ones(1)}),
            f"1 tensor of no layer of it ({UNET}input_blocks.9.0",
        ),
        (lambda it: it.update({LINEAR: it[LINEAR].long()}), f"type ({LINEAR} in I64"),
        (lambda it: it.update({f"{UNET}label_emb.0.0.weight": torch.ones(1)}), "label_emb.0.0"),
        (lambda it: it.pop(f"{VAE}decoder.conv_in.bias"), "decoder.conv_in.bias"),
        (
            lambda it: it.pop(next(key for key in it if key.startswith("cond_stage"))),
            "text encoder cond_stage_model does not fit the text_encoder (CLIPTextModel)",
        ),
    ],
)
def test_a_file_that_fits_its_base_in_part_only_is_refused(tensors_of, saved, change, words):
    tensors = tensors_of("sd15")
    change(tensors)
    error = refusal(saved(tensors))
    assert "is a checkpoint of S" in error.message
    assert ", whose " in error.message
    assert words in error.message
    assert "--base REPO" in error.hint


@pytest.mark.parametrize(("name", "base"), [("sdxl", "sd15"), ("sd15", "sdxl"), ("sd15", "sd3")])
def test_a_file_for_another_base_is_refused(tensors_of, saved, name, base):
    error = refusal(saved(tensors_of(name), base))
    assert "does not fit" in error.message
    assert "correct base_model" in error.hint


def test_other_files_and_broken_ones_are_called_what_they_are(tensors_of, saved, tmp_path):
    def told(model: ModelFiles) -> str:
        with pytest.raises(GmiError) as caught:
            check_model(model)
        assert caught.value.message == refusal(model).message
        return caught.value.message

    coder = {key.removeprefix(VAE): it for key, it in tensors_of("sd15").items() if VAE in key}
    assert "is a VAE" in told(saved(coder))
    cut = saved(tensors_of("sd15"), name="cut")
    cut.path.write_bytes(cut.path.read_bytes()[:-100])
    assert "cut short" in told(cut)
    page = saved(tensors_of("sd15"), name="page")
    page.path.write_bytes(b"<!DOCTYPE html><html>log in</html>")
    assert "web page" in told(page)
    pickle = saved(tensors_of("sd15"), name="pickle")
    pickle.path.write_bytes(b"\x80\x02}q\x00.")
    assert "pickle" in told(pickle)


# ---- what the network predicts


def sampler(model: ModelFiles) -> dict[str, Any]:
    """The settings of the scheduler as the recipe records them."""
    loaded = load_model(model, device="cpu")
    recipe = default_recipe(loaded.pipeline, model)
    return {**recipe.sampler.config, "class": recipe.sampler.name, "notes": loaded.notes}


V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@pytest.mark.parametrize(
    ("marks", "metadata"),
    [
        (("v_pred", "ztsnr"), {}),
        ((), {"modelspec.prediction_type": "v"}),
        ((), {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}),
    ],
)
def test_v_prediction_is_read_from_the_file(tensors_of, saved, marks, metadata):
    tensors = tensors_of("sdxl") | {mark: torch.zeros(0) for mark in marks}
    found = sampler(saved(tensors, "sdxl", metadata))
    assert V.items() <= found.items()
    assert found["timestep_spacing"] == "trailing"
    assert any("says v_prediction" in note for note in found["notes"])
    said = "ztsnr" in marks or "ss_zero_terminal_snr" in metadata
    assert any("(a guess)" in note for note in found["notes"]) is not said


def test_betas_are_not_rescaled_where_the_file_says_so(tensors_of, saved):
    metadata = {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "False"}
    found = sampler(saved(tensors_of("sdxl"), "sdxl", metadata))
    assert found["prediction_type"] == "v_prediction"
    assert not found["rescale_betas_zero_snr"]


def test_v_prediction_is_read_from_the_card(tensors_of, saved):
    model = saved(tensors_of("sdxl"), "sdxl", prediction_type="v_prediction")
    assert V.items() <= sampler(model).items()


@pytest.mark.parametrize(
    "card",
    [
        {"title": "NoobAI-XL V-Pred 1.0"},
        {"name": "noobaiXL_vPred10"},
        {"base_model": "Laxhar/noobai-XL-Vpred-1.0"},
    ],
)
def test_v_prediction_is_guessed_from_names_and_said_to_be_a_guess(tensors_of, saved, card):
    found = sampler(saved(tensors_of("sdxl"), "sdxl", **card))
    assert V.items() <= found.items()
    assert any("suggests v_prediction" in it and "a guess" in it for it in found["notes"])


@pytest.mark.parametrize("title", ["vpred and eps versions", "improved valve, Vpredator"])
def test_other_names_suggest_nothing(tensors_of, saved, title):
    found = sampler(saved(tensors_of("sdxl"), "sdxl", title=title))
    assert found["prediction_type"] == "epsilon"
    assert found["notes"] == ()


def test_a_file_that_says_epsilon_is_believed_whatever_its_name_suggests(tensors_of, saved):
    stated = {"modelspec.prediction_type": "epsilon"}
    found = sampler(saved(tensors_of("sdxl"), "sdxl", stated, title="V-Pred"))
    assert found["prediction_type"] == "epsilon"
    assert any("says epsilon, which is used" in it for it in found["notes"])
    # On a base for v-prediction the scheduler is set back.
    found = sampler(saved(tensors_of("sd2-v"), "sd2-v", stated))
    assert found["prediction_type"] == "epsilon"


def test_a_silent_file_predicts_what_its_base_does(tensors_of, saved):
    found = sampler(saved(tensors_of("sd2-v"), "sd2-v"))
    assert found["prediction_type"] == "v_prediction"
    assert not found["rescale_betas_zero_snr"]
    assert any("a guess" in it for it in found["notes"])


def test_file_and_card_that_contradict_each_other_are_refused(tensors_of, saved):
    tensors = tensors_of("sd15") | {"v_pred": torch.zeros(0)}
    error = refusal(saved(tensors, prediction_type="epsilon"))
    assert "its tensor v_pred says v_prediction" in error.message
    assert "card says epsilon" in error.message


def test_a_file_whose_own_marks_disagree_says_so(tensors_of, saved):
    tensors = tensors_of("sd15") | {"v_pred": torch.zeros(0)}
    found = sampler(saved(tensors, metadata={"modelspec.prediction_type": "epsilon"}))
    assert found["prediction_type"] == "v_prediction"
    assert any("the tensor is used" in it for it in found["notes"])


def test_a_scheduler_without_rescaled_betas_gives_way_to_one_with_them(tensors_of, saved):
    tensors = tensors_of("sd15") | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    found = sampler(saved(tensors))  # PNDM, as Stable Diffusion 1.5 has it
    assert V.items() <= found.items()
    assert (found["class"], found["clip_sample"]) == ("DDIMScheduler", False)
    assert any("a DDIMScheduler takes its place" in it for it in found["notes"])


@pytest.mark.parametrize(
    ("name", "extra", "metadata", "words"),
    [
        ("sd3", {"v_pred": torch.zeros(0)}, {}, "predicts v, and a FlowMatchEuler"),
        ("sdxl", {"edm_vpred.sigma_max": torch.ones(1)}, {}, "noise levels of EDM"),
        ("sdxl", {}, {"modelspec.prediction_type": "flow"}, "is 'flow', and a"),
    ],
)
def test_what_no_scheduler_here_samples_is_refused(tensors_of, saved, name, extra, metadata, words):
    error = refusal(saved(tensors_of(name) | extra, name, metadata))
    assert words in error.message
    assert "--base REPO" in error.hint


def test_epsilon_said_of_flow_matching_is_passed_over(tensors_of, saved):
    stated = {"modelspec.prediction_type": "epsilon"}
    assert load_model(saved(tensors_of("sd3"), "sd3", stated), device="cpu").notes == ()


def test_of_a_folder_the_card_is_believed(bases):
    folder = bases("sdxl")
    told = replace(folder, card=replace(folder.card, prediction_type="v_prediction"))
    found = sampler(told)
    assert V.items() <= found.items()
    assert any("the gmi section of its card says v_prediction" in it for it in found["notes"])
    named = sampler(replace(folder, card=replace(folder.card, title="some V-Pred")))
    assert named["prediction_type"] == "epsilon"
    assert any("configured for epsilon, which is used" in it for it in named["notes"])


@pytest.fixture
def lora(tiny, base, tmp_path):
    def save(stated: str, **card: Any) -> ModelFiles:
        path = tmp_path / "pytorch_lora_weights.safetensors"
        layers = load_file(tiny / "lora" / path.name)
        save_file(layers, path, metadata={"ss_v_parameterization": stated})
        return model_files(tmp_path, "lora", "lora", base=base, **card)

    return save


def test_a_lora_for_v_prediction_on_a_base_that_predicts_noise_is_refused(lora):
    error = refusal(lora("True"))
    assert "is a LoRA" in error.message
    assert "trained for v-prediction" in error.message
    assert "--base REPO" in error.hint
    assert V.items() <= sampler(lora("True", prediction_type="v_prediction")).items()
    assert load_model(lora("False"), device="cpu").notes == ()


# ---- fewer bits


def scaled(tensors: Tensors, end: str, *, rows: bool = False) -> Tensors:
    """Linear layers in float8, each with a scale that maps its largest value to float8's."""
    made: Tensors = {}
    for name, value in tensors.items():
        if value.ndim != 2 or not name.endswith(".weight") or "embedding" in name:
            made[name] = value
            continue
        largest = value.abs().amax(dim=1, keepdim=True) if rows else value.abs().max()
        scale = (largest / 448).float()
        made[name] = (value / scale).to(torch.float8_e4m3fn)
        made[name.removesuffix(".weight") + end] = scale
    return made


@pytest.mark.parametrize(("end", "rows"), [(".scale_weight", False), (".weight_scale", True)])
def test_scales_of_float8_weights_are_applied(tensors_of, saved, end, rows):
    plain = tensors_of("sdxl")
    tensors = scaled(plain, end, rows=rows) | {
        f"{UNET}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        LINEAR.replace(".weight", ".input_scale"): torch.ones(()),
    }
    loaded = load_model(saved(tensors, "sdxl"), device="cpu").pipeline
    ours = state(loaded)["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    scale = tensors[LINEAR.replace(".weight", end)]
    assert torch.equal(ours, tensors[LINEAR].float() * scale)
    torch.testing.assert_close(ours, plain[LINEAR], rtol=0.07, atol=1e-3)
    encoder = state(loaded, "text_encoder_2")["text_model.encoder.layers.0.mlp.fc1.weight"]
    theirs = plain["conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight"]
    torch.testing.assert_close(encoder, theirs, rtol=0.07, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.float8_e5m2, torch.bfloat16])
def test_smaller_floats_are_cast(tensors_of, saved, kind):
    tensors = {name: value.to(kind) for name, value in tensors_of("sd15").items()}
    loaded = load_model(saved(tensors), device="cpu").pipeline
    ours = state(loaded)["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    assert torch.equal(ours, tensors[LINEAR].float())


STEM = LINEAR.removesuffix(".weight")
BYTES = torch.ones(64, 1, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({f"{STEM}.weight": BYTES, f"{STEM}.weight.absmax": torch.ones(4),
          f"{STEM}.weight.quant_state.bitsandbytes__nf4": BYTES[0]}, "bitsandbytes nf4"),
        ({f"{STEM}.qweight": BYTES, f"{STEM}.wscales": torch.ones(4),
          f"{STEM}.smooth_factor": torch.ones(4)}, "nunchaku"),
        ({f"{STEM}.qweight": BYTES.int(), f"{STEM}.qzeros": BYTES.int(),
          f"{STEM}.g_idx": BYTES.int()}, "GPTQ"),
        ({f"{STEM}.weight": BYTES, f"{STEM}.weight_scale": torch.ones(()),
          f"{STEM}.comfy_quant": BYTES[0]}, "ComfyUI's mixed precision"),
        ({f"{STEM}.weight": BYTES.to(torch.int8), f"{STEM}.weight_scale": torch.ones(())}, "int8"),
        ({f"{STEM}.weight_scale_inv": torch.ones(1, 1),
          LINEAR: torch.ones(16, 16).to(torch.float8_e4m3fn)}, "fp8 with scales"),
        ({f"{STEM}.scale_weight": torch.ones(3)}, "has the shape [3]"),
        ({f"{UNET}nowhere.scale_weight": torch.ones(())}, "is the scale of no weight"),
    ],
)  # fmt: skip
def test_other_quantised_files_are_refused_by_name(tensors_of, saved, extra, words):
    model = saved(tensors_of("sd15") | extra)
    error = refusal(model)
    assert "quantised" in error.message
    assert words in error.message
    with pytest.raises(GenerationError):
        check_model(model)


def test_a_weight_that_has_lost_its_scale_is_refused(tensors_of, saved):
    """Blocks of the same kind have theirs; or the file says that it has scales, and has none."""
    whole = scaled(tensors_of("sd15"), ".scale_weight")
    lost = {name: value for name, value in whole.items() if name != f"{STEM}.scale_weight"}
    error = refusal(saved(lost))
    assert "lacks those of 1 " in error.message
    assert LINEAR in error.message
    mark = {f"{UNET}scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    none = {name: value for name, value in whole.items() if not name.endswith("scale_weight")}
    assert "lacks those of" in refusal(saved(none | mark)).message
    assert load_model(saved(none), device="cpu").notes == ()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_scale_that_is_no_number_is_refused(tensors_of, saved, value):
    tensors = scaled(tensors_of("sd15"), ".scale_weight")
    tensors[f"{STEM}.scale_weight"] = torch.tensor(value)
    assert "is not a scale" in refusal(saved(tensors)).message


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True},
         "quantised by bitsandbytes (4 bits), which is not installed", "pip install bitsandbytes"),
        ({"quant_method": "torchao"}, "quantised by torchao", "pip install torchao"),
        ({"quant_method": "quanto"}, "quantised by quanto", "pip install optimum-quanto"),
        ({"quant_method": "tomorrow\x1b[2J"}, "which is not loaded here", "that it was made from"),
        ("four", "which is not loaded here", "that it was made from"),
    ],
)  # fmt: skip
def test_a_folder_that_needs_a_library_to_be_read_names_it(bases, tmp_path, said, words, hint):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": said}))
    model = model_files(folder, "folder")
    error = refusal(model)
    assert words in error.message
    assert "\x1b" not in error.message
    assert hint in error.hint
    with pytest.raises(GenerationError):
        check_model(model)


def test_a_folder_with_scales_that_nothing_speaks_of_is_refused(bases, tmp_path):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(scaled(load_file(path), ".weight_scale"), path)
    error = refusal(model_files(folder, "folder"))
    assert "weights of its unet are quantised (fp8 with scales)" in error.message


# ---- damage


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_number_that_is_none_is_refused_with_its_tensor(tensors_of, saved, value):
    tensors = tensors_of("sd15")
    spoilt = tensors[LINEAR].clone()
    spoilt[0, :2] = value
    error = refusal(saved(tensors | {LINEAR: spoilt}))
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert f"{name} holds numbers that are not finite: 2 of {spoilt.numel():,}" in error.message


def test_a_number_too_large_for_float16_is_said_to_be_that(tensors_of, saved):
    tensors = tensors_of("sd15")
    spoilt = tensors[LINEAR].clone()
    spoilt[0, 0] = 1e6
    model = saved(tensors | {LINEAR: spoilt})
    assert "not finite in float16" in refusal(model, dtype="float16").message
    assert load_model(model, device="cpu", dtype="bfloat16").notes == ()


@pytest.mark.parametrize("component", ["unet", "text_encoder", "vae"])
def test_a_folder_with_damaged_or_missing_tensors_is_refused(bases, tmp_path, component):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    (path,) = (folder / component).glob("*.safetensors")
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith("weight"))
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, path)
    assert f": {component}." in refusal(model_files(folder, "folder")).message
    del tensors[name]
    save_file(tensors, path)
    error = refusal(model_files(folder, "folder"))
    assert name.removeprefix("text_model.") in error.message
    assert f"its {component}" in error.message


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("unet", "down_blocks.1.attentions.0.attn1.processor.to_q_lora.up.weight"),
        ("text_encoder", "encoder.layers.0.self_attn.q_proj.lora_A.weight"),
    ],
)
def test_an_adapter_inside_a_folder_is_refused_and_not_left_out(bases, tmp_path, component, name):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    (path,) = (folder / component).glob("*.safetensors")
    save_file(load_file(path) | {name: torch.ones(16, 2)}, path, metadata={"format": "pt"})
    error = refusal(model_files(folder, "folder"))
    assert f"tensors of its {component} are those of a LoRA" in error.message
    assert "fuse_lora" in error.hint


def test_tensors_of_no_layer_of_a_folder_are_noted(bases, tmp_path):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    (path,) = (folder / "unet").glob("*.safetensors")
    save_file(load_file(path) | {"foo.bar": torch.ones(3)}, path, metadata={"format": "pt"})
    (note,) = load_model(model_files(folder, "folder"), device="cpu").notes
    assert "1 tensors of its unet belong to no layer of it" in note
    assert "foo.bar" in note


def test_a_prediction_type_that_the_scheduler_does_not_sample_is_refused(bases, tmp_path):
    folder = shutil.copytree(bases("sdxl").path, tmp_path / "folder")
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "velo"}))
    error = refusal(model_files(folder, "folder"))
    assert "prediction_type 'velo', which the EulerDiscreteScheduler" in error.message


def test_large_numbers_are_no_damage(tensors_of, saved):
    """Their sum is infinite, they are not."""
    tensors = tensors_of("sd15")
    large = torch.full_like(tensors[LINEAR], 3e38)
    assert load_model(saved(tensors | {LINEAR: large}), device="cpu").notes == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"_class_name": "TomorrowScheduler"}, "is of a TomorrowScheduler, which diffusers"),
        ({"_class_name": ["a", "b"]}, "which diffusers"),
        ([7], "cannot be read"),
    ],
)
def test_a_scheduler_that_diffusers_lacks_is_named(bases, tmp_path, content, words):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(content))
    assert words in refusal(model_files(folder, "folder")).message


@pytest.mark.parametrize(
    ("component", "library", "kind"),
    [("scheduler", "diffusers", "TomorrowScheduler"), ("text_encoder", "transformers", "Tomorrow")],
)
def test_a_component_class_of_another_version_is_named(bases, tmp_path, component, library, kind):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    index = json.loads((folder / "model_index.json").read_text())
    index[component] = [library, kind]
    (folder / "model_index.json").write_text(json.dumps(index))
    error = refusal(model_files(folder, "folder"))
    assert f"has no {kind} (component {component})" in error.message
    assert error.hint == f"pip install --upgrade {library}"


def test_a_scheduler_under_another_name_is_noted(bases, tmp_path):
    folder = shutil.copytree(bases("sd15").path, tmp_path / "folder")
    path = folder / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"_class_name": "EulerDiscreteScheduler"}))
    found = sampler(model_files(folder, "folder"))
    assert any("written for a EulerDiscreteScheduler" in it for it in found["notes"])


# ---- GGUF


@pytest.fixture
def packed(tmp_path, bases):
    """Write a network as a GGUF file, its matrices in blocks of 8 bits."""
    gguf = pytest.importorskip("gguf")

    def save(name: str, tensors: Tensors, kind: str = "Q8_0") -> ModelFiles:
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, name)
        quant = gguf.GGMLQuantizationType[kind]
        for key, value in tensors.items():
            numbers = value.float().numpy()
            if value.ndim == 2 and value.shape[-1] % 32 == 0:
                writer.add_tensor(key, gguf.quants.quantize(numbers, quant), raw_dtype=quant)
            else:
                writer.add_tensor(key, numbers)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return replace(model_files(path, "packed", "single-file", base=bases(name)))

    return save


def network(base: ModelFiles) -> Tensors:
    return load_file(next((base.path / "transformer").glob("*.safetensors")))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("flux1-dev", "Q8_0"), ("sd3", "BF16"), ("z-image", "Q8_0"), ("pixart-sigma", "Q8_0")],
)
def test_a_gguf_network_generates_nearly_what_its_weights_do(bases, tensors_of, packed, name, kind):
    """Tokens of Z-Image are matrices of no linear layer; diffusers loads no GGUF of PixArt."""
    tensors = tensors_of(name) if name in SINGLE_FILES else network(bases(name))
    prefix = UNET if any(key.startswith(UNET) for key in tensors) else ""
    alone = {key.removeprefix(prefix): it for key, it in tensors.items() if key.startswith(prefix)}
    model = packed(name, alone, kind)
    loaded = load_model(model, device="cpu").pipeline
    plain = load_model(bases(name), device="cpu").pipeline
    assert default_recipe(loaded, model).dtype == "float32"
    settings = {"num_inference_steps": 2, "output_type": "np", "width": 64, "height": 64}
    images = [
        pipeline("a cat", generator=torch.Generator().manual_seed(0), **settings).images
        for pipeline in (loaded, plain)
    ]
    assert abs(images[0] - images[1]).mean() < 0.05
    assert (images[0] != images[1]).any()


def test_a_gguf_file_that_is_damaged_is_refused(bases, packed):
    tensors = network(bases("sd3"))
    name = "transformer_blocks.0.attn.to_q.weight"
    model = packed("sd3", tensors | {name: tensors[name] * float("inf")})
    assert "numbers that are not finite" in refusal(model).message
    content = model.path.read_bytes()
    model.path.write_bytes(content[:-50])
    assert "cut short" in refusal(model).message


def test_a_gguf_file_without_its_library_names_it(bases, packed, monkeypatch):
    import sys

    model = packed("sd3", network(bases("sd3")))
    monkeypatch.setitem(sys.modules, "gguf", None)
    error = refusal(model)
    assert "gguf" in error.message
    assert install_command("publish") in error.hint
