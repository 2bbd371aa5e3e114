"""Random steps of the memory ledger and of a shared one side by side: each grant, each wake, each number.

Several workers share the ledger; some are silent for so long that their leases end. Every kind of change and
every limit is used. `python -m support.twins STEPS` prints what was compared.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter

from llmsched_langgraph import Auto, Backend, Tenant
from llmsched_langgraph._jobs.calls import PENDING_USAGE, UNKNOWN_USAGE, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.allowances import Allowance
from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.quotas import Quota, Quotas
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Refused, Shared
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph._ledger.values import (
    CallInfo,
    Configure,
    Explore,
    Force,
    Grant,
    Granted,
    Key,
    Lost,
    Measure,
    Rekey,
    Release,
    Request,
    Waiting,
)
from llmsched_langgraph.policies import Exploration
from support.exploring import Said
from support.redis_home import new_name, server_url

JOBS = 10**6
"""A job of a worker has this times the worker's number added in the memory ledger."""

NAMES = ("", "", "", "t", "u", "v", "w:{}\n", "müller\0")
TENANTS = Tenants({"t": Tenant(2.0), "u": Tenant(0.5, 2, 3), "v": Tenant(1.0, 1), "w:{}\n": Tenant(3.0, 3)})
TOKENS = Tenants(
    {
        "t": Tenant(2.0, tokens_per_minute=5_000),
        "u": Tenant(0.5, 2, tokens_per_minute=300),
        "v": Tenant(1.0, 1, max_queued=2),
        "w:{}\n": Tenant(3.0, tokens_per_minute=40_000),
    }
)
REPLICAS = ("http://a:1", "http://b:1", "https://c")
STAGES = ("s", "s", "x:1", "müller\n{}\0")


def backends_of(rng):
    """Backends with every kind of limit, small enough to be reached."""
    return [
        Backend(
            "b", rng.randint(1, 6), max_queued=rng.choice((None, 12)), replicas=rng.choice((None, REPLICAS))
        ),
        Backend("c:{}", Auto(1, 24, rng.randint(1, 8))),
        Backend(
            "d",
            rng.randint(2, 9),
            requests_per_minute=rng.choice((None, 30, 200)),
            requests_per_day=rng.choice((None, 900)),
            tokens_per_minute=rng.choice((None, 60_000)),
            input_tokens_per_minute=rng.choice((None, 40_000)),
            output_tokens_per_minute=rng.choice((None, 20_000)),
        ),
        Backend("e", Auto(2, 12, 4), output_tokens_per_minute=30_000, requests_per_minute=100),
    ]


class Twins:
    """A memory ledger, and a shared one with several workers, to which the same happens."""

    def __init__(self, seed, workers=3):
        self.rng = rng = random.Random(seed)
        overdue = Overdue(rng.choice((None, 5.0, 40.0)), rng.randint(1, 5))
        exploration = rng.choice((None, Exploration(0.3, seed=2**70 + seed), Exploration(1.0)))
        tenants = rng.choice((Tenants(), TENANTS, TENANTS, TOKENS, TOKENS))
        self.backends = {own.name: own for own in backends_of(rng)}
        self.memory = MemoryLedger(self.backends.values(), exploration, overdue=overdue, tenants=tenants)
        self.lease_s = rng.choice((20.0, 1e5, 1e5))
        shared, name = Shared(overdue, exploration, tenants), new_name()
        self.clients = [
            LedgerClient(server_url(), name, shared, self.backends.values(), lease_s=self.lease_s)
            for _ in range(workers)
        ]
        self.now = rng.choice((0.0, 1_000.5, 1.7e9))
        self.until = {}  # when the lease of each client ends
        self.owned = [{} for _ in range(workers)]  # tickets that wait or hold a slot, and their lanes
        self.pending = [[] for _ in range(workers)]  # news that a client has not been told
        self.lost = [[] for _ in range(workers)]  # tickets of an ended lease of which a client was not told
        self.released = []
        self.releasers = {}  # the workers that released tickets
        self.arrivals = {}
        self.tickets = 0
        self.wake_s = None
        self.moments = []
        self.keyed = []  # the latest lanes that got keys, and these
        self.busy = rng.choice((0.4, 0.5, 0.6))  # how often a worker asks rather than releases
        self.favourites = rng.choice((("b",), ("c:{}", "e"), ("d", "e")))
        self.steady = rng.random() < 0.4  # calls are alike and end well: found limits go far
        self.counts = Counter()
        for client in range(workers):
            self.apply(client, ())

    # -- random things -----------------------------------------------------------------

    def lane(self):
        rng = self.rng
        backend = rng.choice((*self.favourites, *self.favourites, *self.favourites, *self.backends))
        return backend, rng.randint(0, 12), StageOccurrence(rng.choice(STAGES), rng.choice((1, 1, 2)))

    def key(self):
        rng = self.rng
        explore = None
        if rng.random() < 0.6:
            lo = rng.choice((1.0, 2.0, 3 * rng.random()))
            said = Said(lo, lo + rng.choice((0.0, 1.0, 2 * rng.random())), {"s": rng.choice((0.0, 1.0, 2.5))})
            past = rng.random(), 2 * rng.random(), rng.randint(0, 2), self.now + rng.random()
            explore = Explore(said, *past, rng.randint(0, 2))
        urgent_s = rng.choice((math.inf, math.inf, self.now + 4 * rng.random(), self.now - 1.0))
        lost_s = rng.choice((math.inf, urgent_s + 3.0, urgent_s + 9.0))
        self.moments += [at for at in (urgent_s, lost_s) if self.now < at < math.inf]
        order = rng.choice((0.0, 1.0, 2.0, -0.0, math.inf, -math.inf, rng.random(), 1e9 * rng.random()))
        level = rng.choice((0, 0, 0, -1, 2, 5))
        return Key(level, order, explore, rng.choice(NAMES), urgent_s, lost_s)

    def usage(self):
        rng = self.rng
        if self.steady:
            return Usage(100, rng.randint(50, 500), rng.choice((0, 0, 0, 90)))
        prompt = rng.choice((None, 0, 1, rng.randint(1, 3_000), 200_000))
        output = rng.choice((None, 0, rng.randint(1, 900), rng.randint(1, 900), 20_000))
        if rng.random() < 0.1:
            return PENDING_USAGE
        return Usage(prompt, output, rng.choice((None, 0, prompt)))

    def failure(self):
        rng = self.rng
        if rng.random() < (0.99 if self.steady else 0.85):
            return None
        status = rng.choice((None, 429, 429, 503, 529, 500, 408, 504))
        return Failure(status, rng.choice((None, None, 0.0, 2.5, 10.0, 121.0)))

    def quotas(self):
        rng = self.rng
        if self.steady or rng.random() < 0.9:
            return None

        def quota():
            if rng.random() < 0.4:
                return None
            limit = rng.choice((None, 10, 100, 50_000, 10**15))
            return Quota(limit, rng.choice((None, 0, 5, 9_000)), rng.choice((0.0, 0.5, 6.0, 60.0, 3_600.0)))

        return Quotas(quota(), quota(), quota(), quota())

    def request(self, client):
        rng = self.rng
        self.tickets += 1
        tokens = rng.choice((None, 1, 50, rng.randint(1, 4_000), 100_000))
        call = CallInfo(prompt_tokens=tokens, output_tokens=rng.choice((None, 10, rng.randint(1, 2_000))))
        arrival = 0
        if self.released and rng.random() < 0.1:
            arrival = self.arrivals[self.released.pop()]
        return Request(
            self.tickets,
            self.lane(),
            self.key() if rng.random() < 0.8 else None,
            rng.random() < 0.04,
            call,
            arrival,
            rng.choice((0.0, 0.0, 3.0, 30.0)),
        )

    def change(self, client):
        rng, owned = self.rng, self.owned[client]
        draw = rng.random()
        if draw < (0.95 if self.steady else 0.75):
            held = [own for own in owned if isinstance(self.memory.claim(own), Grant)]
            if held and rng.random() > self.busy:
                # Short calls and long ones, oldest first: found limits need whole windows of successes.
                well = rng.random() < 0.95
                return Release(held[0], self.usage(), self.failure(), self.quotas(), well)
            return self.request(client)
        if draw < 0.80 and owned:
            return Release(rng.choice(list(owned)), self.usage(), self.failure())
        if draw < 0.90:
            lanes = list(owned.values())
            if self.keyed and rng.random() < 0.3:  # another deadline, and all else as before
                at, key = self.keyed.pop(rng.randrange(len(self.keyed)))
                return Rekey(at, key._replace(lost_s=rng.choice((math.inf, self.now + 5.0 * rng.random()))))
            return Rekey(rng.choice(lanes) if lanes and rng.random() < 0.9 else self.lane(), self.key())
        if draw < 0.94:
            return Measure(rng.randint(max(0, self.tickets - 30), self.tickets), Usage(100, 200, 90))
        if draw < 0.95:
            return Force(rng.choice(list(owned)) if owned else 1)
        if draw < 0.955:
            return Release(rng.randint(0, self.tickets + 2))
        if draw < 0.965:
            name = rng.choice(["b", "d", "d", "e", "c:{}", "d#account"])
            return Configure(self.configured(name))
        return Release(next(iter(owned)), self.usage()) if owned else self.request(client)

    def configured(self, name):
        rng = self.rng
        slots = rng.choice((1, 3, 8, Auto(1, 24, 4), Auto(4, 9, 5)))
        if name == "b":
            slots = rng.randint(1, 8)
        rates = {
            field: rng.choice((None, limit))
            for field, limit in (
                ("requests_per_minute", 60),
                ("requests_per_day", 500),
                ("tokens_per_minute", 90_000),
                ("input_tokens_per_minute", 50_000),
                ("output_tokens_per_minute", 15_000),
            )
        }
        return Backend(
            name,
            slots,
            **({} if name == "b" else rates),
            max_queued=rng.choice((None, 5)),
            replicas=rng.choice((None, REPLICAS[:2], REPLICAS[1:])),
        )

    # -- one step ----------------------------------------------------------------------

    def pass_time(self):
        rng = self.rng
        draw = rng.random()
        if draw < 0.15 and self.wake_s is not None:
            before = math.nextafter(self.wake_s, 0.0)
            self.now = max(self.now, rng.choice((self.wake_s, self.wake_s, before)))
        elif draw < 0.25 and self.moments:
            self.now = max(self.now, min(self.moments))  # just when a deadline is near, or is lost
            self.moments = [at for at in self.moments if at > self.now]
        elif draw < 0.5:
            self.now += rng.choice((0.125, 0.1, 0.01, rng.random(), 2 * rng.random()))
        elif draw < 0.504:
            self.now += rng.choice((5.0, 21.0, 61.0, 1_000.0))

    def step(self):
        """A worker makes some changes, and both ledgers do the same."""
        rng = self.rng
        self.pass_time()
        client = min(rng.randrange(len(self.clients) + 2), len(self.clients) - 1)
        limits = [own.slots for own in self.memory.backends.values()]
        self.apply(client, [self.change(client) for _ in range(rng.choice((0, 1, 1, 1, 2, 5)))])
        self.counts["steps"] += 1
        self.counts["waits for time"] += self.wake_s is not None
        self.counts["other limits"] += limits != [own.slots for own in self.memory.backends.values()]

    def apply(self, client, changes):
        rng, remote, memory = self.rng, self.clients[client], self.memory
        before = remote.worker
        admit = rng.random() < 0.5
        bounded = {own.ticket for own in changes if isinstance(own, Request) and rng.random() < 0.3}
        answer = remote.apply(*changes, now=self.now, admit=admit, bounded=bounded)
        memory._truth.begin()
        memory.expire(self.now)
        memory._truth.commit()
        workers = {of: before if of == client else own.worker for of, own in enumerate(self.clients)}
        for of in sorted(self.until, key=workers.get):
            if self.until[of] <= self.now:
                self.end_lease(of)
        assert (remote.worker == before) == (client in self.until)
        lost = []
        if client not in self.until:  # the first call found it lost, the second one registered anew
            released = {own.ticket for own in changes if isinstance(own, Release)}
            lost = [Lost(own) for own in self.lost[client] if own not in released]
            self.lost[client] = []
            self.settle([])
        self.until[client] = self.now + self.lease_s
        at_once, refused = [], []
        for own in changes:
            if isinstance(own, Request) and own.ticket in bounded and self.crowded(client, own, refused):
                continue
            self.change_memory(client, own, admit, at_once)
        self.settle(at_once)
        pending, self.pending[client] = self.pending[client], []
        news = [
            own._replace(grant=own.grant._replace(lease_until_s=None)) if isinstance(own, Granted) else own
            for own in answer.news
        ]
        told = [own for own in news if not isinstance(own, Refused)]
        assert told == lost + pending, (news, lost + pending)
        assert [own for own in news if isinstance(own, Refused)] == refused
        assert answer.wake_s == self.wake_s
        assert answer.now_s == self.now

    def crowded(self, client, request, refused):
        """Whether the memory ledger lets the request not wait; it is noted then."""
        ticket, (name, *_), key, forced, *_ = request
        if forced or self.memory.claim(ticket) is not None:
            return False
        known = key or self.memory._committed.get(self.of_all(client, request).lane)
        tenant = "" if known is None else known.tenant
        crowd = self.memory.crowd(self.now, name, tenant)
        if crowd is not None:
            refused.append(Refused(ticket, crowd))
            self.counts["refused"] += 1
        return crowd is not None

    def end_lease(self, client):
        self.lost[client] = sorted(self.owned[client])
        for ticket in self.lost[client]:
            self.memory.submit(self.now, Release(ticket, UNKNOWN_USAGE, None, None, False))
        self.counts["leases ended"] += 1
        self.counts["tickets lost"] += len(self.lost[client])
        self.owned[client].clear()
        self.pending[client].clear()
        self.until.pop(client)

    def change_memory(self, client, change, admit, at_once):
        """Apply a change to the memory ledger, whose tickets and jobs are those of all workers."""
        memory, owned, worker = self.memory, self.owned[client], self.clients[client].worker
        change = self.of_all(client, change)
        self.counts[type(change).__name__] += 1
        if isinstance(change, Release | Measure | Force):
            awaited = isinstance(change, Measure) and self.releasers.get(change.ticket) == worker
            if change.ticket not in owned and not awaited:
                return
        before = memory.claim(change.ticket) if isinstance(change, Request | Force) else None
        if isinstance(change, Request) and before is None:
            owned[change.ticket] = change.lane[0], change.lane[1] % JOBS, change.lane[2]
            grant = memory.admit(self.now, change) if admit else None
            if grant is None:
                memory.submit(self.now, change)
        else:
            memory.submit(self.now, change)
        if isinstance(change, Release):
            self.releasers[change.ticket] = worker
            if owned.pop(change.ticket, None):
                self.released.append(change.ticket)
        if isinstance(change, Request | Force):
            after = memory.claim(change.ticket)
            if isinstance(after, Grant) and not isinstance(before, Grant):
                at_once.append(Granted(change.ticket, after))
            if after is not None:
                self.arrivals[change.ticket] = after.arrival

    def of_all(self, client, change):
        if isinstance(change, Request | Rekey) and change.key is not None:
            self.keyed = [*self.keyed[-9:], (change.lane, change.key)]
        if isinstance(change, Request | Rekey):
            backend, job, stage = change.lane
            return change._replace(lane=(backend, self.clients[client].worker * JOBS + job, stage))
        return change

    def settle(self, at_once):
        """Grant all that can be granted in the memory ledger; note it for the workers."""
        told = list(at_once)
        forced = {own.ticket for own in at_once}
        while True:
            news, self.wake_s = self.memory.settle(self.now)
            if not news:
                break
            told += [own for own in news if own.ticket not in forced]
        for ticket, grant in told:
            self.counts[grant.reason] += 1
            worker, job = divmod(grant.lane[1], JOBS)
            client = next(of for of, own in enumerate(self.clients) if own.worker == worker)
            own = grant._replace(lane=(grant.lane[0], job, grant.lane[2]))
            self.pending[client].append(Granted(ticket, own))

    # -- what must be equal ------------------------------------------------------------

    def compare(self):
        """Every number of both ledgers."""
        memory, snapshot = self.memory, self.clients[0].snapshot()
        assert set(memory.backends) == set(snapshot.backends)
        for name, view in memory.backends.items():
            other = snapshot.backends[name]
            assert other[1:] == view[1:], (name, other, view)
            assert other.backend.settings == view.backend.settings
            assert other.backend.max_queued == view.backend.max_queued
            assert other.backend.replicas == view.backend.replicas
        committed = memory._committed.items()
        used = {key[1:]: own for key, own in committed if type(own) is Allowance}
        assert {at: own for at, own in snapshot.allowances.items() if own != Allowance()} == used
        view = memory.view()
        workers = {client.worker: of for of, client in enumerate(self.clients)}
        for mine, others in ((view.waiting, snapshot.waiting), (view.holding, snapshot.holding)):
            assert set(mine) == {ticket for _, ticket in others}
            for (worker, ticket), other in others.items():
                own = mine[ticket]
                assert ticket in self.owned[workers[worker]]
                assert own.lane[1] == worker * JOBS + other.lane[1]
                assert (own.lane[0], own.lane[2], own.arrival) == (
                    other.lane[0],
                    other.lane[2],
                    other.arrival,
                )
                if isinstance(own, Waiting):
                    assert snapshot.tenants[worker, ticket] == memory.tenant(own)
                else:
                    assert (own.granted_s, own.share, own.replica) == (
                        other.granted_s,
                        other.share,
                        other.replica,
                    )
        memory.check(self.now)
        self.clients[0].check(self.now)

    def walk(self, steps):
        for step in range(steps):
            self.step()
            if step % 25 == 24:
                self.compare()
        self.compare()
        for client in self.clients:
            client.close(self.now)
        return self.counts


class Engine(Twins):
    """The same with a backend whose limit is found, and an engine behind it that has a knee, or refuses."""

    def __init__(self, seed):
        super().__init__(seed, workers=1)
        rng = self.rng
        bounds = Auto(rng.choice((1, 2)), 48, rng.choice((2, 8, 16)))
        self.apply(0, [Configure(Backend("c:{}", bounds))])
        self.knee = rng.choice((3, 10, 30))
        self.refuses = rng.choice((None, None, 6, 20))
        self.pace = 0.01
        self.cached = rng.choice((0.0, 0.0, 0.3))
        self.load = rng.choice((1.0, 1.0, 0.6))
        self.ends = {}  # of calls in flight: time, tokens, whether cached, whether refused

    def step(self):
        """The next calls end; as many others ask."""
        rng, owned = self.rng, self.owned[0]
        if self.counts["steps"] % 300 == 299:
            self.pace *= rng.choice((0.5, 0.7, 1.5, 2.5))
            self.knee = max(2, round(self.knee * rng.choice((0.5, 1.0, 2.0))))
        in_flight = [ticket for ticket in owned if isinstance(self.memory.claim(ticket), Grant)]
        for ticket in in_flight:
            if ticket not in self.ends:
                tokens, cached = rng.choice((20, 100, 100, 200, 400)), rng.random() < self.cached
                slower = max(1.0, len(in_flight) / self.knee)
                seconds = (0.02 if cached else 0.3) + self.pace * tokens * slower * rng.uniform(0.9, 1.1)
                refused = self.refuses is not None and len(in_flight) > self.refuses
                self.ends[ticket] = self.now + (0.05 if refused else seconds), tokens, cached, refused
        changes = []
        for ticket in sorted(self.ends, key=self.ends.get)[: rng.choice((1, 1, 2, 4))]:
            at_s, tokens, cached, refused = self.ends.pop(ticket)
            self.now = max(self.now, at_s)
            if refused:
                changes.append(Release(ticket, UNKNOWN_USAGE, Failure(rng.choice((429, 503)))))
            else:
                changes.append(Release(ticket, Usage(100, tokens, 90 if cached else 0)))
        if not changes:
            self.now = max(self.now + 0.01, self.wake_s or 0.0)
        waiting = len(owned) - len(in_flight)
        few = 8 if rng.random() < self.load else 0
        for _ in range(min(8, max(few - waiting, 0) + len(changes) * (rng.random() < self.load))):
            self.tickets += 1
            changes.append(Request(self.tickets, ("c:{}", self.tickets, StageOccurrence("s", 1))))
        limits = self.memory.backend("c:{}").slots
        self.apply(0, changes)
        self.counts["steps"] += 1
        self.counts["other limits"] += limits != self.memory.backend("c:{}").slots


class Limited(Twins):
    """The same with a backend whose rates are all that holds calls back."""

    def __init__(self, seed):
        super().__init__(seed, workers=1)
        rng = self.rng
        self.scale = rng.choice((50, 1_000, 50_000))  # tokens of a call
        limits = {
            "requests_per_minute": rng.choice((None, None, 12)),
            "requests_per_day": rng.choice((None, None, 100)),
            "tokens_per_minute": rng.choice((None, 12 * self.scale)),
            "input_tokens_per_minute": rng.choice((None, 8 * self.scale)),
            "output_tokens_per_minute": rng.choice((3, 8, 30)) * self.scale,
        }
        self.apply(0, [Configure(Backend("d", 40, **limits))])
        self.exact = rng.random() < 0.3  # estimates are

    def lane(self):
        return "d", self.tickets, StageOccurrence("s", 1)

    def pass_time(self):
        rng = self.rng
        if rng.random() < 0.3 and self.wake_s is not None:
            self.now = max(self.now, self.wake_s)
        elif rng.random() < 0.7:
            self.now += rng.choice((0.01, rng.random(), 5.0 * rng.random(), 30.0 * rng.random()))

    def change(self, client):
        rng, owned, scale = self.rng, self.owned[client], self.scale
        held = [own for own in owned if isinstance(self.memory.claim(own), Grant)]
        if held and rng.random() < 0.5:
            ticket = held[0] if rng.random() < 0.7 else rng.choice(held)
            call = self.memory.claim(ticket).call
            usage = Usage(call.prompt_tokens, call.output_tokens)
            if not self.exact:
                usage = Usage(round(scale * rng.random()), round(scale * rng.expovariate(1.0)))
            drawn = rng.random()
            if drawn < 0.05:
                return Release(ticket, PENDING_USAGE)
            if drawn < 0.15:
                return Release(ticket, usage, rng.choice((Failure(429), Failure(500), Failure())))
            return Release(ticket, usage, None, self.quotas())
        if rng.random() < 0.03:
            return Measure(rng.randint(max(0, self.tickets - 10), self.tickets), Usage(scale, scale))
        self.tickets += 1
        tokens = [rng.choice((scale // 10, scale, rng.randint(1, scale))) for _ in range(2)]
        return Request(
            self.tickets, self.lane(), call=CallInfo(prompt_tokens=tokens[0], output_tokens=tokens[1])
        )


def main():
    steps = int(sys.argv[1])
    total = Counter()
    for seed in range(math.ceil(steps / 1_000)):
        total += (Twins, Twins, Limited, Engine)[seed % 4](seed).walk(1_000)
    print(", ".join(f"{count} {name}" for name, count in total.most_common()))


if __name__ == "__main__":
    main()
