"""The front matter of a model card: one tag is added, every other byte stays as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from gmi_registry.errors import HubError
from gmi_registry.hubs.card import CARD_NAME, front_events
from gmi_registry.hubs.huggingface.listing import SPEC_TAG
from gmi_registry.sanitize import one_line

if TYPE_CHECKING:
    import yaml

    _Node: TypeAlias = tuple[yaml.Event, ...]
    _Essence: TypeAlias = tuple[tuple[str | None, ...], ...]

__all__ = ["EOL", "TAG", "FrontMatter", "read_front", "refuse_card", "with_tag"]

TAG = SPEC_TAG
"""By this tag a search finds the models that have a specification."""

EOL = re.compile(r"\r\n|\r|\n")
_LONGEST = 200
_STR = "tag:yaml.org,2002:str"
_TAGS = (("ScalarEvent", None, _STR, "tags"),)
_OURS = (("ScalarEvent", None, _STR, TAG),)


@dataclass(frozen=True)
class FrontMatter:
    """Front matter as YAML's events: aliases stay unresolved, so that no card can blow up.

    ``root`` opens the mapping (None where all is comment), whose ``fields`` are keys and values;
    ``line`` is the number of the first line in the card.
    """

    root: yaml.Event | None
    fields: tuple[tuple[_Node, _Node], ...]
    line: int

    @property
    def tags(self) -> _Node:
        """The value of the field ``tags``, or nothing. Raises HubError where there are two."""
        found = [node for node in self.fields if _essence(node[0]) == _TAGS]
        if len(found) > 1:
            refuse_card(
                self.line + _mark(found[1][0][0].start_mark).line, "the field tags appears twice"
            )
        return found[0][1] if found else ()

    @property
    def others(self) -> list[object]:
        """All other fields, which may not change."""
        pairs = ((_essence(key), _essence(value)) for key, value in self.fields)
        return [pair for pair in pairs if pair[0] != _TAGS]

    @property
    def items(self) -> list[_Essence]:
        """The tags; a lone text counts as a list of one."""
        import yaml

        node = self.tags
        if not node or _is_null(node):
            return []
        if isinstance(node[0], yaml.SequenceStartEvent):
            return [_essence(item) for item in _nodes(node[1:-1])]
        if not isinstance(node[0], yaml.ScalarEvent):
            refuse_card(
                self.line + _mark(node[0].start_mark).line, "the field tags is not a list of texts"
            )
        return [_essence(node)]


def read_front(block: str, line: int) -> FrontMatter:
    """Read what stands between the dashes, whose first line has the number ``line`` in the card.

    Raises HubError, with the line, where it is no YAML mapping.
    """
    import yaml
    from yaml.reader import ReaderError

    try:
        events = front_events(block)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = one_line(f"{error.context or ''} {error.problem or ''}", _LONGEST)
        refuse_card(line + (mark.line if mark else 0), f"the front matter is not YAML: {reason}")
    except ReaderError as error:
        at = line + len(EOL.findall(block[: error.position]))
        refuse_card(at, "the front matter holds a character that YAML forbids")
    except yaml.YAMLError as error:
        refuse_card(line, f"the front matter cannot be read: {one_line(str(error), _LONGEST)}")
    inner = events[2:-2]  # without the start and the end of the stream and of the document
    anchors: set[str | None] = set()
    for event in inner:
        if isinstance(event, yaml.AliasEvent) and event.anchor not in anchors:
            where, name = _mark(event.start_mark).line, str(event.anchor)[:_LONGEST]
            refuse_card(line + where, f"the front matter is not YAML: *{name} is not defined")
        anchors.add(getattr(event, "anchor", None))
        if isinstance(event, yaml.DocumentStartEvent):
            refuse_card(
                line + _mark(event.start_mark).line, "the front matter holds two YAML documents"
            )
    if not inner or _is_null(inner):
        return FrontMatter(None, (), line)
    if not isinstance(inner[0], yaml.MappingStartEvent):
        refuse_card(
            line + _mark(inner[0].start_mark).line, "the front matter is not a YAML mapping"
        )
    nodes = list(_nodes(inner[1:-1]))
    return FrontMatter(inner[0], tuple(zip(nodes[::2], nodes[1::2], strict=True)), line)


def _nodes(events: _Node) -> Iterator[_Node]:
    """The events of a collection, one group a key, value or item."""
    import yaml

    depth, start = 0, 0
    for position, event in enumerate(events, 1):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if not depth:
            yield events[start:position]
            start = position


def _essence(node: _Node) -> _Essence:
    """What a node means, without how it is spelled."""
    import yaml

    resolve = _resolver().resolve
    found: list[tuple[str | None, ...]] = []
    for event in node:
        kind, anchor = type(event).__name__, getattr(event, "anchor", None)
        tag, value = getattr(event, "tag", None), getattr(event, "value", None)
        if isinstance(event, yaml.ScalarEvent) and tag in (None, "!"):
            tag = resolve(yaml.ScalarNode, event.value, event.implicit)
        found.append((kind, anchor, tag, value))
    return tuple(found)


@lru_cache(maxsize=1)
def _resolver() -> Any:
    import yaml

    return yaml.SafeLoader("")


def _is_null(node: _Node) -> bool:
    return len(node) == 1 and _essence(node)[0][2] == "tag:yaml.org,2002:null"


def with_tag(block: str, front: FrontMatter, eol: str) -> str:
    """``block``, which reads as ``front``, with the tag; all other fields keep their meaning.

    New lines end with ``eol``. Raises HubError where the tags are no list, or no spelling of the
    addition leaves everything else alone.
    """
    import yaml

    node, before = front.tags, front.items
    listed = bool(node) and isinstance(node[0], yaml.SequenceStartEvent)
    if listed and _OURS in before:
        return block
    wanted = sorted(map(repr, before if _OURS in before else [*before, _OURS]))
    # YAML has too many spellings to reason about each: what is tried has to prove itself.
    for candidate in _spellings(block, front, eol):
        try:
            after = read_front(candidate, front.line)
            if after.others == front.others and sorted(map(repr, after.items)) == wanted:
                return candidate
        except HubError:
            continue
    at = _mark(node[0].start_mark).line if node else 0
    return refuse_card(front.line + at, f"no safe way was found to add the tag {TAG} by itself")


def _spellings(block: str, front: FrontMatter, eol: str) -> Iterator[str]:
    """Ways to add the tag, the most readable first; most do not fit most cards."""
    import yaml

    def put(text: str, start: int, end: int | None = None) -> str:
        return block[:start] + text + block[start if end is None else end :]

    node, root = front.tags, front.root
    if root is None:
        yield f"{block}{eol if block else ''}tags:{eol}- {TAG}"
    elif not node:
        first, pad = _mark(root.start_mark).index, " " * _mark(root.start_mark).column
        yield f"{block}{eol}{pad}tags:{eol}{pad}- {TAG}"
        yield put(f"tags:{eol}{pad}- {TAG}{eol}{pad}", first)
        yield put(f"tags: [{TAG}]", first + 1)
        yield put(f"tags: [{TAG}], ", first + 1)
    elif isinstance(node[0], yaml.ScalarEvent):
        start, end = _mark(node[0].start_mark).index, _mark(node[0].end_mark).index
        if _is_null(node):
            key = next(key for key, value in front.fields if value is node)
            yield put(f"{eol}{' ' * _mark(key[0].start_mark).column}- {TAG}", _line_end(block, end))
            yield put(f"[{TAG}]", start, end)
            yield put(f" [{TAG}]", start, end)
        more = "" if front.items == [_OURS] else f", {TAG}"
        yield put(f"[{block[start:end]}{more}]", start, end)
        # The end of a text in several lines lies in the line below.
        below = eol if block[start:end].endswith(("\n", "\r")) else ""
        quoted = json.dumps(node[0].value, ensure_ascii=False)
        yield put(f"[{quoted}{more}]{below}", start, end)
    else:
        first, last, close = (
            _mark(node[0].start_mark).index,
            _mark(node[-2].end_mark).index,
            _mark(node[-1].start_mark).index,
        )
        pad = " " * _mark(node[0].start_mark).column
        if getattr(node[0], "flow_style", False):
            yield put(f", {TAG}", last)
            yield put(f", {TAG}", close)
            yield put(TAG, close)
        elif block[:last].endswith(("\n", "\r")):
            yield put(f"{pad}- {TAG}{eol}", last)
        else:
            yield put(f"{eol}{pad}- {TAG}", _line_end(block, last))
        yield put(f"- {TAG}{eol}{pad}", first)


def _mark(mark: Any) -> yaml.Mark:
    assert mark is not None  # only events that are made by hand have none
    found: yaml.Mark = mark  # or libyaml's own, which has the same fields
    return found


def _line_end(text: str, start: int) -> int:
    found = EOL.search(text, start)
    return found.start() if found else len(text)


def refuse_card(line: int | None, reason: str) -> NoReturn:
    """Raise the HubError that names the card and the line."""
    where = CARD_NAME if line is None else f"{CARD_NAME} line {line}"
    raise HubError(
        f"{where}: {reason}; the card was left as it is",
        hint="mend the model card, then try again",
    )
