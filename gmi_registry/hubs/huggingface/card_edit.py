"""The two edits that publishing makes to a model card; every other byte stays as it was."""

from __future__ import annotations

import re

from gmi_registry.errors import HubError
from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME
from gmi_registry.hubs.huggingface.front_matter import EOL, TAG, read_front, refuse_card, with_tag
from gmi_registry.spec import MANIFEST_NAME, PREVIEW_NAME, SPEC_DIR, TENSORS_NAME, Manifest

__all__ = ["SECTION_END", "SECTION_START", "TAG", "check_card", "edit_card"]

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
        f"`{SPEC_DIR}/{TENSORS_NAME}` describe what this model draws: {images:,} images of "
        f"{prompts:,} prompts{_seen_by(manifest)}. With them",
        "`gmi-search picture.png --hub hf` ranks it by how well it would draw an image like yours.",
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
