"""Implements the ledger in the memory of one process.

Does not use jobs, policies, clocks, locks or IO. The state is a dict of immutable values (`truth.py`). Heaps
and queues are indexes of it: a superset of the current entries, extended before a commit, cleaned after it,
and checked against the state at each read.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, NamedTuple

from llmsched_langgraph._ledger.checks import check_view
from llmsched_langgraph._ledger.exploration import Exploration, choose, in_order
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue, first_due
from llmsched_langgraph._ledger.pauses import paused
from llmsched_langgraph._ledger.queues import Queues
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import (
    FIRST_COME,
    Backend,
    BackendView,
    Change,
    Configure,
    Explore,
    Force,
    Grant,
    Granted,
    Key,
    Lane,
    LedgerView,
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

Rank = tuple[int, float, int, Lane]
"""A lane's position: level, order, arrival of its first ticket, lane."""


class _Lane(NamedTuple):
    level: int
    order: float
    explore: Explore | None
    waiting: int
    due_s: float  # when it becomes overdue, on the clock that stands during pauses


class MemoryLedger:
    """The `Ledger` protocol in memory. `claim` is a dict look-up of the committed state.

    `settle` grants one ticket per call. A change costs amortised O(log n) in the waiting lanes.

    Args:
        backends: the pools of slots.
        exploration: the exploration settings; None for no exploration.
        truth: the store of its values, committed by its owner. None for a private one, in which each change
            and each grant is committed by itself.
        overdue: the bound of waiting.

    Attributes:
        overdue: the bound of waiting.
        more: whether `settle` may have another result after the last one.
    """

    def __init__(
        self,
        backends: Iterable[Backend],
        exploration: Exploration | None = None,
        truth: Truth | None = None,
        overdue: Overdue = UNBOUNDED,
    ) -> None:
        self._own = truth is None
        self._truth = truth = Truth() if truth is None else truth
        self._exploration = exploration
        self.overdue = overdue
        self._committed = truth.committed
        self._names: dict[str, str] = {}  # keys of the backends in `Truth`
        for backend in backends:
            self._names[backend.name] = "backend " + backend.name
            truth.committed["backend " + backend.name] = BackendView(backend)
        truth.committed[_ARRIVALS] = 0
        self.more = True
        self.claim: Callable[[int], Waiting | Grant | None] = truth.committed.get
        self._heaps: dict[str, list[Rank]] = {name: [] for name in self._names}
        self._dues: dict[str, list[tuple[float, Lane]]] = {name: [] for name in self._names}
        self._queues = Queues(truth)
        self._first = self._queues.first
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
            if now < ready_s:
                wake_s = ready_s if wake_s is None else min(wake_s, ready_s)
                continue
            reason, found = self._next(name, view, now)
            holding, waiting, granted = holding + 1, waiting - 1, granted + 1
            if reason == "overdue":
                overdue = granted
            ticket, (lane, arrival, asked_s, call) = found
            self._shorten(lane)
            grant = _new(Grant, (lane, asked_s, now, call, reason, holding, backend.slots, "", None, arrival))
            staged[ticket] = grant
            staged[at] = _new(BackendView, (backend, holding, waiting, granted, released, pause, overdue))
            self.more = (waiting > 0 and holding < backend.slots) or len(self._ripe) > 1
            if self._own:
                truth.commit()
            return (_new(Granted, (ticket, grant)),), None
        return (), wake_s

    def admit(self, now: float, request: Request) -> Grant | None:
        """See `Ledger.admit`."""
        ticket, lane, _, forced, call, arrival, _ = request
        if self._own:
            self._truth.begin()
        at = self._names[lane[0]]
        staged = self._truth.staged
        backend, holding, waiting, granted, released, pause, overdue = (
            staged[at] if at in staged else self._committed[at]
        )
        reason = "free"
        if waiting or holding >= backend.slots or now < pause.ready_s(granted, backend.slots):
            if not forced:
                return None
            reason = "forced"
        holding += 1
        if not arrival:
            arrival = staged[_ARRIVALS] = self._truth.get(_ARRIVALS) + 1
        grant = _new(Grant, (lane, now, now, call, reason, holding, backend.slots, "", None, arrival))
        staged[ticket] = grant
        staged[at] = _new(BackendView, (backend, holding, waiting, granted + 1, released, pause, overdue))
        if self._own:
            self._truth.commit()
        return grant

    def backend(self, name: str) -> BackendView:
        """See `Ledger.backend`."""
        found: BackendView = self._committed[self._names[name]]
        return found

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
        known: _Lane | None = truth.get(lane)
        if key is None:
            key = FIRST_COME if known is None else Key(known.level, known.order, known.explore)
        if known is None:
            count, due_s = 1, self.overdue.due_s(view, now, waited_s)
            self._rank((key.level, key.order, arrival, lane), due_s)
        else:
            count, due_s = known.waiting + 1, known.due_s
            if kept or key.order != known.order or key.level != known.level:
                self._rank((key.level, key.order, min(self._first(lane)[1].arrival, arrival), lane))
        self._queues.add(lane, arrival, ticket, count, sort=kept)
        self._ripe[name] = None
        staged[ticket] = _new(Waiting, (lane, arrival, now, call))
        staged[lane] = _new(_Lane, (*key, count, due_s))
        staged[at] = _new(BackendView, (backend, holding, waiting + 1, granted, released, pause, overdue))

    def _rekey(self, now: float, rekey: Rekey) -> None:
        lane, (level, order, explore) = rekey
        known: _Lane | None = self._truth.get(lane)
        if known is None:
            return
        if order != known.order or level != known.level:
            self._rank((level, order, self._first(lane)[1].arrival, lane))
        self._truth.staged[lane] = _new(_Lane, (level, order, explore, known.waiting, known.due_s))

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
        self._shorten(lane)
        holding += 1
        fields = (lane, asked_s, now, call, "cycle", holding, backend.slots, "", None, arrival)
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
        level, order, explore, waiting, due_s = (
            truth.staged[lane] if lane in truth.staged else truth.committed[lane]
        )
        if waiting == 1:
            truth.remove(lane, self._queues.forget)
        else:
            truth.staged[lane] = _new(_Lane, (level, order, explore, waiting - 1, due_s))

    # -- grants ------------------------------------------------------------------------

    def _next(self, name: str, view: BackendView, now: float) -> tuple[str, tuple[int, Waiting]]:
        """Return the ticket to grant next, and the reason; one must be waiting."""
        dues = self._dues[name]
        if dues and self.overdue.turn(view):
            lane = first_due(dues, view.pause.open_s(now), self._committed.get)
            if lane is not None:
                return "overdue", self._first(lane)
        if self._exploration is not None and self._exploration.turn(view.granted + 1):
            found = self._most_informative(name, now)
            if found is not None:
                return "explore", found
        return "order", self._top(name)

    def _most_informative(self, name: str, now: float) -> tuple[int, Waiting] | None:
        """Return the first ticket of the lane with the largest gain; None if no lane has a gain."""
        try:
            lane = choose(in_order(self._heaps[name], self._committed.get, self._first), now)
        except Exception:  # a bug in a user's belief costs this exploration, never a slot
            return None
        return None if lane is None else self._first(lane)

    def _rank(self, rank: Rank, due_s: float = inf) -> None:
        """Push a lane's rank, and when it becomes overdue. Outdated entries stay until they reach the top."""
        lane = rank[3]
        name = lane[0]
        if max(len(self._heaps[name]), len(self._dues[name])) > 2 * len(self._queues.of) + 64:
            self._rebuild(name)
        heapq.heappush(self._heaps[name], rank)
        if due_s < inf:
            heapq.heappush(self._dues[name], (due_s, lane))

    def _top(self, name: str) -> tuple[int, Waiting]:
        """Return the first ticket of the first lane of a backend; one must be waiting."""
        committed = self._committed
        heap = self._heaps[name]
        while True:
            level, order, arrival, lane = heap[0]
            known = committed.get(lane)
            if known is None or known.order != order or known.level != level:
                heapq.heappop(heap)
                continue
            first = self._first(lane)
            if first[1].arrival == arrival:
                return first
            # The stored arrival was a lower bound.
            heapq.heapreplace(heap, (level, order, first[1].arrival, lane))

    def _rebuild(self, name: str) -> None:
        """Rebuild the backend's heaps without outdated entries: amortised O(1) per change."""
        committed, staged = self._committed, self._truth.staged
        lanes = [
            (known, queue[0][0], lane)
            for lane, queue in self._queues.of.items()
            if lane[0] == name
            for known in (committed.get(lane), staged.get(lane))
            if known is not None
        ]
        ranks = [(known.level, known.order, arrival, lane) for known, arrival, lane in lanes]
        dues = [(known.due_s, lane) for known, _, lane in lanes if known.due_s < inf]
        heapq.heapify(ranks)
        heapq.heapify(dues)
        self._heaps[name], self._dues[name] = ranks, dues

    # -- what must hold ----------------------------------------------------------------

    def check(self, now: float) -> None:
        """See `Ledger.check`."""
        view, committed = self.view(), self._committed
        assert not self._truth.staged, "a decision was left half made"
        check_view(view, now)
        lanes: dict[Lane, int] = {}
        for ticket, claim in view.waiting.items():
            lanes[claim.lane] = lanes.get(claim.lane, 0) + 1
            assert (claim.arrival, ticket) in self._queues.of[claim.lane], "a waiting ticket is in no queue"
        known = {key: value for key, value in committed.items() if type(value) is _Lane}
        assert lanes == {lane: own.waiting for lane, own in known.items()}, "lanes and tickets differ"
        for lane, own in known.items():
            first = self._first(lane)[1].arrival
            places = (rank for rank in self._heaps[lane[0]] if rank[3] == lane)
            assert any(rank[:2] == (own.level, own.order) and rank[2] <= first for rank in places), (
                "a lane that waits is in no heap"
            )
            assert own.due_s == inf or (own.due_s, lane) in self._dues[lane[0]], (
                "a lane that waits would never be overdue"
            )
