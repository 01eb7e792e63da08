"""SVG text, written by hand: the few shapes that the pictures need, in two colour schemes."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["Drawing"]

_LIGHT = {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "dim": "#59636e",
    "line": "#d1d9e0",
    "one": "#1a6fb4",
    "two": "#b8520a",
}
_DARK = {
    "paper": "#151b23",
    "ink": "#f0f6fc",
    "dim": "#9aa4ae",
    "line": "#3d444d",
    "one": "#6cb0ee",
    "two": "#f0954f",
}
_FONT = "system-ui, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"


class Drawing:
    """A picture of ``width`` by ``height`` units on a card, which reads on any page.

    Colours are names: ink, dim, line, one, two. A reader that prefers dark pages gets dark ones.
    """

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.width = width
        self.height = height
        self._title = title
        self._description = description
        self._shapes: list[str] = []

    def rectangle(
        self, x: float, y: float, width: float, height: float, colour: str, opacity: float = 1
    ) -> None:
        """Filled."""
        self._add(
            f'<rect class="{colour}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" '
            f'height="{_n(height)}"{_opacity(opacity)}/>'
        )

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """Its outline."""
        self._add(
            f'<rect class="edge" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" '
            f'height="{_n(height)}" rx="4"/>'
        )

    def cells(
        self,
        squares: Iterable[tuple[int, int]],
        place: tuple[float, float],
        side: float,
        colour: str,
        opacity: float,
    ) -> None:
        """Squares of one colour as one shape, each by its (column, row) of a grid at ``place``."""
        path = "".join(f"M{x} {y}h1v1h-1z" for x, y in squares)
        if path:
            moved = f"translate({_n(place[0])} {_n(place[1])}) scale({_n(side)})"
            self._add(f'<path class="{colour}"{_opacity(opacity)} transform="{moved}" d="{path}"/>')

    def dot(
        self, x: float, y: float, colour: str, radius: float = 3.5, opacity: float = 0.8
    ) -> None:
        """A filled circle around (x, y)."""
        self._add(
            f'<circle class="{colour}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"'
            f"{_opacity(opacity)}/>"
        )

    def stroke(
        self, points: Iterable[tuple[float, float]], colour: str = "line", dashes: str = ""
    ) -> None:
        """A line through all points."""
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        more = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._add(f'<polyline class="stroke-{colour}" points="{path}"{more}/>')

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], colour: str = "dim"
    ) -> None:
        """A straight line with a head at ``end``."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max((dx * dx + dy * dy) ** 0.5, 1e-9)
        ux, uy = dx / length, dy / length
        back = (end[0] - 8 * ux, end[1] - 8 * uy)
        self.stroke([start, back], colour)
        corners = [end, (back[0] - 4 * uy, back[1] + 4 * ux), (back[0] + 4 * uy, back[1] - 4 * ux)]
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in corners)
        self._add(f'<polygon class="{colour}" points="{path}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        colour: str = "ink",
        size: int = 12,
        anchor: str = "start",
        bold: bool = False,
        turned: bool = False,
    ) -> None:
        """One line; (x, y) is on its base line. ``anchor`` is start, middle or end."""
        more = ' font-weight="600"' if bold else ""
        more += f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
        self._add(
            f'<text class="{colour}" x="{_n(x)}" y="{_n(y)}" font-size="{size}" '
            f'text-anchor="{anchor}"{more}>{escape(text)}</text>'
        )

    def svg(self, *, dark: bool | None = None) -> str:
        """The file's content; ``dark`` fixes the colours, None leaves them to the reader."""
        style = _rules(_DARK if dark else _LIGHT)
        if dark is None:
            style += "\n@media (prefers-color-scheme: dark) {\n" + _rules(_DARK) + "\n}"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img" '
                'aria-labelledby="title description">',
                f'<title id="title">{escape(self._title)}</title>',
                f'<desc id="description">{escape(self._description)}</desc>',
                f"<style>\ntext {{ font-family: {_FONT}; }}\n{style}\n</style>",
                f'<rect class="paper" width="{self.width}" height="{self.height}" rx="8"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )

    def _add(self, shape: str) -> None:
        self._shapes.append(shape)


def _rules(colours: dict[str, str]) -> str:
    fills = [f".{name} {{ fill: {value}; }}" for name, value in colours.items()]
    strokes = [
        f".stroke-{name} {{ fill: none; stroke: {value}; stroke-width: 1.2; }}"
        for name, value in colours.items()
    ]
    edge = f".edge {{ fill: none; stroke: {colours['dim']}; stroke-width: 1; }}"
    return "\n".join([*fills, *strokes, edge])


def _opacity(value: float) -> str:
    return "" if value == 1 else f' fill-opacity="{_n(value)}"'


def _n(value: float) -> str:
    """At most one digit after the point, two below 1 for opacities; no negative zero."""
    digits = 2 if abs(value) < 1 else 1
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
