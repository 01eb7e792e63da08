"""A second reader, written from SPEC.md and manifest.schema.json with the standard library alone.

It shares no code with the package: where both give every vector its verdict, the page says enough
to implement the format, the schema is right, and the vectors do not merely repeat one program.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parents[2] / "spec_format" / "manifest.schema.json"
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
FORBIDDEN = {*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)}
SEGMENT = r"(?![.-])[A-Za-z0-9._-]+(?<![.-])"


class RefusedError(Exception):
    """The kind of refusal is the first argument."""


def need(condition: bool, why: str, kind: str = "SpecFormatError") -> None:
    if not condition:
        raise RefusedError(kind, why)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Section 2


def spell(value: Any, depth: int = 0) -> str:
    if isinstance(value, dict | list):
        need(depth < 32, "nested too deep")
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: [*key.encode("utf-16-be", "surrogatepass")])
        return "{" + ",".join(f"{spell(k)}:{spell(value[k], depth + 1)}" for k in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(spell(item, depth + 1) for item in value) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return json.dumps(value, ensure_ascii=False)


def number(value: float) -> str:
    need(math.isfinite(value) and abs(value) < 2**53, "number out of range")
    if value == int(value):
        return str(int(value))
    plain = format(Decimal(repr(value)), "f")
    if abs(value) >= 1e-6:
        return plain
    digits = plain.lstrip("-0.")
    exponent = plain.lstrip("-").index(digits[0]) - 1
    fraction = "." + digits[1:] if digits[1:] else ""
    return f"{'-' * (value < 0)}{digits[0]}{fraction}e-{exponent}"


def identifier(value: Any) -> str:
    return sha256(spell(value).encode())


def load(data: bytes) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len({key for key, _ in items}) == len(items), "a key twice")
        return dict(items)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise RefusedError("SpecFormatError", str(error)) from None
    need(count(value) <= 10_000, "too many values")
    return value


def count(value: Any) -> int:
    total, todo = 0, [value]
    while todo:
        item = todo.pop()
        total += 1
        if isinstance(item, dict | list):
            todo.extend(item.values() if isinstance(item, dict) else item)
    return total


# The schema: the keywords that manifest.schema.json uses.


def validate(value: Any, rule: dict[str, Any], root: dict[str, Any], place: str = "") -> None:
    if "$ref" in rule:
        validate(value, root["$defs"][rule["$ref"].rpartition("/")[2]], root, place)
    if "anyOf" in rule:
        need(any(fits(value, option, root) for option in rule["anyOf"]), place)
    if "type" in rule:
        need(isinstance(value, TYPES[rule["type"]]), place)
        need(not isinstance(value, bool) or rule["type"] == "boolean", place)
    need("const" not in rule or value == rule["const"], place)
    need("enum" not in rule or value in rule["enum"], place)
    if isinstance(value, str):
        need(rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", math.inf), place)
        need(re.search(rule.get("pattern", "").replace("$", r"\Z"), value) is not None, place)
    if isinstance(value, int | float):
        need(rule.get("minimum", -math.inf) <= value <= rule.get("maximum", math.inf), place)
        need(value > rule.get("exclusiveMinimum", -math.inf), place)
    if isinstance(value, list):
        need(rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", math.inf), place)
        rules = rule.get("prefixItems") or [rule.get("items", {})] * len(value)
        for position, (item, inner) in enumerate(zip(value, rules, strict=True)):
            validate(item, inner, root, f"{place}[{position}]")
    if isinstance(value, dict):
        need(len(value) <= rule.get("maxProperties", math.inf), place)
        properties = rule.get("properties", {})
        for name in rule.get("required", ()):
            need(name in value, f"{place}.{name}")
        other = rule.get("additionalProperties", True)
        for name, item in value.items():
            validate(name, rule.get("propertyNames", {}), root, f"{place}.{name}")
            inner = properties.get(name, {} if other is True else other)
            validate(item, inner, root, f"{place}.{name}")


def fits(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> bool:
    try:
        validate(value, rule, root)
    except RefusedError:
        return False
    return True


def prune(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> tuple[Any, int]:
    """The fields that the schema names, and how many others there were."""
    if "$ref" in rule:
        rule = root["$defs"][rule["$ref"].rpartition("/")[2]]
    dropped = 0
    if isinstance(value, list) and ("items" in rule or "prefixItems" in rule):
        kept = []
        for item in value:
            inner, more = prune(item, rule.get("items", {}), root)
            kept.append(inner)
            dropped += more
        return kept, dropped
    if isinstance(value, dict) and ("properties" in rule or rule.get("additionalProperties")):
        known = {}
        other = rule.get("additionalProperties")
        for name, item in value.items():
            if "properties" in rule and name not in rule["properties"]:
                dropped += 1
                continue
            inner = rule["properties"][name] if "properties" in rule else other
            known[name], more = prune(item, inner, root)
            dropped += more
        return known, dropped
    return value, 0


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


# Sections 3 to 6


def judge(
    folder: Path, expected: str | None = None, own: dict[str, str | None] | None = None
) -> tuple[str, dict[str, str]]:
    """The verdict, and for an accepted specification its digests."""
    try:
        return "accept", read(folder, expected, own)
    except RefusedError as refusal:
        return refusal.args[0], {}


def read(
    folder: Path, expected: str | None = None, own: dict[str, str | None] | None = None
) -> dict[str, str]:
    raw = content(folder / "gmi" / "spec.json", 262_144, "SpecNotFoundError")
    document = load(raw)
    try:
        major = document["format"]["version"].split(".")[0]
    except (TypeError, KeyError, AttributeError):
        major = ""
    newer = re.fullmatch("[0-9]{1,5}", major) is not None and int(major) > 1
    need(not newer, "newer", "UnsupportedVersionError")
    schema = json.loads(SCHEMA.read_text("utf-8"))
    validate(document, schema, schema)
    need(raw.decode() == spell(document) + "\n", "not canonical")
    known, unknown = prune(document, schema, schema)
    need(unknown == 0 or known["format"]["version"] != "1.0", "unknown field")
    check_manifest(known)
    model = known["model"]
    if expected:
        check_place(model, expected.partition("@")[0], own or {})
    data = content(folder / "gmi" / "spec.tensors", 16_777_216, "SpecFormatError")
    tensors = known["tensors"]
    pinned = (len(data), sha256(data)) == (tensors["size"], tensors["sha256"])
    need(pinned, "digest", "DigestMismatchError")
    check_tensors(data, known)
    found = {"digest": sha256(raw), "encoder_id": identifier(known["encoder"])[:16]}
    for name in ("weights", "base_weights"):
        if name in model:
            found[f"{name}_digest"] = identifier([[w["path"], w["sha256"]] for w in model[name]])
    return found


def content(path: Path, limit: int, missing: str) -> bytes:
    need(not path.parent.is_symlink() and not path.is_symlink(), "link")
    need(path.exists(), "missing", missing)
    need(path.is_file(), "not regular")
    need(path.stat().st_size <= limit, "too large")
    return path.read_bytes()


def check_manifest(manifest: dict[str, Any]) -> None:
    for text in strings(manifest):
        need(not FORBIDDEN & set(map(ord, text)), "control character")
    model, recipe = manifest["model"], manifest["generation"]["recipe"]
    check_model(model)
    need(len(set(model["tags"])) == len(model["tags"]), "tags")
    seeds = recipe["seeds"]
    need(len(set(seeds)) == len(seeds), "seeds")
    need(recipe["prompt_template"].count("{prompt}") == 1, "template")
    need(recipe.get("vae_dtype") != recipe["dtype"], "vae_dtype")
    partial = recipe.get("lora_partial")
    if partial is not None:
        need(partial["applied"] < partial["tensors"], "applied")
        need("lora_scale" in recipe, "lora_partial without a scale")
    hashed = {name: value for name, value in recipe.items() if name != "libraries"}
    need(identifier(hashed) == manifest["generation"]["id"], "recipe id")
    start = prompts = 0
    for block in manifest["prompt_sets"]:
        need(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", block["name"]) is not None, "name")
        need(all(prompt == prompt.strip() for prompt in block["prompts"]), "padded")
        need(len(set(block["prompts"])) == len(block["prompts"]), "prompt twice")
        need(identifier(block["prompts"]) == block["id"], "prompts id")
        stop = start + len(block["prompts"]) * len(seeds)
        need(block["rows"] == [start, stop], "rows")
        start = stop
        prompts += len(block["prompts"])
    encoder = manifest["encoder"]
    entries = {
        "image_prompt": {"dtype": "I32", "shape": [start]},
        "image_embeddings": {"dtype": "F16", "shape": [start, encoder["image_dim"]]},
        "prompt_embeddings": {"dtype": "F16", "shape": [prompts, encoder["text_dim"]]},
    }
    need(manifest["tensors"]["entries"] == entries, "entries")


def check_place(model: dict[str, Any], expected: str, own: dict[str, str | None]) -> None:
    if expected == f"{model['hub']}:{model['id']}":
        return
    need(expected.partition(":")[0] == model["hub"] != "civitai", "another model")
    need(all(own.get(w["path"]) == w["sha256"] for w in model["weights"]), "other weights")


def check_model(model: dict[str, Any]) -> None:
    hub, name, revision = model["hub"], model["id"], model.get("revision")
    ids = {"civitai": r"[1-9][0-9]{0,14}"}
    revisions = {
        "hf": r"(?!.*(\.\.|//))\w[A-Za-z0-9._/-]{0,199}(?<![/.])",
        "civitai": ids["civitai"],
        "local": r"[0-9a-f]{8,64}",
    }
    pattern = ids.get(hub, rf"(?!.*(--|\.\.))({SEGMENT}/)?{SEGMENT}")
    need(re.fullmatch(pattern, name) is not None and len(name) <= 96, "id")
    if revision is not None:
        need(re.fullmatch(revisions[hub], revision, re.ASCII) is not None, "revision")
    need(model["kind"] != "checkpoint" or "base_weights" not in model, "base of a checkpoint")
    for name in ("base_origin", "base_revision"):
        if name in model:
            need(model["kind"] != "checkpoint", "base of a checkpoint")
            need("base_model" in model, f"{name} of no base")
    for files in (model["weights"], model.get("base_weights", [])):
        paths = [weight["path"] for weight in files]
        need(paths == sorted(set(paths)), "order of weights")
        for path in paths:
            need(not set("\\:") & set(path), "path")
            need(not {"", ".", ".."} & set(path.split("/")), "path")


def check_tensors(data: bytes, manifest: dict[str, Any]) -> None:
    entries = manifest["tensors"]["entries"]
    images, width = entries["image_embeddings"]["shape"]
    prompts, text_width = entries["prompt_embeddings"]["shape"]
    a = 4 * images
    b = a + 2 * images * width
    c = b + 2 * prompts * text_width
    header = (
        f'{{"image_prompt":{{"dtype":"I32","shape":[{images}],"data_offsets":[0,{a}]}},'
        f'"image_embeddings":{{"dtype":"F16","shape":[{images},{width}],"data_offsets":[{a},{b}]}},'
        f'"prompt_embeddings":{{"dtype":"F16","shape":[{prompts},{text_width}],'
        f'"data_offsets":[{b},{c}]}}}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    need(data[:start] == struct.pack("<Q", len(header)) + header, "header")
    need(len(data) == start + c, "length")
    index = struct.unpack_from(f"<{images}i", data, start)
    numbers = struct.unpack_from(f"<{(c - a) // 2}e", data, start + a)
    unit = manifest["encoder"]["normalized"]
    norms([*zip(*[iter(numbers[: images * width])] * width, strict=True)], unit)
    norms([*zip(*[iter(numbers[images * width :])] * text_width, strict=True)], False)
    seeds, first = len(manifest["generation"]["recipe"]["seeds"]), 0
    for block in manifest["prompt_sets"]:
        last = first + len(block["prompts"])
        wanted = dict.fromkeys(range(first, last), seeds)
        need(Counter(index[slice(*block["rows"])]) == wanted, "image_prompt")
        first = last


def norms(rows: list[tuple[float, ...]], unit: bool) -> None:
    low, high = (0.99, 1.01) if unit else (0.001, 10000)
    for row in rows:
        need(low <= math.sqrt(sum(value * value for value in row)) <= high, "norm")
