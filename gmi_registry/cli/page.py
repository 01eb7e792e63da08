"""The page that ``gmi search --html`` writes."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import GmiError
from gmi_registry.filters import Filters
from gmi_registry.hubs.protocol import Hub
from gmi_registry.hubs.resolve import find_spec, is_folder
from gmi_registry.images import load_image
from gmi_registry.report.answer import answer_page
from gmi_registry.report.html import write_html
from gmi_registry.report.page import QueryImage
from gmi_registry.report.picture import embed, embed_preview
from gmi_registry.search import SearchResult
from gmi_registry.spec import PREVIEW_NAME, SPEC_DIR

__all__ = ["write_page"]


def write_page(
    result: SearchResult,
    opened: Hub,
    hub: str,
    wanted: Filters,
    html: Path,
    *,
    like: str | None = None,
) -> Path:
    """Write the page of an answer to ``html``, and return its absolute path.

    The answer's images are files of this machine; ``like`` is how the person named the model of a
    search by a model. Raises InputError where the page cannot be written, or an image read.
    """
    settings = [
        ("hub", hub),
        ("looked at", f"{result.looked_at} models, {result.matched} matching"),
        ("score", result.score),
        ("style", result.style or ""),
        ("prompts by", result.interrogator if result.images else ""),
        ("tags", ", ".join(wanted.tags)),
        ("without tags", ", ".join(wanted.not_tags)),
        ("base model", wanted.base_model or ""),
        ("kind", wanted.kind or ""),
        ("stale models", f"{result.stale_left_out} left out" if result.stale_left_out else ""),
    ]
    if result.encoder is not None:
        settings.append(("encoder", f"{result.encoder.name}/{result.encoder.pretrained}"))
    page = answer_page(
        result,
        _shown(result.images, result.pseudo_prompts),
        unwanted=_shown(result.not_like, result.not_like_prompts),
        text=result.text,
        exemplar=None if like is None else _exemplar(like, result, opened),
        settings=[(label, value) for label, value in settings if value],
        previews=opened.fetch_preview,
    )
    return write_html(page, html)


def _shown(names: tuple[str, ...], prompts: tuple[str | None, ...]) -> tuple[QueryImage, ...]:
    return tuple(
        QueryImage(Path(name).name, embed(load_image(name)), prompt)
        for name, prompt in zip(names, prompts, strict=True)
    )


def _exemplar(like: str, result: SearchResult, opened: Hub) -> QueryImage:
    """The model that others were compared with, by its contact sheet where that can be had."""
    name = like if result.like is None else str(result.like.without_revision)
    try:
        if is_folder(like):
            path = find_spec(like, opened).folder / SPEC_DIR / PREVIEW_NAME
            sheet = path if path.is_file() and not path.is_symlink() else None
        else:
            sheet = None if result.like is None else opened.fetch_preview(result.like)
        return QueryImage(name, None if sheet is None else embed_preview(sheet), None)
    except GmiError:
        return QueryImage(name, None, None)
