"""Computes how long a backend is paused after an attempt of a call.

Does not store the pause, or delay anything. A pause holds back every waiting ticket of the backend; without
it, each freed slot would send the next call into the same refusal. Afterwards the calls come back a few at a
time (`Pause.ready_s`), not all at once.
"""

from __future__ import annotations

from llmsched_langgraph._ledger.values import Failure, Pause

REFUSALS = frozenset((429, 503, 529))
"""Statuses by which a server says that it is too busy."""

FIRST_S = 1.0
"""First pause after a refusal that names no time, in seconds; each consecutive one is twice as long."""

LONGEST_S = 32.0
"""Longest pause after a refusal that names no time, in seconds."""

LIMIT_S = 120.0
"""A longer demand is no pause: the quota is exhausted, and each caller gets the server's own error."""


def paused(pause: Pause, grants: int, granted_s: float, now: float, failure: Failure | None) -> Pause:
    """Return the backend's pause after the end of an attempt.

    Args:
        pause: its pause before.
        grants: number of its grants so far.
        granted_s: clock time of the attempt's grant.
        now: the clock.
        failure: why the attempt failed; None if it did not.
    """
    opens_s, backoff_s = pause[:2]
    if failure is None:
        # The end of an attempt from before the last pause says nothing of the time after it.
        return pause._replace(backoff_s=0.0) if granted_s >= opens_s else pause
    after_s = failure.retry_after_s
    if after_s is not None:
        return pause.until(now, now + after_s, grants) if after_s <= LIMIT_S else pause
    if failure.status not in REFUSALS or granted_s < opens_s:
        return pause  # no refusal, or one of several to attempts from before the pause
    backoff_s = min(2 * backoff_s, LONGEST_S) if backoff_s else FIRST_S
    return pause.until(now, now + backoff_s, grants)._replace(backoff_s=backoff_s)
