import pytest

from gmi_registry.cli import progress as module
from gmi_registry.cli.progress import StageProgress

LABELS = {"check": "checking", "generate": "generating"}


def test_elsewhere_than_on_a_terminal_each_stage_is_one_line(capsys):
    with StageProgress(LABELS, quiet=False) as progress:
        progress("check", 0, 1)
        progress("generate", 0, 55)
        progress("generate", 8, 55)
        progress("unknown", 1, 2)
    said = capsys.readouterr()
    assert said.err == "checking\ngenerating (55)\n"
    assert said.out == ""


def test_quiet_says_nothing(capsys):
    with StageProgress(LABELS, quiet=True) as progress:
        progress("generate", 1, 55)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("switch", "bars"), [("0", True), ("1", False)])
def test_bars_on_a_terminal_unless_switched_off(monkeypatch, capsys, switch, bars):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", switch)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with StageProgress(LABELS, quiet=False) as progress:
        assert (progress._bars is not None) is bars
        progress("generate", 3, 55)
        progress("generate", 55, 55)
        if bars:
            (task,) = progress._bars.tasks
            assert (task.description, task.completed, task.total) == ("generating", 55, 55)
    assert capsys.readouterr().out == ""
    assert module.progress_is_wanted(True) is False
