"""``python -m docs.press [--check] [--to DIR] [--take HUB]``."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from docs.press.command import command_page
from docs.press.diagram import architecture_picture
from docs.press.fault import error_page
from docs.press.interface import interface_page
from docs.press.models import models_page
from docs.press.picture import specification_picture, weight_picture
from docs.press.sample import Sample, take
from docs.press.schema import manifest_page, search_page
from docs.press.separation import pair_picture, whitening_picture
from docs.press.variable import variable_page

__all__ = ["contents", "main"]

_DOCS = Path(__file__).parents[1]


def contents() -> dict[str, bytes]:
    """Every file that is made here, by its path in ``docs``. The same code gives the same bytes."""
    sample = Sample.load()
    pages = {
        "command-line": command_page(),
        "environment": variable_page(),
        "errors": error_page(),
        "manifest": manifest_page(),
        "python": interface_page(),
        "search-json": search_page(),
    }
    pictures = {
        "architecture": architecture_picture(),
        "pairs": pair_picture(sample),
        "specification": specification_picture(sample),
        "weights": weight_picture(sample),
        "whitening": whitening_picture(sample),
    }
    texts = {f"reference/{name}.md": page.text() for name, page in pages.items()}
    texts["models.md"] = models_page().text()
    texts |= {f"explanation/pictures/{name}.svg": item.svg() for name, item in pictures.items()}
    return {path: text.encode("utf-8") for path, text in sorted(texts.items())}


def stale(made: dict[str, bytes], folder: Path) -> list[str]:
    """What in ``folder`` is not as it was made now, one line a file."""
    found = []
    for path, content in made.items():
        file = folder / path
        if not file.is_file():
            found.append(f"{path} is missing")
        elif file.read_bytes() != content:
            found.append(f"{path} is out of date")
    # Beside what lies in the folder itself are pages that people write.
    for kept in sorted({(folder / path).parent for path in made} - {folder}):
        for file in sorted(kept.iterdir()) if kept.is_dir() else ():
            path = file.relative_to(folder).as_posix()
            if path not in made:
                found.append(f"{path} is made by nothing")
    return found


def write(made: dict[str, bytes], folder: Path) -> None:
    """Put the files into ``folder``, each of them whole or not at all."""
    for path, content in made.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        try:
            scratch.write_bytes(content)
            scratch.replace(file)
        finally:
            scratch.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where ``--check`` finds a file that is not as the code would have it."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.press",
        description="Write the parts of the documentation that come from the code.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; name what is out of date and exit 1"
    )
    parser.add_argument("--to", type=Path, default=_DOCS, metavar="DIR", help="in place of docs")
    parser.add_argument(
        "--take", type=Path, metavar="HUB", help="draw the pictures from this local hub's LoRAs"
    )
    chosen = parser.parse_args(arguments)
    if chosen.take is not None:
        print(f"{len(take(chosen.take))} specifications taken from {chosen.take}", file=sys.stderr)
    made = contents()
    if not chosen.check:
        write(made, chosen.to)
        return 0
    found = stale(made, chosen.to)
    for line in found:
        print(line)
    if found:
        print("hint: python -m docs.press", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
