"""The contact sheet: a model's pictures at a glance, for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import chain, repeat

from PIL import Image, features

from gmi_registry.errors import InputError

__all__ = ["ContactSheet", "contact_sheet", "require_webp"]

_CELL = 128
_GAP = 8
_MARGIN = 16
_BETWEEN = 24
_PAPER = (255, 255, 255)
_SHAPE = 16 / 9
_MOST = 200
_QUALITY = 82


class ContactSheet:
    """A picture with one grid a block, all of one column width, on white, filled as pictures come.

    ``blocks`` are the numbers of pictures, in the order of their prompts, e.g. one block a prompt
    set; of more than 200 pictures in a block the first 200 are shown. Pictures are fitted into
    squares of 128 pixels. Raises InputError without a picture.
    """

    def __init__(self, blocks: Sequence[int]) -> None:
        shown = [min(count, _MOST) for count in blocks if count]
        if not shown:
            raise InputError("a contact sheet needs at least one picture")
        columns = _columns(shown[0])
        rows = [math.ceil(count / columns) for count in shown]
        step = _CELL + _GAP
        self._sheet = Image.new(
            "RGB",
            (
                2 * _MARGIN + columns * step - _GAP,
                2 * _MARGIN
                + sum(count * step - _GAP for count in rows)
                + _BETWEEN * (len(rows) - 1),
            ),
            _PAPER,
        )
        self._places = self._cells(blocks, columns)

    def place(self, image: Image.Image) -> None:
        """Show the next picture, of the first block or else of the one that is not full yet."""
        cell = next(self._places)
        if cell is not None:
            _place(self._sheet, image, *cell)

    def to_bytes(self) -> bytes:
        """WebP. The same pictures give the same bytes (under one version of Pillow)."""
        stream = BytesIO()
        self._sheet.save(stream, "WEBP", quality=_QUALITY, method=4)
        return stream.getvalue()

    @staticmethod
    def _cells(blocks: Sequence[int], columns: int) -> Iterator[tuple[int, int] | None]:
        """Left and top of each picture in turn; None for one that is not shown."""
        step = _CELL + _GAP
        top = _MARGIN
        for count in filter(None, blocks):
            shown = min(count, _MOST)
            for position in range(shown):
                row, column = divmod(position, columns)
                yield _MARGIN + column * step, top + row * step
            yield from repeat(None, count - shown)
            top += math.ceil(shown / columns) * step - _GAP + _BETWEEN


def require_webp() -> None:
    """Raise InputError where Pillow was built without WebP, in which a sheet is kept."""
    if not features.check("webp"):
        raise InputError(
            "Pillow was built without WebP here, and the contact sheet is kept in it",
            hint="pip install --force-reinstall pillow",
        )


def contact_sheet(blocks: Sequence[Sequence[Image.Image]]) -> bytes:
    """A whole :class:`ContactSheet` of pictures that are all there, as WebP."""
    sheet = ContactSheet([len(block) for block in blocks])
    for image in chain.from_iterable(blocks):
        sheet.place(image)
    return sheet.to_bytes()


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
