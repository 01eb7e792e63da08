"""The split of the zoo's names, which the meaning of its measurements rests on."""

from gmi_registry.generation.prompt_sets import prompt_set_named
from zoo import names


def test_held_out_and_trained_names_share_nothing_and_leave_nothing_out() -> None:
    assert len(names.held_out()) == 120
    assert set(names.held_out()).isdisjoint(names.trained())
    assert set(names.held_out()) | set(names.trained()) == set(names.names())


def test_evaluation_prompts_are_names_that_no_lora_has_seen() -> None:
    seen = {names.prompt(name) for name in names.trained()}
    assert len(set(names.evaluation_prompts())) == 18
    assert seen.isdisjoint(names.evaluation_prompts())
    assert set(names.default_prompts()) <= seen


def test_the_package_carries_the_zoos_default_prompts() -> None:
    assert prompt_set_named("icons-v1").prompts == names.default_prompts()
