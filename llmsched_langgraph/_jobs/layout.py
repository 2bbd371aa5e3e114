"""Knows how the stage runs and calls of a job, as they were watched, become stages that wait for each other.

Does not know what a job is beside them, nor files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage, EndedStageRun, Kind

CODE_S = 0.1
"""Seconds for which a stage run that calls models must do something else at a time for that to count: what is
shorter is the work of Python, LangChain and the event loop."""

_CODE = " (code)"
"""Ends the name of a stage that is a node's own code."""


class Span(NamedTuple):
    """From when to when something went on in its job.

    `first` and `last` number its begin and its end among all that happened in the job: what had ended before
    another thing began may have been waited for by it, which the clock's seconds are too coarse to tell.
    """

    first: int
    last: int
    since_s: float
    until_s: float


class WatchedRun(NamedTuple):
    """A stage run, with when and within what it ran.

    Attributes:
        run: what it was.
        number: by which calls and other stage runs name it.
        around: number of the stage run that it was part of, if any.
        span: from when it was announced to when it was over. It may have waited for a thread at first: its
            `seconds` are the last ones.
    """

    run: EndedStageRun
    number: int
    around: int | None
    span: Span


class WatchedCall(NamedTuple):
    """A call, with when and within what it was made.

    Attributes:
        call: what it was.
        stage: its node's path, or the name that it went by.
        occurrence: which time that ran.
        within: number of the stage run that made it, if known.
        span: from when it was asked for to when it was over.
    """

    call: EndedCall
    stage: str
    occurrence: int
    within: int | None
    span: Span


def laid_out(runs: Sequence[WatchedRun], calls: Sequence[WatchedCall]) -> tuple[EndedStage, ...]:
    """The stages of a job, in the order of time; they name the stage runs by their places in `runs`.

    A stage run waited for those that had ended, in the same run of a graph, before it was announced: in
    LangGraph that is all of the superstep before. So a stage's depth is its superstep. A graph that a node
    runs stands in the place of the node, a call that a node makes after another one waits for that, and
    where a node that calls models does something else for `CODE_S` or longer, that is a tool stage
    `NODE (code)`. Seconds of calls are those in the slot, without the wait for it.
    """
    places = {watched.number: place for place, watched in enumerate(runs)}
    within: dict[int | None, list[_Item]] = {}
    for place, watched in enumerate(runs):
        around = None if watched.around is None else places.get(watched.around)
        within.setdefault(around, []).append(_Item(place, watched.run.name, *watched.span))
    for call in calls:
        by = None if call.within is None else places.get(call.within)
        within.setdefault(by, []).append(_Item(call, call.stage, *call.span))
    layout = _Layout(runs, within, _long_starts(runs, within))
    layout.lay(None, within.get(None, ()), ())
    return layout.stages()


def without_code(job: EndedJob) -> EndedJob:
    """The job without stages of nodes' own code, as a live scheduler learns from it, which sees nodes.

    What waited for such a stage waits for what that had waited for. Those stages need no slots, and whether a
    run has them depends on how busy the machine was: they tell nothing of the application.
    """
    kept: list[EndedStage] = []
    ends: list[tuple[int, ...]] = []
    for stage in job.stages:
        deps = _union([ends[dep] for dep in stage.deps])
        if stage.kind == "tool" and stage.name.endswith(_CODE):
            ends.append(deps)
        else:
            ends.append((len(kept),))
            kept.append(replace(stage, deps=deps))
    return replace(job, stages=tuple(kept))


class _Item(NamedTuple):
    """What went on in a stage run, or in the job itself."""

    what: int | WatchedCall | float  # place of a stage run, a call, or seconds of its own code
    name: str
    first: float
    last: float
    since_s: float
    until_s: float


_Within = Mapping[int | None, Sequence[_Item]]
"""By place of a stage run what went on in it; under None, what went on in no stage run that is known."""


def _begin_s(watched: WatchedRun) -> float:
    """When it had its thread."""
    return watched.span.until_s - watched.run.seconds


def _long_starts(runs: Iterable[WatchedRun], within: _Within) -> frozenset[tuple[str, int]]:
    """Where a run's own code took long before its first call: in all that run side by side, or in none.

    Otherwise calls that belong together would stand at different depths.
    """
    return frozenset(
        watched.run[:2]
        for place, watched in enumerate(runs)
        if (items := within.get(place)) and min(item.since_s for item in items) - _begin_s(watched) >= CODE_S
    )


def _with_code(watched: WatchedRun, items: Sequence[_Item], *, at_first: bool) -> list[_Item]:
    """The items, and between them the times in which nothing but the stage run's own code can have run."""
    name = watched.run.name + _CODE
    found = list(items)

    def code(since_s: float, until_s: float, after: float) -> None:
        # Numbered between what had ended and whatever comes next.
        found.append(_Item(max(until_s - since_s, 0.0), name, after + 0.25, after + 0.5, since_s, until_s))

    done_s, latest = _begin_s(watched), float(watched.span.first)
    for nth, item in enumerate(sorted(items, key=lambda item: item.since_s)):
        if item.since_s - done_s >= CODE_S or (not nth and at_first):
            code(done_s, item.since_s, latest)
        done_s, latest = max(done_s, item.until_s), max(latest, item.last)
    if watched.span.until_s - done_s >= CODE_S:
        code(done_s, watched.span.until_s, latest)
    return found


class _Row(NamedTuple):
    """A stage under way; its `deps` are numbers of rows."""

    first: float
    name: str
    kind: Kind
    deps: tuple[int, ...]
    calls: list[EndedCall]
    run: int | None
    tool: str | None = None
    occurrence: int | None = None


@dataclass(slots=True)
class _Layout:
    """Puts what went on into stages, each behind those that it waited for.

    Stages that waited for the same ones share one tuple, so that wide steps do not take a square of time.
    """

    runs: Sequence[WatchedRun]
    within: _Within
    long_starts: frozenset[tuple[str, int]]
    _rows: list[_Row] = field(default_factory=list)

    def stages(self) -> tuple[EndedStage, ...]:
        """All that were added, in the order of time."""
        order = sorted(range(len(self._rows)), key=lambda number: self._rows[number].first)
        places = {number: place for place, number in enumerate(order)}
        shared: dict[int, tuple[int, ...]] = {}  # by identity of the rows' tuples
        made = []
        for number in order:
            _, name, kind, deps, calls, run, tool, occurrence = self._rows[number]
            if id(deps) not in shared:
                shared[id(deps)] = tuple(sorted([places[dep] for dep in deps]))
            made.append(
                EndedStage(
                    name=name,
                    kind=kind,
                    deps=shared[id(deps)],
                    calls=tuple(calls),
                    tool=tool,
                    run=run,
                    occurrence=occurrence,
                )
            )
        return tuple(made)

    def lay(self, run: int | None, items: Sequence[_Item], before: tuple[int, ...]) -> tuple[int, ...]:
        """Add the stages of these items, which may begin when `before` are over; gives the last of them."""
        if len(items) == 1:
            return self._put(run, items[0], before)
        by_last = sorted(items, key=lambda item: item.last)
        lasts = [item.last for item in by_last]
        firsts = sorted([item.first for item in items])
        newest = list(accumulate([item.first for item in by_last], max))
        ends: list[tuple[int, ...]] = [()] * len(by_last)
        waited: dict[int, tuple[int, ...]] = {0: before}  # by how many were over
        together: dict[tuple[str, int, int, int], tuple[int, ...]] = {}
        for at in sorted(range(len(by_last)), key=lambda at: by_last[at].first):
            item = by_last[at]
            over = bisect_left(lasts, item.first)
            if over not in waited:
                # Of those that were over, the others were over before one of these began.
                waited[over] = _union(ends[bisect_right(lasts, newest[over - 1]) : over])
            if isinstance(item.what, WatchedCall):
                # Alike in all that came before and after: one stage of calls side by side.
                alike = (item.name, item.what.occurrence, over, bisect_right(firsts, item.last))
                if alike in together:
                    self._rows[together[alike][0]].calls.append(item.what.call)
                else:
                    together[alike] = self._put(run, item, waited[over])
                ends[at] = together[alike]
            else:
                ends[at] = self._put(run, item, waited[over])
        return _union(ends[bisect_right(lasts, firsts[-1]) :]) if items else before

    def _put(self, run: int | None, item: _Item, deps: tuple[int, ...]) -> tuple[int, ...]:
        """Add the stages of one item; gives the last of them."""
        first, name = item.first, item.name
        match item.what:
            case WatchedCall(call, _, occurrence):
                tool, known = (None, occurrence) if run is None else (self.runs[run].run.tool, None)
                return self._add(_Row(first, name, "llm", deps, [call], run, tool, known))
            case int(place):
                watched, items = self.runs[place], self.within.get(place, ())
                if items:
                    at_first = watched.run[:2] in self.long_starts
                    return self.lay(place, _with_code(watched, items, at_first=at_first), deps)
                used = EndedCall(None, None, max(watched.run.seconds, 0.0))
                return self._add(_Row(first, name, "tool", deps, [used], place, watched.run.tool))
            case seconds:
                return self._add(_Row(first, name, "tool", deps, [EndedCall(None, None, seconds)], run))

    def _add(self, row: _Row) -> tuple[int, ...]:
        self._rows.append(row)
        return (len(self._rows) - 1,)


def _union(ends: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if len(ends) == 1:
        return ends[0]
    return tuple(sorted({stage for each in ends for stage in each}))
