"""What every test vector starts from: one small specification, and ways to spoil a copy of it."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    Preprocess,
    PromptSet,
    Sampler,
    Spec,
    Tool,
    WeightFile,
    build_spec,
    encode_spec,
)
from gmi_registry.spec.canonical import canonical_json

JSON = "gmi/spec.json"
TENSORS = "gmi/spec.tensors"

Files = dict[str, bytes]
Document = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One vector.

    ``expected`` and ``own_weights`` are what the reader knows of the place, as the table has them.
    ``files`` are committed; ``steps`` make what cannot be (see vectors/v1/README.md).
    ``verdict`` is "accept" or the refusal's kind; ``clue`` a part of this package's message,
    which proves that the file was refused for the reason it was made for.
    """

    group: str
    name: str
    verdict: str
    why: str
    files: Files
    clue: str = ""
    expected: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    own_weights: dict[str, str | None] | None = None


def base_spec(**changes: Any) -> Spec:
    """2 prompts, 1 seed, D = 8, E = 6; ``changes`` are arguments of build_spec."""
    values: dict[str, Any] = {
        "model": described(),
        "encoder": encoder(),
        "prompt_sets": [PromptSet("example", 1, ("a red fox in the snow", "an old lighthouse"))],
        "recipe": recipe(),
        "tool": Tool(name="generate_vectors", version="1"),
    }
    values.update(changes)
    prompts = sum(len(prompt_set) for prompt_set in values["prompt_sets"])
    seeds = len(values["recipe"].seeds)
    rng = np.random.Generator(np.random.PCG64(7))
    # Multiples of 1/64 are exact in float16, so no rounding depends on the machine.
    values.setdefault(
        "image_embeddings",
        rng.integers(-640, 640, (prompts * seeds, values["encoder"].image_dim)) / 64,
    )
    values.setdefault(
        "prompt_embeddings", rng.integers(-640, 640, (prompts, values["encoder"].text_dim)) / 64
    )
    values.setdefault("image_prompt", np.repeat(np.arange(prompts), seeds))
    return build_spec(**values)


def described(**changes: Any) -> DescribedModel:
    """A LoRA of one weight file."""
    values: Document = {
        "hub": "hf",
        "id": "example/model",
        "title": "An example",
        "kind": "lora",
        "weights": (weight("pytorch_lora_weights.safetensors"),),
    }
    return DescribedModel(**{**values, **changes})


def weight(path: str) -> WeightFile:
    return WeightFile(path=path, size=1234, sha256=hashlib.sha256(path.encode()).hexdigest())


def encoder(**changes: Any) -> EncoderRef:
    values: Document = {
        "name": "Example-B-32",
        "pretrained": "example",
        "weights_sha256": hashlib.sha256(b"encoder").hexdigest(),
        "preprocess": Preprocess(
            size=224,
            mean=(0.5, 0.45, 0.4),
            std=(0.25, 0.26, 0.27),
            interpolation="bicubic",
            resize_mode="shortest",
        ),
        "image_dim": 8,
        "text_dim": 6,
    }
    return EncoderRef(**{**values, **changes})


def recipe(**changes: Any) -> GenerationRecipe:
    values: Document = {
        "sampler": Sampler(name="DDIMScheduler", config={"beta_start": 0.00085}),
        "steps": 20,
        "guidance_scale": 7.5,
        "width": 64,
        "height": 64,
        "seeds": (0,),
        "libraries": {"diffusers": "0.42.1"},
    }
    return GenerationRecipe(**{**values, **changes})


def base_files() -> Files:
    return files_of(base_spec())


def files_of(spec: Spec) -> Files:
    manifest, tensors = encode_spec(spec)
    return {JSON: manifest, TENSORS: tensors}


def edit(change: Callable[[Document], object]) -> Files:
    """The base with one change to the manifest, spelled canonically."""
    files = base_files()
    document = json.loads(files[JSON])
    change(document)
    return {**files, JSON: canonical_json(document) + b"\n"}


def put(path: str, value: object) -> Files:
    """The base with ``value`` at a dotted path of the manifest."""
    return edit(lambda document: _put(document, path, value))


def drop(path: str) -> Files:
    """The base without the field at a dotted path."""
    *parents, last = path.split(".")

    def remove(document: Any) -> None:
        for name in parents:
            document = document[int(name) if name.isdecimal() else name]
        del document[last]

    return edit(remove)


def _put(document: Any, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        document = document[int(name) if name.isdecimal() else name]
    document[int(last) if last.isdecimal() else last] = value


def text(old: bytes, new: bytes) -> Files:
    """The base with some bytes of the manifest replaced, once."""
    files = base_files()
    assert old in files[JSON], old
    return {**files, JSON: files[JSON].replace(old, new, 1)}


def with_tensors(data: bytes) -> Files:
    """The base with another tensor file, whose size and digest the manifest states truly."""

    def pin(document: Document) -> None:
        document["tensors"]["size"] = len(data)
        document["tensors"]["sha256"] = hashlib.sha256(data).hexdigest()

    return {**edit(pin), TENSORS: data}


def split_tensors() -> tuple[Document, bytes]:
    """Header and data of the base's tensor file."""
    data = base_files()[TENSORS]
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_tensors(header: Document | bytes, body: bytes) -> bytes:
    """``header`` as bytes is taken as it is; as an object it is spelled and padded canonically."""
    raw = header if isinstance(header, bytes) else _spelled(header)
    return struct.pack("<Q", len(raw)) + raw + body


def _spelled(header: Document) -> bytes:
    raw = json.dumps(header, separators=(",", ":")).encode()
    return raw + b" " * (-len(raw) % 8)


def header_edit(change: Callable[[Document], object]) -> Files:
    """The base with one change to the header of its tensor file."""
    header, body = split_tensors()
    header = copy.deepcopy(header)
    change(header)
    return with_tensors(join_tensors(header, body))


def values_edit(name: str, change: Callable[[np.ndarray[Any, Any]], object]) -> Files:
    """The base with one change to the values of a tensor."""
    header, body = split_tensors()
    start, stop = header[name]["data_offsets"]
    dtype = "<i4" if header[name]["dtype"] == "I32" else "<f2"
    array = np.frombuffer(body[start:stop], dtype).reshape(header[name]["shape"]).copy()
    change(array)
    return with_tensors(join_tensors(header, body[:start] + array.tobytes() + body[stop:]))
