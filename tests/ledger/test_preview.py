"""The order in which tickets would be served is the order in which they are, if nothing else changes."""

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph import Backend, Tenant
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph._ledger.values import Configure, Key, Release, Request

TENANTS = Tenants({"gold": Tenant(3.0), "small": Tenant(0.5)})
MANY = 60

requests = st.tuples(
    st.integers(1, 5),  # job
    st.integers(-1, 1),  # level
    st.sampled_from([0.0, 1.0, 2.0, 2.0]),  # order
    st.sampled_from(["", "gold", "small", "other"]),
    st.sampled_from([inf, inf, 0.0, 5.0]),  # urgent from
    st.sampled_from([0.0, 0.0, 30.0]),  # waited before
)


def grow(ledger, now, slots):
    """Add one slot; return the grants that follow."""
    ledger.submit(now, Configure(Backend("b", slots)))
    found = []
    while news := ledger.settle(now)[0]:
        found += news
    return found


@given(st.lists(requests, min_size=1, max_size=MANY), st.integers(1, 5), st.lists(st.booleans(), max_size=8))
@settings(max_examples=300, deadline=None)
def test_tickets_are_served_in_the_order_of_the_preview(asked, every, released):
    ledger = MemoryLedger([Backend("b", 3)], overdue=Overdue(20.0, every), tenants=TENANTS)
    held = []
    for ticket, (job, level, order, tenant, urgent_s, waited_s) in enumerate(asked, 1):
        lane = ("b", job, StageOccurrence(f"{tenant}{level}", 1))
        key = Key(level, order, None, tenant, urgent_s, inf if urgent_s == inf else urgent_s + 50.0)
        ledger.submit(float(ticket), Request(ticket, lane, key, waited_s=waited_s))
        held += [one.ticket for one in ledger.settle(float(ticket))[0]]
    now = float(len(asked)) + 1.0
    for keep in released:  # so that tenants have been served differently
        if not keep and held:
            ledger.submit(now, Release(held.pop(0)))
            while news := ledger.settle(now)[0]:
                held += [one.ticket for one in news]
    told = ledger.preview(now, "b")
    assert {own.ticket for own in told} == ledger.view().waiting.keys()
    served = []
    for slots in range(4, 4 + 2 * MANY):
        served += grow(ledger, now, slots)
    assert [own.ticket for own in told] == [one.ticket for one in served]
    assert [own.reason for own in told] == [one.grant.reason for one in served]


def test_calls_behind_their_tenants_own_limit_come_last():
    ledger = MemoryLedger([Backend("b", 2)], tenants=Tenants({"a": Tenant(max_slots=1)}))
    for ticket, tenant in enumerate(("a", "b", "a", "b"), 1):
        lane = ("b", ticket, StageOccurrence("s", 1))
        ledger.submit(0.0, Request(ticket, lane, Key(-5 if tenant == "a" else 0, tenant=tenant)))
        ledger.settle(0.0)
    assert [(own.ticket, own.reason) for own in ledger.preview(1.0, "b")] == [(4, "order"), (3, "limit")]
