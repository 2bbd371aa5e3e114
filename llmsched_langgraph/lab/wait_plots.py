"""Plots the effect of the bound of waiting: the tail of the job completion times over their mean.

Does not simulate anything. matplotlib comes with the extra `plots`; its global state (pyplot) is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from llmsched_langgraph._views.palette import REFERENCE, SERIES_COLOURS


@dataclass(frozen=True, slots=True)
class Point:
    """One policy with one bound of waiting, on one workload. Each figure is a ratio to the same reference.

    Attributes:
        workload: the panel in which it stands.
        policy: the policy; its points are connected in their order.
        label: the bound; empty for a policy without a bound to choose.
        mean: mean JCT.
        p99: 99th percentile of the JCT.
        worst: worst slowdown, JCT over critical path.
    """

    workload: str
    policy: str
    label: str
    mean: float
    p99: float
    worst: float


def write_figure(points: Sequence[Point], reference: str, folder: Path) -> None:
    """Write the figure to `waits.png` and `waits.svg` in the folder.

    Args:
        points: the points of all workloads and policies.
        reference: name of the policy to which all figures are relative.
        folder: an existing folder.

    Raises:
        OSError: a file cannot be written.
    """
    # The files must be reproducible: no date, and no random ids inside the SVG.
    with mpl.rc_context({"svg.hashsalt": "llmsched"}):
        drawn = figure(points, reference)
        drawn.savefig(folder / "waits.png", dpi=130)
        drawn.savefig(folder / "waits.svg", metadata={"Date": None})


def figure(points: Sequence[Point], reference: str) -> Figure:
    """Return the figure: p99 and worst slowdown over the mean, a column of panels for each workload."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        panels.setdefault(point.workload, {}).setdefault(point.policy, []).append(point)
    drawn = Figure(figsize=(5.6 * len(panels) + 1, 8.0), layout="constrained")
    drawn.suptitle(f"What max_wait_s / overdue_every buys, as times {reference}", size=11)
    for column, (workload, lines) in enumerate(panels.items(), 1):
        for row, (field, words) in enumerate({"p99": "p99 JCT", "worst": "worst slowdown"}.items()):
            axes = drawn.add_subplot(2, len(panels), row * len(panels) + column)
            axes.set_title(workload if not row else "", size=11, weight="bold", loc="left")
            axes.set_xlabel("mean JCT")
            axes.set_ylabel(words)
            axes.grid(color="#e0e0e0")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            _draw(axes, lines, field)
            _log(axes)
    first = drawn.axes[0]
    drawn.legend(*first.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return drawn


def _draw(axes: Axes, lines: Mapping[str, Sequence[Point]], field: str) -> None:
    for number, (policy, own) in enumerate(lines.items()):
        alone = not any(point.label for point in own)
        color = REFERENCE if alone else SERIES_COLOURS[number % len(SERIES_COLOURS)]
        means, tails = [point.mean for point in own], [getattr(point, field) for point in own]
        axes.plot(means, tails, marker="D" if alone else "o", color=color, label=policy)
        # The bounds are the same on every curve, and curves lie close together: one of them has the labels.
        for point, mean, tail in zip(own, means, tails, strict=True) if not number else ():
            axes.annotate(point.label, (mean, tail), (5, 5), textcoords="offset points", size=7, color=color)


def _log(axes: Axes) -> None:
    """Make both axes logarithmic, with plain numbers: most bounds are close to 1, and some far from it."""
    for way, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        axes.set(**{f"{way}scale": "log"})
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(StrMethodFormatter("{x:.3g}"))
    axes.tick_params(which="minor", labelsize=7)
