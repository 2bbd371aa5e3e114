"""Plots predicted against real remaining work, one panel for each application.

Does not predict anything. matplotlib comes with the extra `plots`; its global state (pyplot) is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmsched_langgraph._belief.fit.evaluation import MIN_WORK_S, Guess, Guesses
from llmsched_langgraph._jobs.observed import Unit

_PANEL = 4.2  # inches
_UNITS = {Unit.SECONDS: "s in slots", Unit.TOKENS: "output tokens", Unit.TOOL_SECONDS: "s of tools"}


def write_guesses(measured: Sequence[Guesses], path: Path) -> None:
    """Plot the predictions of each application; the suffix of `path` sets the format.

    Raises:
        OSError: the file cannot be written.
    """
    with mpl.rc_context({"svg.hashsalt": "llmsched"}):
        figure = guesses_figure(measured)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=130, metadata=metadata)


def guesses_figure(measured: Sequence[Guesses]) -> Figure:
    """Return a scatter plot: a point for each moment of a job, real against predicted remaining work."""
    columns = min(3, len(measured))
    rows = ceil(len(measured) / columns)
    figure = Figure(figsize=(_PANEL * columns + 1.3, _PANEL * rows + 0.7), layout="constrained")
    figure.suptitle("Remaining work: predicted against real, held-out jobs", size=11)
    steps = sorted({guess.finished for own in measured for guess in own.guesses})
    colours = mpl.colormaps["viridis_r"].resampled(len(steps) + 1)  # the lightest is not used
    looks = {finished: colours(n + 1) for n, finished in enumerate(steps)}
    for place, (app, unit, own) in enumerate(measured, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(f"{app} ({len(own):,} moments)", size=11, weight="bold", loc="left")
        axes.set_xlabel(f"real remaining work ({_UNITS[unit]}), log scale")
        axes.set_ylabel("predicted, log scale")
        _scatter(axes, own, looks)
    handles = [
        mpl.lines.Line2D([], [], color=colour, marker="o", linestyle="", label=str(finished))
        for finished, colour in looks.items()
    ]
    figure.legend(
        handles=handles, title="finished\nstages", loc="outside right center", frameon=False, fontsize=9
    )
    return figure


def _scatter(
    axes: Axes, guesses: Sequence[Guess], looks: Mapping[int, tuple[float, float, float, float]]
) -> None:
    shown = [
        (max(guess.remaining, MIN_WORK_S), max(guess.predicted, MIN_WORK_S), guess.finished)
        for guess in guesses
    ]
    ends = [end for real, predicted, _ in shown for end in (real, predicted)] or [1.0]
    low, high = 10.0 ** floor(log10(min(ends))), 10.0 ** ceil(log10(max(ends) * 1.01))
    axes.plot([low, high], [low, high], color="#424242", linewidth=1, zorder=1)
    axes.scatter(
        [real for real, _, _ in shown],
        [predicted for _, predicted, _ in shown],
        c=[looks[finished] for _, _, finished in shown],
        s=12,
        alpha=0.55,
        linewidths=0,
        zorder=2,
    )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_axisbelow(True)
    axes.grid(color="#e0e0e0")
    axes.spines[["top", "right"]].set_visible(False)
