"""Knows where one job stands on its application: which stages ran, run, are announced, can still come.

Does not know calls, times or what anything costs. Whatever a run does is taken in: a node that the
template does not have, or one more time round than was ever seen, is absorbed and never an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from llmsched_langgraph._application.application import Application


class Status(Enum):
    """What has become of a stage in a job that is under way, or over."""

    RUNNING = "running"
    REVEALED = "revealed"  # announced: it runs as soon as there is a thread for it
    FINISHED = "finished"
    READY = "ready"  # what leads to it is done; whether it is next is being decided
    PENDING = "pending"  # it may still come
    SKIPPED = "skipped"  # it can come no more: another way was taken
    ABSENT = "absent"  # the job is over, and it did not happen


class Revealed(NamedTuple):
    """These stage runs come next, all at the same time. `around` is the stage run that they are part of."""

    runs: tuple[tuple[int, str], ...]  # number of the stage run, path of its node
    around: int | None = None
    called: bool = False  # by code of a node, beside the graph's own steps (a `@task`)
    begun: bool = False  # no sooner said than done
    tools: tuple[str | None, ...] = ()  # which tool each of the runs will use, where that is announced, too


class Began(NamedTuple):
    """The stage run is being executed."""

    run: int


class Ended(NamedTuple):
    """The stage run is over after `seconds`, waiting for slots included.

    `complete` is False if it failed, was cancelled or was interrupted; `again` is True if it stopped
    for a human, so that the same one will be run once more. `at_s` is when it ended by the scheduler's
    clock, if not when the scheduler hears of it.
    """

    run: int
    seconds: float
    complete: bool = True
    again: bool = False
    at_s: float | None = None


StageEvent = Revealed | Began | Ended


_new = tuple.__new__
"""Makes a named tuple of a tuple: the same as calling its class, without a line of Python."""


class StageOccurrence(NamedTuple):
    """A node, and which time it runs in its job."""

    path: str
    occurrence: int


class Runs(NamedTuple):
    """Stage runs of one spot, side by side: how many were announced, run now, and are over."""

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
    """The stage runs of one spot, as they come: see `Runs`; and how many use which tool."""

    revealed: int = 0
    running: int = 0
    ended: int = 0
    tools: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class StageProgress:
    """Where one job stands. `move` changes it, in the order in which things happened.

    The i-th time that a node runs is counted over supersteps: stage runs of one node that are announced
    together are one occurrence, however many they are (a `Send` fan-out). Inside graphs that run side by
    side, the same times round fall together, too.

    Attributes:
        application: the template.
        over: whether the job is over.
        tallies: the stage runs of each node that came up, occurrence by occurrence. Only `move` changes them.
    """

    application: Application
    over: bool = False
    tallies: dict[StageOccurrence, StageRunCounts] = field(default_factory=dict)
    _runs: dict[int, _StageRun] = field(default_factory=dict)  # those that are not over
    _highest: dict[str, int] = field(default_factory=dict)
    _base: dict[tuple[StageOccurrence | None, str], int] = field(default_factory=dict)
    _times: dict[tuple[int | None, str], int] = field(default_factory=dict)
    _again: dict[str, int] = field(default_factory=dict)
    _fronts: dict[int | None, frozenset[str]] = field(default_factory=dict)
    _inside: dict[int, list[int]] = field(default_factory=dict)  # stage runs by the one around them

    def move(self, move: StageEvent) -> None:
        """Take in what happened. A stage run that is not known (any more) changes nothing."""
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
        stage_occurrences: dict[str, StageOccurrence] = {}
        for number, path in runs:
            stage_occurrence = stage_occurrences.get(path)
            if stage_occurrence is None:
                stage_occurrence = stage_occurrences[path] = StageOccurrence(
                    path, self._occurrence(path, around, group)
                )
                self._highest[path] = max(self._highest.get(path, 0), stage_occurrence.occurrence)
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
        if known and not called:  # what the graph does not show says nothing of where it goes from there
            self._fronts[around] = known

    def _occurrence(self, path: str, around: int | None, group: StageOccurrence | None) -> int:
        if path in self._again:
            return self._again.pop(path)
        base = self._base.setdefault((group, path), self._highest.get(path, 0))
        times = self._times[around, path] = self._times.get((around, path), 0) + 1
        return base + times

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
        self._fronts.pop(number, None)  # what went on inside is over with it
        for left in self._inside.pop(number, ()):
            self._drop(left)

    def _drop(self, number: int) -> None:
        """The stage run never ended by itself: its graph was given up, and the stage around it went on."""
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
        """The job is over."""
        self.over = True
        self._runs.clear()
        self._fronts.clear()

    def stage_occurrence(self, run: int) -> StageOccurrence | None:
        """Which node the stage run is of, and which time; None once it is over."""
        found = self._runs.get(run)
        return None if found is None else found.stage_occurrence

    def place(self, run: int) -> str | None:
        """The id of the stage that the stage run is part of.

        That of its node; for a node that the template does not have, that of the stage run around it.
        None if there is none, too: then nothing is known of it, and nothing expected.
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
        """What each node that came up so far expanded into, occurrence by occurrence: its stage runs.

        For a dynamic stage that is the plan as it was announced, and how much of it is done.
        """
        return {
            stage_occurrence: _new(Runs, (tally.revealed, tally.running, tally.ended))
            for stage_occurrence, tally in self.tallies.items()
        }

    def runs(self, stage_occurrence: StageOccurrence) -> Runs | None:
        """The stage runs of one spot; None if it never came up."""
        tally = self.tallies.get(stage_occurrence)
        return None if tally is None else _new(Runs, (tally.revealed, tally.running, tally.ended))

    def tool(self, run: int) -> str | None:
        """The tool that the stage run was announced to use; None if that is not known, or it is over."""
        found = self._runs.get(run)
        return None if found is None else found.tool

    def tools(self, stage_occurrence: StageOccurrence) -> Mapping[str, int]:
        """How many runs of one spot were announced to use which tool."""
        tally = self.tallies.get(stage_occurrence)
        return {} if tally is None else tally.tools

    def planned(self) -> tuple[tuple[str, int], ...] | None:
        """How often all announcements together name each tool, sorted by name.

        None if none did, and as long as a node that uses tools may come once more: then the plan is not
        known in full.
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
        """What has become of every stage of the template, by id."""
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
        for stage in self.application.stages:
            tallies = ran.get(stage.id)
            status = None if tallies is None else _status_of(tallies, over=self.over)
            if stage.id in again and status in (None, Status.FINISHED) and not self.over:
                found[stage.id] = Status.READY
            elif status is not None:
                found[stage.id] = status
            elif self.over:
                found[stage.id] = Status.ABSENT
            elif stage.node in coming and (stage.tail or stage.occurrence > self._highest.get(stage.node, 0)):
                following = stage.occurrence == self._highest.get(stage.node, 0) + 1
                found[stage.id] = Status.READY if following and stage.node in next_ else Status.PENDING
            else:
                found[stage.id] = Status.SKIPPED
        return found

    def remaining(self) -> tuple[str, ...]:
        """Ids of the stages that run now or may still come, each behind all that lead to it."""
        left = (Status.RUNNING, Status.REVEALED, Status.READY, Status.PENDING)
        statuses = self.statuses()
        return tuple(stage.id for stage in self.application.stages if statuses[stage.id] in left)

    def coming(self) -> frozenset[str]:
        """Paths of the nodes that may be begun once more, as far as the template's edges tell.

        A node that runs, or is announced, is among them only if it can come again after that.
        """
        return self._coming().union(self._again) if self._again and not self.over else self._coming()

    def _alive(self) -> Iterator[str]:
        """Nodes that run now, or ran in the latest step of a graph that goes on from there."""
        for run in self._runs.values():
            yield run.stage_occurrence.path
        for front in self._fronts.values():
            yield from front

    def _coming(self) -> frozenset[str]:
        """Nodes that may still be run, or run again."""
        if self.over:
            return frozenset()
        if not self._fronts:
            begin = self.application.entries or tuple(self.application.by_path)
            return self.application.reachable(begin) | frozenset(begin)
        deferred = [node.path for node in self.application.nodes if node.deferred]
        waiting = [path for path in deferred if path not in self._highest]
        return self.application.reachable([*self._alive(), *waiting]).union(waiting)

    def _next(self) -> frozenset[str]:
        """Nodes that may be run in the very next step."""
        if not self._fronts:
            return frozenset(self.application.entries)
        # A graph goes on when all of its latest step is over.
        busy = {run.around for run in self._runs.values()}
        done = {path for graph, front in self._fronts.items() if graph not in busy for path in front}
        return frozenset(target for source, target in self.application.edges if source in done)


def _status_of(tallies: list[StageRunCounts], *, over: bool) -> Status:
    if any(tally.running for tally in tallies) and not over:
        return Status.RUNNING
    if any(tally.revealed > tally.ended for tally in tallies) and not over:
        return Status.REVEALED
    return Status.FINISHED if any(tally.ended for tally in tallies) else Status.ABSENT
