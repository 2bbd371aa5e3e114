"""Plots a comparison of policies, with a panel for each workload and the same policies in each panel.

Does not simulate anything: it reads only what `llmsched bench --json` writes. matplotlib comes with the
extra `plots`; its global state (pyplot) is not used, so that the caller's stays unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmsched_langgraph._views.palette import FOCUS, QUIET, REFERENCE, SERIES_COLOURS
from llmsched_langgraph.lab.bench_table import Entry

_PANEL = 6.2  # inches
_MARKERS = "os^DvPX<>"
_DASHES = ("-", "--", "-.")
_QUANTILES = {50: "o", 95: "^", 99: "s"}
_DIGITS = ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,))
"""Tick digits of a logarithmic axis, from dense to sparse."""


def write_figures(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Write each figure to a PNG and an SVG file; return the names without suffix.

    Raises:
        OSError: a file cannot be written.
    """
    names = []
    # The files must be reproducible: no date, and no random ids inside the SVG.
    with mpl.rc_context({"svg.hashsalt": "llmsched"}):
        for name, figure in figures(result):
            figure.savefig(folder / f"{name}.png", dpi=130)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            names.append(name)
    return names


def figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Yield each figure for which the result has data, with its name."""
    entries, focus, looks = result["summary"], result["meta"]["focus"], _looks(result)
    for own, suffix in _split(entries, "load", "jobs"):
        sheet = _Sheet(own, looks, focus)
        yield f"mean-jct{suffix}", sheet.means()
        yield f"reduction{suffix}", sheet.reductions()
        title = "JCT within which 50 %, 95 % and 99 % of the jobs were done"
        jct = sheet.quantiles(title, "JCT (s)", "p{}_jct_s", (50, 95, 99))
        yield f"jct-quantiles{suffix}", jct
        yield f"slowdown-by-size{suffix}", sheet.slowdowns()
        decision = sheet.quantiles(
            "Time that one scheduling decision takes", "decision (µs)", "decision_us_p{}", (50, 99)
        )
        yield f"decision-time{suffix}", decision
    for field, words in {"load": "offered load", "jobs": "number of jobs"}.items():
        if len({entry[field] for entry in entries}) > 1:
            for own, suffix in _split(entries, "jobs" if field == "load" else "load"):
                yield f"jct-over-{field}{suffix}", _Sheet(own, looks, focus).over(field, words)


def _split(entries: Sequence[Entry], *fields: str) -> Iterator[tuple[list[Entry], str]]:
    """Yield the entries with equal values of the fields, and a file suffix that names those values."""
    several = [field for field in fields if len({entry[field] for entry in entries}) > 1]
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault("".join(f"-{field}-{entry[field]:g}" for field in several), []).append(entry)
    for suffix, own in groups.items():
        yield own, suffix


@dataclass(frozen=True, slots=True)
class _Look:
    """Style of one policy: `bar` for figures that print its name, `line` for figures with a legend."""

    bar: Mapping[str, Any]
    line: Mapping[str, Any]


def _looks(result: Mapping[str, Any]) -> dict[str, _Look]:
    policies, focus = result["meta"]["policies"], result["meta"]["focus"]
    found: dict[str, _Look] = {}
    others = 0
    for name in dict.fromkeys(entry["policy"] for entry in result["summary"]):
        if name == focus:
            line: dict[str, Any] = {"color": FOCUS, "marker": _MARKERS[0], "linewidth": 2.8, "zorder": 3}
            found[name] = _Look({"color": FOCUS}, line)
        elif name not in policies:
            bar = {"facecolor": "white", "edgecolor": REFERENCE, "hatch": "////"}
            found[name] = _Look(bar, {"color": REFERENCE, "linestyle": ":", "linewidth": 2})
        else:
            line = {
                "color": SERIES_COLOURS[others % len(SERIES_COLOURS)],
                "marker": _MARKERS[1 + others % (len(_MARKERS) - 1)],
                "linestyle": _DASHES[others // len(SERIES_COLOURS) % len(_DASHES)],
                "markersize": max(4, 9 - others),  # under an equal curve, the edge is still seen
            }
            found[name] = _Look({"color": QUIET}, line)
            others += 1
    return found


class _Sheet:
    """Draws the figures of one set of entries, with a panel for each workload.

    Args:
        entries: the entries of all workloads and policies.
        looks: the style of each policy, by name.
        focus: the policy that the others are compared with.
    """

    def __init__(self, entries: Sequence[Entry], looks: Mapping[str, _Look], focus: str) -> None:
        self._looks = looks
        self._focus = focus
        self._panels: dict[str, dict[str, list[Entry]]] = {}
        for entry in entries:
            self._panels.setdefault(entry["workload"], {}).setdefault(entry["policy"], []).append(entry)
        same = {field: {entry[field] for entry in entries} for field in ("load", "slots", "jobs", "seeds")}
        self._about = ", ".join(f"{field} {min(of):g}" for field, of in same.items() if len(of) == 1)
        self._sure = any(entry["ci95_s"] is not None for entry in entries)

    def means(self) -> Figure:
        """Return the mean JCT of each policy, in seconds, with its 95 % interval."""
        figure, panels = self._named(
            "Mean job completion time (JCT) by policy",
            "mean JCT (s)",
            "; bars: 95 % confidence of the mean over seeds" * self._sure,
        )
        for axes, own in panels:
            ends = [entry["mean_jct_s"] + (entry["ci95_s"] or 0.0) for entry in own]
            for place, (entry, end) in enumerate(zip(own, ends, strict=True)):
                mean = entry["mean_jct_s"]
                axes.barh(place, mean, height=0.7, **self._looks[entry["policy"]].bar)
                if end > mean:
                    axes.errorbar(mean, place, xerr=end - mean, color="black", linewidth=1, capsize=3)
                axes.annotate(
                    f"{mean:,.1f}", (end, place), (5, 0), textcoords="offset points", va="center", size=9
                )
            axes.set_xlim(0, max(ends) * 1.18)
        return figure

    def reductions(self) -> Figure:
        """Return the reduction of the mean JCT by the focus policy, in %, with paired 95 % intervals."""
        figure, panels = self._named(
            f"Reduction of the mean JCT by {self._focus} against each other policy",
            "reduction of the mean JCT (%), below 0 it is longer",
            "; bars: 95 % confidence over paired seeds" * self._sure,
        )
        for axes, own in panels:
            (focus,) = (entry for entry in own if entry["policy"] == self._focus)
            axes.axvline(0, color=FOCUS, linewidth=2.8)
            for place, entry in enumerate(own):
                if entry is not focus:
                    half = (focus["vs_ci95"][entry["policy"]] or 0.0) * 100
                    mean = focus["vs"][entry["policy"]] * 100
                    axes.errorbar(mean, place, xerr=half, color=REFERENCE, marker="o", capsize=4)
                    axes.annotate(
                        f"{mean:.1f}",
                        (mean, place),
                        (0, 6),
                        textcoords="offset points",
                        ha="center",
                        size=8,
                        bbox={"color": "white", "alpha": 0.8, "pad": 0},
                    )
        return figure

    def quantiles(self, title: str, label: str, field: str, of: Sequence[int]) -> Figure:
        """Return quantiles of each policy on one line.

        Args:
            title: the title of the figure.
            label: the label of the horizontal axis.
            field: the entry's field, with `{}` in place of the quantile.
            of: the quantiles, in percent.
        """
        figure, panels = self._named(title, f"{label}, log scale")
        for axes, own in panels:
            for place, entry in enumerate(own):
                color = self._ink(entry["policy"])
                values = [entry[field.format(n)] for n in of]
                axes.hlines(place, values[0], values[-1], color=QUIET, linewidth=2, zorder=1)
                for n, value in zip(of, values, strict=True):
                    axes.plot(
                        value, place, _QUANTILES[n], color=color, label=f"p{n}", markersize=7, clip_on=False
                    )
            _log(axes, "x", [entry[field.format(n)] for entry in own for n in of])
        self._legend(figure, panels[0][0])
        return figure

    def slowdowns(self) -> Figure:
        """Return the slowdown of each policy by tenth of the jobs, ordered by work."""
        figure, panels = self._panels_by_policy(
            "Slowdown by size of the job: who pays?",
            "tenth of the jobs by work, 1 has the least",
            "slowdown (JCT / critical path), log scale",
        )
        for axes, lines in panels:
            for policy, (entry,) in lines.items():
                tenths = entry["slowdown_by_size"]
                axes.plot(range(1, len(tenths) + 1), tenths, label=policy, **self._looks[policy].line)
            axes.set_xticks(range(1, 1 + max(len(own[0]["slowdown_by_size"]) for own in lines.values())))
            _log(axes, "y", [x for (entry,) in lines.values() for x in entry["slowdown_by_size"]])
        self._legend(figure, panels[0][0])
        return figure

    def over(self, field: str, words: str) -> Figure:
        """Return the mean JCT of each policy, in seconds, over the field that varies."""
        figure, panels = self._panels_by_policy(
            f"Mean JCT over {words}",
            words + ", log scale" * (field == "jobs"),
            "mean JCT (s), log scale",
        )
        for axes, lines in panels:
            for policy, entries in lines.items():
                points = sorted((entry[field], entry["mean_jct_s"]) for entry in entries)
                axes.plot(*zip(*points, strict=True), label=policy, **self._looks[policy].line)
            if field == "jobs":
                axes.set_xscale("log")
                axes.minorticks_off()
            at = sorted({entry[field] for own in lines.values() for entry in own})
            axes.set_xticks(at, [f"{x:,g}" for x in at])
            _log(axes, "y", [entry["mean_jct_s"] for own in lines.values() for entry in own])
        self._legend(figure, panels[0][0])
        return figure

    def _ink(self, policy: str) -> str:
        return FOCUS if policy == self._focus else REFERENCE

    def _named(self, title: str, label: str, note: str = "") -> tuple[Figure, list[tuple[Axes, list[Entry]]]]:
        """Return panels with a row for each policy, labelled with its name."""
        height = 0.8 + 0.32 * max(map(len, self._panels.values()))
        figure, sheets = self._figure(title, note, height)
        found = []
        for axes, lines in sheets:
            axes.set_xlabel(label)
            axes.set_yticks(range(len(lines)), list(lines))
            for tick, policy in zip(axes.get_yticklabels(), lines, strict=True):
                tick.set(color=self._ink(policy), weight="bold" if policy == self._focus else "normal")
            axes.set_ylim(len(lines) - 0.5, -0.5)
            axes.grid(axis="x", color="#e0e0e0")
            found.append((axes, [own[0] for own in lines.values()]))
        return figure, found

    def _panels_by_policy(
        self, title: str, across: str, up: str
    ) -> tuple[Figure, list[tuple[Axes, dict[str, list[Entry]]]]]:
        """Return panels with a curve for each policy."""
        figure, panels = self._figure(title, "", 3.6)
        for axes, _ in panels:
            axes.set_xlabel(across)
            axes.set_ylabel(up)
            axes.grid(color="#e0e0e0")
        return figure, panels

    def _figure(
        self, title: str, note: str, height: float
    ) -> tuple[Figure, list[tuple[Axes, dict[str, list[Entry]]]]]:
        columns = min(2, len(self._panels))
        rows = -(-len(self._panels) // columns)
        figure = Figure(figsize=(_PANEL * columns + 1, height * rows + 0.9), layout="constrained")
        figure.suptitle(f"{title}\n{self._about}{note}", size=11)
        found = []
        for place, (workload, lines) in enumerate(self._panels.items(), 1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(workload, size=11, weight="bold", loc="left")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            found.append((axes, lines))
        return figure, found

    @staticmethod
    def _legend(figure: Figure, axes: Axes) -> None:
        """Add one legend for all panels, whose lines have the same labels."""
        handles = {str(handle.get_label()): handle for handle in axes.get_lines()}
        shown = {label: handle for label, handle in handles.items() if not label.startswith("_")}
        figure.legend(shown.values(), shown, loc="outside right center", frameon=False)


def _log(axes: Axes, way: Literal["x", "y"], values: Sequence[float]) -> None:
    """Make the axis logarithmic, from the last tick below the values to the first tick above them."""
    above = [value for value in values if value > 0]
    if not above:
        return
    powers = range(floor(log10(min(above))) - 1, floor(log10(max(above))) + 2)
    for digits in _DIGITS:
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        low = max(tick for tick in ticks if tick <= min(above))
        high = min(tick for tick in ticks if tick >= max(above) and tick > low)
        shown = [tick for tick in ticks if low <= tick <= high]
        if len(shown) <= 9:
            break
    axes.set(**{f"{way}scale": "log", f"{way}lim": (low, high), f"{way}ticks": shown})
    axes.set(**{f"{way}ticklabels": [f"{tick:,.10g}" for tick in shown]})
    axes.tick_params(axis=way, which="minor", length=0, labelbottom=False, labelleft=False)
