"""Pictures for icons16.toml: a folder for each style of the zoo, a picture for each of its names.

    python benchmarks/icon_folders.py [DIR]

The pictures are those that the zoo's models learnt from, drawn anew from the icon packages, which
npm downloads, unless zoo/work holds them already. DIR is zoo/work/icons16, where the benchmark
looks for them, unless you say otherwise. Artists and licences: zoo/ATTRIBUTION.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from zoo import pictures  # noqa: E402
from zoo.names import names, prompt  # noqa: E402
from zoo.styles import STYLES  # noqa: E402

WORK = ROOT / "zoo" / "work"


def write_folders(drawn: pictures.Pictures, target: Path) -> int:
    """``target``/STYLE/PROMPT.png for every name that all styles have; how many were written."""
    wanted = names()
    columns = drawn.rows(wanted)
    for row, style in enumerate(STYLES):
        folder = target / style.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, column in zip(wanted, columns, strict=True):
            scratch = folder / ".part"
            Image.fromarray(drawn.pixels[row, column]).save(scratch, "PNG")
            scratch.replace(folder / f"{prompt(name)}.png")
    return len(STYLES) * len(wanted)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else WORK / "icons16"
    print(f"{write_folders(pictures.load(WORK), folder):,} pictures in {folder}")
