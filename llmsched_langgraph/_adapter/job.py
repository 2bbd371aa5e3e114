"""Represents one run of a scheduled graph: announces its start and its end.

Does not read configurations, or iterate over the run's steps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

from langgraph.errors import GraphBubbleUp

from llmsched_langgraph._adapter import executor
from llmsched_langgraph._adapter.landing import RunLanded, yielded
from llmsched_langgraph._core.budgets import Limits
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph._runtime.door import Pass
from llmsched_langgraph._runtime.limits import Limit, check_limits, limit_of
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.scheduler import Scheduler, clock_of, start_run
from llmsched_langgraph._runtime.slot import outcome_of

logger = logging.getLogger("llmsched_langgraph")

_told = False


class Arrival(NamedTuple):
    """What is known of a run before it starts.

    Attributes:
        info: the properties of the job.
        config: the caller's configuration.
        thread: the thread on which it can be resumed; None if it cannot.
        resumes: the thread of the interrupted run that it continues; None if it is a new one.
        free: whether it belongs to a run that has already begun, so that it need not wait at the door.
        limits: its budget and its deadline.
        since_s: clock time of its arrival.
    """

    info: JobInfo
    config: Any
    thread: str | None
    resumes: str | None
    free: bool
    limits: Limits
    since_s: float


@dataclass(slots=True, weakref_slot=True, eq=False)
class Job:
    """One run of a scheduled graph, from its first step to its end.

    Attributes:
        run: the run; its code is marked with it.
        config: the caller's configuration.
        thread: the thread on which it can be resumed; None if it cannot.
        breakpoints: whether the graph or the caller configures interrupts before or after nodes.
        entry: its place behind the scheduler's door; None if there is no door.
        limit: its budget and its deadline; None if it has neither.
        paused: whether it was interrupted, or stopped at a limit.
        outcome: how it ended.
        stopped: whether it failed or was cancelled, so that its remaining calls and tasks are ended too.
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
        if not getattr(self, "ended", True):  # True: `__init__` was interrupted, and `start` ends the run
            if self.outcome is Outcome.FINISHED:
                self.break_off(GeneratorExit())
            self.end()

    def yielded(self, error: BaseException) -> bool:
        """Return whether the error is the stop at its limit that lets the run end normally."""
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
        # Interrupts, and commands for the graph around this one, are exceptions but not failures.
        self.stopped = not isinstance(error, GraphBubbleUp)

    def stop(self) -> None:
        """End the waiting calls and the node tasks of a run that failed or was cancelled."""
        if self.stopped:
            self.run.scope.cancel()

    def desert(self) -> None:
        """End a run whose results are no longer read, together with the streams that its threads read."""
        self.break_off(GeneratorExit())
        self.run.scope.deserted = True
        self.end()

    def end_with_loop(self) -> None:
        """End the run, unless it has ended: its event loop is closed."""
        if not self.ended:
            self.desert()

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


def start(graph: Any, on: Scheduler, arrival: Arrival, entry: Pass | None, kwargs: dict[str, Any]) -> Job:
    """Start the run that has this place behind the door; it gives the place back if it cannot be started."""
    info, limits, around = arrival.info, arrival.limits, current_run()
    breakpoints = bool(
        graph.interrupt_before_nodes
        or graph.interrupt_after_nodes
        or kwargs.get("interrupt_before")
        or kwargs.get("interrupt_after")
    )
    run = None
    try:
        run = start_run(on, info, arrival.resumes)
        job = Job(run, arrival.config, arrival.thread, breakpoints, entry)
    except BaseException:
        if run is not None:
            run.end(Outcome.CANCELLED)
        if entry is not None:
            entry.leave()
        raise
    outer = () if around is None else around.limits
    if limits.any:
        _tell_if_unsupported()
        names = {"graph": info.application.name, "run_id": info.run_id, "thread_id": arrival.thread}
        since_s = None if arrival.resumes is not None else arrival.since_s
        job.limit = limit_of(on, run.job, limits, since_s=since_s, names=names, whole=True)
        outer = (*outer, job.limit)
    if outer:
        job.run = run._replace(limits=outer)
    return job


def part(graph: Any, on: Scheduler, own: Limits, around: Run) -> Limit:
    """Return the limit of a graph inside the run `around`."""
    check_limits(on, own)
    _tell_if_unsupported()
    names = {"graph": graph.get_name()}
    return limit_of(on, around.job, own, since_s=clock_of(on)(), names=names, whole=False)


def _tell_if_unsupported() -> None:
    """Log, once per process, that no limit stops a run, because LangGraph's runner is the stock one."""
    global _told
    if not executor.install() and not _told:
        _told = True
        logger.warning(
            "budgets and deadlines do not stop runs with this LangGraph, whose runner is not supported by "
            "llmsched-langgraph"
        )
