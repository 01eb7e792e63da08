"""Reading from a folder that strangers write to: nothing outside it, nothing that is no file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from gmi_registry.errors import HubError
from gmi_registry.spec.files import Links, UnusableFileError, held_folder

__all__ = ["opened_plain", "read_plain", "require_inside"]


def require_inside(path: Path, root: Path) -> None:
    """Raise HubError unless ``path`` lies in ``root`` once all links are followed."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise HubError(
            f"{path} is a link that leads out of the hub",
            hint="put the files themselves there; such links are not followed",
        )


@contextlib.contextmanager
def opened_plain(
    path: Path,
    links: Links = False,
    *,
    within: tuple[str, ...] = (),
    second_names: bool = False,
) -> Iterator[io.FileIO]:
    """The regular file ``path``, open for reading; ``links`` are as for :func:`.read_spec`.

    Its folder is held open while the file is looked at, so that both are what they were. ``within``
    names the last folders above the file, none of which may be a link; ``second_names`` lets files
    of others pass that have several. Raises FileNotFoundError as such, and HubError for everything
    else that is wrong.
    """
    start = path.parents[len(within)]
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(held_folder(start, links))
            for name in within:
                folder = stack.enter_context(folder.folder(name))
            stream = stack.enter_context(folder.file(path.name, second_names=second_names))
        except UnusableFileError as error:
            hint = "put the file itself there" if "link" in str(error) else None
            raise HubError(f"{path} {error}", hint=hint) from None
        except FileNotFoundError:
            raise
        except IsADirectoryError:
            raise HubError(f"{path} is not a regular file") from None
        except OSError as error:
            raise HubError(f"{path} cannot be read: {error.strerror or error}") from error
        yield stream


def read_plain(
    path: Path, limit: int, links: Links = False, *, within: tuple[str, ...] = ()
) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; else as :func:`opened_plain`."""
    with opened_plain(path, links, within=within) as stream:
        try:
            content = bytearray()
            while len(content) <= limit and (piece := stream.read(limit + 1 - len(content))):
                content += piece
        except OSError as error:
            raise HubError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise HubError(f"{path} has more than {limit:,} bytes")
    return bytes(content)
