"""Models for other tasks are refused by what they make, before their weights are loaded."""

from __future__ import annotations

import inspect
import json
import time

import diffusers
import pytest

from gmi_registry import generation
from gmi_registry.errors import GenerationError
from tests.support.models.architectures import ARCHITECTURES
from tests.support.models.files import architecture_folder, model_files
from tests.support.models.matrix import REFUSALS
from tests.support.models.refused import BUILDERS, refused_folder


def test_every_refusal_has_a_model():
    assert set(REFUSALS) == set(BUILDERS)


@pytest.mark.parametrize("name", REFUSALS)
def test_a_model_for_another_task_is_refused_in_its_words(model_store, name):
    model = model_files(refused_folder(model_store, name), name)
    start = time.monotonic()
    with pytest.raises(GenerationError) as caught:
        generation.check_model(model)
    assert time.monotonic() - start < 5
    assert REFUSALS[name].words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "kolors"])
def test_a_model_for_this_task_is_not(model_store, name):
    generation.check_model(model_files(architecture_folder(model_store, name), name))


def _verdict(name: str) -> str | None:
    try:
        generation.require_pipeline("m", {"_class_name": name})
    except GenerationError as error:
        return error.message.removeprefix(f"m: {name} ")
    return None


def _pipelines() -> list[str]:
    return [name for name in dir(diffusers) if name.endswith("Pipeline")]


def test_no_pipeline_that_takes_more_than_a_prompt_passes():
    """Whatever diffusers has, and will have: what passes needs nothing but a prompt."""
    passed = [name for name in _pipelines() if _verdict(name) is None]
    assert len(passed) > 50
    for name in passed:
        takes = inspect.signature(getattr(diffusers, name).__call__).parameters
        needed = {
            parameter.name
            for parameter in takes.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }
        assert needed <= {"self", "prompt"}, name
        assert not {"num_frames", "mask_image", "control_image"} & set(takes), name


def test_what_diffusers_lists_for_text_to_image_passes_or_says_what_it_needs():
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values():
        said = _verdict(kind.__name__)
        expected = ("an image of edges", "videos", "edits images", "not installed")
        assert said is None or any(word in said for word in expected), (kind.__name__, said)


def test_a_new_pipeline_that_takes_a_prompt_alone_passes(monkeypatch):
    class TomorrowPipeline(diffusers.DiffusionPipeline):
        def __call__(self, prompt=None, image=None, num_inference_steps=4, output_type="np"):
            raise AssertionError("nothing is generated")

    monkeypatch.setattr(diffusers, "TomorrowPipeline", TomorrowPipeline, raising=False)
    assert _verdict("TomorrowPipeline") is None


@pytest.mark.parametrize("name", ["utils", "__name__", "logging", "ModelMixin", "FluxImages"])
def test_a_name_that_is_no_pipeline_is_one_clear_line(name):
    with pytest.raises(GenerationError) as caught:
        generation.require_pipeline("m", {"_class_name": name})
    assert "\n" not in caught.value.message


def test_a_class_whose_package_is_missing_says_so(monkeypatch):
    class Placeholder:
        _backends = ("torch", "no_such_package")

    monkeypatch.setattr(diffusers, "KolorsPipeline", Placeholder)
    with pytest.raises(GenerationError, match="needs no_such_package, which is not installed"):
        generation.require_pipeline("m", {"_class_name": "KolorsPipeline"})


@pytest.mark.parametrize("content", ["[]", "{", '{"in_channels": "nine"}', '{"in_channels": true}'])
def test_a_configuration_that_says_nothing_is_left_to_the_loader(model_store, tmp_path, content):
    import shutil

    folder = shutil.copytree(architecture_folder(model_store, "sd15"), tmp_path / "copy")
    (folder / "unet/config.json").write_text(content)
    generation.check_model(model_files(folder, "copy"))


def test_channels_are_judged_by_the_autoencoder(model_store, tmp_path):
    """Networks that read a square of latents at once have four times their number."""
    folder = architecture_folder(model_store, "flux1-dev")
    config = json.loads((folder / "transformer/config.json").read_text())
    coder = json.loads((folder / "vae/config.json").read_text())
    assert config["in_channels"] == 4 * coder["latent_channels"]
    generation.check_model(model_files(folder, "flux"))
