"""What a benchmark of speed keeps and draws; nothing here is timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speed.curves import drawn, spread
from benchmarks.speed.record import Row, read, written

_SVG = "{http://www.w3.org/2000/svg}"
ROWS = (
    Row("images: slow", 100, 20.0, 18.0),
    Row("images: slow", 1000, 200.0, 180.0, timed_models=500),
    Row("images: fast", 100, 1.0, 0.9, kept_mb=17.5),
    Row("images: fast", 1000, 1.1, 0.9),
    Row("means: one", 100, 0.1, 0.1, recall=1.0, build_s=0.5),
)


def kept(folder: Path, rows: Sequence[Row] = ROWS, name: str = "growth.json") -> Path:
    return written(folder / name, rows, machine={"cores": 2}, setting={"images": 55})


def words(path: Path) -> list[str]:
    root = ElementTree.fromstring(path.read_bytes())
    return ["".join(text.itertext()).strip() for text in root.iter(f"{_SVG}text")]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = kept(tmp_path)
    assert tuple(read(path)) == ROWS
    content = json.loads(path.read_bytes())
    assert content["machine"] == {"cores": 2}
    for part in (content, *content["rows"]):
        assert list(part) == sorted(part)


def test_times_are_medians_in_milliseconds() -> None:
    row = Row.of("a", 3, [0.004, 0.001, 0.0012345])
    assert (row.median_ms, row.least_ms) == (1.234, 1.0)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{"work": "a"}]}', '{"lines": []}'])
def test_a_file_of_another_form_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"other\.json cannot be read .*: name a file as") as told:
        read(path)
    assert "\n" not in str(told.value)


def test_other_measurements_may_say_less_or_more(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    row = {"work": "a", "models": 1, "median_ms": 2.0, "least_ms": 1.0, "note": "of no interest"}
    path.write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    assert read(path) == [Row("a", 1, 2.0, 1.0)]


def test_each_family_has_a_picture_with_its_lines_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = drawn([kept(tmp_path)], tmp_path)
    assert [path.name for path in made] == ["growth-images.svg", "growth-means.svg"]
    first = words(made[0])
    assert {"slow", "fast", "100", "1,000"} <= set(first)
    assert any("hollow" in word for word in first)
    second = words(made[1])
    assert "one" in second
    assert not any("hollow" in word for word in second)


def test_a_second_file_goes_on_with_the_lines_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    more = kept(tmp_path, [Row("images: fast", 1_000_000, 90.0, 80.0)], "more.json")
    (made, _) = drawn([kept(tmp_path), more], tmp_path)
    assert words(made).count("fast") == 1
    assert "1,000,000" in words(made)


def test_works_of_no_family_have_a_picture_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (made,) = drawn([kept(tmp_path, [Row("alone", 10, 1.0, 1.0)])], tmp_path)
    assert made.name == "growth.svg"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "first", tmp_path / "second"
    drawn([kept(tmp_path)], first)
    drawn([kept(tmp_path)], second)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), max_size=8))
def test_labels_are_moved_apart_in_their_order(heights: dict[str, float]) -> None:
    placed = spread(heights, 0.1)
    assert placed.keys() == heights.keys()
    order = sorted(heights, key=lambda name: (heights[name], name))
    places = [placed[name] for name in order]
    assert all(after - before > 0.1 - 1e-9 for before, after in pairwise(places))
    assert sum(places) == pytest.approx(sum(heights.values()))


def test_labels_that_do_not_touch_stay_where_they_are() -> None:
    assert spread({"a": 0.1, "b": 0.5, "c": 0.9}, 0.2) == {"a": 0.1, "b": 0.5, "c": 0.9}


def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "faiss", None)
    for name in ("growth", "neighbours"):
        monkeypatch.delitem(sys.modules, f"benchmarks.speed.{name}", raising=False)
    with pytest.raises(SystemExit, match="faiss is not installed: pip install faiss-cpu usearch"):
        import benchmarks.speed.growth  # noqa: F401


def test_a_python_without_learnware_is_named_in_a_line(tmp_path: Path) -> None:
    from benchmarks.speed.market import Market

    absent = tmp_path / "python"
    with pytest.raises(SystemExit, match=r"python cannot run learnware .*pip install") as told:
        Market(absent, np.zeros((1, 2, 3), np.float32), np.zeros(3, np.float32), 0.02, 1)
    assert "\n" not in str(told.value)
