import io
import os
import subprocess
import sys

import pytest
import typer

from gmi_registry.cli.output import (
    StageProgress,
    handle_errors,
    shows_progress,
    write_json,
    write_rows,
)
from gmi_registry.errors import HubError, SpecFormatError


def program(error):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @handle_errors(interrupted="interrupted, run it again")
    def command() -> None:
        if error is not None:
            raise error

    return app


def test_no_error(call):
    assert call(program(None)).exit_code == 0


def test_a_known_error_is_one_line_and_a_hint(call):
    done = call(program(SpecFormatError("the file is broken", hint="mend it")))
    assert done.exit_code == 1
    assert done.stderr == "error: the file is broken\nhint: mend it\n"
    assert done.stdout == ""


def test_an_error_without_a_hint(call):
    assert call(program(HubError("no answer"))).stderr == "error: no answer\n"


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_a_traceback_on_request(call, monkeypatch, value):
    monkeypatch.setenv("HF_DEBUG", value)
    done = call(program(HubError("no answer")))
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: no answer\n")


def test_a_message_cannot_drive_the_terminal(call):
    done = call(program(HubError("a\x1b[2Jb\r\nc\udcff")))
    assert done.stderr == "error: a\\x1b[2Jb\\r\\nc\\udcff\n"


def test_an_interrupt(call):
    done = call(program(KeyboardInterrupt()))
    assert done.exit_code == 130
    assert done.stderr == "interrupted, run it again\n"


def test_a_fault_of_the_program_passes_through(call):
    done = call(program(ZeroDivisionError("oops")))
    assert isinstance(done.exception, ZeroDivisionError)


def test_nobody_reads_the_output():
    code = (
        "from gmi_registry.cli.output import handle_errors\n"
        "import typer\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "@handle_errors()\n"
        "def command() -> None:\n"
        "    for _ in range(100_000):\n"
        "        print('a line that is long enough to fill a pipe')\n"
        "app()\n"
    )
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=-1) as process:
        os.close(write)
        os.read(read, 10)
        os.close(read)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 141
    assert said == b""


def test_streams_get_what_a_stream_can_take(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    write_rows([("a\tb", "ü"), ("c", "d")])
    write_json({"ü": [1]})
    assert stream.getvalue() == 'a\\tb\tü\nc\td\n{\n  "\\u00fc": [\n    1\n  ]\n}\n'


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
    assert shows_progress(True) is False
