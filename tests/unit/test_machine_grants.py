"""The machine with its ledger: kept in step, grant by grant."""

from __future__ import annotations

import pytest

from llmsched_langgraph._core.policies import NamedPolicy
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.values import Release

CALLS_THEN_SLOTS = NamedPolicy(
    "calls then slots", lambda job, now: 10 * (job.waiting + job.holding) + job.holding
)


def test_a_grant_changes_the_order_of_the_next(desk):
    """Under `fair`, slots that come free at once are spread over the jobs, not given to the first."""
    d = desk("fair", slots=1)
    for job in (1, 2, 3):
        d.arrive(0, job)
    d.call(0, 1)
    for ticket, job in ((2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)):
        d.call(0, ticket, job)
    assert d.resize(1, 7).granted == [2, 5, 7, 3, 6, 4]


def test_lowering_drains_and_never_revokes(desk):
    """With fewer slots no ticket loses one, and none gets one before enough came back."""
    d = desk("fcfs", slots=3)
    for ticket in range(1, 6):
        d.call(0, ticket)
    led = d.resize(1, 1)
    assert led.granted == []
    assert [d.release(2, ticket).granted for ticket in (1, 2, 3)] == [[], [], [4]]
    assert d.serve(3) == [1, 2, 3, 4, 5]


def test_a_forced_call_holds_at_once(desk):
    """A call that cannot wait goes over the slots, is granted in the same batch and takes room."""
    d = desk("fcfs", slots=1)
    d.call(0, 1)
    d.call(0, 2)
    assert d.call(0, 3, forced=True).granted == [3]
    assert d.release(1, 1).granted == []
    assert d.release(1, 3).granted == [2]


def test_a_forced_call_leaves_the_latest_priority_in_the_ledger(desk):
    """A forced call asks and is granted in one step: what its job's waiting calls get is the later word."""
    d = desk(CALLS_THEN_SLOTS, slots=1)
    for job in (1, 2, 3):
        d.arrive(0, job)
    d.call(0, 1)
    d.call(0, 2, 1)  # one call outstanding: 10
    d.call(0, 3, 1, forced=True)  # two outstanding, one of them in a slot: 21, by way of 20
    d.call(0, 4, 2)
    d.call(0, 5, 2)  # two outstanding: 20
    assert d.backlog() == [4, 5, 2]


def test_backends_do_not_take_each_others_slots(desk):
    """Each backend has its own slots and backlog, while a job's priority is the same in both."""
    d = desk("fair", slots=1, backends=("b", "c"))
    d.arrive(0, 1)
    d.arrive(0, 2)
    d.call(0, 1, 1)
    d.call(0, 2, backend="c")
    d.call(0, 3, 1, backend="c")  # job 1 holds a slot of the other backend
    d.call(0, 4, 2, backend="c")
    assert d.release(1, 1).granted == []
    d.call(1, 5, 1)
    assert d.release(2, 2).granted == [4]
    assert d.release(3, 4).granted == [3]


def test_the_same_release_twice_is_one(desk):
    """Events one after the other at one time, one of them twice: nothing is granted or recorded twice."""
    d = desk("fcfs")
    d.arrive(0, 1)
    d.call(0, 1, 1)
    d.call(0, 2, 1)
    d.release(2, 1)
    d.release(2, 1)
    assert d.granted == [1, 2]
    assert (d.records, d.faults) == ([], [])


@pytest.mark.parametrize("ends_first", [True, False])
def test_a_waiting_call_outlives_its_job(desk, ends_first):
    """A call left in the backlog by a job that ended is still served, and the job recorded after it."""
    d = desk("fcfs")
    d.arrive(0, 1)
    d.call(0, 1)
    d.call(0, 2, 1)
    if ends_first:
        assert d.end(1, 1).records == []
    assert d.release(2, 1).granted == [2]
    assert d.release(5, 2).records == ([] if not ends_first else d.records[-1:])
    if not ends_first:
        assert len(d.end(6, 1, Outcome.FINISHED).records) == 1
    assert [[call.seconds for call in record.llm_calls()] for record in d.records] == [[2], [3]]


def test_check_finds_machine_and_ledger_out_of_step(desk):
    """The machine's own check fails when the ledger was touched behind its back."""
    d = desk("fcfs", slots=2)
    d.arrive(0, 1)
    d.call(0, 1, 1)
    d.machine.ledger.submit(0, Release(1))
    d.machine._truth.commit()
    with pytest.raises(AssertionError):
        d.machine.check()


@pytest.mark.parametrize("at_once", [True, False])
def test_beliefs_are_formed_at_once_or_elsewhere(desk, learned, at_once):
    """The same order in the end: the job believed to have least left goes first."""
    d = desk(
        "srtf", profile=learned(*[("x", ("a", 1.0), ("b", 9.0)), ("y", ("s", 8.0))] * 60), at_once=at_once
    )
    d.arrive(0, 1, "x")
    d.call(0, 1, 1, "a")
    d.release(1, 1)
    d.call(1, 2)
    d.arrive(1, 2, "y")
    d.arrive(1, 3, "x")
    for ticket, job, stage in ((3, 1, "b"), (4, 2, "s"), (5, 3, "b")):
        d.call(1, ticket, job, stage)
    assert [wanted.job for wanted in d.wanted] == ([] if at_once else [1, 3, 4])
    d.form(2)
    assert d.wanted == []
    assert d.backlog() == [4, 3, 5]


def test_a_call_that_finds_a_slot_asks_for_no_belief(desk, learned):
    """No call waits, so nothing is worked out: an idle backend costs no inference."""
    d = desk("llmsched", slots=2, profile=learned(*[("x", ("a", 1.0))] * 6), at_once=False)
    d.arrive(0, 1, "x")
    d.call(0, 1, 1, "a")
    d.release(1, 1)
    d.call(1, 2, 1, "a")
    d.call(1, 3, 1, "a")
    assert d.wanted == []
    d.call(1, 4, 1, "a")
    assert len(d.wanted) == 1
