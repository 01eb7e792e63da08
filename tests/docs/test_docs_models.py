"""The page of models is made from the table that the tests of models go by."""

from __future__ import annotations

from docs.press.models import models_page
from tests.support.markdown_page import ROOT
from tests.support.models.matrix import MATRIX, REFUSALS


def test_the_page_is_current_and_has_every_row() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page == models_page().text()
    for row in (*MATRIX.values(), *REFUSALS.values()):
        assert f"| {row.title} |" in page


def test_the_page_says_what_was_never_run() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert "**No row was run on real weights.**" in page
