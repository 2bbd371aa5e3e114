"""Converts the watched stage runs and calls of a job to stages with dependencies.

Does not convert the other properties of a job, and opens no files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage, EndedStageRun, Kind
from llmsched_langgraph._jobs.stages import Ended, Lag

CODE_S = 0.1
"""Minimum seconds of a node's own code to become a stage; shorter code is framework overhead."""

_CODE = " (code)"
"""Suffix of the name of a stage that is a node's own code."""


class Span(NamedTuple):
    """The interval of a stage run or call.

    `first` and `last` number its begin and its end among the job's events. They decide whether one item ended
    before another began; the resolution of the clock is too coarse for that.
    """

    first: int
    last: int
    since_s: float
    until_s: float


class WatchedRun(NamedTuple):
    """A stage run with its interval and its parent.

    Attributes:
        run: the record of the stage run.
        number: its number, by which calls and other stage runs refer to it.
        around: number of the stage run that contains it; None at the top level.
        span: from its announcement to its end. It may start with a wait for a thread.
        began_s: begin of its execution, in seconds of the clock.
        lags: the intervals in which it waited for its event loop.
    """

    run: EndedStageRun
    number: int
    around: int | None
    span: Span
    began_s: float
    lags: tuple[Lag, ...] = ()


class WatchedCall(NamedTuple):
    """A call with its interval and its stage run.

    Attributes:
        call: the record of the call.
        stage: its node's path, or its own stage name if it was made outside any watched stage.
        occurrence: the occurrence of that stage.
        within: number of the stage run that made it; None if unknown.
        span: from its request to its end.
    """

    call: EndedCall
    stage: str
    occurrence: int
    within: int | None
    span: Span


def laid_out(runs: Sequence[WatchedRun], calls: Sequence[WatchedCall]) -> tuple[EndedStage, ...]:
    """Return the stages of a job in order of time. `EndedStage.run` is an index in `runs`.

    A stage run depends on the stage runs of the same graph run that had ended before its announcement. In
    LangGraph these are all of the previous superstep, so a stage's depth is its superstep. The stages of a
    graph that a node runs replace the node's; what it begins after its node has ended stands beside
    the later nodes. A call depends on the earlier calls of its node that had ended. Own code of `CODE_S`
    or longer in a node that calls models is a tool stage `NODE (code)`: the time besides its calls, without
    the lag of its event loop (`_adapter/steps.py` measures the lag). Seconds of calls are in the slot,
    without the wait.
    """
    places = {watched.number: place for place, watched in enumerate(runs)}
    within: dict[int | None, list[_Item]] = {}
    for place, watched in enumerate(runs):
        around = _around(watched, runs, places)
        within.setdefault(around, []).append(_Item(place, watched.run.name, *watched.span))
    for call in calls:
        by = None if call.within is None else places.get(call.within)
        within.setdefault(by, []).append(_Item(call, call.stage, *call.span))
    layout = _Layout(runs, within, _long_starts(runs, within))
    layout.lay(None, within.get(None, ()), ())
    return layout.stages()


def without_code(job: EndedJob) -> EndedJob:
    """Return the job without the stages of nodes' own code, as a live scheduler learns from it.

    A dependency on such a stage is replaced by the stage's own dependencies. These stages need no slots, and
    whether a run has them depends on the load of the machine, so they carry no information on the
    application.
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
    """A stage run, a call or own code, inside a stage run or at the top level of the job."""

    what: int | WatchedCall | float  # index of a stage run, a call, or seconds of own code
    name: str
    first: float
    last: float
    since_s: float
    until_s: float


_Within = Mapping[int | None, Sequence[_Item]]
"""The items inside each stage run, by its index; None for those in no known stage run."""


def _around(watched: WatchedRun, runs: Sequence[WatchedRun], places: Mapping[int, int]) -> int | None:
    """Return the index of the innermost stage run that contains this one and had not ended when it began.

    A node's background task may run a graph on when the node has ended.
    """
    around = watched.around
    while around is not None and (place := places.get(around)) is not None:
        if watched.span.first < runs[place].span.last:
            return place
        around = runs[place].around
    return None


def own_s(ended: Ended, alone: bool) -> float:
    """Return the duration of a stage run without the lag of its event loop.

    Args:
        ended: the end of the stage run.
        alone: whether it contains neither calls nor stage runs; what depends on them (`Lag.around`) is no lag
            then.
    """
    lag_s = sum(lag.until_s - lag.since_s for lag in ended.lags if lag.around is None or not alone)
    return max(ended.seconds - lag_s, 0.0)


class _Lags:
    """The lag of a stage run, given the items inside it."""

    def __init__(self, watched: WatchedRun, items: Sequence[_Item]) -> None:
        self._lags = [
            lag
            for lag in watched.lags
            if lag.around is None
            or any(item.since_s < lag.around[1] and item.until_s > lag.around[0] for item in items)
        ]

    def own_s(self, since_s: float, until_s: float) -> float:
        """Return the length of the interval without lag, in seconds."""
        lag_s = sum(max(min(lag.until_s, until_s) - max(lag.since_s, since_s), 0.0) for lag in self._lags)
        return max(until_s - since_s - lag_s, 0.0)


def _long_starts(runs: Iterable[WatchedRun], within: _Within) -> frozenset[tuple[str, int]]:
    """Return the stage occurrences with `CODE_S` or more of own code before a run's first call.

    All parallel runs of such an occurrence get a code stage, to keep their calls at equal depths.
    """
    return frozenset(
        watched.run[:2]
        for place, watched in enumerate(runs)
        if (items := within.get(place))
        and _Lags(watched, items).own_s(watched.began_s, min(item.since_s for item in items)) >= CODE_S
    )


def _with_code(watched: WatchedRun, items: Sequence[_Item], *, at_first: bool) -> list[_Item]:
    """Return the items, and code stages for the gaps in which only own code can have run."""
    name = watched.run.name + _CODE
    found, lags = list(items), _Lags(watched, items)

    def code(since_s: float, until_s: float, after: float, *, always: bool = False) -> None:
        seconds = lags.own_s(since_s, until_s)
        if seconds >= CODE_S or always:
            # Numbered after the items that had ended and before the next one.
            found.append(_Item(seconds, name, after + 0.25, after + 0.5, since_s, until_s))

    done_s, latest = watched.began_s, float(watched.span.first)
    for nth, item in enumerate(sorted(items, key=lambda item: item.since_s)):
        code(done_s, item.since_s, latest, always=not nth and at_first)
        done_s, latest = max(done_s, item.until_s), max(latest, item.last)
    code(done_s, watched.span.until_s, latest)
    return found


class _Row(NamedTuple):
    """A stage in preparation; `deps` are row numbers."""

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
    """Converts a job's stage runs, calls and gaps of own code to stages, in dependency order.

    Stages with equal dependencies share one tuple: otherwise wide supersteps would take quadratic time.
    """

    runs: Sequence[WatchedRun]
    within: _Within
    long_starts: frozenset[tuple[str, int]]
    _rows: list[_Row] = field(default_factory=list)

    def stages(self) -> tuple[EndedStage, ...]:
        """Return all added stages in order of time."""
        order = sorted(range(len(self._rows)), key=lambda number: self._rows[number].first)
        places = {number: place for place, number in enumerate(order)}
        shared: dict[int, tuple[int, ...]] = {}  # by the id of the rows' tuples
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
        """Add the stages of these items, which start after `before`; return the last rows."""
        if len(items) == 1:
            return self._put(run, items[0], before)
        by_last = sorted(items, key=lambda item: item.last)
        lasts = [item.last for item in by_last]
        firsts = sorted([item.first for item in items])
        newest = list(accumulate([item.first for item in by_last], max))
        ends: list[tuple[int, ...]] = [()] * len(by_last)
        waited: dict[int, tuple[int, ...]] = {0: before}  # dependencies by number of items that had ended
        together: dict[tuple[str, int, int, int], tuple[int, ...]] = {}
        for at in sorted(range(len(by_last)), key=lambda at: by_last[at].first):
            item = by_last[at]
            over = bisect_left(lasts, item.first)
            if over not in waited:
                # An item that had ended before the newest of these began is a dependency of that one.
                waited[over] = _union(ends[bisect_right(lasts, newest[over - 1]) : over])
            if isinstance(item.what, WatchedCall):
                # Calls with equal predecessors and successors form one stage of parallel calls.
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
        """Add the stages of one item; return the last rows."""
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
