"""Defines the ledger's values: keys, lanes, tickets, changes and results.

Does not store or choose tickets. Values are frozen; times are seconds of the caller's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple, Protocol, Self

from llmsched_langgraph._arguments import is_whole
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.capacity import Capacity
from llmsched_langgraph._ledger.pauses import Failure, Pause
from llmsched_langgraph._ledger.quotas import Quotas
from llmsched_langgraph._ledger.rates import Estimate, estimate_of
from llmsched_langgraph._ledger.tenants import Share
from llmsched_langgraph.errors import ConfigurationError

PRIORITIES = range(-5, 6)
"""LangGraph's priorities; smaller ones are served first."""


def check_priority(priority: object, what: str) -> int:
    """Return `priority` if it is valid.

    Raises:
        ConfigurationError: it is not; the message begins with `what`.
    """
    if not is_whole(priority) or priority not in PRIORITIES:
        raise ConfigurationError(
            f"{what} must be a whole number from -5 to 5 (smaller is served first), not {priority!r}"
        )
    return priority


class CallInfo(NamedTuple):
    """The properties of a call when it requests a slot.

    Attributes:
        stage: the call's stage name.
        stage_occurrence: the stage occurrence that it is part of.
        occurrence: the call's number among the job's calls with this stage name, from 1.
        run: number of the stage run that makes it; None if unknown.
        first: number of the request among the job's events.
        models: the names of the requested model, in the order in which they are looked up.
        prompt_tokens: estimated prompt tokens; None if unknown.
        output_tokens: estimated output tokens; None if unknown.
        conversation: id of the conversation whose prefix it shares; empty if there is none.
        account: keyed hash of the call's credential; empty for the backend's own.
    """

    stage: str = ""
    stage_occurrence: StageOccurrence = StageOccurrence("", 1)
    occurrence: int = 1
    run: int | None = None
    first: int = 0
    models: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    conversation: str = ""
    account: str = ""

    @property
    def estimate(self) -> Estimate:
        """Its expected usage, as counted against rates."""
        return estimate_of(self.prompt_tokens, self.output_tokens)


class InformationGain(Protocol):
    """The part of a job's belief that exploration needs. It is immutable and may be lazy."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Interval of the job's remaining work when the belief was formed, in slot-seconds."""

    def uncertainty_reduction(self, stage: StageOccurrence) -> float:
        """Return R(X) of a ready stage, its uncertainty reduction, in bit-seconds."""


class Explore(NamedTuple):
    """The inputs of exploration for one lane (Algorithm 1 of LLMSched, arXiv 2504.03444).

    The job's work at time `now` is `done_s + holding * now - granted_sum_s`, in slot-seconds. The ledger
    subtracts the work received since `formed_s` from the interval.

    Attributes:
        information: the interval of the job's remaining work, and the information gain of its stages.
        formed_s: slot-seconds that the job had received when the interval was formed.
        done_s: slot-seconds of the job's ended calls.
        holding: slots that the job holds.
        granted_sum_s: sum of the grant times of those slots, in seconds of the clock.
        left: number of the lane's calls that may still be explored.
    """

    information: InformationGain
    formed_s: float
    done_s: float
    holding: int
    granted_sum_s: float
    left: int


class Key(NamedTuple):
    """The key that orders a lane within its backend; ties go to the earlier arrival.

    Attributes:
        level: the priority, smaller first. A level is served before all larger ones.
        order: the policy's order, smaller first.
        explore: what exploration needs; None if the lane is never explored.
        tenant: the tenant of the job; empty for none. Tenants share each level by their weights.
        urgent_s: clock time from which the lane goes before its tenant's others, because of its deadline.
        lost_s: clock time from which it no longer does, because its deadline cannot be met.
    """

    level: int = 0
    order: float = 0.0
    explore: Explore | None = None
    tenant: str = ""
    urgent_s: float = inf
    lost_s: float = inf


FIRST_COME = Key()

Line = tuple[str, int, str]
"""One tenant's lanes in one level of one backend: backend name, level, tenant."""

Lane = tuple[str, int, StageOccurrence]
"""One job's stage occurrence at one backend: backend name, job number, stage occurrence."""


# -- changes ------------------------------------------------------------------------------


class Request(NamedTuple):
    """A new ticket requests a slot of the lane's backend. A known ticket changes nothing.

    Attributes:
        ticket: its number, from 1.
        lane: the lane in which it waits.
        key: the lane's new key; None keeps the key, or sets `FIRST_COME` for a new lane.
        forced: whether it is granted at once, even above the limit or during a pause.
        call: the call's properties.
        arrival: the arrival number of an earlier ticket of the same call, which the ticket keeps; 0 for a
            new number.
        waited_s: seconds for which the lane's job has waited before.
    """

    ticket: int
    lane: Lane
    key: Key | None = None
    forced: bool = False
    call: CallInfo = CallInfo()
    arrival: int = 0
    waited_s: float = 0.0


class Force(NamedTuple):
    """Grant a waiting ticket at once, even above the limit. A ticket that does not wait changes nothing."""

    ticket: int


class Rekey(NamedTuple):
    """Change a lane's key. A lane without waiting tickets has no key: nothing changes."""

    lane: Lane
    key: Key


class Release(NamedTuple):
    """Release a ticket: remove it from the backlog, or free its slot. Legal from any state.

    Attributes:
        ticket: its number.
        usage: the tokens that it used; if they are `PENDING_USAGE`, `Measure` follows.
        failure: why the attempt failed; None if it did not.
        quotas: what the answer says of the provider's limits; None if it says nothing.
        well: whether the attempt was served to its end; True if unknown.
    """

    ticket: int
    usage: Usage = UNKNOWN_USAGE
    failure: Failure | None = None
    quotas: Quotas | None = None
    well: bool = True


class Measure(NamedTuple):
    """Count the tokens of a released ticket, which are known only now. At most once per ticket."""

    ticket: int
    usage: Usage


class Configure(NamedTuple):
    """Change a backend's settings. After a reduction, excess slots drain as they are released."""

    backend: Backend


Change = Request | Rekey | Release | Measure | Force | Configure

# -- results -----------------------------------------------------------------------------


class Waiting(NamedTuple):
    """A waiting ticket.

    Attributes:
        lane: the lane in which it waits.
        arrival: its arrival number over all backends.
        asked_s: clock time of its request.
        call: the call's properties.
    """

    lane: Lane
    arrival: int
    asked_s: float
    call: CallInfo


class Grant(NamedTuple):
    """A ticket that holds a slot.

    Attributes:
        lane: the lane of the ticket.
        asked_s: clock time of its request.
        granted_s: clock time of its grant.
        call: the call's properties.
        reason: "free" (no ticket waited), "order" (first in the policy's order), "explore" (largest gain),
            "deadline" (its deadline is close), "overdue" (its job has waited too long), "forced" (no slot was
            free and the call could not wait) or "cycle" (its wait could never end).
        concurrency: held slots of the backend at the grant, this one included.
        slots: the backend's slots at the grant.
        replica: the backend's replica that serves it; empty if there is one only.
        lease_until_s: clock time at which the lease ends unless renewed; None without a lease.
        arrival: its arrival number over all backends.
        share: the charge for it; None if there is no other tenant.
    """

    lane: Lane
    asked_s: float
    granted_s: float
    call: CallInfo
    reason: str
    concurrency: int
    slots: int
    replica: str = ""
    lease_until_s: float | None = None
    arrival: int = 0
    share: Share | None = None


class Crowd(NamedTuple):
    """The limit of waiting calls because of which a call is refused.

    Attributes:
        backend: the name of the backend.
        tenant: the tenant whose limit is reached; empty if it is the backend's.
        waiting: number of calls that wait: the tenant's there, or the backend's.
        limit: how many may.
    """

    backend: str
    tenant: str
    waiting: int
    limit: int


class Granted(NamedTuple):
    """The ticket got a slot."""

    ticket: int
    grant: Grant


class Lost(NamedTuple):
    """The ticket lost its slot without a release: its lease ended."""

    ticket: int


class Refused(NamedTuple):
    """The ticket may not wait, because as many calls wait as may. The ledger does not have it."""

    ticket: int
    crowd: Crowd


News = Granted | Lost | Refused


class BackendView(NamedTuple):
    """One backend at one moment.

    Attributes:
        backend: its settings.
        holding: held slots, forced ones included.
        waiting: tickets in its backlog.
        granted: total number of grants.
        released: total number of released slots.
        capacity: its limit of slots, its pauses, and what counts against its rates.
        overdue: the number of its last grant whose reason was "overdue"; None if there was none.
    """

    backend: Backend
    holding: int
    waiting: int
    granted: int
    released: int
    capacity: Capacity
    overdue: int | None = None

    @property
    def slots(self) -> int:
        """Its limit of concurrent calls now."""
        return self.capacity.found.limit

    @property
    def pause(self) -> Pause:
        """Its pauses."""
        return self.capacity.pause

    @property
    def ready_s(self) -> float:
        """Clock time from which the next grant is admissible, as far as pauses go."""
        return self.capacity.pause.ready_s(self.granted, self.slots)

    def admits_s(self, now: float, call: CallInfo) -> float:
        """Return the clock time from which a call is admissible, as far as pauses and rates go.

        If only the end of a call in flight can make room, it is 61 s from now.
        """
        capacity = self.capacity
        if capacity.spent is None:
            return self.ready_s
        return max(self.ready_s, capacity.ready_s(self.backend.settings, now, call.estimate))

    def stalled(self, now: float, call: CallInfo) -> bool:
        """Return whether the rates admit the call only after another one in flight has ended."""
        return self.capacity.stalled(self.backend.settings, now, call.estimate)


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A ledger at one moment.

    Attributes:
        backends: by name.
        waiting: the waiting tickets, by number, in arrival order.
        holding: the tickets that hold a slot, by number.
    """

    backends: Mapping[str, BackendView]
    waiting: Mapping[int, Waiting]
    holding: Mapping[int, Grant]

    @classmethod
    def of(cls, backends: Mapping[str, BackendView], values: Mapping[Any, Any]) -> Self:
        """Return the view of a ledger whose state has these values."""
        waiting = [(ticket, own) for ticket, own in values.items() if type(own) is Waiting]
        holding = {ticket: own for ticket, own in values.items() if type(own) is Grant}
        return cls(backends, dict(sorted(waiting, key=lambda pair: (pair[1].arrival, pair[0]))), holding)
