"""Every link and anchor of the repository's pages leads somewhere, and every page is led to."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.markdown_page import ROOT, MarkdownPage, pages


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_within_the_repository_resolve(path: Path) -> None:
    assert list(MarkdownPage(path).faults()) == []


def test_every_page_of_the_documentation_is_reached_from_its_index() -> None:
    docs = ROOT / "docs"
    reached, waiting = set(), [docs / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for link in MarkdownPage(path).links:
            target = (path.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_relative_to(docs) and target.is_file():
                waiting.append(target)
    assert sorted(set(docs.rglob("*.md")) - reached) == []


_PATH = re.compile(
    r"`((?:benchmarks|ci|docs|examples|gmi_registry|spec_format|tests|zoo)/[\w./-]+)`"
)
_MADE = {"docs/_site"}


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(path: Path) -> None:
    named = set(_PATH.findall(path.read_text("utf-8")))
    assert [name for name in sorted(named - _MADE) if not (ROOT / name).exists()] == []


_MODULE = re.compile(r"`(?:python -m )?(gmi_registry(?:\.\w+)+|benchmarks(?:\.\w+)+)\b")


@pytest.mark.parametrize(
    "path",
    [path for path in pages() if path.name != "CHANGELOG.md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_modules_that_a_page_names_are_there(path: Path) -> None:
    """Each dotted name is a module, or a name in one."""
    missing = []
    for name in sorted(set(_MODULE.findall(path.read_text("utf-8")))):
        place = ROOT.joinpath(*name.split("."))
        if not (place.is_dir() or place.with_suffix(".py").is_file()):
            package, _, attribute = name.rpartition(".")
            if not hasattr(import_module(package), attribute):
                missing.append(name)
    assert missing == []


def test_the_contents_of_the_website_name_every_page_once() -> None:
    contents = (ROOT / "docs" / "site" / "contents.txt").read_text("utf-8")
    listed = [line for line in contents.splitlines() if line and line[0] not in "`:"]
    beside = [ROOT / "examples" / "README.md", ROOT / "zoo" / "ATTRIBUTION.md"]
    expected = {path.relative_to(ROOT).with_suffix("").as_posix() for path in [*pages(), *beside]}
    assert sorted(listed) == sorted(expected - {"README"})  # which is the front page


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](missing.md)", "there is no such file"),
        ("![a](missing.svg)", "there is no such file"),
        ("[a](other.md#gone)", "the page has no such heading"),
        ("[a](#gone)", "the page has no such heading"),
        ("[a][b]\n\n[b]: missing.md", "there is no such file"),
        ("| a |\n| --- |\n| [b](missing.md) |", "there is no such file"),
        ("[a](../../../../../../etc/hostname)", "leads out of the repository"),
    ],
)
def test_a_broken_link_is_found(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "other.md").write_text("# Other\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    (found,) = MarkdownPage(page).faults()
    assert found.endswith(fault)


def test_anchors_are_those_that_hubs_make(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What `a[].b_c` means, 2.0\n\n## Twice\n\n## Twice\n\n## Twice\n\n"
        '<a id="own"></a>\n\n```\n# no heading\n```\n',
        encoding="utf-8",
    )
    assert MarkdownPage(page).anchors == {
        "what-ab_c-means-20",
        "twice",
        "twice-1",
        "twice-2",
        "own",
    }
