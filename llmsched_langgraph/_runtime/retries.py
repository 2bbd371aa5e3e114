"""Computes when the scheduler sends a failed request of a call again, in the place of the call.

Does not send it, or wait: the code around the call does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsched_langgraph._ledger.pauses import LIMIT_S, REFUSALS

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.call import Call

RETRY_S, LONGEST_RETRY_S = 0.5, 8.0
"""Seconds before a request is sent again that failed without pausing its backend: the first, and at most."""


def again_s(call: Call) -> float | None:
    """Return the seconds after which the failed request is sent again, and count it; None for never.

    `Backend.retries` limits how often. Only a request that the server refused, or did not answer, is sent
    again. The wait is 0 if the failure pauses the backend; otherwise it doubles, from `RETRY_S` to
    `LONGEST_RETRY_S`. Meanwhile the call holds no slot.
    """
    failure = call.failure
    if failure is None or call.abandoned or call.refused is not None:
        return None
    settings = call.terms.driver.settings(call.terms.backend)
    if settings is None or call.tried >= settings.retries:
        return None
    call.tried += 1
    if failure.retry_after_s is not None:
        return 0.0 if failure.retry_after_s <= LIMIT_S else None
    if failure.status in REFUSALS:
        return 0.0
    return float(min(RETRY_S * 2 ** (call.tried - 1), LONGEST_RETRY_S))
