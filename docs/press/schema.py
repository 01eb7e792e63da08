"""JSON schemas as pages: one section an object, one row a field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docs.press.page import Page, anchor, code, prose

__all__ = ["manifest_page", "search_page"]

_Schema = Mapping[str, Any]
_LARGEST = 2**53 - 1


def search_page() -> Page:
    """What a search prints for programs."""
    from gmi_registry.cli import document

    page = Page("What `gmi search --json` prints")
    page.add(
        "One document on stdout, in ASCII, whatever the terminal. Every field is always there."
    )
    page.add(prose(document.__doc__).partition("prints. ")[2])
    schema = document.SearchDocument.model_json_schema()
    _Sheet(page, schema, _homes(schema)).write("The document")
    return page


def manifest_page() -> Page:
    """The fields of a specification's manifest."""
    from gmi_registry.spec.canonical import MANIFEST_LIMIT
    from gmi_registry.spec.manifest import FORMAT_VERSION, manifest_schema

    page = Page("The manifest's fields")
    page.add(
        f"`gmi/spec.json`, format {FORMAT_VERSION}: the types and limits of its fields. What they "
        "mean, and the rules that tie them together, is in "
        "[SPEC.md](../../spec_format/SPEC.md#3-the-manifest); for programs there is "
        "[the JSON schema](../../spec_format/manifest.schema.json). The file is canonical JSON of "
        f"at most {MANIFEST_LIMIT:,} bytes. An optional field whose value is unknown is absent, "
        "never null."
    )
    schema = manifest_schema()
    _Sheet(page, schema, _homes(schema)).write("The manifest")
    return page


def _homes(schema: _Schema) -> dict[str, str]:
    """Where each named object is described: the path of the first field that holds one."""
    homes: dict[str, str] = {}

    def visit(fields: _Schema, path: str) -> None:
        for field, value in fields.items():
            for name, at in _objects(value, f"{path}.{field}" if path else field):
                if name not in homes:
                    homes[name] = at
                    visit(schema["$defs"][name]["properties"], at)

    visit(schema["properties"], "")
    return homes


def _objects(value: _Schema, path: str) -> Iterator[tuple[str, str]]:
    """The named objects that a field may hold, and the path at which they then are."""
    if "$ref" in value:
        yield _name(value), path
    if "items" in value:
        yield from _objects(value["items"], f"{path}[]")
    if isinstance(value.get("additionalProperties"), Mapping):
        yield from _objects(value["additionalProperties"], f"{path}{{}}")
    for option in value.get("anyOf", ()):
        yield from _objects(option, path)


def _name(value: _Schema) -> str:
    return str(value["$ref"].rpartition("/")[2])


@dataclass(frozen=True)
class _Sheet:
    page: Page
    schema: _Schema
    homes: Mapping[str, str]

    def write(self, title: str) -> None:
        self._object(title, self.schema)
        for name, path in self.homes.items():
            self._object(code(path), self.schema["$defs"][name])

    def _object(self, heading: str, part: _Schema) -> None:
        self.page.heading(heading)
        self.page.add(prose(part.get("description")))
        required = part.get("required", ())
        self.page.table(
            ["field", "value", "presence"],
            [
                [code(field), self._value(value), "" if field in required else "optional"]
                for field, value in part["properties"].items()
            ],
        )

    def _value(self, value: _Schema) -> str:
        if "anyOf" in value:
            return " or ".join(map(self._value, value["anyOf"]))
        if "const" in value:
            return _quoted(value["const"])
        if "enum" in value:
            return " or ".join(map(_quoted, value["enum"]))
        if "$ref" in value:
            path = self.homes[_name(value)]
            return f"object like [{code(path)}](#{anchor(path)})"
        if value["type"] == "array":
            return self._array(value)
        if value["type"] == "object":
            return self._mapping(value)
        return ", ".join([str(value["type"]), *_limits(value)])

    def _array(self, value: _Schema) -> str:
        if "prefixItems" in value:
            kinds = dict.fromkeys(map(self._value, value["prefixItems"]))
            return f"array of exactly {len(value['prefixItems'])}: {', '.join(kinds)}"
        count = _range(value.get("minItems"), value.get("maxItems"))
        return f"array{count and ' of ' + count}: {self._value(value['items'])}"

    def _mapping(self, value: _Schema) -> str:
        inner = value.get("additionalProperties")
        if not isinstance(inner, Mapping):
            return "object with any fields"
        names = value.get("propertyNames", {})
        count = _range(None, value.get("maxProperties"))
        keys = f" with keys {self._value(names)}" if "enum" in names else ""
        return f"object{count and ' of ' + count + ' fields'}{keys}: {self._value(inner)}"


def _quoted(value: object) -> str:
    return code(f'"{value}"')


def _limits(value: _Schema) -> Iterator[str]:
    length = _range(value.get("minLength"), value.get("maxLength"))
    if length:
        yield f"{length} characters"
    if "exclusiveMinimum" in value:
        yield f"above {_number(value['exclusiveMinimum'])}"
    size = _range(value.get("minimum"), value.get("maximum"))
    if size:
        yield size
    if "pattern" in value:
        yield f"matching {code(value['pattern'])}"


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return "" if low is None else f"at least {_number(low)}"
    return f"at most {_number(high)}" if low is None else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return "2^53 - 1" if value == _LARGEST else f"{value:,g}"
