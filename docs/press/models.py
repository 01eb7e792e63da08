"""Which models generate images here, by the table that the tests go by."""

from __future__ import annotations

from docs.press.page import Page, code
from tests.support.models.matrix import MATRIX, REFUSALS, Row

__all__ = ["models_page"]

_FILES = {"whole": "whole model", "network": "network alone"}


def models_page() -> Page:
    """Every architecture that is tried, and every kind of model that is refused."""
    page = Page("Models that work")
    page.add(
        f"{len(MATRIX)} architectures generate images here, and {len(REFUSALS)} kinds of "
        "models are refused. Both tables are the ones that the tests go by "
        "(tests/support/models/matrix.py): each row is tried on a tiny model of diffusers' own "
        "classes, from loading to the pixels, and each setting that is marked changes the "
        "image there."
    )
    page.heading("What was never run")
    page.add(
        "**No row was run on real weights.** The tiny models have the classes, the "
        "components, the file layout and the schedulers of the real ones, and random weights "
        "of a few hundred kilobytes; they run on a CPU, in float32 and bfloat16. What they "
        "cannot show: whether an image looks right, how much memory a model needs, how it "
        "behaves on a GPU or in float16, and whether a repository has a file that no tiny "
        "model has. Single files of FLUX.1, Chroma, Lumina 2 and Sana are tried under "
        "diffusers' names of their tensors alone, since what reads their original names "
        "counts on the real width. Pipelines of diffusers that are in neither table are not "
        "tried; those that take a prompt and need nothing else are let through."
    )
    page.heading("Architectures")
    page.table(
        [
            "architecture",
            "single file",
            "LoRA",
            "guidance",
            "negative prompt",
            "CLIP skip",
            "tokens",
        ],
        [
            [
                row.title,
                _FILES.get(row.single_file or "", "no"),
                _yes(row.lora),
                _guidance(row),
                _negative(row),
                _yes(row.clip_skip),
                f"{row.reads:,}",
            ]
            for row in MATRIX.values()
        ],
    )
    page.add(
        "All of them load from a diffusers folder. **Single file** says what such a file "
        "holds where people share one; what it lacks comes from the base model. **Guidance** "
        f"names the option whose value has an effect: {code('--guidance')}, "
        f"{code('--true-cfg-scale')}, both or none. An option without an effect is refused, "
        "and its value is not recorded. **Tokens** is how much of a prompt is read, a "
        "pipeline's own words around it included; a longer one is refused."
    )
    page.heading("Refused")
    page.table(
        ["kind of model", "what is said of it"],
        [[refusal.title, f"… {refusal.words} …"] for refusal in REFUSALS.values()],
    )
    page.add(
        "They are refused by their description, before any weights are downloaded where the "
        "hub has one. Several of them take a text, but make something else of it, or want an "
        "image beside it: a specification needs what a model makes of a text alone."
    )
    return page


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _guidance(row: Row) -> str:
    options = [
        option
        for option, counts in (("--guidance", row.guidance), ("--true-cfg-scale", row.true_cfg))
        if counts
    ]
    return ", ".join(map(code, options)) or "none"


def _negative(row: Row) -> str:
    if not row.negative:
        return "no"
    return "with true CFG" if row.true_cfg else "yes"
