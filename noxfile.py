"""Everything that a developer or a runner runs. Plain ``nox`` is what CI runs.

The sessions share one environment, since torch alone takes gigabytes.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.10.9"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "offline"]

SHARED = ".nox/shared"
CODE = ["gmi_registry", "zoo", "tests", "noxfile.py"]


def install(session: nox.Session) -> None:
    """The package with every extra and the tools, editable, into the shared environment."""
    session.install("-e", ".[all]", "--group", "dev")


@nox.session(venv_location=SHARED)
def demo(session: nox.Session) -> None:
    """Publish the embedded zoo into a local hub and search it with three pictures."""
    install(session)
    session.run("python", "-m", "zoo.demo", *session.posargs)


@nox.session(venv_location=SHARED)
def tests(session: nox.Session) -> None:
    """The test suite; fails under 90 % of lines."""
    install(session)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    if not session.posargs:
        session.run("coverage", "report", "--fail-under=90")


@nox.session(venv_location=SHARED)
def offline(session: nox.Session) -> None:
    """Publish and search with every socket closed: nothing but the two files is needed."""
    install(session)
    session.run("pytest", "--disable-socket", "-m", "offline", env={"HF_HUB_OFFLINE": "1"})


@nox.session(venv_location=SHARED)
def lint(session: nox.Session) -> None:
    """Style, and which part may import which."""
    install(session)
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    session.run("lint-imports")


@nox.session(venv_location=SHARED)
def types(session: nox.Session) -> None:
    """mypy, strict."""
    install(session)
    session.run("mypy")


@nox.session(venv_location=SHARED)
def build(session: nox.Session) -> None:
    """Source distribution and wheel, into dist/."""
    install(session)
    session.run("python", "-m", "build")


@nox.session(venv_location=SHARED)
def zoo(session: nox.Session) -> None:
    """Rebuild the zoo's weights from the icon packages (hours on two cores; resumes)."""
    install(session)
    session.run("python", "-m", "zoo", *session.posargs)


@nox.session(venv_location=SHARED)
def zoo_report(session: nox.Session) -> None:
    """Measure the zoo against its gates; writes zoo/README.md and the sample sheet."""
    install(session)
    session.run("python", "-m", "zoo.gates", *session.posargs)
