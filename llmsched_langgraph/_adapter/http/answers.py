"""Reads what an answer, or its absence, means for the slot of an attempt.

Does not release slots. Statuses and `Retry-After` are defined by RFC 9110 and RFC 6585; 529 is Anthropic's
"overloaded".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from llmsched_langgraph._ledger.pauses import Failure

_RETRIED = frozenset((408, 409, 425, 429))

ACCEPTED = 202
"""The server works on the request after its answer, and the client polls for the result."""


def failure_of(status: int, headers: Mapping[str, Any]) -> Failure | None:
    """Return why the attempt failed, if the answer invites another one; otherwise None."""
    if status not in _RETRIED and status < 500:
        return None
    return Failure(status, _retry_after_s(headers), "status")


def failure_of_error(error: BaseException) -> Failure | None:
    """Return why the attempt failed, if there was no answer; None if it was cancelled."""
    return Failure(None, None, type(error).__name__) if isinstance(error, Exception) else None


def _retry_after_s(headers: Mapping[str, Any]) -> float | None:
    """Return the seconds of `retry-after-ms` or `Retry-After`; None without a valid one."""
    try:
        milliseconds = headers.get("retry-after-ms")
        if milliseconds is not None:
            return max(float(milliseconds) / 1000, 0.0)
        after = headers.get("retry-after")
        if after is None:
            return None
        try:
            seconds = float(after)
        except ValueError:
            seconds = parsedate_to_datetime(str(after)).timestamp() - time.time()
        return max(seconds, 0.0) if seconds == seconds else None
    except Exception:
        return None
