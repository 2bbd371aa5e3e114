"""Stores the state of each backend: its slots held, its backlog's length, its capacity.

Does not choose tickets. The values are part of the ledger's state (`truth.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from llmsched_langgraph._jobs.calls import PENDING_USAGE, Usage
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.capacity import Capacity, EndedAttempt, new_capacity
from llmsched_langgraph._ledger.tenants import Share
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import BackendView, Grant, Release, Waiting

MEASURED_S = 60.0
"""Seconds from an attempt's release until its tokens must be known, if rates need them."""

_new = tuple.__new__
"""Builds a named tuple in C, without Python bytecode."""


class Unmeasured(NamedTuple):
    """An attempt that released its slot before its tokens were known.

    Attributes:
        backend: the backend's name.
        attempt: the attempt.
        well: whether it was served to its end.
        share: the charge for it; None if there is no other tenant.
    """

    backend: str
    attempt: EndedAttempt
    well: bool
    share: Share | None = None


def _usage(ticket: int) -> str:
    """Return the key of an `Unmeasured` in `Truth`."""
    return f"usage {ticket}"


def _key(backend: str) -> str:
    """Return the key of a `BackendView` in `Truth`."""
    return "backend " + backend


def _replicas(backend: str) -> str:
    """Return the key in `Truth` of the slots that each replica serves."""
    return "replicas " + backend


class Pools:
    """The backends' states.

    Attributes:
        names: the keys of the states in `Truth`, by the backend's name: an index.
    """

    def __init__(self, truth: Truth, backends: Iterable[Backend]) -> None:
        self._truth = truth
        self._committed = truth.committed
        self.names: dict[str, str] = {}
        self._pending: dict[str, tuple[int, float]] = {}  # index: whose tokens are awaited, and since when
        for backend in backends:
            self._add(backend)
        truth.commit()

    def _add(self, backend: Backend) -> None:
        """Stage the state of a new backend."""
        at = self.names[backend.name] = _key(backend.name)
        self._truth.staged[at] = BackendView(backend, 0, 0, 0, 0, new_capacity(backend.settings))

    def get(self, name: str) -> BackendView:
        """Return a backend's state, the current decision included."""
        at, staged = self.names[name], self._truth.staged
        found: BackendView = staged[at] if at in staged else self._committed[at]
        return found

    def queue(self, name: str) -> None:
        """Stage the state with one more ticket in the backlog."""
        backend, holding, waiting, granted, released, capacity, overdue = self.get(name)
        state = (backend, holding, waiting + 1, granted, released, capacity, overdue)
        self._truth.staged[self.names[name]] = _new(BackendView, state)

    def put(self, view: BackendView) -> None:
        """Stage a backend's state."""
        self._truth.staged[self.names[view.backend.name]] = view

    def hold(
        self, now: float, ticket: int, waits: Waiting, reason: str, share: Share | None, *, queued: bool
    ) -> Grant:
        """Stage the grant of a slot to a ticket; `queued` tells whether it is in the backlog."""
        lane, arrival, asked_s, call = waits
        at, staged = self.names[lane[0]], self._truth.staged
        view = staged[at] if at in staged else self._committed[at]
        backend, holding, waiting, granted, released, capacity, overdue = view
        holding, waiting, granted = holding + 1, waiting - queued, granted + 1
        if capacity.spent is not None:
            capacity = capacity.granted(now, call.estimate)
        if reason == "overdue":
            overdue = granted
        slots = capacity.found.limit
        replica = self._serve(lane[0], backend.replicas) if backend.replicas else ""
        fields = (lane, asked_s, now, call, reason, holding, slots, replica, None, arrival, share)
        grant: Grant = _new(Grant, fields)
        staged[ticket] = grant
        state = (backend, holding, waiting, granted, released, capacity, overdue)
        staged[at] = _new(BackendView, state)
        return grant

    def _serve(self, name: str, replicas: tuple[str, ...]) -> str:
        """Stage one more call of the replica that has the fewest; return the replica."""
        held: Mapping[str, int] = self._truth.get(_replicas(name)) or {}
        found = min(replicas, key=lambda own: held.get(own, 0))
        self._truth.staged[_replicas(name)] = {**held, found: held.get(found, 0) + 1}
        return found

    def _served(self, name: str, replica: str) -> None:
        """Stage one call less of a replica."""
        held: Mapping[str, int] = self._truth.get(_replicas(name))
        left = {own: count - (own == replica) for own, count in held.items()}
        self._truth.staged[_replicas(name)] = {own: count for own, count in left.items() if count}

    def held(self, name: str) -> Mapping[str, int]:
        """Return how many slots each replica of a backend serves; those that serve none may be absent."""
        return self._committed.get(_replicas(name)) or {}

    def free(self, now: float, release: Release, claim: Waiting | Grant) -> bool:
        """Stage the state after a ticket has left its slot or the backlog; return whether others wait."""
        at, staged = self.names[claim.lane[0]], self._truth.staged
        view = staged[at] if at in staged else self._committed[at]
        backend, holding, waiting, granted, released, capacity, overdue = view
        if type(claim) is Grant:
            counts = claim.share is not None and claim.share.tokens > 0
            plain = backend.settings.plain and not counts
            if release.failure is not None or capacity.pause.backoff_s or not plain:
                capacity = self._ended(now, release, claim, view)
            if claim.replica:
                self._served(claim.lane[0], claim.replica)
            holding, released = holding - 1, released + 1
        else:
            waiting -= 1
        state = (backend, holding, waiting, granted, released, capacity, overdue)
        staged[at] = _new(BackendView, state)
        return bool(waiting)

    def _ended(self, now: float, release: Release, grant: Grant, view: BackendView) -> Capacity:
        """Return the backend's capacity after the end of an attempt."""
        ticket, usage, failure, quotas, well = release
        settings, capacity = view.backend.settings, view.capacity
        call, held = grant.call, view.holding
        attempt = EndedAttempt(grant.granted_s, now, call.estimate, grant.concurrency, held, view.waiting > 0)
        if quotas is not None:
            capacity = capacity.corrected(settings, now, quotas)
        if failure is not None:
            return capacity.failed(settings, attempt, view.granted, failure)
        capacity = capacity.ended(attempt, well=well)
        if usage is not PENDING_USAGE:
            return capacity.used(settings, now, attempt, usage, well=well)
        if not settings.plain or (grant.share is not None and grant.share.tokens):
            self._pending[_usage(ticket)] = ticket, now
            self._truth.staged[_usage(ticket)] = Unmeasured(grant.lane[0], attempt, well, grant.share)
        return capacity

    def unmeasured(self, ticket: int) -> bool:
        """Return whether the tokens of a released ticket are awaited."""
        return _usage(ticket) in self._committed

    def measure(self, now: float, ticket: int, usage: Usage) -> Unmeasured | None:
        """Stage the state after the tokens of a ticket are known; return what awaited them.

        Return None if they are not awaited.
        """
        pending: Unmeasured | None = self._truth.get(_usage(ticket))
        if pending is None:
            return None
        self._truth.remove(_usage(ticket), self._forget)
        name, attempt, well, _ = pending
        view = self.get(name)
        capacity = view.capacity.used(view.backend.settings, now, attempt, usage, well=well)
        self.put(view._replace(capacity=capacity))
        return pending

    def unmeasured_since(self, now: float) -> list[int]:
        """Return the tickets whose tokens have been awaited for `MEASURED_S`: the estimate is to count."""
        found = itertools.takewhile(lambda own: now - own[1] >= MEASURED_S, tuple(self._pending.values()))
        return [ticket for ticket, _ in found]

    def _forget(self, key: str) -> None:
        self._pending.pop(key, None)

    def configure(self, now: float, backend: Backend) -> bool:
        """Stage the state under other settings, or that of a new backend; return whether tickets wait."""
        view = self._truth.get(_key(backend.name))
        if view is None:
            self._add(backend)
            return False
        capacity = view.capacity.configured(backend.settings, now, view.holding)
        self.put(view._replace(backend=backend, capacity=capacity))
        return bool(view.waiting)
