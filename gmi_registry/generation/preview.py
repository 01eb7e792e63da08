"""The contact sheet: a model's pictures at a glance, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from gmi_registry.errors import InputError

__all__ = ["contact_sheet"]

_CELL = 128
_GAP = 8
_MARGIN = 16
_BETWEEN = 24
_PAPER = (255, 255, 255)
_SHAPE = 16 / 9
_MOST = 200
_QUALITY = 82


def contact_sheet(blocks: Sequence[Sequence[Image.Image]]) -> bytes:
    """A WebP picture with one grid a block, all of one column width, on white.

    ``blocks`` are pictures in the order of their prompts, e.g. one block a prompt set; of more
    than 200 pictures in a block the first 200 are shown. Pictures are fitted into squares of 128
    pixels. The same pictures give the same bytes (under one version of Pillow). Raises
    InputError without a picture.
    """
    shown = [block[:_MOST] for block in blocks if len(block)]
    if not shown:
        raise InputError("a contact sheet needs at least one picture")
    columns = _columns(len(shown[0]))
    rows = [math.ceil(len(block) / columns) for block in shown]
    step = _CELL + _GAP
    sheet = Image.new(
        "RGB",
        (
            2 * _MARGIN + columns * step - _GAP,
            2 * _MARGIN + sum(count * step - _GAP for count in rows) + _BETWEEN * (len(rows) - 1),
        ),
        _PAPER,
    )
    top = _MARGIN
    for block, count in zip(shown, rows, strict=True):
        for position, image in enumerate(block):
            row, column = divmod(position, columns)
            _place(sheet, image, _MARGIN + column * step, top + row * step)
        top += count * step - _GAP + _BETWEEN
    stream = BytesIO()
    sheet.save(stream, "WEBP", quality=_QUALITY, method=4)
    return stream.getvalue()


def _columns(count: int) -> int:
    """Few empty cells first, then a sheet near 16:9: 55 pictures make 11 columns by 5 rows."""

    def fault(columns: int) -> float:
        rows = math.ceil(count / columns)
        empty = (rows * columns - count) / count
        return 3 * empty + abs(math.log(columns / rows / _SHAPE))

    return min(range(1, count + 1), key=fault)


def _place(sheet: Image.Image, image: Image.Image, left: int, top: int) -> None:
    """Fit ``image`` into one cell, in its own proportions and centred."""
    scale = _CELL / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # A small picture grows by whole pixels where it can, so that its edges stay crisp.
    whole = scale >= 1 and float(scale).is_integer()
    method = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    small = image.convert("RGB").resize((size[0], size[1]), method)
    sheet.paste(small, (left + (_CELL - size[0]) // 2, top + (_CELL - size[1]) // 2))
