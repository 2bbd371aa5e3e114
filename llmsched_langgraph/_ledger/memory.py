"""Implements the ledger in the memory of one process.

Does not use jobs, policies, clocks, locks or IO. The state is a dict of immutable values (`truth.py`). Heaps
and queues are indexes of it: a superset of the current entries, extended before a commit, cleaned after it,
and checked against the state at each read.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from llmsched_langgraph._ledger.checks import check_view
from llmsched_langgraph._ledger.exploration import Exploration, choose, in_order
from llmsched_langgraph._ledger.pauses import paused
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


class MemoryLedger:
    """The `Ledger` protocol in memory. `claim` is a dict look-up of the committed state.

    `settle` grants one ticket per call. A change costs amortised O(log n) in the waiting lanes.

    Args:
        backends: the pools of slots.
        exploration: the exploration settings; None for no exploration.
        truth: the store of its values, committed by its owner. None for a private one, in which each change
            and each grant is committed by itself.

    Attributes:
        more: whether `settle` may have another result after the last one.
    """

    def __init__(
        self, backends: Iterable[Backend], exploration: Exploration | None = None, truth: Truth | None = None
    ) -> None:
        self._own = truth is None
        self._truth = truth = Truth() if truth is None else truth
        self._exploration = exploration
        self._committed = truth.committed
        self._names: dict[str, str] = {}  # keys of the backends in `Truth`
        for backend in backends:
            self._names[backend.name] = "backend " + backend.name
            truth.committed["backend " + backend.name] = BackendView(backend)
        truth.committed[_ARRIVALS] = 0
        self.more = True
        self.claim: Callable[[int], Waiting | Grant | None] = truth.committed.get
        self._heaps: dict[str, list[Rank]] = {name: [] for name in self._names}
        self._queues: dict[Lane, deque[tuple[int, int]]] = {}  # (arrival, ticket)
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
            backend, holding, waiting, granted, released, opens_s, backoff_s = committed[at]
            if not waiting or holding >= backend.slots:
                self._ripe.pop(name, None)
                continue
            if now < opens_s:
                wake_s = opens_s if wake_s is None else min(wake_s, opens_s)
                continue
            holding, waiting, granted, reason, found = holding + 1, waiting - 1, granted + 1, "order", None
            if self._exploration is not None and self._exploration.turn(granted):
                reason, found = "explore", self._most_informative(name, now)
            if found is None:
                reason, found = "order", self._top(name)
            ticket, (lane, arrival, asked_s, call) = found
            self._shorten(lane)
            grant = _new(Grant, (lane, asked_s, now, call, reason, holding, backend.slots, "", None, arrival))
            staged[ticket] = grant
            staged[at] = _new(BackendView, (backend, holding, waiting, granted, released, opens_s, backoff_s))
            self.more = (waiting > 0 and holding < backend.slots) or len(self._ripe) > 1
            if self._own:
                truth.commit()
            return (_new(Granted, (ticket, grant)),), None
        return (), wake_s

    def _forget(self, lane: Lane) -> None:
        """Remove the lane's queue."""
        self._queues.pop(lane, None)

    def admit(self, now: float, request: Request) -> Grant | None:
        """See `Ledger.admit`."""
        ticket, lane, _, forced, call, arrival = request
        if self._own:
            self._truth.begin()
        at = self._names[lane[0]]
        staged = self._truth.staged
        backend, holding, waiting, granted, released, opens_s, backoff_s = (
            staged[at] if at in staged else self._committed[at]
        )
        reason = "free"
        if waiting or holding >= backend.slots or now < opens_s:
            if not forced:
                return None
            reason = "forced"
        holding += 1
        if not arrival:
            arrival = staged[_ARRIVALS] = self._truth.get(_ARRIVALS) + 1
        grant = _new(Grant, (lane, now, now, call, reason, holding, backend.slots, "", None, arrival))
        staged[ticket] = grant
        staged[at] = _new(BackendView, (backend, holding, waiting, granted + 1, released, opens_s, backoff_s))
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
        ticket, lane, key, forced, call, arrival = request
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
        backend, holding, waiting, granted, released, opens_s, backoff_s = truth.get(at)
        kept = bool(arrival)
        if not kept:
            arrival = staged[_ARRIVALS] = truth.get(_ARRIVALS) + 1
        known: _Lane | None = truth.get(lane)
        if key is None:
            key = FIRST_COME if known is None else Key(known.level, known.order, known.explore)
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = deque()
        elif known is not None and len(queue) > 2 * known.waiting + 16:
            queue = self._queues[lane] = deque(own for own in queue if self._lives(*own))
        if known is None or kept or key.order != known.order or key.level != known.level:
            first = arrival if known is None else min(self._first(lane)[1].arrival, arrival)
            self._rank((key.level, key.order, first, lane))
        queue.append((arrival, ticket))
        if kept:
            self._queues[lane] = deque(sorted(queue))
        self._ripe[name] = None
        staged[ticket] = _new(Waiting, (lane, arrival, now, call))
        staged[lane] = _new(_Lane, (*key, 1 if known is None else known.waiting + 1))
        staged[at] = _new(BackendView, (backend, holding, waiting + 1, granted, released, opens_s, backoff_s))

    def _rekey(self, now: float, rekey: Rekey) -> None:
        lane, (level, order, explore) = rekey
        known: _Lane | None = self._truth.get(lane)
        if known is None:
            return
        if order != known.order or level != known.level:
            self._rank((level, order, self._first(lane)[1].arrival, lane))
        self._truth.staged[lane] = _new(_Lane, (level, order, explore, known.waiting))

    def _release(self, now: float, release: Release) -> None:
        truth = self._truth
        ticket, staged = release.ticket, truth.staged
        claim = staged[ticket] if ticket in staged else self._committed.get(ticket)
        if claim is None:
            return
        name = claim.lane[0]
        at = self._names[name]
        backend, holding, waiting, granted, released, opens_s, backoff_s = (
            staged[at] if at in staged else self._committed[at]
        )
        truth.remove(ticket)
        if type(claim) is Grant:
            holding, released = holding - 1, released + 1
            failure = release.failure
            if failure is not None or backoff_s:
                opens_s, backoff_s = paused(opens_s, backoff_s, claim.granted_s, now, failure)
        else:
            self._shorten(claim.lane)
            waiting -= 1
        if waiting:
            self._ripe[name] = None
        staged[at] = _new(BackendView, (backend, holding, waiting, granted, released, opens_s, backoff_s))

    def _force(self, now: float, force: Force) -> None:
        truth, ticket = self._truth, force.ticket
        claim = truth.get(ticket)
        if type(claim) is not Waiting:
            return
        lane, arrival, asked_s, call = claim
        at = self._names[lane[0]]
        backend, holding, waiting, granted, released, opens_s, backoff_s = truth.get(at)
        self._shorten(lane)
        holding += 1
        fields = (lane, asked_s, now, call, "cycle", holding, backend.slots, "", None, arrival)
        grant = truth.staged[ticket] = _new(Grant, fields)
        view = (backend, holding, waiting - 1, granted + 1, released, opens_s, backoff_s)
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
        level, order, explore, waiting = truth.staged[lane] if lane in truth.staged else truth.committed[lane]
        if waiting == 1:
            truth.remove(lane, self._forget)
        else:
            truth.staged[lane] = _new(_Lane, (level, order, explore, waiting - 1))

    # -- grants ------------------------------------------------------------------------

    def _most_informative(self, name: str, now: float) -> tuple[int, Waiting] | None:
        """Return the first ticket of the lane with the largest gain; None if no lane has a gain."""
        try:
            lane = choose(in_order(self._heaps[name], self._committed.get, self._first), now)
        except Exception:  # a bug in a user's belief costs this exploration, never a slot
            return None
        return None if lane is None else self._first(lane)

    def _first(self, lane: Lane) -> tuple[int, Waiting]:
        """Return the first waiting ticket of a lane. A lane exists only while a ticket waits in it."""
        queue, committed, staged = self._queues[lane], self._committed, self._truth.staged
        while True:
            arrival, ticket = queue[0]
            if ticket in staged:
                break
            claim = committed.get(ticket)
            if type(claim) is Waiting and claim.arrival == arrival:
                return ticket, claim
            queue.popleft()
        for arrival, ticket in queue:
            claim = staged[ticket] if ticket in staged else committed.get(ticket)
            if type(claim) is Waiting and claim.arrival == arrival:
                return ticket, claim
        raise AssertionError(f"lane {lane} has lost its tickets")

    def _lives(self, arrival: int, ticket: int) -> bool:
        """Return False if the queue entry is stale. True does not prove that the ticket waits."""
        claim = self._committed.get(ticket)
        return ticket in self._truth.staged or (type(claim) is Waiting and claim.arrival == arrival)

    def _rank(self, rank: Rank) -> None:
        """Push a lane's rank. Outdated ranks stay in the heap until they reach the top."""
        name = rank[3][0]
        heap = self._heaps[name]
        if len(heap) > 2 * len(self._queues) + 64:
            heap = self._rebuild(name)
        heapq.heappush(heap, rank)

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

    def _rebuild(self, name: str) -> list[Rank]:
        """Rebuild the heap without outdated ranks: amortised O(1) per change."""
        committed, staged = self._committed, self._truth.staged
        heap = [
            (known.level, known.order, queue[0][0], lane)
            for lane, queue in self._queues.items()
            if lane[0] == name
            for known in (committed.get(lane), staged.get(lane))
            if known is not None
        ]
        heapq.heapify(heap)
        self._heaps[name] = heap
        return heap

    # -- what must hold ----------------------------------------------------------------

    def check(self, now: float) -> None:
        """See `Ledger.check`."""
        view, committed = self.view(), self._committed
        assert not self._truth.staged, "a decision was left half made"
        check_view(view, now)
        lanes: dict[Lane, int] = {}
        for ticket, claim in view.waiting.items():
            lanes[claim.lane] = lanes.get(claim.lane, 0) + 1
            assert (claim.arrival, ticket) in self._queues[claim.lane], "a waiting ticket is in no queue"
        known = {key: value for key, value in committed.items() if type(value) is _Lane}
        assert lanes == {lane: own.waiting for lane, own in known.items()}, "lanes and tickets differ"
        for lane, own in known.items():
            first = self._first(lane)[1].arrival
            places = (rank for rank in self._heaps[lane[0]] if rank[3] == lane)
            assert any(rank[:2] == (own.level, own.order) and rank[2] <= first for rank in places), (
                "a lane that waits is in no heap"
            )
