"""Defines a picture as shapes, in pixels from the top left, and writes it as SVG.

Does not interpret the shapes, and writes no other format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Literal

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with rounded corners."""

    left: float
    top: float
    width: float
    height: float
    fill: str
    stroke: str
    radius: float = 3
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """A curve through points, horizontal at each of them, with an arrowhead at the last."""

    points: tuple[Point, ...]
    stroke: str


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text that starts at the point or is centred on it."""

    x: float
    y: float
    text: str
    size: int = 13
    color: str = "#111"
    anchor: Literal["start", "middle"] = "start"
    weight: Literal["normal", "bold"] = "normal"


@dataclass(frozen=True, slots=True)
class Picture:
    """Contains shapes on a white background; later shapes cover earlier ones."""

    width: float
    height: float
    shapes: tuple[Box | Arrow | Words, ...]


def picture_svg(picture: Picture) -> str:
    """Return the picture as a self-contained SVG document."""
    parts = [*svg_opening(picture.width, picture.height)]
    for shape in picture.shapes:
        match shape:
            case Box():
                look = f'fill="{shape.fill}" stroke="{shape.stroke}" stroke-width="1.4"'
                look += ' stroke-dasharray="5 3"' * shape.dashed
                parts.append(
                    svg_box(shape.left, shape.top, shape.width, shape.radius, look, shape.height),
                )
            case Arrow():
                parts.append(svg_arrow(shape.points, f'stroke="{shape.stroke}"'))
            case Words():
                parts.append(
                    svg_text(
                        shape.x,
                        shape.y,
                        shape.text,
                        size=shape.size,
                        color=shape.color,
                        anchor=shape.anchor,
                        weight=shape.weight,
                    )
                )
    return "\n".join((*parts, "</svg>"))


def write_svg(picture: Picture, path: Path) -> None:
    """Write the picture to an SVG file.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(picture_svg(picture) + "\n", encoding="utf-8")


def bends(points: Sequence[Point]) -> Iterator[tuple[Point, Point, Point]]:
    """Yield the two control points and the end of each cubic Bézier segment of an arrow."""
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        yield (middle, y0), (middle, y1), (x1, y1)


def svg_opening(width: float, height: float) -> Iterator[str]:
    """Yield the first lines of the document, up to the white background."""
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif">'
    )
    yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" '
    yield 'orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" fill="context-stroke"/></marker></defs>'
    yield f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>'


def svg_box(left: float, top: float, width: float, radius: float, look: str, height: float) -> str:
    """Return a rectangle; `look` holds its other attributes."""
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" rx="{radius}" {look}/>'


def svg_arrow(points: Sequence[Point], look: str) -> str:
    """Return an arrow; `look` holds its other attributes."""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for bend in bends(points):
        path += " C" + " ".join(f"{x:.1f},{y:.1f}" for x, y in bend)
    return f'<path d="{path}" fill="none" {look} stroke-width="1.4" marker-end="url(#tip)"/>'


def svg_text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    color: str = "#111",
    anchor: str = "start",
    weight: str = "normal",
) -> str:
    """Return a line of text, with its characters escaped."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
