"""Represents one run and its stage runs for the code that executes them.

Does not execute graphs, hold slots or schedule jobs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._jobs.stages import StageEvent
from llmsched_langgraph._runtime.routing import Requested
from llmsched_langgraph.errors import CallCancelledError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver


class Dismissible(Protocol):
    """A thread that waits for a slot."""

    def dismiss(self) -> None:
        """End the wait with an error; do nothing if it is over."""


_numbers = itertools.count(1)


class StageRun:
    """One execution of a stage, and the threads in it that wait for a slot.

    Attributes:
        number: its number, unique in this process.
        name: the path of the stage, such as `outer/inner`.
        around: the stage run that contains it; None at the top level.
        idle_timeout_s: maximum seconds between two heartbeats; None for no limit.
        heartbeat: restarts the idle timeout; None if there is no limit.
        cancelled: whether its result is no longer needed.
        waiting: its threads that wait for a slot.
    """

    around: StageRun | None = None
    idle_timeout_s: float | None = None
    heartbeat: Callable[[], None] | None = None
    cancelled = False

    def __init__(
        self,
        name: str,
        around: StageRun | None = None,
        *,
        idle_timeout_s: float | None = None,
        heartbeat: Callable[[], None] | None = None,
    ) -> None:
        self.number = next(_numbers)
        self.name = name
        self.waiting: set[Dismissible] = set()
        # Most stage runs set no other attribute; the class has the defaults.
        if idle_timeout_s is not None:
            self.idle_timeout_s, self.heartbeat = idle_timeout_s, heartbeat
        if around is not None:
            self.around = around
            if around.idle_timeout_s is not None:
                # The idle timeout of the outer stage keeps running, so each heartbeat restarts both.
                self.idle_timeout_s = min(idle_timeout_s or around.idle_timeout_s, around.idle_timeout_s)
                self.heartbeat = _both(heartbeat, around.heartbeat)

    def cancel(self) -> None:
        """Cancel the stage run: its result is no longer needed, so its threads stop waiting for slots."""
        self.cancelled = True
        for waiting in tuple(self.waiting):
            waiting.dismiss()

    def check(self) -> None:
        """Raise `CallCancelledError` if this stage run, or one that contains it, was cancelled."""
        stage: StageRun | None = self
        while stage is not None:
            if stage.cancelled:
                raise CallCancelledError("the run that this call belongs to was stopped")
            stage = stage.around

    @contextmanager
    def wait(self, waiting: Dismissible) -> Iterator[None]:
        """Register a waiting thread for the duration of the block, so that `cancel` dismisses it.

        Raises:
            CallCancelledError: this stage run, or one that contains it, is already cancelled.
        """
        stages = [self]
        while (around := stages[-1].around) is not None:
            stages.append(around)
        # Register before the check: then either the check or a concurrent `cancel` sees the other.
        for stage in stages:
            stage.waiting.add(waiting)
        try:
            self.check()
            yield
        finally:
            for stage in stages:
                stage.waiting.discard(waiting)


def _both(one: Callable[[], None] | None, other: Callable[[], None] | None) -> Callable[[], None] | None:
    if one is None or other is None:
        return one or other

    def both() -> None:
        one()
        other()

    return both


@dataclass(slots=True)
class Seen:
    """What the runner observes of one job.

    Attributes:
        stage_events: announcements, starts and ends of stage runs, in order; append-only.
        coming: stage runs that were announced and have not begun, by LangGraph's task id.
        interrupted: whether a stage run interrupted the run.
    """

    stage_events: list[StageEvent] = field(default_factory=list)
    coming: dict[str, StageRun] = field(default_factory=dict)
    interrupted: bool = False


class Slots(Protocol):
    """The part of the scheduler that a run uses."""

    def slot(self, model: str | Requested | None = None, *, stage: str = "") -> Any:
        """Return the `Slot` of one call."""


class Run(NamedTuple):
    """One job on one scheduler.

    Attributes:
        scheduler: the scheduler.
        driver: the scheduler's driver.
        needs_model: whether the backend of a call depends on its names.
        job: the driver's number of the job.
        loop: the event loop of the run's code and of its threads; None if there is none.
        seen: what the runner observed of the run.
    """

    scheduler: Slots
    driver: Driver
    needs_model: bool
    job: int
    loop: asyncio.AbstractEventLoop | None
    seen: Seen

    def on(self, loop: asyncio.AbstractEventLoop) -> Run:
        """Return the same run, on `loop`."""
        return self._replace(loop=loop)

    def tell(self) -> None:
        """Notify the driver that `seen` has new stage events."""
        self.driver.move_stages(self.job)

    def end(self, outcome: Outcome, paused_on: str | None = None) -> None:
        """End the run. Its outstanding calls keep their slots until they end.

        Args:
            outcome: how it ended.
            paused_on: the thread on which an interrupted run may be resumed; None if the run is over.
        """
        if paused_on is None:
            self.driver.end_job(self.job, outcome)
        else:
            self.driver.pause_job(self.job, paused_on)
