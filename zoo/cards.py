"""The zoo's model cards and its list of the artists whose icons it learned from."""

from __future__ import annotations

import yaml

from zoo.styles import SOURCES, STYLES, Style

BASE = "icon-base"
SHARED_TAGS = ("text-to-image", "icons")
FAMILY = {
    "prompt_set": "icons-v1",
    "encoder": "gmi-zoo-clip/icons-v1",
    "steps": 20,
    "guidance_scale": 2.0,
}


QUERIES = (("fluent-3d", "palm-tree"), ("openmoji", "rooster"), ("pixel-art", "rose"))
"""Style and name of the demo's query pictures: the artists' own, of names no LoRA has seen."""


def named(style: str) -> Style:
    return next(each for each in STYLES if each.name == style)


def lora_name(style: Style) -> str:
    return f"icon-{style.name}"


def _card(front: dict[str, object], title: str, body: str) -> str:
    matter = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{matter}---\n\n# {title}\n\n{body}\n"


def base_card() -> str:
    return _card(
        {
            "license": "cc-by-sa-4.0",
            "pipeline_tag": "text-to-image",
            "tags": [*SHARED_TAGS, "base"],
            "gmi": FAMILY,
        },
        "Icon base",
        "A Stable Diffusion pipeline in small: 64x64 pixels, 16x16x4 latents, trained on icons\n"
        "in sixteen styles. A prompt is the name of a thing (`hot pepper`), alone or with a style\n"
        "in words (`hot pepper, pixel art`). It knows no other pictures than icons.\n\n"
        "Trained from the icon sets listed in `zoo/ATTRIBUTION.md`.",
    )


def lora_card(style: Style) -> str:
    return _card(
        _style_front(style) | {"base_model": BASE},
        f"Icon {style.name}",
        f"A LoRA on `{BASE}` that draws every icon as {style.words[0]}. {_credit(style)}",
    )


def merged_card(style: Style) -> str:
    return _card(
        _style_front(style) | {"base_model": BASE, "tags": [*SHARED_TAGS, *style.tags, "merged"]},
        f"Icon {style.name}, merged",
        f"`{lora_name(style)}` merged into `{BASE}`, as a single file. {_credit(style)}",
    )


def _style_front(style: Style) -> dict[str, object]:
    return {
        # What a LoRA learned rests on its own icons and on the base, which is share-alike.
        "license": "cc-by-sa-4.0",
        "pipeline_tag": "text-to-image",
        "tags": [*SHARED_TAGS, *style.tags],
        "gmi": FAMILY,
    }


def _credit(style: Style) -> str:
    source = SOURCES[style.source]
    return (
        f"Learned from {source.package} by {source.artist} "
        f"([{source.licence}]({source.url})); see `zoo/ATTRIBUTION.md`."
    )


def attribution() -> str:
    rows = [
        f"| [{source.package}]({source.url}) {source.version} | {source.artist} | "
        + f"{source.licence} | "
        + ", ".join(style.name for style in STYLES if style.source == source.package)
        + " |"
        for source in SOURCES.values()
    ]
    return "\n".join(
        [
            "# Whose pictures the zoo learned from",
            "",
            "The zoo's weights were trained on these icon sets, taken from the npm packages",
            "`@iconify-json/NAME`. " + ", ".join(style.name for style in STYLES if style.filtered),
            "are filters of ours over the named set. The weights are offered under CC BY-SA 4.0,",
            "the strictest of the licences. Three icons are part of this repository, as the demo's",
            "queries (`zoo/queries/`), each under the licence of its set:",
            "",
            *(
                f"- `{style}-{name}.png`: {SOURCES[named(style).source].artist}, "
                f"{SOURCES[named(style).source].licence}"
                for style, name in QUERIES
            ),
            "",
            "The encoder's vocabulary (`onnx/merges.txt`) is CLIP's, by OpenAI, under the MIT",
            "licence.",
            "",
            "| set | by | licence | styles |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )
