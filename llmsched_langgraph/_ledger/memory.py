"""Implements the ledger in the memory of one process.

Does not use jobs, policies, clocks, locks or IO. The state is a dict of immutable values (`truth.py`). Lines
and queues are indexes of it: a superset of the current entries, extended before a commit, cleaned after it,
and checked against the state at each read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

from llmsched_langgraph._ledger.checks import check_view
from llmsched_langgraph._ledger.exploration import Exploration, choose, in_order
from llmsched_langgraph._ledger.lines import Lines, WaitingLane
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Dues, Overdue
from llmsched_langgraph._ledger.pauses import paused
from llmsched_langgraph._ledger.queues import Queues
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.turns import Turns
from llmsched_langgraph._ledger.values import (
    FIRST_COME,
    Backend,
    BackendView,
    Change,
    Configure,
    Force,
    Grant,
    Granted,
    Key,
    Lane,
    LedgerView,
    Line,
    Lost,
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
        self._exploration = exploration
        self.overdue = overdue
        self.tenants = tenants
        self._committed = truth.committed
        self._names: dict[str, str] = {}  # keys of the backends in `Truth`
        for backend in backends:
            self._names[backend.name] = "backend " + backend.name
            truth.committed["backend " + backend.name] = BackendView(backend)
        truth.committed[_ARRIVALS] = 0
        self.more = True
        self.claim: Callable[[int], Waiting | Grant | None] = truth.committed.get
        self._queues = Queues(truth)
        self._first = self._queues.first
        self._lines = Lines(truth, self._queues)
        self._turns = Turns(truth, self._lines, tenants)
        self._dues = Dues(truth, self._queues, self._turns.limited)
        self._ripe: dict[str, None] = {}  # backends where a grant may be possible, now or later
        self._do: dict[type[Change], Callable[[float, Any], None]] = {
            Request: self._request,
            Rekey: self._rekey,
            Release: self._release,
            Force: self._force,
            Configure: self._configure,
        }

    # -- the protocol ------------------------------------------------------------------

    def attach(self, ready: Callable[[], None]) -> None:
        """See `Ledger.attach`. Nothing happens here without a `submit`, so `ready` is never called."""

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
        truth, committed, wake_s = self._truth, self._committed, None
        staged = truth.staged
        if _AT_ONCE in committed:
            made: tuple[Granted, ...] = committed[_AT_ONCE]
            truth.remove(_AT_ONCE)
            if self._own:
                truth.commit()
            return made, None
        for name in tuple(self._ripe):
            at = self._names[name]
            backend, holding, waiting, granted, released, pause, overdue = view = committed[at]
            if not waiting or holding >= backend.slots:
                self._ripe.pop(name, None)
                continue
            ready_s = pause.ready_s(granted, backend.slots)
            if now < ready_s and self._turns.next(name) is not None:
                wake_s = ready_s if wake_s is None else min(wake_s, ready_s)
                continue
            next_one = self._next(name, view, now)
            if next_one is None:  # the tenants of all that wait hold as many slots as they may
                self._ripe.pop(name, None)
                continue
            reason, (ticket, (lane, arrival, asked_s, call)) = next_one
            holding, waiting, granted = holding + 1, waiting - 1, granted + 1
            if reason == "overdue":
                overdue = granted
            share = self._turns.charge(self._line(lane))
            self._shorten(lane)
            fields = (lane, asked_s, now, call, reason, holding, backend.slots, "", None, arrival, share)
            grant = _new(Grant, fields)
            staged[ticket] = grant
            staged[at] = _new(BackendView, (backend, holding, waiting, granted, released, pause, overdue))
            self.more = (waiting > 0 and holding < backend.slots) or len(self._ripe) > 1
            if self._own:
                truth.commit()
            return (_new(Granted, (ticket, grant)),), None
        return (), wake_s

    def admit(self, now: float, request: Request) -> Grant | None:
        """See `Ledger.admit`."""
        ticket, lane, key, forced, call, arrival, _ = request
        if self._own:
            self._truth.begin()
        name = lane[0]
        at = self._names[name]
        staged = self._truth.staged
        backend, holding, waiting, granted, released, pause, overdue = (
            staged[at] if at in staged else self._committed[at]
        )
        reason, (level, _, _, tenant, _, _) = "free", FIRST_COME if key is None else key
        if (
            waiting
            or holding >= backend.slots
            or now < pause.ready_s(granted, backend.slots)
            or (tenant and self._turns.blocked(name, tenant))
        ):
            if not forced:
                return None
            reason = "forced"
        holding += 1
        if not arrival:
            arrival = staged[_ARRIVALS] = self._truth.get(_ARRIVALS) + 1
        share = self._turns.charge((name, level, tenant))
        fields = (lane, now, now, call, reason, holding, backend.slots, "", None, arrival, share)
        grant = _new(Grant, fields)
        staged[ticket] = grant
        staged[at] = _new(BackendView, (backend, holding, waiting, granted + 1, released, pause, overdue))
        if self._own:
            self._truth.commit()
        return grant

    def backend(self, name: str) -> BackendView:
        """See `Ledger.backend`."""
        found: BackendView = self._committed[self._names[name]]
        return found

    def limits(self, name: str) -> list[tuple[str, int, int]]:
        """See `Ledger.limits`."""
        return self._turns.limits(name)

    def tenant(self, claim: Waiting | Grant) -> str:
        """See `Ledger.tenant`."""
        if type(claim) is Grant:
            return "" if claim.share is None else claim.share.tenant
        lane: WaitingLane | None = self._committed.get(claim.lane)
        return "" if lane is None else lane.tenant

    @property
    def backends(self) -> Mapping[str, BackendView]:
        """See `Ledger.backends`."""
        return {name: self._committed[at] for name, at in self._names.items()}

    def view(self) -> LedgerView:
        """See `Ledger.view`."""
        values = tuple(self._committed.items())
        waiting = [(ticket, value) for ticket, value in values if type(value) is Waiting]
        holding = {ticket: value for ticket, value in values if type(value) is Grant}
        return LedgerView(self.backends, dict(sorted(waiting, key=lambda own: own[1].arrival)), holding)

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
        at = self._names[name]
        backend, holding, waiting, granted, released, pause, overdue = view = truth.get(at)
        kept = bool(arrival)
        if not kept:
            arrival = staged[_ARRIVALS] = truth.get(_ARRIVALS) + 1
        known: WaitingLane | None = truth.get(lane)
        if key is None:
            key = FIRST_COME if known is None else Key(*known[:6])
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
        staged[at] = _new(BackendView, (backend, holding, waiting + 1, granted, released, pause, overdue))

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
        if again or moved or after.order != before.order or after.urgent_s != before.urgent_s:
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
        truth = self._truth
        ticket, staged = release.ticket, truth.staged
        claim = staged[ticket] if ticket in staged else self._committed.get(ticket)
        if claim is None:
            return
        name = claim.lane[0]
        at = self._names[name]
        backend, holding, waiting, granted, released, pause, overdue = (
            staged[at] if at in staged else self._committed[at]
        )
        truth.remove(ticket)
        if type(claim) is Grant:
            holding, released = holding - 1, released + 1
            failure = release.failure
            if failure is not None or pause.backoff_s:
                pause = paused(pause, granted, claim.granted_s, now, failure)
            if claim.share is not None:
                self._turns.settle(name, claim.share, None if failure else now - claim.granted_s)
        else:
            self._shorten(claim.lane)
            waiting -= 1
        if waiting:
            self._ripe[name] = None
        staged[at] = _new(BackendView, (backend, holding, waiting, granted, released, pause, overdue))

    def _force(self, now: float, force: Force) -> None:
        truth, ticket = self._truth, force.ticket
        claim = truth.get(ticket)
        if type(claim) is not Waiting:
            return
        lane, arrival, asked_s, call = claim
        at = self._names[lane[0]]
        backend, holding, waiting, granted, released, pause, overdue = truth.get(at)
        share = self._turns.charge(self._line(lane))
        self._shorten(lane)
        holding += 1
        fields = (lane, asked_s, now, call, "cycle", holding, backend.slots, "", None, arrival, share)
        grant = truth.staged[ticket] = _new(Grant, fields)
        view = (backend, holding, waiting - 1, granted + 1, released, pause, overdue)
        truth.staged[at] = _new(BackendView, view)
        self._report(ticket, grant)

    def _report(self, ticket: int, grant: Grant) -> None:
        """Have `settle` return the grant that a change made."""
        self._truth.staged[_AT_ONCE] = (*(self._truth.get(_AT_ONCE) or ()), Granted(ticket, grant))

    def _configure(self, now: float, configure: Configure) -> None:
        backend = configure.backend
        at = self._names[backend.name]
        self._truth.staged[at] = self._truth.get(at)._replace(backend=backend)
        self._ripe[backend.name] = None

    def _shorten(self, lane: Lane) -> None:
        """Decrement the lane's number of waiting tickets."""
        truth = self._truth
        known: WaitingLane = truth.get(lane)
        if known.waiting == 1:
            truth.remove(lane, self._queues.forget)
            self._turns.leave((lane[0], known.level, known.tenant))
        else:
            truth.staged[lane] = _new(WaitingLane, (*known[:6], known.waiting - 1, known.due_s))

    # -- grants ------------------------------------------------------------------------

    def _next(self, name: str, view: BackendView, now: float) -> tuple[str, tuple[int, Waiting]] | None:
        """Return the ticket to grant next, and the reason; None if none may have a slot."""
        if self.overdue.turn(view):
            lane = self._dues.first(name, view.pause.open_s(now), self._turns.blocked)
            if lane is not None:
                return "overdue", self._first(lane)
        line = self._turns.next(name)
        if line is None:
            return None
        urgent = self._lines.urgent(line, now)
        if urgent is not None:
            return "deadline", urgent
        if self._exploration is not None and self._exploration.turn(view.granted + 1):
            found = self._most_informative(line, now)
            if found is not None:
                return "explore", found
        return "order", self._lines.head(line)

    def _most_informative(self, line: Line, now: float) -> tuple[int, Waiting] | None:
        """Return the first ticket of the lane with the largest gain; None if no lane has a gain."""
        try:
            lanes = in_order(self._lines.ranks[line], line, self._committed.get, self._first)
            lane = choose(lanes, now)
        except Exception:  # a bug in a user's belief costs this exploration, never a slot
            return None
        return None if lane is None else self._first(lane)

    # -- what must hold ----------------------------------------------------------------

    def check(self, now: float) -> None:
        """See `Ledger.check`."""
        view, committed = self.view(), self._committed
        assert not self._truth.staged, "a decision was left half made"
        check_view(view, now, lambda own: not self._turns.blocked(own.lane[0], committed[own.lane].tenant))
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
