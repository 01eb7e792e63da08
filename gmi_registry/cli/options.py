"""What several commands share: their options, each declared once, and how values are read.

A command takes options that belong together as one object: a parameter whose type is a dataclass,
of which each field is an option. :func:`command` shows typer the options one by one.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from gmi_registry.atomic import user_cache
from gmi_registry.cli.output import handle_errors
from gmi_registry.errors import InputError
from gmi_registry.hubs.open import HubAccess

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

_HUB = "The hub: hf for Hugging Face, civitai, or a folder that holds models."

HubText = Annotated[str, typer.Option("--hub", metavar="HUB", envvar="GMI_HUB", help=_HUB)]
OptionalHubText = Annotated[
    str | None,
    typer.Option(
        "--hub",
        metavar="HUB",
        envvar="GMI_HUB",
        help=f"{_HUB} Needed where MODEL is neither a folder nor hf:owner/name.",
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", "-t", metavar="TAG", help="Only models with this tag; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only names, and no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more on stderr.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="GMI_CACHE_DIR",
        help="The folder of the caches; default: this user's.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN", help="Your access token; default: HF_TOKEN, or the one of hf auth login."
    ),
]
CivitaiToken = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        envvar="CIVITAI_TOKEN",
        show_envvar=False,
        help="Your access token for Civitai; default: CIVITAI_TOKEN.",
    ),
]
RegistryText = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="The dataset with specifications that are not beside their models; else GMI_REGISTRY.",
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
Workers = Annotated[int, typer.Option(min=1, max=64, help="Specifications to read at a time.")]
Device = Annotated[str | None, typer.Option(help="Where to compute, such as cpu or cuda.")]
WorkDir = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="DIR",
        help="Where images are kept until the work is done; default: in the cache.",
    ),
]


@dataclass(frozen=True)
class AccessOptions:
    """How hubs and the registry are reached."""

    token: Token = None
    registry: RegistryText = None
    civitai_token: CivitaiToken = None
    cache_dir: CacheDir = None

    @property
    def access(self) -> HubAccess:
        """The same for the package."""
        return HubAccess(self.cache_dir, self.token, None, self.registry, self.civitai_token)

    @property
    def cache(self) -> Path:
        """The folder of the cache."""
        return user_cache(self.cache_dir)

    def opened(self, hub: str) -> AbstractContextManager[Hub]:
        """The hub of that name, closed at the end of the block."""
        from gmi_registry.hubs.open import opened_hub

        return opened_hub(hub, self.access)


@dataclass(frozen=True)
class SpecAccessOptions:
    """How one specification is reached."""

    token: Token = None
    registry: RegistryText = None
    offline: Offline = False

    @property
    def access(self) -> HubAccess:
        """The same for the package."""
        return HubAccess(token=self.token, offline=self.offline or None, registry=self.registry)


@dataclass(frozen=True)
class OutputOptions:
    """What is printed."""

    as_json: AsJson = False
    quiet: Quiet = False
    verbose: Verbose = False


def command(
    app: typer.Typer,
    name: str | None = None,
    *,
    cls: type[TyperCommand] | None = None,
    interrupted: str = "interrupted",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of ``app``; its errors become exit codes.

    ``interrupted`` is what Ctrl-C prints. The function itself stays as it is.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        run = handle_errors(interrupted=interrupted)(_flat(function))
        app.command(name, cls=cls)(run)
        return function

    return register


def _flat(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with the fields of its groups of options as parameters of its own."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    hints = get_type_hints(function, include_extras=True)
    for it in inspect.signature(function).parameters.values():
        kind = hints[it.name]
        if not is_dataclass(kind):
            parameters.append(it.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(kind, include_extras=True)
        groups[it.name] = kind, [field.name for field in fields(kind)]
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=types[field.name],
            )
            for field in fields(kind)
        ]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        made = {
            name: kind(**{field: values.pop(field) for field in names})
            for name, (kind, names) in groups.items()
        }
        function(**values, **made)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {it.name: it.annotation for it in parameters}
    return run


def show_log(verbose: bool) -> None:
    """Let the package's own log through to stderr."""
    if verbose:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("gmi_registry").setLevel(logging.DEBUG)


class QuickCommand(TyperCommand):
    """A command that asks typer to convert only the values that need it.

    typer makes a pydantic adapter for each option, of which the import alone takes as long as a
    search. A value of its option's type, a text, 0 or 1 and the name of a file are what such an
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
            every = [_converted(it, kind) for it in (value if many else (value,))]
            made = every if many else every[0]
        else:
            return process(ctx, value)
        if param.required and param.value_is_missing(made):
            return process(ctx, value)
        return made if param.callback is None else param.callback(ctx, param, made)

    return process_value


# What environment variables such as HF_HUB_OFFLINE hold most often.
_SWITCHES = {"0": False, "1": True}


def _is_plain(value: object, kind: object) -> bool:
    if kind is Path:
        # typer has an error of its own for a file that may not be read.
        return isinstance(value, str) and (os.access(value, os.R_OK) or not Path(value).exists())
    return type(value) is kind or (kind is bool and value in _SWITCHES)


def _converted(value: Any, kind: object) -> Any:
    if kind is Path:
        return Path(value)
    return _SWITCHES[value] if kind is bool and isinstance(value, str) else value


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


def work_folder(chosen: Path | None, cache: Path) -> Path:
    """Where unfinished generation is kept, by default in ``cache``; it exists on return.

    Raises InputError where it cannot be made.
    """
    folder = cache / "work" if chosen is None else chosen
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: this folder cannot be made: {error.strerror}",
            hint="choose a work folder with --work DIR",
        ) from error
    return folder
