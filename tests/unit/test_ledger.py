"""The memory ledger by example; its invariants under random use are in tests/property."""

from __future__ import annotations

import pytest

from llmsched_langgraph.core.ledger import SlotLedger


def granted(ledger):
    """Grant all that can be granted; the tickets in order."""
    return list(iter(ledger.grant, None))


def ledger_with(capacity, **priorities):
    ledger = SlotLedger(capacity)
    for name, priority in priorities.items():
        ledger.request(int(name[1:]), priority)
    return ledger


def test_smaller_priority_is_sooner_and_ties_go_by_arrival():
    """Tickets are granted by priority, equal ones in the order of their requests, not of their numbers."""
    ledger = ledger_with(6, t9=1.0, t1=1.0, t5=0.5, t7=float("inf"), t3=1.0, t2=-1.0)
    assert list(ledger.backlog()) == [2, 5, 9, 1, 3, 7]
    assert granted(ledger) == [2, 5, 9, 1, 3, 7]
    assert list(ledger.holders()) == [2, 5, 9, 1, 3, 7]


def test_never_more_grants_than_slots():
    """With every slot held nothing is granted until one comes back."""
    ledger = ledger_with(2, t1=0.0, t2=0.0, t3=0.0)
    assert granted(ledger) == [1, 2]
    assert ledger.grant() is None
    ledger.release(2)
    assert ledger.released == 1
    assert granted(ledger) == [3]


def test_reprioritise_keeps_the_arrival():
    """A ticket that comes back to its old priority is again before those that came later."""
    ledger = ledger_with(1, t1=1.0, t2=1.0)
    ledger.reprioritise(1, 2.0)
    assert list(ledger.backlog()) == [2, 1]
    ledger.reprioritise(1, 1.0)
    assert granted(ledger) == [1]


def test_reprioritise_of_unknown_and_holding_tickets_does_nothing():
    """Only waiting tickets can be moved."""
    ledger = ledger_with(1, t1=1.0)
    granted(ledger)
    ledger.reprioritise(1, 0.0)
    ledger.reprioritise(99, 0.0)
    assert (ledger.holding, ledger.waiting) == (1, 0)
    ledger.check()


def test_release_from_every_state():
    """A slot comes back once for a holder, and never for anything else."""
    ledger = ledger_with(1, t1=0.0, t2=0.0)
    granted(ledger)
    for ticket, released in ((2, 0), (1, 1), (1, 1), (99, 1)):
        ledger.release(ticket)
        assert ledger.released == released
    assert (ledger.holding, ledger.waiting) == (0, 0)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("ticket", [1, 2])
def test_a_ticket_is_requested_once(ticket, forced):
    """A second request of a waiting or holding ticket is refused and changes nothing."""
    ledger = ledger_with(1, t1=0.0, t2=0.0)
    granted(ledger)
    with pytest.raises(ValueError, match=f"ticket {ticket} was requested twice"):
        ledger.request(ticket, 5.0, forced=forced)
    assert (list(ledger.holders()), list(ledger.backlog())) == ([1], [2])


def test_a_released_ticket_may_come_again_with_a_new_arrival():
    """A number that was released is forgotten: asked again, it queues at the end."""
    ledger = ledger_with(0, t1=0.0, t2=0.0)
    ledger.release(1)
    ledger.request(1, 0.0)
    ledger.resize(2)
    assert granted(ledger) == [2, 1]


def test_forced_tickets_hold_at_once_and_take_room():
    """A forced ticket goes over the capacity; others wait until there is room below it again."""
    ledger = ledger_with(1, t1=0.0)
    granted(ledger)
    ledger.request(2, 0.0, forced=True)
    ledger.request(3, 0.0)
    assert (ledger.holding, ledger.waiting) == (2, 1)
    ledger.check()
    ledger.release(1)
    assert granted(ledger) == []
    ledger.release(2)
    assert granted(ledger) == [3]


def test_lower_capacity_drains():
    """Lowering revokes nothing and grants nothing until enough came back; raising grants at once."""
    ledger = ledger_with(3, t1=0.0, t2=0.0, t3=0.0, t4=0.0, t5=0.0)
    granted(ledger)
    ledger.resize(1)
    assert (ledger.holding, granted(ledger)) == (3, [])
    ledger.release(1)
    ledger.release(2)
    assert granted(ledger) == []
    ledger.release(3)
    assert granted(ledger) == [4]
    ledger.resize(2)
    assert granted(ledger) == [5]


def test_check_finds_a_free_slot_beside_a_waiting_ticket():
    """The ledger's own check fails when somebody forgot to grant."""
    with pytest.raises(AssertionError, match="a slot is free"):
        ledger_with(1, t1=0.0).check()


def test_check_finds_too_many_holders():
    """The ledger's own check fails on more holders than slots, unless they are draining."""
    ledger = ledger_with(2, t1=0.0, t2=0.0)
    granted(ledger)
    ledger.resize(1)
    ledger.check(held_before=2)
    with pytest.raises(AssertionError, match="more tickets hold"):
        ledger.check()


def test_grants_do_not_leave_dead_entries_behind():
    """Dead entries that sit deep in the heap stay within the bound while the backlog is served."""
    ledger = ledger_with(1, t0=0.0)
    granted(ledger)
    for ticket in range(1, 21):
        ledger.request(ticket, 200.0)
    for priority, tickets in ((150.0, 21), (1.0, 17)):
        for ticket in range(1, tickets):
            ledger.reprioritise(ticket, priority)
    ledger.resize(9)
    assert granted(ledger) == list(range(1, 9))
    ledger.check()
