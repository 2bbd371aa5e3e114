"""Combines the limits of a backend: its slots, given or found, its pauses and its rates.

Delays nothing, and knows no tickets. A capacity is a value; each grant and each end of an attempt gives the
next one.
"""

from __future__ import annotations

from typing import NamedTuple

from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._ledger import auto, rates
from llmsched_langgraph._ledger.auto import Auto, Found, Refusal, Success, too_busy
from llmsched_langgraph._ledger.pauses import LIMIT_S, NEVER_PAUSED, REFUSALS, Failure, Pause, paused
from llmsched_langgraph._ledger.quotas import Quotas
from llmsched_langgraph._ledger.rates import NOTHING_SENT, Estimate, Rates, Spent

NOTHING_COUNTED = Usage(0, 0)
"""Usage of an attempt that the server refused."""


class CapacitySettings(NamedTuple):
    """The settings of a backend that its capacity depends on.

    Attributes:
        slots: maximum number of concurrent calls, or the bounds of one that is found.
        rates: its rates; None for no limit.
    """

    slots: int | Auto
    rates: Rates | None = None

    @property
    def plain(self) -> bool:
        """Whether tokens do not matter: the number of slots is given, and no rate is limited."""
        return self.rates is None and not isinstance(self.slots, Auto)


class EndedAttempt(NamedTuple):
    """An attempt that held a slot of the backend and released it.

    Attributes:
        granted_s, released_s: clock times of its grant and its release.
        estimate: what it was expected to use, as at its grant.
        concurrency: slots held at its grant, its own included.
        in_use: the same just before its release.
        waiting: whether calls waited then.
    """

    granted_s: float
    released_s: float
    estimate: Estimate
    concurrency: int
    in_use: int
    waiting: bool


class Capacity(NamedTuple):
    """How many calls a backend serves at once, and when it admits the next one.

    Attributes:
        found: its limit of concurrent calls.
        pause: its pauses.
        spent: the usage that counts against its rates; None if no rate is limited.
    """

    found: Found
    pause: Pause = NEVER_PAUSED
    spent: Spent | None = None

    def configured(self, settings: CapacitySettings, now: float, holding: int) -> Capacity:
        """Return the capacity under other settings; `holding` is the number of slots held."""
        found, slots = self.found, settings.slots
        if isinstance(slots, Auto):
            found = auto.configured(found, slots, now)
        elif found.limit != slots:
            found = Found(slots)
        return Capacity(found, self.pause, rates.configured(self.spent, settings.rates, now, holding))

    def ready_s(self, settings: CapacitySettings, now: float, estimate: Estimate) -> float:
        """Return the clock time at which the rates admit a call; at most `now` if they admit it now."""
        return rates.ready_s(self.spent, settings.rates, now, estimate)

    def stalled(self, settings: CapacitySettings, now: float, estimate: Estimate) -> bool:
        """Return whether the rates admit a call only after another one in flight has ended."""
        return rates.stalled(self.spent, settings.rates, now, estimate)

    def granted(self, now: float, estimate: Estimate) -> Capacity:
        """Return the capacity after a grant, where a rate is limited."""
        return Capacity(self.found, self.pause, rates.granted(self.spent, now, estimate))

    def failed(
        self, settings: CapacitySettings, attempt: EndedAttempt, grants: int, failure: Failure
    ) -> Capacity:
        """Return the capacity after a failed attempt; `grants` is the number of the backend's grants.

        A refusal while one slot more than the ceiling is tried is expected: without `Retry-After`, it causes
        no pause.
        """
        (found, pause, spent), now = self, attempt.released_s
        if not (found.trying and failure.retry_after_s is None):
            pause = paused(pause, grants, attempt.granted_s, now, failure)
        exhausted = failure.retry_after_s is not None and failure.retry_after_s > LIMIT_S
        if isinstance(settings.slots, Auto) and too_busy(failure) and not exhausted:
            named = failure.retry_after_s is not None
            pause_s = max(0.0, pause.opens_s - max(self.pause.opens_s, now)) if named else 0.0
            refusal = Refusal(attempt.granted_s, attempt.concurrency, pause_s)
            found = auto.refused(found, settings.slots, now, refusal)
        if failure.status is None:  # the answer may have broken off half way
            usage = UNKNOWN_USAGE
        else:
            usage = NOTHING_COUNTED if failure.status in REFUSALS else NOTHING_SENT
        return Capacity(found, pause, _released(spent, attempt, now, usage))

    def ended(self, attempt: EndedAttempt, *, well: bool) -> Capacity:
        """Return the capacity after an attempt that did not fail; see `used` for its tokens.

        Args:
            attempt: the attempt.
            well: whether it was served. A cancelled attempt gives no information.
        """
        pause = self.pause
        if not well or not pause.backoff_s:
            return self
        # All of `paused` that does not depend on a failure.
        return self._replace(pause=paused(pause, 0, attempt.granted_s, attempt.released_s, None))

    def used(
        self, settings: CapacitySettings, now: float, attempt: EndedAttempt, usage: Usage, *, well: bool
    ) -> Capacity:
        """Return the capacity after the tokens of an attempt are known, or never will be."""
        found, pause, spent = self
        if well and isinstance(settings.slots, Auto):
            success = Success(
                attempt.granted_s,
                attempt.in_use,
                attempt.waiting,
                attempt.released_s - attempt.granted_s,
                usage.output_tokens,
                2 * (usage.cached_tokens or 0) > (usage.prompt_tokens or 0),
            )
            found = auto.succeeded(found, settings.slots, now, success)
        return Capacity(found, pause, _released(spent, attempt, now, usage))

    def corrected(self, settings: CapacitySettings, now: float, quotas: Quotas) -> Capacity:
        """Return the capacity after an answer has told what is left of the provider's limits."""
        return Capacity(self.found, self.pause, rates.corrected(self.spent, settings.rates, now, quotas))


def _released(spent: Spent | None, attempt: EndedAttempt, now: float, usage: Usage) -> Spent | None:
    return rates.released(spent, now, attempt.granted_s, attempt.estimate, usage)


def new_capacity(settings: CapacitySettings, now: float = 0.0) -> Capacity:
    """Return the capacity of a backend at the beginning."""
    slots = settings.slots
    found = auto.started(slots) if isinstance(slots, Auto) else Found(slots)
    return Capacity(found).configured(settings, now, 0)
