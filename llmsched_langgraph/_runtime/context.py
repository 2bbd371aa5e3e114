"""Defines the package's context variables: the run, stage run, call and attempt of the running code.

Does not interpret the values. Tasks inherit them from the code that starts them, and threads the run and the
stage run (`following`). The code that continues in a forked child is outside every run and every call.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime.run import Run, StageRun

T = TypeVar("T")

RUN: ContextVar[Run | None] = ContextVar("llmsched_run", default=None)
"""The run of the code in this context; None outside any run."""

STAGE: ContextVar[StageRun | None] = ContextVar("llmsched_stage", default=None)
"""The stage run of the code in this context; None if unknown."""

CALL: ContextVar[weakref.ref[Any] | None] = ContextVar("llmsched_call", default=None)
"""The innermost call that the running code is part of; weak, so a context does not keep its slot."""

ATTEMPT: ContextVar[Any] = ContextVar("llmsched_attempt", default=None)
"""The attempt whose request the running code is sending; None if it sends none."""

PAUSED: ContextVar[tuple[Any, ...]] = ContextVar("llmsched_paused_calls", default=())
"""The calls of the open streams that the running code consumes and is not reading now."""

ENTERED: ContextVar[tuple[tuple[weakref.ref[Any], int], ...]] = ContextVar("llmsched_entered", default=())
"""The door and number of the places that runs have whose streams the running code consumes."""


def _forked() -> None:
    # The jobs and the slots stayed in the parent. A mark that is undone later in the child may bring a run
    # back; its number is unknown there, so each of its calls is a job of its own.
    RUN.set(None)
    STAGE.set(None)
    CALL.set(None)
    ATTEMPT.set(None)
    PAUSED.set(())
    ENTERED.set(())


in_child(_forked)


class Mark(Generic[T]):
    """Sets a context variable inside a `with` block. Reusable for consecutive blocks.

    A generator shares its consumer's context, so it sets a mark for one step at a time.
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
    """Undo `variable.set(...)`, ignoring a token of another context. Faster than a `Mark`."""
    try:
        variable.reset(token)
    except ValueError:
        pass  # called by a finaliser in another context; the marked context no longer exists


def marks() -> tuple[Run | None, StageRun | None]:
    """Return what the calling code is marked with, for `restore`."""
    return RUN.get(), STAGE.get()


def restore(before: tuple[Run | None, StageRun | None]) -> None:
    """Mark the calling code as before: an interrupt in the first or last line of a mark leaves it there."""
    run, stage = before
    if RUN.get() is not run:
        RUN.set(run)
    if STAGE.get() is not stage:
        STAGE.set(stage)


def current_run() -> Run | None:
    """Return the run of the calling code; None outside any run, and in a thread whose run has ended."""
    run = RUN.get()
    return None if run is not None and run.carried and run.seen.ended else run


def left_run() -> Run | None:
    """Return the ended run that started the calling thread; None if there is none, or it has not ended."""
    run = RUN.get()
    return run if run is not None and run.carried and run.seen.ended else None


def inside(run: Run) -> Mark[Run | None]:
    """Mark the code in the block, and the tasks and threads that it starts, as part of `run`."""
    return Mark(RUN, run)


def current_stage_run() -> StageRun | None:
    """Return the stage run of the calling code; None if unknown, and in a thread whose run has ended."""
    stage = STAGE.get()
    return None if stage is not None and stage.void else stage


def inside_stage(stage: StageRun) -> Mark[StageRun | None]:
    """Mark the code in the block, and the tasks and threads that it starts, as part of `stage`."""
    return Mark(STAGE, stage)
