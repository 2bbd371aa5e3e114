"""Knows what the package itself does about the entries of a story: it counts, learns, and tells of failures.

Does not know how entries come, nor how anything is learned.
"""

from __future__ import annotations

import logging

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._learning.service import LearningService

logger = logging.getLogger("llmsched_langgraph")

_FOR_LEARNING = frozenset(["BeliefWanted", "CallClosed", "JobClosed"])


class Counts:
    """Totals since the driver was made. What is true right now is the ledger's to say.

    Attributes:
        peak: the highest number of slots that were held at once, over all backends.
        over_commitments: calls that were granted because they could not wait.
        jobs: jobs that are closed.
        waited_s: seconds that all granted calls waited, together.
        prompt_tokens: tokens sent, as far as they are known.
        output_tokens: tokens answered, as far as they are known.
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
        """Count one entry."""
        number, _, kind, _, _, _, detail = entry
        if number <= self._seen:
            return
        # First all that is new, then one line that stores it: so each entry counts once, and as a whole.
        if kind == "SlotGranted":
            holding, waited_s = self.holding + 1, self.waited_s + detail.granted_s - detail.asked_s
            peak, forced = max(self.peak, holding), self.over_commitments + (detail.reason == "forced")
            self.peak = peak  # the same however often
            self._seen, self.holding, self.waited_s, self.over_commitments = number, holding, waited_s, forced
        elif kind == "CallReleased":
            holding, usage = self.holding - 1, detail.usage
            sent, answered = usage.prompt_tokens or 0, usage.output_tokens or 0
            sent, answered = self.prompt_tokens + sent, self.output_tokens + answered
            self._seen, self.holding, self.prompt_tokens, self.output_tokens = number, holding, sent, answered
        elif kind == "CallClosed" or (kind == "JobClosed" and detail.paused_since is None):
            # One that was paused is forgotten, and has not ended.
            self._seen, self.jobs = number, self.jobs + 1


class PackageObserver:
    """The package's own observer.

    Args:
        policy: the policy's name, for messages.

    Attributes:
        counts: the totals so far.
        mind: what learns; None until there is one.
    """

    def __init__(self, policy: str) -> None:
        self.counts = Counts()
        self.service: LearningService | None = None
        self._policy = policy
        self._failed = False  # whether the policy has failed, which is told of once

    def see(self, entry: Entry) -> None:
        """Take in one entry."""
        self.counts.see(entry)
        kind = entry.kind
        if kind == "JobClosed" and not entry.detail.progress.finished:
            return  # without a call it teaches nothing
        if kind in _FOR_LEARNING and self.service is not None:
            self.service.see(entry)
        elif kind == "PolicyFailed" and not self._failed:
            self._failed = True
            logger.error(
                "policy %r failed; the jobs it fails for go in order of arrival (said once): %r",
                self._policy,
                entry.detail,
            )
