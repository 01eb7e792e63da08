"""The computed pages and pictures: up to date, the same each time, and about what there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from docs.press import __main__ as press
from docs.press import variable
from docs.press.command import programs
from docs.press.page import anchor, cell, prose
from docs.press.sample import Sample
from docs.press.variable import variables_read
from gmi_registry import errors
from tests.support.markdown_page import ROOT


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return press.contents()


@pytest.fixture
def printed(made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything in it, and a press that need not compute it again."""
    press.write(made, tmp_path)
    monkeypatch.setattr(press, "contents", lambda: made)
    return tmp_path


def test_what_is_committed_is_what_the_code_makes(made: dict[str, bytes]) -> None:
    assert press.stale(made, ROOT / "docs") == []


def test_a_fresh_process_makes_the_same_bytes(made: dict[str, bytes], tmp_path: Path) -> None:
    other = os.environ | {"COLUMNS": "40", "PYTHONHASHSEED": "7", "TERM": "dumb", "GMI_HUB": "x"}
    subprocess.run(
        [sys.executable, "-m", "docs.press", "--to", tmp_path], cwd=ROOT, env=other, check=True
    )
    assert press.stale(made, tmp_path) == []


def test_check_says_nothing_where_nothing_is_stale(
    printed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert press.main(["--check", "--to", str(printed)]) == 0
    assert capsys.readouterr().out == ""


def test_check_names_each_stale_file_on_a_line(
    printed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = printed / "reference" / "errors.md"
    page.write_bytes(page.read_bytes().replace(b"130", b"131"))
    (printed / "explanation" / "pictures" / "pairs.svg").unlink()
    (printed / "reference" / "old.md").write_text("# Gone\n", encoding="utf-8")
    assert press.main(["--check", "--to", str(printed)]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "explanation/pictures/pairs.svg is missing",
        "reference/errors.md is out of date",
        "reference/old.md is made by nothing",
    ]
    assert "python -m docs.press" in said.err
    assert b"131" in page.read_bytes()


def test_every_option_of_every_program_is_on_the_page(made: dict[str, bytes]) -> None:
    page = made["reference/command-line.md"].decode()
    parsers = programs()
    assert set(parsers) == {"gmi", "gmi-publish", "gmi-search", "hf-gmi"}
    assert [name for name in parsers if f"`{name}`" not in page] == []
    waiting = [("gmi", parsers["gmi"])]
    options = 0
    while waiting:
        name, parser = waiting.pop()
        inner = getattr(parser, "commands", {})
        waiting += [(f"{name} {word}", parser.get_command(None, word)) for word in inner]
        assert f"\n## `{name}`\n" in page
        for item in parser.params:
            options += 1
            assert any(f"`{spelled}" in page for spelled in (*item.opts, item.metavar)), item.opts
    assert options > 60


def test_every_error_is_in_the_tree(made: dict[str, bytes]) -> None:
    page = made["reference/errors.md"].decode()
    tree = page.partition("```text\nGmiError")[2].partition("```")[0]
    found = [it for it in vars(errors).values() if isinstance(it, type)]
    names = {it.__name__ for it in found if issubclass(it, errors.GmiError)}
    assert len(names) > 10
    for name in names - {"GmiError"}:
        assert f"── {name}\n" in tree
        assert f"| `{name}` |" in page


def test_the_variables_that_a_user_meets_are_on_the_page(made: dict[str, bytes]) -> None:
    page = made["reference/environment.md"].decode()
    for name in ("GMI_HUB", "GMI_CACHE_DIR", "HF_DEBUG", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HOME"):
        assert f"| `{name}` |" in page


def test_a_variable_that_nobody_described_stops_the_press(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variable, "variables_read", lambda package: [*variable._OURS, "GMI_NEW"])
    with pytest.raises(ValueError, match="GMI_NEW"):
        variable.variable_page()


def test_variables_are_found_however_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        'import os\na = os.environ["A"]\nb = os.environ.get("B")\nc = os.getenv("C", "x")\n'
        'd = option(envvar="D")\ne = is_switched_on("E")\n'
        'f = other.get("F")\ng = os.environ["G" + a]\n',
        encoding="utf-8",
    )
    assert set(variables_read(tmp_path)) == {"A", "B", "C", "D", "E"}


@pytest.mark.parametrize("name", ["architecture", "pairs", "specification", "weights", "whitening"])
def test_pictures_are_xml_with_words_for_those_who_do_not_see_them(
    made: dict[str, bytes], name: str
) -> None:
    root = ElementTree.fromstring(made[f"explanation/pictures/{name}.svg"])
    space = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{space}title")
    assert len(root.findtext(f"{space}desc") or "") > 60
    assert "prefers-color-scheme: dark" in (root.findtext(f"{space}style") or "")
    used = {item.get("class") for item in root.iter() if item.get("class")}
    rules = root.findtext(f"{space}style") or ""
    assert [name for name in used if f".{name} {{" not in rules] == []


def test_the_counts_in_the_picture_of_pairs_are_those_of_equation_9(
    made: dict[str, bytes],
) -> None:
    sample = Sample.load()
    a, b = (sample.names.index(name) for name in ("noto", "twemoji"))
    right = 0
    for prompt, query in ((p, sample.images[m, p]) for m in (a, b) for p in range(55)):
        own, other = (a, b) if np.array_equal(query, sample.images[a, prompt]) else (b, a)
        right += _plain(sample, own, prompt, query) < _plain(sample, other, prompt, query)
    text = made["explanation/pictures/pairs.svg"].decode()
    assert f"paper: {right} of 110 told right" in text
    assert "noto or twemoji" in text


def _plain(sample: Sample, model: int, left_out: int, query: np.ndarray) -> float:
    """Eq. 9, term by term."""
    kept = [prompt for prompt in range(len(sample.texts)) if prompt != left_out]
    z, q, asked = sample.images[model, kept], sample.prompts[kept], sample.prompts[left_out]
    w = q @ asked / np.linalg.norm(q, axis=1) / np.linalg.norm(asked)
    among = np.exp(-0.02 * ((z[:, None] - z[None]) ** 2).sum(axis=2))
    cross = np.exp(-0.02 * ((z - query) ** 2).sum(axis=1))
    n = len(kept)
    return float(w @ among @ w / n**2 - 2 / n * w @ cross + 1)


def test_docstrings_become_markdown() -> None:
    text = """Like :func:`~a.b.name`, ``x < y`` and <b>.

    An example::

        one(1)

        two(2)

    See ``Other``.
    """
    assert prose(text, {"Other"}) == (
        "Like `name`, `x < y` and &lt;b>.\n\nAn example:\n\n"
        "```python\none(1)\n\ntwo(2)\n```\n\nSee [`Other`](#other)."
    )


def test_cells_and_anchors_survive_their_surroundings() -> None:
    assert cell("a | b\n c \\| d") == "a \\| b c \\| d"
    assert anchor("`results[].best_prompts[]`") == "resultsbest_prompts"
