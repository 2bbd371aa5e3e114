"""Draws an application as one self-contained SVG.

Does not place the nodes: `layout` does. Regular stages are grey boxes, LLM stages are blue and round,
dynamic stages are orange stacks. An orange dashed arrow leads from a planner to each stage that its plan
decides. A stage that runs inside a dynamic stage is underlined in orange. A loop has a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from llmsched_langgraph._application.application import Application, Kind, Stage
from llmsched_langgraph._views.layout import Layout, Place, layered
from llmsched_langgraph._views.palette import FILL, STROKE
from llmsched_langgraph._views.picture import svg_arrow, svg_box, svg_opening, svg_text

HEIGHT, ROW, GAP, MARGIN = 40, 74, 64, 36
CHAR = 7.3  # width of a character of the labels, in pixels
MAX_LABEL = 30
_INSIDE = f'height="3" rx="1.5" fill="{STROKE[Kind.DYNAMIC]}"'


def svg(application: Application) -> str:
    """Return the unrolled DAG, drawn from left to right."""
    stages = application.stages
    plans = {(stage.planned_by, stage.id) for stage in stages if stage.planned_by is not None}
    place = {stage.id: number for number, stage in enumerate(stages)}
    drawn = [*application.stage_edges]
    drawn += [(str(planner), planned) for planner, planned in plans if place[str(planner)] < place[planned]]
    layout = layered([stage.id for stage in stages], drawn)
    sheet = _Sheet(stages, layout)
    frames = list(_loops(application))
    inside = _inside_dynamic(application)
    parts = [
        *sheet.head(application, len(frames)),
        *(sheet.frame(number, *frame) for number, frame in enumerate(frames)),
        *(sheet.edge(way, plan=edge in plans) for edge, way in layout.ways.items()),
        *(part for stage in stages for part in sheet.stage(stage, inside=stage.node in inside)),
        *sheet.legend(),
        "</svg>",
    ]
    return "\n".join(parts)


def _loops(application: Application) -> Iterator[tuple[str, str, list[str]]]:
    for loop, rounds in zip(application.loops, application.rounds, strict=True):
        members = [stage.id for stage in application.stages if stage.node in set(loop)]
        yield f"loop: {rounds} rounds, then the rest (+)", "#90a4ae", members


def _inside_dynamic(application: Application) -> set[str]:
    """Return the paths of the nodes that run inside a dynamic node."""
    dynamic = tuple(f"{node.path}/" for node in application.nodes if node.kind is Kind.DYNAMIC)
    return {node.path for node in application.nodes if node.path.startswith(dynamic)} if dynamic else set()


class _Sheet:
    """Maps the layers and rows of a layout to pixels, and writes the SVG elements."""

    def __init__(self, stages: Iterable[Stage], layout: Layout) -> None:
        self._layout = layout
        self._width = [90.0] * (1 + max((layer for layer, _ in layout.places.values()), default=0))
        for stage in stages:
            layer = layout.places[stage.id][0]
            self._width[layer] = max(self._width[layer], len(_label(stage)) * CHAR + 34)
        self._left = [MARGIN + sum(self._width[:n]) + GAP * n for n in range(len(self._width))]
        self._right = self._left[-1] + self._width[-1] + MARGIN
        self._top = 96.0

    def head(self, application: Application, frames: int) -> Iterator[str]:
        self._top = 76.0 + 18 * frames
        height = self._top + ROW * max(self._layout.rows, 1) + 54
        width = max(self._right, 720)
        yield from svg_opening(width, height)
        yield svg_text(MARGIN, 34, application.name, size=18, weight="bold")
        loops = len(application.loops)
        yield svg_text(
            MARGIN,
            54,
            f"{len(application.nodes)} nodes, {len(application.stages)} stages, "
            f"{loops} loop{'' if loops == 1 else 's'}, fingerprint {application.fingerprint}",
            size=11,
            color="#607d8b",
        )

    def _centre(self, place: Place) -> tuple[float, float]:
        layer, row = place
        return self._left[layer] + self._width[layer] / 2, self._top + row * ROW + ROW / 2

    def stage(self, stage: Stage, *, inside: bool) -> Iterator[str]:
        layer, _ = place = self._layout.places[stage.id]
        (x, y), width = self._centre(place), self._width[layer]
        left, top = x - width / 2, y - HEIGHT / 2
        look = f'fill="{FILL[stage.kind]}" stroke="{STROKE[stage.kind]}"'
        radius = {Kind.REGULAR: 3, Kind.LLM: HEIGHT // 2, Kind.DYNAMIC: 8}[stage.kind]
        yield f"<g><title>{escape(f'{stage.id}: {stage.kind.value}. {stage.reason}')}</title>"
        for back in (8, 4) if stage.kind is Kind.DYNAMIC else ():
            yield svg_box(left + back, top - back, width, radius, look, HEIGHT)
        dashes = ' stroke-dasharray="6 3"' if stage.kind is Kind.DYNAMIC else ""
        yield svg_box(left, top, width, radius, look + dashes + ' stroke-width="1.6"', HEIGHT)
        if stage.tail:
            inner = f'fill="none" stroke="{STROKE[stage.kind]}"'
            yield svg_box(left + 4, top + 4, width - 8, max(radius - 4, 1), inner, HEIGHT - 8)
        if inside:
            yield f'<rect x="{left + 14:.1f}" y="{y + 13:.1f}" width="{width - 28:.1f}" {_INSIDE}/>'
        yield svg_text(x, y + 4.5, _label(stage), anchor="middle") + "</g>"

    def edge(self, way: tuple[Place, ...], *, plan: bool) -> str:
        points = [self._centre(place) for place in way]
        (x, y), (last_x, last_y) = points[0], points[-1]
        points[0] = (x + self._width[way[0][0]] / 2, y)
        points[-1] = (last_x - self._width[way[-1][0]] / 2 - 1, last_y)
        look = f'stroke="{STROKE[Kind.DYNAMIC]}" stroke-dasharray="5 4"' if plan else 'stroke="#90a4ae"'
        return svg_arrow(points, look)

    def frame(self, number: int, caption: str, colour: str, members: list[str]) -> str:
        places = [self._layout.places[member] for member in members]
        layers, rows = [layer for layer, _ in places], [row for _, row in places]
        # Each frame is larger than the one before it, so that no frame hides another.
        pad = 10 + 5 * number
        left, right = (
            self._left[min(layers)] - pad,
            self._left[max(layers)] + self._width[max(layers)] + pad + 8,
        )
        top = self._top + min(rows) * ROW + 4 - pad / 2 - 12
        bottom = self._top + max(rows) * ROW + ROW - 6 + pad / 2
        return (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
            f'rx="10" fill="{colour}" fill-opacity="0.07" stroke="{colour}" stroke-dasharray="2 4"/>'
            + svg_text(left + 10, top + 13, caption, size=10, color="#546e7a")
        )

    def legend(self) -> Iterator[str]:
        y = self._top + ROW * max(self._layout.rows, 1) + 26
        x = float(MARGIN)
        for kind, words in (
            (Kind.REGULAR, "regular: no LLM"),
            (Kind.LLM, "LLM"),
            (Kind.DYNAMIC, "dynamic: decided by a plan"),
        ):
            dashes = ' stroke-dasharray="6 3"' if kind is Kind.DYNAMIC else ""
            look = f'fill="{FILL[kind]}" stroke="{STROKE[kind]}"{dashes}'
            yield svg_box(x, y - 9, 26, 9 if kind is Kind.LLM else 3, look, 18)
            yield svg_text(x + 34, y + 4, words, size=11, color="#455a64")
            x += 60 + len(words) * 6.2
        yield f'<rect x="{x:.1f}" y="{y - 1:.1f}" width="26" {_INSIDE}/>'
        yield svg_text(x + 34, y + 4, "runs inside a dynamic stage", size=11, color="#455a64")


def _label(stage: Stage) -> str:
    return stage.id if len(stage.id) <= MAX_LABEL else "…" + stage.id[1 - MAX_LABEL :]
