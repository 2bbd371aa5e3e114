"""Reads what an answer, or its absence, means for the slot of an attempt.

Does not release slots. Statuses and `Retry-After` are defined by RFC 9110 and RFC 6585; 529 is Anthropic's
"overloaded".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC
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
        milliseconds, after = headers.get("retry-after-ms"), headers.get("retry-after")
        seconds = _number(milliseconds)
        if seconds is not None:
            return max(seconds / 1000, 0.0)
        seconds = _number(after)
        if seconds is None and after is not None:
            at_s, sent_s = _clock(after), _clock(headers.get("date"))
            # The answer's own clock, if it tells it: it need not agree with ours.
            seconds = None if at_s is None else at_s - (time.time() if sent_s is None else sent_s)
        return None if seconds is None else max(seconds, 0.0)
    except Exception:
        return None


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if number == number else None


def _clock(text: Any) -> float | None:
    """Return a date of HTTP in seconds; None if it is none."""
    try:
        at = parsedate_to_datetime(str(text))
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
