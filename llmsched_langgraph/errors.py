"""Defines the package's exceptions: one tree under `LLMSchedError`.

Imports nothing and raises nothing.

    LLMSchedError
    ├── ConfigurationError      (also a ValueError)    a setting is invalid; the message names the cure
    ├── UnsupportedGraphError   (also a TypeError)     the object is not a compiled LangGraph graph
    ├── InvalidDataError        (also a ValueError)    data from a file or a store is invalid
    ├── UnknownModelError       (also a LookupError)   a call names a model that no backend serves
    ├── QueueTimeoutError       (also a TimeoutError)  a call waited longer than `queue_timeout_s`
    ├── CallCancelledError      (also a RuntimeError)  a thread waited for a slot in a run that was stopped
    └── SchedulerClosedError    (also a RuntimeError)  a call or a run came after `Scheduler.close()`
"""

from __future__ import annotations


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


class QueueTimeoutError(LLMSchedError, TimeoutError):
    """A call waited in the backlog longer than the `queue_timeout_s` of its backend, or of the scheduler."""


class CallCancelledError(LLMSchedError, RuntimeError):
    """A thread waited for a slot, or requested one, in a run that was stopped."""


class SchedulerClosedError(LLMSchedError, RuntimeError):
    """The scheduler is closed: it starts no new run and grants no new slot."""
