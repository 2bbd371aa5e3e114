"""The package's own observer: totals, forecasts, what the learning service needs, failures of the policy.

Does not deliver entries, or learn from them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._core.outlook import Outlook
from llmsched_langgraph._ledger.checks import OVER
from llmsched_langgraph._observe.forecasts import Forecasts
from llmsched_langgraph._observe.waits import Waits

logger = logging.getLogger("llmsched_langgraph")

_TO_LEARN_FROM = frozenset(["BeliefWanted", "CallClosed", "JobClosed"])


class Totals:
    """Totals since the driver was created. The ledger holds the current state.

    Attributes:
        holding: number of slots granted and not released, according to the entries read so far.
        peak: maximum number of slots held at once, over all backends.
        over_commitments: number of grants above the limit or during a pause, for calls that could not wait.
        jobs: number of closed jobs.
        waited_s: total wait of all granted calls, in seconds.
        prompt_tokens: known tokens sent.
        output_tokens: known tokens received.
    """

    def __init__(self) -> None:
        self.holding = 0
        self.peak = 0
        self.over_commitments = 0
        self.jobs = 0
        self.waited_s = 0.0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self._seen = 0

    def see(self, entry: Entry) -> None:
        """Count the entry, unless it was counted before."""
        number, _, kind, _, _, _, detail = entry
        if number <= self._seen:
            return
        # Compute first, store in one line: an interrupted entry is counted whole or not at all.
        if kind == "SlotGranted":
            holding, waited_s = self.holding + 1, self.waited_s + detail.granted_s - detail.asked_s
            peak, forced = max(self.peak, holding), self.over_commitments + (detail.reason in OVER)
            self.peak = peak  # idempotent
            self._seen, self.holding, self.waited_s, self.over_commitments = number, holding, waited_s, forced
        elif kind == "CallReleased":
            holding, usage = self.holding - 1, detail.usage
            sent, answered = usage.prompt_tokens or 0, usage.output_tokens or 0
            sent, answered = self.prompt_tokens + sent, self.output_tokens + answered
            self._seen, self.holding, self.prompt_tokens, self.output_tokens = number, holding, sent, answered
        elif kind == "CallMeasured":
            sent = self.prompt_tokens + (detail.prompt_tokens or 0)
            answered = self.output_tokens + (detail.output_tokens or 0)
            self._seen, self.prompt_tokens, self.output_tokens = number, sent, answered
        elif kind == "CallClosed" or (kind == "JobClosed" and detail.paused_since is None):
            # A job that was dropped while paused did not end.
            self._seen, self.jobs = number, self.jobs + 1


class PackageObserver:
    """Reads every entry once.

    Args:
        policy: the policy's name, for messages.
        look: see `Forecasts`.

    Attributes:
        totals: the totals so far.
        waits: how long calls waited.
        forecasts: when running jobs end, by what earlier ones took.
        learn: receives the entries for the learning service; None before that exists.
    """

    def __init__(self, policy: str, look: Callable[[Sequence[int]], Iterable[Outlook]]) -> None:
        self.totals, self.waits = Totals(), Waits()
        self.forecasts = Forecasts(look)
        self.learn: Callable[[Entry], None] | None = None
        self._policy = policy
        self._failed = False  # a failing policy is logged once

    def begin(self) -> Totals:
        """Begin anew, as in the child of a fork; return the new totals."""
        self.totals, self.waits = Totals(), Waits()
        self.forecasts.forked()
        return self.totals

    def see(self, entry: Entry) -> None:
        """Read one entry."""
        self.waits.see(entry)
        self.totals.see(entry)
        self.forecasts.see(entry)
        kind = entry.kind
        if kind == "JobClosed" and not entry.detail.progress.finished:
            return  # a job without a call teaches nothing
        if kind in _TO_LEARN_FROM and self.learn is not None:
            self.learn(entry)
        elif kind == "PolicyFailed" and not self._failed:
            self._failed = True
            logger.error(
                "policy %r failed; a job that it cannot order gets order 0 (smaller is served first), "
                "ties by arrival (logged once): %r",
                self._policy,
                entry.detail,
            )
