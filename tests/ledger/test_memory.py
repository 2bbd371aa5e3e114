"""The memory home of the ledger: the suite of every home, and what is its own."""

from __future__ import annotations

import pytest
from support.breaking import Breaking, Broken
from support.conformance import Bench, LedgerConformance, lane

from llmsched_langgraph import Backend, Tenant
from llmsched_langgraph._ledger.capacity import CapacitySettings, new_capacity
from llmsched_langgraph._ledger.exploration import in_order
from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import Configure, Key, Rekey, Release, Request


class TestMemory(LedgerConformance):
    def make(self, backends, exploration=None, overdue=UNBOUNDED, tenants=NO_TENANTS):
        return MemoryLedger(backends, exploration, overdue=overdue, tenants=tenants)

    def tick(self, ledger, now):
        ledger._truth.begin()
        ledger.expire(now)
        ledger._truth.commit()


@pytest.fixture
def bench():
    return Bench(TestMemory(), Backend("b", 1), Backend("c", 1))


def test_keys_may_change_between_two_grants(bench):
    """`settle` tells one grant at a time: the next is chosen by the keys as they are then."""
    for ticket in range(6):
        bench.ask(ticket, order=float(ticket))
    bench.submit(Configure(Backend("b", 5)))
    assert bench.tell() == [1]
    bench.submit(Rekey(lane(4), Key(0, 0.0)))
    assert bench.tell() == [4]
    bench.submit(Rekey(lane(2), Key(0, 9.0)), Release(3))
    assert bench.settle() == [5, 2]


def test_a_lane_is_gone_with_its_last_ticket(bench):
    """Lanes come and go; of one in which nothing waits nothing is kept."""
    for ticket in range(4):
        bench.ask(ticket, lane(ticket // 2))
    assert bench.ledger._queues.of.keys() == {lane(0), lane(1)}
    bench.release(2)
    bench.release(3)
    assert bench.ledger._queues.of.keys() == {lane(0)}
    bench.serve()
    assert bench.ledger._queues.of == {}
    assert {type(key) for key in bench.ledger._truth.committed} == {str}


def test_lanes_in_their_order(bench):
    """Each lane of the first level once, where its first ticket stands."""
    bench.ask(0)
    for ticket, job, order, level in (
        (1, 7, 2.0, 0),
        (2, 8, 1.0, 0),
        (3, 7, 2.0, 0),
        (4, 9, 1.0, 0),
        (5, 6, 5.0, 1),
    ):
        bench.ask(ticket, lane(job), order, level=level)

    def ordered(backend):
        ledger = bench.ledger
        line = ledger._turns.next(bench.now, backend)
        if line is None:
            return []
        return in_order(ledger._lines.ranks[line], line, ledger._committed.get, ledger._first)

    def jobs():
        return [at[1] for _, at, _, _ in ordered("b")]

    assert jobs() == [8, 9, 7]
    bench.do(Rekey(lane(6), Key(0, 0.0)))
    bench.release(2)
    assert jobs() == [6, 9, 7]
    bench.do(Rekey(lane(9), Key(-1, 9.0)))
    assert jobs() == [9]
    assert list(ordered("c")) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda held: held._lines.ranks["b", 0, ""].clear(), "a lane that waits is in no heap"),
        (
            lambda held: held._lines.ranks.update({("b", 0, ""): [(-1.0, 1, lane(1))]}),
            "a lane that waits is in no heap",
        ),
        (
            lambda held: held._lines.ranks.update({("b", 0, ""): [(0.0, 9, lane(1))]}),
            "a lane that waits is in no heap",
        ),
        (lambda held: held._queues.of[lane(1)].clear(), "a waiting ticket is in no queue"),
        (lambda held: held._truth.committed.pop(1), "waiting"),
        (lambda held: held._truth.committed.pop(0), "holding"),
        (lambda held: held._truth.committed.pop(lane(1)), "lanes and tickets differ"),
        (lambda held: held._truth.staged.update(x=1), "half made"),
        (lambda held: spoil_backend(held, granted=5), "a slot was lost"),
        (lambda held: spoil_backend(held, capacity=new_capacity(CapacitySettings(2))), "a slot is free"),
        (lambda held: spoil_grant(held, concurrency=2), "a limit was exceeded"),
    ],
)
def test_check_finds_what_differs(bench, spoil, message):
    """The ledger's own check fails when one thing that it keeps does not agree with the others."""
    bench.ask(0)
    bench.ask(1)
    bench.ledger.check(0.0)
    spoil(bench.ledger)
    with pytest.raises(AssertionError, match=message):
        bench.ledger.check(0.0)


def spoil_backend(ledger, **fields):
    committed = ledger._truth.committed
    committed["backend b"] = committed["backend b"]._replace(**fields)


def spoil_grant(ledger, **fields):
    committed = ledger._truth.committed
    committed[0] = committed[0]._replace(**fields)


def test_a_pause_is_no_free_slot(bench):
    """The check knows that a ticket waits for the end of a pause, and for no longer."""
    bench.ask(0)
    bench.ask(1)
    bench.release(0, 5.0)
    bench.ledger.check(4.9)
    with pytest.raises(AssertionError, match="a slot is free"):
        bench.ledger.check(5.0)


def test_grants_do_not_leave_dead_places_behind(bench):
    """Dead places that lie deep in the heap are found out while the backlog is served."""
    bench.ask(0)
    for ticket in range(1, 21):
        bench.ask(ticket, order=200.0)
    for order, tickets in ((150.0, 21), (1.0, 17)):
        for ticket in range(1, tickets):
            bench.do(Rekey(lane(ticket), Key(0, order)))
    assert bench.resize(9) == list(range(1, 9))


@pytest.mark.parametrize("jobs", [1, 7, 100])
def test_memory_is_bounded_under_endless_changes_of_keys(bench, jobs):
    """However often lanes are moved, the heap has at most about two places for each."""
    for ticket in range(3 * jobs + 1):
        bench.ask(ticket, lane(ticket % jobs), 0.0)
    for step in range(20_000):
        bench.submit(Rekey(lane(step % jobs), Key(0, float(-step if step % 3 else step))))
        assert len(bench.ledger._lines.ranks["b", 0, ""]) <= 2 * jobs + 65
    bench.settle()


@pytest.mark.parametrize("jobs", [1, 4, 20_000])
def test_memory_is_bounded_while_calls_come_and_go(bench, jobs):
    """A ledger whose waiting tickets are moved, granted and cancelled for ever does not grow."""
    ledger = bench.ledger
    for step in range(20_000):
        bench.submit(
            Request(step, lane(step % jobs), Key(0, float(step % 7))),
            Rekey(lane((step - 1) % jobs), Key(0, float(step % 5))),
            Release(step - 20 if step % 2 else step - 10),
        )
        if step % 64:
            while bench.tell():
                pass
        else:
            bench.settle()
        assert sum(map(len, ledger._lines.ranks.values())) <= 2 * 21 + 65
        assert len(ledger._queues.of) <= 21
        assert sum(map(len, ledger._queues.of.values())) <= 2 * 21 + 16 * len(ledger._queues.of) + 1
        assert len(ledger._truth.committed) <= 2 * 21 + 4


def test_memory_is_bounded_behind_a_call_that_waits_for_ever(bench):
    """Tickets of its lane that gave up do not pile up behind it."""
    bench.ask(0)
    bench.ask(1, lane(7))
    for ticket in range(2, 5_000):
        bench.ask(ticket, lane(7))
        bench.submit(Release(ticket))
        assert len(bench.ledger._queues.of[lane(7)]) <= 20
    assert bench.release(0) == [1]


# -- inside a greater decision ----------------------------------------------------------


def two_tickets():
    """A ledger whose truth is another's, and that truth; tickets 1 and 2 hold and wait."""
    truth = Truth()
    ledger = MemoryLedger([Backend("b", 1)], None, truth)
    truth.begin()
    assert ledger.admit(0.0, Request(1, lane(1)))
    ledger.submit(0.0, Request(2, lane(2), Key(0, 2.0)))
    truth.commit()
    truth.begin()
    assert ledger.settle(0.0) == ((), None)
    return ledger, truth


owned = pytest.fixture(two_tickets)


CHANGES = (
    Request(3, lane(2), Key(0, 5.0)),
    Request(4, lane(4), Key(0, -5.0)),
    Rekey(lane(2), Key(0, -9.0)),
    Release(2),
    Release(1, failure=Failure(429, 7.0)),
    Configure(Backend("b", 3)),
)


def test_a_decision_that_is_not_committed_changes_nothing(owned):
    """Begun anew, the ledger is as it was; and the same decision made again is that decision."""
    ledger, truth = owned
    before = ledger.view()
    for change in CHANGES:
        truth.begin()
        ledger.submit(1.0, change)
        assert ledger.view() == before
    truth.begin()
    ledger.check(1.0)
    ledger.submit(1.0, *CHANGES)
    truth.commit()
    truth.begin()
    assert (list(ledger.view().waiting), list(ledger.view().holding)) == ([3, 4], [])
    assert ledger.settle(1.0) == ((), 8.0)
    for ticket, now in ((3, 8.0), (4, 8.25)):
        (found, _) = ledger.settle(now)
        assert [one.ticket for one in found] == [ticket]
        assert ledger.claim(ticket).arrival  # it waits until that is committed
        truth.commit()
        truth.begin()
    ledger.check(8.25)


def test_a_grant_that_is_not_committed_is_made_again(owned):
    """The same grant, for nothing has changed."""
    ledger, truth = owned
    ledger.submit(1.0, Release(1))
    truth.commit()
    told = []
    for _ in range(3):
        truth.begin()
        told.append(ledger.settle(1.0))
    assert told[0] == told[1] == told[2]
    assert [one.ticket for one in told[0][0]] == [2]


def test_a_lane_that_comes_again_is_not_taken_for_gone():
    """A commit that is broken off may leave it in the indexes until something of it is there again."""
    line, done = 0, False
    while not done:
        line += 1
        ledger, truth = two_tickets()
        ledger.submit(1.0, Release(2))
        try:
            with Breaking(line) as breaking:
                truth.commit()
            done = breaking.left > 0
        except Broken:
            pass
        truth.begin()
        ledger.submit(1.0, Release(2))  # done already, or done now
        ledger.submit(1.0, Request(3, lane(2)), Release(1))
        truth.commit()
        truth.begin()
        (found, _) = ledger.settle(1.0)
        assert [one.ticket for one in found] == [3]
        truth.commit()
        ledger.check(1.0)
        assert not truth._removed
    assert line > 8


def test_a_forced_request_is_committed_with_its_telling(owned):
    """The grant is told of once it is committed; it is told of again until the telling is committed."""
    ledger, truth = owned
    ledger.submit(1.0, Request(3, lane(3), None, True))
    assert ledger.claim(3) is None
    truth.commit()
    for _ in range(2):
        truth.begin()
        found, _ = ledger.settle(1.0)
        assert [one.ticket for one in found] == [3]
    truth.commit()
    assert ledger.claim(3) is not None
    truth.begin()
    assert ledger.settle(1.0) == ((), None)


def test_weights_hold_from_the_first_grants_on():
    """A grant is charged with a second at first. The excess comes back, though the tenant waits again."""
    tenants = Tenants({"gold": Tenant(3), "silver": Tenant(1)})
    ledger, granted, holding, now = MemoryLedger([Backend("b", 4)], tenants=tenants), [], [], 0.0

    def settle():
        while told := ledger.settle(now)[0]:
            holding.extend(ticket for ticket, _ in told)
            granted.extend(grant.share.tenant for _, grant in told)

    for ticket in range(1, 121):
        request = Request(ticket, lane(ticket), Key(0, 0.0, tenant="gold" if ticket <= 60 else "silver"))
        grant = ledger.admit(now, request)
        if grant is None:
            ledger.submit(now, request)
        else:
            holding.append(ticket)
            granted.append(grant.share.tenant)
    while len(granted) < 40:
        now += 0.1
        before = holding.copy()
        holding.clear()
        for ticket in before:
            ledger.submit(now, Release(ticket))
            settle()
    assert abs(granted[:40].count("gold") - 30) <= 2
