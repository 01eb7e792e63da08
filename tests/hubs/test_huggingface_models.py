"""Whole models from a loopback hub, with the real client: what is fetched, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import struct

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from safetensors.numpy import save

from gmi_registry.errors import AuthError, HubError, SpecNotFoundError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.selection import RepoFile, select_pipeline, select_weights
from gmi_registry.spec import ModelRef
from tests.support.loopback import Fault, LoopbackHub, User, fixtures

ADA = User("ada", "hf_adasecret")
LORA_NAME = "pytorch_lora_weights.safetensors"
LORA = save({"unet.attn.to_q.lora_A.weight": np.ones((2, 4), np.float32)})
WHOLE = save(
    {
        "model.diffusion_model.input_blocks.0.0.weight": np.ones((4, 4, 3, 3), np.float32),
        "first_stage_model.decoder.conv_in.weight": np.ones((4, 4, 3, 3), np.float32),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": np.ones(
            (8, 4), np.float32
        ),
    }
)
LONGER_LORA = save({"unet.attn.to_q.lora_A.weight": np.ones((2, 8), np.float32)})
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
}
CONFIG = {
    "model_index.json": json.dumps(INDEX).encode(),
    "unet/config.json": b"{}",
    "text_encoder/config.json": b"{}",
    "text_encoder/chat_template.jinja": b"{{ messages }}",
    "scheduler/scheduler_config.json": b"{}",
}
FULL = {
    "unet/diffusion_pytorch_model.safetensors": b"unet",
    "text_encoder/model.safetensors": b"text encoder",
}
HALF = {
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half unet",
    "text_encoder/model.fp16.safetensors": b"half text encoder",
}
UNWANTED = {
    "model.safetensors": WHOLE,
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"non ema",
    "unet/model.onnx": b"onnx",
    "unet/flax_model.msgpack": b"flax",
    "unet/code.py": b"import os",
    "safety_checker/model.safetensors": b"checker",
    "checkpoint-500/unet/diffusion_pytorch_model.safetensors": b"older",
    "gmi/spec.json": b"{}",
    "gmi/spec.tensors": b"\0",
    "sample.png": b"picture",
}


@pytest.fixture
def hub(hf_hub):
    hf_hub.add_user(ADA)
    with HuggingFaceHub(token=False) as opened:
        yield opened


def ref(model_id, revision=None):
    return ModelRef("hf", model_id, revision)


def card(**fields):
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items())
    return f"---\n{lines}---\n# A model\n".encode()


def identities(model):
    return [(weight.path, weight.size, weight.sha256) for weight in model.weights]


def expected(files):
    return [(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in sorted(files.items())]


def fetched(hf_hub):
    """Paths of the files whose bytes were asked for."""
    words = ("/resolve/", "/storage/")
    got = [it.path for it in hf_hub.requests if it.method == "GET" and it.status == 200]
    return sorted(p.split("/", 5)[-1] for p in got if any(word in p for word in words))


def on_disk(model):
    """Paths of the model's files in the cache."""
    return sorted(
        path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()
    )


def test_a_checkpoint_is_its_components_in_one_precision_and_nothing_else(hf_hub, hub):
    readme = card(tags=["anime", "gmi-spec"], license="mit")
    wanted = {"README.md": readme, **CONFIG, **FULL}
    sha = hf_hub.add_repo("ada/whole", wanted | HALF | UNWANTED, downloads=12)
    model = hub.fetch_model(ref("ada/whole"))
    assert (model.kind, model.ref) == ("checkpoint", ref("ada/whole", sha))
    assert model.url == f"{hf_hub.endpoint}/ada/whole"
    assert on_disk(model) == sorted(wanted)
    assert identities(model) == expected(FULL)
    assert (model.card.title, model.card.tags) == ("A model", ("anime",))
    assert (model.card.licence, model.card.downloads, model.base) == ("mit", 12, None)
    hf_hub.clear_requests()
    assert hub.fetch_model(ref("ada/whole", sha)) == model
    assert [it.method for it in hf_hub.requests] == ["GET"]


def test_half_precision_alone_and_shards_with_their_index(hf_hub, hub):
    shards = {
        f"unet/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors": b"shard %d" % n
        for n in (1, 2)
    } | {"text_encoder/model.fp16.safetensors": b"half"}
    index = {"unet/diffusion_pytorch_model.safetensors.index.fp16.json": b"{}"}
    other = {"unet/diffusion_pytorch_model.safetensors.index.json": b"{}"}
    hf_hub.add_repo("ada/half", CONFIG | shards | index | other)
    model = hub.fetch_model(ref("ada/half"))
    assert identities(model) == expected(shards)
    assert on_disk(model) == sorted(CONFIG | shards | index)


def test_a_lora_comes_with_the_base_that_its_card_names(hf_hub, hub):
    hf_hub.add_repo("ada/base", CONFIG | FULL | HALF | UNWANTED)
    readme = card(base_model="ada/base", instance_prompt="in style")
    hf_hub.add_repo("ada/style", {"README.md": readme, LORA_NAME: LORA, "pt.bin": b"p"})
    model = hub.fetch_model(ref("ada/style"))
    assert model.kind == "lora"
    assert identities(model) == expected({LORA_NAME: LORA})
    assert on_disk(model) == ["README.md", LORA_NAME]
    assert model.card.trigger_words == ("in style",)
    assert model.base is not None
    assert identities(model.base) == expected(FULL)


def test_a_lora_under_another_name_is_known_by_its_tensors(hf_hub, hub):
    hf_hub.add_repo("ada/style", {"my_style.safetensors": LORA})
    model = hub.fetch_model(ref("ada/style"))
    assert (model.kind, model.base, model.card.title) == ("lora", None, "style")


def test_a_single_file_needs_of_its_base_the_configuration_only(hf_hub, hub):
    hf_hub.add_repo("ada/base", CONFIG | FULL)
    files = {"README.md": card(base_model="ada/base"), "merged.safetensors": WHOLE}
    hf_hub.add_repo("ada/merged", files)
    model = hub.fetch_model(ref("ada/merged"))
    assert (model.kind, model.path.name) == ("single-file", "merged.safetensors")
    assert identities(model) == expected({"merged.safetensors": WHOLE})
    assert model.base is not None
    assert (model.base.kind, model.base.weights) == ("checkpoint", ())
    assert on_disk(model.base) == sorted(CONFIG)


def test_a_pinned_revision_is_what_is_fetched(hf_hub, hub):
    first = hf_hub.add_repo("ada/style", {LORA_NAME: LORA})
    second = hf_hub.commit("ada/style", {LORA_NAME: LONGER_LORA})
    assert hub.fetch_model(ref("ada/style", first)).weights[0].size == len(LORA)
    newest = hub.fetch_model(ref("ada/style"))
    assert (newest.ref.revision, newest.weights[0].size) == (second, len(LONGER_LORA))
    with pytest.raises(SpecNotFoundError, match="has no revision nowhere"):
        hub.fetch_model(ref("ada/style", "nowhere"))


def test_gated_and_private_models_open_with_a_token(hf_hub, hub):
    hf_hub.add_repo("ada/private", {LORA_NAME: LORA}, private=True)
    hf_hub.add_repo("ada/gated", CONFIG | FULL, gated=True)
    with HuggingFaceHub(token=ADA.token) as mine:
        assert mine.fetch_model(ref("ada/private")).kind == "lora"
        assert mine.fetch_model(ref("ada/gated")).kind == "checkpoint"


def test_a_base_that_may_not_be_read_is_named(hf_hub, hub):
    hf_hub.add_repo("ada/base", CONFIG | FULL, gated=True)
    hf_hub.add_repo("ada/style", {"README.md": card(base_model="ada/base"), LORA_NAME: LORA})
    with pytest.raises(AuthError, match="base model of hf:ada/style, ada/base, is not open") as got:
        hub.fetch_model(ref("ada/style"))
    assert (
        got.value.hint
        == f"accept its conditions at {hf_hub.endpoint}/ada/base, then: hf auth login"
    )


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("ada/nowhere", "ada/nowhere, is not open"),
        ("SDXL 1.0", "SDXL 1.0, is not the name of a model"),
        ("No family 9", "No family 9, is not the name of a model"),
        ("ada/style", "go round in a circle"),
    ],
)
def test_a_base_that_is_none_is_an_error(hf_hub, hub, base, says):
    hf_hub.add_repo("ada/style", {"README.md": card(base_model=base), LORA_NAME: LORA})
    with pytest.raises(HubError, match=says):
        hub.fetch_model(ref("ada/style"))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"README.md": b"# Nothing\n"}, "hf:ada/model holds no weights"),
        ({"model.ckpt": b"p"}, "holds weights only as pickles"),
        (
            CONFIG | {"unet/diffusion_pytorch_model.bin": b"p"},
            "hf:ada/model: unet holds .* pickles",
        ),
        (CONFIG, "holds no weights"),
        ({"a.safetensors": WHOLE, "b.safetensors": WHOLE}, r"2 weight files \(a.*which is meant"),
        ({"a.safetensors": b"no tensors"}, "is no safetensors file"),
        (
            {"README.md": card(pipeline_tag="text-generation"), "model.safetensors": WHOLE},
            "not a text-to-image model: the hub lists it under text-generation",
        ),
        ({"README.md": b"---\na: [\n---\n", LORA_NAME: LORA}, r"ada/model/README.md.*line \d"),
        ({"model_index.json": b"[", **FULL}, "model_index.json is not a JSON object"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(hf_hub, hub, files, says):
    hf_hub.add_repo("ada/model", files)
    with pytest.raises(HubError, match=says) as caught:
        hub.fetch_model(ref("ada/model"))
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert not [path for path in fetched(hf_hub) if path.endswith((".ckpt", ".bin"))]


@pytest.mark.parametrize(
    ("task", "tags", "described"),
    [
        (None, [], True),
        ("text-to-image", [], True),
        ("image-to-image", ["text-to-image"], True),
        ("image-to-image", [], False),
        ("unconditional-image-generation", [], False),
        ("text-to-video", ["video"], False),
    ],
)
def test_the_task_decides_where_no_pipeline_says_what_it_takes(hf_hub, hub, task, tags, described):
    readme = card(tags=tags, **({} if task is None else {"pipeline_tag": task}))
    hf_hub.add_repo("ada/style", {"README.md": readme, LORA_NAME: LORA})
    hf_hub.add_repo("ada/whole", {"README.md": readme, **CONFIG, **FULL})
    # The pipeline itself says it, whatever its page is filed under.
    assert hub.fetch_model(ref("ada/whole")).kind == "checkpoint"
    if described:
        assert hub.fetch_model(ref("ada/style")).kind == "lora"
        return
    with pytest.raises(HubError, match=f"the hub lists it under {task}"):
        hub.fetch_model(ref("ada/style"))


KERNEL = np.ones((4, 4, 3, 3), np.float32)
NETWORK = save({"model.diffusion_model.input_blocks.0.0.weight": KERNEL})
VAE = save(
    {
        f"{name}.weight": KERNEL
        for name in ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out",
                     "decoder.up.0.block.0.conv1", "quant_conv", "post_quant_conv")
    }
)  # fmt: skip
EMBEDDING = save({"emb_params": np.ones((2, 768), np.float32)})


def gguf(names, shape=(4, 4)):
    """A GGUF file of version 3 with 32-bit numbers; nothing of it but the header is looked at."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(names), 0)
    size = 4 * math.prod(shape)
    for number, name in enumerate(names):
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<Q", len(name)) + name.encode() + dimensions
        head += struct.pack("<IQ", 0, number * size)
    return head + bytes(-len(head) % 32 + len(names) * size)


GGUF = gguf(["model.diffusion_model.input_blocks.0.0.weight"], (3, 3, 4, 4))


@pytest.mark.parametrize(
    ("path", "content", "kind", "with_weights"),
    [
        ("a.safetensors", WHOLE, "single-file", False),
        ("a.safetensors", NETWORK, "single-file", True),
        ("deep/folder/a.safetensors", NETWORK, "single-file", True),
        ("a-Q8_0.gguf", GGUF, "single-file", True),
        ("a.safetensors", LORA, "lora", True),
        (f"checkpoint-500/{LORA_NAME}", LORA, "lora", True),
        ("a.safetensors", EMBEDDING, "textual-inversion", True),
    ],
)
def test_the_header_says_what_a_file_is_and_what_of_its_base_is_needed(
    hf_hub, hub, path, content, kind, with_weights
):
    hf_hub.add_repo("ada/base", CONFIG | FULL)
    files = {"README.md": card(base_model="ada/base"), path: content}
    hf_hub.add_repo("ada/style", files)
    outline = hub.outline(ref("ada/style"))
    assert outline.kind == kind
    assert list(outline.weights) == [path]
    assert sorted(outline.base.weights) == (sorted(FULL) if with_weights else [])
    assert [name for name in fetched(hf_hub) if name.endswith((".safetensors", ".gguf"))] == []
    model = hub.fetch_model(outline.ref)
    assert (model.kind, len(model.base.weights)) == (kind, len(FULL) if with_weights else 0)
    assert (model.path / path if model.path.is_dir() else model.path).read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ae.safetensors", VAE, "is a VAE"),
        ("style.safetensors", b"PK\x03\x04" + bytes(400), "a packed archive"),
        ("style.safetensors", pickle.dumps({"a": 1}), "is a pickle"),
        ("style.safetensors", NETWORK[:-50], "bytes"),
        ("style.safetensors", b"<!DOCTYPE html><html></html>", "a web page"),
        ("model-Q8_0.gguf", GGUF[:100], "GGUF"),
        ("model-Q8_0.gguf", NETWORK[:7], "safetensors|GGUF|short|bytes"),
    ],
)
def test_a_wrong_file_is_refused_while_its_weights_are_far_away(hf_hub, hub, name, content, says):
    hf_hub.add_repo("ada/base", CONFIG | FULL)
    hf_hub.add_repo("ada/style", {"README.md": card(base_model="ada/base"), name: content})
    with pytest.raises(HubError, match=says) as caught:
        hub.outline(ref("ada/style"))
    assert f"hf:ada/style/{name}" in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert [path for path in fetched(hf_hub) if path.endswith((".safetensors", ".gguf"))] == []


def test_a_long_header_takes_two_requests_and_no_more_of_the_file(hf_hub, hub):
    names = [f"unet.block_{number}.{'x' * 80}.lora_A.weight" for number in range(4000)]
    content = save({name: np.ones((1, 1), np.float32) for name in names})
    hf_hub.add_repo("ada/style", {LORA_NAME: content + b""})
    assert hub.outline(ref("ada/style")).kind == "lora"
    storage = [it.status for it in hf_hub.requests if "/storage/" in it.path]
    assert storage == [206, 206]


@pytest.mark.parametrize("kind", ["500", "cut"])
def test_a_hub_that_gives_no_beginning_gives_the_file(hf_hub, hub, monkeypatch, kind):
    monkeypatch.setattr("gmi_registry.hubs.huggingface.client.time.sleep", lambda _: None)
    hf_hub.add_repo("ada/base", CONFIG | FULL)
    hf_hub.add_repo("ada/style", {"README.md": card(base_model="ada/base"), "a.safetensors": VAE})
    hf_hub.inject(Fault(kind, method="GET", path_regex="storage", times=3))
    outline = hub.outline(ref("ada/style"))
    assert (outline.kind, dict(outline.base.weights)) == (None, {})
    with pytest.raises(HubError, match="is a VAE"):
        hub.fetch_model(outline.ref)


def test_a_storage_without_ranges_tells_no_less(hf_hub, hub, monkeypatch):
    monkeypatch.setattr("tests.support.loopback.reading._RANGE", re.compile("never"))
    hf_hub.add_repo("ada/style", {"a.safetensors": VAE})
    with pytest.raises(HubError, match="is a VAE"):
        hub.outline(ref("ada/style"))
    hf_hub.commit("ada/style", {"a.safetensors": LORA})
    assert hub.outline(ref("ada/style")).kind == "lora"


def test_a_network_that_reads_an_image_is_refused_with_its_pipeline(hf_hub, hub):
    def network(channels):
        names = ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "up_blocks.0.a",
                 "time_embedding.linear_1", "conv_out")  # fmt: skip
        kernels = {f"{name}.weight": KERNEL for name in names}
        return save(kernels | {"conv_in.weight": np.ones((4, channels, 3, 3), np.float32)})

    name = "unet/diffusion_pytorch_model.safetensors"
    hf_hub.add_repo("ada/plain", CONFIG | FULL | {name: network(4)})
    assert hub.outline(ref("ada/plain")).kind == "checkpoint"
    hf_hub.add_repo("ada/inpainting", CONFIG | FULL | {name: network(9)})
    with pytest.raises(HubError, match="needs an image to begin with"):
        hub.outline(ref("ada/inpainting"))
    assert [path for path in fetched(hf_hub) if path.endswith(".safetensors")] == []


def test_a_file_in_a_folder_is_named_and_a_pattern_becomes_its_name(hf_hub, hub):
    files = {f"v{n}/ink.safetensors": save({"x.lora_A.weight": np.full((2, n), 1.0, np.float32)})
             for n in (1, 2)}  # fmt: skip
    sha = hf_hub.add_repo("ada/styles", files)
    for text in ("v2/ink.safetensors", "*v2*", "v?/ink.safetensors"):
        asked = ModelRef.parse(f"hf:ada/styles/{text}")
        if text.startswith("v?"):
            with pytest.raises(HubError, match="2 weight files like"):
                hub.outline(asked)
            continue
        outline = hub.outline(asked)
        assert outline.ref == ModelRef("hf", "ada/styles", sha, "v2/ink.safetensors")
        model = hub.fetch_model(outline.ref)
        assert identities(model) == expected({"v2/ink.safetensors": files["v2/ink.safetensors"]})


@pytest.mark.parametrize("named", [None, "ink.safetensors", "*ink.*"])
def test_the_words_that_were_taught_with_a_lora_come_with_it(hf_hub, hub, named):
    files = {"ink.safetensors": LORA, "a_emb.safetensors": EMBEDDING, "b_emb.safetensors": VAE}
    hf_hub.add_repo("ada/base", CONFIG | FULL)
    hf_hub.add_repo("ada/style", files | {"README.md": card(base_model="ada/base")})
    outline = hub.outline(ModelRef("hf", "ada/style", None, named))
    assert (outline.kind, sorted(outline.weights)) == (
        "lora", ["a_emb.safetensors", "ink.safetensors"]
    )  # fmt: skip
    assert outline.ref.file == (None if named is None else "ink.safetensors")
    model = hub.fetch_model(outline.ref)
    assert (model.kind, identities(model)) == (
        "lora", expected({name: files[name] for name in list(files)[:2]})
    )  # fmt: skip
    # Named by itself it is a model of its own.
    alone = hub.fetch_model(ModelRef("hf", "ada/style", None, "a_emb.safetensors"))
    assert (alone.kind, len(alone.weights)) == ("textual-inversion", 1)


def test_a_network_saved_by_itself_comes_with_its_configuration(hf_hub, hub):
    hf_hub.add_repo("ada/base", CONFIG | FULL)
    network = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": NETWORK}
    readme = {"README.md": card(base_model="ada/base")}
    hf_hub.add_repo("ada/network", readme | network | {"x.json": b"{}"})
    model = hub.fetch_model(ref("ada/network"))
    assert (model.kind, on_disk(model)) == ("single-file", sorted(readme | network))
    assert identities(model.base) == expected(FULL)


def test_a_shard_that_is_missing_is_named_before_the_others_arrive(hf_hub, hub):
    shards = {f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors": NETWORK for n in (1, 2)}
    index = {"weight_map": {"a": "diffusion_pytorch_model-extra.safetensors"}}
    where = {"unet/diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode()}
    text = {"text_encoder/model.safetensors": b"text"}
    hf_hub.add_repo("ada/whole", CONFIG | shards | where | text)
    with pytest.raises(HubError, match=r"unet lacks diffusion_pytorch_model-extra\.safetensors"):
        hub.fetch_model(ref("ada/whole"))
    assert [path for path in fetched(hf_hub) if path.endswith(".safetensors")] == []
    hf_hub.add_repo("ada/part", CONFIG | text | dict(list(shards.items())[:1]))
    with pytest.raises(HubError, match=r"unet lacks the shard .*00002-of-00002"):
        hub.outline(ref("ada/part"))


def test_other_bytes_than_promised_are_refused_and_not_kept(hf_hub, hub):
    hf_hub.add_repo("ada/style", {LORA_NAME: LORA})
    # The beginning is asked for first, and is not believed either.
    hf_hub.inject(Fault("wrong-digest", path_regex="storage", times=2))
    with pytest.raises(HubError, match=f"the download of {LORA_NAME} is not what"):
        hub.fetch_model(ref("ada/style"))
    assert identities(hub.fetch_model(ref("ada/style"))) == expected({LORA_NAME: LORA})


def test_a_cut_download_goes_on(hf_hub, hub):
    hf_hub.add_repo("ada/style", {LORA_NAME: LORA})
    hf_hub.inject(Fault("cut", method="GET", path_regex="storage"))
    assert identities(hub.fetch_model(ref("ada/style"))) == expected({LORA_NAME: LORA})


def test_whole_files_go_before_shards():
    files = [RepoFile(path) for path in CONFIG]
    text = RepoFile("text_encoder/model.safetensors")
    both = [
        RepoFile("unet/model.safetensors"),
        RepoFile("unet/model-00001-of-00001.safetensors"),
        RepoFile("unet/model.safetensors.index.json"),
    ]
    chosen = select_pipeline("hf:a/b", [*files, *both, text], INDEX)
    assert [file.path for file in chosen.weights] == [text.path, "unet/model.safetensors"]
    assert [file.path for file in chosen.others] == sorted(CONFIG)


@pytest.mark.parametrize("name", ["../unet", "unet/deep", ".", "", "_unet"])
def test_a_component_is_a_plain_folder(name):
    file = RepoFile(f"{name}/model.safetensors")
    with pytest.raises(HubError, match="holds no weights"):
        select_pipeline("hf:a/b", [file], {name: ["diffusers", "UNet2DConditionModel"]})


def test_the_usual_name_of_a_lora_decides():
    files = [RepoFile("other.safetensors"), RepoFile(LORA_NAME), RepoFile("deep/x.safetensors")]
    assert [file.path for file in select_weights(ModelRef("hf", "a/b"), files).weights] == [
        LORA_NAME
    ]


def test_xet_storage_delivers_the_same_bytes_within_the_same_limits(tmp_path, monkeypatch):
    pytest.importorskip("hf_xet")
    noise = np.random.default_rng(0).standard_normal((2, 37_500)).astype(np.float32)
    weights = save({"unet.attn.to_q.lora_A.weight": noise})
    (tmp_path / "cas").mkdir()
    with LoopbackHub(xet_dir=tmp_path / "cas") as stored:
        fixtures.turn_client(monkeypatch, stored.endpoint, tmp_path / "home", xet=True)
        stored.add_user(ADA)
        stored.add_repo("ada/style", {"README.md": card()})
        upload = CommitOperationAdd(LORA_NAME, weights)
        HfApi(token=ADA.token).create_commit(
            "ada/style", [upload], commit_message="weights", repo_type="model"
        )
        assert stored.repo("ada/style").find("main").files[LORA_NAME].xet_hash
        with HuggingFaceHub(token=False) as opened:
            model = opened.fetch_model(ref("ada/style"))
            assert identities(model) == expected({LORA_NAME: weights})
            downloads = opened._downloads
            downloads.discard(model.path / LORA_NAME)
            with pytest.raises(HubError, match="bytes, more than 299,999"):
                downloads.fetch("ada/style", LORA_NAME, model.ref.revision, limit=299_999)
