"""The memory ledger by example; its invariants under random use are in tests/property."""

from __future__ import annotations

import pytest
from llmsched_langgraph.core.ledger import SlotLedger


def granted(ledger):
    """Grant all that can be granted; the tickets in order."""
    return list(iter(ledger.grant, None))


def ledger_with(capacity, **priorities):
    """A ledger whose slots come free when these wait already, each in a group of its own."""
    ledger = SlotLedger(0)
    for name, priority in priorities.items():
        assert ledger.request(int(name[1:]), name, priority) is False
    ledger.resize(capacity)
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
    ledger.reprioritise("t1", 2.0)
    assert list(ledger.backlog()) == [2, 1]
    ledger.reprioritise("t1", 1.0)
    assert granted(ledger) == [1]


def test_reprioritise_of_a_group_that_does_not_wait_does_nothing():
    """Only waiting tickets can be moved."""
    ledger = ledger_with(1, t1=1.0)
    granted(ledger)
    ledger.reprioritise("t1", 0.0)
    ledger.reprioritise("t99", 0.0)
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
        ledger.request(ticket, "other", 5.0, forced=forced)
    assert (list(ledger.holders()), list(ledger.backlog())) == ([1], [2])


def test_a_released_ticket_may_come_again_with_a_new_arrival():
    """A number that was released is forgotten: asked again, it queues at the end."""
    ledger = ledger_with(0, t1=0.0, t2=0.0)
    ledger.release(1)
    ledger.request(1, "t1", 0.0)
    ledger.resize(2)
    assert granted(ledger) == [2, 1]


def test_forced_tickets_hold_at_once_and_take_room():
    """A forced ticket goes over the capacity; others wait until there is room below it again."""
    ledger = ledger_with(1, t1=0.0)
    granted(ledger)
    assert ledger.request(2, "t2", 0.0, forced=True) is True
    assert ledger.request(3, "t3", 0.0) is False
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


def test_grants_do_not_leave_dead_keys_behind():
    """Dead keys that sit deep in the heap stay within the bound while the backlog is served."""
    ledger = ledger_with(1, t0=0.0)
    granted(ledger)
    for ticket in range(1, 21):
        ledger.request(ticket, ticket, 200.0)
    for priority, tickets in ((150.0, 21), (1.0, 17)):
        for ticket in range(1, tickets):
            ledger.reprioritise(ticket, priority)
    ledger.resize(9)
    assert granted(ledger) == list(range(1, 9))
    ledger.check()


# -- a free slot ------------------------------------------------------------------------


def test_a_free_slot_is_taken_at_once():
    """Who finds a slot free and nobody waiting has it, and there is nothing to grant."""
    ledger = SlotLedger(2)
    assert [ledger.request(ticket, "g", 9.0 - ticket) for ticket in (1, 2, 3)] == [True, True, False]
    assert granted(ledger) == []
    assert (list(ledger.holders()), list(ledger.backlog())) == ([1, 2], [3])
    ledger.check()


def test_nobody_takes_a_slot_past_those_who_wait():
    """A slot that has just come free belongs to the backlog: a new ticket stands in line by its priority."""
    ledger = ledger_with(1, t1=0.0, t2=2.0)
    granted(ledger)
    ledger.release(1)
    assert ledger.request(3, "t3", 5.0) is False
    assert granted(ledger) == [2]


# -- groups -----------------------------------------------------------------------------


def test_a_group_moves_as_one():
    """The priority of a group is that of all its tickets, and inside it they go by arrival."""
    ledger = SlotLedger(0)
    for ticket, group, priority in ((1, "x", 1.0), (2, "y", 2.0), (3, "x", 1.0), (4, "y", 2.0)):
        ledger.request(ticket, group, priority)
    assert list(ledger.backlog()) == [1, 3, 2, 4]
    ledger.reprioritise("y", 0.0)
    assert list(ledger.backlog()) == [2, 4, 1, 3]
    ledger.request(5, "x", -1.0)
    assert list(ledger.backlog()) == [1, 3, 5, 2, 4]
    ledger.resize(5)
    assert granted(ledger) == [1, 3, 5, 2, 4]


def test_groups_of_equal_priority_interleave_by_arrival():
    """Equal groups take turns as their tickets came: a group's first waiting ticket stands for it."""
    ledger = SlotLedger(0)
    for ticket, group in ((1, "x"), (2, "y"), (3, "x"), (4, "z"), (5, "y"), (6, "x")):
        ledger.request(ticket, group, 7.0)
    assert list(ledger.backlog()) == [1, 2, 3, 4, 5, 6]
    ledger.release(1)
    ledger.release(5)
    ledger.reprioritise("x", 3.0)
    ledger.reprioritise("x", 7.0)
    ledger.resize(6)
    assert granted(ledger) == [2, 3, 4, 6]


@pytest.mark.parametrize("group", [1, "job", (3, "stage"), None])
def test_anything_hashable_is_a_group(group):
    """Groups are only told apart, never put in order, so that jobs and stages of jobs will do alike."""
    ledger = SlotLedger(0)
    ledger.request(1, group, 1.0)
    ledger.request(2, object(), 1.0)
    for priority in (2.0, 1.0, 2.0, 1.0):  # the same key again and again, dead and alive
        ledger.reprioritise(group, priority)
    ledger.resize(2)
    assert granted(ledger) == [1, 2]


def test_the_line_is_that_of_the_groups():
    """Each group once, where its first ticket stands; as many as are asked for, if there are."""
    ledger = SlotLedger(0)
    for ticket, group, priority in ((1, 7, 2.0), (2, 8, 1.0), (3, 7, 2.0), (4, 9, 1.0), (5, 6, 5.0)):
        ledger.request(ticket, group, priority)
    assert [list(ledger.line(most)) for most in range(6)] == [
        [],
        [8],
        [8, 9],
        [8, 9, 7],
        [8, 9, 7, 6],
        [8, 9, 7, 6],
    ]
    ledger.reprioritise(6, 0.0)
    ledger.release(2)
    assert list(ledger.line(9)) == [6, 9, 7]
    assert list(SlotLedger(3).line(9)) == []


def test_a_named_ticket_is_granted():
    """Out of its turn, and even out of the order in its group; the others stay where they are."""
    ledger = SlotLedger(0)
    for ticket, group, priority in ((1, 7, 2.0), (2, 8, 1.0), (3, 7, 2.0), (4, 7, 2.0)):
        ledger.request(ticket, group, priority)
    assert ledger.grant(3) is None
    ledger.resize(2)
    assert ledger.grant(3) == 3
    assert list(ledger.backlog()) == [2, 1, 4]
    assert ledger.grant(1) == 1
    assert list(ledger.line(9)) == [8, 7]
    assert ledger.grants is False
    ledger.resize(4)
    ledger.release(2)
    assert ledger.grant(4) == 4
    assert (list(ledger.line(9)), list(ledger.holders())) == ([], [3, 1, 4])
    assert ledger.granted == 3
    ledger.check()


@pytest.mark.parametrize("ticket", [1, 9], ids=["holds", "unknown"])
def test_who_does_not_wait_is_not_granted(ticket):
    """By its name: nothing is granted, and nobody else takes its place."""
    ledger = ledger_with(2, t1=0.0, t2=0.0, t3=0.0)
    granted(ledger)
    ledger.release(2)
    assert ledger.grant(ticket) is None
    assert (list(ledger.holders()), list(ledger.backlog())) == ([1], [3])
    assert ledger.grant() == 3


def test_a_groups_line_is_gone_with_its_last_ticket():
    """Groups come and go; of one that does not wait nothing is kept."""
    ledger = ledger_with(1, t1=0.0, t2=0.0)
    granted(ledger)
    ledger.release(2)
    assert (ledger._lines, ledger._waiting) == ({}, {})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ledger: ledger._heap.clear(), "a waiting group was lost"),
        (lambda ledger: ledger._waiting.popitem(), "a waiting ticket was lost"),
        (lambda ledger: setattr(ledger._lines["t2"], "priority", -1.0), "not the place that is its own"),
        (lambda ledger: ledger._lines["t2"].arrivals.update({7: 0}), "out of order"),
        (lambda ledger: setattr(ledger, "granted", 5), "a slot was lost"),
    ],
)
def test_check_finds_what_differs(spoil, message):
    """The ledger's own check fails when one of its tables does not agree with the others."""
    ledger = ledger_with(1, t1=0.0, t2=0.0)
    granted(ledger)
    ledger.check()
    spoil(ledger)
    with pytest.raises(AssertionError, match=message):
        ledger.check()
