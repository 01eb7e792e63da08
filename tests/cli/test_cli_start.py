"""Help has to answer at once, so nothing heavy may be imported for it."""

import os
import subprocess
import sys
import time

import pytest

from gmi_registry.cli import main

HEAVY = (
    "torch",
    "diffusers",
    "open_clip",
    "transformers",
    "numpy",
    "safetensors",
    "PIL",
    "jinja2",
    "huggingface_hub",
    "model_signing",
    "sigstore",
    "cryptography",
    "httpx2",
    "starlette",
    "uvicorn",
    "filelock",
)
_PROBE = f"""
import sys
from gmi_registry.cli import main
for line in sys.stdin:
    program, *words = line.split()
    sys.argv[1:] = [*words, "--help"]
    try:
        getattr(main, program)()
    except SystemExit as stop:
        print(line.strip(), stop.code, sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)
"""
HELP = (
    *("search_main", "publish_main", "main", "main search", "main publish", "main regenerate"),
    *("main spec", "main spec show", "main spec verify", "main spec sign", "main spec diff"),
    *("main cache", "main cache info", "main cache prune"),
    *("main encoder", "main encoder export", "main encoder check"),
    *("main index", "main index build", "main index info", "main index push"),
    *("main index serve-into", "main registry", "main registry check"),
    *("main registry verify-entry", "main webhook", "main webhook install"),
    *("main webhook list", "main webhook remove", "main webhook serve"),
)


def test_help_imports_nothing_heavy():
    """In one process for all: what one command imports stays for those after it."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE],
        input="\n".join(HELP),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr.splitlines() == [f"{line} 0 []" for line in HELP]
    assert done.stdout.count("Usage:") == len(HELP)


def test_help_is_quick():
    """0.3 s; where a busy machine is slower than that, not much more than the libraries take."""
    libraries = "import typer, pydantic; pydantic.TypeAdapter(list[int])"
    own = "from gmi_registry.cli.main import main; main()"
    processor_time("-c", own, "--help")  # writes the byte code
    taken = min(processor_time("-c", own, "search", "--help") for _ in range(3))
    assert taken < max(0.3, 2 * min(processor_time("-c", libraries) for _ in range(3)))


def processor_time(*arguments):
    """Processor time, not the clock: other programs may be running here."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def test_version(start):
    began = time.perf_counter()
    done = start("main", "--version")
    assert done.stdout == "gmi-registry 0.1.0\n"
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("main", ["sing"]),
        ("main", ["spec", "show"]),
        ("main", ["spec", "show", "a", "--loud"]),
        ("search_main", ["--hub", "x"]),
        ("search_main", ["cat.png", "--hub", "x", "--kind", "car"]),
        ("search_main", ["cat.png", "--hub", "x", "--top", "0"]),
        ("search_main", ["cat.png", "--hub", "x", "--open"]),
        ("search_main", ["cat.png", "--hub", "x", "--workers", "0"]),
        ("main", ["cache", "prune", "--older-than", "soon"]),
        ("publish_main", ["model", "--hub", "x", "--seeds", "one"]),
        ("publish_main", ["model", "--hub", "x", "--steps", "few"]),
    ],
)
def test_wrong_usage(start, program, arguments):
    done = start(program, *arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("program", [main.main, main.search_main, main.publish_main])
def test_programs_in_this_process(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gmi", "--help"])
    with pytest.raises(SystemExit) as stop:
        program()
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: ")


def test_a_terminal_that_lacks_letters(start, tmp_path):
    done = start("main", "spec", "show", tmp_path / "Ж", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


def test_the_package_itself_imports_nothing_heavy():
    code = (
        "import sys, gmi_registry\n"
        "assert 'search' in dir(gmi_registry)\n"
        "assert gmi_registry.__version__\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))\n"
        "import gmi_registry.search.run, gmi_registry.publish\n"
        "from gmi_registry.search.result import Timings\n"
        "from gmi_registry import search\n"
        "assert gmi_registry.search is search and callable(gmi_registry.publish)\n"
        "assert search.__module__ == 'gmi_registry.api'\n"
        "try:\n"
        "    gmi_registry.absent\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\nmodule 'gmi_registry' has no attribute 'absent'\n"
