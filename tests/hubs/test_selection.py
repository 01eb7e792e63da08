"""Which files are taken: of folders of diffusers, of training runs, of many models side by side."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.errors import HubError
from gmi_registry.hubs.selection import (
    RepoFile,
    check_shard_index,
    select_pipeline,
    select_weights,
)
from gmi_registry.spec import ModelRef

REF = ModelRef("hf", "ada/styles")
LORA = "pytorch_lora_weights.safetensors"
UNET, TEXT = "unet/diffusion_pytorch_model", "text_encoder/model"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "image_encoder": [None, None],
}
CONFIGS = ("model_index.json", "unet/config.json", "text_encoder/config.json")


def files(*paths):
    return [RepoFile(path) for path in paths]


def paths(chosen):
    return [file.path for file in chosen]


def pipeline(*weights, index=INDEX):
    return select_pipeline("hf:ada/whole", files(*CONFIGS, *weights), index)


def numbered(base, total, *numbers, variant=""):
    return [
        f"{base}{variant}-{n:05d}-of-{total:05d}.safetensors"
        for n in numbers or range(1, total + 1)
    ]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        # One at the root, whatever lies in folders.
        (("a.safetensors", "old/b.safetensors"), "a.safetensors"),
        ((LORA, "a.safetensors", "b.safetensors"), LORA),
        # Nothing at the root: the only one below.
        ((f"checkpoint-500/{LORA}",), f"checkpoint-500/{LORA}"),
        (("weights/style/a.safetensors", "images/1.png"), "weights/style/a.safetensors"),
        ((f"checkpoint-500/{LORA}", f"final/{LORA}"), f"final/{LORA}"),
        ((f"checkpoint-500/{LORA}", LORA), LORA),
        # What a training run leaves beside it.
        (("a.safetensors", "optimizer.safetensors", "scheduler.safetensors"), "a.safetensors"),
        (("run/a.safetensors", "run/random_states_0.safetensors"), "run/a.safetensors"),
        (("optimizer.safetensors",), "optimizer.safetensors"),
        # A plain file before its variants, and each alone.
        (("a.safetensors", "a.fp16.safetensors"), "a.safetensors"),
        (("a.fp16.safetensors", "a.bf16.safetensors"), "a.bf16.safetensors"),
        (("a.safetensors", "a.ema.safetensors", "a.non_ema.safetensors"), "a.safetensors"),
        (("a.ema.safetensors",), "a.ema.safetensors"),
        (("a.non_ema.safetensors", "a.ema.safetensors"), "a.ema.safetensors"),
        # GGUF: alone, and never before safetensors.
        (("a-Q4_K_M.gguf",), "a-Q4_K_M.gguf"),
        (("a-Q4_K_M.gguf", "a.safetensors", "a-Q8_0.gguf"), "a.safetensors"),
        (("quants/a-Q8_0.gguf",), "quants/a-Q8_0.gguf"),
        # Pickles, hidden files, other people's places.
        (("a.ckpt", "b.safetensors"), "b.safetensors"),
        ((".cache/x.safetensors", "gmi/spec.safetensors", "b.safetensors"), "b.safetensors"),
    ],
)
def test_the_file_that_is_meant_where_none_is_named(there, taken):
    assert paths(select_weights(REF, files(*there)).weights) == [taken]


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (("a.safetensors", "b.safetensors"), ["a.safetensors", "b.safetensors"]),
        (
            (f"checkpoint-1/{LORA}", f"checkpoint-2/{LORA}"),
            [f"checkpoint-1/{LORA}", f"checkpoint-2/{LORA}"],
        ),
        # A version is no variant.
        (("a.v1.safetensors", "a.v2.safetensors"), ["a.v1.safetensors", "a.v2.safetensors"]),
        (("a-Q4_0.gguf", "a-Q8_0.gguf"), ["a-Q4_0.gguf", "a-Q8_0.gguf"]),
        (("a.Q4_0.gguf", "a.Q8_0.gguf"), ["a.Q4_0.gguf", "a.Q8_0.gguf"]),
        (("one/a.safetensors", "two/a.safetensors"), ["one/a.safetensors", "two/a.safetensors"]),
    ],
)
def test_several_are_refused_with_the_names_to_paste(there, named):
    with pytest.raises(HubError, match=r"holds 2 weight files .*which is meant is un") as caught:
        select_weights(REF, files(*there))
    commands = caught.value.hint.removeprefix("name one: ").split(" or ")
    assert commands == [f"gmi-publish hf:ada/styles/{path}" for path in named]
    for command in commands:
        ref = ModelRef.parse(shlex.split(command)[1])
        assert paths(select_weights(ref, files(*there)).weights) == [ref.file]


MANY = (
    LORA, "v1/ink.safetensors", "v2/ink.safetensors", "v2/oil.safetensors", "x-Q4_0.gguf",
    "run/a.safetensors", "run/a.fp16.safetensors", "run/optimizer.safetensors",
)  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("v1/ink.safetensors", "v1/ink.safetensors"),
        ("v1/*", "v1/ink.safetensors"),
        ("*oil*", "v2/oil.safetensors"),
        ("v?/oil.safetensors", "v2/oil.safetensors"),
        ("*Q4_0*", "x-Q4_0.gguf"),
        ("*.gguf", "x-Q4_0.gguf"),
        # What lies beside it does not count here either, but can be named.
        ("run/*", "run/a.safetensors"),
        ("run/a*", "run/a.safetensors"),
        ("run/*fp16*", "run/a.fp16.safetensors"),
        ("run/a.fp16.safetensors", "run/a.fp16.safetensors"),
        ("run/optimizer.safetensors", "run/optimizer.safetensors"),
    ],
)
def test_a_name_or_a_pattern_takes_exactly_one(pattern, taken):
    ref = ModelRef.parse(f"hf:ada/styles/{pattern}")
    assert paths(select_weights(ref, files(*MANY)).weights) == [taken]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("*ink*", r"2 weight files like \*ink\* \(v1/ink.safetensors, v2/ink.safetensors\)"),
        ("*none*", r"no weight file like \*none\*"),
        ("none.safetensors", "no none.safetensors"),
        ("V1/*", r"no weight file like V1/\*"),
    ],
)
def test_a_pattern_that_takes_none_or_several_is_refused_with_names(pattern, says):
    with pytest.raises(HubError, match=f"hf:ada/styles holds {says}") as caught:
        select_weights(ModelRef.parse(f"hf:ada/styles/{pattern}"), files(*MANY))
    assert "gmi-publish hf:ada/styles/v1/ink.safetensors" in caught.value.hint


def test_the_command_of_a_hub_in_a_folder_names_the_folder():
    with pytest.raises(HubError) as caught:
        select_weights(
            ModelRef("local", "run"), files("a b.safetensors", "c.gguf", "d.safetensors"),
            options=" --hub '/my hub'",
        )  # fmt: skip
    assert caught.value.hint == (
        "name one: gmi-publish 'local:run/a b.safetensors' --hub '/my hub' or "
        "gmi-publish local:run/d.safetensors --hub '/my hub'"
    )


@pytest.mark.parametrize(
    "path",
    ["../a.safetensors", "a/../../b.safetensors", "a\\..\\b.safetensors", "c:/a.safetensors",
     "a//b.safetensors", "/a.safetensors", "a/.hidden/b.safetensors", "1/2/3/4/5/6/7/8/9.gguf"],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_never_taken(path):
    with pytest.raises(HubError, match="holds no weights"):
        select_weights(REF, files(path))
    with pytest.raises(HubError, match="holds no weights"):
        select_pipeline("hf:ada/whole", files(path), {path.split("/")[0]: ["diffusers", "X"]})


@pytest.mark.parametrize(
    ("there", "weights", "network"),
    [
        (("config.json", "diffusion_pytorch_model.safetensors"), 1, ""),
        (("unet/config.json", f"{UNET}.safetensors"), 1, "unet"),
        (("transformer/config.json", "transformer/diffusion_pytorch_model.bf16.safetensors"), 1,
         "transformer"),
        (("config.json", *numbered("diffusion_pytorch_model", 3),
          "diffusion_pytorch_model.safetensors.index.json"), 3, ""),
        (("run/unet/config.json", "run/unet/diffusion_pytorch_model.safetensors"), 1, "run/unet"),
        # Without its configuration, or under another name, it is a file like others.
        (("diffusion_pytorch_model.safetensors",), 1, None),
        (("config.json", "model.safetensors"), 1, None),
        (("vae/config.json", "vae/diffusion_pytorch_model.safetensors"), 1, None),
    ],
)  # fmt: skip
def test_a_network_that_was_saved_by_itself(there, weights, network):
    chosen = select_weights(REF, files(*there))
    assert (len(chosen.weights), chosen.network) == (weights, network)
    others = [path for path in there if path.endswith("json")] if network is not None else []
    assert paths(chosen.others) == sorted(others)
    named = ModelRef("hf", "ada/styles", None, chosen.weights[-1].path)
    assert select_weights(named, files(*there)) == chosen


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (("config.json", *numbered("diffusion_pytorch_model", 3, 1, 3)),
         "lacks the shard diffusion_pytorch_model-00002-of-00003.safetensors"),
        (("config.json", *numbered("diffusion_pytorch_model", 9, 1)),
         "lacks the shard diffusion_pytorch_model-00002-of-00009.safetensors and 7 more"),
        (numbered("model", 2), "is one of 2 shards"),
        (("a.ckpt", "b/c.bin"), "only as pickles"),
        (("a.onnx", "README.md"), "holds no weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_by_name(there, says):
    with pytest.raises(HubError, match=says) as caught:
        select_weights(REF, files(*there))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        # Full precision of all; else one variant of all; else what each has.
        ((f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{TEXT}.safetensors"),
         (f"{TEXT}.safetensors", f"{UNET}.safetensors")),
        ((f"{UNET}.bf16.safetensors", f"{TEXT}.bf16.safetensors"),
         (f"{TEXT}.bf16.safetensors", f"{UNET}.bf16.safetensors")),
        ((f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{TEXT}.fp16.safetensors"),
         (f"{TEXT}.fp16.safetensors", f"{UNET}.fp16.safetensors")),
        ((f"{UNET}.safetensors", f"{TEXT}.fp16.safetensors"),
         (f"{TEXT}.fp16.safetensors", f"{UNET}.safetensors")),
        ((f"{UNET}.bf16.safetensors", f"{UNET}.fp16.safetensors", f"{TEXT}.fp16.safetensors"),
         (f"{TEXT}.fp16.safetensors", f"{UNET}.fp16.safetensors")),
        ((f"{UNET}.bf16.safetensors", f"{TEXT}.fp16.safetensors"),
         (f"{TEXT}.fp16.safetensors", f"{UNET}.bf16.safetensors")),
        # EMA only where it is the only one.
        ((f"{UNET}.safetensors", f"{UNET}.ema.safetensors", f"{UNET}.non_ema.safetensors",
          f"{TEXT}.safetensors"), (f"{TEXT}.safetensors", f"{UNET}.safetensors")),
        ((f"{UNET}.ema.safetensors", f"{TEXT}.safetensors"),
         (f"{TEXT}.safetensors", f"{UNET}.ema.safetensors")),
        ((f"{UNET}.fp16.safetensors", f"{UNET}.ema.safetensors", f"{TEXT}.ema.safetensors",
          f"{TEXT}.safetensors"), (f"{TEXT}.safetensors", f"{UNET}.fp16.safetensors")),
        # A word that nobody knows, where it is the only one.
        ((f"{UNET}.v2.safetensors", f"{TEXT}.safetensors"),
         (f"{TEXT}.safetensors", f"{UNET}.v2.safetensors")),
        # Whole files before shards, complete shards before others, in both spellings.
        ((f"{UNET}.safetensors", *numbered(UNET, 2), f"{TEXT}.safetensors"),
         (f"{TEXT}.safetensors", f"{UNET}.safetensors")),
        ((*numbered(UNET, 2), *numbered(UNET, 3, 1, 2), f"{TEXT}.safetensors"),
         (f"{TEXT}.safetensors", *numbered(UNET, 2))),
        ((*numbered(UNET, 2, variant=".bf16"), f"{TEXT}.bf16.safetensors"),
         (f"{TEXT}.bf16.safetensors", *numbered(UNET, 2, variant=".bf16"))),
        # The name that its library loads.
        ((f"{UNET}.safetensors", "unet/model.safetensors", f"{TEXT}.safetensors",
          "text_encoder/diffusion_pytorch_model.safetensors"),
         (f"{TEXT}.safetensors", f"{UNET}.safetensors")),
    ],
)  # fmt: skip
def test_each_part_comes_in_the_precision_that_it_has(there, taken):
    assert paths(pipeline(*there).weights) == sorted(taken)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ((f"{UNET}.safetensors",), r"holds no weights in text_encoder \(CLIPTextModel\)"),
        ((*numbered(UNET, 3, 1, 3), f"{TEXT}.safetensors"),
         "unet lacks the shard diffusion_pytorch_model-00002-of-00003.safetensors"),
        ((f"{UNET}.bin", f"{TEXT}.safetensors"), "unet holds weights only as pickles"),
        ((f"{UNET}.gguf", f"{TEXT}.safetensors"), r"holds no weights in unet"),
        ((f"{UNET}.a.safetensors", f"{UNET}.b.safetensors", f"{TEXT}.safetensors"),
         r"unet has several variants \(a, b\)"),
        ((), "holds no weights in the folders that its model_index.json names"),
    ],
)  # fmt: skip
def test_a_pipeline_that_lacks_a_part_is_refused_by_its_name(there, says):
    with pytest.raises(HubError, match=says) as caught:
        pipeline(*there)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_part_that_was_never_uploaded_is_named():
    index = INDEX | {"text_encoder_4": ["transformers", "LlamaForCausalLM"]}
    with pytest.raises(HubError, match=r"lacks the folder text_encoder_4 \(LlamaForCausalLM\)"):
        pipeline(f"{UNET}.safetensors", f"{TEXT}.safetensors", index=index)


@pytest.mark.parametrize(
    "path",
    ["tokenizer/chat_template.jinja", "tokenizer/additional_chat_templates/tool.jinja",
     "tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer/tokenizer.model",
     "tokenizer/spiece.model", "tokenizer/qwen.tiktoken", "tokenizer/bpe.codes",
     "tokenizer/vocab", "text_encoder/generation_config.json", "tokenizer/vocab.bpe",
     "tokenizer/preprocessor_config.json", "tokenizer/tekken.json", "tokenizer/dict.tsv"],
)  # fmt: skip
def test_whatever_a_part_may_read_is_taken(path):
    weights = (f"{UNET}.safetensors", f"{TEXT}.safetensors")
    assert path in paths(pipeline(*weights, path).others)
    bare = select_pipeline("hf:ada/whole", files(*CONFIGS, path), INDEX, weights=False)
    assert path in paths(bare.others)


@pytest.mark.parametrize(
    "path",
    ["unet/code.py", "unet/model.onnx", "unet/flax_model.msgpack", "unet/x.bin", "unet/x.png",
     "tokenizer/.cache", "other/config.json", "README.md", "unet/x.gguf", "unet/lib.so",
     f"{UNET}.fp16.safetensors", f"{UNET}.safetensors.index.fp16.json"],
)  # fmt: skip
def test_programs_pictures_and_other_weights_are_left(path):
    chosen = pipeline(f"{UNET}.safetensors", f"{TEXT}.safetensors", path)
    assert path not in paths((*chosen.weights, *chosen.others))


def test_a_large_file_of_no_known_kind_is_left():
    large = RepoFile("tokenizer/corpus.dat", size=10**9)
    small = RepoFile("tokenizer/words.dat", size=10**3)
    there = [*files(*CONFIGS, f"{UNET}.safetensors", f"{TEXT}.safetensors"), large, small]
    others = select_pipeline("hf:ada/whole", there, INDEX).others
    assert small in others
    assert large not in others


@pytest.mark.parametrize("spelling", ["{}.safetensors.index.json", "{}.safetensors.index.fp16.json",
                                      "{}.fp16.safetensors.index.json"])  # fmt: skip
def test_shards_come_with_the_index_of_their_own_precision(spelling):
    variant = ".fp16" if "fp16" in spelling else ""
    shards = numbered(UNET, 2, variant=variant)
    text = f"{TEXT}{variant}.safetensors"
    both = [f"{UNET}.safetensors.index.json", spelling.format(UNET)]
    chosen = pipeline(*shards, text, *both)
    assert paths(chosen.weights) == sorted([text, *shards])
    index = [path for path in paths(chosen.others) if ".index" in path]
    assert index == [spelling.format(UNET)]


def test_an_index_that_names_a_shard_that_is_not_there():
    content = json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})
    check_shard_index("m", content.encode(), ["m-1.safetensors", "m-2.safetensors", "x"])
    with pytest.raises(HubError, match=r"m lacks m-2\.safetensors, which the index"):
        check_shard_index("m", content.encode(), ["m-1.safetensors"])
    for odd in (b"", b"[]", b"{}", b'{"weight_map": 5}', b'{"weight_map": {"a": []}}', b"[" * 9999):
        check_shard_index("m", odd, ["m-1.safetensors"])


name = st.from_regex(r"[a-zA-Z0-9._ -]{0,12}(\.safetensors|\.gguf|\.bin|\.json)?", fullmatch=True)
tree = st.lists(st.lists(name, min_size=1, max_size=4).map("/".join), max_size=12, unique=True)


@given(tree, st.none() | st.sampled_from(["*", "a*.safetensors", "*.gguf", "x.safetensors"]))
def test_any_repository_gives_one_model_or_one_clear_refusal(there, pattern):
    ref = REF if pattern is None else ModelRef.parse(f"{REF}/{pattern}")
    chosen = refusal = None
    try:
        chosen = select_weights(ref, files(*there))
    except HubError as error:
        refusal = error
    if chosen is None:
        assert refusal is not None
        assert refusal.hint
        assert "\n" not in refusal.message + refusal.hint
        return
    assert chosen.weights
    assert {*paths(chosen.weights), *paths(chosen.others)} <= {*there}
    for path in paths(chosen.weights):
        assert path.endswith((".safetensors", ".gguf"))
        assert not any(part.startswith(".") or not part for part in path.split("/"))
