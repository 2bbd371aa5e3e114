"""Represents one run of a scheduled graph from its first step to its end, and announces the end.

Does not start runs, or iterate over their steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph.errors import GraphBubbleUp

from llmsched_langgraph._adapter.landing import RunLanded, yielded
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.door import Pass
from llmsched_langgraph._runtime.limits import Limit
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.slot import outcome_of


@dataclass(slots=True)
class Job:
    """One run of a scheduled graph, from its first step to its end.

    Attributes:
        run: the run, with which the code in it is marked.
        config: the caller's configuration.
        thread: the thread on which it can be resumed; None if it cannot.
        breakpoints: whether the graph or the caller configures interrupts before or after nodes.
        entry: its place behind the scheduler's door; None if there is no door.
        limit: its budget and its deadline; None if it has neither.
        paused: whether it was interrupted, or stopped at a limit.
        outcome: how it ended.
        stopped: whether what it left behind ends with it: it failed or was cancelled.
        ended: whether its end was announced.
    """

    run: Run
    config: Any
    thread: str | None
    breakpoints: bool
    entry: Pass | None = None
    limit: Limit | None = None
    paused: bool = False
    outcome: Outcome = Outcome.FINISHED
    stopped: bool = False
    ended: bool = False

    def __del__(self) -> None:
        # An asynchronous generator that outlives its event loop is collected without its `finally`.
        if not self.ended:
            if self.outcome is Outcome.FINISHED:
                self.break_off(GeneratorExit())
            self.end()

    def yielded(self, error: BaseException) -> bool:
        """Return whether the error is the stop of its limit, which ends it without an error."""
        if not yielded(error, self.limit):
            return False
        self.run.seen.interrupted = True
        return True

    def may_be_paused(self) -> bool:
        """Return whether the graph's state must be read to know if the run was interrupted."""
        self.paused = self.run.seen.interrupted
        return self.breakpoints and not self.paused and self.thread is not None

    def break_off(self, error: BaseException) -> None:
        """Record the error with which the run ends."""
        if isinstance(error, RunLanded):
            self.paused = self.stopped = True  # nothing failed, and what it left behind must not spend more
            return
        self.outcome = outcome_of(error)
        # Interrupts, and commands for the graph around this one, are errors to Python alone.
        self.stopped = not isinstance(error, GraphBubbleUp)

    def stop(self) -> None:
        """End what a run that failed or was cancelled has left behind: calls that wait, node tasks."""
        if self.stopped:
            self.run.scope.cancel()

    def desert(self) -> None:
        """End the run, of which nobody reads a result any more; streams that its threads read end, too."""
        self.break_off(GeneratorExit())
        self.run.scope.deserted = True
        self.end()

    def end(self) -> None:
        """Announce the end of the run. Later calls have no effect."""
        if self.ended:
            return
        try:
            self._end()
            self.ended = True
        except BaseException:  # an interrupt: each step may be repeated
            self._end()
            self.ended = True
            raise

    def _end(self) -> None:
        self.stop()
        if not self.paused or self.outcome is not Outcome.FINISHED:
            self.run.end(self.outcome)
        elif self.thread is None:
            self.run.end(Outcome.CANCELLED)  # it cannot be resumed
        else:
            self.run.end(self.outcome, paused_on=self.thread)
        if self.entry is not None:
            self.entry.leave()
