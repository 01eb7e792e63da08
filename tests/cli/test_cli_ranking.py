import math
import re
from dataclasses import replace

import pytest

from gmi_registry.cli.search import bar, write_ranking
from gmi_registry.index import FoldedVersion, Repeat, Universal
from gmi_registry.spec import LoraPartial, ModelRef
from tests.support.cli_specs import OTHER_RANKING, RANKING, answer, group, hit


@pytest.fixture
def table(monkeypatch, capsys):
    """What a terminal of some width shows."""

    def show(width, result):
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        write_ranking(result)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    return show


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.0, "   "), (1.0, "███"), (0.5, "█▌ "), (1 / 24, "▏  "), (2.0, "███"), (-1.0, "   ")],
)
def test_bar(part, text):
    assert bar(part, 1.0, cells=3) == text


@pytest.mark.parametrize(("margin", "spread"), [(0.0, 0.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_a_bar_without_a_measure_is_empty(margin, spread):
    assert bar(margin, spread).strip() == ""


def test_a_pipe_gets_rows(capsys):
    write_ranking(answer(RANKING, OTHER_RANKING))
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == [
        "rank",
        "model",
        "distance",
        "margin",
        "tags",
        "base_model",
        "prompt_set",
        "stale",
        "confidence",
        "trust",
        "repeats",
        "lora_partial",
    ]
    assert rows[1] == [
        "1",
        "local:flat@0123456789abcdef",
        "0.25",
        "0.5",
        "flat,icons",
        "zoo/base",
        "general",
        "",
        "",
        "",
        "",
        "",
    ]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3", "1"]
    assert rows[3][3] == ""
    assert rows[4][6] == "zoo"


def sure_ranking():
    chances = (0.9712, 0.02, 0.001)
    pairs = zip(RANKING.hits, chances, strict=True)
    return answer(replace(RANKING, hits=tuple(replace(it, confidence=p) for it, p in pairs)))


def test_a_pipe_gets_confidence_where_the_score_speaks_of_them(capsys):
    write_ranking(sure_ranking())
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[-4] for row in rows] == ["confidence", "0.971", "0.020", "0.001"]


def test_who_stands_behind_a_specification_and_other_versions(capsys, table):
    first, second, third = RANKING.hits
    folded = FoldedVersion(ModelRef("civitai", "12", "30"), "Old", 0.9, None)
    hits = (
        replace(
            first,
            trust="self-published",
            ref=ModelRef("civitai", "12", "34"),
            title="New",
            versions=(folded,),
        ),
        replace(second, trust="verified", versions=(folded, folded)),
        replace(third, trust="owner", stale=True),
    )
    result = answer(replace(RANKING, hits=hits))
    write_ranking(result)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[-3] for row in rows] == ["trust", "self-published", "verified", "owner"]
    assert rows[1][1] == "civitai:12@34"
    shown = " ".join(table(200, result).split())
    assert "civitai:12@34 New (+1 version) (self-published)" in shown
    assert f"{second.ref.without_revision} (+2 versions) " in shown
    assert f"{third.ref.without_revision} (stale)" in shown


def test_models_that_repeat_each_other_and_that_are_near_everything(capsys, table):
    first, second, third = RANKING.hits
    others = tuple(
        Repeat(
            ModelRef("local", f"m{number:02}", "0123456789ab"), "M\x1b[2J", 0.3, number == 1, trust
        )
        for number, trust in enumerate(("self-published", "owner"))
    )
    numbered = Repeat(ModelRef("civitai", "12", "34"), "M\x1b[2J", 0.3, None, "owner")
    hits = (
        replace(first, repeats=(*others, numbered)),
        replace(second, universal=Universal(0.34, 0.05, 0.12)),
        replace(third, universal=Universal(0.1, 0.05, 0.81)),
    )
    result = answer(replace(RANKING, hits=hits))
    write_ranking(result)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    named = "local:m00@0123456789ab,local:m01@0123456789ab,civitai:12@34"
    assert [row[-2] for row in rows] == ["repeats", named, "", ""]
    shown = table(200, result)
    assert (
        "same images: local:m00 (self-published), local:m01 (stale), civitai:12@34 M\\x1b[2J"
        in " ".join(shown.split())
    )
    words = " ".join(shown.split())
    assert "near everything: first for 34 % of other models' images; its share would be" in words
    assert "its share would be 5 %, and for 81 % of background pictures" in words
    many = (replace(first, repeats=others[:1] * 30), second)
    assert "and 10 more" in " ".join(table(200, answer(replace(RANKING, hits=many))).split())


def test_a_terminal_shows_confidence_beside_the_distance(table):
    lines = table(60, sure_ranking()).splitlines()
    assert lines[0].split()[:4] == ["#", "model", "distance", "confidence"]
    assert "97 %" in lines[1]
    assert "< 1 %" in lines[3]
    assert "confidence" not in table(60, answer(RANKING))


def test_a_wide_terminal_shows_everything(table):
    text = table(150, answer(RANKING))
    lines = text.splitlines()
    assert lines[0].split("  ")[0].strip() == "#"
    assert "local:flat " in lines[1]
    assert "a tree; a cat" in lines[1]
    assert "zoo/base" in lines[1]
    assert "0.2500" in lines[1]
    assert "███    0.5000" in lines[1]


@pytest.mark.parametrize("width", [20, 30, 40, 52, 60, 76, 80, 104, 132, 200])
def test_every_width_keeps_model_and_distance(table, width):
    long = hit(1, "a-model-with-a-rather-long-name-on-some-hub", 0.25, None, tags=("x" * 60,))
    text = table(width, answer(group(long)))
    assert max(map(len, text.splitlines())) <= width
    assert "0.2500" in text
    # The name may be folded, but every letter of it is there, in order.
    letters = "".join(line[3:] for line in text.splitlines()[1:])
    assert re.search(".*?".join("local:a-model-with-a-rather-long-name"), letters)


@pytest.mark.parametrize("width", [76, 80, 90])
def test_tags_give_way_to_names(table, width):
    long = hit(1, "icon-a-pixel-art-style", 0.25, None, tags=("text-to-image", "x" * 60))
    assert "local:icon-a-pixel-art-style " in table(width, answer(group(long)))


def test_groups_stand_apart(table):
    text = table(80, answer(RANKING, OTHER_RANKING))
    assert "Default prompts general, 5 models" in text
    assert "Default prompts zoo, 3 models: distances differ in kind from those above" in text


def test_colours_can_be_switched_off(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    write_ranking(answer(RANKING))
    assert "\x1b[32m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    write_ranking(answer(RANKING))
    assert "\x1b[3" not in capsys.readouterr().out


def test_brackets_are_not_markup(table):
    assert "[bold]x" in table(120, answer(group(hit(1, "flat", 0.1, None, tags=("[bold]x",)))))


def test_nothing_found_prints_nothing(capsys):
    write_ranking(answer())
    assert capsys.readouterr().out == ""


def test_a_pipe_gets_four_digits(capsys):
    exact = hit(1, "flat", 0.012345678901234, 1.23456789e-07, stale=False)
    write_ranking(answer(group(exact, hit(2, "oil", math.inf, None, stale=True))))
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[2:4] for row in rows[1:]] == [["0.01235", "1.235e-07"], ["inf", ""]]
    assert [row[7] for row in rows[1:]] == ["no", "yes"]


def test_a_terminal_names_what_is_stale(table):
    text = table(80, answer(group(hit(1, "flat", 0.1, 0.1, stale=True), hit(2, "oil", 0.2, None))))
    assert "local:flat (stale)" in text
    assert text.count("stale") == 1


def test_a_lora_that_is_there_in_part_is_marked(table):
    first, *rest = RANKING.hits
    share = LoraPartial(applied=64, tensors=128)
    result = answer(replace(RANKING, hits=(replace(first, lora_partial=share), *rest)))
    assert " (partial LoRA, 64 of 128 tensors)" in table(200, result)
    found = [hit.to_json()["lora_partial"] for hit in result.groups[0].hits]
    assert found == [{"applied": 64, "tensors": 128}] + [None] * len(rest)


def test_a_pipe_gets_the_share_of_a_lora(capsys):
    first, *rest = RANKING.hits
    share = LoraPartial(applied=64, tensors=128)
    write_ranking(answer(replace(RANKING, hits=(replace(first, lora_partial=share), *rest))))
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[-1] for row in rows] == ["lora_partial", "64/128", *([""] * len(rest))]
