"""Creates the errors of calls and runs that get no slot. Each message names the cause and the cure.

Does not raise the errors: the callers do.
"""

from __future__ import annotations

from llmsched_langgraph._core.budgets import DEADLINE, Budget, Overrun, Spending, counted
from llmsched_langgraph._ledger.values import BackendView, Crowd
from llmsched_langgraph.errors import (
    DeadlineExceededError,
    OverloadedError,
    QueueTimeoutError,
    SchedulerClosedError,
)


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
    slots = f"one of the {now.slots} slots" if now.slots != 1 else "the slot"
    return QueueTimeoutError(
        f"call {ticket} waited {waited_s:.1f} s for {slots} of backend "
        f"{now.backend.name!r}, with {now.holding} held and {counted(now.waiting, 'call')} waiting; raise "
        f"queue_timeout_s, or the slots if the backend can serve more"
        + (f", or its rates if they hold calls back ({rated})" if rated else "")
    )


def too_late(ticket: int, now: BackendView, waited_s: float, deadline_s: float) -> DeadlineExceededError:
    """Return the error for a call that waits when its own deadline passes."""
    cure = "give slot() a later deadline_s, or the backend more slots"
    error = DeadlineExceededError(
        f"call {ticket} waited {waited_s:.1f} s for a slot of backend {now.backend.name!r}, and its deadline "
        f"of {deadline_s:g} s has passed ({now.holding} of {now.slots} slots held, {now.waiting} waiting); "
        f"{cure}"
    )
    spent = Spending(elapsed_s=waited_s)
    error.overrun = Overrun(
        reached=(DEADLINE,), expected=(), spent=spent, budget=Budget(), deadline_s=deadline_s
    )
    error.cure = cure
    return error


def overloaded(crowd: Crowd, after_s: float | None) -> OverloadedError:
    """Return the error of a call that is refused because the limit of waiting calls is reached."""
    who, setting = (f"calls of tenant {crowd.tenant!r}", "Tenant") if crowd.tenant else ("calls", "Backend")
    when = "" if after_s is None else f"; there may be room in {after_s:.1f} s"
    error = OverloadedError(
        f"backend {crowd.backend!r} lets no more {who} wait: {crowd.waiting} do "
        f"(max_queued={crowd.limit}){when}; retry later, or raise {setting}(max_queued=...)"
    )
    error.retry_after_s = after_s
    return error
