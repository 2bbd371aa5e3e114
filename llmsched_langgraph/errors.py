"""What can go wrong, as types: one tree under `LLMSchedError`.

Imports nothing, raises nothing.

    LLMSchedError
    ├── ConfigurationError      (also a ValueError)    a setting that cannot work, named with its cure
    ├── UnsupportedGraphError   (also a TypeError)     `schedule()` was given something it cannot run
    ├── InvalidDataError        (also a ValueError)    data from a file or a store that cannot be read
    ├── UnknownModelError       (also a LookupError)   a call names a model that no backend serves
    ├── QueueTimeoutError       (also a TimeoutError)  a call waited longer than `queue_timeout_s`
    ├── CallCancelledError      (also a RuntimeError)  a thread waits for a slot in a run that was stopped
    ├── SchedulerClosedError    (also a RuntimeError)  a call or a run came after `Scheduler.close()`
    └── InvalidTransitionError  (also a RuntimeError)  an event that the machine's state does not allow
"""

from __future__ import annotations


class LLMSchedError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(LLMSchedError, ValueError):
    """A setting cannot work; the message names the setting and what to write instead."""


class UnsupportedGraphError(LLMSchedError, TypeError):
    """`schedule()` was given an object that is not a compiled LangGraph graph."""


class InvalidDataError(LLMSchedError, ValueError):
    """Data that came from outside cannot be read; the message names the field, and the file if any."""


class UnknownModelError(LLMSchedError, LookupError):
    """A call names a model that none of the scheduler's backends serves."""


class QueueTimeoutError(LLMSchedError, TimeoutError):
    """A call waited in the backlog longer than the scheduler's `queue_timeout_s`."""


class CallCancelledError(LLMSchedError, RuntimeError):
    """A thread waited for a slot, or asked for one, in a run that was stopped. Nobody sees its answer."""


class SchedulerClosedError(LLMSchedError, RuntimeError):
    """The scheduler was closed: it starts no new run and grants no new slot."""


class InvalidTransitionError(LLMSchedError, RuntimeError):
    """An event is illegal in the machine's present state; nothing was changed."""
