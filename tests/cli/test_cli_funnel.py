import io
import os
import subprocess
import sys

import pytest
import typer

from gmi_registry.cli.funnel import funnel
from gmi_registry.errors import HubError, SpecFormatError


def program(error):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @funnel(interrupted="interrupted, run it again")
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
        "from gmi_registry.cli.funnel import funnel\n"
        "import typer\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "@funnel()\n"
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


def test_screen_writes_what_a_stream_can_take(monkeypatch):
    from gmi_registry.cli import screen

    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    screen.write_rows([("a\tb", "ü"), ("c", "d")])
    screen.write_json({"ü": [1]})
    assert stream.getvalue() == 'a\\tb\tü\nc\td\n{\n  "\\u00fc": [\n    1\n  ]\n}\n'
