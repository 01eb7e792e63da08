"""``hub.json``, by which a folder is known to be a hub."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from gmi_registry.errors import HubError, InputError
from gmi_registry.hubs.confinement import read_plain

__all__ = ["check_mark", "write_mark"]

_NAME = "hub.json"
_FORMAT = "gmi-local-hub"
_VERSION = 1
_LIMIT = 65_536


def write_mark(root: Path) -> None:
    """Put ``hub.json`` into ``root``, unless it is there. Raises OSError."""
    mark = root / _NAME
    if mark.exists():
        return
    scratch = root / f".{_NAME}.{os.getpid()}"
    try:
        text = json.dumps({"format": {"name": _FORMAT, "version": _VERSION}}) + "\n"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(mark)
    finally:
        scratch.unlink(missing_ok=True)


def check_mark(root: Path) -> None:
    """Raise InputError where ``root`` is no hub, HubError where ``hub.json`` is not understood."""
    code = f"from gmi_registry.hubs import LocalHub; LocalHub.create({str(root)!r})"
    make = f"python -c {shlex.quote(code)}"
    if not root.exists():
        raise InputError(
            f"{root}: there is no such folder",
            hint=f"a hub is hf, civitai, or a folder that is one; to make a new one: {make}",
        )
    if not root.is_dir():
        raise InputError(f"{root} is a file, and a hub is a folder", hint="name a folder")
    mark = root / _NAME
    try:
        content = read_plain(mark, _LIMIT)
    except FileNotFoundError:
        raise InputError(
            f"{root} is not a hub: it holds no {_NAME}", hint=f"make it one: {make}"
        ) from None
    try:
        declared = json.loads(content)["format"]
        name, version = declared["name"], declared["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = version = None
    if name != _FORMAT or type(version) is not int or version < 1:
        wanted = json.dumps({"format": {"name": _FORMAT, "version": _VERSION}})
        raise HubError(f"{mark} does not describe a hub", hint=f"it should hold {wanted}")
    if version > _VERSION:
        raise HubError(
            f"{root} is a hub of version {version}; this program knows version {_VERSION}",
            hint="pip install --upgrade gmi-registry",
        )
