"""The programs: ``gmi`` (also ``hf-gmi``) with all commands, and two with one command each.

Only the module of the command that is run is imported; the help of ``gmi`` itself needs them all.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gmi_registry.cli.options import new_app
from gmi_registry.sanitize import guarded_output, traceback_text

_COMMANDS = (
    "search",
    "publish",
    "regenerate",
    "spec",
    "registry",
    "index",
    "encoder",
    "cache",
    "webhook",
)
"""Commands of ``gmi``; each is the ``app`` of the module of its name."""


class _Imported(Mapping[str, Any]):
    """Commands by their names; each is imported when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in _COMMANDS:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = typer.main.get_command(app_of(name))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Commands(TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = _Imported()


def app_of(command: str) -> typer.Typer:
    """The application of one command of ``gmi``."""
    found: typer.Typer = import_module(f"gmi_registry.cli.{command}").app
    return found


def _print_version(wanted: bool) -> None:
    if wanted:
        from gmi_registry import __version__

        typer.echo(f"gmi-registry {__version__}")
        raise typer.Exit


app = new_app("Find the text-to-image model that makes images like yours.")


@app.callback(cls=_Commands)
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """``gmi`` and ``hf-gmi``."""
    run_program(app)


def search_main() -> None:
    """``gmi-search``."""
    run_program(app_of("search"))


def publish_main() -> None:
    """``gmi-publish``."""
    run_program(app_of("publish"))


def run_program(program: typer.Typer) -> None:
    """Run a command line; what strangers wrote is cleaned on its way out."""
    # Imports make many objects and no garbage, among which it would be looked for all the time.
    gc.set_threshold(50_000, 20, 20)
    with guarded_output():
        try:
            program()
        except Exception as error:
            # A fault of this program: Python's own traceback would show what strangers wrote.
            sys.stderr.write(traceback_text(error))
            sys.exit(1)
        finally:
            # The process ends: nobody needs to look for garbage among all that it has.
            gc.freeze()
