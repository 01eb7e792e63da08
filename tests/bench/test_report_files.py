"""A report on a whole folder: its files, its page, and folders that hold no run."""

from __future__ import annotations

import json
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import results as results_module
from benchmarks.paper.definition import OWN_PROMPTS
from benchmarks.paper.folder import array_bytes, read_run, read_scored
from benchmarks.paper.report import chosen_tasks, examples, write_report
from benchmarks.paper.results import Results, results_schema
from benchmarks.paper.tables import tables
from gmi_registry.errors import InputError, MissingExtraError
from tests.support.report_run import noisy, perfect, put, truth_of, write_split, write_summary

MODELS = 4
METHODS = ("download", "rkme-clip", "size-1", "paper", "default")
PROTOCOLS = ("images-1", "images-2", "split-2", "split-3", *OWN_PROMPTS)


def write_run(folder: Path) -> None:
    """Every kind of protocol and dev tasks, with pictures."""
    for split, seeds in (("dev", 10), ("test", 2)):
        truth = truth_of(MODELS, 3, seeds)
        for protocol in PROTOCOLS:
            if split == "dev" and protocol in OWN_PROMPTS:
                continue
            scores = {
                "download": np.tile(np.arange(MODELS, dtype=float), (len(truth), 1)),
                "rkme-clip": noisy(truth, MODELS, 0.5, seed=1),
                "size-1": noisy(truth, MODELS, 0.4, seed=2),
                "paper": noisy(truth, MODELS, 1.0, seed=3),
                "default": perfect(truth, MODELS),
            }
            draw = split == "test" and protocol == "images-1"
            write_split(folder, split, protocol, MODELS, truth, scores, seeds=seeds, draw=draw)
    write_summary(folder, PROTOCOLS, METHODS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder, write_report(folder)


class Outline(HTMLParser):
    """All elements with their attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def test_the_files_are_there_and_nothing_else(run) -> None:
    folder, report = run
    written = {path.name for path in (folder / "report").iterdir()}
    figures = {"figure-3.png", "figure-6.png", "images.png", "confidence.png"}
    assert written == {"results.json", "tables.md", "report.html", *figures}
    assert {path.name for path in report.figures} == figures
    assert report.page.name == "report.html"


def test_the_document_is_what_was_measured(run) -> None:
    _, report = run
    read = Results.model_validate_json(report.document.read_bytes())
    assert read == report.results
    one = read.protocol("images-1")
    assert one is not None
    assert one.tasks == 24
    assert [it.method for it in one.methods] == list(METHODS)
    default, paper = one.method("default"), one.method("paper")
    assert default is not None
    assert default.top[0].value == 1.0
    assert default.confidence is not None
    assert default.confidence.chances == [1.0]
    assert paper is not None
    assert paper.top[0].value < 1


def test_the_same_run_gives_the_same_bytes(run, tmp_path) -> None:
    folder, _ = run
    write_run(tmp_path)
    write_report(tmp_path)
    for path in (folder / "report").iterdir():
        assert (tmp_path / "report" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_schema_is_that_of_the_code() -> None:
    kept = Path(results_module.__file__).with_name("results.schema.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == results_schema()


def test_the_tables_hold_the_figures(run) -> None:
    _, report = run
    text = report.tables.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| Default "))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Default",
        *["**1.000** ± 0.000"] * MODELS,
        "**1.000** ± 0.000",
    ]
    for number in (1, 2, 4, 5, 6, 7):
        assert f"## Table {number}:" in text
    # The paper's tables are about 16 models, and stand beside no others.
    assert "as published" not in text


def table_named(results, title):
    return next(table for table in tables(results) if table.title.startswith(title))


def test_each_protocol_stands_in_its_own_table(run) -> None:
    _, report = run
    rows = {
        number: [row.title for row in table_named(report.results, f"Table {number}").rows]
        for number in (4, 5, 7)
    }
    assert [title for title in rows[5] if title.startswith("Eq. 9")] == [
        "Eq. 9, split 1, all default prompts",
        "Eq. 9, split 2, every other default prompt",
        "Eq. 9, split 3, the other half",
    ]
    assert [title for title in rows[7] if title.startswith("Eq. 9")] == [
        "Eq. 9, default and own prompts",
        "Eq. 9, default prompts alone",
        "Eq. 9, every second model with own prompts",
    ]
    assert [title for title in rows[4] if title.startswith("Eq. 9")] == [
        "Eq. 9, 1 image",
        "Eq. 9, 2 images",
    ]
    assert not any("split" in title for title in rows[4] + rows[7])


def test_hubs_are_named(run) -> None:
    """Download always names one model, the perfect method all of them equally often."""
    _, report = run
    extremes = {
        row.title: [cell.text for cell in row.cells]
        for row in table_named(report.results, "Models that come first").rows
    }
    assert extremes["Download"] == ["4.00 × (model-00)", "0.00 × (model-03)", "3", "0.750"]
    assert extremes["Default"][2:] == ["0", "0.000"]
    each = table_named(report.results, "How often each model comes first")
    download = each.head.index("Download") - 1
    assert [row.title for row in each.rows] == [f"model-{n:02d}" for n in range(MODELS)]
    assert [row.cells[download].text for row in each.rows] == ["1.000", "0.000", "0.000", "0.000"]
    one = report.results.protocol("images-1")
    assert one is not None
    for method in one.methods:
        assert sum(method.picked) == pytest.approx(1, abs=1e-5)


def test_columns_stand_under_each_other(run) -> None:
    _, report = run
    for table in tables(report.results):
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert len(lines) == len(table.rows) + 2
        assert len({len(line) for line in lines}) == 1, table.title


def test_figures_are_pictures_large_enough_to_read(run) -> None:
    _, report = run
    for path in report.figures:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        width, height = struct.unpack(">II", content[16:24])
        assert width >= 700
        assert height >= 500


def test_the_page_holds_all_and_fetches_nothing(run) -> None:
    _, report = run
    outline = Outline(report.page.read_text(encoding="utf-8"))
    sources = [image["src"] for image in outline.named("img")]
    assert len(sources) > len(report.figures)
    assert all(source.startswith("data:image/") for source in sources)
    assert outline.named("script") == outline.named("link") == []
    assert all(image["alt"] for image in outline.named("img"))
    # Prompts are other people's text.
    assert outline.named("b") == []
    assert "a <b>picture</b> of thing" in outline.text
    assert "1 min 15 s" in outline.text
    for title in ("Figure 3:", "Figures 4 and 5:", "Figure 6:", *(f"Table {n}:" for n in range(8))):
        assert title in outline.text or title in ("Table 0:", "Table 3:"), title


def test_the_shown_tasks_are_drawn_without_looking() -> None:
    assert chosen_tasks(2880) == chosen_tasks(2880)
    assert len(set(chosen_tasks(2880))) == 8
    assert chosen_tasks(3) == [0, 1, 2]


def single(folder):
    """The test tasks of single images."""
    return read_scored(folder, "test", read_run(folder))[0]


def test_a_pick_is_shown_with_another_seed_of_the_same_prompt(run) -> None:
    folder, _ = run
    for it in examples(folder, single(folder)):
        right = next(pick for pick in it.picks if pick.method == "Default")
        assert (right.model, right.right) == (it.model, True)
        assert right.picture is not None
        assert right.picture != it.picture
        wrong = next(pick for pick in it.picks if pick.method == "Download")
        assert wrong.model == "model-00"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bench.json", None, "holds no finished benchmark"),
        ("bench.json", b"{}", "is not what this version reads"),
        ("scores/test/images-1.npz", None, "is missing"),
        ("scores/test/images-1.npz", b"PK", "is damaged"),
        ("scores/test/images-1.npz", array_bytes({"paper": np.zeros((2, 4))}), "is damaged"),
        ("scores/test/images-1.npz", array_bytes({"paper": np.full((24, 4), np.nan)}), "number"),
        ("scores/test/images-1.npz", array_bytes({"other": np.zeros((24, 4))}), "no method"),
        ("labels/test/images-1.json", None, "holds no answers"),
        ("tasks/test/images-1.json", b"[]", "is damaged"),
    ],
)
def test_a_folder_that_holds_no_run_is_refused_and_left_alone(
    tmp_path, name, content, reason
) -> None:
    write_run(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        put(tmp_path / name, content)
    with pytest.raises(InputError, match=reason) as caught:
        write_report(tmp_path)
    assert "\n" not in caught.value.message
    assert "python -m benchmarks.paper run" in str(caught.value.hint) or "same command" in str(
        caught.value.hint
    )
    assert not (tmp_path / "report").exists()


def test_scores_that_could_run_code_are_not_opened(tmp_path) -> None:
    write_run(tmp_path)
    with (tmp_path / "scores" / "test" / "images-1.npz").open("wb") as stream:
        np.savez(stream, paper=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="is damaged"):
        write_report(tmp_path)


def test_a_summary_of_a_later_version_is_refused(tmp_path) -> None:
    write_run(tmp_path)
    write_summary(tmp_path, ("images-1",), METHODS, format={"name": "gmi-bench", "version": 2})
    with pytest.raises(InputError, match=r"format\.version"):
        write_report(tmp_path)


def test_without_matplotlib_the_extra_is_named_before_anything_is_written(
    tmp_path, monkeypatch
) -> None:
    write_run(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError) as caught:
        write_report(tmp_path)
    assert caught.value.hint == "pip install --group bench"
    assert not (tmp_path / "report").exists()
