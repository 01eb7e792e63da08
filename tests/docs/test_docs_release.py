"""What a release must agree on: one version in all places, and a changelog that has it."""

from __future__ import annotations

import re
import tomllib

import yaml

import gmi_registry
from tests.support.markdown_page import ROOT


def test_every_place_has_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {gmi_registry.__version__, project["version"], str(citation["version"])} == {
        project["version"]
    }


def test_the_changelog_begins_with_unreleased_and_has_this_version_with_its_date() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    headings = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    assert headings[:2] == [
        "Unreleased",
        f"{gmi_registry.__version__} ({citation['date-released']})",
    ]
