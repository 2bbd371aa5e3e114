"""Measures what the metrics tell, from the story's entries.

Does not export anything, or count current values: the ledger has those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._core.ending import predicted
from llmsched_langgraph._core.events import CallRequested, Entry
from llmsched_langgraph._jobs.calls import PENDING_USAGE, Outcome, Usage
from llmsched_langgraph._ledger.checks import OVER as EXCEEDING
from llmsched_langgraph._observe.bounds import Bounded
from llmsched_langgraph._observe.metrics import (
    CALLS,
    COUNTERS,
    DURATION,
    ERROR,
    HISTOGRAMS,
    OVER,
    PAUSES,
    TOKENS,
    WAIT,
    WITHDRAWN,
    Labels,
    Metric,
)

TICKETS = 100_000
"""Tickets that are remembered at once; older ones are forgotten. Only missed entries make them more."""


class Spread(NamedTuple):
    """The observations of one series of a histogram.

    Attributes:
        counts: number of observations in each bucket; the last bucket has no upper bound.
        total: their sum.
    """

    counts: tuple[int, ...]
    total: float

    def plus(self, value: float, bounds: tuple[float, ...]) -> Spread:
        """Return it with one more observation."""
        at = bisect_left(bounds, value)
        return Spread((*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :]), self.total + value)


class _Ticket(NamedTuple):
    """A ticket that is not measured yet."""

    backend: str
    tenant: str
    asked_s: float


class Measures:
    """The totals of one scheduler since they are measured. Entries are seen one at a time.

    A reader in another thread sees each series before or after an entry, never in between.

    Args:
        shared: returns the name of a backend, given that of one of its accounts.
        observed: receives each observation of a histogram; None if nobody does.

    Attributes:
        counters: by metric and labels.
        spreads: of histograms, by metric and labels.
    """

    def __init__(
        self,
        shared: Callable[[str], str],
        observed: Callable[[Metric, float, Labels], object] | None = None,
    ) -> None:
        self.counters: dict[Metric, dict[Labels, float]] = {metric: {} for metric in COUNTERS}
        self.spreads: dict[Metric, dict[Labels, Spread]] = {metric: {} for metric in HISTOGRAMS}
        self._shared = shared
        self._observed = observed
        self._backends, self._tenants, self._applications = Bounded(), Bounded(), Bounded()
        self._seen = 0
        self._owners: dict[int, str] = {}  # the tenants of jobs
        self._direct: dict[int, str] = {}  # the tenants of calls that are jobs of their own
        self._tickets: dict[int, _Ticket] = {}

    def begin(self, backends: Collection[str]) -> None:
        """Show the counters of these backends as 0: the growth from nothing to 1 is none for Prometheus."""
        for metric in (OVER, PAUSES):
            for backend in backends:
                self.counters[metric].setdefault((self._backends(backend),), 0)

    def forked(self) -> None:
        """Begin anew in the child of a fork: the parent's tickets stay with the parent."""
        for counts in self.counters.values():
            counts.clear()
        for spreads in self.spreads.values():
            spreads.clear()
        self._direct, self._tickets = {}, {}

    def asked(self, request: CallRequested) -> None:
        """Hear of a request, before its entry."""
        if request.tenant:
            self._direct[request.ticket] = request.tenant

    def see(self, entry: Entry) -> None:
        """Measure the entry, unless it was seen before: each at most once."""
        number, at_s, kind, job, ticket, backend, detail = entry
        if number <= self._seen:
            return
        self._seen = number
        match kind:
            case "JobArrived" | "JobResumed":
                self._owners[job] = detail.tenant
            case "CallQueued":
                self._know(ticket, job, backend, at_s)
            case "SlotGranted":
                own = self._tickets.get(ticket) or self._know(ticket, job, backend, at_s)
                self._observe(WAIT, detail.granted_s - detail.asked_s, own[:2])
                if detail.reason in EXCEEDING:
                    self._count(OVER, 1, own[:1])
            case "CallReleased":
                pending = detail.usage is PENDING_USAGE
                known = self._tickets.get(ticket) if pending else self._tickets.pop(ticket, None)
                own = known or self._know(ticket, job, backend, at_s, keep=pending)
                self._count(CALLS, 1, (*own[:2], detail.reason, detail.outcome.value))
                self._use(own, detail.usage)
            case "CallMeasured":
                if known := self._tickets.pop(ticket, None):
                    self._use(known, detail)
            case "CallWithdrawn" | "CallRefused":
                if waited := self._tickets.pop(ticket, None):
                    self._observe(WITHDRAWN, at_s - waited.asked_s, waited[:2])
                elif kind == "CallWithdrawn":
                    return  # it was refused, or waited before it was observed
                else:
                    waited = self._know(ticket, job, backend, at_s, keep=False)
                outcome = "refused" if kind == "CallRefused" else "withdrawn"
                self._count(CALLS, 1, (*waited[:2], "", outcome))
            case "BackendPaused":
                self._count(PAUSES, 1, (self._backends(self._shared(backend)),))
            case "JobClosed":
                self._owners.pop(job, None)
                self._close(detail)

    def _know(self, ticket: int, job: int, backend: str, at_s: float, *, keep: bool = True) -> _Ticket:
        tenant = self._owners.get(job, "") or self._direct.get(ticket, "")
        self._direct.pop(ticket, None)
        own = _Ticket(self._backends(self._shared(backend)), self._tenants(tenant), at_s)
        if keep:
            self._tickets[ticket] = own
            while len(self._tickets) > TICKETS:
                del self._tickets[next(iter(self._tickets))]
        return own

    def _use(self, own: _Ticket, usage: Usage) -> None:
        if usage.prompt_tokens:
            self._count(TOKENS, usage.prompt_tokens, (*own[:2], "input"))
        if usage.output_tokens:
            self._count(TOKENS, usage.output_tokens, (*own[:2], "output"))

    def _close(self, job: Any) -> None:
        if job.id is None or job.paused_since is not None or not job.progress.finished:
            return  # a call outside any run, a run that was dropped while paused, a run without calls
        took_s = job.ended_s - job.arrival_s - job.paused_s
        outcome = Outcome.FINISHED if job.outcome is None else job.outcome
        application = self._applications(name_of(job.template))
        self._observe(DURATION, took_s, (application, outcome.value))
        if outcome is Outcome.FINISHED and (found := predicted(job)) is not None:
            self._observe(ERROR, abs(found[0] - job.progress.done_s), (application,))

    def _count(self, metric: Metric, more: float, labels: Labels) -> None:
        series = self.counters[metric]
        series[labels] = series.get(labels, 0) + more

    def _observe(self, metric: Metric, value: float, labels: Labels) -> None:
        series, value = self.spreads[metric], max(0.0, value)
        known = series.get(labels)
        if known is None:
            known = Spread((0,) * (len(metric.buckets) + 1), 0.0)
        series[labels] = known.plus(value, metric.buckets)
        if self._observed is not None:
            self._observed(metric, value, labels)


def name_of(application: Application) -> str:
    """Return the name of an application, as in labels and attributes."""
    return application.name or "LangGraph"
