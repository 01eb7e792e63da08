"""Every error that gmi-registry raises on purpose.

Each message says what was wrong, where, and (in ``hint``) the next command or change
that mends it. The command line prints ``error: message`` and ``hint: ...`` and exits 1.

::

    GmiError
    ├── InputError                    what the caller handed in: an image, a prompt file, an option
    ├── SpecError                     a specification that cannot be used
    │   ├── SpecFormatError           the two files break SPEC.md
    │   │   └── DigestMismatchError   the bytes are not those that the manifest names
    │   ├── UnsupportedVersionError   written by a newer major version of the format
    │   └── IncomparableSpecsError    another encoder, kernel or prompt set
    ├── HubError                      a hub said no, or did not answer
    │   ├── SpecNotFoundError         nothing there under that name
    │   ├── AuthError                 no token, a wrong one, or too few rights
    │   ├── RateLimitError            too many requests; ``retry_after`` says when
    │   └── UnsupportedOperationError this hub has no such operation
    ├── OfflineError                  the network is needed and switched off
    ├── MissingExtraError             an optional dependency is not installed
    └── GenerationError               a model could not be loaded or could not generate
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gmi_registry.sanitize import shown


class GmiError(Exception):
    """Root of the tree. ``message`` is one line; ``hint`` is the next thing to do, or None.

    Both may hold names and words of strangers: control characters become escapes, and tokens and
    passwords are left out.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = shown(message)
        self.hint = None if hint is None else shown(hint)
        super().__init__(self.message)


class InputError(GmiError):
    """What the caller handed in cannot be used: an image, a prompt file, an option."""


class SpecError(GmiError):
    """A specification that cannot be used."""


class SpecFormatError(SpecError):
    """The two files of a specification break SPEC.md."""


class DigestMismatchError(SpecFormatError):
    """The bytes of a file are not those that the manifest names."""


class UnsupportedVersionError(SpecError):
    """The specification was written by a newer major version of the format."""


class IncomparableSpecsError(SpecError):
    """Two specifications, or a query and a specification, that no score may compare."""


class HubError(GmiError):
    """A hub said no, or did not answer."""


class SpecNotFoundError(HubError):
    """The hub holds no model, or no specification, under that name."""


class AuthError(HubError):
    """No token, a wrong token, or a token with too few rights."""


class RateLimitError(HubError):
    """The hub asks to slow down. ``retry_after`` is in seconds, or None where it did not say."""

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class UnsupportedOperationError(HubError):
    """This hub has no such operation."""


class OfflineError(GmiError):
    """The network is needed and is switched off."""


def install_command(extra: str) -> str:
    """The pip line that adds an extra, from where this package was installed.

    A folder or a repository is named where it came from one (PEP 610), since nobody but an index
    can tell what the bare name would bring.
    """
    return f"pip install '{_installed_from().requirement(f'[{extra}]')}'"


def upgrade_hint() -> str:
    """How to get a newer version of this package, from where it was installed."""
    origin = _installed_from()
    if origin.folder is not None:
        return f"update gmi-registry in {origin.folder}"
    return f"pip install --upgrade '{replace(origin, commit='').requirement()}'"


def requirement_elsewhere(extra: str, *, pinned: bool) -> str | None:
    """What another machine installs to have this package with an extra, as for pip.

    Of a repository ``pinned`` is this very commit, else what it holds by then. None where nothing
    can be told: it came from a folder or a file of this machine, or is not installed.
    """
    origin = _installed_from()
    if origin.folder is not None or not origin.known:
        return None
    return (origin if pinned else replace(origin, commit="")).requirement(f"[{extra}]")


@dataclass(frozen=True)
class _Origin:
    """A folder or file of this machine, an address as pip takes it, or else an index.

    Where it is not ``known``, nothing says that an index has it.
    """

    folder: str | None = None
    address: str | None = None
    commit: str = ""
    known: bool = True

    def requirement(self, extras: str = "") -> str:
        if self.folder is not None:
            return f"{self.folder}{extras}"
        name = f"gmi-registry{extras}"
        return name if self.address is None else f"{name} @ {self.address}{self.commit}"


def _installed_from() -> _Origin:
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        text = distribution("gmi-registry").read_text("direct_url.json")
        if text is None:
            return _Origin()
        found = json.loads(text)
        url = str(found["url"])
        if url.startswith("file://"):
            return _Origin(folder=url2pathname(urlsplit(url).path))
        if "vcs_info" not in found:
            return _Origin(address=url)
        vcs = found["vcs_info"]
        return _Origin(address=f"{vcs['vcs']}+{url}", commit=f"@{vcs['commit_id']}")
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        root = Path(__file__).parents[1]
        checkout = (root / "pyproject.toml").is_file()
        return _Origin(folder=str(root) if checkout else None, known=False)


class MissingExtraError(GmiError):
    """An optional dependency is missing; the hint is the pip line that installs it."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=install_command(extra),
        )
        self.package = package
        self.extra = extra


class GenerationError(GmiError):
    """A model could not be loaded, or could not generate."""
