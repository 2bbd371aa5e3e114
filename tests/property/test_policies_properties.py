"""What policies make of what is known, by their formulas, at any price."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.applications import app
from support.beliefs import model_of
from support.ended import ended

from llmsched_langgraph import Backend, Profile
from llmsched_langgraph._belief.model.outliers import fence
from llmsched_langgraph._core.events import CallReleased, CallRequested, JobArrived
from llmsched_langgraph._core.job import MIN_REMAINING_S
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph.policies import POLICIES, JobInfo

QUIET = settings(deadline=None, database=None, max_examples=200)


def of_works(*works):
    """A profile of jobs of one call each."""
    return Profile().observe(*(ended("x", ("s", float(work))) for work in works))


def rank(policy, profile, work_s):
    """The order of a job of `x` whose only call holds a slot since the beginning, after `work_s`."""
    said = []

    class Spy:
        name, needs = "spy", policy.needs

        def order(self, job, now):
            said.append(policy.order(job, now))
            return said[-1]

    machine = SchedulerMachine(Spy(), [Backend("b", 1)], profile)
    machine.handle(0.0, JobArrived(1, JobInfo(application=app("x"))))
    machine.handle(0.0, CallRequested(1, "b", "s", 1))
    machine.handle(work_s, CallRequested(2, "b", "s", 1))
    return said[-1]


@QUIET
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(0, 24))
def test_hermes_is_its_formula(works, halves):
    """G(D, a) = E[min(X - a, D) | X > a] / P(X - a <= D | X > a), the least over every D."""
    now = halves / 2
    found = rank(as_policy("hermes"), of_works(*works), now)
    works = [min(work, fence(works)) for work in works]  # what is learned of them
    beyond = [work - now for work in works if work > now]
    if not beyond:
        assert found == max(now, MIN_REMAINING_S)
        return
    ranks = [
        np.mean([min(left, ahead) for left in beyond]) / np.mean([left <= ahead for left in beyond])
        for ahead in beyond
    ]
    assert found == pytest.approx(min(ranks))
    # Between those any other look-ahead costs more, for no more ends.
    for ahead in np.arange(0.25, 13.0, 0.25):
        share = np.mean([left <= ahead for left in beyond])
        if share:
            assert np.mean([min(left, ahead) for left in beyond]) / share >= found - 1e-9


@QUIET
@given(st.floats(0.0, 50.0))
def test_hermes_of_an_application_that_never_ran(now):
    """What a job is thought to need, less what it has had."""
    assert rank(as_policy("hermes"), Profile(), now) == max(1.0 - now, MIN_REMAINING_S)


# -- what a job has done is all that counts ---------------------------------------------

STAGES = ("a", "b", "c")


def tree(values):
    """A model of three stages in which each tells of the next."""
    chance = np.array([0.1, 0.45, 0.45])
    follows = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    return model_of(STAGES, [values] * 3, ((), (0,), (1,)), (chance, follows, follows))


def knowing(model):
    """A profile that has this model of `x`."""
    return of_works(1.0, 5.0, 30.0).learned("x", model, 3)


@st.composite
def pasts(draw):
    """Calls as they come, one after the other: stage and time in the slot; one of the stages is not known."""
    return draw(
        st.lists(
            st.tuples(st.sampled_from((*STAGES, "strange")), st.floats(0.1, 40.0)), min_size=0, max_size=4
        )
    )


def play(policy, profile, *histories):
    """Jobs with these pasts, all of which then wait with one more call; the orders of those."""
    machine = SchedulerMachine(as_policy(policy), [Backend("b", len(histories))], profile, at_once=True)
    ticket = 0
    for job, history in enumerate(histories, 1):
        machine.handle(0.0, JobArrived(job, JobInfo(application=app("x"))))
        now = 0.0
        for stage, seconds in history:
            ticket += 1
            machine.handle(now, CallRequested(ticket, "b", stage, job))
            now += seconds
            machine.handle(now, CallReleased(ticket))
    for _ in histories:
        ticket += 1
        machine.handle(999.0, CallRequested(ticket, "b"))
    for job in range(1, len(histories) + 1):
        ticket += 1
        machine.handle(999.0, CallRequested(ticket, "b", "c", job))
    machine.check(999.0)
    lanes = [claim.lane for claim in machine.ledger.view().waiting.values()]
    return [machine.ledger._committed[lane].order for lane in lanes]


@settings(QUIET, max_examples=40)
@given(pasts(), st.data())
def test_jobs_of_one_past_have_one_order(past, data):
    """Whatever becomes of them afterwards: nothing of that is known, so nothing of it counts."""
    profile = knowing(tree((2.0, 20.0)))
    policy = data.draw(st.sampled_from([name for name in POLICIES if name not in ("app_fifo", "justitia")]))
    one, other = play(policy, profile, past, past)
    assert one == other


@settings(QUIET, max_examples=40)
@given(pasts(), st.sampled_from(("srtf", "srtf_marginal", "llmsched", "gittins")))
def test_a_stage_that_is_not_known_moves_no_job(past, policy):
    """Its time is no time of any stage that is still to come."""
    profile = knowing(tree((2.0, 20.0)))
    known = [(stage, seconds) for stage, seconds in past if stage != "strange"]
    one, other = play(policy, profile, [*known, ("strange", 7.0), ("strange", 0.3)], known)
    assert one == other


def test_other_evidence_is_another_order():
    """Every pair of different pasts in this small world: what tells of the future is told apart."""
    profile = knowing(tree((2.0, 20.0)))
    histories = [[("a", 2.0)], [("a", 20.0)], [("b", 2.0)], [("b", 20.0)], []]
    orders = play("srtf", profile, *histories)
    for (i, one), (j, other) in product(enumerate(orders), repeat=2):
        assert (one == other) == (i == j)
    by_name = dict(zip(("a2", "a20", "b2", "b20", "new"), orders, strict=True))
    assert by_name["b2"] < by_name["b20"]
    assert by_name["a2"] < by_name["a20"]
