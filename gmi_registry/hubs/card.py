"""Model cards: the front matter of a ``README.md``, reduced to what this package uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gmi_registry.errors import HubError
from gmi_registry.model import ModelCard
from gmi_registry.sanitize import one_line
from gmi_registry.spec.fields import unprintable

__all__ = ["CARD_LIMIT", "CARD_NAME", "parse_card"]

CARD_NAME = "README.md"

CARD_LIMIT = 1024 * 1024
"""Bytes of a model card. Parsing YAML takes long, and a card is no place for more."""

_NSFW_TAG = "not-for-all-audiences"
_LONGEST = 200


def parse_card(content: bytes, name: str, where: Path) -> ModelCard:
    """Read a model card; ``where`` is its path, for messages.

    Fields, as Hugging Face writes them: ``tags``, ``license`` (``license_name`` where that is
    ``other``), ``base_model`` (the first of several), ``instance_prompt`` (a text or a list: the
    trigger words); beside them ``title`` (else the first heading, else ``name``), ``downloads``,
    ``nsfw``, and ``gmi`` with ``prompt_set``, ``encoder``, ``steps``, ``guidance_scale`` and
    ``prompt_template``. Raises HubError for a card that is not UTF-8, whose front matter is not a
    YAML mapping, or whose fields hold something else.
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
        base_model=next(iter(_texts(fields, "base_model", where)), None),
        nsfw=fields.get("nsfw") is True or _NSFW_TAG in (tag.casefold() for tag in tags),
        downloads=_count(fields, "downloads", where),
        trigger_words=_texts(fields, "instance_prompt", where),
        prompt_set=_text(own, "prompt_set", where),
        encoder=_text(own, "encoder", where),
        steps=_count(own, "steps", where),
        guidance_scale=_number(own, "guidance_scale", where),
        prompt_template=_text(own, "prompt_template", where),
    )


def _front_matter(text: str, where: Path) -> tuple[dict[str, Any], str]:
    # Half a second to import, which listing can do without. Its ModelCard, made for this very file,
    # would take a lone tag that is not in a list for a list of letters; its base class does not.
    from huggingface_hub.repocard import REGEX_YAML_BLOCK, RepoCard

    # Without front matter the library logs a warning, though such a card is quite in order.
    if not REGEX_YAML_BLOCK.search(text):
        return {}, text
    try:
        card = RepoCard(text)
        fields = dict(vars(card.data))
    except RecursionError:  # pragma: no cover, where it is tried nothing can measure
        raise _broken(where, "the front matter is nested too deeply") from None
    # The library lets YAML's errors through, and trips over odd types in several ways.
    except Exception as error:
        reason = one_line(str(error), _LONGEST)
        raise _broken(where, f"the front matter cannot be read: {reason}") from None
    return fields, card.text


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
    if isinstance(value, dict | list | bytes):
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
