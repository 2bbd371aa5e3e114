"""Tracks one job on its application: which stages ran, run, are announced or may still run.

Does not track calls, times or work. It accepts every event of a run: a node missing from the template and an
occurrence beyond the observed maximum are no errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._jobs.counting import OccurrenceCounter


class Revealed(NamedTuple):
    """Stage runs that start next, in parallel. `around` is the stage run that contains them."""

    runs: tuple[tuple[int, str], ...]  # number of the stage run, path of its node
    around: int | None = None
    called: bool = False  # called by a node's code (a `@task`), not by a superstep
    begun: bool = False  # the runs begin at once: no `Began` follows
    tools: tuple[str | None, ...] = ()  # the tool of each run, None where it is not announced


class Began(NamedTuple):
    """The stage run starts."""

    run: int


class Lag(NamedTuple):
    """An interval in which a stage run waited for its busy event loop. Times are seconds of the clock.

    `around` is the interval of the await, if it awaited something that may have taken that time itself: then
    it is lag only if a call, or a stage run inside, overlaps `around`, because these have their own times.
    """

    since_s: float
    until_s: float
    around: tuple[float, float] | None = None


class Ended(NamedTuple):
    """The stage run ended after `seconds`, including waits for slots and for its event loop.

    `complete` is False if it failed, was cancelled or was interrupted; `again` is True if it was interrupted
    for a human, so that the same occurrence runs again. `at_s` is the clock time of its end; None for the
    time at which the scheduler reads the event. `lags` are the waits for its event loop.
    """

    run: int
    seconds: float
    complete: bool = True
    again: bool = False
    at_s: float | None = None
    lags: tuple[Lag, ...] = ()


StageEvent = Revealed | Began | Ended


_new = tuple.__new__
"""Builds a named tuple in C, without Python bytecode."""


class StageOccurrence(NamedTuple):
    """A node, and its occurrence in the job, from 1."""

    path: str
    occurrence: int


class Runs(NamedTuple):
    """Numbers of announced, running and ended stage runs of one stage occurrence."""

    revealed: int
    running: int
    ended: int


@dataclass(slots=True)
class _StageRun:
    stage_occurrence: StageOccurrence
    around: int | None
    running: bool = False
    tool: str | None = None


@dataclass(slots=True)
class StageRunCounts:
    """The mutable form of `Runs`, with the number of runs by tool."""

    revealed: int = 0
    running: int = 0
    ended: int = 0
    tools: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class StageProgress:
    """The position of one job. `move` applies its stage events in order.

    A node's occurrences count supersteps (`OccurrenceCounter`): stage runs of one node that are announced
    together (a `Send` fan-out) are one occurrence. In parallel runs of a subgraph, the
    nth occurrences of a node are one, too.

    Attributes:
        application: the template.
        tallies: the stage runs by stage occurrence. Only `move` changes them.
    """

    application: Application
    tallies: dict[StageOccurrence, StageRunCounts] = field(default_factory=dict)
    _runs: dict[int, _StageRun] = field(default_factory=dict)  # those that have not ended
    _counter: OccurrenceCounter = field(init=False)
    _again: dict[str, int] = field(default_factory=dict)
    _fronts: dict[int | None, frozenset[str]] = field(default_factory=dict)
    _inside: dict[int, list[int]] = field(default_factory=dict)  # stage runs by the one that contains them

    def __post_init__(self) -> None:
        self._counter = OccurrenceCounter(self.application)

    def move(self, move: StageEvent) -> None:
        """Apply a stage event. An event of an unknown or ended stage run changes nothing."""
        if isinstance(move, Ended):
            self._end(move.run, move.again)
        elif isinstance(move, Revealed):
            self._reveal(move.runs, move.around, move.called, move.begun)
            for (number, _), tool in zip(move.runs, move.tools, strict=False):
                if tool is not None:
                    self._runs[number].tool = tool
                    named = self.tallies[self._runs[number].stage_occurrence].tools
                    named[tool] = named.get(tool, 0) + 1
        else:
            run = self._runs.get(move.run)
            if run is not None and not run.running:
                run.running = True
                self.tallies[run.stage_occurrence].running += 1

    def _reveal(
        self, runs: tuple[tuple[int, str], ...], around: int | None, called: bool, begun: bool
    ) -> None:
        outer = self._runs.get(around) if around is not None else None
        group = None if outer is None else outer.stage_occurrence
        stage_occurrences = self._occurrences([path for _, path in runs], around, group)
        for number, path in runs:
            stage_occurrence = stage_occurrences[path]
            self._runs[number] = _StageRun(stage_occurrence, around, running=begun)
            if around is not None:
                self._inside.setdefault(around, []).append(number)
            tally = self.tallies.get(stage_occurrence)
            if tally is None:
                tally = self.tallies[stage_occurrence] = StageRunCounts()
            tally.revealed += 1
            tally.running += begun
        nodes = self.application.by_path
        known = frozenset(path for path in stage_occurrences if path in nodes and not nodes[path].learned)
        if known and not called:  # an unknown node does not tell the position in the graph
            self._fronts[around] = known

    def _occurrences(
        self, paths: list[str], around: int | None, group: StageOccurrence | None
    ) -> dict[str, StageOccurrence]:
        again = {path: self._again.pop(path) for path in paths if path in self._again} if self._again else {}
        new = dict.fromkeys(path for path in paths if path not in again)
        numbers = self._counter.reveal(new, around, group)
        for path, number in again.items():
            self._counter.note(path, number)
        return {path: StageOccurrence(path, number) for path, number in {**again, **numbers}.items()}

    def _end(self, number: int, again: bool) -> None:
        run = self._runs.pop(number, None)
        if run is None:
            return
        tally = self.tallies[run.stage_occurrence]
        tally.running -= run.running
        if again:
            tally.revealed -= 1
            self._again[run.stage_occurrence.path] = run.stage_occurrence.occurrence
        else:
            tally.ended += 1
        self._fronts.pop(number, None)  # its inner graph ended with it
        for left in self._inside.pop(number, ()):
            self._drop(left)

    def _drop(self, number: int) -> None:
        """Remove a stage run that never ended: the stage run around it ended first."""
        run = self._runs.pop(number, None)
        if run is None:
            return
        tally = self.tallies[run.stage_occurrence]
        tally.running -= run.running
        tally.revealed -= 1
        self._fronts.pop(number, None)
        for left in self._inside.pop(number, ()):
            self._drop(left)

    def stage_occurrence(self, run: int) -> StageOccurrence | None:
        """Return the stage occurrence of a stage run; None once it has ended."""
        found = self._runs.get(run)
        return None if found is None else found.stage_occurrence

    def runs(self, stage_occurrence: StageOccurrence) -> Runs | None:
        """Return the stage runs of one stage occurrence; None if it was never announced."""
        tally = self.tallies.get(stage_occurrence)
        return None if tally is None else _new(Runs, (tally.revealed, tally.running, tally.ended))

    def tool(self, run: int) -> str | None:
        """Return the announced tool of a stage run; None if it is unknown or the run has ended."""
        found = self._runs.get(run)
        return None if found is None else found.tool

    def tools(self, stage_occurrence: StageOccurrence) -> Mapping[str, int]:
        """Return the number of runs by announced tool."""
        tally = self.tallies.get(stage_occurrence)
        return {} if tally is None else tally.tools

    def planned(self) -> tuple[tuple[str, int], ...] | None:
        """Return the number of runs by announced tool over the whole job, sorted by name.

        None if no tool was announced, or if a node with announced tools may run again: then the plan is
        incomplete.
        """
        named: dict[str, int] = {}
        coming: frozenset[str] | None = None
        for stage_occurrence, tally in self.tallies.items():
            for tool, count in tally.tools.items():
                if coming is None:
                    coming = self.coming()
                if stage_occurrence.path in coming:
                    return None
                named[tool] = named.get(tool, 0) + count
        return tuple(sorted(named.items())) if named else None

    def coming(self) -> frozenset[str]:
        """Return the paths of the nodes that may start again, according to the template's edges.

        A running or announced node is included only if it can start once more afterwards.
        """
        return self._coming().union(self._again) if self._again else self._coming()

    def passed(self) -> tuple[tuple[str, int], ...]:
        """Return the highest numbers that cannot come any more, by path, for nodes of inner loops."""
        return tuple(sorted(self._counter.passed([*self._alive()]).items()))

    def _alive(self) -> Iterator[str]:
        """Nodes that run, or that ran in the latest superstep of a graph that has not ended."""
        for run in self._runs.values():
            yield run.stage_occurrence.path
        for front in self._fronts.values():
            yield from front

    def _coming(self) -> frozenset[str]:
        """Nodes that may run, or run again."""
        if not self._fronts:
            begin = self.application.entries or tuple(self.application.by_path)
            return self.application.reachable(begin) | frozenset(begin)
        deferred = [node.path for node in self.application.nodes if node.deferred]
        waiting = [path for path in deferred if path not in self._counter.highest]
        return self.application.reachable([*self._alive(), *waiting]).union(waiting)
