"""A scheduler by the name that people use, recorded, and used while its recipe is."""

import diffusers
import numpy as np
import pytest

from gmi_registry.errors import InputError
from gmi_registry.generation import (
    BatchCache,
    RecipeOverrides,
    check_overrides,
    check_settings,
    default_recipe,
    generate,
)
from gmi_registry.generation.schedulers import (
    build_scheduler,
    recorded_scheduler,
    sampler_of,
    stepping,
    use_sampler,
)
from gmi_registry.spec import Sampler

NAMED = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ SDE Karras": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "DDIM trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "Euler sgm_uniform": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "PLMS": ("PNDMScheduler", {}),
    "EulerDiscreteScheduler": ("EulerDiscreteScheduler", {}),
    "DEISMultistep": ("DEISMultistepScheduler", {}),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_a_class_and_settings_on_the_models_own_noise(pipeline, base, name):
    recipe = default_recipe(pipeline, base, RecipeOverrides(scheduler=name))
    class_name, settings = NAMED[name]
    assert recipe.sampler.name == class_name
    assert settings.items() <= recipe.sampler.config.items()
    assert recipe.sampler.config["beta_schedule"] == "scaled_linear"
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"


def test_what_another_class_reads_is_not_recorded(pipeline):
    """A configuration keeps the settings of the class that it was made from."""
    euler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    assert "set_alpha_to_one" in euler.config
    assert "set_alpha_to_one" not in sampler_of(euler).config


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Eular a", "perhaps you mean Euler a"),
        ("DPM++ 2M Karas", "DPM\\+\\+ 2M Karras"),
        ("frob", "is not known"),
        ("DDIM Frob", "perhaps you mean"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_near(name, said):
    with pytest.raises(InputError, match=said) as caught:
        check_overrides(RecipeOverrides(scheduler=name))
    assert "DPM++ 2M" in caught.value.hint


class _Pipeline:
    def __init__(self, scheduler):
        self.scheduler = scheduler

    def __call__(self, prompt, num_inference_steps=8): ...


@pytest.mark.parametrize(
    ("own", "name", "why"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "Euler a", "flow matching"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "DDIM", "flow matching"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "DPM++ 2M Karras", "leave the flow"),
        (diffusers.DDIMScheduler(), "FlowMatchEulerDiscreteScheduler", "in discrete steps"),
        (diffusers.DDIMScheduler(), "EDMEulerScheduler", "in discrete steps"),
        (diffusers.DDIMScheduler(), "DDIM Karras", "has no use_karras_sigmas"),
        (diffusers.EDMEulerScheduler(), "Euler a", "noise of EDM"),
        (diffusers.SCMScheduler(), "Euler", "needs a SCMScheduler"),
        (
            diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True), "Heun",
            "rescale_betas_zero_snr True",
        ),
        (
            diffusers.DDPMScheduler(variance_type="learned_range"), "Euler",
            "variance_type learned_range",
        ),
    ],
)  # fmt: skip
def test_a_scheduler_for_another_kind_of_model_is_refused(own, name, why):
    with pytest.raises(InputError, match=why) as caught:
        build_scheduler(_Pipeline(own), name, "as requested")
    assert type(own).__name__ in caught.value.message


def test_what_the_network_was_trained_for_stays():
    own = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, beta_schedule="scaled_linear"
    )
    made = build_scheduler(_Pipeline(own), "DPM++ 2M Karras", "as requested")
    assert made.config.prediction_type == "v_prediction"
    assert made.config.rescale_betas_zero_snr is True
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert build_scheduler(_Pipeline(flow), "Heun", "").config.shift == 3.0
    unipc = build_scheduler(_Pipeline(flow), "UniPC", "").config
    assert (unipc.use_flow_sigmas, unipc.flow_shift) == (True, 3.0)


def test_a_plain_name_means_plain_steps():
    own = diffusers.DPMSolverMultistepScheduler(
        use_karras_sigmas=True, algorithm_type="sde-dpmsolver++"
    )
    named = build_scheduler(_Pipeline(own), "DPM++ 2M", "").config
    assert (named.use_karras_sigmas, named.algorithm_type) == (False, "dpmsolver++")
    # A class of diffusers keeps the model's own.
    kept = build_scheduler(_Pipeline(own), "DPMSolverMultistepScheduler", "").config
    assert kept.use_karras_sigmas is True


def _images(pipeline, model, folder, batch, **overrides):
    recipe = default_recipe(
        pipeline, model, RecipeOverrides(steps=4, batch_size=batch, **overrides)
    )
    prompts = ["a cat", "a red house", "two birds"]
    images = generate(pipeline, prompts, recipe, cache=BatchCache(folder, model, recipe))
    return np.stack([np.asarray(image, dtype=int) for image in images])


@pytest.mark.parametrize("name", ["Euler a", "DPM++ SDE", "DPM++ 2M SDE", "LCM", "DDPM"])
def test_noise_on_the_way_is_the_images_own(pipeline, base, tmp_path, name):
    """No image hangs on its neighbours in the batch, and the shared pipeline is as before."""
    own = pipeline.scheduler
    three = _images(pipeline, base, tmp_path / "3", 3, scheduler=name)
    assert pipeline.scheduler is own
    assert "step" not in vars(own)
    one = _images(pipeline, base, tmp_path / "1", 1, scheduler=name)
    assert abs(three - one).max() <= 1
    assert (three != _images(pipeline, base, tmp_path / "own", 3)).any()


def test_noise_of_a_pipeline_that_hands_nothing_on_is_the_images_own():
    import torch

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    sample = torch.ones(2, 1, 4, 4)

    def stepped():
        scheduler.set_timesteps(4)
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        with stepping(scheduler, seeds):
            return scheduler.step(sample, scheduler.timesteps[0], sample, return_dict=False)[0]

    first = stepped()
    assert torch.equal(first, stepped())
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (Sampler(name="NoSuchScheduler", config={}), "is not known to diffusers"),
        (Sampler(name="StableDiffusionPipeline", config={}), "is not known to diffusers"),
        (Sampler(name="DDIMScheduler", config={"beta_schedule": "frob"}), "cannot be made"),
    ],
)
def test_a_recorded_scheduler_that_cannot_be_is_refused(pipeline, base, sampler, said):
    recipe = default_recipe(pipeline, base).model_copy(update={"sampler": sampler})
    with pytest.raises(InputError, match=said):
        check_settings(pipeline, recipe)


def test_the_recorded_scheduler_is_used_and_put_back(pipeline, base):
    own = pipeline.scheduler
    recipe = default_recipe(pipeline, base, RecipeOverrides(scheduler="DPM++ 2M Karras"))

    def fail():
        assert sampler_of(pipeline.scheduler) == recipe.sampler
        raise RuntimeError

    with pytest.raises(RuntimeError), use_sampler(pipeline, recipe.sampler):
        fail()
    assert pipeline.scheduler is own


def test_noise_that_no_seed_decides_is_refused(base):
    class Unseeded(diffusers.DDIMScheduler):
        pass

    Unseeded.__name__ = "DPMSolverSDEScheduler"
    sampler = Sampler(name="DPMSolverSDEScheduler", config={})
    with pytest.raises(InputError, match="depend on its neighbours") as caught:
        recorded_scheduler(_Pipeline(Unseeded()), sampler)
    assert "DPM++ SDE" in caught.value.hint
