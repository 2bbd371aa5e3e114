"""What every home of the ledger protocol must do: examples, and a random walk beside a model.

A home gives `make`, and `quiet` if what it is told takes effect later. `LedgerConformance` is collected where
a test module subclasses it; `walk` makes a Hypothesis machine of the same home.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmsched_langgraph import Auto, Backend, Tenant
from llmsched_langgraph._jobs.calls import PENDING_USAGE, UNKNOWN_USAGE, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.capacity import CapacitySettings, new_capacity
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.quotas import Quota, Quotas
from llmsched_langgraph._ledger.rates import UNKNOWN_INPUT, UNKNOWN_OUTPUT
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.values import (
    FIRST_COME,
    CallInfo,
    Configure,
    Explore,
    Force,
    Grant,
    Granted,
    Key,
    Measure,
    Rekey,
    Release,
    Request,
    Waiting,
)
from llmsched_langgraph.policies import Exploration
from support.exploring import Said, choice_of_lanes, coin


class Home:
    """How a ledger is made, and what may differ from one home to another."""

    tells_one_by_one = True
    """Whether `settle` tells one grant at a time, so that keys can change before the next."""

    admits = True
    """Whether `admit` can tell at once that a slot is free."""

    leases = False
    """Whether a grant has a lease."""

    def make(self, backends, exploration=None, overdue=UNBOUNDED, tenants=NO_TENANTS):
        """A new ledger of these backends."""
        raise NotImplementedError

    def tick(self, ledger, now):
        """Tell the ledger that time has passed, if its owner must do so."""

    def quiet(self, ledger, now):
        """Return when all that was submitted has been taken in, and the home's clock is at `now`."""


def lane(job=1, stage="s", backend="b"):
    return (backend, job, StageOccurrence(stage, 1))


class Bench:
    """A ledger of one home with short verbs, and a clock; each gives the tickets granted since, in order."""

    def __init__(self, home, *backends, exploration=None, overdue=UNBOUNDED, tenants=NO_TENANTS):
        self.home = home
        self.ledger = home.make(backends or (Backend("b", 1),), exploration, overdue, tenants)
        self.now = 0.0
        self.wake_s = None
        self.told = []

    def submit(self, *changes):
        self.ledger.submit(self.now, *changes)
        self.home.quiet(self.ledger, self.now)

    def tell(self):
        """The next news, which may be several at once; none if there are no more for now."""
        news, wake_s = self.ledger.settle(self.now)
        for one in news:
            assert isinstance(one, Granted)
            assert self.ledger.claim(one.ticket) in (one.grant, None)
        if not news:
            self.wake_s = wake_s
        self.told += news
        return [one.ticket for one in news]

    def settle(self):
        granted = []
        while news := self.tell():
            granted += news
        self.ledger.check(self.now)
        return granted

    def do(self, *changes):
        self.submit(*changes)
        return self.settle()

    def ask(
        self,
        ticket,
        at=None,
        order=None,
        *,
        level=0,
        explore=None,
        forced=False,
        arrival=0,
        waited_s=0.0,
        **more,
    ):
        """Request a slot for a ticket in a lane of its own, unless another one is named."""
        key = None if order is None and not more else Key(level, order or 0.0, explore, **more)
        at = lane(ticket) if at is None else at
        return self.do(Request(ticket, at, key, forced, arrival=arrival, waited_s=waited_s))

    def release(self, ticket, retry_after_s=None):
        failure = None if retry_after_s is None else Failure(429, retry_after_s, "rate")
        return self.do(Release(ticket, Usage(1, 2), failure))

    def resize(self, slots, backend="b"):
        return self.do(Configure(Backend(backend, slots)))

    def at(self, now):
        """The clock goes on."""
        self.now = now
        self.home.quiet(self.ledger, now)
        return self.settle()

    def serve(self, *first):
        """Release what holds, `first` to begin with, until no ticket is left; the order of the grants."""
        for ticket in first:
            self.release(ticket)
        while holding := self.holding():
            self.release(holding[0])
        return [one.ticket for one in self.told]

    def waiting(self):
        return list(self.ledger.view().waiting)

    def holding(self):
        return list(self.ledger.view().holding)

    def counts(self, backend="b"):
        """Slots held, tickets that wait, slots given and given back."""
        return self.ledger.backend(backend)[1:5]


class LedgerConformance(Home):
    """Every home passes these. Subclass it as `Test...` in a test module of the home."""

    @pytest.fixture
    def bench(self):
        return lambda *backends, **settings: Bench(self, *backends, **settings)

    @pytest.fixture
    def one(self, bench):
        """One backend of one slot, which ticket 0 holds."""
        made = bench()
        assert made.ask(0) == [0]
        return made

    # -- order -------------------------------------------------------------------------

    def test_a_new_ledger_knows_nothing(self, bench):
        """No ticket waits or holds, and nothing is told."""
        b = bench(Backend("b", 3), Backend("c", 1, ("m",)))
        assert b.settle() == []
        assert b.wake_s is None
        view = b.ledger.view()
        assert (dict(view.waiting), dict(view.holding)) == ({}, {})
        assert {name: own.backend for name, own in view.backends.items()} == {
            "b": Backend("b", 3),
            "c": Backend("c", 1, ("m",)),
        }
        assert {name: own[1:] for name, own in b.ledger.backends.items()} == {
            name: (0, 0, 0, 0, new_capacity(CapacitySettings(slots)), None)
            for name, slots in (("b", 3), ("c", 1))
        }

    def test_a_free_slot_is_taken_at_once(self, bench):
        """A ticket that finds a slot free and none waiting has it, whatever its order."""
        b = bench(Backend("b", 2))
        assert [b.ask(ticket, order=9.0 - ticket) for ticket in (1, 2, 3)] == [[1], [2], []]
        assert (b.holding(), b.waiting()) == ([1, 2], [3])

    def test_smaller_orders_are_sooner_and_ties_go_by_arrival(self, one):
        """Tickets are granted by order, equal ones as they were requested, not by their numbers."""
        for ticket, order in (
            (9, 1.0),
            (1, 1.0),
            (5, 0.5),
            (7, math.inf),
            (3, 1.0),
            (2, -1.0),
            (8, -math.inf),
        ):
            assert one.ask(ticket, order=order) == []
        assert one.serve() == [0, 8, 2, 5, 9, 1, 3, 7]

    def test_a_level_is_served_before_all_later_ones(self, one):
        """Whatever the orders are; inside a level they decide."""
        for ticket, level, order in ((1, 1, -9.0), (2, 0, 5.0), (3, -5, 9.0), (4, 0, 4.0), (5, 5, -math.inf)):
            one.ask(ticket, order=order, level=level)
        assert one.serve() == [0, 3, 4, 2, 1, 5]

    def test_a_lane_moves_as_one(self, one):
        """The key of a lane is that of all its tickets, and inside it they go by arrival."""
        x, y = lane(1), lane(2)
        for ticket, at, order in ((1, x, 1.0), (2, y, 2.0), (3, x, 1.0), (4, y, 2.0)):
            one.ask(ticket, at, order)
        one.do(Rekey(y, Key(0, 0.0)))
        one.ask(5, x, -1.0)
        assert one.serve() == [0, 1, 3, 5, 2, 4]

    def test_lanes_of_equal_keys_take_turns_by_arrival(self, one):
        """A lane's first waiting ticket stands for it, also after some gave up and the lane was moved."""
        lanes = {name: lane(n) for n, name in enumerate("xyz")}
        for ticket, name in enumerate("xyxzyx", 1):
            one.ask(ticket, lanes[name], 7.0)
        one.release(1)
        one.release(5)
        one.do(Rekey(lanes["x"], Key(0, 3.0)))
        one.do(Rekey(lanes["x"], Key(0, 7.0)))
        assert one.serve() == [0, 2, 3, 4, 6]

    @pytest.mark.parametrize("stage", ["", "s", "team/agent", "müller\n{"])
    def test_stages_of_one_job_are_lanes_of_their_own(self, one, stage):
        """Occurrences, too: each has its own key."""
        lanes = [("b", 1, StageOccurrence(stage, n)) for n in (1, 2, 3)]
        for ticket, (at, order) in enumerate(zip(lanes, (3.0, 1.0, 2.0), strict=True), 1):
            one.ask(ticket, at, order)
        one.do(Rekey(lanes[2], Key(0, 4.0)))
        assert one.serve() == [0, 2, 1, 3]

    def test_a_request_without_a_key_leaves_the_lanes(self, one):
        """A lane in which nothing waits has none: it is served by arrival, as if nothing was known of it."""
        one.ask(1, lane(1), 1.0)
        one.ask(2, lane(2), -1.0)
        one.ask(3, lane(2))
        one.ask(4, lane(3))
        assert one.serve() == [0, 2, 3, 4, 1]
        assert Key(0, 0.0, None) == FIRST_COME

    def test_a_key_is_gone_with_the_last_ticket_of_its_lane(self, one):
        """One that comes later starts anew."""
        one.ask(1, lane(1), 1.0)
        one.ask(2, lane(2), 0.5)
        one.release(1)
        one.ask(3, lane(1))
        assert one.serve() == [0, 3, 2]

    # -- rekey -------------------------------------------------------------------------

    def test_rekey_keeps_the_arrival(self, one):
        """A ticket that comes back to its old key is again before those that came later."""
        one.ask(1, order=1.0)
        one.ask(2, order=1.0)
        one.do(Rekey(lane(1), Key(0, 2.0)))
        one.do(Rekey(lane(1), Key(0, 1.0)))
        assert one.serve() == [0, 1, 2]

    def test_rekey_takes_a_lane_to_another_level(self, one):
        """Up and down."""
        for ticket in (1, 2, 3):
            one.ask(ticket, order=float(ticket))
        one.do(Rekey(lane(3), Key(-1, 9.0)), Rekey(lane(1), Key(1, 0.0)))
        assert one.serve() == [0, 3, 2, 1]

    @pytest.mark.parametrize(
        "at", [lane(0), lane(99), lane(1, "other")], ids=["holds", "unknown", "other stage"]
    )
    def test_rekey_of_a_lane_in_which_nothing_waits_does_nothing(self, one, at):
        """And leaves nothing behind for those that come later."""
        one.ask(1, order=1.0)
        assert one.do(Rekey(at, Key(-5, -1.0))) == []
        assert (one.holding(), one.waiting()) == ([0], [1])
        one.ask(2, at)
        one.ask(3, lane(3), -0.5)
        assert one.serve() == [0, 3, 2, 1]

    def test_rekey_twice_is_once(self, one):
        """Idempotent."""
        for ticket in (1, 2):
            one.ask(ticket, order=1.0)
        change = Rekey(lane(2), Key(0, 0.5))
        one.do(change, change)
        one.do(change)
        assert one.serve() == [0, 2, 1]

    # -- request and release -----------------------------------------------------------

    @pytest.mark.parametrize("forced", [False, True])
    @pytest.mark.parametrize("ticket", [0, 1], ids=["holds", "waits"])
    def test_a_ticket_that_is_known_is_not_requested_again(self, one, ticket, forced):
        """A second request changes nothing: not its lane, not that lane's key, not its place."""
        one.ask(1, order=1.0)
        before = one.ledger.view(), one.counts()
        assert one.ask(ticket, lane(7), -5.0, forced=forced) == []
        assert one.ask(ticket, lane(1), -5.0, forced=forced) == []
        assert (one.ledger.view(), one.counts()) == before
        one.ask(2, order=0.5)
        assert one.serve() == [0, 2, 1]

    def test_a_batch_that_is_submitted_twice_counts_once(self, one):
        """What a decision asked for that was broken off and made again."""
        changes = (
            Request(1, lane(1), Key(0, 2.0)),
            Request(2, lane(2), Key(0, 1.0)),
            Rekey(lane(1), Key(0, 0.5)),
            Release(2),
            Configure(Backend("b", 1)),
            Request(3, lane(3), None, True),
        )
        assert one.do(*changes[:2]) == []
        assert one.do(*changes) == [3]
        before = one.ledger.view()
        assert one.do(*changes[2:]) == []
        assert one.ledger.view() == before
        assert (one.holding(), one.waiting()) == ([0, 3], [1])
        assert one.counts() == (2, 1, 2, 0)

    @pytest.mark.parametrize("same", [True, False], ids=["same lane", "other lane"])
    def test_a_released_ticket_may_come_again_with_a_new_arrival(self, one, same):
        """A number that was released is forgotten: asked again, it queues at the end."""
        at = lane(7)
        one.ask(1, at, 0.0)
        one.ask(2, at, 0.0)
        assert one.release(1) == []
        assert one.ask(1, at if same else lane(8), 0.0) == []
        assert one.serve() == [0, 2, 1]

    def test_release_from_every_state(self, one):
        """A slot comes back once for a holder, and never for anything else."""
        one.ask(1)
        for ticket, released in ((1, 0), (0, 1), (0, 1), (99, 1)):
            one.release(ticket)
            assert one.counts()[3] == released
        assert one.counts() == (0, 0, 1, 1)

    def test_never_more_grants_than_slots(self, bench):
        """With every slot held nothing is granted until one comes back."""
        b = bench(Backend("b", 2))
        assert [b.ask(ticket) for ticket in (1, 2, 3, 4)] == [[1], [2], [], []]
        assert b.settle() == []
        assert b.release(2) == [3]
        assert b.release(3) == [4]

    def test_no_ticket_overtakes_those_that_wait(self, one):
        """A slot that has just come free belongs to the backlog: a new ticket stands in line by its order."""
        one.ask(1, order=2.0)
        one.submit(Release(0), Request(2, lane(2), Key(0, 5.0)))
        assert one.settle() == [1]
        one.submit(Release(1), Request(3, lane(3), Key(0, 1.0)))
        assert one.settle() == [3]

    # -- forced ------------------------------------------------------------------------

    def test_a_forced_ticket_holds_at_once_and_takes_room(self, one):
        """It goes over the slots; others wait until there is room below them again."""
        one.ask(1)
        assert one.ask(2, forced=True) == [2]
        assert one.counts() == (2, 1, 2, 0)
        grant = one.ledger.claim(2)
        assert (grant.reason, grant.concurrency, grant.slots) == ("forced", 2, 1)
        assert one.release(0) == []
        assert one.release(2) == [1]

    def test_a_ticket_that_cannot_wait_takes_a_free_slot(self, bench):
        """It goes over the slots only if none is free."""
        b = bench()
        b.ask(1, forced=True)
        assert b.ledger.claim(1).reason == "free"

    def test_a_ticket_that_waits_can_be_forced(self, one):
        """It holds a slot above the limit; the next one is granted when there is room below it again."""
        one.ask(1)
        one.ask(2)
        assert one.do(Force(2)) == [2]
        grant = one.ledger.claim(2)
        assert (grant.reason, grant.concurrency, grant.slots, grant.arrival) == ("cycle", 2, 1, 3)
        assert one.counts() == (2, 1, 2, 0)
        assert one.do(Force(2)) == one.do(Force(0)) == one.do(Force(99)) == []
        assert one.release(2) == []
        assert one.release(0) == [1]

    def test_a_ticket_may_keep_the_place_of_an_earlier_one(self, one):
        """The next attempt of a call comes before all that arrived after the call."""
        for ticket in (1, 2, 3):
            one.ask(ticket)
        arrival = one.ledger.claim(0).arrival
        assert one.release(0) == [1]
        one.ask(4, arrival=arrival)
        assert one.serve()[2:] == [4, 2, 3]

    @pytest.mark.parametrize("order", [None, 0.0])
    def test_a_place_is_kept_within_a_lane(self, one, order):
        """Tickets of a lane are served by their arrival numbers."""
        one.ask(1, lane(5), order)
        arrival = one.ledger.claim(1).arrival
        one.ask(2, lane(5), order)
        one.ask(3, lane(6), order)
        one.release(1)
        one.ask(4, lane(5), order, arrival=arrival)
        assert one.ledger.claim(4).arrival == arrival
        assert one.serve()[1:] == [4, 2, 3]

    def test_every_forced_ticket_is_told_of(self, one):
        """However many come together, and whatever else does."""
        one.submit(Request(1, lane(1), None, True), Request(2, lane(2)), Request(3, lane(3), None, True))
        if self.admits:
            assert one.ledger.admit(one.now, Request(4, lane(4), None, True)) is not None
        assert one.settle() == [1, 3]
        one.submit(Request(5, lane(5), None, True))
        one.submit(Request(6, lane(6), None, True), Release(5))
        assert 6 in one.settle()
        assert one.ledger.claim(5) is None

    def test_a_forced_ticket_says_nothing_of_those_that_wait(self, one):
        """It never waits, so the key of its lane stays what it is."""
        one.ask(1, lane(1), 1.0)
        one.ask(2, lane(2), 2.0)
        one.ask(3, lane(2), 0.0, forced=True)
        assert one.serve(0, 3) == [0, 3, 1, 2]

    # -- the short path ----------------------------------------------------------------

    def test_admit_gives_a_free_slot(self, bench):
        """There is nothing to tell of it: its caller has the grant."""
        if not self.admits:
            return
        b = bench(Backend("b", 1))
        call = CallInfo("s", StageOccurrence("s", 1), models=("m",))
        grant = b.ledger.admit(3.0, Request(1, lane(1), Key(0, 1.0), call=call))
        assert grant == Grant(lane(1), 3.0, 3.0, call, "free", 1, 1, arrival=1)
        assert b.ledger.claim(1) == grant
        assert b.settle() == []
        assert b.counts() == (1, 0, 1, 0)
        b.release(1)
        assert b.counts() == (0, 0, 1, 1)

    def test_admit_refuses_and_changes_nothing(self, bench):
        """If no slot is free, or a ticket waits, or the backend is paused."""
        b = bench(Backend("b", 2))
        b.ask(1)
        b.ask(2)
        cases = [(2, None, None), (0, 2, 5.0)]
        for _, released, retry_after_s in cases:
            if released is not None:
                b.release(released, retry_after_s)
            before = b.ledger.view()
            assert b.ledger.admit(b.now, Request(9, lane(9))) is None
            assert b.ledger.view() == before
            assert b.ledger.claim(9) is None
        b.ask(3)
        b.at(5.0)
        assert b.holding() == [1, 3]
        b.ask(4)
        b.ask(5)
        b.now = 6.0
        b.submit(Release(4), Release(5), Release(1), Request(6, lane(6)))
        assert b.ledger.admit(b.now, Request(9, lane(9))) is None
        assert b.settle() == [6]

    def test_admit_forces(self, one):
        """Over the slots, past those that wait, and in a pause."""
        if not self.admits:
            return
        one.ask(1)
        grant = one.ledger.admit(0.0, Request(2, lane(2), None, True))
        assert (grant.reason, grant.concurrency, grant.slots) == ("forced", 2, 1)
        one.release(0, 9.0)
        assert one.ledger.admit(0.0, Request(3, lane(3), None, True)).concurrency == 2
        assert one.settle() == []
        one.ledger.check(one.now)

    # -- settings ----------------------------------------------------------------------

    def test_lower_slots_drain(self, bench):
        """Lowering revokes nothing and grants nothing until enough came back; raising grants at once."""
        b = bench(Backend("b", 3))
        for ticket in range(1, 6):
            b.ask(ticket)
        assert b.resize(1) == []
        assert b.counts()[0] == 3
        assert [b.release(ticket) for ticket in (1, 2, 3)] == [[], [], [4]]
        assert b.resize(2) == [5]
        assert b.ledger.backend("b").backend == Backend("b", 2)

    def test_configure_twice_is_once(self, one):
        """Idempotent, and no change of the slots if the other settings change."""
        one.ask(1)
        for backend in (Backend("b", 1, ("m",)), Backend("b", 1, ("m",))):
            assert one.do(Configure(backend)) == []
            assert one.ledger.backend("b").backend == backend
        assert one.counts() == (1, 1, 1, 0)

    def test_raised_slots_are_granted_in_order(self, one):
        """All of them before anything else happens."""
        for ticket in (1, 2, 3, 4):
            one.ask(ticket, order=-float(ticket))
        assert one.resize(4) == [4, 3, 2]

    # -- overdue lanes -----------------------------------------------------------------

    def test_an_overdue_lane_is_next(self, bench):
        """Whatever its order and its level, from the moment on."""
        b = bench(overdue=Overdue(10.0, 1))
        b.ask(0)
        b.ask(1, order=9.0, level=5)
        b.ask(2, order=1.0)
        b.ask(3, order=1.0)
        b.now = 9.9
        assert b.release(0) == [2]
        b.now = 10.0
        assert b.release(2) == [1]
        assert b.ledger.claim(1).reason == "overdue"
        assert b.serve() == [0, 2, 1, 3]

    def test_the_longest_overdue_one_comes_first(self, bench):
        """Earlier waits of its job count."""
        b = bench(overdue=Overdue(10.0, 1))
        b.ask(0)
        b.now = 1.0
        b.ask(1, order=1.0)
        b.now = 3.0
        b.ask(2, order=2.0, waited_s=3.0)
        b.now = 20.0
        assert b.serve() == [0, 2, 1]

    def test_one_of_several_grants_serves_an_overdue_lane(self, bench):
        """The first at once; then at least two others come in between."""
        b = bench(overdue=Overdue(10.0, 3))
        b.ask(0)
        for ticket in (1, 2, 3):
            b.ask(ticket, lane(1), order=2.0)
        b.now = 10.0
        for ticket in range(11, 16):
            b.ask(ticket, order=1.0)
        assert b.serve() == [0, 1, 11, 12, 2, 13, 14, 3, 15]

    def test_pauses_do_not_make_overdue(self, bench):
        b = bench(overdue=Overdue(10.0, 1))
        b.ask(0)
        b.ask(1, order=2.0)
        b.ask(2, order=1.0)
        b.release(0, 60.0)
        assert b.at(60.0) == [2]
        b.now = 70.0
        assert b.release(2) == [1]
        assert b.ledger.claim(1).reason == "overdue"

    def test_a_lane_that_empties_waits_anew(self, bench):
        b = bench(overdue=Overdue(10.0, 1))
        b.ask(0)
        b.ask(1, lane(1), order=2.0)
        b.release(1)
        b.now = 5.0
        b.ask(2, lane(1), order=2.0)
        b.ask(3, order=1.0)
        b.now = 10.0
        assert b.release(0) == [3]

    # -- deadlines ---------------------------------------------------------------------

    def test_a_lane_whose_deadline_is_close_goes_first(self, one):
        """Of its tenant; by the order of those that are close; until it is lost."""
        one.ask(1, order=1.0)
        one.ask(2, order=3.0, urgent_s=5.0, lost_s=9.0)
        one.ask(3, order=2.0, urgent_s=6.0, lost_s=7.0)
        one.ask(4, order=0.0, tenant="t", urgent_s=50.0)
        one.now = 6.0
        assert one.release(0) == [3]
        assert one.ledger.claim(3).reason == "deadline"
        one.now = 7.0
        assert one.release(3) == [4]
        assert one.release(4) == [2]
        assert one.ledger.claim(2).reason == "deadline"
        assert one.release(2) == [1]

    def test_a_lost_deadline_does_not_count(self, one):
        """The policy's order does again."""
        one.ask(1, order=1.0)
        one.ask(2, order=2.0, urgent_s=5.0, lost_s=9.0)
        one.now = 9.0
        assert one.release(0) == [1]

    def test_a_deadline_that_is_put_off_counts_again(self, one):
        """Also after the ledger has seen that the earlier one was lost."""
        for ticket in (1, 2):
            one.ask(ticket, order=float(ticket))
        one.ask(3, order=3.0, urgent_s=5.0, lost_s=9.0)
        one.now = 9.0
        assert one.release(0) == [1]
        one.do(Rekey(lane(3), Key(0, 3.0, urgent_s=5.0, lost_s=20.0)))
        assert one.release(1) == [3]

    # -- pauses ------------------------------------------------------------------------

    def test_a_failure_may_pause_its_backend(self, one):
        """Until then nothing is granted; when time alone allows a grant, `settle` says."""
        one.ask(1)
        one.now = 10.0
        assert one.release(0, 5.0) == []
        assert one.wake_s == 15.0
        assert one.ledger.backend("b").pause.opens_s == 15.0
        assert one.at(14.9) == []
        assert one.wake_s == 15.0
        assert one.at(15.0) == [1]
        assert one.wake_s is None

    def test_after_a_pause_calls_come_back_a_few_at_a_time(self, bench):
        """1, 2, 4, ... per quarter second, until the slots are full; then as slots come free."""
        b = bench(Backend("b", 12))
        for ticket in range(30):
            b.ask(ticket)
        b.do(*[Release(ticket, failure=Failure(429, 5.0)) for ticket in range(12)])
        granted = []
        while b.wake_s is not None:
            granted.append((b.wake_s, len(b.at(b.wake_s))))
        assert granted == [(5.0, 1), (5.25, 2), (5.5, 4), (5.75, 5)]
        assert b.release(12) == [24]

    def test_a_call_that_comes_after_a_pause_is_not_held_back(self, bench):
        """Unless many others came at the same time."""
        b = bench(Backend("b", 4))
        b.ask(0)
        b.release(0, 5.0)
        assert b.at(7.0) == []
        assert [b.ask(ticket) for ticket in range(1, 5)] == [[1], [2], [3], [4]]

    @pytest.mark.parametrize(
        "failure", [None, Failure(500), Failure(429, 0.0), Failure(429, 121.0), Failure()]
    )
    def test_other_failures_do_not(self, one, failure):
        """The server is not busy, or names a time that is over, or one that no call should wait for."""
        one.ask(1)
        assert one.do(Release(0, failure=failure)) == [1]

    @pytest.mark.parametrize("status", [429, 503, 529])
    def test_a_refusal_without_a_time_pauses_longer_each_time(self, one, status):
        """1 s, doubled by each consecutive refusal up to 32 s; a success starts anew."""
        pauses = []
        for ticket in range(1, 9):
            one.ask(ticket)
            one.do(Release(ticket - 1, failure=Failure(status)))
            pauses.append(one.wake_s - one.now)
            assert one.at(one.wake_s) == [ticket]
        assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0, 32.0]
        one.ask(9)
        assert one.release(8) == [9]
        one.ask(10)
        one.do(Release(9, failure=Failure(status)))
        assert one.wake_s - one.now == 1.0

    def test_several_refusals_of_one_moment_are_one(self, bench):
        """Attempts from before a pause extend it only by a time that they name."""
        b = bench(Backend("b", 3))
        for ticket in range(4):
            b.ask(ticket)
        b.do(Release(0, failure=Failure(429)))
        b.do(Release(1, failure=Failure(429)))
        assert b.wake_s == 1.0
        b.do(Release(2, failure=Failure(429, 5.0)))
        assert b.wake_s == 5.0

    def test_an_old_success_does_not_end_the_doubling(self, bench):
        """It answers an attempt from before the pause."""
        b = bench(Backend("b", 2))
        for ticket in range(4):
            b.ask(ticket)
        b.do(Release(0, failure=Failure(429)))
        b.release(1)
        b.at(1.0)
        b.do(Release(2, failure=Failure(429)))
        b.ask(4)
        assert b.wake_s - b.now == 2.0

    def test_the_longest_pause_counts(self, bench):
        """Whichever was said last; and each failure counts once."""
        b = bench(Backend("b", 3))
        for ticket in range(5):
            b.ask(ticket)
        b.release(0, 8.0)
        b.release(1, 3.0)
        assert b.wake_s == 8.0
        b.now = 1.0
        b.release(0, 99.0)
        b.release(2, 8.0)
        assert b.wake_s == 9.0
        assert b.at(8.5) == []
        assert [b.at(9.0), b.at(9.25)] == [[3], [4]]

    def test_only_a_holder_pauses(self, one):
        """A ticket that waits, or is not known, has asked the backend for nothing."""
        one.ask(1)
        one.ask(2)
        one.release(1, 50.0)
        one.release(99, 50.0)
        assert one.release(0) == [2]

    def test_new_tickets_wait_for_the_end_of_a_pause(self, one):
        """In their order, though slots are free; the first of them makes the time matter."""
        one.release(0, 5.0)
        assert one.wake_s is None
        assert one.ask(1, order=2.0) == []
        assert one.wake_s == 5.0
        one.ask(2, order=1.0)
        assert one.at(5.0) == [2]

    def test_time_alone_matters_only_if_it_allows_a_grant(self, bench):
        """Not while no ticket waits, nor while no slot is free."""
        b = bench(Backend("b", 2))
        for ticket in (0, 1, 2):
            b.ask(ticket)
        b.release(0, 5.0)
        assert b.wake_s == 5.0
        b.resize(1)
        assert b.wake_s is None
        b.release(1)
        assert b.wake_s == 5.0
        b.release(2)
        assert b.wake_s is None
        b.ask(3)
        assert b.wake_s == 5.0
        b.ask(4, forced=True)
        assert b.wake_s is None
        assert b.at(6.0) == []
        assert b.release(4) == [3]

    def test_a_forced_ticket_does_not_wait_for_the_end(self, one):
        """It cannot wait."""
        one.release(0, 5.0)
        assert one.ask(1, forced=True) == [1]

    def test_other_backends_go_on(self, bench):
        """A pause is that of one backend; of several the first to end is named."""
        b = bench(Backend("b", 1), Backend("c", 1), Backend("d", 1))
        for ticket, backend in enumerate("bcdbcd"):
            b.ask(ticket, lane(ticket, backend=backend))
        b.release(0, 7.0)
        b.release(1, 3.0)
        assert b.release(2) == [5]
        assert b.wake_s == 3.0
        assert b.at(3.0) == [4]
        assert b.wake_s == 7.0
        assert b.at(8.0) == [3]

    # -- rates, quotas, found limits ---------------------------------------------------

    def call(self, bench, ticket, output=None, prompt=None):
        """Request a slot for a call of these expected tokens."""
        return bench.do(
            Request(ticket, lane(ticket), call=CallInfo(prompt_tokens=prompt, output_tokens=output))
        )

    def spent(self, bench):
        return bench.ledger.backend("b").capacity.spent

    def test_a_call_waits_for_the_rate_and_none_overtakes_it(self, bench):
        """Not one that would fit; when the minute has passed, both go."""
        b = bench(Backend("b", 8, output_tokens_per_minute=2_000))
        b.now = 1_000.5
        assert self.call(b, 1, 100) == [1]
        b.do(Release(1, Usage(1, 100)))
        b.now = 1_001.5
        assert self.call(b, 2, 1_990) == []
        assert self.call(b, 3, 1) == []
        assert b.wake_s == 1_061.0
        assert b.at(math.nextafter(1_061.0, 0.0)) == []
        assert b.at(1_061.0) == [2]

    @pytest.mark.parametrize("limit", ["requests_per_minute", "requests_per_day"])
    def test_requests_are_limited(self, bench, limit):
        """In any minute, or in any day."""
        b = bench(Backend("b", 8, **{limit: 2}))
        b.now = 1_000.5
        assert [self.call(b, ticket) for ticket in (1, 2, 3)] == [[1], [2], []]
        assert b.wake_s == (1_061.0 if limit == "requests_per_minute" else 1_800.0 + 86_400.0)
        b.do(Release(1, Usage(1, 1)))
        assert b.at(b.wake_s) == [3]

    def test_input_is_corrected_in_the_cell_of_the_grant(self, bench):
        """As soon as it is known."""
        b = bench(Backend("b", 8, input_tokens_per_minute=1_000))
        b.now = 1_000.5
        assert self.call(b, 1, prompt=900) == [1]
        assert self.call(b, 2, prompt=200) == []
        b.now = 1_003.5
        assert b.do(Release(1, Usage(700, 1))) == [2]
        assert self.spent(b).input == ((1_000, 1_003), (700, 200))

    def test_a_reserve_stays_until_the_tokens_are_known(self, bench):
        """The slot is free before."""
        b = bench(Backend("b", 8, output_tokens_per_minute=2_000))
        b.now = 1_000.5
        assert self.call(b, 1, 1_000) == [1]
        b.do(Release(1, PENDING_USAGE))
        assert b.ledger.unmeasured(1)
        assert b.counts()[0] == 0
        assert self.spent(b).output_flight.tokens == 1_000
        assert self.call(b, 2, 10) == []
        assert b.do(Measure(1, Usage(1, 1))) == [2]
        assert b.do(Measure(1, Usage(1, 1))) == []
        assert not b.ledger.unmeasured(1)
        assert sum(self.spent(b).output.amounts) == 1

    def test_tokens_that_never_become_known_are_estimated(self, bench):
        """After a minute, so that no call waits for ever."""
        b = bench(Backend("b", 8, output_tokens_per_minute=2_000))
        b.now = 1_000.5
        self.call(b, 1, 1_000)
        b.do(Release(1, PENDING_USAGE))
        for passed_s, reserved in ((59.0, 1_000), (60.0, 0)):
            b.now = 1_000.5 + passed_s
            self.tick(b.ledger, b.now)
            b.settle()
            assert self.spent(b).output_flight.tokens == reserved
        assert not b.ledger.unmeasured(1)

    def test_a_backend_without_rates_awaits_no_tokens(self, bench):
        """There is nothing to forget."""
        b = bench(Backend("b", 8))
        self.call(b, 1)
        b.do(Release(1, PENDING_USAGE))
        assert not b.ledger.unmeasured(1)

    def test_what_is_told_by_an_answer_holds_calls_back(self, bench):
        """Until the provider's reset."""
        b = bench(Backend("b", 8, requests_per_minute=100))
        b.now = 1_000.5
        self.call(b, 1)
        b.do(Release(1, Usage(1, 1), quotas=Quotas(requests=Quota(100, 0, 30.0))))
        assert self.call(b, 2) == []
        assert b.now < b.wake_s <= b.now + 31.0
        assert b.at(b.wake_s) == [2]

    def test_a_smaller_limit_that_is_told_counts(self, bench):
        """A larger one does not."""
        b = bench(Backend("b", 8, requests_per_minute=3))
        b.now = 1_000.5
        self.call(b, 1)
        b.do(Release(1, quotas=Quotas(requests=Quota(900))))
        assert self.call(b, 2) == [2]
        b.do(Release(2, quotas=Quotas(requests=Quota(2))))
        assert self.call(b, 3) == []
        assert self.spent(b).told[0] == 2

    def test_a_found_limit_that_is_cut_drains(self, bench):
        """No slot is taken away; the next grant is below the limit."""
        b = bench(Backend("b", Auto(1, 8, 4)))
        b.now = 1_000.5
        for ticket in range(1, 7):
            self.call(b, ticket)
        assert b.counts()[0] == 4
        assert b.do(Release(4, failure=Failure(408))) == []
        assert b.ledger.backend("b").slots == 3
        assert b.counts()[0] == 3

    def test_a_found_limit_grows_where_calls_wait(self, bench):
        """As long as that brings throughput."""
        b = bench(Backend("b", Auto(1, 64, 4)))
        b.now, tickets = 1_000.0, iter(range(10_000))
        for _ in range(20):
            self.call(b, next(tickets))
        for _ in range(12):
            b.now += 1.0
            for held in b.holding():
                ticket = next(tickets)
                b.do(Release(held, Usage(10, 100)), Request(ticket, lane(ticket)))
        assert b.ledger.backend("b").slots > 8

    def test_rates_that_end_let_all_go(self, bench):
        """So does a larger limit."""
        b = bench(Backend("b", 8, requests_per_minute=1))
        b.now = 1_000.5
        assert [self.call(b, ticket) for ticket in (1, 2, 3)] == [[1], [], []]
        assert b.do(Configure(Backend("b", 8, requests_per_minute=2))) == [2]
        assert b.do(Configure(Backend("b", 8))) == [3]

    def test_a_backend_may_come_later(self, bench):
        """Such as an account of another one."""
        b = bench()
        assert b.do(Configure(Backend("b#1", 1)), Request(1, lane(1, backend="b#1"))) == [1]
        assert b.counts("b#1") == (1, 0, 1, 0)
        assert list(b.ledger.backends) == ["b", "b#1"]

    # -- limits of tenants -------------------------------------------------------------

    def test_tokens_of_a_tenant_hold_its_calls_back(self, bench):
        """Others overtake them; they come back when enough of the tokens are a minute old."""
        tenants = Tenants({"t": Tenant(tokens_per_minute=2_000)})
        b = bench(Backend("b", 3), tenants=tenants)
        b.now = 1_000.5
        assert b.ask(1, tenant="t") == [1]
        assert b.ask(2, tenant="t") == []
        assert b.wake_s == 1_061.0
        assert b.ask(3, tenant="u") == [3]
        b.now = 1_001.5
        assert b.do(Release(1, Usage(100, 100))) == [2]
        assert b.ledger.claim(2).share.tokens == 200

    def test_what_does_not_count_makes_no_room(self, bench):
        """A failed attempt of a later second: the wake is that of the tokens that were used."""
        b = bench(Backend("b", 3), tenants=Tenants({"t": Tenant(tokens_per_minute=1_000)}))
        b.now = 1_000.5
        b.ask(1, tenant="t")
        b.do(Release(1, Usage(1_500, 0)))
        b.now = 1_005.5
        assert b.ask(2, tenant="t", forced=True) == [2]
        b.do(Release(2, failure=Failure(500)))
        assert b.ask(3, tenant="t") == []
        assert b.wake_s == 1_061.0
        assert b.at(1_061.0) == [3]

    def test_a_tenant_at_its_limit_of_slots_is_overtaken(self, bench):
        """And goes on with its next release."""
        b = bench(Backend("b", 3), tenants=Tenants({"t": Tenant(max_slots=1)}))
        assert [b.ask(ticket, tenant="t") for ticket in (1, 2)] == [[1], []]
        assert b.ask(3, tenant="u") == [3]
        assert b.release(1) == [2]

    def test_time_does_not_help_a_tenant_at_its_limit_of_slots(self, bench):
        """Its tokens matter only when it may hold one more."""
        b = bench(Backend("b", 3), tenants=Tenants({"t": Tenant(1.0, 1, tokens_per_minute=1_000)}))
        b.now = 1_000.5
        assert [b.ask(ticket, tenant="t") for ticket in (1, 2)] == [[1], []]
        assert b.wake_s is None
        b.do(Release(1, Usage(900, 100)))
        assert b.wake_s == 1_061.0
        assert b.at(1_061.0) == [2]

    # -- replicas ----------------------------------------------------------------------

    def test_each_call_goes_to_the_replica_with_the_fewest(self, bench):
        """The first of equal ones."""
        b = bench(Backend("b", 4, replicas=["http://one", "http://two"]))
        for ticket in range(1, 5):
            b.ask(ticket)
        assert [b.ledger.claim(ticket).replica for ticket in range(1, 5)] == 2 * ["http://one", "http://two"]
        b.release(2)
        b.release(4)
        assert b.ask(5) == [5]
        assert b.ledger.claim(5).replica == "http://two"

    # -- exploring ---------------------------------------------------------------------

    @staticmethod
    def information(lo, hi, gain=0.0, *, left=1, past=(0.0, 0.0, 0, 0.0)):
        """What exploring the stage `s` needs, with what was received as in `Explore`."""
        return Explore(Said(lo, hi, {"s": gain}), *past, left)

    def explored(self, bench, *explores, orders=None):
        """The first grant, and why, among tickets 1, 2, ... of these teachings; the coin always says yes."""
        b = bench(exploration=Exploration(1.0))
        b.ask(0)
        for ticket, explore in enumerate(explores, 1):
            b.ask(ticket, order=float(ticket) if orders is None else orders[ticket - 1], explore=explore)
        (granted,) = b.release(0)
        return granted, b.ledger.claim(granted).reason

    def test_the_lane_of_the_first_set_that_teaches_most(self, bench):
        """Whichever of the overlapping jobs it is of; later sets come later, whatever they would teach."""
        information = self.information
        assert self.explored(
            bench, information(1, 5, 2.0), information(4, 9, 3.0), information(9.5, 20, 9.0)
        ) == (
            2,
            "explore",
        )
        assert self.explored(
            bench, information(1, 5, 2.0), information(4, 9, 1.0), information(9, 20, 9.0)
        ) == (
            3,
            "explore",
        )
        assert self.explored(bench, information(50, 60, 9.0), information(1, 3, 0.1)) == (2, "explore")
        assert self.explored(bench, information(1, 50, 1.0), information(2, 3), information(40, 60, 2.0)) == (
            3,
            "explore",
        )

    def test_where_nothing_teaches_the_order_decides(self, bench):
        """No teachings; nothing taught; a first set that teaches nothing; samples that are used up."""
        information = self.information
        assert self.explored(bench, None, None) == (1, "order")
        assert self.explored(bench, information(1, 2), information(1, 2)) == (1, "order")
        assert self.explored(bench, None, information(1, 3), information(4, 6, 9.0)) == (1, "order")
        assert self.explored(bench, information(1, 3, 9.0, left=0), information(4, 6, 9.0)) == (1, "order")
        assert self.explored(bench, information(1, 3, 9.0, left=0), information(3, 6, 1.0)) == (2, "explore")

    def test_ties_go_to_the_least_work_then_to_the_earlier_job(self, bench):
        """Then to the earlier arrival."""
        information = self.information
        assert self.explored(bench, information(2, 9, 2.0), information(1, 9, 2.0)) == (2, "explore")
        assert self.explored(bench, information(1, 9, 2.0), information(1, 4, 2.0), orders=(5.0, 1.0)) == (
            1,
            "explore",
        )
        b = bench(exploration=Exploration(1.0))
        b.ask(0)
        explore = Explore(Said(1, 2, {"x": 3.0, "y": 3.0}), 0.0, 0.0, 0, 0.0, 1)
        b.ask(1, lane(1, "y"), 0.0, explore=explore)
        b.ask(2, lane(1, "x"), 0.0, explore=explore)
        assert b.release(0) == [1]

    def test_intervals_age_with_the_clock(self, bench):
        """What a job received since its interval was formed is not to come; running calls count by now."""
        b = bench(exploration=Exploration(1.0))
        b.ask(0)
        b.ask(1, order=0.0, explore=self.information(0.5, 1.5, 0.5))
        b.ask(2, order=1.0, explore=self.information(4.0, 6.0, 1.0, past=(0.0, 1.0, 2, 14.0)))
        b.now = 7.5  # 2 s: from 2 to 4
        assert b.do(Rekey(lane(1), Key(0, 0.0, self.information(0.5, 1.5, 0.5)))) == []
        b.now = 8.0  # 3 s: from 1 to 3
        assert b.release(0) == [2]

    def test_the_number_of_the_grant_decides(self, bench):
        """Every grant of the backend counts, whatever it was for; other backends count for themselves."""
        exploration = Exploration(0.3, seed=5)
        b = bench(Backend("b", 1), Backend("c", 9), exploration=exploration)
        b.ask(1_000)
        informative, knows = lane(2), lane(1)
        reasons = []
        for number in range(2, 60):
            b.ask(number, lane(3, backend="c"))
            b.release(number)
            for ticket, at, explore in (
                (10_000 + number, knows, self.information(1, 2)),
                (20_000 + number, informative, self.information(1, 2, 1.0)),
            ):
                b.ask(ticket, at, float(at[1]), explore=explore)
            if number % 7 == 0:  # in place of the grant of that number
                b.ask(30_000 + number, forced=True)
                b.release(30_000 + number)
                reasons.append(None)
                continue
            (granted,) = b.release(b.holding()[0])
            reasons.append(b.ledger.claim(granted).reason == "explore")
            assert b.ledger.claim(granted).lane == (informative if reasons[-1] else knows)
        expected = [None if n % 7 == 0 else exploration.turn(n) for n in range(2, 60)]
        assert reasons == expected

    def test_lanes_of_other_backends_are_not_explored(self, bench):
        """A slot of one backend is no slot of another."""
        b = bench(Backend("b", 1), Backend("c", 1), exploration=Exploration(1.0))
        b.ask(1)
        b.ask(2, lane(2, backend="c"))
        b.ask(3, lane(3, backend="c"), 0.0, explore=self.information(1, 2, 9.0))
        b.ask(4, lane(4), 1.0, explore=self.information(1, 2))
        b.ask(5, lane(5), 2.0, explore=self.information(1, 2, 1.0))
        assert b.release(1) == [5]
        assert b.release(2) == [3]

    def test_exploring_keeps_to_the_first_level(self, bench):
        """A level is served before all later ones, whatever those would teach."""
        b = bench(exploration=Exploration(1.0))
        b.ask(0)
        for ticket, level, gain in ((1, 1, 9.0), (2, 0, 1.0), (3, -1, 0.0), (4, 1, 10.0)):
            b.ask(ticket, order=0.0, level=level, explore=self.information(1, 5, gain))
        assert b.serve() == [0, 3, 2, 4, 1]

    def test_a_failing_teaching_costs_its_turn_never_the_slot(self, bench):
        """It may be anybody's object: the first in the order is granted."""

        class Fails:
            @property
            def bounds(self):
                raise KeyError("a bug")

        explore = Explore(Fails(), 0.0, 0.0, 0, 0.0, 1)
        assert self.explored(bench, self.information(1, 2), explore) == (1, "order")

    # -- what can be seen --------------------------------------------------------------

    def test_a_ticket_that_waits(self, one):
        """Where, since when, and what is known of its call."""
        call = CallInfo("s", StageOccurrence("s", 1), 2, 7, 3, ("m", "n"), 5, 6, "talk", "me")
        one.now = 2.5
        one.do(Request(1, lane(3), call=call))
        one.do(Request(2, lane(4)))
        claim = one.ledger.claim(1)
        assert isinstance(claim, Waiting)
        assert (claim.lane, claim.asked_s, claim.call) == (lane(3), 2.5, call)
        assert claim.arrival < one.ledger.claim(2).arrival
        assert one.ledger.claim(99) is None
        assert dict(one.ledger.view().waiting) == {1: claim, 2: one.ledger.claim(2)}

    def test_a_ticket_that_holds(self, one):
        """When it asked and was granted, why, and how many held a slot then."""
        call = CallInfo("s", StageOccurrence("s", 1))
        one.now = 1.0
        one.do(Request(1, lane(1), call=call))
        one.now = 4.0
        one.resize(3)
        grant = one.ledger.claim(1)
        assert (grant.lease_until_s is not None) == self.leases
        expected = Grant(lane(1), 1.0, 4.0, call, "order", 2, 3, arrival=2)
        assert grant._replace(lease_until_s=None) == expected
        assert dict(one.ledger.view().holding) == {0: one.ledger.claim(0), 1: one.ledger.claim(1)}
        assert [(one_.ticket, one_.grant) for one_ in one.told][1:] == [(1, one.ledger.claim(1))]

    def test_waiting_tickets_are_seen_as_they_arrived(self, one):
        """Whatever their numbers and orders are."""
        for ticket in (7, 3, 9, 1):
            one.ask(ticket, order=float(ticket))
        assert one.waiting() == [7, 3, 9, 1]

    def test_backends_do_not_take_each_others_slots(self, bench):
        """Each has its own slots and backlog."""
        b = bench(Backend("b", 1), Backend("c", 2))
        granted = [b.ask(n, lane(1, backend=backend)) for n, backend in enumerate("bbcbccc")]
        assert granted == [[0], [], [2], [], [4], [], []]
        assert (b.counts("b"), b.counts("c")) == ((1, 2, 1, 0), (2, 2, 2, 0))
        assert b.release(2) == [5]
        assert b.release(0) == [1]
        assert b.resize(9, "c") == [6]
        assert b.ledger.backends["c"] == b.ledger.backend("c")
        assert list(b.ledger.backends) == ["b", "c"]

    def test_a_backend_that_there_is_not(self, bench):
        """Is an error of its caller."""
        with pytest.raises(KeyError):
            bench().ledger.backend("nowhere")

    def test_it_can_be_attached_to(self, bench):
        """What is called when there is news may be given at any time."""
        b = bench()
        b.ledger.attach(lambda: None, lambda error: None)
        assert b.ask(1) == [1]


# -- a random walk -----------------------------------------------------------------------

BACKENDS = ("b", "c")
ORDERS = st.one_of(
    st.integers(0, 3).map(float),
    st.floats(allow_nan=False),
    st.sampled_from([math.inf, -math.inf, 0.0, -0.0]),
)
EXPLORES = st.one_of(
    st.none(),
    st.builds(
        lambda lo, more, gains, formed, done, left: Explore(
            Said(lo, lo + more, dict(zip("xy", gains, strict=True))), formed, done, 0, 0.0, left
        ),
        *(st.integers(0, 6), st.integers(0, 4)),
        st.tuples(st.integers(0, 3), st.integers(0, 3)),
        *(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
    ),
)
KEYS = st.builds(
    lambda level, order, explore, tenant, urgent: Key(level, order, explore, tenant, *urgent),
    st.sampled_from((0, 0, 0, -1, 2)),
    ORDERS,
    EXPLORES,
    st.sampled_from(("", "", "t", "u", "v")),
    st.sampled_from([(math.inf, math.inf)] * 4 + [(0.0, 5.0), (3.0, 20.0), (9.0, math.inf)]),
)
MAX_QUEUED = 4
"""How many calls may wait at a backend of the walk."""

TENANTS = st.sampled_from(
    (
        NO_TENANTS,
        Tenants({"t": Tenant(2.0), "u": Tenant(0.5, 1), "v": Tenant(1.0, 2)}),
        Tenants({"t": Tenant(1.0, 1)}),
        Tenants({"t": Tenant(1.0, max_queued=1), "u": Tenant(2.0, 1, max_queued=2)}),
        Tenants({"t": Tenant(1.0, tokens_per_minute=4000), "u": Tenant(2.0, 2, tokens_per_minute=100)}),
    )
)
LANES = st.builds(
    lambda backend, job, stage: (backend, job, StageOccurrence(stage, 1)),
    st.sampled_from((*"bbb", "c")),
    st.one_of(st.integers(0, 4), st.integers(0, 120)),
    st.sampled_from("xxxy"),
)
PICKS = st.integers(0, 200)
MOVES = st.lists(st.tuples(LANES, KEYS), max_size=4)


class Model:
    """A ledger that could not be simpler: a list of those that wait, searched anew for each grant."""

    def __init__(self, clock, slots, exploration, overdue, tenants, requests_per_minute=None):
        self.clock = clock
        self.requests_per_minute = requests_per_minute
        self.seconds = {name: [] for name in BACKENDS}  # in which the grants were
        self.overdue = overdue
        self.turns = Turns(self, tenants)
        self.due_s = {}  # of lanes that wait
        self.last_overdue = dict.fromkeys(BACKENDS, -math.inf)
        self.closed_s = dict.fromkeys(BACKENDS, 0.0)
        self.slots = dict.fromkeys(BACKENDS, slots)
        self.opens_s = dict.fromkeys(BACKENDS, 0.0)
        self.ramps = dict.fromkeys(BACKENDS, -math.inf)  # the grants when the last pause began
        self.granted = dict.fromkeys(BACKENDS, 0)
        self.released = dict.fromkeys(BACKENDS, 0)
        self.exploration = exploration
        self.waiting = {}  # lanes of tickets, in the order of their arrival
        self.keys = {}
        self.holding = {}  # lanes of tickets
        self.forced = set()
        self.arrivals = {}  # every ticket's number
        self.count = 0

    def arrive(self, ticket, kept=0):
        """Number the ticket, unless it keeps the number of an earlier one."""
        if not kept:
            self.count += 1
        self.arrivals[ticket] = kept or self.count

    def held(self, backend):
        return sum(at[0] == backend for at in self.holding.values())

    def backlog(self, backend):
        """Those that wait there, in the order of their arrival."""
        return [ticket for ticket, at in self.waiting.items() if at[0] == backend]

    def known(self, ticket):
        return ticket in self.waiting or ticket in self.holding

    def open_s(self, backend, now):
        """The clock that stands during pauses."""
        return max(self.opens_s[backend], now) - self.closed_s[backend]

    def request(self, ticket, at, key, now, kept=0, waited_s=0.0):
        if not self.known(ticket):
            if at not in self.waiting.values() and self.overdue.max_wait_s is not None:
                self.due_s[at] = self.open_s(at[0], now) + self.overdue.max_wait_s - waited_s
            known = self.keys[at] if at in self.waiting.values() else None
            self.arrive(ticket, kept)
            self.waiting[ticket] = at
            self.waiting = dict(sorted(self.waiting.items(), key=lambda own: (self.arrivals[own[0]], own[0])))
            self.keys[at] = (known or FIRST_COME) if key is None else key
            self.turns.moved(at, known)

    def first(self, at):
        """The arrival of the first ticket that waits in the lane."""
        return min(self.arrivals[ticket] for ticket, own in self.waiting.items() if own == at)

    def force(self, ticket, at, kept=0, key=None):
        if not self.known(ticket):
            self.arrive(ticket, kept)
            self.seat(ticket, at, key=key)
            self.forced.add(ticket)

    def force_waiting(self, ticket):
        if ticket in self.waiting:
            self.seat(ticket, self.waiting[ticket])
            self.forced.add(ticket)

    def seat(self, ticket, at, reason="", key=None):
        key = self.keys[at] if ticket in self.waiting else key or FIRST_COME
        self.turns.charge(ticket, (at[0], key.level, key.tenant))
        self.leave(ticket)
        self.holding[ticket] = at
        self.granted[at[0]] += 1
        self.seconds[at[0]].append(math.floor(self.clock()))
        if reason == "overdue":
            self.last_overdue[at[0]] = self.granted[at[0]]

    def leave(self, ticket):
        at = self.waiting.pop(ticket, None)
        if at is not None and at not in self.waiting.values():
            self.due_s.pop(at, None)
            self.turns.left((at[0], self.keys[at].level, self.keys[at].tenant))

    def rekey(self, at, key):
        if at in self.waiting.values():
            known, self.keys[at] = self.keys[at], key
            self.turns.moved(at, known)

    def release(self, ticket, retry_after_s, now, tokens=None):
        self.leave(ticket)
        at = self.holding.pop(ticket, None)
        self.forced.discard(ticket)
        if at is not None:
            self.released[at[0]] += 1
            self.turns.settle(ticket, tokens, failed=retry_after_s is not None)
            if retry_after_s is not None:
                longer_s = now + retry_after_s - max(self.opens_s[at[0]], now)
                if longer_s > 0.0:
                    self.closed_s[at[0]] += longer_s
                    self.opens_s[at[0]] = now + retry_after_s
                    self.ramps[at[0]] = self.granted[at[0]]

    def ready_s(self, backend):
        """When the next grant is allowed there: 1, 2, 4, ... of them per quarter second after a pause."""
        since, at_s = self.granted[backend] - self.ramps[backend], self.opens_s[backend]
        if since < self.slots[backend]:
            allowed, more = 1, 2
            while allowed <= since:
                allowed, more, at_s = allowed + more, 2 * more, at_s + 0.25
        return at_s

    def admits_s(self, backend, now):
        """When the rate allows the next grant: each one counts until 60 s after its second."""
        ready_s = -math.inf
        if self.requests_per_minute is not None:
            counted = [second for second in sorted(self.seconds[backend]) if second >= math.floor(now - 60)]
            over = len(counted) + 1 - self.requests_per_minute
            if over > 0:
                ready_s = counted[over - 1] + 61.0
        return ready_s

    def lanes(self, backend, line=None):
        """The lanes that wait there, or in the line, whose tenants may hold one more slot."""
        found = dict.fromkeys(at for at in self.waiting.values() if at[0] == backend)
        lines = {at: (backend, self.keys[at].level, self.keys[at].tenant) for at in found}
        return [
            at for at, own in lines.items() if not self.turns.blocked(backend, own[2]) and line in (None, own)
        ]

    def free(self, backend):
        """Whether a slot is free there and a ticket waits that may have it, were it not for a pause."""
        return bool(self.lanes(backend)) and self.held(backend) < self.slots[backend]

    def next(self, backend, now):
        """The ticket that gets a slot there, and why; None if there is none."""
        if not self.free(backend) or now < max(self.ready_s(backend), self.admits_s(backend, now)):
            return None
        lanes = self.lanes(backend)
        ticket = {at: next(own for own, where in self.waiting.items() if where == at) for at in lanes}
        due_s = min(((self.due_s[at], at) for at in lanes if at in self.due_s), default=None)
        since = self.granted[backend] - self.last_overdue[backend]
        if due_s is not None and due_s[0] <= self.open_s(backend, now) and since >= self.overdue.every - 1:
            return ticket[due_s[1]], "overdue"
        lanes = sorted(
            self.lanes(backend, self.turns.first(lanes)), key=lambda at: (self.keys[at].order, self.first(at))
        )
        for at in lanes:
            if self.keys[at].urgent_s <= now < self.keys[at].lost_s:
                return ticket[at], "deadline"
        exploration = self.exploration
        if exploration is not None and coin(exploration.seed, self.granted[backend] + 1, exploration.epsilon):
            given = [(self.keys[at].order, at, self.first(at), self.keys[at].explore) for at in lanes]
            chosen = choice_of_lanes(given, now)
            if chosen is not None:
                return ticket[chosen], "explore"
        return ticket[lanes[0]], "order"

    def wake_s(self, now):
        """When time alone allows a grant."""
        times = [
            self.ready_s(backend) if now < self.ready_s(backend) else self.admits_s(backend, now)
            for backend in BACKENDS
            if self.free(backend)
        ]
        for backend in BACKENDS:
            if self.backlog(backend) and self.held(backend) < self.slots[backend] and not self.free(backend):
                at = self.turns.waits_for_tokens_s(backend)
                times += [] if at is None else [at]
        return min((at for at in times if at > now), default=None)


class Turns:
    """The turns of tenants, counted anew whenever they are asked for; what cannot be is kept in dicts."""

    def __init__(self, model, tenants):
        self.model = model
        self.tenants = tenants
        self.virtual_s = {}  # of lines
        self.floor_s = {}
        self.number = {}
        self.level_s = {}
        self.shares = {}  # of tickets that hold: line, charge, weight, time of the grant, tokens
        self.served = {}
        self.tokens = {}  # of backend and tenant: pairs of second and tokens
        self.tokens_mean = {}

    def lanes(self, *line):
        model = self.model
        return {
            at
            for at in model.waiting.values()
            if (at[0], model.keys[at].level, model.keys[at].tenant)[: len(line)] == line
        }

    def held(self, line):
        return sum(share[0] == line for share in self.shares.values())

    def blocked(self, backend, tenant):
        return self.full(backend, tenant) or self.tokens_s(backend, tenant) > self.model.clock()

    def full(self, backend, tenant):
        most = self.tenants.of(tenant).max_slots
        held = sum((share[0][0], share[0][2]) == (backend, tenant) for share in self.shares.values())
        return most is not None and held >= most

    def charge_of(self, backend, tenant):
        """The tokens with which a grant counts: the mean of the latest ended ones."""
        _, mean = self.tokens_mean.get((backend, tenant), (0, UNKNOWN_INPUT + UNKNOWN_OUTPUT))
        return max(1, round(mean))

    def tokens_s(self, backend, tenant):
        """When the tokens of the tenant admit a call: each counts until 60 s after its second."""
        most, now = self.tenants.of(tenant).tokens_per_minute, self.model.clock()
        if most is None:
            return now
        counted = [own for own in self.tokens.get((backend, tenant), ()) if own[0] >= math.floor(now) - 60]
        ready_s = now
        for second in (None, *sorted({second for second, _ in counted})):
            left = [own for own in counted if second is None or own[0] > second]
            used = sum(tokens for _, tokens in left)
            ready_s = now if second is None else second + 61.0
            if not used or used + self.charge_of(backend, tenant) <= most:
                break
        return ready_s

    def waits_for_tokens_s(self, backend):
        """When the tokens of the first tenant that has enough slots admit a call."""
        tenants = {line[2] for line in self.virtual_s if line[0] == backend and self.lanes(*line)}
        times = [self.tokens_s(backend, own) for own in tenants if not self.full(backend, own)]
        return min(times, default=None)

    def first(self, lanes):
        """The line whose turn it is, of those of these lanes."""
        model = self.model
        level = min(model.keys[at].level for at in lanes)
        lines = {(at[0], level, model.keys[at].tenant) for at in lanes if model.keys[at].level == level}
        return min(lines, key=lambda own: (self.virtual_s[own], self.held(own), self.number[own], own))

    def check(self, view):
        """Raise AssertionError unless the grants are charged as here."""
        charged = {ticket: grant.share for ticket, grant in view.holding.items() if grant.share is not None}
        assert {ticket: (own.level, own.tenant, own.charge_s) for ticket, own in charged.items()} == {
            ticket: (*line[1:], charge_s) for ticket, (line, charge_s, *_) in self.shares.items()
        }

    def moved(self, at, before):
        """The lane has a key, perhaps another one than before; None if it did not wait."""
        model = self.model
        key = model.keys[at]
        line = (at[0], key.level, key.tenant)
        if before is not None and (before.level, before.tenant) == line[1:]:
            return
        if len(self.lanes(*line)) == 1:
            level_s = self.level_s.setdefault(line[:2], 0.0)
            self.lift(line, level_s)
            self.number[line] = model.first(at)
        if before is not None:
            self.left((at[0], before.level, before.tenant))

    def lift(self, line, level_s):
        """The line is not behind its level, and no refund takes it there."""
        if line not in self.virtual_s:
            self.virtual_s[line] = self.floor_s[line] = level_s
        self.virtual_s[line] = max(self.virtual_s[line], level_s)
        self.floor_s[line] = max(self.floor_s[line], level_s)

    def left(self, line):
        """A lane of the line waits no more."""
        waits = bool(self.lanes(*line[:2]))
        for own in [own for own in self.virtual_s if own[:2] == line[:2]]:
            idle = not self.lanes(*own) and not self.held(own)
            if idle and not (waits and self.virtual_s[own] > self.level_s[line[:2]]):
                del self.virtual_s[own]
        if not any(own[:2] == line[:2] for own in self.virtual_s):
            self.level_s.pop(line[:2], None)

    def charge(self, ticket, line):
        if not line[2] and not any(own[0] == line[0] and own != line for own in self.virtual_s):
            return
        level_s = self.level_s.get(line[:2], 0.0)
        lanes = [at for at in self.lanes(*line[:2]) if not self.blocked(line[0], self.model.keys[at].tenant)]
        if lanes:
            level_s = max(level_s, self.virtual_s[self.first(lanes)])
        self.level_s[line[:2]] = level_s
        if line not in self.virtual_s:
            self.virtual_s[line] = self.floor_s[line] = level_s
        elif not self.lanes(*line) or self.tenants.of(line[2]).tokens_per_minute is not None:
            self.lift(line, level_s)
        weight = self.tenants.of(line[2]).weight
        charge_s = self.served.get(line[0], (0, 1.0))[1] / weight
        now, tokens = self.model.clock(), 0
        if self.tenants.of(line[2]).tokens_per_minute is not None:
            tokens = self.charge_of(*line[::2])
            self.tokens.setdefault(line[::2], []).append((math.floor(now), tokens))
        self.shares[ticket] = line, charge_s, weight, now, tokens
        self.virtual_s[line] += charge_s
        self.left(line)

    def count(self, ticket, tokens):
        """The tokens of a ticket that holds; 0 if it failed."""
        line, _, _, granted_s, charge = self.shares[ticket]
        at, now = line[::2], self.model.clock()
        if tokens is None or not charge:
            return
        if math.floor(granted_s) >= math.floor(now) - 60:
            self.tokens[at].append((math.floor(granted_s), tokens - charge))
        else:
            self.tokens[at].append((math.floor(now), tokens))
        if tokens:
            attempts, mean = self.tokens_mean.get(at, (0, UNKNOWN_INPUT + UNKNOWN_OUTPUT))
            self.tokens_mean[at] = attempts + 1, mean + (tokens - mean) / min(attempts + 1, 32)

    def settle(self, ticket, tokens, *, failed):
        if ticket not in self.shares:
            return
        line, charge_s, weight, granted_s, _ = self.shares[ticket]
        served_s = self.model.clock() - granted_s
        if not failed:
            calls, mean_s = self.served.get(line[0], (0, 1.0))
            self.served[line[0]] = calls + 1, mean_s + (served_s - mean_s) / min(calls + 1, 32)
        more_s = (0.0 if failed else served_s) / weight - charge_s
        before_s = self.virtual_s[line]
        self.virtual_s[line] += more_s
        if more_s <= 0.0:
            self.virtual_s[line] = max(self.virtual_s[line], min(self.floor_s[line], before_s))
        was_full = self.full(line[0], line[2])
        self.count(ticket, 0 if failed else tokens)
        del self.shares[ticket]
        if was_full:
            for own in self.virtual_s:
                if own[::2] == line[::2] and self.lanes(*own):
                    self.lift(own, self.level_s[own[:2]])
        self.left(line)


class LedgerWalk(RuleBasedStateMachine):
    """Every operation on ledger and model alike; news is asked for after each, as the protocol demands."""

    home = Home()

    @initialize(
        slots=st.integers(1, 3),
        epsilon=st.sampled_from((None, 0.3, 1.0)),
        seed=st.integers(0, 99),
        overdue=st.builds(Overdue, st.sampled_from((None, 0.0, 5.0)), st.integers(1, 4)),
        tenants=TENANTS,
        requests_per_minute=st.sampled_from((None, None, 1, 5, 20)),
    )
    def start(self, slots, epsilon, seed, overdue, tenants, requests_per_minute):
        exploration = None if epsilon is None else Exploration(epsilon, seed=seed)
        self.rates = {"requests_per_minute": requests_per_minute, "max_queued": MAX_QUEUED}
        backends = [Backend(name, slots, **self.rates) for name in BACKENDS]
        self.bench = Bench(self.home, *backends, exploration=exploration, overdue=overdue, tenants=tenants)
        self.model = Model(lambda: self.bench.now, slots, exploration, overdue, tenants, requests_per_minute)
        self.tickets = 0
        self.unforced = dict.fromkeys(BACKENDS, 0)

    def _ticket(self, pick):
        """A ticket that waits, holds, was released, or never was, as the number has it."""
        return pick % (self.tickets + 2)

    def _settle(self, stage_events=()):
        """Ask for news until there is none; a lane is moved after each, if the home tells one by one."""
        stage_events, bench, model = list(stage_events), self.bench, self.model
        if not self.home.tells_one_by_one:
            stage_events = []
        while granted := bench.tell():
            for ticket in granted:
                if ticket in model.forced:
                    assert ticket in self.untold
                    self.untold.discard(ticket)
                    continue
                backend = model.waiting[ticket][0]
                reason = bench.ledger.claim(ticket).reason
                assert model.next(backend, bench.now) == (ticket, reason)
                assert bench.ledger.claim(ticket).arrival == model.arrivals[ticket]
                model.seat(ticket, model.waiting[ticket], reason)
            if stage_events:
                at, key = stage_events.pop()
                bench.submit(Rekey(at, key))
                model.rekey(at, key)
        assert not self.untold
        assert [model.next(backend, bench.now) for backend in BACKENDS] == [None, None]
        assert bench.wake_s == model.wake_s(bench.now)

    def _do(self, changes, stage_events=(), times=1):
        """All of them at once, maybe twice."""
        self.untold = set()
        for change in changes * times:
            match change:
                case Request(ticket, at, key, forced, _, kept, waited_s):
                    if forced and not self.model.known(ticket):
                        self.untold.add(ticket)
                    if forced:
                        self.model.force(ticket, at, kept, key)
                    else:
                        self.model.request(ticket, at, key, self.bench.now, kept, waited_s)
                case Force(ticket):
                    if ticket in self.model.waiting:
                        self.untold.add(ticket)
                    self.model.force_waiting(ticket)
                case Rekey(at, key):
                    self.model.rekey(at, key)
                case Release(ticket, usage, failure):
                    self.untold.discard(ticket)
                    self.model.release(
                        ticket, failure and failure.retry_after_s, self.bench.now, usage.prompt_tokens
                    )
                case Configure(backend):
                    self.model.slots[backend.name] = backend.slots
        for _ in range(times):
            self.bench.submit(*changes)
        self._settle(stage_events)

    def _new(self):
        self.tickets += 1
        return self.tickets

    @rule(
        at=LANES,
        key=st.one_of(st.none(), KEYS),
        stage_events=MOVES,
        waited_s=st.sampled_from((0.0, 0.0, 3.0, 8.0)),
    )
    def request(self, at, key, stage_events, waited_s):
        """A new ticket, whose key is from now on that of its lane."""
        self._do([Request(self._new(), at, key, waited_s=waited_s)], stage_events)

    @rule(count=st.integers(1, 30), lanes=st.lists(LANES, min_size=1), key=KEYS, together=st.booleans())
    def request_many(self, count, lanes, key, together):
        requests = [Request(self._new(), lanes[n % len(lanes)], key) for n in range(count)]
        for batch in [requests] if together else [[own] for own in requests]:
            self._do(batch)

    @rule(at=LANES, key=KEYS)
    def force(self, at, key):
        self._do([Request(self._new(), at, key, True)])

    @rule(at=LANES, forced=st.booleans())
    def admit(self, at, forced):
        """The short path gives a slot if one is free, and otherwise changes nothing."""
        bench, model, ticket = self.bench, self.model, self._new()
        backend = at[0]
        free = (
            not model.backlog(backend)
            and model.held(backend) < model.slots[backend]
            and bench.now >= max(model.ready_s(backend), model.admits_s(backend, bench.now))
        )
        grant = bench.ledger.admit(bench.now, Request(ticket, at, None, forced))
        assert grant is None or forced or free
        assert grant is not None or not self.home.admits or not (forced or free)
        if grant is not None:
            assert grant == bench.ledger.claim(ticket)
            assert grant.reason == ("free" if free else "forced")
            model.arrive(ticket)
            assert grant.arrival == model.arrivals[ticket]
            model.seat(ticket, at)
            if forced:
                model.forced.add(ticket)
        self.untold = set()
        self._settle()

    @rule(pick=PICKS, at=LANES, key=KEYS, forced=st.booleans())
    def request_again(self, pick, at, key, forced):
        """A ticket that is known changes nothing; one that was released comes anew."""
        ticket = self._ticket(pick)
        self.tickets = max(self.tickets, ticket)
        self._do([Request(ticket, at, key, forced)])

    @rule(pick=PICKS, at=LANES, key=st.one_of(st.none(), KEYS), forced=st.booleans())
    def request_in_place(self, pick, at, key, forced):
        """A new ticket that keeps the arrival number of one that was released."""
        model, kept = self.model, self.model.arrivals.get(self._ticket(pick), 0)
        if any(model.arrivals[ticket] == kept for ticket in (*model.waiting, *model.holding)):
            return
        self._do([Request(self._new(), at, key, forced and self.home.admits, arrival=kept)])

    @rule(pick=PICKS, again=st.booleans())
    def force_one_that_waits(self, pick, again):
        self._do([Force(self._ticket(pick))], times=1 + again)

    @rule(stage_events=st.lists(st.tuples(LANES, KEYS), min_size=1, max_size=20))
    def move(self, stage_events):
        self._do([Rekey(at, key) for at, key in stage_events])

    @rule(low=st.floats(-9, 9), times=st.integers(1, 4))
    def bury(self, low, times):
        """Move every lane about, to places that are worse and then to one that is better."""
        lanes = dict.fromkeys(self.model.waiting.values())
        for order in (*range(1_000, 1_000 + times), low):
            self._do([Rekey(at, Key(0, float(order))) for at in lanes])

    @rule(
        pick=PICKS,
        stage_events=MOVES,
        retry_after_s=st.sampled_from((None, None, None, 0.0, 2.0, 9.0)),
        again=st.booleans(),
        tokens=st.sampled_from((None, 10, 700, 5000)),
    )
    def release(self, pick, stage_events, retry_after_s=None, again=False, tokens=None):
        failure = None if retry_after_s is None else Failure(429, retry_after_s)
        usage = UNKNOWN_USAGE if tokens is None else Usage(tokens, 0)
        self._do([Release(self._ticket(pick), usage, failure)], stage_events, times=1 + again)

    @rule(count=st.integers(1, 30), retry_after_s=st.sampled_from((None, None, 1.0)))
    def release_holders(self, count, retry_after_s):
        failure = None if retry_after_s is None else Failure(429, retry_after_s)
        for ticket in list(self.model.holding)[:count]:
            self._do([Release(ticket, failure=failure)])

    @rule(backend=st.sampled_from(BACKENDS), slots=st.integers(1, 20), stage_events=MOVES)
    def configure(self, backend, slots, stage_events):
        self._do([Configure(Backend(backend, slots, **self.rates))], stage_events)

    @rule(
        at=LANES,
        keys=st.tuples(KEYS, KEYS),
        picks=st.tuples(PICKS, PICKS),
        slots=st.integers(1, 3),
        again=st.booleans(),
    )
    def everything_at_once(self, at, keys, picks, slots, again):
        """One submit of all kinds of changes; the second time it changes nothing that it need not."""
        changes = [
            Request(self._new(), at, keys[0]),
            Rekey(at, keys[1]),
            Configure(Backend(at[0], slots, **self.rates)),
            Request(self._new(), at, None),
            *(Release(self._ticket(pick)) for pick in picks),
        ]
        if again:
            released = {change.ticket for change in changes if isinstance(change, Release)}
            changes = [own for own in changes if not (isinstance(own, Request) and own.ticket in released)]
        self._do(changes, times=1 + again)

    @rule(passed_s=st.floats(0.0, 9.0), stage_events=MOVES)
    def pass_time(self, passed_s, stage_events):
        self.bench.now += passed_s
        self.home.quiet(self.bench.ledger, self.bench.now)
        self.untold = set()
        self._settle(stage_events)

    @precondition(lambda self: self.bench.wake_s is not None)
    @rule()
    def wake(self):
        """Time alone allows a grant: one at least is told, and not a moment before.

        Where a pause ends, the rate may hold back the next ticket.
        """
        held = len(self.model.holding)
        before, self.bench.now = self.bench.now, math.nextafter(self.bench.wake_s, 0.0)
        self.untold = set()
        if self.bench.now > before:
            self.home.quiet(self.bench.ledger, self.bench.now)
            assert self.bench.tell() == []
        self.bench.now = self.bench.wake_s
        self.home.quiet(self.bench.ledger, self.bench.now)
        self._settle()
        limited = any(own.tokens_per_minute for own in self.model.turns.tenants.named.values())
        assert len(self.model.holding) > held or self.model.requests_per_minute is not None or limited

    @invariant()
    def crowds(self):
        """No more calls may wait where as many wait as may, unless a slot is free for the next one."""
        if not hasattr(self, "bench"):
            return
        ledger, view = self.bench.ledger, self.bench.ledger.view()
        for backend in BACKENDS:
            own = view.backends[backend]
            waits = [ledger.tenant(claim) for claim in view.waiting.values() if claim.lane[0] == backend]
            for tenant in ("", "t", "u"):
                most = ledger.tenants.of(tenant).max_queued
                full = [("", len(waits), MAX_QUEUED)] if len(waits) >= MAX_QUEUED else []
                if most is not None and waits.count(tenant) >= most:
                    full.append((tenant, waits.count(tenant), most))
                crowd = ledger.crowd(self.bench.now, backend, tenant)
                if crowd is None:
                    assert not full or own.holding < own.slots
                else:
                    assert crowd == (backend, *full[0])

    @invariant()
    def sound(self):
        """The ledger agrees with the model, and the invariants hold of both."""
        if not hasattr(self, "bench"):
            return
        ledger, model = self.bench.ledger, self.model
        ledger.check(self.bench.now)
        view = ledger.view()
        assert {ticket: claim.lane for ticket, claim in view.waiting.items()} == model.waiting
        assert list(view.waiting) == list(model.waiting)
        assert {ticket: grant.lane for ticket, grant in view.holding.items()} == model.holding
        for backend in BACKENDS:
            own = view.backends[backend]
            assert own == ledger.backend(backend) == ledger.backends[backend]
            assert (own.backend.slots, own.pause.opens_s) == (model.slots[backend], model.opens_s[backend])
            assert (own.holding, own.waiting) == (model.held(backend), len(model.backlog(backend)))
            assert (own.granted, own.released) == (model.granted[backend], model.released[backend])
            unforced = sum(
                at[0] == backend and ticket not in model.forced for ticket, at in model.holding.items()
            )
            assert unforced <= max(own.backend.slots, self.unforced[backend])
            self.unforced[backend] = unforced

        model.turns.check(view)

    def teardown(self):
        """Every ticket ends released, whatever happened to it before."""
        if not hasattr(self, "bench"):
            return
        for ticket in range(self.tickets + 2):
            self.release(ticket, ())
        assert [self.bench.counts(backend)[:2] for backend in BACKENDS] == [(0, 0), (0, 0)]
        self.bench.ledger.check(self.bench.now)


def walk(home):
    """The random walk for that home."""
    return type(f"Walk{type(home).__name__}", (LedgerWalk,), {"home": home})
