"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "CacheDir",
    "CivitaiToken",
    "Device",
    "HubText",
    "Offline",
    "OptionalHubText",
    "Quiet",
    "RegistryText",
    "Token",
    "Verbose",
    "Workers",
    "new_app",
    "say_more",
]

_HUB = "The hub: hf for Hugging Face, civitai, or a folder that holds models."

HubText = Annotated[
    str, typer.Option("--hub", metavar="HUB", envvar="GMI_HUB", help=_HUB, show_default=True)
]
OptionalHubText = Annotated[
    str | None,
    typer.Option(
        "--hub",
        metavar="HUB",
        envvar="GMI_HUB",
        help=f"{_HUB} Needed where MODEL is neither a folder nor hf:owner/name.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print names only, and no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        envvar="GMI_CACHE_DIR",
        help="The folder for what was read or computed once; else this user's caches.",
        show_default=False,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Your access token; else the one of hf auth login, or HF_TOKEN.",
        show_default=False,
    ),
]
CivitaiToken = Annotated[
    str | None,
    typer.Option(
        "--civitai-token",
        metavar="TOKEN",
        envvar="CIVITAI_TOKEN",
        show_envvar=False,
        help="Your access token for Civitai; else CIVITAI_TOKEN.",
        show_default=False,
    ),
]
RegistryText = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="ID",
        help="The dataset with specifications that are not beside their models; else GMI_REGISTRY.",
        show_default=False,
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        envvar="HF_HUB_OFFLINE",
        help="Make no request: use what earlier searches left on this disk.",
    ),
]
Workers = Annotated[
    int,
    typer.Option("--workers", min=1, max=64, help="Specifications to read at a time."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Where to compute, such as cpu or cuda.", show_default=False),
]


def say_more(verbose: bool) -> None:
    """Let the package's own log through to stderr."""
    if verbose:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("gmi_registry").setLevel(logging.DEBUG)


def new_app(help: str | None = None) -> typer.Typer:
    """A typer application with this package's conventions.

    Help is plain text, which loads in a third of the time of the boxed kind and reads the same in
    pipes and pages; a fault of the program shows Python's own traceback.
    """
    return typer.Typer(
        help=help,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
