"""The programs: ``gmi`` (also ``hf-gmi``) with all commands, and two with one command each."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gmi_registry.cli import cache, encoder, index, registry, spec, webhook
from gmi_registry.cli.options import new_app
from gmi_registry.cli.publish import publish
from gmi_registry.cli.regenerate import regenerate
from gmi_registry.cli.search import search
from gmi_registry.sanitize import guarded_output, traceback_text

__all__ = ["app", "main", "publish_main", "search_main"]


def _print_version(wanted: bool) -> None:
    if wanted:
        from gmi_registry import __version__

        typer.echo(f"gmi-registry {__version__}")
        raise typer.Exit


app = new_app("Find the text-to-image model that makes images like yours.")


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


app.command()(search)
app.command()(publish)
app.command()(regenerate)
app.add_typer(spec.app, name="spec")
app.add_typer(registry.app, name="registry")
app.add_typer(index.app, name="index")
app.add_typer(encoder.app, name="encoder")
app.add_typer(cache.app, name="cache")
app.add_typer(webhook.app, name="webhook")

search_app = new_app()
search_app.command()(search)

publish_app = new_app()
publish_app.command()(publish)


def main() -> None:
    """``gmi`` and ``hf-gmi``."""
    run_program(app)


def search_main() -> None:
    """``gmi-search``."""
    run_program(search_app)


def publish_main() -> None:
    """``gmi-publish``."""
    run_program(publish_app)


def run_program(program: typer.Typer) -> None:
    """Run a command line; what strangers wrote is cleaned on its way out."""
    with guarded_output():
        try:
            program()
        except Exception as error:
            # A fault of this program: Python's own traceback would show what strangers wrote.
            sys.stderr.write(traceback_text(error))
            sys.exit(1)
