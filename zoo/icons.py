"""Icon sets: SVG pictures by name, read from the ``@iconify-json`` packages."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

RENDER_SIZE = 128
"""Pixels a side at which an icon is drawn, before a style's filter and the resize."""


def fetch(package: str, version: str, folder: Path) -> Path:
    """The package's tarball in ``folder``, downloaded with ``npm pack`` unless it is there.

    Raises ``subprocess.CalledProcessError`` where npm cannot deliver it.
    """
    tarball = folder / f"iconify-json-{package}-{version}.tgz"
    if not tarball.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", f"@iconify-json/{package}@{version}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return tarball


@dataclass(frozen=True)
class IconSet:
    """One package's ``icons.json``."""

    data: dict[str, Any]

    @classmethod
    def read(cls, tarball: Path) -> IconSet:
        with tarfile.open(tarball) as archive:
            member = archive.extractfile("package/icons.json")
            if member is None:
                raise FileNotFoundError(f"{tarball} holds no package/icons.json")
            return cls(json.load(member))

    def names(self) -> frozenset[str]:
        return frozenset(self.data["icons"]) | frozenset(self.data.get("aliases", {}))

    def svg(self, name: str) -> str:
        """The icon as an SVG document; an alias takes its parent's drawing."""
        icons, aliases = self.data["icons"], self.data.get("aliases", {})
        while name not in icons:
            name = aliases[name]["parent"]
        icon = icons[name]
        box = [icon.get(key, self.data.get(key, default)) for key, default in _VIEW_BOX]
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box[0]} {box[1]} {box[2]} {box[3]}">{icon["body"]}</svg>'
        )

    def render(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The icon on white: uint8 [RENDER_SIZE, RENDER_SIZE, 3]."""
        png = resvg_py.svg_to_bytes(
            svg_string=self.svg(name),
            width=RENDER_SIZE,
            height=RENDER_SIZE,
            background="#ffffff",
            skip_system_fonts=True,
        )
        picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
        canvas = Image.new("RGB", (RENDER_SIZE, RENDER_SIZE), "white")
        canvas.paste(
            picture, ((RENDER_SIZE - picture.width) // 2, (RENDER_SIZE - picture.height) // 2)
        )
        return np.asarray(canvas)


_VIEW_BOX = (("left", 0), ("top", 0), ("width", 16), ("height", 16))
