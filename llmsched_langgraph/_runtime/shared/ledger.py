"""Implements the ledger protocol for one of several processes that share a server.

Does not decide: the server's scripts do. It mirrors the tickets of this process, so that every read is local
and a decision is committed with those of its owner. Changes go out after the commit, by a thread; `settle`
returns the news that the thread brought. No caller waits for the server.

Times are seconds of this process's clock. The numbers of a backend's tickets are those of this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from llmsched_langgraph._jobs.calls import PENDING_USAGE
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.capacity import new_capacity
from llmsched_langgraph._ledger.lines import WaitingLane, key_of
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph._ledger.pools import MEASURED_S
from llmsched_langgraph._ledger.preview import Next, order_of_service
from llmsched_langgraph._ledger.redis.client import BackendLevel, LedgerClient
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import (
    BackendView,
    Change,
    Configure,
    Crowd,
    Force,
    Grant,
    Granted,
    Lane,
    LedgerView,
    Lost,
    Measure,
    News,
    Rekey,
    Release,
    Request,
    Waiting,
)
from llmsched_langgraph._runtime.shared.courier import Courier
from llmsched_langgraph._runtime.shared.tickets import requests, share, shown
from llmsched_langgraph.errors import LedgerUnreachableError

_OUT, _NUMBER, _TOLD, _RING = "#out", "#number", "#told", "#ring"
"""Keys in `Truth`: the changes that go out, the number of the last one, and that of the last news settled."""


def _usage(ticket: int) -> str:
    """Return the key in `Truth` of the time since which the tokens of a ticket are awaited."""
    return f"usage {ticket}"


def _backend(name: str) -> str:
    """Return the key of a `BackendView` in `Truth`."""
    return f"backend {name}"


class SharedLedger:
    """The `Ledger` protocol over a `LedgerClient`.

    Args:
        connect: returns the client; called in the thread.
        backends: the backends.
        truth: the store of the values, committed by its owner.
        overdue, tenants: settings that all processes share.
        clock: seconds.
        fallback: what happens to calls that wait while the server is unreachable: they "wait", they "fail",
            or a "local" share of the slots serves them.

    Attributes:
        overdue, tenants, clock, fallback: see above.
        more: whether `settle` may have another result after the last one.
        lost: how many calls in flight were found to have lost their lease.
        unreachable: why the server cannot be reached; None if it can, or was not asked yet.
        processes: how many processes share the slots, as the server said last.
        alone: tickets that were served while the server was unreachable, and are not held for it.
    """

    def __init__(
        self,
        connect: Callable[[], LedgerClient],
        backends: Iterable[Backend],
        truth: Truth,
        overdue: Overdue,
        tenants: Tenants,
        clock: Callable[[], float],
        fallback: str = "wait",
    ) -> None:
        self.overdue = overdue
        self.tenants = tenants
        self.clock = clock
        self.fallback = fallback
        self.more = False
        self.lost = 0
        self.unreachable: LedgerUnreachableError | None = None
        self.processes = 1
        self.alone: set[int] = set()
        self._truth = truth
        self._committed = truth.committed
        self.claim: Callable[[int], Waiting | Grant | None] = truth.committed.get
        self._names: dict[str, None] = {}
        for backend in backends:
            self._add(backend)
        truth.staged.update({_OUT: (), _NUMBER: 0, _TOLD: 0})
        truth.commit()
        self._news: deque[tuple[int, Sequence[News]]] = deque()
        self._told = 0
        self._levels: dict[str, BackendLevel] = {}
        self._ready: Callable[[], None] = lambda: None
        self._fail: Callable[[Exception], None] = lambda error: None
        self._courier = Courier(self, connect)

    # -- the protocol ------------------------------------------------------------------

    def attach(self, ready: Callable[[], None], fail: Callable[[Exception], None]) -> None:
        """See `Ledger.attach`."""
        self._ready, self._fail = ready, fail

    def submit(self, now: float, *changes: Change) -> None:
        """See `Ledger.submit`."""
        for change in changes:
            if self._mirrored(now, change):
                self._send(change)

    def settle(self, now: float) -> tuple[Sequence[News], float | None]:
        """See `Ledger.settle`. When time alone allows a grant, the thread asks the server."""
        told, found = self._committed[_TOLD], list[News]()
        while self._news and self._news[0][0] <= told:
            self._news.popleft()
        for number, news in tuple(self._news):
            for one in news:
                waits = self._truth.get(one.ticket)
                if type(waits) is not Waiting:
                    continue  # it was released, or went ahead, meanwhile
                if isinstance(one, Granted):
                    one = Granted(one.ticket, self._hold(now, one.ticket, waits, one.grant))
                found.append(one)
            told = number
        if found:
            self._truth.staged[_TOLD] = told
        else:
            while self._news and self._news[0][0] <= told:
                self._news.popleft()
        if self.unreachable is None or self.fallback != "local":
            return found, None
        served, wake_s = self._serve_alone(now)
        return found + served, wake_s

    def _serve_alone(self, now: float) -> tuple[list[News], float | None]:
        """Grant this process's share of the slots of backends that are not known to be paused."""
        found, opens_s = list[News](), list[float]()
        for name in tuple(self._names):
            own = self.backend(name)
            if own.waiting and own.pause.opens_s > now:
                opens_s.append(own.pause.opens_s)
            elif own.waiting and (free := share(own, self.processes)) > 0:
                tickets = [one for one in self.preview(now, name) if self._truth.get(one.ticket) is one.waits]
                for count, (ticket, waits, reason, *_) in enumerate(tickets[:free], own.holding + 1):
                    grant = Grant(waits.lane, waits.asked_s, now, waits.call, reason, count, own.slots)
                    found.append(Granted(ticket, self._hold(now, ticket, waits, grant)))
                    self.alone.add(ticket)
        return found, min(opens_s, default=None)

    @property
    def refusal(self) -> LedgerUnreachableError | None:
        """See `Ledger.refusal`."""
        return self.unreachable if self.fallback == "fail" else None

    def admit(self, now: float, request: Request) -> Grant | None:
        """See `Ledger.admit`. Only a call that cannot wait is granted here."""
        ticket, lane, _, forced, call, arrival, _ = request
        if not forced or self._truth.get(ticket) is not None:
            return None
        view = self.backend(lane[0])
        reason = "forced" if view.waiting or view.holding >= view.slots else "free"
        grant = Grant(lane, now, now, call, reason, view.holding + 1, view.slots, arrival=arrival)
        self._truth.staged[ticket] = grant
        self._count(lane[0], holding=1, granted=1)
        self._send(request)
        return grant

    def backend(self, name: str) -> BackendView:
        """See `Ledger.backend`."""
        found = self._truth.get(_backend(name))
        if found is None:
            raise KeyError(name)
        return shown(found, self._levels.get(name))

    @property
    def backends(self) -> Mapping[str, BackendView]:
        """See `Ledger.backends`."""
        found = {name: self._committed.get(_backend(name)) for name in tuple(self._names)}
        return {name: shown(view, self._levels.get(name)) for name, view in found.items() if view is not None}

    def unmeasured(self, ticket: int) -> bool:
        """See `Ledger.unmeasured`."""
        return _usage(ticket) in self._committed

    def expire(self, now: float) -> None:
        """Stop waiting for tokens that have not become known for a minute, as the server does."""
        for key, since_s in tuple(self._committed.copy().items()):
            if isinstance(key, str) and key.startswith("usage ") and now - since_s >= MEASURED_S:
                self._truth.remove(key)

    def crowd(self, now: float, name: str, tenant: str) -> Crowd | None:
        """See `Ledger.crowd`. The server decides when it takes the request, and may refuse it."""
        return None

    def limits(self, name: str) -> list[tuple[str, int, int]]:
        """See `Ledger.limits`."""
        held = [self.tenant(own) for own in self.view().holding.values() if own.lane[0] == name]
        named = self.tenants.named.items()
        return [(of, own.max_slots, held.count(of)) for of, own in named if own.max_slots is not None]

    def tenant(self, claim: Waiting | Grant) -> str:
        """See `Ledger.tenant`."""
        if type(claim) is Grant:
            return "" if claim.share is None else claim.share.tenant
        known: WaitingLane | None = self._committed.get(claim.lane)
        return "" if known is None else known.tenant

    def view(self) -> LedgerView:
        """See `Ledger.view`."""
        return LedgerView.of(self.backends, self._committed.copy())  # `copy` runs no Python code

    def preview(self, now: float, name: str) -> list[Next]:
        """See `Ledger.preview`. Tickets of other processes, and the turns of tenants, are at the server."""
        state = self._committed.copy(), self.overdue, self.tenants
        return list(order_of_service(now, self.backend(name), *state))

    def check(self, now: float) -> None:
        """See `Ledger.check`: the mirror agrees with itself. `LedgerClient.check` is for the server."""
        assert not self._truth.staged, "a decision was left half made"
        view = self.view()
        for name, own in view.backends.items():
            holding = sum(grant.lane[0] == name for grant in view.holding.values())
            waiting = sum(claim.lane[0] == name for claim in view.waiting.values())
            assert (own.holding, own.waiting) == (holding, waiting), "tickets are counted wrongly"
            assert own.granted - own.released == own.holding, "a slot was lost"

    def close(self) -> None:
        """Give up the lease as soon as no ticket is left. Does not wait."""
        self._courier.close()

    # -- the mirror --------------------------------------------------------------------

    def _mirrored(self, now: float, change: Change) -> bool:
        """Stage the change in the mirror; return whether it goes out."""
        truth = self._truth
        match change:
            case Request():
                return self._request(now, change)
            case Release():
                return self._release(now, change)
            case Rekey(lane, key):
                known: WaitingLane | None = truth.get(lane)
                if known is not None:
                    truth.staged[lane] = WaitingLane(*key, known.waiting, known.due_s)
                return known is not None
            case Measure(ticket):
                awaited = truth.get(_usage(ticket)) is not None
                if awaited:
                    truth.remove(_usage(ticket))
                return awaited
            case Force(ticket):
                return type(truth.get(ticket)) is Waiting
            case Configure(backend):
                self._configure(now, backend)
                return True

    def _add(self, backend: Backend) -> None:
        self._names[backend.name] = None
        view = BackendView(backend, 0, 0, 0, 0, new_capacity(backend.settings))
        self._truth.staged[_backend(backend.name)] = view

    def _configure(self, now: float, backend: Backend) -> None:
        if self._truth.get(_backend(backend.name)) is None:
            self._add(backend)
            return
        view: BackendView = self._truth.get(_backend(backend.name))
        capacity = view.capacity.configured(backend.settings, now, view.holding)
        self._truth.staged[_backend(backend.name)] = view._replace(backend=backend, capacity=capacity)

    def _count(self, name: str, **more: int) -> None:
        view: BackendView = self._truth.get(_backend(name))
        counts = {field: getattr(view, field) + own for field, own in more.items()}
        self._truth.staged[_backend(name)] = view._replace(**counts)

    def _request(self, now: float, request: Request) -> bool:
        ticket, lane, key, forced, call, arrival, _ = request
        truth = self._truth
        if truth.get(ticket) is not None:
            return False
        if forced:
            grant = self.admit(now, request)
            assert grant is not None
            return False  # it went out
        known: WaitingLane | None = truth.get(lane)
        if key is None:
            key = key_of(known)
        if known is None:
            due_s = self.overdue.due_s(self.backend(lane[0]), now, request.waited_s)
            truth.staged[lane] = WaitingLane(*key, 1, due_s)
        else:
            truth.staged[lane] = WaitingLane(*key, known.waiting + 1, known.due_s)
        truth.staged[ticket] = Waiting(lane, arrival, now, call)
        self._count(lane[0], waiting=1)
        return True

    def _release(self, now: float, release: Release) -> bool:
        truth, ticket = self._truth, release.ticket
        claim: Waiting | Grant | None = truth.get(ticket)
        if claim is None:
            return False
        truth.remove(ticket)
        name = claim.lane[0]
        if type(claim) is not Grant:
            self._leave(claim.lane)
            self._count(name, waiting=-1)
            return True
        self._count(name, holding=-1, released=1)
        counted = claim.share is not None and claim.share.tokens > 0
        plain = self.backend(name).backend.settings.plain and not counted
        if release.usage is PENDING_USAGE and release.failure is None and not plain:
            truth.staged[_usage(ticket)] = now
        return True

    def _leave(self, lane: Lane) -> None:
        known: WaitingLane = self._truth.get(lane)
        if known.waiting == 1:
            self._truth.remove(lane)
        else:
            self._truth.staged[lane] = known._replace(waiting=known.waiting - 1)

    def _hold(self, now: float, ticket: int, waits: Waiting, granted: Grant) -> Grant:
        """Stage that a waiting ticket holds its slot; return the grant with times of this process."""
        lane, _, asked_s, call = waits
        grant = granted._replace(lane=lane, asked_s=asked_s, granted_s=now, call=call, lease_until_s=None)
        self._truth.staged[ticket] = grant
        self._leave(lane)
        self._count(lane[0], holding=1, granted=1, waiting=-1)
        return grant

    def _send(self, change: Change) -> None:
        """Stage that the change goes out; after the commit, wake the thread."""
        truth, handed = self._truth, self._courier.handed
        number = truth.staged[_NUMBER] = truth.get(_NUMBER) + 1
        left = [own for own in truth.get(_OUT) if own[0] > handed]
        truth.staged[_OUT] = (*left, (number, change))
        truth.remove(_RING, self._courier.ring)

    # -- what the thread needs: see `Mirror` -------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether a ticket of this process waits."""
        return any(own.waiting for own in self.backends.values())

    @property
    def busy(self) -> bool:
        """Whether one waits or holds a slot."""
        return any(own.waiting or own.holding for own in self.backends.values())

    def out(self, handed: int) -> Sequence[tuple[int, Change]]:
        """Return the committed changes with a number above `handed`."""
        return [own for own in self._committed[_OUT] if own[0] > handed]

    def tell(self, news: Sequence[News]) -> None:
        """Take over news, and have them settled."""
        found = [one for one in news if not isinstance(one, Lost)]
        if found:
            self._told += 1
            self._news.append((self._told, found))
            self._ready()

    def show(self, levels: Mapping[str, BackendLevel], offset_s: float) -> None:
        """Take over how backends are for all processes."""
        for name, own in levels.items():
            self._levels[name] = own._replace(opens_s=max(0.0, own.opens_s - offset_s))

    def fail(self, error: Exception) -> None:
        """End all waits with the error."""
        self._fail(error)

    def fall_back(self) -> None:
        """Have calls that wait do what they do while the server is unreachable. Later ones do it at once."""
        if self.refusal is not None:
            self._fail(self.refusal)
        elif self.fallback == "local":
            self._ready()

    def requests(self, tickets: Sequence[int]) -> list[Request]:
        """Return requests that bring these tickets back to a server that does not know them."""
        return requests(self._truth, tickets, self.tenant)
