"""A report on a run that has all that a report can be about."""

from __future__ import annotations

import html
import re

import pytest
from typer.testing import CliRunner

from benchmarks.paper.__main__ import app
from benchmarks.paper.report import write_report
from benchmarks.paper.tables import tables
from tests.support.embedded_run import benchmark_of, run_stage, write_embedded
from tests.support.report_run import write_summary

TITLES = (
    "Table 1:",
    "Table 2:",
    "Table 4:",
    "Table 5:",
    "Table 6:",
    "Table 7:",
    "Against Eq. 9",
    "Confidence",
    "Models that come first too often",
    "How often each model comes first",
    "Whether the picked models make what was asked with",
    "Models that join late",
    "Mixed prompt sets: tasks like the own prompts",
    "Mixed prompt sets: tasks on other prompts",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """16 models, as many as the paper has."""
    folder = tmp_path_factory.mktemp("whole")
    names = ("images-1", "images-2", "split-2", "split-3")
    own = ("own-prompts", "own-prompts-default", "own-prompts-mixed")
    methods = ("rkme-clip", "size-1", "paper", "modelverse", "default", "default-none")
    benchmark = benchmark_of(16, test_seeds=(0, 1), protocols=(*names, *own), methods=methods)
    write_embedded(folder, benchmark)
    run_stage(folder, benchmark)
    write_summary(folder, benchmark.protocols, methods)
    return folder, write_report(folder)


def test_every_table_is_there(run) -> None:
    _, report = run
    found = [table.title for table in tables(report.results)]
    for title in TITLES:
        assert [name for name in found if name.startswith(title)], title
    text = report.tables.read_text(encoding="utf-8")
    page = html.unescape(report.page.read_text(encoding="utf-8"))
    assert all(f"## {name}\n" in text and f">{name}</h2>" in page for name in found)
    # The paper's rows stand below Eq. 9's in the tables that it has.
    assert text.count("*as published*") == 2 + 2 + 2 + 3 + 2


def test_the_document_holds_what_the_tables_say(run) -> None:
    _, report = run
    read = report.results
    assert read.late is not None
    assert len(read.late.choices) == 8
    assert read.resemblance is not None
    assert read.resemblance.right.value < read.resemblance.random.value
    assert len(read.mixtures) == 5 * 4
    figures = {path.name for path in report.figures}
    assert {"figure-3.png", "figure-6.png", "figure-7.png"} <= figures


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_gets_tables_of_its_width(run, monkeypatch, width) -> None:
    folder, report = run
    monkeypatch.setattr("benchmarks.paper.report.write_report", lambda folder: report)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    done = CliRunner().invoke(app, ["show", str(folder)])
    assert done.exit_code == 0, done.output
    assert "\x1b[1m" in done.stdout
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    assert "|" not in text
    # Whole figures, whether or not the interval stands on a line of its own.
    for table in tables(report.results):
        assert table.title in lines
        assert all(cell.text.split()[0] in text for row in table.rows for cell in row.cells)


def test_another_program_gets_markdown(run) -> None:
    folder, report = run
    done = CliRunner().invoke(app, ["show", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stdout == report.tables.read_text(encoding="utf-8")
    assert done.stderr == f"the report: {report.page}\n"
