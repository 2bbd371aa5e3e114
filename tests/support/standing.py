"""Where a job stands: the status of every stage of its application, derived from its progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from llmsched_langgraph._application.application import Stage
from llmsched_langgraph._jobs.stages import Runs, StageOccurrence, StageProgress, StageRunCounts


class Status(Enum):
    """The status of a stage in an active or ended job."""

    RUNNING = "running"
    REVEALED = "revealed"  # announced: it runs as soon as a thread is free
    FINISHED = "finished"
    READY = "ready"  # its predecessors have ended; it may run in the next superstep
    PENDING = "pending"  # it may run in a later superstep
    SKIPPED = "skipped"  # it cannot run any more
    ABSENT = "absent"  # the job has ended without it


@dataclass(slots=True)
class Standing(StageProgress):
    """The progress of a job that may end; `over` says whether it has."""

    over: bool = False

    def end(self) -> None:
        """End the job."""
        self.over = True
        self._runs.clear()
        self._fronts.clear()

    def coming(self) -> frozenset[str]:
        """Return the nodes that may start again; none once the job has ended."""
        return frozenset() if self.over else StageProgress.coming(self)

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
            stage_occurrence: Runs(tally.revealed, tally.running, tally.ended)
            for stage_occurrence, tally in self.tallies.items()
        }

    def statuses(self) -> dict[str, Status]:
        """Return the status of every stage of the template, by id."""
        found: dict[str, Status] = {}
        coming, next_ = frozenset() if self.over else self._coming(), self._next()
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
