"""Figures of a page: numbers as text, positions on a small line, embedded pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmi_registry.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from gmi_registry.index.entry import Universal
    from gmi_registry.spec import Manifest


def percent(chance: float | None) -> str:
    """A chance in 0..1 in whole percent; nothing where there is none, never certain or impossible.

    0 % and 100 % would say more than a formula can know.
    """
    if chance is None:
        return ""
    if chance < 0.01:
        return "< 1 %"
    return "> 99 %" if chance >= 0.995 else f"{100 * chance:.0f} %"


def near_everything(universal: Universal) -> str:
    """One line that says how often a model that is near everything is first."""
    told = f"near everything: first for {percent(universal.first)} of other models' images"
    told += f"; its share would be {percent(universal.share)}"
    if universal.pictures is not None and universal.pictures > universal.first:
        told += f", and for {percent(universal.pictures)} of background pictures"
    return told


def number(value: float) -> str:
    """Four significant digits, without an exponent where that stays short."""
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    size = abs(value)
    if size != 0 and (size < 1e-4 or size >= 1e6):
        return f"{value:.2e}"
    decimals = 4 if size < 1 else max(0, 3 - math.floor(math.log10(size)))
    return f"{value:.{decimals}f}"


_WIDTH = 200.0
_INSET = 6.0


@dataclass(frozen=True)
class Strip:
    """Horizontal positions on a line from the nearest (left) to the farthest model (right).

    ``others`` are the ticks of all models of the group, ``own`` the dot of this one, ``width`` the
    length of the line's drawing.
    """

    own: float
    others: tuple[float, ...]
    width: float = _WIDTH
    inset: float = _INSET

    @property
    def end(self) -> float:
        """Where the line ends."""
        return self.width - self.inset


def strip(distance: float, distances: Sequence[float]) -> Strip:
    """Place ``distance`` among ``distances``; what is not finite goes to the far end."""
    finite = [value for value in distances if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)

    def place(value: float) -> float:
        if not math.isfinite(value):
            return _WIDTH - _INSET
        part = (value - low) / (high - low) if high > low else 0.0
        return round(_INSET + part * (_WIDTH - 2 * _INSET), 1)

    return Strip(place(distance), tuple(place(value) for value in distances))


PREVIEW_BYTES = 8 * 1024 * 1024
"""A contact sheet may be this large, as SPEC.md says."""

PREVIEW_PIXELS = 40_000_000
"""A contact sheet may have this many pixels, and fewer where that takes too much memory."""

_PREVIEW_SIDE = 1280
_QUERY_SIDE = 640


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: ``uri`` is a ``data:`` URI that this package encoded itself."""

    uri: str
    width: int
    height: int


def read_preview(path: Path) -> Image.Image:
    """A contact sheet, decoded within limits: it is for people, and nobody vouches for it.

    Raises InputError, which names the file.
    """
    from gmi_registry.images import load_image
    from gmi_registry.spec.files import UnusableFileError, held_folder

    try:
        # Links are those of a download cache; a pipe in a file's place would not end.
        with held_folder(path.parent, True) as folder, folder.file(path.name) as stream:
            data = stream.read(PREVIEW_BYTES + 1)
    except UnusableFileError as error:
        raise InputError(f"{path} {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > PREVIEW_BYTES:
        raise InputError(f"{path}: has more than {PREVIEW_BYTES:,} bytes")
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise InputError(f"{path}: is not a WebP picture")
    try:
        return load_image(data, max_pixels=PREVIEW_PIXELS)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error


def embed_preview(path: Path) -> Picture:
    """A model's contact sheet as a picture of the page.

    The bytes of the file never reach the page: they are decoded and encoded again, which also drops
    metadata and whatever else the file carries. Raises InputError.
    """
    return embed(read_preview(path), side=_PREVIEW_SIDE)


def embed(image: Image.Image, *, side: int = _QUERY_SIDE) -> Picture:
    """``image`` as a picture of the page, made smaller where a side is longer than ``side``."""
    from PIL import Image

    mode = "RGBA" if image.has_transparency_data else "RGB"
    # Made smaller first where that is the same, so that nothing large is there twice.
    shown = image.convert(mode) if image.mode != mode else _view(image)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    # A fresh image without info: what is not written cannot leak.
    bare = Image.new(shown.mode, shown.size)
    bare.paste(shown)
    bare.save(encoded, "WEBP", quality=84, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
    return Picture(uri, shown.width, shown.height)


def _view(image: Image.Image) -> Image.Image:
    """The same pixels as another picture: one that can become a thumbnail, and ``image`` stays."""
    image.load()
    return image._new(image.im)


# As generation.specification lays them out; a test cuts what that has made.
_CELL = 128
_GAP = 8
_MARGIN = 16
_BETWEEN = 24
_MOST = 200


class ContactSheet:
    """The sheet at ``path``, of a model that ``manifest`` describes.

    Where it is not laid out for as many prompts as the manifest has, it was made by other means,
    and which picture answers which prompt is not known. Raises InputError for such a sheet, and for
    one that cannot be read.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._sheet = read_preview(path)
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
