"""What several commands share: their options, each declared once, and how values are read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from gmi_registry.errors import InputError

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


def show_log(verbose: bool) -> None:
    """Let the package's own log through to stderr."""
    if verbose:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("gmi_registry").setLevel(logging.DEBUG)


class QuickCommand(TyperCommand):
    """A command that asks typer to convert only the values that need it.

    typer makes a pydantic adapter for each option, of which the import alone takes as long as a
    search. A value that is of its option's type, a text and the name of a file are what such an
    adapter would return; everything else is left to it.
    """

    def get_params(self, ctx: Any) -> Any:
        """The arguments and options, that for help included."""
        found = super().get_params(ctx)
        for param in found:
            # Older versions have no such descriptions, and no adapters.
            if hasattr(param, "type_descriptor") and "process_value" not in vars(param):
                vars(param)["process_value"] = _without_adapter(param)
        return found


def _without_adapter(param: Any) -> Callable[[Any, Any], Any]:
    """``process_value`` of a parameter of typer's, which converts nothing that needs no adapter."""
    process: Callable[[Any, Any], Any] = param.process_value
    many = param.multiple or param.nargs == -1
    annotation = param.type_descriptor.annotation
    kind = get_args(annotation)[0] if many else annotation

    def process_value(ctx: Any, value: Any) -> Any:
        if value is None:
            made: Any = () if many else None
        elif all(_is_plain(it, kind) for it in (value if many else (value,))):
            paths = [Path(it) if kind is Path else it for it in (value if many else (value,))]
            made = paths if many else paths[0]
        else:
            return process(ctx, value)
        if param.required and param.value_is_missing(made):
            return process(ctx, value)
        return made if param.callback is None else param.callback(ctx, param, made)

    return process_value


def _is_plain(value: object, kind: object) -> bool:
    if kind is Path:
        # typer has an error of its own for a file that may not be read.
        return isinstance(value, str) and (os.access(value, os.R_OK) or not Path(value).exists())
    return type(value) is kind


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


_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int:
    """Bytes: ``500MB``, ``2GB``, or a plain number. Raises typer.BadParameter."""
    return int(_parsed(text, _SIZES, "a size such as 500MB or 2GB"))


def parse_age(text: str) -> float:
    """Seconds: ``12h``, ``30d``, ``8w``. Raises typer.BadParameter."""
    return _parsed(text, _AGES, "a time such as 12h, 30d or 8w")


def _parsed(text: str, units: dict[str, int], wanted: str) -> float:
    found = _NUMBER.fullmatch(text.strip())
    unit = None if found is None else units.get(found.group(2).lower())
    if found is None or unit is None:
        raise typer.BadParameter(f"{text!r} is not {wanted}")
    return float(found.group(1)) * unit


def cache_folder(chosen: Path | None) -> Path:
    """Where is kept what was read or worked out once; made when it is first written."""
    if chosen is not None:
        return chosen
    from platformdirs import user_cache_path

    return user_cache_path("gmi-registry", appauthor=False)


def work_folder(chosen: Path | None, cache: Path) -> Path:
    """Where unfinished generation is kept, by default in ``cache``; it exists on return.

    Raises InputError where it cannot be made.
    """
    folder = cache / "work" if chosen is None else chosen
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made: {error.strerror}",
            hint="choose a work folder with --work DIR",
        ) from error
    return folder
