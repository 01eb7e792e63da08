"""``python -m zoo``: rebuild the zoo's weights, part by part; a killed run goes on."""

from __future__ import annotations

import sys
from pathlib import Path

from zoo import pictures

WORK = Path(__file__).parent / "work"


def main(parts: list[str]) -> None:
    from zoo.build import PARTS

    drawn = pictures.load(WORK)
    for part in parts or list(PARTS):
        PARTS[part](drawn, WORK)


if __name__ == "__main__":
    main(sys.argv[1:])
