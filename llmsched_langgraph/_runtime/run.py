"""One run and its stage runs, as the code that executes them sees them.

Does not know graphs, slots, or how a job is scheduled.
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
from llmsched_langgraph.errors import CallCancelledError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver


class Dismissible(Protocol):
    """A thread that waits for a slot."""

    def dismiss(self) -> None:
        """End the wait with an error, unless it is over."""


_numbers = itertools.count(1)


class StageRun:
    """One execution of a stage, and the threads in it that wait for a slot.

    Attributes:
        number: its own in this process.
        name: the stage, with the stages around it: `outer/inner`.
        around: the stage run from within which it was started, if any.
        idle_timeout_s: how long it may go without a sign of life, if there is a limit.
        heartbeat: gives such a sign.
        cancelled: whether nobody needs its answer any more.
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
        # Most stage runs have nothing but these: the rest stands in the class.
        if idle_timeout_s is not None:
            self.idle_timeout_s, self.heartbeat = idle_timeout_s, heartbeat
        if around is not None:
            self.around = around
            if around.idle_timeout_s is not None:
                # The limit of the stage around it runs on meanwhile, and one sign of life is for both.
                self.idle_timeout_s = min(idle_timeout_s or around.idle_timeout_s, around.idle_timeout_s)
                self.heartbeat = _both(heartbeat, around.heartbeat)

    def cancel(self) -> None:
        """The run needs nothing of this stage any more: its threads need not wait for slots."""
        self.cancelled = True
        for waiting in tuple(self.waiting):
            waiting.dismiss()

    def check(self) -> None:
        """Raise `CallCancelledError` if this stage run, or one around it, was cancelled."""
        stage: StageRun | None = self
        while stage is not None:
            if stage.cancelled:
                raise CallCancelledError("the run that this call belongs to was stopped")
            stage = stage.around

    @contextmanager
    def wait(self, waiting: Dismissible) -> Iterator[None]:
        """Wait for a slot inside the block.

        Raises:
            CallCancelledError: this stage run, or one around it, was cancelled already.
        """
        stages = [self]
        while (around := stages[-1].around) is not None:
            stages.append(around)
        # First put on the lists, then look: so either this or `cancel` sees the other.
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
    """What the runner sees of one job.

    Attributes:
        moves: stage runs that were announced, began or ended, in this order. It only ever grows.
        coming: those that were announced and have not begun, by LangGraph's id for them.
        interrupted: whether one of them interrupted the run.
    """

    stage_events: list[StageEvent] = field(default_factory=list)
    coming: dict[str, StageRun] = field(default_factory=dict)
    interrupted: bool = False


class Slots(Protocol):
    """The scheduler, as far as a run needs it."""

    def slot(self, model: str | None = None, *, stage: str = "") -> Any:
        """Return the `Slot` of one call."""


class Run(NamedTuple):
    """One job on one scheduler.

    Attributes:
        scheduler: the scheduler.
        driver: the scheduler's driver.
        needs_model: whether the backend of a call depends on its model.
        job: the driver's number of the job.
        loop: the event loop that the run's code is on, also for its threads; None if there is none.
        seen: what was observed of the run and not told yet.
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
        """Report the stage events that were observed since the last time."""
        self.driver.move_stages(self.job)

    def end(self, outcome: Outcome, paused_on: str | None = None) -> None:
        """End the run. Calls that it left behind keep their slots until they end.

        Args:
            outcome: how it ended.
            paused_on: the thread on which the run may be resumed, if it was interrupted.
        """
        if paused_on is None:
            self.driver.end_job(self.job, outcome)
        else:
            self.driver.pause_job(self.job, paused_on)
