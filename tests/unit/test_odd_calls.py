"""One odd call or tool run does not move what is learned, wherever it stands; the records keep it."""

from __future__ import annotations

import pytest
from support.applications import app
from support.ended import ended

from llmsched_langgraph import Profile
from llmsched_langgraph._belief.fit.calibration import Calibration
from llmsched_langgraph._belief.fit.drift import RECENT
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.model.evidence import JobEvidence
from llmsched_langgraph._belief.profile.normalising import calibrated
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

HOUR = 3600.0
PLACES = (0, 1, 3, 50, 98, 99)


def profile_of(*jobs):
    """What is known after the jobs, each observed by itself."""
    profile = Profile()
    for job in jobs:
        profile = profile.observe(job)
    return profile


def jobs_of(count, odd=None, *, calls=5, name="app"):
    """Jobs of calls of 1 s; the second call of one of them took an hour."""
    return [
        ended(name, *[("ask", HOUR if (n, at) == (odd, 1) else 1.0) for at in range(calls)])
        for n in range(count)
    ]


@pytest.mark.parametrize("place", PLACES)
def test_an_odd_call_moves_no_mean(place):
    """Not that of calls, not that of jobs, not what policies see of an application; another one's neither."""
    profile = profile_of(*jobs_of(100, place), *jobs_of(100, name="other"))
    own = profile.applications["app"]
    assert own.mean_s == pytest.approx(5.0, rel=0.02)
    assert own.history.call.value == pytest.approx(1.0, rel=0.02)
    assert max(own.works_s) < 10.0
    assert profile.call_s == pytest.approx(1.0, rel=0.02)
    assert profile.total_work_s(app("app")) == pytest.approx(5.0, rel=0.03)
    assert profile.total_work_s(app("other")) == pytest.approx(5.0, rel=0.02)
    assert max(call.seconds for job in own.history.jobs for call in job.llm_calls()) == HOUR


@pytest.mark.parametrize("odd", [1, 2, 3])
def test_a_few_odd_calls_do_neither(odd):
    """Three of a hundred."""
    jobs = [
        ended("app", ("ask", HOUR * (1 + n) if n % 33 == 0 and n < 33 * odd else 1.0)) for n in range(100)
    ]
    assert profile_of(*jobs).applications["app"].mean_s == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("count", [6, 12, 25])
def test_of_a_few_jobs_one_is_odd(count):
    """Five usual ones are enough to tell."""
    jobs = [ended("app", ("ask", HOUR if n == 2 else 1.0)) for n in range(count)]
    assert profile_of(*jobs).applications["app"].mean_s <= 1.0 + 1.01 / count


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("correlated", [True, False])
def test_an_odd_call_moves_no_belief(place, correlated):
    """Not what is left of a job, not what its end would teach, in the stage of the call and in another."""
    jobs = [
        ended("app", ("ask", HOUR if n == place else 1.0 + n % 3), ("tell", 2.0 + n % 2)) for n in range(100)
    ]
    own = profile_of(*jobs).applications["app"]
    model = learn(own.template, own.outcomes, correlated=correlated)
    belief = model.belief(JobEvidence())
    assert belief.mean == pytest.approx(4.5, rel=0.03)
    assert belief.interval()[1] < 8.0
    assert belief.index < 5.0
    assert all(own.range[1] < 20.0 for own in model.bins)


@pytest.mark.parametrize("place", PLACES)
def test_an_odd_run_of_a_tool_moves_no_mean(place):
    """Of a node without calls, and of one of several tools: each is compared with its own runs."""
    jobs = [
        ended(
            "app",
            ("ask", 1.0, None, None, 1),
            runs=[
                ("ask", 1, 1.0),
                ("fetch", 1, HOUR if n == place else 0.5),
                ("use", 1, 60.0, True, "slow"),
                ("use", 1, HOUR if n == place else 0.1, True, "quick"),
            ],
        )
        for n in range(100)
    ]
    own = profile_of(*jobs).applications["app"]
    tools = [stage.amount(Unit.TOOL_SECONDS) for job in own.outcomes for stage in job.stages]
    assert sum(tools) / 100 == pytest.approx(60.6, rel=0.01)
    belief = learn(own.template, own.outcomes, unit=Unit.TOOL_SECONDS).belief(JobEvidence())
    assert belief.mean == pytest.approx(60.6, rel=0.05)


def test_an_odd_run_of_a_tool_in_an_imported_job():
    """Jobs whose stage runs were not watched have their tools as stages."""

    def job(n):
        used = EndedStage(name="fetch", kind="tool", calls=(EndedCall(None, None, HOUR if n == 7 else 0.5),))
        asked = EndedStage(name="ask", kind="llm", calls=(EndedCall(None, None, 1.0),))
        return EndedJob(id=f"{n}", app="app", stages=(asked, used), template=app("app"))

    own = profile_of(*map(job, range(50))).applications["app"]
    assert sum(outcome.amount(Unit.TOOL_SECONDS) for outcome in own.outcomes) / 50 == pytest.approx(0.51)


def test_a_job_of_many_calls_is_not_odd():
    """How often a loop goes round is a fact, however seldom it goes round so often."""
    jobs = [ended("app", *[("think", 1.0)] * (30 if n == 7 else 3)) for n in range(40)]
    own = profile_of(*jobs).applications["app"]
    assert own.mean_s == pytest.approx((39 * 3 + 30) / 40)
    assert max(own.works_s) == 30.0


def test_a_stage_that_is_always_long_is_not_odd_beside_short_ones():
    """Durations are compared with those of their own stage."""
    jobs = [ended("app", *[("route", 0.1)] * 40, ("write", 60.0)) for _ in range(10)]
    assert profile_of(*jobs).applications["app"].mean_s == pytest.approx(64.0)


@pytest.mark.parametrize("factor", [0.5, 1.5, 10.0])
def test_drift_is_still_learned(factor):
    """Of work that has changed, up or down: the change is noticed, and half of the new jobs show it."""
    before, after = [[ended("app", ("ask", s * (1 + n / 1000))) for n in range(100)] for s in (1.0, factor)]
    own = profile_of(*before, *after[: RECENT + 5]).applications["app"]
    assert own.drifted
    assert own.forgetting().mean_s == pytest.approx(factor, rel=0.06)
    both = profile_of(*before, *after).applications["app"]
    assert both.mean_s == pytest.approx((1.0 + factor) / 2, rel=0.06)


def served(count, odd=None, *, size=150):
    """Jobs of one call on a backend on which a token takes twice as long among four calls."""
    jobs = []
    for n in range(count):
        concurrency, tokens = (1.0, 4.0)[n % 2], 50 + n % 7 * 10
        seconds = tokens * 0.01 * (1.0 if concurrency == 1.0 else 2.0)
        call = EndedCall(100, tokens, seconds, concurrency=concurrency)
        if n == odd:
            call = EndedCall(100, size, HOUR, concurrency=concurrency)
        stage = EndedStage(name="ask", kind="llm", calls=(call,), occurrence=1)
        jobs.append(EndedJob(id=f"{n}", app="app", stages=(stage,), template=app("app")))
    return jobs


@pytest.mark.parametrize("place", [0, 1, 2, 3, 8, 9, 300, 301, 598, 599])
@pytest.mark.parametrize("size", [50, 80, 150])
def test_an_odd_call_moves_no_calibration(place, size):
    """How much longer a token takes on a busy backend: all work is normalised by it."""
    usual = profile_of(*served(600)).slowdowns[""].at_capacity(1)
    assert usual == pytest.approx(2 ** (300 / 400), rel=0.05)
    slowdowns = profile_of(*served(600, place, size=size)).slowdowns
    assert slowdowns[""].at_capacity(1) == pytest.approx(usual, rel=0.15)


def test_the_first_calls_of_a_stage_calibrate_nothing():
    """Nobody can tell the odd one of them, and what is in the sums stays there."""
    assert calibrated({}, served(4)) == {}
    assert calibrated({"": Calibration()}, served(4)) == {"": Calibration()}
    assert sum(sums.calls for sums in calibrated({}, served(5))[""].seen.values()) == 5
