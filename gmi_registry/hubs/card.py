"""Model cards: the front matter of a ``README.md``, reduced to what this package uses."""

from __future__ import annotations

import datetime
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import HubError
from gmi_registry.model import ModelCard
from gmi_registry.sanitize import one_line
from gmi_registry.spec.address import repository_name
from gmi_registry.spec.fields import unprintable

if TYPE_CHECKING:
    import yaml

__all__ = ["CARD_LIMIT", "CARD_NAME", "front_events", "parse_card"]

CARD_NAME = "README.md"

CARD_LIMIT = 1024 * 1024
"""Bytes of a model card: it is no place for more."""

_NSFW_TAG = "not-for-all-audiences"
_LONGEST = 200

# What the Hub takes for front matter.
_FRONT = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
# Reading YAML in Python takes 20 microseconds a byte of what is made for that, in C a hundredth of
# it. The two differ in rare spellings, so that what is short is read as it always was.
_SHORT = 16_384
_DEEPEST, _MOST_UNCLOSED = 64, 1000
_MOST_PARTS = 20_000
_MOST_EXPANDED = 100_000
_LONGEST_NUMBER = 100


def parse_card(content: bytes, name: str, where: Path) -> ModelCard:
    """Read a model card; ``where`` is its path, for messages.

    Fields, as Hugging Face writes them: ``tags``, ``license`` (``license_name`` where that is
    ``other``), ``base_model`` (the first of several; of a page's address the name),
    ``instance_prompt`` (a text or a list: the trigger words); beside them ``title`` (else the first
    heading, else ``name``), ``downloads``, ``nsfw``, and ``gmi`` with ``prompt_set``, ``encoder``,
    ``steps``, ``guidance_scale`` and ``prompt_template``. Raises HubError for a card that is not
    UTF-8, whose front matter is not a YAML mapping, or whose fields hold something else.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _broken(where, f"is not UTF-8 at byte {error.start}") from None
    fields, body = _front_matter(text, where)
    tags = _texts(fields, "tags", where)
    own = fields.get("gmi")
    if own is not None and not isinstance(own, dict):
        raise _broken(where, "the field gmi is not a mapping")
    own = own or {}
    licence = _text(fields, "license", where)
    if licence == "other":
        licence = _text(fields, "license_name", where) or licence
    return ModelCard(
        title=_text(fields, "title", where) or _heading(body) or name,
        tags=tags,
        licence=licence,
        base_model=next(map(_base, _texts(fields, "base_model", where)), None),
        nsfw=fields.get("nsfw") is True or _NSFW_TAG in (tag.casefold() for tag in tags),
        downloads=_count(fields, "downloads", where),
        trigger_words=_texts(fields, "instance_prompt", where),
        prompt_set=_text(own, "prompt_set", where),
        encoder=_text(own, "encoder", where),
        steps=_count(own, "steps", where),
        guidance_scale=_number(own, "guidance_scale", where),
        prompt_template=_text(own, "prompt_template", where),
    )


def _base(text: str) -> str:
    """A name as it stands, with its hub where it says one; of a page's address the name."""
    return text if text.startswith(("hf:", "local:")) else repository_name(text)


def front_events(block: str, *, expanded: bool = False) -> tuple[yaml.Event, ...]:
    """The front matter ``block`` as YAML's events, in a time that its length bounds.

    Raises YAMLError for what is no YAML, and for what no card needs: lists in lists 64 deep, more
    than 20,000 keys and values, or with ``expanded`` 100,000 once aliases are replaced by what they
    stand for.
    """
    import yaml

    loader = _loader(block)
    found: list[yaml.Event] = []
    open_sizes: list[tuple[str | None, int]] = [(None, 0)]
    sizes: dict[str | None, int] = {}
    event: Any  # libyaml's marks are a class of their own
    for event in yaml.parse(block, Loader=loader):
        found.append(event)
        anchor = getattr(event, "anchor", None)
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append((anchor, 1))
            sizes.pop(anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_sizes.pop()
            sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = sizes[anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            # One that stands within what it stands for would never end.
            within = any(anchor == name for name, _ in open_sizes)
            size = _MOST_EXPANDED + 1 if within else sizes.get(anchor, 1)
        above, so_far = open_sizes[-1]
        open_sizes[-1] = (above, so_far + size)
        if len(open_sizes) > _DEEPEST + 1:
            raise yaml.MarkedYAMLError(None, None, "nested too deeply", event.start_mark)
        if len(found) > _MOST_PARTS or (expanded and so_far + size > _MOST_EXPANDED):
            raise yaml.MarkedYAMLError(
                None, None, "more keys and values than a card needs", event.start_mark
            )
    return tuple(found)


def _loader(block: str) -> type[yaml.SafeLoader]:
    """The loader that reads ``block`` in a short time."""
    in_python, in_c = _loaders()
    if in_c is None:
        if len(block) > _SHORT:
            import yaml

            raise yaml.YAMLError(f"over {_SHORT:,} characters, and PyYAML is here without libyaml")
        return in_python
    # Python's takes the square of the depth.
    return in_python if len(block) <= _SHORT and _unclosed(block) <= _DEEPEST else in_c


def _unclosed(block: str) -> int:
    """The most brackets that are open at a time, those within texts included."""
    depth = deepest = 0
    for letter in re.findall(r"[\[{}\]]", block):
        depth += 1 if letter in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


@lru_cache(maxsize=1)
def _loaders() -> tuple[type[yaml.SafeLoader], type[yaml.SafeLoader] | None]:
    import yaml

    class Bounded:
        """Long digits are a text: numbers in base 60 take a time that grows with their square."""

        def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
            if kind is yaml.ScalarNode and len(value) > _LONGEST_NUMBER:
                return "tag:yaml.org,2002:str"
            return super().resolve(kind, value, implicit)  # type: ignore[misc]

        def construct_scalar(self, node: Any) -> Any:
            if len(node.value) > _LONGEST_NUMBER and node.tag.endswith((":int", ":float")):
                raise yaml.constructor.ConstructorError(
                    None, None, "a number is too long", node.start_mark
                )
            return super().construct_scalar(node)  # type: ignore[misc]

    in_python = type("_Loader", (Bounded, yaml.SafeLoader), {})
    if not yaml.__with_libyaml__:
        return in_python, None
    return in_python, type("_CLoader", (Bounded, yaml.CSafeLoader), {})


def _front_matter(text: str, where: Path) -> tuple[dict[str, Any], str]:
    match = _FRONT.search(text)
    if match is None:
        return {}, text
    import yaml

    block = match.group(2)
    try:
        front_events(block, expanded=True)
        fields = yaml.load(block, Loader=_loader(block))
        if not isinstance(fields, dict | None):
            raise ValueError("it is not a mapping")
    # Dates and numbers that cannot be are errors of several kinds.
    except Exception as error:
        if _unclosed(block) > _MOST_UNCLOSED or "nested too deeply" in str(error):
            raise _broken(where, "the front matter is nested too deeply") from None
        reason = one_line(str(error), _LONGEST)
        raise _broken(where, f"the front matter cannot be read: {reason}") from None
    return fields or {}, text[match.end() :]


def _heading(body: str) -> str | None:
    for line in body.splitlines():
        if line.startswith("# "):
            heading = " ".join(line[2:].split())
            usable = 0 < len(heading) <= _LONGEST and not unprintable(heading)
            return heading if usable else None
    return None


def _texts(fields: dict[str, Any], key: str, where: Path) -> tuple[str, ...]:
    """The field's texts in their order, each once; a lone value counts as a list of one."""
    value = fields.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    found = [_line(item, key, where) for item in values]
    return tuple(dict.fromkeys(item for item in found if item))


def _text(fields: dict[str, Any], key: str, where: Path) -> str | None:
    value = fields.get(key)
    return None if value is None else _line(value, key, where) or None


def _line(value: object, key: str, where: Path) -> str:
    # An unquoted 3 or 2024-01-01 is no text to YAML, but plainly was one to its author.
    if not isinstance(value, str | int | float | datetime.date):
        raise _broken(where, f"the field {key} holds a {type(value).__name__}, not a text")
    line = " ".join(str(value).split())
    character = unprintable(line)
    if character:
        raise _broken(where, f"the field {key} holds the control character {character}")
    if len(line) > _LONGEST:
        raise _broken(where, f"the field {key} has {len(line):,} characters, over {_LONGEST}")
    return line


def _count(fields: dict[str, Any], key: str, where: Path) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise _broken(where, f"the field {key} is not a whole number of at least 0")
    return value


def _number(fields: dict[str, Any], key: str, where: Path) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not 0 <= value < 2**53:
        raise _broken(where, f"the field {key} is not a number of at least 0")
    return float(value)


def _broken(where: Path, reason: str) -> HubError:
    return HubError(f"{where}: {reason}", hint="mend the model card, then try again")
