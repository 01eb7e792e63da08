"""Vectors that break one rule each, as an honest but mistaken writer would."""

from __future__ import annotations

import json
from typing import Any

from gmi_registry.spec import PromptSet
from gmi_registry.spec.canonical import canonical_digest
from tests.conformance.vector_base import (
    JSON,
    TENSORS,
    Case,
    Document,
    Files,
    base_files,
    base_spec,
    described,
    drop,
    edit,
    files_of,
    header_edit,
    join_tensors,
    put,
    split_tensors,
    text,
    values_edit,
    weight,
    with_tensors,
)

OWN: dict[str, str | None] = {path: weight(path).sha256 for path in ("a", "b")}
FORMAT = "SpecFormatError"
DIGEST = "DigestMismatchError"


def _case(
    name: str,
    why: str,
    files: Files,
    clue: str,
    verdict: str = FORMAT,
    expected: str | None = None,
    own_weights: dict[str, str | None] | None = None,
) -> Case:
    return Case("invalid", name, verdict, why, files, clue, expected, own_weights=own_weights)


def _renamed(
    name: str,
    why: str,
    own_weights: dict[str, str | None],
    *,
    found: str = "hf:example/other",
    clue: str = "describes hf:example/model, but was found at",
    **model: Any,
) -> Case:
    """A LoRA of two files in the place of another, which has ``own_weights``."""
    spec = base_spec(model=described(**{"weights": (weight("a"), weight("b")), **model}))
    return _case(name, why, files_of(spec), clue, expected=found, own_weights=own_weights)


def _prompts(*prompts: str) -> Files:
    def change(document: Document) -> None:
        block = document["prompt_sets"][0]
        block["prompts"] = list(prompts)
        block["id"] = canonical_digest(prompts)

    return edit(change)


def _recipe(**changes: object) -> Files:
    def change(document: Document) -> None:
        generation = document["generation"]
        generation["recipe"].update(changes)
        hashed = {k: v for k, v in generation["recipe"].items() if k != "libraries"}
        generation["id"] = canonical_digest(hashed)

    return edit(change)


def _base_weights(*files: Document) -> Files:
    """The base on a base model; ``files`` change its first weight file, one entry each."""

    def change(document: Document) -> None:
        file = document["model"]["weights"][0]
        document["model"]["base_weights"] = [{**file, **changes} for changes in files]

    return edit(change)


def _checkpoint_on_base() -> Files:
    def change(document: Document) -> None:
        model = document["model"]
        model.update(kind="checkpoint", base_weights=model["weights"])

    return edit(change)


def _second_block(rows: list[int]) -> Files:
    spec = base_spec(
        prompt_sets=[PromptSet("example", 1, ("a", "b")), PromptSet("own", 1, ("c", "d"))]
    )
    files = files_of(spec)
    document = json.loads(files[JSON])
    document["prompt_sets"][1]["rows"] = rows
    return {**files, JSON: json.dumps(document, sort_keys=True, separators=(",", ":")).encode()}


def _flipped() -> Files:
    files = base_files()
    data = bytearray(files[TENSORS])
    data[-1] ^= 1
    return {**files, TENSORS: bytes(data)}


def _as_f32() -> Files:
    header, body = split_tensors()
    entry = header["prompt_embeddings"]
    start, _ = entry["data_offsets"]
    entry["dtype"] = "F32"
    entry["data_offsets"] = [start, start + 48]
    return with_tensors(join_tensors(header, body[:start] + b"\x00\x00\x80\x3f" * 12))


def _without(name: str) -> Files:
    header, body = split_tensors()
    assert header[name]["data_offsets"][1] == len(body)
    start = header.pop(name)["data_offsets"][0]
    return with_tensors(join_tensors(header, body[:start]))


def _reordered() -> Files:
    header, body = split_tensors()
    order = ["prompt_embeddings", "image_prompt", "image_embeddings"]
    moved: dict[str, Any] = {}
    data = b""
    for name in order:
        start, stop = header[name]["data_offsets"]
        moved[name] = {
            **header[name],
            "data_offsets": [len(data), len(data) + stop - start],
        }
        data += body[start:stop]
    return with_tensors(join_tensors(moved, data))


def _padded() -> Files:
    header, body = split_tensors()
    raw = json.dumps(header, separators=(",", ":")).encode() + b" " * 64
    return with_tensors(join_tensors(raw, body))


def _set_value(position: Any, value: float) -> Any:
    return lambda array: array.__setitem__(position, value)


BASE = base_files()

CASES = [
    # the file as a whole
    _case("no-manifest", "gmi/ holds only the tensors", {TENSORS: BASE[TENSORS]}, "holds no",
          "SpecNotFoundError"),
    _case("no-tensors", "gmi/ holds only the manifest", {JSON: BASE[JSON]}, "is missing"),
    _case("empty-manifest", "a file of no bytes", {**BASE, JSON: b""}, "not JSON"),
    _case("not-json", "text that is no JSON", {**BASE, JSON: b"format: gmi-spec\n"}, "not JSON"),
    _case("array", "JSON, but not an object", {**BASE, JSON: b"[]\n"}, "object"),
    _case("indented", "the right content with white space: not canonical",
          {**BASE, JSON: json.dumps(json.loads(BASE[JSON]), indent=2, sort_keys=True).encode()
           + b"\n"}, "canonical"),
    _case("unsorted-keys", "the right content with keys in another order: not canonical",
          {**BASE, JSON: json.dumps(dict(reversed(json.loads(BASE[JSON]).items())),
                                    separators=(",", ":")).encode() + b"\n"}, "canonical"),
    _case("no-final-newline", "the newline at the end is missing",
          {**BASE, JSON: BASE[JSON][:-1]}, "canonical"),
    _case("byte-order-mark", "a mark before the first brace",
          {**BASE, JSON: b"\xef\xbb\xbf" + BASE[JSON]}, "not JSON"),
    _case("float-spelling", "7.50 where canonical JSON has 7.5", text(b":7.5,", b":7.50,"),
          "canonical"),
    _case("escaped-ascii", "a letter spelled as an escape: not canonical",
          text(b"An example", b"\\u0041n example"), "canonical"),
    # versions
    _case("newer-major", "version 2.0, laid out in its own way",
          {**BASE, JSON: b'{"contents": [], "format": {"name": "gmi-spec", "version": "2.0"}}'},
          "2.0", "UnsupportedVersionError"),
    _case("version-without-minor", "version 1", put("format.version", "1"), "format.version"),
    _case("version-zero", "version 0.9, which never was", put("format.version", "0.9"),
          "format.version"),
    _case("other-format", "another format's name", put("format.name", "onnx"), "format.name"),
    _case("unknown-field", "version 1.0 has no model.license: a misspelling",
          put("model.license", "mit"), "model.license"),
    # fields
    _case("missing-field", "model.nsfw is absent", drop("model.nsfw"), "canonical"),
    _case("missing-encoder", "the encoder is absent", drop("encoder"), "encoder"),
    _case("null-field", "an unknown licence written as null", put("model.licence", None),
          "canonical"),
    _case("number-as-string", 'steps is "20"', put("generation.recipe.steps", "20"), "steps"),
    _case("fraction-for-integer", "steps is 20.5", put("generation.recipe.steps", 20.5), "steps"),
    _case("bool-for-integer", "steps is true", put("generation.recipe.steps", True), "steps"),
    _case("unknown-kind", "kind is embedding", put("model.kind", "embedding"), "model.kind"),
    _case("unknown-hub", "hub is ftp", put("model.hub", "ftp"), "model.hub"),
    _case("bad-id", "an id with three segments", put("model.id", "a/b/c"), "model"),
    _case("bad-revision", "a Civitai model with a git revision",
          edit(lambda d: d["model"].update(hub="civitai", id="12", revision="main")), "revision"),
    _case("no-weights", "no weight file: bound to nothing", put("model.weights", []),
          "model.weights"),
    _case("unsorted-weights", "weight files not in order of path",
          edit(lambda d: d["model"]["weights"].append({**d["model"]["weights"][0], "path": "a"})),
          "sorted by path"),
    _case("upper-case-digest", "a digest in upper-case hex",
          put("model.weights.0.sha256", "A" * 64), "sha256"),
    _case("tag-twice", "one tag twice", put("model.tags", ["a", "a"]), "tag"),
    _case("zero-gamma", "a kernel that cannot tell any two pictures apart", put("kernel.gamma", 0),
          "kernel.gamma"),
    _case("other-kernel", "a kernel that 1.0 does not have", put("kernel.name", "laplace"),
          "kernel.name"),
    # prompts and rows
    _case("no-prompt-sets", "no prompt set", put("prompt_sets", []), "prompt_sets"),
    _case("zero-prompts", "a prompt set of no prompts", _prompts(), "prompts"),
    _case("empty-prompt", "a prompt of no characters", _prompts("a", ""), "prompts"),
    _case("padded-prompt", "a prompt with a space at its end", _prompts("a", "b "), "white space"),
    _case("prompt-twice", "one prompt twice in a set", _prompts("a", "a"), "already"),
    _case("long-prompt", "a prompt of 1,001 characters", _prompts("a", "b" * 1001), "1000"),
    _case("wrong-prompt-id", "an id that is not the prompts' digest",
          put("prompt_sets.0.id", "0" * 64), "digest of the prompts"),
    _case("rows-short", "2 prompts with 1 row", put("prompt_sets.0.rows", [0, 1]), "rows"),
    _case("rows-overlap", "the second block begins inside the first", _second_block([1, 3]),
          "rows"),
    _case("rows-gap", "a row between the blocks belongs to none", _second_block([3, 5]), "rows"),
    # recipe
    _case("wrong-recipe-id", "an id that is not the recipe's digest",
          put("generation.id", "0" * 64), "digest of the recipe"),
    _case("vae-dtype-same", "a type of the autoencoder that is the model's",
          _recipe(vae_dtype="float32"), "vae_dtype"),
    _case("vae-tiling-false", "tiles that were not used are named",
          _recipe(vae_tiling=False), "vae_tiling"),
    _case("partial-whole", "a LoRA in part of which all was applied",
          _recipe(lora_scale=1, lora_partial={"applied": 4, "tensors": 4}), "lora_partial"),
    _case("partial-without-scale", "a LoRA in part without its scale",
          _recipe(lora_partial={"applied": 3, "tensors": 4}), "lora_partial"),
    _case("seed-twice", "one seed twice", _recipe(seeds=[1, 1]), "seed"),
    _case("template-without-prompt", "a template that never shows the prompt",
          _recipe(prompt_template="a fox"), "prompt_template"),
    # tensors against the manifest
    _case("flipped-bit", "one bit of the tensors differs", _flipped(), "SHA-256", DIGEST),
    _case("other-size", "the tensor file has another size than the manifest names",
          {**BASE, TENSORS: BASE[TENSORS] + b"\x00"}, "bytes", DIGEST),
    _case("entry-missing", "the manifest names two tensors",
          drop("tensors.entries.image_prompt"), "image_prompt"),
    _case("entry-unknown", "the manifest names a fourth tensor",
          put("tensors.entries.extra", {"dtype": "F16", "shape": [1]}), "entries"),
    _case("entry-shape", "the manifest gives a tensor another width than the encoder",
          put("tensors.entries.image_embeddings.shape", [2, 7]), "image_embeddings"),
    _case("wrong-dtype", "prompt embeddings as F32", _as_f32(), "F32"),
    _case("wrong-shape", "the tensor file holds [4, 4] where the manifest says [2, 8]",
          header_edit(lambda h: h["image_embeddings"].update(shape=[4, 4])), "shape"),
    _case("tensor-missing", "the file holds two of the three tensors",
          _without("prompt_embeddings"), "prompt_embeddings is missing"),
    _case("other-order", "the tensors in another order", _reordered(), "laid out"),
    _case("other-padding", "64 spaces after the header", _padded(), "laid out"),
    # values
    _case("index-too-large", "an image of a prompt that does not exist",
          values_edit("image_prompt", _set_value(1, 2)), "image_prompt"),
    _case("index-negative", "an image of prompt -1",
          values_edit("image_prompt", _set_value(1, -1)), "image_prompt"),
    _case("prompt-without-image", "both images answer the first prompt",
          values_edit("image_prompt", _set_value(1, 0)), "once per seed"),
    _case("zero-row", "an image embedding of norm 0",
          values_edit("image_embeddings", _set_value(1, 0)), "norm"),
    _case("huge-row", "a prompt embedding of norm 65504",
          values_edit("prompt_embeddings", _set_value((0, 0), 65504)), "norm"),
    _case("not-normalized", "normalized is true, the norms are not 1",
          put("encoder.normalized", True), "norm"),
    # whose it is
    _case("another-model", "found beside hf:example/other, describes hf:example/model", BASE,
          "describes", expected="hf:example/other"),
    _case("another-hub", "found at another hub under the same id",
          files_of(base_spec(model=described(hub="local"))), "describes",
          expected="hf:example/model"),
    # the base model's weights
    _case("no-base-weights", "an empty list, where an unknown base is to be left out",
          _base_weights(), "model.base_weights"),
    _case("null-base-weights", "an unknown base written as null", put("model.base_weights", None),
          "canonical"),
    _case("unsorted-base-weights", "the base's weight files not in order of path",
          _base_weights({"path": "b"}, {"path": "a"}), "base_weights: Value error, must be sorted"),
    _case("base-weight-twice", "one weight file of the base twice", _base_weights({}, {}),
          "base_weights: Value error, must be sorted"),
    _case("utf-16-order-base-weights", "paths in UTF-16 order: U+1F98A before U+FB33",
          _base_weights({"path": "\U0001f98a"}, {"path": "\ufb33"}),
          "base_weights: Value error, must be sorted"),
    _case("base-weight-upper-case", "a digest of the base in upper-case hex",
          _base_weights({"sha256": "A" * 64}), "model.base_weights.0.sha256"),
    _case("base-weight-size-missing", "a weight file of the base without its size",
          edit(lambda d: d["model"].update(base_weights=[
              {name: value for name, value in d["model"]["weights"][0].items()
               if name != "size"}])), "model.base_weights.0.size"),
    _case("base-weights-of-checkpoint", "a checkpoint with base weights", _checkpoint_on_base(),
          "checkpoint"),
    _case("base-weight-unknown-field", "a field in a weight file of the base that 1.0 lacks",
          _base_weights({"revision": "main"}), "model.base_weights[0].revision"),
    _case("base-origin-unknown", "a base named by nobody who is known",
          edit(lambda d: d["model"].update(base_model="a/b", base_origin="hearsay")),
          "model.base_origin"),
    _case("base-origin-without-base", "who named the base, and no base",
          edit(lambda d: d["model"].update(base_origin="option")), "base_origin"),
    _case("base-revision-of-checkpoint", "a checkpoint with the revision of a base",
          edit(lambda d: d["model"].update(kind="checkpoint", base_model="a/b",
                                           base_revision="main")), "base_revision"),
    # another id, which only the weights could justify
    _renamed("copied-beside-other-weights", "a copy beside other weights under the same paths",
             {"a": OWN["a"], "b": "0" * 64}, clue="whose weights are not those"),
    _renamed("copied-beside-other-path", "the described bytes, but one file under another path",
             {"a": OWN["a"], "c": OWN["b"]}, clue="whose weights are not those"),
    _renamed("copied-beside-a-part", "one of the two described files is not there",
             {"a": OWN["a"]}, clue="whose weights are not those"),
    _renamed("copied-digest-unknown", "the model's hub states no digest of one file",
             {"a": OWN["a"], "b": None}, clue="whose weights are not those"),
    _renamed("copied-beside-none", "the model has no weight files", {},
             clue="whose weights are not those"),
    _renamed("same-weights-other-hub", "the same weights on another hub are another model's",
             OWN, found="local:model"),
    _renamed("same-weights-other-number", "a number on civitai does not change", OWN,
             found="civitai:13@34", clue="describes civitai:12, but was found at",
             hub="civitai", id="12", revision="34"),
]  # fmt: skip
