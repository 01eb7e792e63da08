"""How a download is shown where nobody else watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["OnProgress", "watched"]

OnProgress = Callable[[int, int], None]
"""Told (bytes that are here, bytes in all) of the file that is being downloaded."""


@contextmanager
def watched(told: OnProgress | None, what: str) -> Iterator[OnProgress]:
    """``told``, or in its place a bar of huggingface_hub's, under the settings that it has for all.

    ``what`` stands before the bar.
    """
    if told is not None:
        yield told
        return
    from huggingface_hub.utils.tqdm import tqdm

    bar: Any = None

    def draw(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            settings: Any = {"total": total, "unit": "B", "unit_scale": True, "desc": what}
            bar = tqdm(initial=done, **settings)  # type: ignore[no-untyped-call]
        bar.update(done - bar.n)

    try:
        yield draw
    finally:
        if bar is not None:
            bar.close()
