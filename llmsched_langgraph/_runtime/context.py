"""All context variables of the package: the run, the stage run and the slots of the running code.

Tasks and threads inherit them from the code that starts them. Does not know what is done with the values.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

from llmsched_langgraph._core.events import HolderDied
from llmsched_langgraph._runtime.run import Run, StageRun

T = TypeVar("T")

RUN: ContextVar[Run | None] = ContextVar("llmsched_run", default=None)
"""The run that the code in this context is part of."""

STAGE: ContextVar[StageRun | None] = ContextVar("llmsched_stage", default=None)
"""The stage run that the code in this context is part of."""

HELD: ContextVar[HolderDied | None] = ContextVar("llmsched_slot", default=None)
"""The slot that the running code is in. A weak reference, so that a context that lives on keeps no slot."""

OFFERED: ContextVar[Any] = ContextVar("llmsched_offered_slot", default=None)
"""The slot that the thread which is started in this context may take over."""

PAUSED: ContextVar[tuple[Any, ...]] = ContextVar("llmsched_paused_slots", default=())
"""The slots of streams that the running code reads, and has stopped reading."""


class Mark(Generic[T]):
    """Sets a context variable for the length of a block; for one block after the other, as often as needed.

    A generator shares its consumer's context. So whoever is marked there is marked for one step at a time.
    """

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._token: Token[T] = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        unmark(self._variable, self._token)


def unmark(variable: ContextVar[T], token: Token[T]) -> None:
    """Undo `variable.set(...)`: what a `Mark` does at its end, for where each microsecond counts."""
    try:
        variable.reset(token)
    except ValueError:
        pass  # a finaliser runs in another context than the one that was marked, and that one is gone


def current_run() -> Run | None:
    """Return the run that the calling code is part of, if any."""
    return RUN.get()


def inside(run: Run) -> Mark[Run | None]:
    """Mark the code in the block, and every task and thread that it starts, as part of `run`."""
    return Mark(RUN, run)


def current_stage_run() -> StageRun | None:
    """Return the stage run that the calling code is part of, if known."""
    return STAGE.get()


def inside_stage(stage: StageRun) -> Mark[StageRun | None]:
    """Mark the code in the block, and every task and thread that it starts, as part of `stage`."""
    return Mark(STAGE, stage)
