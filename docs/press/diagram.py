"""The picture of docs/explanation/architecture.md: who talks to whom."""

from __future__ import annotations

from collections.abc import Sequence

from docs.press.drawing import Drawing

__all__ = ["architecture_picture"]

_PUBLISHING = (
    ("hubs", "may this account write? is the card valid?"),
    ("hubs", "download weights, card and base"),
    ("generation", "diffusers generates every image"),
    ("encoders", "open_clip turns images into vectors"),
    ("spec", "write two files, and read them back"),
    ("hubs", "one commit, or one pull request"),
)
_SEARCHING = (
    ("hubs", "list models that have a specification"),
    ("hubs", "download their two files, once"),
    ("index", "check them, group what compares"),
    ("encoders", "turn the picture into a vector"),
    ("scoring", "one distance a model, nearest first"),
    ("hubs", "have these models changed since?"),
    ("cli, report", "a table, JSON or a page"),
)
_REPOSITORY = (
    ("weights", "one"),
    ("README.md", "dim"),
    ("gmi/spec.json", "two"),
    ("gmi/spec.tensors", "two"),
    ("gmi/preview.webp", "two"),
)
_WIDTH, _HEIGHT, _STEP, _TOP = 236, 44, 62, 110


def architecture_picture() -> Drawing:
    """Publishing on the left, the hub in the middle, searching on the right."""
    drawing = Drawing(
        760,
        540,
        "What talks to what",
        "Publishing, in six steps down the left, reads a model from the hub and puts three files "
        "beside it. Searching, in seven steps down the right, asks the hub for a listing and two "
        "files of each model. Images stay on the machine that searches.",
    )
    _lane(drawing, 24, "gmi-publish", "on the developer's machine", _PUBLISHING)
    _lane(drawing, 500, "gmi-search", "on the user's machine", _SEARCHING)
    _hub(drawing)
    for row, rightwards in ((0, True), (1, False), (5, True)):
        _between(drawing, 24 + _WIDTH, 312, row, rightwards)
    for row, rightwards in ((0, False), (1, True), (5, False)):
        _between(drawing, 448, 500, row, rightwards)
    return drawing


def _lane(
    drawing: Drawing, left: float, title: str, place: str, steps: Sequence[tuple[str, str]]
) -> None:
    drawing.text(left, 40, title, size=16, bold=True)
    drawing.text(left, 60, place, colour="dim")
    for row, (part, does) in enumerate(steps):
        y = _TOP - 20 + row * _STEP
        drawing.frame(left, y, _WIDTH, _HEIGHT)
        drawing.text(left + 10, y + 18, part, bold=True)
        drawing.text(left + 10, y + 34, does, size=10, colour="dim")
        if row:
            middle = left + _WIDTH / 2
            drawing.arrow((middle, y - _STEP + _HEIGHT), (middle, y))


def _hub(drawing: Drawing) -> None:
    drawing.text(380, 40, "the hub", size=16, bold=True, anchor="middle")
    drawing.text(380, 60, "Hugging Face, or a folder", colour="dim", anchor="middle")
    drawing.frame(312, _TOP - 20, 136, 5 * _STEP + _HEIGHT)
    drawing.text(380, _TOP + 90, "owner/model", bold=True, anchor="middle")
    for row, (name, colour) in enumerate(_REPOSITORY):
        drawing.text(380, _TOP + 120 + 24 * row, name, colour=colour, anchor="middle")
    drawing.text(380, _TOP + 2, "listing, accounts", size=10, colour="dim", anchor="middle")


def _between(drawing: Drawing, left: float, right: float, row: int, rightwards: bool) -> None:
    y = _TOP - 20 + row * _STEP + _HEIGHT / 2
    ends = [(left, y), (right, y)]
    start, end = ends if rightwards else reversed(ends)
    drawing.arrow(start, end, "ink")
