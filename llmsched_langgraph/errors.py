"""Defines the package's exceptions: one tree under `LLMSchedError`.

Imports nothing of the package and raises nothing.

    LLMSchedError
    ├── ConfigurationError      (also a ValueError)    a setting is invalid; the message names the cure
    ├── UnsupportedGraphError   (also a TypeError)     the object is not a compiled LangGraph graph
    ├── InvalidDataError        (also a ValueError)    data from a file or a store is invalid
    ├── UnknownModelError       (also a LookupError)   a call names a model that no backend serves
    ├── UnknownRunError         (also a LookupError)   the scheduler knows no such run
    ├── QueueTimeoutError       (also a TimeoutError)  a call waited longer than `queue_timeout_s`
    ├── CallCancelledError      (also a RuntimeError)  a thread waited for a slot in a run that was stopped
    ├── BudgetExceededError     (also a RuntimeError)  a run has spent its budget, and stopped
    ├── DeadlineExceededError   (also a TimeoutError)  a run has passed its deadline, and stopped
    ├── OverloadedError         (also a RuntimeError)  a run or a call came while no more are taken
    └── SchedulerClosedError    (also a RuntimeError)  a call or a run came after `Scheduler.close()`
"""

from __future__ import annotations

from typing import Any


class LLMSchedError(Exception):
    """Base class of the errors that this package raises."""


class ConfigurationError(LLMSchedError, ValueError):
    """A setting is invalid; the message names the setting and a valid value."""


class UnsupportedGraphError(LLMSchedError, TypeError):
    """The object is not a compiled LangGraph graph."""


class InvalidDataError(LLMSchedError, ValueError):
    """External data is invalid; the message names the field, and the file if there is one."""


class UnknownModelError(LLMSchedError, LookupError):
    """A call names a model that none of the scheduler's backends serves."""


class UnknownRunError(LLMSchedError, LookupError):
    """`Scheduler.explain` was asked for a run that the scheduler does not know."""


class QueueTimeoutError(LLMSchedError, TimeoutError):
    """A call waited in the backlog longer than the `queue_timeout_s` of its backend, or of the scheduler."""


class CallCancelledError(LLMSchedError, RuntimeError):
    """A thread waited for a slot, or requested one, in a run that was stopped."""


class _RunStopped(LLMSchedError):  # noqa: N818 (its subclasses are the errors)
    """A run stopped between two supersteps, with its state saved if the graph has a checkpointer.

    Attributes:
        overrun: the `Overrun`: what was spent, the limits, the forecast, and the thread.
        cure: how to go on.
    """

    overrun: Any = None
    cure: str = ""

    @property
    def spent(self) -> Any:
        """What the run has spent: a `Spending`."""
        return None if self.overrun is None else self.overrun.spent

    @property
    def budget(self) -> Any:
        """What the run may spend: a `Budget`."""
        return None if self.overrun is None else self.overrun.budget

    @property
    def deadline_s(self) -> float | None:
        """Seconds from its arrival within which the run must end; None for no deadline."""
        return None if self.overrun is None else self.overrun.deadline_s

    @property
    def forecast(self) -> Any:
        """What the run is expected to have spent at its end: a `Spending`; None if nothing is known."""
        return None if self.overrun is None else self.overrun.forecast


class BudgetExceededError(_RunStopped, RuntimeError):
    """A run has spent its budget. It stopped before its next superstep and can be resumed."""


class DeadlineExceededError(_RunStopped, TimeoutError):
    """A run has passed its deadline. It stopped before its next superstep and can be resumed."""


class OverloadedError(LLMSchedError, RuntimeError):
    """The scheduler takes no more runs now, or a backend no more calls (`max_jobs`, `max_queued`).

    The refused run, or call, has cost nothing.

    Attributes:
        retry_after_s: estimated seconds until one is taken, from the recent rate at which runs end or calls
            are released; None without an estimate.
    """

    retry_after_s: float | None = None


class LedgerUnreachableError(LLMSchedError, ConnectionError):
    """The server that stores the slots did not answer, or refused: `Scheduler(url=..., fallback="fail")`."""


class SchedulerClosedError(LLMSchedError, RuntimeError):
    """The scheduler is closed: it starts no new run and grants no new slot."""
