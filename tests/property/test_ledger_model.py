"""The memory ledger against a model that could not be simpler: two lists, sorted anew at each grant."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from llmsched_langgraph.core.ledger import SlotLedger

# Only a failure takes long: Hypothesis may look for a simpler one for five minutes.
pytestmark = pytest.mark.timeout(400)

QUIET = settings(
    deadline=None,
    database=None,
    max_examples=150,
    stateful_step_count=50,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

PRIORITIES = st.one_of(
    st.integers(0, 3).map(float),
    st.floats(allow_nan=False),
    st.sampled_from([math.inf, -math.inf, 0.0, -0.0]),
)
GROUPS = st.one_of(st.integers(0, 4), st.integers(0, 200))
PICKS = st.lists(st.integers(0, 200), max_size=4)
MOVES = st.lists(st.tuples(GROUPS, PRIORITIES), max_size=4)


class LedgerMachine(RuleBasedStateMachine):
    """Every operation on ledger and model alike; grants follow each change, as the ledger demands."""

    def __init__(self):
        super().__init__()
        self.capacity = 2
        self.ledger = SlotLedger(self.capacity)
        self.waiting: list[list] = []  # [priority, arrival, ticket, group]
        self.holding: list[tuple[int, bool]] = []  # (ticket, forced)
        self.requested = 0
        self.unforced_before = 0

    def _ticket(self, choice):
        """A ticket that waits, holds, was released, or never was, as the number has it."""
        return choice % (self.requested + 2)

    def _move(self, group, priority):
        self.ledger.reprioritise(group, priority)
        for entry in self.waiting:
            if entry[3] == group:
                entry[0] = priority

    def _settle(self, moves=(), picks=()):
        """Grant until nothing can be granted, moving a group between any two grants.

        Some of the grants are of a ticket that is named: of any that waits, it is that one; of a ticket that
        does not wait, of none at all.
        """
        moves, picks = list(moves), list(picks)
        while True:
            free = bool(self.waiting) and len(self.holding) < self.capacity
            assert self.ledger.grants == free
            if picks:
                named = picks.pop()
                # Every other number is of a ticket that waits, the others may be of any.
                waits = [entry[2] for entry in self.waiting]
                named = waits[named // 2 % len(waits)] if waits and named % 2 else self._ticket(named)
                granted = free and named in waits
                assert self.ledger.grant(named) == (named if granted else None)
                if granted:
                    self.waiting = [entry for entry in self.waiting if entry[2] != named]
                    self.holding.append((named, False))
                continue
            expected = None
            if free:
                first = min(self.waiting, key=lambda entry: (entry[0], entry[1]))
                self.waiting.remove(first)
                expected = first[2]
                self.holding.append((expected, False))
            assert self.ledger.grant() == expected
            if expected is None:
                return
            if moves:
                self._move(*moves.pop())

    @rule(group=GROUPS, priority=PRIORITIES)
    def request(self, group, priority):
        """A new ticket, whose priority is from now on that of its group."""
        self.requested += 1
        seated = not self.waiting and len(self.holding) < self.capacity
        assert self.ledger.request(self.requested, group, priority) == seated
        if seated:
            self.holding.append((self.requested, False))
            return
        self.waiting.append([priority, self.requested, self.requested, group])
        for entry in self.waiting:
            if entry[3] == group:
                entry[0] = priority

    @rule(count=st.integers(1, 30), groups=st.lists(GROUPS, min_size=1), priority=PRIORITIES)
    def request_many(self, count, groups, priority):
        for n in range(count):
            self.request(groups[n % len(groups)], priority)

    @rule(group=GROUPS, priority=PRIORITIES)
    def force(self, group, priority):
        """A forced ticket never waits, so it says nothing of those of its group that do."""
        self.requested += 1
        assert self.ledger.request(self.requested, group, priority, forced=True)
        self.holding.append((self.requested, True))
        self._settle()

    @rule(choice=st.integers(0, 200))
    def request_again(self, choice):
        ticket = self._ticket(choice)
        known = {entry[2] for entry in self.waiting} | {holder for holder, _ in self.holding}
        if ticket in known:
            with pytest.raises(ValueError, match="requested twice"):
                self.ledger.request(ticket, 0, 0.0)

    @rule(moves=st.lists(st.tuples(GROUPS, PRIORITIES), min_size=1, max_size=20))
    def move(self, moves):
        for group, priority in moves:
            self._move(group, priority)
        self._settle()

    @rule(low=st.floats(-9, 9), times=st.integers(1, 4))
    def bury(self, low, times):
        """Leave as many dead keys as there can be, all of them deep in the heap."""
        for priority in (*range(1_000, 1_000 + times), low):
            for group in {entry[3] for entry in self.waiting}:
                self._move(group, float(priority))
        self._settle()

    @rule(choice=st.integers(0, 200), moves=MOVES, picks=PICKS)
    def release(self, choice, moves, picks=()):
        ticket = self._ticket(choice)
        held = any(holder == ticket for holder, _ in self.holding)
        before = self.ledger.released
        self.ledger.release(ticket)
        assert self.ledger.released - before == held
        self.holding = [holder for holder in self.holding if holder[0] != ticket]
        self.waiting = [entry for entry in self.waiting if entry[2] != ticket]
        self._settle(moves, picks)

    @rule(count=st.integers(1, 30))
    def release_holders(self, count):
        for ticket, _ in self.holding[:count]:
            self.release(ticket, ())

    @rule(capacity=st.integers(1, 40), moves=MOVES, picks=PICKS)
    def resize(self, capacity, moves, picks):
        self.capacity = capacity
        self.ledger.resize(capacity)
        self._settle(moves, picks)

    @invariant()
    def sound(self):
        """The ledger agrees with the model, and the invariants hold of both."""
        self.ledger.check(held_before=self.unforced_before)
        unforced = sum(not forced for _, forced in self.holding)
        assert unforced <= max(self.capacity, self.unforced_before)
        self.unforced_before = unforced
        assert list(self.ledger.holders()) == [ticket for ticket, _ in self.holding]
        assert list(self.ledger.backlog()) == [entry[2] for entry in sorted(self.waiting)]
        assert (self.ledger.holding, self.ledger.waiting) == (len(self.holding), len(self.waiting))
        line = list(dict.fromkeys(entry[3] for entry in sorted(self.waiting)))
        for most in (0, 1, 2, 5, len(line), len(line) + 3):
            assert list(self.ledger.line(most)) == line[:most]

    def teardown(self):
        """Every ticket ends released, whatever happened to it before."""
        for ticket in range(self.requested + 2):
            self.release(ticket, ())
        assert (self.ledger.holding, self.ledger.waiting) == (0, 0)
        self.ledger.check()


LedgerMachine.TestCase.settings = QUIET
TestLedger = LedgerMachine.TestCase


@pytest.mark.parametrize("groups", [1, 7, 100])
def test_memory_is_bounded_under_endless_reprioritisation(groups):
    """However often groups are moved, the ledger keeps at most about two keys for each."""
    ledger = SlotLedger(1)
    for ticket in range(3 * groups + 1):
        ledger.request(ticket, ticket % groups, 0.0)
    for step in range(20_000):
        ledger.reprioritise(step % groups, float(-step if step % 3 else step))
        assert len(ledger._heap) <= 2 * groups + 17
    ledger.check()


@pytest.mark.parametrize("groups", [1, 4, 20_000])
def test_memory_is_bounded_while_calls_come_and_go(groups):
    """A ledger whose waiting tickets are moved, granted and cancelled for ever does not grow."""
    ledger = SlotLedger(1)
    for step in range(20_000):
        ledger.request(step, step % groups, float(step % 7))
        ledger.reprioritise((step - 1) % groups, float(step % 5))
        ledger.release(step - 20 if step % 2 else step - 10)
        while ledger.grant() is not None:
            pass
        ledger.check()
        assert len(ledger._heap) <= 2 * 20 + 17
        assert len(ledger._waiting) + len(ledger._holding) <= 21
        assert len(ledger._lines) <= 20
