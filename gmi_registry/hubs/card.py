"""Model cards: the front matter of a ``README.md``, reduced to what this package uses."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import HubError
from gmi_registry.model import ModelCard
from gmi_registry.sanitize import one_line
from gmi_registry.spec.address import repository_name
from gmi_registry.spec.reference import unprintable

if TYPE_CHECKING:
    import yaml

CARD_NAME = "README.md"

CARD_LIMIT = 1024 * 1024
"""Bytes of a model card: it is no place for more."""

# What a network predicts, in diffusers' words.
_PREDICTIONS = ("epsilon", "v_prediction")
_ADVICE = (
    "clip_skip",
    "encoder",
    "guidance_scale",
    "height",
    "negative_prompt",
    "prediction_type",
    "prompt_set",
    "prompt_template",
    "scheduler",
    "steps",
    "true_cfg_scale",
    "width",
)
_NSFW_TAG = "not-for-all-audiences"
_LONGEST = 200
_LONGEST_NEGATIVE = 2000
_MOST_TRIGGER_WORDS = 50
_NULL = "tag:yaml.org,2002:null"
_OF_MAIN = re.compile(r"/tree/main/*(?:[?#].*)?$")
_WHOLE = re.compile(r"[0-9]{1,16}")
_TRUE = frozenset({"true", "yes", "on", "1"})
# What the Hub takes for front matter (huggingface_hub's REGEX_YAML_BLOCK), which takes half a
# second to import.
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
    ``other``, several joined by commas), ``base_model`` (a text or a list; of a page's address the
    name) and ``base_model_relation``, ``instance_prompt`` (a text or a list: the trigger words);
    beside them ``title`` (else the first heading, else ``name``), ``downloads``, ``nsfw``, and
    ``gmi`` with ``prompt_set``, ``encoder``, ``steps``, ``guidance_scale``, ``true_cfg_scale``,
    ``scheduler``, ``clip_skip``, ``negative_prompt``, ``width`` and ``height`` (pixels),
    ``prediction_type`` and ``prompt_template``. A plain value is the text that its author typed:
    the tag ``no`` is not false, and ``16:9`` no number.

    What only describes the model is left out where it cannot be used, and ``notes`` say so. Raises
    HubError for a card that is not UTF-8, whose front matter is not a YAML mapping, or whose
    ``base_model`` or ``gmi`` holds something else, or a field that is not known: a guess there
    would generate other images.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _broken(where, f"is not UTF-8 at byte {error.start}") from None
    found, body = _front_matter(text, where)
    fields = _Fields(found, where)
    own = found.get("gmi")
    if own is not None and not isinstance(own, dict):
        raise _broken(where, "the field gmi is not a mapping")
    _require_known(own or {}, where)
    advice = _Fields(own or {}, where)
    tags = fields.texts("tags")
    bases = tuple(dict.fromkeys(map(_base, fields.texts("base_model", strict=True))))
    return ModelCard(
        title=fields.text("title") or _heading(body) or name,
        tags=tags,
        licence=_licence(fields),
        base_model=bases[0] if bases else None,
        other_bases=bases[1:],
        base_model_relation=fields.text("base_model_relation"),
        nsfw=str(found.get("nsfw")).casefold() in _TRUE
        or _NSFW_TAG in (tag.casefold() for tag in tags),
        downloads=fields.count("downloads"),
        trigger_words=fields.texts("instance_prompt", most=_MOST_TRIGGER_WORDS),
        prompt_set=advice.text("prompt_set", strict=True),
        encoder=advice.text("encoder", strict=True),
        steps=advice.count("steps", strict=True),
        guidance_scale=advice.number("guidance_scale"),
        prompt_template=advice.text("prompt_template", strict=True),
        scheduler=advice.text("scheduler", strict=True),
        true_cfg_scale=advice.number("true_cfg_scale"),
        clip_skip=advice.count("clip_skip", strict=True),
        negative_prompt=advice.text("negative_prompt", strict=True, longest=_LONGEST_NEGATIVE),
        width=advice.count("width", strict=True),
        height=advice.count("height", strict=True),
        prediction_type=_prediction(advice.text("prediction_type", strict=True), where),
        notes=tuple(fields.notes),
    )


def _require_known(own: dict[Any, Any], where: Path) -> None:
    unknown = [str(name) for name in own if name not in _ADVICE]
    if unknown:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], _ADVICE, n=1)
        raise _broken(
            where,
            f"its gmi section has the unknown field {one_line(unknown[0], 60)!r}"
            + (f", perhaps you mean {near[0]}" if near else f"; known are {', '.join(_ADVICE)}"),
        )


def _prediction(text: str | None, where: Path) -> str | None:
    if text is not None and text not in _PREDICTIONS:
        raise _broken(
            where,
            f"the field prediction_type is {one_line(text, 60)!r}, not {' or '.join(_PREDICTIONS)}",
        )
    return text


def _base(text: str) -> str:
    """A name as it stands, with its hub where it says one; of a page's address the name.

    The address of one revision stays whole: the hub reads it, and takes that revision.
    """
    name = text if text.startswith(("hf:", "local:")) else repository_name(text)
    revision = name != text and "/tree/" in text and not _OF_MAIN.search(text)
    return text if revision else name


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


@cache
def _loaders() -> tuple[type[yaml.SafeLoader], type[yaml.SafeLoader] | None]:
    """YAML with texts for all plain values but null, in Python and, where it was built, in C.

    YAML 1.1 takes ``no`` for false, ``16:9`` for 969 and ``1.10`` for 1.1, which no author means.
    """
    import yaml

    nulls = {
        first: [(tag, form) for tag, form in resolvers if tag == _NULL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    class Bounded:
        """Numbers, which a tag may ask for, take a time that grows with their square."""

        yaml_implicit_resolvers = nulls

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


def _front_matter(text: str, where: Path) -> tuple[dict[Any, Any], str]:
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
    # Numbers and dates that a tag asks for, and that cannot be, are errors of several kinds.
    except Exception as error:
        if _unclosed(block) > _MOST_UNCLOSED or "nested too deeply" in str(error):
            raise _broken(where, "the front matter is nested too deeply") from None
        reason = one_line(str(error), _LONGEST)
        raise _broken(where, f"the front matter cannot be read: {reason}") from None
    if fields and "<<" in fields:
        raise _broken(where, "the front matter merges mappings (<<), which is not understood here")
    return fields or {}, text[match.end() :]


class _Fields:
    """Fields of a card; ``notes`` are what was left out of them, and why.

    Where a reading is ``strict`` it raises HubError instead.
    """

    def __init__(self, fields: dict[Any, Any], where: Path) -> None:
        self.notes: list[str] = []
        self._fields = fields
        self._where = where

    def texts(self, key: str, *, strict: bool = False, most: int | None = None) -> tuple[str, ...]:
        """The field's texts in their order, each once; a lone value counts as a list of one."""
        value = self._fields.get(key)
        values = value if isinstance(value, list) else [value]
        found = [self._line(item, key, strict) for item in values]
        texts = tuple(dict.fromkeys(text for text in found if text))
        if most is not None and len(texts) > most:
            self._leave_out(f"{key} has {len(texts):,} texts, over {most}", False)
            return ()
        return texts

    def text(self, key: str, *, strict: bool = False, longest: int = _LONGEST) -> str | None:
        """One line of text; None where there is none."""
        return self._line(self._fields.get(key), key, strict, longest)

    def count(self, key: str, *, strict: bool = False) -> int | None:
        """A whole number of at least 0."""
        value = self._fields.get(key)
        if value is None:
            return None
        if _WHOLE.fullmatch(str(value)) and int(str(value)) < 2**53:
            return int(str(value))
        self._leave_out(f"{key} is not a whole number of at least 0", strict)
        return None

    def number(self, key: str) -> float | None:
        """A number of at least 0. Raises HubError for anything else."""
        value = self._fields.get(key)
        if value is None:
            return None
        try:
            number = float(value) if isinstance(value, str | int | float) else math.nan
        except ValueError:
            number = math.nan
        if isinstance(value, bool) or not 0 <= number < 2**53:
            self._leave_out(f"{key} is not a number of at least 0", True)
        return number

    def _line(self, value: object, key: str, strict: bool, longest: int = _LONGEST) -> str | None:
        if value is None:
            return None
        line = " ".join(str(value).split())
        character = unprintable(line)
        if isinstance(value, dict | list | bytes | set):
            self._leave_out(f"{key} holds a {type(value).__name__}, not a text", strict)
        elif character:
            self._leave_out(f"{key} holds the control character {character}", strict)
        elif len(line) > longest:
            self._leave_out(f"{key} has {len(line):,} characters, over {longest:,}", strict)
        else:
            return line or None
        return None

    def _leave_out(self, reason: str, strict: bool) -> None:
        if strict:
            raise _broken(self._where, f"the field {reason}")
        note = f"in the model card the field {reason}: it is left out"
        if note not in self.notes:
            self.notes.append(note)


def _licence(fields: _Fields) -> str | None:
    """One licence, or several with commas between."""
    found = list(fields.texts("license"))
    if "other" in found:
        named = fields.text("license_name")
        if named is not None:
            found[found.index("other")] = named
    licence = ", ".join(found)
    if len(licence) > _LONGEST:
        fields.notes.append(
            f"in the model card the field license has {len(licence):,} characters in all, over "
            f"{_LONGEST}: it is left out"
        )
        return None
    return licence or None


def _heading(body: str) -> str | None:
    for line in body.splitlines():
        if line.startswith("# "):
            heading = " ".join(line[2:].split())
            usable = 0 < len(heading) <= _LONGEST and not unprintable(heading)
            return heading if usable else None
    return None


def _broken(where: Path, reason: str) -> HubError:
    return HubError(f"{where}: {reason}", hint="correct the model card, then try again")
