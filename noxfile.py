"""Everything that a developer or a runner runs. Plain ``nox`` is what CI runs.

All sessions share one environment, ``.nox/shared``, since torch alone takes gigabytes. It is made
on first use and brought up to date when pyproject.toml changes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "offline"]

SHARED = Path(__file__).parent / ".nox" / "shared"
PROGRAMS = SHARED / ("Scripts" if sys.platform == "win32" else "bin")
SIDE_BY_SIDE = ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"]
# One thread a process: more would wait for each other. Byte code is kept, whatever the machine
# says: hundreds of processes that tests start would compile the package, each for itself.
TEST_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
CODE = ["gmi_registry", "zoo", "tests", "benchmarks", "docs", "ci", "examples", "noxfile.py"]


def install(session: nox.Session) -> None:
    """The package with every extra and the tools, editable, into the shared environment."""
    wanted = hashlib.sha256(Path("pyproject.toml").read_bytes()).hexdigest()
    stamp = SHARED / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not PROGRAMS.exists():
        session.run(sys.executable, "-m", "venv", str(SHARED), external=True)
    pip = [str(PROGRAMS / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    session.run(*pip, "--quiet", "--upgrade", "pip>=25.1", external=True)
    session.run(*pip, "--quiet", "-e", ".[all]", "--group", "dev", external=True)
    stamp.write_text(wanted)


def run(session: nox.Session, program: str, *arguments: str, **env: str) -> None:
    """A program of the shared environment."""
    install(session)
    session.run(str(PROGRAMS / program), *arguments, external=True, env=env)


@nox.session
def demo(session: nox.Session) -> None:
    """Publish the embedded zoo into a local hub and search it with three pictures."""
    run(session, "python", "-m", "zoo.demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, as many tests at a time as there are cores: -- tests/hubs -k renamed."""
    run(session, "pytest", *SIDE_BY_SIDE, *session.posargs, **TEST_ENVIRONMENT)


@nox.session
def coverage(session: nox.Session) -> None:
    """The test suite with coverage; fails under 90 % of lines."""
    run(session, "coverage", "erase")
    tests = ["-m", "pytest", *SIDE_BY_SIDE, *session.posargs]
    run(session, "coverage", "run", *tests, **TEST_ENVIRONMENT)
    run(session, "coverage", "combine", "--quiet")
    run(session, "coverage", "report", "--fail-under=90")


@nox.session
def offline(session: nox.Session) -> None:
    """Publish and search with every socket closed: no network is needed once installed."""
    run(session, "pytest", "--disable-socket", "-m", "offline", HF_HUB_OFFLINE="1")


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take minutes: the whole matrix of tiny models."""
    run(session, "pytest", "-m", "slow", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """5,000 runs with faults, or as many as you say; goes on where it was stopped."""
    run(session, "python", "-m", "tests.hubs.soak", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The paper's benchmark: -- run benchmarks/zoo16.toml --out results, then -- show results."""
    run(session, "python", "-m", "benchmarks.paper", *session.posargs)


@nox.session
def regenerate(session: nox.Session) -> None:
    """Describe anew what is out of date, as gmi regenerate does: -- --repo owner/model."""
    run(session, "gmi", "regenerate", *session.posargs)


@nox.session
def live(session: nox.Session) -> None:
    """The hub's tests against the hub itself, in a private repository that they make and delete."""
    if not os.environ.get("HF_TOKEN"):
        session.error(
            "set HF_TOKEN to a token that may write: docs/how-to/test-against-the-live-hub.md"
        )
    run(session, "pytest", "-m", "live", "tests/hubs", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and which part may import which."""
    run(session, "ruff", "check", *CODE)
    run(session, "ruff", "format", "--check", *CODE)
    run(session, "lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    run(session, "mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Reference and pictures are what the code makes; links and commands in pages work."""
    run(session, "python", "-m", "docs.press", "--check")
    run(session, "pytest", "tests/docs")


@nox.session(venv_backend="venv", reuse_venv=True)
def site(session: nox.Session) -> None:
    """The documentation as a website in docs/_site; every warning is an error."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml(), "site"))
    options = ["-W", "--keep-going", "-q", "-c", "docs/site", "-d", ".nox/site-pages"]
    session.run("sphinx-build", *options, ".", "docs/_site")


@nox.session
def reference(session: nox.Session) -> None:
    """Write the reference and the pictures of the documentation."""
    run(session, "python", "-m", "docs.press", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Source distribution and wheel, into dist/."""
    run(session, "python", "-m", "build")


@nox.session
def zoo(session: nox.Session) -> None:
    """Rebuild the zoo's weights from the icon packages (hours on two cores; resumes)."""
    run(session, "python", "-m", "zoo", *session.posargs)


@nox.session
def zoo_report(session: nox.Session) -> None:
    """Measure the zoo against its gates; writes zoo/README.md and the sample sheet."""
    run(session, "python", "-m", "zoo.gates", *session.posargs)
