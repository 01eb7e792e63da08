"""What the repository carries as ``zoo/hub``: complete, within its budget, and at home anywhere."""

from __future__ import annotations

import json

from gmi_registry.hubs import open_hub
from gmi_registry.spec import ModelRef
from zoo.build import HUB, MERGED
from zoo.cards import BASE, lora_name
from zoo.styles import STYLES


def test_all_weights_together_stay_within_the_budget() -> None:
    assert sum(path.stat().st_size for path in HUB.rglob("*.safetensors")) <= 48_000_000


def test_three_kinds_of_model_with_card_licence_and_base() -> None:
    hub = open_hub(str(HUB))
    base = hub.fetch_model(ModelRef("local", BASE))
    merged = hub.fetch_model(ModelRef("local", MERGED.parent.name))
    assert (base.kind, merged.kind) == ("checkpoint", "single-file")
    for style in STYLES:
        model = hub.fetch_model(ModelRef("local", lora_name(style)))
        assert model.kind == "lora"
        assert model.base == base
        assert model.card.licence
        assert set(style.tags) <= set(model.card.tags)
        assert (model.card.steps, model.card.guidance_scale) == (20, 2.0)


def test_no_configuration_names_a_folder_of_the_machine_that_trained_it() -> None:
    for path in HUB.rglob("*config.json"):
        assert "_name_or_path" not in json.loads(path.read_text(encoding="utf-8")), path
