"""Creates the errors of calls and runs that get no slot. Each message names the cause and the cure.

Does not raise the errors: the callers do.
"""

from __future__ import annotations

from llmsched_langgraph._ledger.values import BackendView
from llmsched_langgraph.errors import QueueTimeoutError, SchedulerClosedError


def closed() -> SchedulerClosedError:
    """Return the error for a call or a run that arrives after the scheduler was closed."""
    return SchedulerClosedError(
        "the scheduler is closed; make a new Scheduler, or call reset_default_scheduler() "
        "if it was the default one"
    )


def closed_while_waiting() -> SchedulerClosedError:
    """Return the error for a call that waits when the scheduler is closed."""
    return SchedulerClosedError("the scheduler was closed while the call waited for a slot")


def waited_at_the_door(why: str, waited_s: float) -> QueueTimeoutError:
    """Return the error for a run that did not begin within the queue timeout."""
    return QueueTimeoutError(
        f"the run waited {waited_s:.1f} s to begin: {why}; raise queue_timeout_s or the limit, or have fewer "
        f"runs at once"
    )


def timed_out(ticket: int, now: BackendView, waited_s: float) -> QueueTimeoutError:
    """Return the error for a call that exceeded the queue timeout, with the state of its backend."""
    rates = now.backend.settings.rates
    limits = {} if rates is None else {key: own for key, own in rates._asdict().items() if own is not None}
    rated = ", ".join(f"{name}={value}" for name, value in limits.items())
    return QueueTimeoutError(
        f"call {ticket} waited {waited_s:.1f} s for one of the {now.slots} slots of backend "
        f"{now.backend.name!r}, with {now.holding} held and {now.waiting} calls waiting; raise "
        f"queue_timeout_s, or the slots if the backend can serve more"
        + (f", or its rates if they hold calls back ({rated})" if rated else "")
    )
