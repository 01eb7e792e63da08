"""Single pictures out of a model's contact sheet, whose layout is that of this package."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image

from gmi_registry.errors import InputError
from gmi_registry.images import load_image
from gmi_registry.report.picture import PREVIEW_BYTES, PREVIEW_PIXELS
from gmi_registry.spec import Manifest

__all__ = ["ContactSheet"]

# As generation.specification lays them out; a test cuts what that has drawn.
_CELL = 128
_GAP = 8
_MARGIN = 16
_BETWEEN = 24
_MOST = 200


class ContactSheet:
    """The sheet at ``path``, of a model that ``manifest`` describes.

    A sheet is for people, and nobody vouches for it: it is decoded within limits. Where it is not
    laid out for as many prompts as the manifest has it was made by other means, and which picture
    answers which prompt is not known. Raises InputError for one of either sort.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        try:
            with path.open("rb") as stream:
                data = stream.read(PREVIEW_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if len(data) > PREVIEW_BYTES:
            raise InputError(f"{path}: has more than {PREVIEW_BYTES:,} bytes")
        if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
            raise InputError(f"{path}: is not a WebP picture")
        try:
            self._sheet = load_image(data, max_pixels=PREVIEW_PIXELS)
        except InputError as error:
            raise InputError(f"{path}: {error.message}") from error
        # One picture a prompt, whatever the seeds.
        counts = [min(_MOST, len(block.prompts)) for block in manifest.prompt_sets]
        columns = self._laid_out(counts)
        if columns is None:
            raise InputError(f"{path}: is not laid out as a contact sheet of these prompts")
        self._columns = columns
        self._count = counts[0]

    def cell(self, index: int) -> Image.Image | None:
        """The picture of the default prompt ``index``, 128 pixels a side; None beyond the 200th.

        Raises InputError for an index that no prompt has.
        """
        if index < 0:
            raise InputError(f"prompt {index} is none")
        if index >= self._count:
            return None
        row, column = divmod(index, self._columns)
        left = _MARGIN + column * (_CELL + _GAP)
        top = _MARGIN + row * (_CELL + _GAP)
        return self._sheet.crop((left, top, left + _CELL, top + _CELL))

    def _laid_out(self, counts: list[int]) -> int | None:
        """The number of columns; None where the size fits no layout."""
        width, height = self._sheet.size
        columns, rest = divmod(width - 2 * _MARGIN + _GAP, _CELL + _GAP)
        if rest or not 1 <= columns <= counts[0]:
            return None
        rows = [math.ceil(count / columns) for count in counts]
        blocks = sum(count * (_CELL + _GAP) - _GAP for count in rows)
        return columns if height == 2 * _MARGIN + blocks + _BETWEEN * (len(rows) - 1) else None
