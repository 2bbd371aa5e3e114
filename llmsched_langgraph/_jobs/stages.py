"""Tracks one job on its application: which stages ran, run, are announced or may still run.

Does not track calls, times or work. It accepts every event of a run: a node missing from the template and an
occurrence beyond the observed maximum are no errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from llmsched_langgraph._application.application import Application, Stage
from llmsched_langgraph._jobs.counting import OccurrenceCounter


class Status(Enum):
    """The status of a stage in an active or ended job."""

    RUNNING = "running"
    REVEALED = "revealed"  # announced: it runs as soon as a thread is free
    FINISHED = "finished"
    READY = "ready"  # its predecessors have ended; it may run in the next superstep
    PENDING = "pending"  # it may run in a later superstep
    SKIPPED = "skipped"  # it cannot run any more
    ABSENT = "absent"  # the job has ended without it


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
        over: whether the job has ended.
        tallies: the stage runs by stage occurrence. Only `move` changes them.
    """

    application: Application
    over: bool = False
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
        if known and not called:  # an unknown node does not show where the graph is
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

    def end(self) -> None:
        """End the job."""
        self.over = True
        self._runs.clear()
        self._fronts.clear()

    def stage_occurrence(self, run: int) -> StageOccurrence | None:
        """Return the stage occurrence of a stage run; None once it has ended."""
        found = self._runs.get(run)
        return None if found is None else found.stage_occurrence

    def place(self, run: int) -> str | None:
        """Return the id of the stage that the stage run is part of.

        For a node that the template lacks, it is the stage of the nearest enclosing stage run that has one;
        None if there is none.
        """
        number: int | None = run
        while number is not None:
            found = self._runs.get(number)
            if found is None:
                return None
            if found.stage_occurrence.path in self.application.by_path:
                return self.application.stage_id(*found.stage_occurrence)
            number = found.around
        return None

    def expanded(self) -> dict[StageOccurrence, Runs]:
        """Return the stage runs of each announced stage occurrence.

        For a dynamic stage this is its announced plan and its progress.
        """
        return {
            stage_occurrence: _new(Runs, (tally.revealed, tally.running, tally.ended))
            for stage_occurrence, tally in self.tallies.items()
        }

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

    def statuses(self) -> dict[str, Status]:
        """Return the status of every stage of the template, by id."""
        found: dict[str, Status] = {}
        coming, next_ = self._coming(), self._next()
        ran: dict[str, list[StageRunCounts]] = {}
        known = self.application.by_path
        for stage_occurrence, tally in self.tallies.items():
            if stage_occurrence.path in known and tally.revealed:
                ran.setdefault(self.application.stage_id(*stage_occurrence), []).append(tally)
        again = {
            self.application.stage_id(*stage_occurrence)
            for stage_occurrence in self._again.items()
            if stage_occurrence[0] in known
        }
        passed = self._counter.passed([*self._alive()])
        for stage in self.application.stages:
            tallies = ran.get(stage.id)
            status = None if tallies is None else _status_of(tallies, over=self.over)
            if stage.id in again and status in (None, Status.FINISHED) and not self.over:
                found[stage.id] = Status.READY
            elif status is not None:
                found[stage.id] = status
            elif self.over:
                found[stage.id] = Status.ABSENT
            else:
                found[stage.id] = self._unannounced(stage, coming, next_, passed)
        return found

    def _unannounced(
        self, stage: Stage, coming: frozenset[str], next_: frozenset[str], passed: Mapping[str, int]
    ) -> Status:
        least = 1 + max(self._counter.highest.get(stage.node, 0), passed.get(stage.node, 0))
        last = stage.last if stage.tail else stage.occurrence
        if stage.node not in coming or (last is not None and last < least):
            return Status.SKIPPED
        return Status.READY if stage.occurrence == least and stage.node in next_ else Status.PENDING

    def remaining(self) -> tuple[str, ...]:
        """Return the ids of the stages that run or may still run, in topological order."""
        left = (Status.RUNNING, Status.REVEALED, Status.READY, Status.PENDING)
        statuses = self.statuses()
        return tuple(stage.id for stage in self.application.stages if statuses[stage.id] in left)

    def coming(self) -> frozenset[str]:
        """Return the paths of the nodes that may start again, according to the template's edges.

        A running or announced node is included only if it can start once more afterwards.
        """
        return self._coming().union(self._again) if self._again and not self.over else self._coming()

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
        if self.over:
            return frozenset()
        if not self._fronts:
            begin = self.application.entries or tuple(self.application.by_path)
            return self.application.reachable(begin) | frozenset(begin)
        deferred = [node.path for node in self.application.nodes if node.deferred]
        waiting = [path for path in deferred if path not in self._counter.highest]
        return self.application.reachable([*self._alive(), *waiting]).union(waiting)

    def _next(self) -> frozenset[str]:
        """Nodes that may run in the next superstep."""
        if not self._fronts:
            return frozenset(self.application.entries)
        # A graph continues when its latest superstep has ended.
        busy = {run.around for run in self._runs.values()}
        done = {path for graph, front in self._fronts.items() if graph not in busy for path in front}
        return frozenset(target for source, target in self.application.edges if source in done)


def _status_of(tallies: list[StageRunCounts], *, over: bool) -> Status:
    if any(tally.running for tally in tallies) and not over:
        return Status.RUNNING
    if any(tally.revealed > tally.ended for tally in tallies) and not over:
        return Status.REVEALED
    return Status.FINISHED if any(tally.ended for tally in tallies) else Status.ABSENT
