"""Writes a picture as PNG.

Does not interpret the shapes. matplotlib comes with the extra `plots`; its global state (pyplot) is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from llmsched_langgraph._views.picture import Arrow, Box, Picture, Words, bends

PIXELS = 96
"""Picture pixels per inch."""

SHARP = 1.5
"""File pixels per picture pixel."""

MOST = 20_000
"""Largest length of the file's longer side, in pixels; a larger picture gets fewer file pixels."""

_POINTS = 72 / PIXELS * 0.93  # the font is wider than Helvetica


def write_png(picture: Picture, path: Path) -> None:
    """Write the picture to a PNG file.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(picture.width / PIXELS, picture.height / PIXELS))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.axis("off")
    for place, shape in enumerate(picture.shapes):
        match shape:
            case Box():
                axes.add_patch(_box(shape, place))
            case Arrow():
                axes.add_patch(_arrow(shape, place))
            case Words():
                axes.text(
                    shape.x,
                    shape.y,
                    shape.text.replace("$", r"\$"),
                    size=shape.size * _POINTS,
                    color=shape.color,
                    weight=shape.weight,
                    ha="center" if shape.anchor == "middle" else "left",
                    va="baseline",
                    zorder=place,
                )
    sharp = min(SHARP, MOST / max(picture.width, picture.height))
    figure.savefig(path, dpi=PIXELS * sharp, format="png")


def _box(shape: Box, place: int) -> Any:
    radius = min(shape.radius, shape.height / 2)
    return FancyBboxPatch(
        (shape.left, shape.top),
        shape.width,
        shape.height,
        boxstyle=f"round,pad=0,rounding_size={radius}",
        facecolor=shape.fill,
        edgecolor=shape.stroke,
        linestyle=(0, (4, 2.5)) if shape.dashed else "-",
        linewidth=1.1,
        zorder=place,
    )


def _arrow(shape: Arrow, place: int) -> Any:
    points, codes = [shape.points[0]], [Curve.MOVETO]
    for bend in bends(shape.points):
        points += bend
        codes += [Curve.CURVE4] * 3
    return FancyArrowPatch(
        path=Curve(points, codes),
        arrowstyle="-|>",
        mutation_scale=9,
        shrinkA=0,
        shrinkB=0,
        color=shape.stroke,
        fill=False,
        linewidth=1.1,
        zorder=place,
    )
