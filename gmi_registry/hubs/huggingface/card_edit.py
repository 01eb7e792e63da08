"""The two edits that publishing makes to a model card; every other byte stays as it was.

YAML libraries that keep comments still rewrite quotes, indents and line ends. So the tag is put
into the text itself, and the result is read again: nothing but the tag may have changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from gmi_registry.errors import HubError
from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME, front_events
from gmi_registry.hubs.huggingface.listing import SPEC_TAG
from gmi_registry.sanitize import one_line
from gmi_registry.spec import MANIFEST_NAME, PREVIEW_NAME, SPEC_DIR, TENSORS_NAME, Manifest

if TYPE_CHECKING:
    import yaml

    _Node: TypeAlias = tuple[yaml.Event, ...]
    _Essence: TypeAlias = tuple[tuple[str | None, ...], ...]


TAG = SPEC_TAG
"""By this tag a search finds the models that have a specification."""

EOL = re.compile(r"\r\n|\r|\n")
_LONGEST = 200
_STR = "tag:yaml.org,2002:str"
_TAGS = (("ScalarEvent", None, _STR, "tags"),)
_OURS = (("ScalarEvent", None, _STR, TAG),)

SECTION_START = "<!-- gmi-spec:start -->"
SECTION_END = "<!-- gmi-spec:end -->"
_LONGEST_SECTION = 1_200
_BOM = b"\xef\xbb\xbf"
# What the Hub takes for front matter; two lines of dashes with nothing between them it does not,
# though their author plainly meant it.
_FRONT = re.compile(r"\s*---(?:\r\n|\r|\n)([\s\S]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)")
_EMPTY_FRONT = re.compile(r"(\s*---(?:\r\n|\r|\n))---[ \t]*(?:\r\n|\n|$)")
_MARKER = re.compile(r"<!--[ \t]{0,8}gmi-spec:(start|end)[ \t]{0,8}-->")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")


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
    return refuse_card(front.line + at, f"no safe way was found to add only the tag {TAG}")


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
        hint="correct the model card, then try again",
    )


def edit_card(content: bytes | None, manifest: Manifest, *, preview: bool = False) -> bytes:
    """The card with the tag ``gmi-spec`` and a section that says how the model can be found.

    ``content`` is the whole README.md, or None where there is none; ``preview`` says whether the
    contact sheet lies beside the specification (it is not shown for a model that is not for all
    audiences). The section stands between two comments, and replaces what stood there. Editing
    twice gives what editing once gives.

    Raises HubError, with the line, for a card that is too large, is not UTF-8, whose front matter
    is no YAML mapping or has tags that are no list, or where one of the two comments is missing,
    repeated or in the wrong place.
    """
    return _edit(content, _section(manifest, preview))


def check_card(content: bytes | None) -> bytes:
    """The card as :func:`edit_card` would make it, but for what the section says.

    Raises the HubError that it would raise, whatever the model: the section is taken to be as long
    as it can be.
    """
    return _edit(content, ["x" * _LONGEST_SECTION])


def _edit(content: bytes | None, section: list[str]) -> bytes:
    content = content or b""
    _require_small(content)
    bom = _BOM if content.startswith(_BOM) else b""
    try:
        text = content[len(bom) :].decode("utf-8")
    except UnicodeDecodeError as error:
        refuse_card(content.count(b"\n", 0, len(bom) + error.start) + 1, "is not UTF-8 there")
    found = EOL.search(text)
    # The Hub does not end front matter at a lone carriage return, though it may begin there.
    eol = "\r\n" if found and found.group() == "\r\n" else "\n"
    head, body = _tagged(text, eol)
    line = len(EOL.findall(text[: len(text) - len(body)])) + 1
    edited = bom + _with_section(head, body, section, eol, line).encode("utf-8")
    _require_small(edited)
    return edited


def _require_small(content: bytes) -> None:
    if len(content) > CARD_LIMIT:
        refuse_card(None, f"has {len(content):,} bytes, over {CARD_LIMIT:,} with what is added")


def _section(manifest: Manifest, preview: bool) -> list[str]:
    images = manifest.prompt_sets[-1].rows[1]
    prompts = sum(len(block.prompts) for block in manifest.prompt_sets)
    lines = [
        "## Find this model by a picture",
        "",
        f"[{SPEC_DIR}/{MANIFEST_NAME}]({SPEC_DIR}/{MANIFEST_NAME}) and "
        f"`{SPEC_DIR}/{TENSORS_NAME}` describe what this model generates: {images:,} images of "
        f"{prompts:,} prompts{_seen_by(manifest)}. With them",
        "`gmi-search picture.png --hub hf` ranks it by how well it would generate an image like "
        "yours.",
    ]
    if preview and not manifest.model.nsfw:
        lines += ["", f"![Images that this model drew]({SPEC_DIR}/{PREVIEW_NAME})"]
    return lines


def _seen_by(manifest: Manifest) -> str:
    names = (manifest.encoder.name, manifest.encoder.pretrained)
    # A name is anybody's text, and may hold Markdown, or the comment that ends the section.
    return f", seen by `{' '.join(names)}`" if all(map(_PLAIN_WORD.fullmatch, names)) else ""


def _with_section(head: str, body: str, section: list[str], eol: str, line: int) -> str:
    markers = list(_MARKER.finditer(body))
    text = eol.join(section)
    if not markers:
        gap = eol if (head + body).endswith(("\n", "\r")) else eol + eol
        return f"{head}{body}{gap}{SECTION_START}{eol}{text}{eol}{SECTION_END}{eol}"
    if [marker.group(1) for marker in markers] == ["start", "end"]:
        first, last = markers
        return f"{head}{body[: first.end()]}{eol}{text}{eol}{body[last.start() :]}"
    lines = [line + len(EOL.findall(body[: marker.start()])) for marker in markers[:6]]
    found = ", ".join(
        f"{marker.group(1)} in line {number}"
        for marker, number in zip(markers[:6], lines, strict=True)
    )
    raise HubError(
        f"{CARD_NAME} line {lines[0]}: the comments around the generated section are damaged "
        f"(found: {found}); the card was left as it is",
        hint=f"remove them all, or leave one {SECTION_START} and after it one {SECTION_END}",
    )


def _tagged(text: str, eol: str) -> tuple[str, str]:
    """Everything up to the body, with the tag in it, and the body."""
    match, empty = _FRONT.match(text), _EMPTY_FRONT.match(text)
    front = None
    if match is not None:
        front = read_front(match.group(1), len(EOL.findall(text[: match.start(1)])) + 1)
        if empty is not None and not front.fields:
            match = None
    if match is not None and front is not None:
        block = with_tag(match.group(1), front, eol)
        head = text[: match.start(1)] + block + text[match.end(1) : match.end()]
        return head, text[match.end() :]
    new = f"tags:{eol}- {TAG}{eol}"
    if empty is not None:
        at = empty.end(1)
        return text[:at] + new + text[at : empty.end()], text[empty.end() :]
    return f"---{eol}{new}---{eol}{eol if text else ''}", text
