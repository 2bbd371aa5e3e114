"""Implements the ledger in the memory of one process.

Does not use jobs, policies, clocks, locks or IO. The state is a dict of immutable values (`truth.py`). Lines
and queues are indexes of it: a superset of the current entries, extended before a commit, cleaned after it,
and checked against the state at each read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Any

from llmsched_langgraph._jobs.calls import PENDING_USAGE, UNKNOWN_USAGE
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.ceilings import Ceilings
from llmsched_langgraph._ledger.checks import check_view
from llmsched_langgraph._ledger.exploration import Exploration
from llmsched_langgraph._ledger.lines import Lines, WaitingLane, key_of
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Dues, Overdue
from llmsched_langgraph._ledger.pools import Pools
from llmsched_langgraph._ledger.preview import Next, order_of_service
from llmsched_langgraph._ledger.queues import Queues
from llmsched_langgraph._ledger.selection import Selection
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.turns import Turns
from llmsched_langgraph._ledger.values import (
    FIRST_COME,
    BackendView,
    CallInfo,
    Change,
    Configure,
    Crowd,
    Force,
    Grant,
    Granted,
    Lane,
    LedgerView,
    Line,
    Lost,
    Measure,
    Rekey,
    Release,
    Request,
    Waiting,
)

_ARRIVALS = "#arrivals"
_AT_ONCE = "#at once"


_new = tuple.__new__
"""Builds a named tuple in C, without Python bytecode."""


class MemoryLedger:
    """The `Ledger` protocol in memory. `claim` is a dict look-up of the committed state.

    `settle` grants one ticket per call. A change costs amortised O(log n) in the waiting lanes.

    Args:
        backends: the pools of slots.
        exploration: the exploration settings; None for no exploration.
        truth: the store of its values, committed by its owner. None for a private one, in which each change
            and each grant is committed by itself.
        overdue: the bound of waiting.
        tenants: the settings of the tenants.

    Attributes:
        overdue: the bound of waiting.
        tenants: the settings of the tenants.
        more: whether `settle` may have another result after the last one.
    """

    refusal: Exception | None = None

    def __init__(
        self,
        backends: Iterable[Backend],
        exploration: Exploration | None = None,
        truth: Truth | None = None,
        overdue: Overdue = UNBOUNDED,
        tenants: Tenants = NO_TENANTS,
    ) -> None:
        self._own = truth is None
        self._truth = truth = Truth() if truth is None else truth
        self.overdue = overdue
        self.tenants = tenants
        self._committed = truth.committed
        self._pools = Pools(truth, backends)
        truth.committed[_ARRIVALS] = 0
        self.more = True
        self.claim: Callable[[int], Waiting | Grant | None] = truth.committed.get
        self._queues = Queues(truth)
        self._first = self._queues.first
        self._lines = Lines(truth, self._queues)
        self._ceilings = ceilings = Ceilings(truth, tenants)
        self._turns = Turns(truth, self._lines, tenants, ceilings)
        self._dues = Dues(truth, self._queues, ceilings.__contains__)
        indexes = self._queues, self._lines, self._turns, self._dues
        self._next = Selection(truth, *indexes, ceilings, overdue, exploration).next
        self._ripe: dict[str, None] = {}  # backends where a grant may be possible, now or later
        self._do: dict[type[Change], Callable[[float, Any], None]] = {
            Request: self._request,
            Rekey: self._rekey,
            Release: self._release,
            Measure: self._measure,
            Force: self._force,
            Configure: self._configure,
        }

    # -- the protocol ------------------------------------------------------------------

    def attach(self, ready: Callable[[], None], fail: Callable[[Exception], None]) -> None:
        """See `Ledger.attach`. Nothing happens here without a `submit`, so neither is ever called."""

    def close(self) -> None:
        """See `Ledger.close`. The ledger holds nothing itself."""

    def submit(self, now: float, *changes: Change) -> None:
        """See `Ledger.submit`."""
        if self._own:
            self._truth.begin()
        for change in changes:
            self._do[type(change)](now, change)
            if self._own:
                self._truth.commit()

    def settle(self, now: float) -> tuple[tuple[Granted | Lost, ...], float | None]:
        """See `Ledger.settle`."""
        if self._own:
            self._truth.begin()
        truth, committed, names, wake_s = self._truth, self._committed, self._pools.names, None
        if _AT_ONCE in committed:
            made: tuple[Granted, ...] = committed[_AT_ONCE]
            truth.remove(_AT_ONCE)
            if self._own:
                truth.commit()
            return made, None
        for name in tuple(self._ripe):
            backend, holding, waiting, granted, _, capacity, _ = view = committed[names[name]]
            slots = capacity.found.limit
            if not waiting or holding >= slots:
                self._ripe.pop(name, None)
                continue
            self._turns.back(now, name)
            ready_s = capacity.pause.ready_s(granted, slots)
            if now < ready_s and self._turns.next(now, name) is not None:
                wake_s = ready_s if wake_s is None else min(wake_s, ready_s)
                continue
            next_one = self._next(now, name, view)
            if next_one is None:  # all waiting tenants are at limits of their own
                back_s = self._turns.back(now, name)
                if back_s is None:
                    self._ripe.pop(name, None)
                else:
                    wake_s = back_s if wake_s is None else min(wake_s, back_s)
                continue
            reason, (ticket, waits) = next_one
            if capacity.spent is not None:
                ready_s = capacity.ready_s(backend.settings, now, waits.call.estimate)
                if now < ready_s:  # it keeps its place: no ticket overtakes it
                    wake_s = ready_s if wake_s is None else min(wake_s, ready_s)
                    continue
            grant = self._take(now, ticket, waits, reason)
            self.more = (waiting > 1 and holding + 1 < slots) or len(self._ripe) > 1
            if self._own:
                truth.commit()
            return (_new(Granted, (ticket, grant)),), None
        return (), wake_s

    def admit(self, now: float, request: Request) -> Grant | None:
        """See `Ledger.admit`."""
        ticket, lane, key, forced, call, arrival, _ = request
        if self._own:
            self._truth.begin()
        name, staged = lane[0], self._truth.staged
        backend, holding, waiting, granted, _, capacity, _ = self._pools.get(name)
        slots = capacity.found.limit
        reason, (level, _, _, tenant, _, _) = "free", FIRST_COME if key is None else key
        if (
            waiting
            or holding >= slots
            or now < capacity.pause.ready_s(granted, slots)
            or (tenant and self._ceilings.blocked(now, name, tenant))
            or (capacity.spent is not None and now < capacity.ready_s(backend.settings, now, call.estimate))
        ):
            if not forced:
                return None
            reason = "forced"
        if not arrival:
            arrival = staged[_ARRIVALS] = self._truth.get(_ARRIVALS) + 1
        share = self._turns.charge(now, (name, level, tenant))
        waits = _new(Waiting, (lane, arrival, now, call))
        grant = self._pools.hold(now, ticket, waits, reason, share, queued=False)
        if self._own:
            self._truth.commit()
        return grant

    def backend(self, name: str) -> BackendView:
        """See `Ledger.backend`."""
        found: BackendView = self._committed[self._pools.names[name]]
        return found

    def unmeasured(self, ticket: int) -> bool:
        """See `Ledger.unmeasured`."""
        return self._pools.unmeasured(ticket)

    def expire(self, now: float) -> None:
        """Stop waiting for tokens that have not become known for a minute (`pools.MEASURED_S`)."""
        for ticket in self._pools.unmeasured_since(now):
            self._measure(now, Measure(ticket, UNKNOWN_USAGE))

    def crowd(self, now: float, name: str, tenant: str) -> Crowd | None:
        """See `Ledger.crowd`."""
        view = self.backend(name)
        limit, waiting = view.backend.max_queued, view.waiting
        if not waiting:  # the path of every call that gets a slot at once
            return None
        found = self._turns.crowd(name, tenant) if limit is None or waiting < limit else None
        if limit is not None and waiting >= limit:
            found = Crowd(name, "", waiting, limit)
        if found is None or view.holding >= view.slots or self._ceilings.blocked(now, name, tenant):
            return found
        # Those that wait may all be of tenants at their limit.
        return found if view.admits_s(now, CallInfo()) > now else None

    def limits(self, name: str) -> list[tuple[str, int, int]]:
        """See `Ledger.limits`."""
        return self._ceilings.held_of(name)

    def tenant(self, claim: Waiting | Grant) -> str:
        """See `Ledger.tenant`."""
        if type(claim) is Grant:
            return "" if claim.share is None else claim.share.tenant
        lane: WaitingLane | None = self._committed.get(claim.lane)
        return "" if lane is None else lane.tenant

    @property
    def backends(self) -> Mapping[str, BackendView]:
        """See `Ledger.backends`."""
        found = {name: self._committed.get(at) for name, at in tuple(self._pools.names.items())}
        return {name: view for name, view in found.items() if view is not None}  # one is being added

    def view(self) -> LedgerView:
        """See `Ledger.view`."""
        return LedgerView.of(self.backends, self._committed.copy())  # `copy` runs no Python code

    def preview(self, now: float, name: str) -> list[Next]:
        """See `Ledger.preview`."""
        served, blocked = self._turns.served(name), partial(self._ceilings.blocked, now, name)
        state = self._committed.copy(), self.overdue, self.tenants
        return list(order_of_service(now, self.backend(name), *state, served, blocked))

    # -- changes -----------------------------------------------------------------------

    def _request(self, now: float, request: Request) -> None:
        ticket, lane, key, forced, call, arrival, waited_s = request
        truth = self._truth
        staged, name = truth.staged, lane[0]
        if truth.get(ticket) is not None:
            return
        if forced:
            grant = self.admit(now, request)
            assert grant is not None
            self._report(ticket, grant)
            return
        view = self._pools.get(name)
        kept = bool(arrival)
        if not kept:
            arrival = staged[_ARRIVALS] = truth.get(_ARRIVALS) + 1
        known: WaitingLane | None = truth.get(lane)
        if key is None:
            key = key_of(known)
        if known is None:
            waits = _new(WaitingLane, (*key, 1, self.overdue.due_s(view, now, waited_s)))
            self._lines.add(lane, waits, arrival)
            self._turns.enter((name, key.level, key.tenant), arrival)
            self._dues.add(lane, waits.tenant, waits.due_s)
        else:
            waits = _new(WaitingLane, (*key, known.waiting + 1, known.due_s))
            self._move(lane, known, waits, min(self._first(lane)[1].arrival, arrival), again=kept)
        self._queues.add(lane, arrival, ticket, waits.waiting, sort=kept)
        self._ripe[name] = None
        staged[ticket] = _new(Waiting, (lane, arrival, now, call))
        staged[lane] = waits
        self._pools.queue(name)

    def _rekey(self, now: float, rekey: Rekey) -> None:
        lane, key = rekey
        known: WaitingLane | None = self._truth.get(lane)
        if known is None:
            return
        waits = self._truth.staged[lane] = _new(WaitingLane, (*key, known.waiting, known.due_s))
        self._move(lane, known, waits, self._first(lane)[1].arrival)

    def _move(
        self, lane: Lane, before: WaitingLane, after: WaitingLane, arrival: int, *, again: bool = False
    ) -> None:
        """Index a lane whose key may have changed, or with `again` its arrival."""
        moved = after.level != before.level or after.tenant != before.tenant
        urgent = (after.urgent_s, after.lost_s) != (before.urgent_s, before.lost_s)
        if again or moved or urgent or after.order != before.order:
            self._lines.add(lane, after, arrival)
        if moved:
            self._turns.enter((lane[0], after.level, after.tenant), arrival)
            self._turns.leave((lane[0], before.level, before.tenant))
            self._ripe[lane[0]] = None
            self._dues.add(lane, after.tenant, after.due_s)

    def _line(self, lane: Lane) -> Line:
        """Return the line of a lane in which tickets wait."""
        known: WaitingLane = self._truth.get(lane)
        return lane[0], known.level, known.tenant

    def _release(self, now: float, release: Release) -> None:
        truth, ticket = self._truth, release.ticket
        claim = truth.staged[ticket] if ticket in truth.staged else self._committed.get(ticket)
        if claim is None:
            return
        name = claim.lane[0]
        truth.remove(ticket)
        if type(claim) is not Grant:
            self._shorten(claim.lane)
        elif claim.share is not None:
            failed = release.failure is not None
            self._turns.settle(name, claim.share, None if failed else now - claim.granted_s)
            if claim.share.tokens and (failed or release.usage is not PENDING_USAGE):
                self._ceilings.count(now, name, claim.share, claim.granted_s, release.usage, failed=failed)
        if self._pools.free(now, release, claim):
            self._ripe[name] = None

    def _measure(self, now: float, measure: Measure) -> None:
        pending = self._pools.measure(now, *measure)
        if pending is None:
            return
        (name, attempt, _, share), usage = pending, measure.usage
        if share is not None and share.tokens:
            self._ceilings.count(now, name, share, attempt.granted_s, usage, failed=False)
        self._ripe[name] = None

    def _force(self, now: float, force: Force) -> None:
        truth, ticket = self._truth, force.ticket
        claim = truth.get(ticket)
        if type(claim) is not Waiting:
            return
        self._report(ticket, self._take(now, ticket, claim, "cycle"))

    def _report(self, ticket: int, grant: Grant) -> None:
        """Let `settle` return the grant that a change made."""
        self._truth.staged[_AT_ONCE] = (*(self._truth.get(_AT_ONCE) or ()), Granted(ticket, grant))

    def _configure(self, now: float, configure: Configure) -> None:
        if self._pools.configure(now, configure.backend):
            self._ripe[configure.backend.name] = None

    def _take(self, now: float, ticket: int, waits: Waiting, reason: str) -> Grant:
        """Grant a slot to a ticket of the backlog."""
        share = self._turns.charge(now, self._line(waits.lane))
        self._shorten(waits.lane)
        return self._pools.hold(now, ticket, waits, reason, share, queued=True)

    def _shorten(self, lane: Lane) -> None:
        """Decrement the lane's number of waiting tickets."""
        truth = self._truth
        known: WaitingLane = truth.get(lane)
        if known.waiting == 1:
            truth.remove(lane, self._queues.forget)
            self._turns.leave((lane[0], known.level, known.tenant))
        else:
            truth.staged[lane] = _new(WaitingLane, (*known[:6], known.waiting - 1, known.due_s))

    # -- what must hold ----------------------------------------------------------------

    def check(self, now: float) -> None:
        """See `Ledger.check`."""
        view, committed = self.view(), self._committed
        assert not self._truth.staged, "a decision was left half made"
        blocked = partial(self._ceilings.blocked, now)
        check_view(view, now, lambda own: not blocked(own.lane[0], committed[own.lane].tenant))
        lanes: dict[Lane, int] = {}
        for ticket, claim in view.waiting.items():
            lanes[claim.lane] = lanes.get(claim.lane, 0) + 1
            assert (claim.arrival, ticket) in self._queues.of[claim.lane], "a waiting ticket is in no queue"
        known = {key: value for key, value in committed.items() if type(value) is WaitingLane}
        assert lanes == {lane: own.waiting for lane, own in known.items()}, "lanes and tickets differ"
        for lane, own in known.items():
            self._lines.check(now, lane, own, self._first(lane)[1].arrival)
            assert own.due_s == inf or self._dues.has(lane, own.tenant, own.due_s), (
                "a lane that waits would never be overdue"
            )
        self._turns.check(view, known)
        for name in view.backends:
            served = Counter(own.replica for own in view.holding.values() if own.lane[0] == name)
            served.pop("", None)
            assert self._pools.held(name) == served, "the calls of replicas are counted wrongly"
