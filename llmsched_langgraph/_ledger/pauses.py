"""Computes how long a backend is paused after an attempt of a call.

Does not delay anything. A pause holds back every waiting ticket of the backend; without it, each freed slot
would send the next call into the same refusal. Afterwards the calls come back a few at a time
(`Pause.ready_s`), not all at once.
"""

from __future__ import annotations

from typing import NamedTuple

REFUSALS = frozenset((429, 503, 529))
"""HTTP statuses of a server that is too busy."""

FIRST_S = 1.0
"""First pause after a refusal that names no time, in seconds; each consecutive one is twice as long."""

LONGEST_S = 32.0
"""Longest pause after a refusal that names no time, in seconds."""

LIMIT_S = 120.0
"""A longer `Retry-After` causes no pause: the quota is exhausted, and each caller gets the server's error."""

RAMP_S = 0.25
"""After a pause, the number of grants doubles each `RAMP_S` seconds: 1, 2, 4, ..."""


class Failure(NamedTuple):
    """Why an attempt failed.

    Attributes:
        status: HTTP status; None if there was no response.
        retry_after_s: seconds after which the response allows the next attempt; None if it names no time.
        kind: the class of the error, in one word.
    """

    status: int | None = None
    retry_after_s: float | None = None
    kind: str = ""


class Pause(NamedTuple):
    """A backend's pauses.

    Attributes:
        opens_s: clock time until which it is paused: only forced tickets are granted.
        backoff_s: length of the last pause for which no time was given; 0 after a success.
        closed_s: total length of all pauses, the current one included, in seconds.
        grants: number of the backend's grants when the last pause began; None if there was none.
    """

    opens_s: float = 0.0
    backoff_s: float = 0.0
    closed_s: float = 0.0
    grants: int | None = None

    def until(self, now: float, opens_s: float, grants: int) -> Pause:
        """Return the pause if it lasts at least until `opens_s`; `grants` is the number of grants so far."""
        longer_s = opens_s - max(self.opens_s, now)
        if longer_s <= 0.0:
            return self
        return self._replace(opens_s=opens_s, closed_s=self.closed_s + longer_s, grants=grants)

    def open_s(self, now: float) -> float:
        """Return a clock that stops during pauses: `now` less the pauses so far."""
        return max(self.opens_s, now) - self.closed_s

    def ready_s(self, grants: int, slots: int) -> float:
        """Return the clock time from which the next grant is admissible.

        By the end of the n-th `RAMP_S` seconds after a pause, the backend has made at most 2^n - 1 grants
        since the pause began. This ends with as many grants as it has slots.

        Args:
            grants: number of grants so far.
            slots: the backend's slots.
        """
        if self.grants is None or grants - self.grants >= slots:
            return self.opens_s
        return self.opens_s + RAMP_S * ((grants - self.grants + 1).bit_length() - 1)


NEVER_PAUSED = Pause()


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
