"""The command line as its users meet it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gmi_registry.spec import write_spec
from tests.support.cli_hub import make_hub
from tests.support.cli_specs import WEIGHTS, make_spec

_START = "import sys; from gmi_registry.cli import main; sys.exit(main.{program}())"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    """No setting of the person who runs the tests, and no writing into their home."""
    for name in ("GMI_HUB", "HF_DEBUG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GMI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def call():
    """Run a program in this process: ``call(app, "spec", "show", ...)``."""

    def run(app, *arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def start():
    """Run a program as a process of its own, to the end."""

    def run(program, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-c", _START.format(program=program), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=600,
            env=os.environ | environment,
        )

    return run


@pytest.fixture
def start_only():
    """Start a program as a process of its own, and let the test talk to it."""

    def run(program, *arguments):
        return subprocess.Popen(
            [sys.executable, "-c", _START.format(program=program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


@pytest.fixture
def folder(tmp_path):
    """A function that writes a specification into a new folder and returns that folder."""

    def make(name="flat", **changes):
        place = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        write_spec(make_spec(name, **changes), place)
        (place / "w.safetensors").write_bytes(WEIGHTS)
        return place

    return make


@pytest.fixture(scope="session")
def unpublished(tmp_path_factory):
    """A hub of models without specifications; tests work on copies."""
    return make_hub(tmp_path_factory.mktemp("cli") / "hub")
