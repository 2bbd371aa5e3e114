"""Represents one run and its stage runs for the code that executes them.

Does not execute graphs, hold slots or schedule jobs.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._jobs.stages import StageEvent
from llmsched_langgraph._runtime.routing import Requested, Router
from llmsched_langgraph._runtime.unmarked import IGNORED, Unmarked, ended
from llmsched_langgraph.errors import CallCancelledError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.limits import Limit


class Dismissible(Protocol):
    """A call that waits for a slot."""

    def dismiss(self) -> None:
        """End the wait with an error; do nothing if it is over."""


class Scope:
    """Calls that end together: those of one run, or of one stage run.

    Attributes:
        cancelled: whether their results are no longer needed, so that none of them waits or begins.
        waiting: weak references to those that wait for a slot.
    """

    cancelled = False
    waiting: set[weakref.ref[Dismissible]]

    def cancel(self) -> None:
        """Dismiss the waiting calls and refuse later ones. Idempotent; legal in any thread."""
        self.cancelled = True  # first: a call that registers after the copy is made sees it
        for reference in self.waiting.copy():  # copied in C: threads and finalisers change the set meanwhile
            waiting = reference()
            if waiting is not None:
                waiting.dismiss()


_numbers = itertools.count(1)


class StageRun(Scope):
    """One execution of a stage.

    Attributes:
        number: its number, unique in this process.
        name: the path of the stage, such as `outer/inner`.
        around: the stage run that contains it; None at the top level.
        idle_timeout_s: maximum seconds between two heartbeats; None for no limit.
        heartbeat: restarts the idle timeout; None if there is no limit.
        loop: the event loop of its node; None if its node runs in a thread. `cancel` leaves the calls on that
            loop alone: they are cancelled with the node, and the node's background tasks go on.
        over: whether it has ended.
        carried: whether this marks a thread that the stage run started.
        void: whether the mark no longer counts, because it is that of a thread and the run has ended.
        meter: measures its own time on an event loop; None for a synchronous run.
    """

    around: StageRun | None = None
    idle_timeout_s: float | None = None
    heartbeat: Callable[[], None] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    carried = False
    void = False
    over = False
    meter: Any = None

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
        self.waiting = set()
        # Most stage runs set no other attribute; the class has the defaults.
        if idle_timeout_s is not None:
            self.idle_timeout_s, self.heartbeat = idle_timeout_s, heartbeat
        if around is not None:
            self.around = around
            if around.idle_timeout_s is not None:
                # The idle timeout of the outer stage keeps running, so each heartbeat restarts both.
                self.idle_timeout_s = min(idle_timeout_s or around.idle_timeout_s, around.idle_timeout_s)
                self.heartbeat = _both(heartbeat, around.heartbeat)


def _both(one: Callable[[], None] | None, other: Callable[[], None] | None) -> Callable[[], None] | None:
    if one is None or other is None:
        return one or other

    def both() -> None:
        one()
        other()

    return both


class RunScope(Scope):
    """The calls of one run, and the tasks that execute its nodes.

    Attributes:
        around: the scope of the run of another scheduler that contains the run; None if there is none.
        tasks: the tasks that have not ended, each with a weak reference to its owner, which awaits it.
        root: the owner of the tasks at the top level of the run; None if there was none yet.
        deserted: whether the run's results are no longer read, so that open streams in its threads end.
    """

    deserted = False
    root: weakref.ref[Any] | None = None

    def __init__(self, around: RunScope | None = None) -> None:
        self.waiting = set()
        self.around = around
        self.tasks: dict[asyncio.Future[Any], weakref.ref[Any]] = {}

    def keep(self, task: asyncio.Future[Any], owner: weakref.ref[Any]) -> None:
        """Keep a task until it ends, so that `cancel` can cancel it."""
        self.tasks[task] = owner
        task.add_done_callback(self.tasks.pop)
        if self.cancelled:
            self._cancel(task, owner)

    def cancel(self) -> None:
        """Cancel tasks whose owner has gone, dismiss waiting calls and refuse later ones. Idempotent."""
        self.cancelled = True
        # Before the calls are dismissed: a node that handles their errors must not go on.
        for task, owner in self.tasks.copy().items():
            self._cancel(task, owner)
        super().cancel()

    def _cancel(self, task: asyncio.Future[Any], owner: weakref.ref[Any]) -> None:
        """Cancel the task on its own loop, unless its owner will.

        The owner will, if it still awaits the task: the code that awaits the owner is then cancelled, or gets
        an error from the next call. A task that was cancelled before may be cleaning up.
        """
        awaited = owner is not self.root and owner() is not None
        cancelling: Callable[[], int] | None = getattr(task, "cancelling", None)
        if task.done() or awaited or (cancelling is not None and cancelling()):
            return
        loop = task.get_loop()
        if _runs_on(loop):
            task.cancel()
            return
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(task.cancel)


def check(run: Run | None, stage: StageRun | None, *, coroutine: bool = False) -> None:
    """Refuse a call whose run, or stage run, was cancelled.

    Args:
        run: its run.
        stage: its stage run.
        coroutine: whether the calling code is a coroutine. A thread cannot be cancelled, only dismissed.

    Raises:
        CallCancelledError: the run, the stage run, or one that contains it, was cancelled.
    """
    # As `_scopes`, without the list: every call gets here.
    scope = None if run is None else run.scope
    while scope is not None:
        if scope.cancelled:
            raise CallCancelledError(
                "the run that this call belongs to failed or was cancelled. Work that outlives a run must "
                "be started outside of it, or in an empty context: contextvars.Context().run(...)"
            )
        scope = scope.around
    while stage is not None:
        if stage.cancelled and not (coroutine and _runs_on(stage.loop)):
            raise CallCancelledError("the node that this call belongs to was cancelled")
        stage = stage.around


@contextmanager
def waits(
    call: Dismissible, run: Run | None, stage: StageRun | None, *, coroutine: bool = False
) -> Iterator[None]:
    """Register a waiting call for the duration of the block, so that the end of its run dismisses it.

    The block must end with the grant of the slot, or with an error.

    Raises:
        CallCancelledError: as `check`, before the block, or after it if the run was cancelled meanwhile.
    """
    scopes = _scopes(run, stage, coroutine)
    reference = weakref.ref(call)  # a loop that is closed leaves calls behind, which must be collected
    # Register before the check: then either the check or a concurrent `cancel` sees the other.
    for scope in scopes:
        scope.waiting.add(reference)
    try:
        check(run, stage, coroutine=coroutine)
        yield
        check(run, stage, coroutine=coroutine)
    finally:
        for scope in scopes:
            scope.waiting.discard(reference)


def _scopes(run: Run | None, stage: StageRun | None, coroutine: bool) -> list[Scope]:
    """Return the scopes of a call: its runs and its stage runs. The end of any of them dismisses it."""
    found: list[Scope] = []
    scope = None if run is None else run.scope
    while scope is not None:
        found.append(scope)
        scope = scope.around
    while stage is not None:
        if not (coroutine and _runs_on(stage.loop)):
            found.append(stage)
        stage = stage.around
    return found


def _runs_on(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Return whether the calling code runs on this loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


@dataclass(slots=True)
class Seen:
    """What the runner observes of one job.

    Attributes:
        stage_events: announcements, starts and ends of stage runs, in order; append-only.
        coming: stage runs that were announced and have not begun, by LangGraph's task id.
        interrupted: whether a stage run interrupted the run.
        tools: names of the tools that the graph has.
        ended: whether the run has ended or was interrupted.
    """

    stage_events: list[StageEvent] = field(default_factory=list)
    coming: dict[str, StageRun] = field(default_factory=dict)
    interrupted: bool = False
    tools: frozenset[str] = frozenset()
    ended: bool = False


class Slots(Protocol):
    """The part of the scheduler that a run uses."""

    def slot(self, model: str | Requested | None = None, *, stage: str = "") -> Any:
        """Return the `Call` of one request."""


class Run(NamedTuple):
    """One job on one scheduler.

    Attributes:
        scheduler: the scheduler.
        driver: the scheduler's driver.
        router: assigns calls to backends by their names.
        job: the driver's number of the job.
        loop: the event loop of the run's code and of its threads; None if there is none.
        seen: what the runner observed of the run.
        scope: the calls and tasks that end with the run if it fails or is cancelled.
        follows: whether threads that the run starts are part of it.
        carried: whether this marks such a thread; then it is void when the run has ended.
        unmarked: what the scheduler does with model calls outside every run while this one is active.
        limits: the limits of the run, of runs of other schedulers around it, and of the graphs inside it in
            which the code is; outermost first.
    """

    scheduler: Slots
    driver: Driver
    router: Router
    job: int
    loop: asyncio.AbstractEventLoop | None
    seen: Seen
    scope: RunScope
    follows: bool = True
    carried: bool = False
    unmarked: Unmarked = IGNORED
    limits: tuple[Limit, ...] = ()

    def on(self, loop: asyncio.AbstractEventLoop) -> Run:
        """Return the same run, on `loop`."""
        return self._replace(loop=loop)

    def tell(self) -> None:
        """Notify the driver that `seen` has new stage events."""
        self.driver.move_stages(self.job)

    def end(self, outcome: Outcome, paused_on: str | None = None) -> None:
        """End the run. Its calls in flight keep their slots until they end.

        Its other calls go on, too: `scope.cancel` ends those of a run that failed or was cancelled.

        Args:
            outcome: how it ended.
            paused_on: the thread on which an interrupted run may be resumed; None if the run is over.
        """
        self.seen.ended = True
        ended(self)
        if paused_on is None:
            self.driver.end_job(self.job, outcome)
        else:
            self.driver.pause_job(self.job, paused_on)
