"""Several workers of one ledger under one virtual clock: rates of all calls together, shares of tenants.

Does not test how workers hear of grants, or the server's own clock.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from contextlib import ExitStack, closing

import pytest
from support.redis_home import new_name, server_url

from llmsched_langgraph import Backend, Tenant
from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.values import CallInfo, Key, Release, Request
from llmsched_langgraph.lab.sim.metering import used, worst

WORKERS = 4
PROMPT, OUTPUT = 40, 160
TOKENS = PROMPT + OUTPUT

pytestmark = pytest.mark.timeout(120)


class Bench:
    """Workers that make calls; each call takes a known time. A call that ends may be followed by another.

    Attributes:
        granted: of each call its grant's time, its end, its worker and its tenant.
    """

    def __init__(self, backend, seconds, tenants=NO_TENANTS):
        shared, name = Shared(UNBOUNDED, None, tenants), new_name()
        self.workers = [
            LedgerClient(server_url(), name, shared, [backend], lease_s=1e9) for _ in range(WORKERS)
        ]
        self.now, self.seconds, self.granted = 0.0, seconds, []
        self.tenants = [dict[int, str]() for _ in self.workers]
        self.changes = [[] for _ in self.workers]
        self.ends = []  # a heap of times, workers, tickets
        self.wake_s = None

    def close(self):
        self.workers[0].check()
        for worker in self.workers:
            worker.close()

    def ask(self, worker, tenant=""):
        """Request a slot, at the next `step`."""
        ticket = len(self.tenants[worker]) + 1
        self.tenants[worker][ticket] = tenant
        call = CallInfo(prompt_tokens=PROMPT, output_tokens=OUTPUT)
        lane = ("b", ticket, StageOccurrence("s", 1))
        self.changes[worker].append(Request(ticket, lane, Key(tenant=tenant), False, call))

    def step(self):
        """Send what has changed, and note the grants; return the calls that ended: workers and tenants."""
        for number, worker in enumerate(self.workers):
            if self.changes[number]:
                self.note(number, worker.apply(*self.changes[number], now=self.now))
                self.changes[number] = []
        for number, worker in enumerate(self.workers):
            self.note(number, worker.apply(now=self.now))
        self.now = min([own[0] for own in self.ends[:1]] + ([] if self.wake_s is None else [self.wake_s]))
        ended = []
        while self.ends and self.ends[0][0] <= self.now:
            _, number, ticket = heapq.heappop(self.ends)
            self.changes[number].append(Release(ticket, Usage(PROMPT, OUTPUT)))
            ended.append((number, self.tenants[number][ticket]))
        return ended

    def note(self, number, answer):
        self.wake_s = answer.wake_s
        for news in answer.news:
            at_s, tenant = news.grant.granted_s, self.tenants[number][news.ticket]
            end_s = at_s + self.seconds()
            self.granted.append((at_s, end_s, number, tenant))
            heapq.heappush(self.ends, (end_s, number, news.ticket))


@pytest.fixture
def bench():
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(closing(Bench(*args, **options)))


def run(made, calls):
    """All calls are requested at once, most of them by one worker."""
    for number in range(calls):
        made.ask(0 if number % 3 else number // 3 % WORKERS)
    while len(made.granted) < calls:
        made.step()
    assert len({own[2] for own in made.granted}) == WORKERS


def periods(seconds, until_s):
    """Whole periods of the window without the first: calls that were granted at once make place at once."""
    period_s = 61.0 + seconds
    return period_s, int((until_s - seconds) / period_s) * period_s


@pytest.mark.parametrize("seconds", [0.5, 7.0])
def test_requests_of_any_minute_are_within_the_rate(bench, seconds):
    """Of all workers together, and no less than one alone could use."""
    made = bench(Backend("b", 64, requests_per_minute=50), lambda: seconds)
    run(made, 400)
    counted = [(at_s, 1.0) for at_s, *_ in made.granted]
    assert worst(counted) <= 50
    assert used(counted, *periods(0.0, counted[-1][0])) >= 0.97 * 50 * 60 / (61 + seconds)


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_tokens_of_any_minute_are_within_the_rate(bench, seconds):
    """Wherever they are counted: when a call begins, or when it ends."""
    limit = 100 * TOKENS
    made = bench(Backend("b", 64, tokens_per_minute=limit), lambda: seconds)
    run(made, 1200)
    for place in (0, 1):
        assert worst([(own[place], float(TOKENS)) for own in made.granted]) <= limit
    counted = [(end_s, float(TOKENS)) for _, end_s, *_ in made.granted]
    assert used(counted, *periods(seconds, made.granted[-1][0])) >= 0.97 * limit * 60 / (61 + seconds)


def test_a_worker_that_goes_leaves_what_it_has_used(bench):
    """Its calls may still be under way at the provider, and its requests have been made."""
    made = bench(Backend("b", 64, requests_per_minute=50), lambda: 7.0)
    for number in range(200):
        made.ask(number % WORKERS)
        if number == 47:  # each worker is granted twelve
            made.step()
    gone = made.workers.pop()
    gone.close(now=made.now)
    made.ends = [own for own in made.ends if own[1] < len(made.workers)]
    while sum(number < len(made.workers) for _, _, number, _ in made.granted) < 150:
        made.step()
    assert any(number == len(made.workers) for _, _, number, _ in made.granted)
    assert worst([(at_s, 1.0) for at_s, *_ in made.granted]) <= 50


@pytest.mark.parametrize(
    "places",
    [{"a": [0], "b": [1, 2, 3]}, {"a": [0, 1, 2], "b": [3]}, {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}],
    ids=["one and three", "three and one", "both everywhere"],
)
def test_tenants_share_by_their_weights(bench, places):
    """Three to one in slot-seconds within 5 %, whichever workers have their calls."""
    random_ = random.Random(5)
    weights = Tenants({"a": Tenant(3.0), "b": Tenant(1.0)})
    made = bench(Backend("b", 8), lambda: random_.expovariate(0.2), weights)
    for tenant, workers in places.items():
        for number in range(24):
            made.ask(workers[number % len(workers)], tenant)
    while len(made.granted) < 900:
        for number, tenant in made.step():
            made.ask(number, tenant)  # as many wait as before
    served_s = Counter()
    for at_s, end_s, _, tenant in made.granted:
        served_s[tenant] += min(end_s, made.now) - at_s
    assert served_s["a"] / served_s["b"] == pytest.approx(3.0, rel=0.05)
    assert served_s.total() == pytest.approx(8 * made.now)  # no slot was idle
