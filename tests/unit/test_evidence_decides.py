"""From the clock to the grant: nothing but what is known of a job changes who is served next."""

from __future__ import annotations

import pytest
from support.ended import ended

from llmsched_langgraph import Application, Profile
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed
from llmsched_langgraph.policies import llmsched

AGENT = Application.of(
    "agent", ["look", "act", "report"], [("look", "act"), ("act", "report"), ("look", "report")], ["look"]
)
INFORMED = ["srtf", llmsched(epsilon=0.0), "llmsched", "gittins"]


@pytest.fixture(scope="module")
def history():
    """A short look means little to do, a long one much, and one in four jobs nothing but to report."""
    records = []
    for n in range(120):
        look = (1.0, 5.0, 5.2, 1.1)[n % 4]
        act = (2.0, 40.0, 44.0, None)[n % 4]
        works = [("look", look), *([("act", act)] if act else []), ("report", 1.0)]
        records += [ended(AGENT, *works), ended("plain", ("s", 10.0 + n % 3))]
    profile = Profile().observe(*records)
    for name, own in profile.applications.items():
        profile = profile.learned(name, learn(own.template, own.outcomes), own.jobs)
    assert profile.applications[AGENT.fingerprint].model.correlated
    return profile


def contest(d, seconds, stage="act"):
    """A job whose first stage took so long, and a plain one, both waiting: who is served?"""
    d.arrive(0.0, 1, AGENT)
    d.call(0.0, 1, 1, "look")
    d.release(seconds, 1)
    d.call(seconds, 2)
    d.arrive(50.0, 2, "plain")
    d.call(50.0, 3, 2, "s")
    d.call(50.0, 4, 1, stage)
    return {3: "plain", 4: "agent"}[d.release(60.0, 2).granted[0]]


@pytest.mark.parametrize("policy", INFORMED, ids=str)
def test_how_long_a_stage_took_decides_who_is_next(desk, history, policy):
    """The same two jobs, the same calls, the same clock: only that the first stage took 1 s, or 5 s."""
    assert contest(desk(policy, profile=history), 1.0) == "agent"
    assert contest(desk(policy, profile=history), 5.1) == "plain"


@pytest.mark.parametrize("policy", ["srtf_marginal", "sjf", "fcfs"])
def test_where_evidence_does_not_count_it_does_not_decide(desk, history, policy):
    assert contest(desk(policy, profile=history), 1.0) == contest(desk(policy, profile=history), 5.1)


@pytest.mark.parametrize("policy", INFORMED, ids=str)
def test_what_is_announced_decides_who_is_next(desk, history, policy):
    """After a long look, that it goes to the report at once settles that nothing long will come."""

    def served(next_stage):
        d = desk(policy, profile=history)
        d.arrive(0.0, 1, AGENT)
        d.move(0.0, 1, Revealed(((1, "look"),)), Began(1))
        d.call(0.0, 1, 1, "look", run=1)
        d.release(5.1, 1)
        d.call(5.1, 2)
        d.move(5.1, 1, Ended(1, 5.1), Revealed(((2, next_stage),)), Began(2))
        d.arrive(50.0, 2, "plain")
        d.call(50.0, 3, 2, "s")
        d.call(50.0, 4, 1, next_stage, run=2)
        return d.release(60.0, 2).granted

    assert served("act") == [3]
    assert served("report") == [4]


@pytest.mark.parametrize("policy", INFORMED, ids=str)
def test_what_has_run_longer_has_less_left(desk, history, policy):
    """Of two jobs at the same stage, the one whose other call has been in its slot for longer."""
    d = desk(policy, slots=3, profile=history)
    for job, at in ((1, 0.0), (2, 8.0)):
        d.arrive(at, job, "plain")
        d.call(at, job, job, "s")
    d.call(8.0, 3)
    d.call(8.5, 12, 2, "s")
    d.call(8.5, 11, 1, "s")
    assert d.release(9.0, 3).granted == [11]


@pytest.mark.parametrize("policy", INFORMED, ids=str)
def test_no_grant_waits_for_a_belief(desk, history, policy):
    """Until it is formed the application's mean serves; when it is there, it counts at once."""
    d = desk(policy, profile=history, at_once=False)
    assert contest(d, 5.1) == "plain"
    d = desk(policy, profile=history, at_once=False)
    d.arrive(0.0, 1, AGENT)
    d.call(0.0, 1, 1, "look")
    d.release(5.1, 1)
    d.call(5.1, 2)
    d.arrive(50.0, 2, "plain")
    d.call(50.0, 4, 1, "act")
    d.call(50.0, 3, 2, "s")
    before = d.backlog()
    assert sorted(before) == [3, 4]
    assert len(d.wanted) == 2
    d.form(55.0)
    assert d.backlog() == [3, 4]
    assert d.release(60.0, 2).granted == [3]


@pytest.mark.parametrize("policy", INFORMED, ids=str)
def test_a_stage_outside_the_vocabulary_is_absorbed(desk, history, policy):
    """It is no error, and what the others told still holds."""
    assert contest(desk(policy, profile=history), 1.0, "something else") == "agent"
    assert contest(desk(policy, profile=history), 5.1, "something else") == "plain"
