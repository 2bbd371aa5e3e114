"""Knows which job and which stage run the running code belongs to, by context variables.

Threads and tasks inherit them from whoever starts them. Does not know graphs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from llmsched_langgraph.belief.record import StageRecord
from llmsched_langgraph.errors import CallCancelledError

if TYPE_CHECKING:
    from llmsched_langgraph.runtime.scheduler import Scheduler

T = TypeVar("T")


@dataclass(slots=True)
class Seen:
    """What the runner saw of one job and the scheduler has not been told of yet.

    Attributes:
        ended: stage runs that ended.
        interrupted: whether one of them interrupted the run.
    """

    ended: deque[StageRecord] = field(default_factory=deque)
    interrupted: bool = False

    def take(self) -> tuple[StageRecord, ...]:
        """The stage runs that ended, which are told of now. Other threads go on adding some."""
        return tuple([self.ended.popleft() for _ in range(len(self.ended))])


@dataclass(frozen=True, slots=True)
class Run:
    """One job on one scheduler.

    Attributes:
        loop: the event loop that the code runs on, if any.
        seen: what is to be told of it.
    """

    scheduler: Scheduler
    job: int
    loop: asyncio.AbstractEventLoop | None = None
    seen: Seen = field(default_factory=Seen, compare=False, repr=False)

    def on(self, loop: asyncio.AbstractEventLoop) -> Run:
        """The same run as its code on `loop` sees it."""
        return Run(self.scheduler, self.job, loop, self.seen)


class Waiting(Protocol):
    """A thread that waits for a slot."""

    def dismiss(self) -> None:
        """End the wait with an error, unless it is over."""


class StageRun:
    """One execution of a stage, and the threads in it that wait for a slot.

    Attributes:
        name: the stage, with the stages around it: `outer/inner`.
        around: the stage run from within which it was started, if any.
        idle_timeout_s: how long it may go without a sign of life, if there is a limit.
        heartbeat: gives such a sign.
        cancelled: whether nobody needs its answer any more.
        waiting: its threads that wait for a slot.
    """

    __slots__ = ("around", "cancelled", "heartbeat", "idle_timeout_s", "name", "waiting")

    def __init__(
        self,
        name: str,
        around: StageRun | None = None,
        *,
        idle_timeout_s: float | None = None,
        heartbeat: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.around = around
        self.idle_timeout_s = idle_timeout_s
        self.heartbeat = heartbeat
        if around is not None and around.idle_timeout_s is not None:
            # The limit of the stage around it runs on meanwhile, and whoever beats, beats for both.
            self.idle_timeout_s = min(idle_timeout_s or around.idle_timeout_s, around.idle_timeout_s)
            self.heartbeat = _both(heartbeat, around.heartbeat)
        self.cancelled = False
        self.waiting: set[Waiting] = set()

    def cancel(self) -> None:
        """The run needs nothing of this stage any more: its threads need not wait for slots."""
        self.cancelled = True
        for waiting in tuple(self.waiting):
            waiting.dismiss()

    @contextmanager
    def wait(self, waiting: Waiting) -> Iterator[None]:
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
            if any(stage.cancelled for stage in stages):
                raise CallCancelledError("the run that this call belongs to was stopped")
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


_run: ContextVar[Run | None] = ContextVar("llmsched_run", default=None)
_stage: ContextVar[StageRun | None] = ContextVar("llmsched_stage", default=None)


def current_run() -> Run | None:
    """The run that the calling code is part of, if any."""
    return _run.get()


def current_stage_run() -> StageRun | None:
    """The stage run that the calling code is part of, if known."""
    return _stage.get()


class _Mark(Generic[T]):
    """Sets a context variable for the length of a block."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._token: Token[T] = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        try:
            self._variable.reset(self._token)
        except ValueError:
            pass  # a finaliser runs in another context than the one that was marked, and that one is gone


def inside(run: Run) -> _Mark[Run | None]:
    """Mark the code in the block, and every task and thread it starts, as part of `run`."""
    return _Mark(_run, run)


def inside_stage(stage: StageRun) -> _Mark[StageRun | None]:
    """Mark the code in the block, and every task and thread it starts, as part of `stage`."""
    return _Mark(_stage, stage)
