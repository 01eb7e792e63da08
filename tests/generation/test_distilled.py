"""Models distilled to a few steps are known by family, and what is guessed of them is said."""

from dataclasses import replace
from types import SimpleNamespace

import diffusers
import pytest

from gmi_registry.generation import RecipeOverrides, default_recipe, recipe_notes, recipe_origins
from gmi_registry.generation.recommended_settings import _table, family_settings, looks_distilled
from gmi_registry.generation.schedulers import build_scheduler, check_scheduler_name
from gmi_registry.model import ModelCard, ModelFiles
from gmi_registry.spec import ModelRef
from gmi_registry.spec.manifest import WeightFile

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = diffusers.FlowMatchEulerDiscreteScheduler


def _call(self, prompt, negative_prompt=None, height=64, width=64, num_inference_steps=50,
          guidance_scale=5.0): ...  # fmt: skip


def _true_call(self, prompt, negative_prompt=None, true_cfg_scale=4.0, height=64, width=64,
               num_inference_steps=50, guidance_scale=None): ...  # fmt: skip


def _flux_call(self, prompt, negative_prompt=None, true_cfg_scale=1.0, height=64, width=64,
               num_inference_steps=28, guidance_scale=3.5): ...  # fmt: skip


def _pipeline(name, scheduler=None, call=_call, **parts):
    """One of a class of diffusers by its name, with the call that such a class has."""
    made = type(name, (), {"__call__": call, "dtype": "torch.float32"})()
    made.scheduler = scheduler or diffusers.EulerDiscreteScheduler(**BETAS)
    for part, config in parts.items():
        setattr(made, part, SimpleNamespace(config=config))
    return made


XL = _pipeline("StableDiffusionXLPipeline")
SD = _pipeline("StableDiffusionPipeline")
SD3 = _pipeline("StableDiffusion3Pipeline", FLOW(shift=3.0))
DEV = _pipeline("FluxPipeline", FLOW(use_dynamic_shifting=True), transformer={})
SCHNELL = _pipeline("FluxPipeline", FLOW(), _flux_call, transformer={"guidance_embeds": False})
QWEN = _pipeline(
    "QwenImagePipeline", FLOW(use_dynamic_shifting=True), _true_call,
    transformer={"guidance_embeds": False},
)  # fmt: skip
Z_IMAGE = _pipeline("ZImagePipeline", FLOW(shift=6.0), transformer={})


def _model(name="some/model", kind="checkpoint", hub="local", file=None, weights=(), **card):
    return ModelFiles(
        ref=ModelRef(hub, name, None, file),
        kind=kind,
        path=SimpleNamespace(),
        card=ModelCard(**({"title": name.rpartition("/")[2]} | card)),
        weights=tuple(WeightFile(path=path, size=1, sha256="0" * 64) for path in weights),
    )


def _civitai(base, title="A · B", kind="single-file", **card):
    return _model("123", kind, "civitai", title=title, base_model=base, **card)


KNOWN = [
    (_model("stabilityai/sdxl-turbo", hub="hf"), XL, "SDXL Turbo", 4, 0.0),
    (_model("stabilityai/sd-turbo", hub="hf"), SD, "SD Turbo", 4, 0.0),
    (_model("x/merge", hub="hf", base_model="stabilityai/sdxl-turbo"), XL, "SDXL Turbo", 4, 0.0),
    (
        _model("ByteDance/SDXL-Lightning", "lora", "hf", "sdxl_lightning_8step_lora.safetensors"),
        XL, "SDXL Lightning", 8, 0.0,
    ),
    (
        _model("ByteDance/Hyper-SD", "lora", "hf", "Hyper-SDXL-12steps-CFG-lora.safetensors"),
        XL, "Hyper-SD with guidance", 12, 5.0,
    ),
    (
        _model("ByteDance/Hyper-SD", "lora", "hf", "Hyper-SD15-2steps-lora.safetensors"),
        SD, "Hyper-SD", 2, 0.0,
    ),
    (_model("latent-consistency/lcm-lora-sdxl", "lora", "hf"), XL, "LCM", 4, 1.0),
    (_model("tianweiy/DMD2", "lora", "hf", "dmd2_sdxl_4step_lora.safetensors"), XL, "DMD2", 4, 0.0),
    (_model("stabilityai/stable-diffusion-3.5-large-turbo", hub="hf"), SD3, "SD 3.5 Large Turbo",
     4, 0.0),
    (_model("black-forest-labs/FLUX.1-schnell", hub="hf"), SCHNELL, "FLUX.1 schnell", 4, None),
    (_model("Tongyi-MAI/Z-Image-Turbo", hub="hf"), Z_IMAGE, "Z-Image-Turbo", 8, 0.0),
    (_civitai("SDXL Lightning"), XL, "SDXL Lightning", 4, 0.0),
    (_civitai("SDXL Hyper"), XL, "Hyper-SD", 8, 0.0),
    (_civitai("SDXL Turbo", "Foo · v2 8steps"), XL, "SDXL Turbo", 8, 0.0),
    (_civitai("SD 1.5 LCM"), SD, "LCM", 4, 1.0),
    (_civitai("Flux.1 S"), SCHNELL, "FLUX.1 schnell", 4, None),
    (_civitai("ZImageTurbo"), Z_IMAGE, "Z-Image-Turbo", 8, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("model", "pipeline", "title", "steps", "guidance"), KNOWN)
def test_a_repository_or_a_hubs_word_for_the_base_is_certain(
    model, pipeline, title, steps, guidance
):
    recipe = default_recipe(pipeline, model)
    assert (recipe.steps, recipe.guidance_scale) == (steps, guidance)
    origin = recipe_origins(pipeline, model)["steps"]
    assert origin.startswith(f"known family: {title}, by ")
    assert recipe_notes(pipeline, model) == ()


GUESSED = [
    (_model("me/dreamshaperXL_v21TurboDPMSDE"), XL, "SDXL Turbo", 4),
    (_model("me/RealVisXL_V4.0_Lightning"), XL, "SDXL Lightning", 4),
    (_model("me/juggernautXL_v9Rdphoto2Lightning"), XL, "SDXL Lightning", 4),
    (_model("me/x", title="WildCardX-XL Lightning 6 steps"), XL, "SDXL Lightning", 6),
    (_model("me/juggernaut_lightning_v2"), XL, "SDXL Lightning", 4),
    (
        _model("me/x", "single-file", weights=("realvisXL_hyper_8step.safetensors",)),
        XL,
        "Hyper-SD",
        8,
    ),
    (
        _model("me/x", "lora", weights=("sdxl_lightning_4step_lora.safetensors",)),
        XL,
        "SDXL Lightning",
        4,
    ),
    (_model("me/lcm-lora-mine", "lora"), SD, "LCM", 4),
    (_model("me/photonLCM_v10"), SD, "LCM", 4),
    (_model("me/bigLove_dmd2"), XL, "DMD2", 4),
    (_model("me/x", tags=("lcm",)), SD, "LCM", 4),
    (_model("me/pcm_sdxl_smallcfg_2step", "lora"), XL, "PCM", 2),
    (_model("me/TCD-SDXL-LoRA", "lora"), XL, "TCD", 4),
    (_model("me/sdxs-512"), SD, "SDXS", 1),
    (_model("me/Qwen-Image-Lightning-4steps-V1.0", "lora"), QWEN, "Qwen-Image-Lightning", 4),
    (_model("me/z_image_turbo_bf16", "single-file"), Z_IMAGE, "Z-Image-Turbo", 8),
    (_model("me/FLUX.1-Turbo-Alpha", "lora"), DEV, "FLUX.1 Turbo", 8),
    (_model("me/flux1-schnell-fp8", "single-file"), DEV, "FLUX.1 schnell", 4),
    (_model("me/sd3.5_medium_turbo"), SD3, "SD 3.5 Medium Turbo", 8),
    (_civitai("SDXL Lightning", kind="lora"), XL, "SDXL Lightning", 4),
    (_civitai("Pony", "Autism Mix · Lightning"), XL, "SDXL Lightning", 4),
]


@pytest.mark.parametrize(("model", "pipeline", "title", "steps"), GUESSED)
def test_a_name_is_a_guess_that_is_said(model, pipeline, title, steps):
    assert default_recipe(pipeline, model).steps == steps
    assert recipe_origins(pipeline, model)["steps"].startswith(f"a guess: {title}, by ")
    (note,) = recipe_notes(pipeline, model)
    assert f"looks like {title}" in note
    assert f"{steps} steps" in note
    assert "--steps" in note


ORDINARY = [
    (_model("me/ghibli-style", "lora"), XL),
    (_model("me/hyperrealistic-portraits", "lora"), XL),
    (_model("me/Hyper-Realism-XL", title="Hyper Realism XL"), XL),
    (_model("me/epicRealism_hyperDetail"), SD),
    (_model("me/noobai-xl"), XL),
    (_model("me/z-image-turbo-de-distilled"), XL),
    (_model("me/Z-Image-De-Turbo"), _pipeline("ZImagePipeline", FLOW(shift=6.0))),
    (_model("me/non-lightning-merge"), XL),
    (_model("me/photo-30-steps"), XL),
    (_civitai("SDXL 1.0", tags=("anime", "base model")), XL),
    (_model("me/flux-dev"), DEV),
]


@pytest.mark.parametrize(("model", "pipeline"), ORDINARY)
def test_an_ordinary_model_is_left_alone(model, pipeline):
    assert family_settings(model, pipeline) is None or "turbo" in model.ref.id
    if "turbo" not in model.ref.id:
        assert default_recipe(pipeline, model).steps == 25
        assert recipe_notes(pipeline, model) == ()


@pytest.mark.parametrize(
    ("model", "pipeline"),
    [
        (_model("me/lightning-bolts", "lora"), XL),  # perhaps the weather
        (_model("me/flash-photography", "lora"), SD),
        (_model("me/lightning-storms"), XL),
        (_model("me/something-distilled"), XL),
        (_model("me/fast-4steps"), _pipeline("AuraFlowPipeline", FLOW())),
        (_civitai("SDXL 1.0", tags=("turbo",)), XL),  # of some version
        (_model("me/plain"), _pipeline(
            "StableDiffusionXLPipeline",
            diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"))),
    ],
)  # fmt: skip
def test_what_may_be_distilled_is_a_warning_alone(model, pipeline):
    assert family_settings(model, pipeline) is None
    assert default_recipe(pipeline, model).steps == 25
    (note,) = recipe_notes(pipeline, model)
    assert "if the model is distilled" in note
    assert recipe_notes(pipeline, model, RecipeOverrides(steps=4)) == ()


CONFIGURED = [
    (_pipeline("StableDiffusionXLPipeline",
               diffusers.EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")),
     "SDXL Turbo", False),
    (_pipeline("StableDiffusionPipeline", diffusers.LCMScheduler(**BETAS)), "LCM", True),
    (_pipeline("StableDiffusionPipeline", diffusers.LCMScheduler(**BETAS),
               unet={"time_cond_proj_dim": 256}), "LCM with guidance as an input", True),
    (SCHNELL, "FLUX.1 schnell", False),
    (_pipeline("ZImagePipeline", FLOW(shift=3.0)), "Z-Image-Turbo", False),
    (_pipeline("HiDreamImagePipeline", diffusers.FlowMatchLCMScheduler(shift=6.0)),
     "HiDream-I1-Dev", False),
]  # fmt: skip


@pytest.mark.parametrize(("pipeline", "title", "certain"), CONFIGURED)
def test_a_configuration_tells_some(pipeline, title, certain):
    found = family_settings(_model(), pipeline)
    assert (found.family.title, found.certain) == (title, certain)
    # A base's configuration says nothing of what stands on it.
    assert family_settings(replace(_model(kind="lora"), base=_model()), pipeline) is None


def test_the_metadata_of_a_file_are_read(tmp_path):
    import torch
    from safetensors.torch import save_file

    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, file, metadata={"modelspec.title": "SDXL Lightning 8step"})
    model = replace(_model(kind="lora", weights=("x.safetensors",)), path=tmp_path)
    found = family_settings(model, XL)
    assert (found.family.title, found.steps, found.certain) == ("SDXL Lightning", 8, False)
    assert found.why == "its metadata (modelspec.title)"
    file.write_bytes(b"no header")
    assert family_settings(model, XL) is None


def test_cards_and_options_win():
    guessed = _model("me/x-sdxl-lightning-4step")
    said = replace(guessed, card=replace(guessed.card, steps=6, guidance_scale=1.5))
    recipe = default_recipe(XL, said)
    assert (recipe.steps, recipe.guidance_scale) == (6, 1.5)
    assert "model card" in recipe_origins(XL, said)["steps"]
    # What is left of the guess is the scheduler, which is still said.
    assert "EulerDiscreteScheduler (trailing)" in recipe_notes(XL, said)[0]
    assert "6 steps" not in recipe_notes(XL, said)[0]
    asked = RecipeOverrides(steps=12, guidance_scale=3.0, scheduler="DDIM")
    recipe = default_recipe(XL, said, asked)
    assert (recipe.steps, recipe.guidance_scale, recipe.sampler.name) == (12, 3.0, "DDIMScheduler")
    assert recipe_notes(XL, said, asked) == ()


def test_a_lora_of_few_steps_wins_over_its_bases_card():
    base = _model("me/base", steps=40, guidance_scale=7.0)
    lora = replace(_model("latent-consistency/lcm-lora-sdxl", "lora", "hf"), base=base)
    recipe = default_recipe(XL, lora)
    assert (recipe.steps, recipe.guidance_scale) == (4, 1.0)
    assert recipe.sampler.name == "LCMScheduler"


def test_a_lora_on_a_distilled_base_is_generated_as_its_base_is():
    base = _model("stabilityai/sdxl-turbo", hub="hf")
    lora = replace(_model("me/style", "lora"), base=base)
    assert default_recipe(XL, lora).steps == 4
    base = replace(base, card=replace(base.card, steps=2))
    assert default_recipe(XL, replace(lora, base=base)).steps == 2


def test_a_family_may_know_the_strength_of_a_lora():
    lora = _model("ByteDance/Hyper-SD", "lora", "hf", "Hyper-FLUX.1-dev-8steps-lora.safetensors")
    recipe = default_recipe(DEV, lora)
    assert (recipe.lora_scale, recipe.steps, recipe.guidance_scale) == (0.125, 8, 3.5)
    assert default_recipe(DEV, lora, RecipeOverrides(lora_scale=1.0)).lora_scale == 1.0


def test_the_scheduler_of_a_family_and_its_settings():
    lora = _model("lightx2v/Qwen-Image-Lightning", "lora", "hf")
    recipe = default_recipe(QWEN, lora)
    assert (recipe.steps, recipe.true_cfg_scale, recipe.guidance_scale) == (8, 1.0, None)
    assert recipe.sampler.config["base_shift"] == pytest.approx(1.0986, abs=1e-4)
    # A whole model of a family that is certain brings its own, a LoRA's base does so too.
    kept = default_recipe(XL, _model("stabilityai/sdxl-turbo", hub="hf"))
    assert kept.sampler.config.get("timestep_spacing") != "trailing"
    base = _model("stabilityai/sdxl-turbo", hub="hf")
    assert default_recipe(XL, replace(_model(kind="lora"), base=base)).sampler == kept.sampler
    file = _civitai("SDXL Lightning")
    assert default_recipe(XL, file).sampler.config["timestep_spacing"] == "trailing"


def test_a_scheduler_that_does_not_fit_is_said_and_left():
    zero = diffusers.EulerDiscreteScheduler(**BETAS, rescale_betas_zero_snr=True)
    pipeline = _pipeline("PixArtAlphaPipeline", FLOW())
    lora = _model("PixArt-alpha/PixArt-LCM-LoRA-XL-2-1024-MS", "lora", "hf")
    assert default_recipe(pipeline, lora).sampler.name == "FlowMatchLCMScheduler"
    pipeline = _pipeline("StableDiffusionXLPipeline", zero)
    lora = _model("h1t/TCD-SDXL-LoRA", "lora", "hf")
    assert default_recipe(pipeline, lora).sampler.name == "TCDScheduler"
    pipeline = _pipeline("StableDiffusionXLPipeline", diffusers.EDMEulerScheduler())
    recipe = default_recipe(pipeline, lora)
    assert recipe.sampler.name == "EDMEulerScheduler"
    assert "the model's own is used" in recipe_notes(pipeline, lora)[0]


@pytest.mark.parametrize("family", _table().families, ids=lambda family: family.title)
def test_the_table_is_sound(family):
    assert 1 <= family.steps <= 28
    assert all(name == name.lower() for name in (*family.repositories, *family.bases))
    if family.scheduler is not None:
        check_scheduler_name(family.scheduler, "the table")
        own = FLOW() if "qwen-image" in family.architectures else XL.scheduler
        assert build_scheduler(_pipeline("Any", own), family.scheduler, "", family.settings)


def test_a_scheduler_of_an_unknown_class_looks_like_nothing():
    odd = _pipeline("StableDiffusionPipeline", SimpleNamespace(config={}))
    assert family_settings(_model(), odd) is None
    assert looks_distilled(_model(), odd) is None
