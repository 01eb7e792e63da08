"""Vectors that every reader must accept."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmi_registry.spec import LoraPartial, PromptSet, Sampler
from tests.conformance.vector_base import (
    Case,
    Document,
    Files,
    base_files,
    base_spec,
    described,
    edit,
    encoder,
    files_of,
    recipe,
    values_edit,
    weight,
)


def _case(
    name: str,
    why: str,
    files: Files,
    expected: str | None = None,
    own_weights: dict[str, str | None] | None = None,
) -> Case:
    return Case("valid", name, "accept", why, files, expected=expected, own_weights=own_weights)


def _newer_minor(document: Document) -> None:
    document["format"]["version"] = "1.7"
    document["format"]["note"] = "unknown at the first level below the top"
    document["style"] = {"file": "style.tensors", "blocks": [1, 2.5, None, {"deep": True}]}
    document["model"]["weights"][0]["quantised"] = False
    document["generation"]["recipe"]["sampler"]["variant"] = "x"
    document["encoder"]["note"] = ""


def _newer_base(document: Document) -> None:
    document["format"]["version"] = "1.7"
    document["model"]["base_weights"] = [
        {**document["model"]["weights"][0], "path": "unet/model.safetensors", "quantised": False}
    ]


def _unit_rows() -> np.ndarray[Any, Any]:
    rows = np.zeros((2, 8))
    rows[0, 0], rows[1, :4] = 1, 0.5
    return rows


def _own(*paths: str) -> dict[str, str | None]:
    return {path: weight(path).sha256 for path in paths}


CASES = [
    _case("minimal", "only the fields that must be there", base_files()),
    _case(
        "every-field",
        "every optional field; the expected model's revision is not compared",
        files_of(
            base_spec(
                model=described(
                    revision="refs/pr/3",
                    url="https://example.org/example/model?a=b#c",
                    base_model="example/base",
                    base_origin="option",
                    base_revision="v1.0",
                    base_weights=(weight("unet/model.safetensors"),),
                    tags=("anime", "flat colour"),
                    licence="apache-2.0",
                    nsfw=True,
                    downloads=123456,
                ),
                recipe=recipe(
                    negative_prompt="blurry",
                    dtype="bfloat16",
                    true_cfg_scale=4.0,
                    clip_skip=2,
                    vae_dtype="float32",
                    vae_tiling=True,
                    lora_scale=0.8,
                    lora_partial=LoraPartial(applied=190, tensors=192),
                    trigger_words=("exmpl style", "flat"),
                    prompt_template="a picture of {prompt}, detailed",
                    batch_size=4,
                ),
                previous="0" * 64,
                gamma=0.005,
            )
        ),
        expected="hf:example/model@0123abc",
    ),
    _case(
        "without-guidance",
        "a pipeline that reads no scale of guidance; words that a base model was taught",
        files_of(
            base_spec(
                model=described(
                    kind="textual-inversion",
                    base_model="example/base",
                    base_weights=(weight("unet/model.safetensors"),),
                ),
                recipe=recipe(guidance_scale=None),
            )
        ),
    ),
    _case(
        "checkpoint",
        "a checkpoint of several weight files, sorted by path",
        files_of(
            base_spec(
                model=described(
                    id="model",
                    kind="checkpoint",
                    weights=tuple(
                        weight(f"{part}/model.safetensors") for part in ("text_encoder", "unet")
                    ),
                )
            )
        ),
    ),
    _case(
        "civitai",
        "a model on the second hub: numbers for id and revision",
        files_of(
            base_spec(
                model=described(hub="civitai", id="4384", revision="128713", kind="single-file")
            )
        ),
        expected="civitai:4384",
    ),
    _case(
        "local",
        "a model in a folder, with a digest for revision",
        files_of(base_spec(model=described(hub="local", id="my.model_2", revision="0badc0de"))),
        expected="local:my.model_2@0badc0de",
    ),
    _case(
        "own-prompts",
        "a second block of the author's own prompts; a prompt may stand in both blocks",
        files_of(
            base_spec(
                prompt_sets=[
                    PromptSet("example", 1, ("a red fox in the snow", "an old lighthouse")),
                    PromptSet("own", 3, ("a knight", "an old lighthouse", "a pear")),
                ]
            )
        ),
    ),
    _case(
        "seeds-interleaved",
        "two seeds; images ordered by seed first: image_prompt is 0, 1, 0, 1",
        files_of(base_spec(recipe=recipe(seeds=(5, 3)), image_prompt=[0, 1, 0, 1])),
    ),
    _case(
        "unicode",
        "letters beyond ASCII and the BMP; keys in UTF-16 order, where an emoji precedes U+FB33",
        files_of(
            base_spec(
                model=described(title="水彩の狐 🦊", tags=("акварель", "عربي")),
                prompt_sets=[PromptSet("unicode", 1, ("雪の中の狐", 'a "quoted" \\ slash / 🦊'))],
                recipe=recipe(
                    sampler=Sampler(name="S", config={"\ufb33": 1, "😀": 2, "ö": 3, "\u20ac": 4})
                ),
            )
        ),
    ),
    _case(
        "numbers",
        "ECMAScript's spelling of numbers, and every kind of scalar",
        files_of(
            base_spec(
                recipe=recipe(
                    sampler=Sampler(
                        name="S",
                        config={
                            "a": 1e-7,
                            "b": 0.00001,
                            "c": 1.5e-10,
                            "d": -0.25,
                            "e": 9007199254740991,
                            "f": 100.0,
                            "g": 0.1 + 0.2,
                            "h": None,
                            "i": True,
                            "j": "",
                            "k": -12345.678,
                            "l": 5e-324,
                        },
                    ),
                    guidance_scale=0,
                    seeds=(9007199254740991,),
                ),
                gamma=1e-6,
            )
        ),
    ),
    _case(
        "normalized",
        "image embeddings of norm 1",
        files_of(base_spec(encoder=encoder(normalized=True), image_embeddings=_unit_rows())),
    ),
    _case(
        "newer-minor",
        "version 1.7: unknown fields at any depth are ignored, and kept on rewriting",
        edit(_newer_minor),
    ),
    _case(
        "small-values",
        "zeros and subnormal float16 values in a row whose norm is sane",
        values_edit("image_embeddings", lambda a: a[0].__setitem__(slice(1, 8), 6e-8)),
    ),
    _case(
        "longest-prompt",
        "a prompt of 1,000 characters, and one of 1",
        files_of(base_spec(prompt_sets=[PromptSet("a" * 80, 1, ("🦊" * 1000, "x"))])),
    ),
    _case(
        "one-image",
        "one prompt, one seed, dimensions 1",
        files_of(
            base_spec(
                encoder=encoder(image_dim=1, text_dim=1),
                prompt_sets=[PromptSet("one", 1, ("a fox",))],
                image_embeddings=[[2.0]],
                prompt_embeddings=[[-0.5]],
            )
        ),
    ),
    _case(
        "lora-on-base",
        "a LoRA with the files of its base, one of them under the name of its own file",
        files_of(
            base_spec(
                model=described(
                    base_model="example/base",
                    base_weights=tuple(
                        weight(path)
                        for path in (
                            "pytorch_lora_weights.safetensors",
                            "text_encoder/model.safetensors",
                            "unet/model.safetensors",
                            "vae/model.safetensors",
                        )
                    ),
                )
            )
        ),
    ),
    _case(
        "single-file-on-base",
        "a single file with the files of the base that gave its layout; no base_model is named",
        files_of(
            base_spec(
                model=described(
                    hub="civitai",
                    id="12",
                    revision="34",
                    kind="single-file",
                    weights=(weight("merged.safetensors"),),
                    base_weights=(weight("\u6c34/a.safetensors"), weight("\U0001f98a.safetensors")),
                )
            )
        ),
    ),
    _case(
        "lora-base-unknown",
        "a LoRA that names a base model, whose files are not known",
        files_of(base_spec(model=described(base_model="example/base"))),
    ),
    _case(
        "base-weights-newer-minor",
        "version 1.7: an unknown field in a base weight file; digests are as in 1.0",
        edit(_newer_base),
    ),
    _case(
        "renamed",
        "found at another id, whose weights are those that are described",
        base_files(),
        expected="hf:example/new-name@0123abc",
        own_weights=_own("pytorch_lora_weights.safetensors"),
    ),
    _case(
        "renamed-files-beside",
        "a renamed checkpoint of two files; beside them others, one of them without a digest",
        files_of(
            base_spec(
                model=described(
                    kind="checkpoint",
                    weights=tuple(
                        weight(f"{part}/model.safetensors") for part in ("text_encoder", "unet")
                    ),
                )
            )
        ),
        expected="hf:another/model",
        own_weights=_own(
            "text_encoder/model.safetensors", "unet/model.safetensors", "vae/model.safetensors"
        )
        | {"unet/model.fp16.safetensors": None},
    ),
    _case(
        "renamed-on-base",
        "a renamed LoRA: the base's files lie elsewhere, and have no part in whose it is",
        files_of(base_spec(model=described(base_weights=(weight("unet/model.safetensors"),)))),
        expected="hf:example/new-name",
        own_weights=_own("pytorch_lora_weights.safetensors"),
    ),
    _case(
        "renamed-folder",
        "a local model whose folder was renamed",
        files_of(base_spec(model=described(hub="local", id="old", revision="0badc0de"))),
        expected="local:new@0badc0de",
        own_weights=_own("pytorch_lora_weights.safetensors"),
    ),
    _case(
        "same-id-other-weights",
        "found where it belongs: other weights make it stale, and do not keep it from being read",
        base_files(),
        expected="hf:example/model",
        own_weights={"pytorch_lora_weights.safetensors": "0" * 64},
    ),
]
