"""Decodes a stored ledger into the values of the protocol, and checks what must hold of it.

Does not talk to a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple

from llmsched_langgraph._ledger.allowances import Allowance, ready_s
from llmsched_langgraph._ledger.auto import Auto
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.checks import check_view
from llmsched_langgraph._ledger.rates import Rates
from llmsched_langgraph._ledger.redis.encoding import (
    allowance_of,
    call_of,
    capacity_of,
    lane_of,
    rates_of,
    share_of,
)
from llmsched_langgraph._ledger.tenants import STANDARD, Tenant, Tenants
from llmsched_langgraph._ledger.values import (
    BackendView,
    CallInfo,
    Crowd,
    Grant,
    LedgerView,
    Request,
    Waiting,
)

Named = tuple[int, int]
"""A ticket of any worker: the worker's number, the ticket's."""


class Snapshot(NamedTuple):
    """A shared ledger at one moment.

    Attributes:
        now_s: clock time of the last call of any worker.
        backends: by name; numbers are those of all workers.
        waiting: the waiting tickets, in arrival order.
        holding: the tickets that hold a slot.
        tenants: the tenant of each waiting ticket.
        held: the slots that tenants with a limit of slots hold, by backend and tenant.
        allowances: what tenants with a limit of tokens use, by backend and tenant.
        workers: what each worker is called, by its number.
        unmeasured: the released tickets whose tokens are awaited.
        leases: when the lease of each worker ends, by its number.
    """

    now_s: float
    backends: Mapping[str, BackendView]
    waiting: Mapping[Named, Waiting]
    holding: Mapping[Named, Grant]
    tenants: Mapping[Named, str]
    held: Mapping[tuple[str, str], int]
    allowances: Mapping[tuple[str, str], Allowance]
    workers: Mapping[int, str]
    unmeasured: frozenset[Named]
    leases: Mapping[int, float]

    def of(self, worker: int | None) -> LedgerView:
        """Return the ledger with the tickets of one worker."""
        return LedgerView(
            self.backends,
            {ticket: own for (of, ticket), own in self.waiting.items() if of == worker},
            {ticket: own for (of, ticket), own in self.holding.items() if of == worker},
        )

    def blocked(self, now: float, name: str, tenant: str, own: Tenant) -> bool:
        """Return whether the tenant holds as many slots, or used as many tokens, of the backend as it may."""
        slots, tokens, allowance = own.max_slots, own.tokens_per_minute, self.allowances.get((name, tenant))
        if slots is not None and self.held.get((name, tenant), 0) >= slots:
            return True
        return tokens is not None and allowance is not None and ready_s(allowance, tokens, now) > now

    def crowd(self, now: float, name: str, tenant: str, tenants: Tenants) -> Crowd | None:
        """Return why a further call of the tenant may not wait at the backend: see `Ledger.crowd`."""
        view = self.backends[name]
        limits = view.backend.max_queued, tenants.of(tenant).max_queued
        own = [at for at, waits in self.waiting.items() if waits.lane[0] == name]
        counts = len(own), sum(self.tenants[at] == tenant for at in own)
        found = [
            Crowd(name, of, count, limit)
            for of, count, limit in zip(("", tenant), counts, limits, strict=True)
            if limit is not None and own and count >= limit
        ]
        if not found or view.holding >= view.slots or self.blocked(now, name, tenant, tenants.of(tenant)):
            return found[0] if found else None
        return found[0] if view.admits_s(now, CallInfo()) > now else None


def snapshot_of(
    stored: Any, worker: int | None, requests: Mapping[int, Request], backends: Mapping[str, Backend]
) -> Snapshot:
    """Decode a stored ledger.

    Args:
        stored: what the script returned.
        worker: the number of the worker that asks.
        requests: its requests, whose calls it knows; of other calls the expected tokens are known.
        backends: its backends. They have settings of which the ledger knows nothing.
    """
    kinds = {kind: own or {} for kind, own in stored.items()}  # an empty table is []
    names = {id_: own["name"] for id_, own in kinds["backends"].items()}
    views = {}
    for id_, own in sorted(kinds["backends"].items(), key=lambda pair: int(pair[0])):
        spent = kinds["spent"].get(id_)
        found = capacity_of(own, kinds["found"].get(id_), spent)
        views[own["name"]] = BackendView(
            _backend(own, backends),
            own["holding"],
            own["waiting"],
            own["granted"],
            own["released"],
            found,
            own.get("overdue"),
        )
    waiting: dict[Named, Waiting] = {}
    holding: dict[Named, Grant] = {}
    tenants: dict[Named, str] = {}
    for text, claim in sorted(kinds["tickets"].items(), key=lambda pair: int(pair[1]["arrival"])):
        named = int(text[:16]), int(text[16:])
        _, lane = lane_of(claim["lane"], names[claim["backend"]])
        own_request = requests.get(named[1]) if named[0] == worker else None
        call = call_of(claim) if own_request is None else own_request.call
        if "granted_s" not in claim:
            waiting[named] = Waiting(lane, claim["arrival"], float(claim["asked_s"]), call)
            tenants[named] = kinds["lanes"].get(claim["lane"], {}).get("tenant", "")
            continue
        holding[named] = Grant(
            lane,
            float(claim["asked_s"]),
            float(claim["granted_s"]),
            call,
            claim["reason"],
            claim["concurrency"],
            claim["slots"],
            claim.get("replica", ""),
            float(kinds["workers"][str(named[0])]["until_s"]),
            claim["arrival"],
            share_of(claim),
        )
    held = {}
    for name, count in kinds["counts"].items():
        if name.startswith("held "):
            id_, _, tenant = name.removeprefix("held ").partition(":")
            held[names[id_], tenant] = count
    allowances = {}
    for name, allowance in kinds["allowances"].items():
        id_, _, tenant = name.partition(":")
        allowances[names[id_], tenant] = allowance_of(allowance)
    return Snapshot(
        float(kinds["counts"].get("now", 0.0)),
        views,
        waiting,
        holding,
        tenants,
        held,
        allowances,
        {int(number): own["name"] for number, own in kinds["workers"].items()},
        frozenset([(int(text[:16]), int(text[16:])) for text in kinds["unmeasured"]]),
        {int(number): float(own["until_s"]) for number, own in kinds["workers"].items()},
    )


def _backend(stored: Mapping[str, Any], known: Mapping[str, Backend]) -> Backend:
    """Return the settings of a backend, with those that only its worker knows."""
    auto, rates = stored.get("auto"), rates_of(stored.get("rates")) or Rates()
    own = known.get(stored["name"]) or Backend(stored["name"])
    slots = stored["slots"] if auto is None else Auto(**auto)
    replicas = stored.get("replicas")
    return replace(
        own, slots=slots, max_queued=stored.get("max_queued"), replicas=replicas, **rates._asdict()
    )


# -- what must hold -----------------------------------------------------------------------


def _members(entries: list[str]) -> dict[str, float]:
    """Return the members of a sorted set, and their scores."""
    return dict(zip(entries[::2], map(float, entries[1::2]), strict=True))


def check_snapshot(stored: Any, snapshot: Snapshot, now: float | None) -> None:
    """Raise AssertionError unless every invariant of a stored ledger holds.

    Args:
        stored: what the script returned, with its indexes.
        snapshot: the same, decoded.
        now: the clock; None for that of the last call.
    """
    kinds = {kind: own or {} for kind, own in stored.items()}
    now = snapshot.now_s if now is None else now
    settings = {name: Tenant(**own) for name, own in kinds["tenants"].items()}
    names = {id_: own["name"] for id_, own in kinds["backends"].items()}

    def blocked(backend: str, tenant: str) -> bool:
        return snapshot.blocked(now, backend, tenant, settings.get(tenant, STANDARD))

    def full(backend: str, tenant: str) -> bool:
        limit = settings.get(tenant, STANDARD).max_slots
        return limit is not None and snapshot.held.get((names[backend], tenant), 0) >= limit

    numbers = {named: number for number, named in enumerate([*snapshot.waiting, *snapshot.holding])}
    may_hold = {
        id(own): not blocked(own.lane[0], snapshot.tenants[at]) for at, own in snapshot.waiting.items()
    }
    view = LedgerView(
        snapshot.backends,
        {numbers[named]: own for named, own in snapshot.waiting.items()},
        {numbers[named]: own for named, own in snapshot.holding.items()},
    )
    check_view(view, now, lambda own: may_hold[id(own)])
    indexes = {name: own or {} for name, own in kinds["indexes"].items()}
    _check_lanes(kinds, indexes)
    _check_turns(kinds, indexes, full)
    tickets = Counter(text[:16] for text in kinds["tickets"])
    for number, entries in indexes["tickets"].items():
        assert len(_members(entries)) == tickets.pop(f"{int(number):016d}", 0), "a worker's tickets"
    assert not tickets, "tickets of a worker that is gone"
    queued = Counter((snapshot.waiting[at].lane[0], tenant) for at, tenant in snapshot.tenants.items())
    for name, count in kinds["counts"].items():
        if name.startswith("queued "):
            id_, _, tenant = name.removeprefix("queued ").partition(":")
            assert queued[names[id_], tenant] == count, "waiting tickets of a tenant are counted wrongly"
    for id_, name in names.items():
        served = Counter(own.replica for own in snapshot.holding.values() if own.lane[0] == name)
        served.pop("", None)
        assert (kinds["replicas"].get(id_) or {}) == served, "the calls of replicas are counted wrongly"
    leases = _members(kinds["indexes"]["leases"])
    assert leases == {number: own["until_s"] for number, own in kinds["workers"].items()}, "leases"
    awaited = _members(kinds["indexes"]["awaited"])
    assert awaited.keys() == {own["place"] for own in kinds["unmeasured"].values()}, "awaited tokens"


def _check_lanes(kinds: Mapping[str, Any], indexes: Mapping[str, Any]) -> None:
    """Check that each lane that waits is in its line, once, by its first ticket; and nothing else is."""
    ranks: dict[str, dict[str, float]] = {}
    urgent: dict[str, dict[str, float]] = {}
    due: dict[str, dict[str, float]] = {}
    tickets: dict[str, dict[str, float]] = {}
    for ticket, claim in kinds["tickets"].items():
        if "granted_s" not in claim:
            tickets.setdefault(claim["lane"], {})[ticket] = claim["arrival"]
    assert tickets.keys() == kinds["lanes"].keys(), "lanes and tickets differ"
    for lane, known in kinds["lanes"].items():
        line = f"{known['backend']}:{known['level']}:{known['tenant']}"
        assert known["waiting"] == len(tickets[lane]), "lanes and tickets differ"
        assert _members(indexes["queue"][lane]) == tickets[lane], "a waiting ticket is in no queue"
        assert known["place"] == f"{int(min(tickets[lane].values())):016d}{lane}", "a lane has another place"
        ranks.setdefault(line, {})[known["place"]] = known["order"]
        if known["urgent_s"] < inf:
            urgent.setdefault(line, {})[known["place"]] = known["lost_s"]
        if known["due_s"] < inf:
            due.setdefault(known["backend"], {})[lane] = known["due_s"]
    for line in kinds["lines"]:
        assert _members(indexes["ranks"][line]) == ranks.pop(line, {}), "a lane that waits is in no line"
        found = _members(indexes["coming"][line]) | _members(indexes["urgent"][line])
        own = urgent.get(line, {})
        assert found.keys() <= own.keys(), "an index has a lane that is never urgent"
        lost = [place for place in own.keys() - found.keys() if own[place] > kinds["counts"]["now"]]
        assert not lost, "a lane that waits would never be urgent"
    assert not ranks, "a line has no turn"
    for backend, entries in indexes["due"].items():
        assert _members(entries) == due.get(backend, {}), "a lane that waits would never be overdue"


def _check_turns(
    kinds: Mapping[str, Any], indexes: Mapping[str, Any], full: Callable[[str, str], bool]
) -> None:
    """Check the turns against the waiting lanes and the held slots.

    Lines of a tenant whose tokens held it back may not have taken their turns again yet.
    """
    waiting = Counter(f"{own['backend']}:{own['level']}:{own['tenant']}" for own in kinds["lanes"].values())
    holding: Counter[str] = Counter()
    for claim in kinds["tickets"].values():
        if "share" in claim:
            holding[f"{claim['backend']}:{claim['share']['level']}:{claim['share']['tenant']}"] += 1
    turns: dict[str, dict[str, float]] = {}
    resting: dict[str, dict[str, float]] = {}
    lanes: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for line, turn in kinds["lines"].items():
        backend, level, tenant = line.split(":", 2)
        at = f"{backend}:{level}"
        lanes[at] += turn["lanes"]
        lines[at] += 1
        assert (turn["lanes"], turn["held"]) == (waiting[line], holding[line]), "a line is counted wrongly"
        place = f"{turn['held']:016d}{int(turn['number']):016d}{tenant}"
        takes_turns = "place" in turn or tenant not in _members(indexes["back"][backend])
        if turn["lanes"] and not full(backend, tenant) and takes_turns:
            turns.setdefault(at, {})[place] = turn["virtual_s"]
        if not turn["lanes"] and not turn["held"]:
            resting.setdefault(at, {})[tenant] = turn["virtual_s"]
    assert waiting.keys() | holding.keys() <= kinds["lines"].keys(), "a line has no turn"
    for at, level in kinds["levels"].items():
        assert (level["lanes"], level["lines"]) == (lanes[at], lines[at]), "a level is counted wrongly"
        assert _members(indexes["turns"][at]) == turns.get(at, {}), "a line waits and takes no turns"
        assert _members(indexes["resting"][at]) == resting.get(at, {}), "a line that rests is not found"
    assert lines.keys() == kinds["levels"].keys(), "a line is in no level"
    for backend, entries in indexes["levels"].items():
        own = {at.partition(":")[2] for at in lines if at.startswith(f"{backend}:")}
        assert _members(entries).keys() == own, "a level is not found"
    for backend in kinds["backends"]:
        count = sum(line.startswith(f"{backend}:") for line in kinds["lines"])
        assert kinds["counts"].get(f"lines {backend}", 0) == count, "the number of lines is wrong"
