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
    folder, requirement = _installed_from(extra)
    return f"pip install '{requirement if folder is None else f'{folder}[{extra}]'}'"


def requirement_elsewhere(extra: str) -> str | None:
    """What another machine installs to have this package with an extra, as for pip.

    None where it came from a folder or a file of this machine.
    """
    folder, requirement = _installed_from(extra)
    return requirement if folder is None else None


def _installed_from(extra: str) -> tuple[str | None, str]:
    """The folder or file of this machine that it came from, else None; and the requirement."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution("gmi-registry").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    url, name = str(origin.get("url", "")), f"gmi-registry[{extra}]"
    if url.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return unquote(urlsplit(url).path), name
    if vcs := origin.get("vcs_info"):
        return None, f"{name} @ {vcs.get('vcs', 'git')}+{url}"
    return None, name


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
