"""The default prompt sets and the choice among them."""

from dataclasses import replace

import pytest

from gmi_registry.errors import InputError
from gmi_registry.generation import default_prompt_set, prompt_set_named, prompt_set_names
from tests.support.tiny_models import model_files


@pytest.mark.parametrize("name", ["general-v1", "icons-v1"])
def test_a_named_set_has_55_prompts_and_its_name_and_version(name):
    found = prompt_set_named(name)
    assert len(found) == 55
    assert f"{found.name}-v{found.version}" == name


def test_the_known_sets_are_listed():
    assert prompt_set_names() == ("general-v1", "icons-v1")


@pytest.mark.parametrize("name", ["nothing-v1", "../general-v1", "general", ""])
def test_another_name_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError) as caught:
        prompt_set_named(name)
    assert "general-v1, icons-v1" in caught.value.hint


def test_general_prompts_name_no_style():
    words = set(" ".join(prompt_set_named("general-v1").prompts).lower().split())
    assert not words & {"photo", "photograph", "painting", "drawing", "anime", "style", "sketch"}


def test_the_card_decides_then_the_base_card_then_the_package(tmp_path):
    base = model_files(tmp_path, "base", prompt_set="icons-v1")
    lora = model_files(tmp_path, "lora", "lora", base=base)
    own = replace(lora, card=replace(lora.card, prompt_set="general-v1"))
    plain = model_files(tmp_path, "plain")
    chosen = [default_prompt_set(model).name for model in (base, lora, own, plain)]
    assert chosen == ["icons", "icons", "general", "general"]
