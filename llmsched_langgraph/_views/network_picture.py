"""Draws the Bayesian network of an application: a box for each variable, an arrow for each edge.

Does not learn the network and writes no files. Connected variables stand from left to right, parents before
children; variables without edges are below them.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched_langgraph._application.application import Application, Kind
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph._views.layout import layered
from llmsched_langgraph._views.palette import FILL, STROKE
from llmsched_langgraph._views.picture import Arrow, Box, Picture, Point, Words

HEIGHT, ROW, GAP, MARGIN, TOP = 50, 78, 70, 36, 76
CHAR = 7.0  # width of a character of the labels, in pixels
MAX_LABEL = 44
MIN_WIDTH = 940
_QUIET = "#607d8b"
_EDGE = "#90a4ae"
_ABOUT_JOB = ("white", "#90a4ae")
_LEGEND = (
    (FILL[Kind.LLM], STROKE[Kind.LLM], "work of an LLM stage"),
    (FILL[Kind.DYNAMIC], STROKE[Kind.DYNAMIC], "of a dynamic stage"),
    (FILL[Kind.REGULAR], STROKE[Kind.REGULAR], "of a tool or other stage"),
    (*_ABOUT_JOB, "other quantities"),
)


def network_picture(application: Application, model: ApplicationModel) -> Picture:
    """Return the picture of a model's network.

    Args:
        application: the application of the model, with the stage kinds that its runs showed.
        model: the learned model.
    """
    sheet = _Sheet(application, model)
    shapes = (*sheet.edges(), *sheet.boxes(), *sheet.legend())
    return Picture(sheet.width, sheet.height, (*sheet.head(), *shapes))


class _Sheet:
    """Places the variables, in pixels, and yields the shapes of the picture."""

    def __init__(self, application: Application, model: ApplicationModel) -> None:
        self._application, self._model = application, model
        parents = model.network.parents
        edges = [(str(parent), str(child)) for child, own in enumerate(parents) for parent in own]
        joined = {end for edge in edges for end in edge}
        numbers = [str(i) for i in range(len(model.columns))]
        self._layout = layered([number for number in numbers if number in joined], edges)
        self._lines = {number: self._label(int(number)) for number in numbers}
        widths = {number: max(map(len, lines)) * CHAR + 26 for number, lines in self._lines.items()}
        layers = [90.0] * (1 + max((layer for layer, _ in self._layout.places.values()), default=-1))
        for number, (layer, _) in self._layout.places.items():
            layers[layer] = max(layers[layer], widths[number])
        left = [MARGIN + sum(layers[:n]) + GAP * n for n in range(len(layers))]
        self.width = max(MIN_WIDTH, left[-1] + layers[-1] + MARGIN if layers else 0)
        self._boxes: dict[str, tuple[float, float, float]] = {}  # left end, middle of the height, width
        for number, (layer, row) in self._layout.places.items():
            self._boxes[number] = left[layer], TOP + row * ROW + ROW / 2, layers[layer]
        self._left, self._widths = left, layers
        self._alone_top = float(TOP + ROW * self._layout.rows)
        alone = [number for number in numbers if number not in joined]
        bottom = self._alone_top
        if alone:
            bottom = self._place_alone(alone, widths, bottom + (28 if joined else 0))
        self._has_alone = bool(alone) and bool(joined)
        self.height = bottom + 52

    def _place_alone(self, alone: list[str], widths: dict[str, float], top: float) -> float:
        """Place the variables without edges in rows; return the y of their lower end."""
        x, y = float(MARGIN), top
        for number in alone:
            if x > MARGIN and x + widths[number] > self.width - MARGIN:
                x, y = float(MARGIN), y + ROW - 12
            self._boxes[number] = x, y + ROW / 2, widths[number]
            x += widths[number] + 18
        return y + ROW

    def head(self) -> Iterator[Words]:
        model = self._model
        edges = sum(map(len, model.network.parents))
        yield Words(MARGIN, 34, self._application.name, size=18, weight="bold")
        yield Words(
            MARGIN,
            54,
            f"learned from {_counted(model.jobs, 'job', 'jobs')}: "
            f"{_counted(len(model.columns), 'quantity', 'quantities')}, {_counted(edges, 'edge', 'edges')}; "
            f"fingerprint {self._application.fingerprint}",
            size=11,
            color=_QUIET,
        )
        if self._has_alone:
            words = "independent of all others"
            yield Words(MARGIN, self._alone_top + 26, words, size=11, color=_QUIET)

    def edges(self) -> Iterator[Arrow]:
        for way in self._layout.ways.values():
            points: list[Point] = []
            for layer, row in way:
                x, y = self._left[layer], TOP + row * ROW + ROW / 2
                points += [(x, y), (x + self._widths[layer], y)]
            yield Arrow(((points[1]), *points[2:-2], (points[-2][0] - 1, points[-2][1])), _EDGE)

    def boxes(self) -> Iterator[Box | Words]:
        for number, (left, y, width) in self._boxes.items():
            column = self._model.columns[int(number)]
            fill, stroke = self._colours(column)
            radius = 16 if column.counts else 3
            yield Box(
                left,
                y - HEIGHT / 2,
                width,
                HEIGHT,
                fill=fill,
                stroke=stroke,
                radius=radius,
                dashed=not column.counts,
            )
            name, figures = self._lines[number]
            yield Words(left + width / 2, y - 4, name, anchor="middle")
            yield Words(left + width / 2, y + 14, figures, size=11, color="#455a64", anchor="middle")

    def legend(self) -> Iterator[Box | Words]:
        x, y = float(MARGIN), self.height - 26
        for fill, stroke, words in _LEGEND:
            other = (fill, stroke) == _ABOUT_JOB
            yield Box(x, y - 9, 26, 18, fill=fill, stroke=stroke, radius=3 if other else 9, dashed=other)
            yield Words(x + 34, y + 4, words, size=11, color="#455a64")
            x += 60 + len(words) * 6.2
        yield Words(x, y + 4, "arrow: direct dependence", size=11, color="#455a64")

    def _colours(self, column: Column) -> tuple[str, str]:
        if not column.counts:
            return _ABOUT_JOB
        node = self._application.by_path.get(column.node)
        kind = Kind.REGULAR if node is None else node.kind
        return FILL[kind], STROKE[kind]

    def _label(self, number: int) -> tuple[str, str]:
        column, bins = self._model.columns[number], self._model.bins[number]
        name = column.words
        name = name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…"
        return name, f"mean {_mean(column, bins, self._model.unit)}, in {_share(bins)} of jobs"


def _mean(column: Column, bins: Bins, unit: Unit) -> str:
    amount = f"{bins.mean:,.0f}" if bins.mean >= 100 else f"{bins.mean:.2g}"
    seconds = unit is not Unit.TOKENS and (column.counts or column.quantity is Quantity.TOTAL)
    return f"{amount} s" if seconds else amount


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _share(bins: Bins) -> str:
    count = sum(own.count for own in bins.bins)
    share = 100 * count / max(count + bins.absent, 1)
    return f"{share:.0f} %" if share >= 1 or not share else "< 1 %"
