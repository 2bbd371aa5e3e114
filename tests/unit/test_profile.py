"""Profiles: outcomes and models by application, running means, and the work of whole jobs by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from support.applications import app
from support.ended import ended

from llmsched_langgraph import Application, Profile
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._belief.fit.drift import RECENT
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.profile import profile as profile_module
from llmsched_langgraph._belief.profile.profile import Mean
from llmsched_langgraph._jobs.observed import observed as observed_of

CHAIN = ("chain", ("a", 2.0), ("b", 4.0))
LOOP_ONCE = ("loop", ("think", 1.0))
LOOP_THRICE = ("loop", ("think", 1.0), ("think", 1.0), ("think", 1.0))
FAN_OUT = ("fan", ("plan", 1.0), ("work", 2.0), ("work", 2.0), ("work", 2.0))

AGENT = Application.of(
    "agent",
    [Node("think", Kind.LLM, calls_llm=True), "act"],
    [("think", "act"), ("act", "think")],
    ["think"],
)


# -- means ------------------------------------------------------------------------------


def test_shrinkage_counts_the_prior_as_two_observations():
    """Without data the prior alone speaks; with n observations it has weight 2 of n + 2."""
    assert Mean().towards(7.0) == 7.0
    assert Mean(1, 10.0).towards(1.0) == (10 + 2 * 1) / 3
    assert Mean(8, 10.0).towards(0.0) == 8.0


# -- observe ----------------------------------------------------------------------------


def test_observe_leaves_the_old_profile_alone(record, observed):
    """A profile is a value: observing returns another one and changes nothing of the old."""
    old = observed(CHAIN, FAN_OUT)
    expected = observed(CHAIN, FAN_OUT)
    new = old.observe(record(*CHAIN))
    assert old == expected
    assert new != old
    assert (old.jobs("chain"), new.jobs("chain")) == (1, 2)


@pytest.mark.parametrize("complete", [True, False])
def test_nothing_is_learned_of_a_job_without_calls(record, complete):
    """A job that made no call teaches nothing."""
    profile = Profile()
    assert profile.observe(record("app", end="done" if complete else "failed")) is profile


def test_nothing_is_learned_of_an_incomplete_job(record, observed):
    """A failed or cancelled job is ignored: what it would still have done is unknown."""
    profile = observed(CHAIN)
    assert profile.observe(record("chain", ("a", 50.0), end="failed")) is profile
    assert profile.observe(record("other", ("a", 50.0), end="failed")) is profile


def test_an_application_keeps_what_its_jobs_did(record, observed):
    """One outcome a job, the newest last, and the means of calls and jobs."""
    own = observed(LOOP_ONCE, CHAIN, ("loop", ("think", 3.0), ("think", 5.0))).applications["loop"]
    assert own.outcomes == tuple(
        observed_of(record("loop", *calls)) for calls in ([("think", 1.0)], [("think", 3.0), ("think", 5.0)])
    )
    assert own.history.call == Mean(3, 3.0)
    assert own.works_s == (1.0, 8.0)
    assert own.mean_s == 4.5
    assert (own.jobs, own.model, own.modelled) == (2, None, 0)


def test_the_oldest_jobs_are_forgotten(monkeypatch, observed):
    """What is remembered is bounded: an application that changed is known as it is now."""
    monkeypatch.setattr(profile_module, "HISTORY", 5)
    own = observed(*[("x", ("s", float(n))) for n in range(1, 13)]).applications["x"]
    assert [outcome.work_s for outcome in own.outcomes] == [8.0, 9.0, 10.0, 11.0, 12.0]
    assert own.mean_s == 10.0
    assert own.jobs == 12


def test_what_was_before_a_change_can_be_forgotten(observed):
    """All but the latest jobs; how many taught it, its means and its model stay."""
    works = [*[1.0 + n / 100 for n in range(60)], *[50.0] * RECENT]
    profile = observed(*[("x", ("s", work_s)) for work_s in works], CHAIN)
    own = profile.applications["x"]
    assert own.drifted
    assert not profile.applications["chain"].drifted
    new = profile.having(own.forgetting())
    assert new.applications["x"].works_s == (50.0,) * RECENT
    assert (new.applications["x"].jobs, new.applications["x"].model) == (own.jobs, own.model)
    assert not new.applications["x"].drifted
    assert new.applications["chain"] is profile.applications["chain"]
    assert profile.applications["x"] is own


def test_the_template_is_what_runs_showed(observed):
    """How often a loop went round, and what a node called, is known for the next job's template."""
    runs = [(path, occurrence, 1.0) for occurrence in range(1, 6) for path in ("think", "act")]
    profile = Profile().observe(ended(AGENT, *[("think", 1.0)] * 5, runs=runs))
    assert AGENT.occurrences("think") < 5
    assert profile.template(AGENT).occurrences("think") >= 5
    assert profile.applications[AGENT.fingerprint].template == profile.template(AGENT)
    assert profile.template(AGENT).fingerprint == AGENT.fingerprint
    other = Application.of("other")
    assert profile.template(other) is other


# -- models -----------------------------------------------------------------------------


def test_a_model_is_kept_until_the_next_one(record, observed):
    """With the number of jobs that taught it; more jobs change neither, nor any other application."""
    profile = observed(CHAIN, CHAIN, FAN_OUT)
    own = profile.applications["chain"]
    model = learn(own.template, own.outcomes)
    with_model = profile.learned("chain", model, own.jobs)
    assert profile.applications["chain"].model is None
    assert with_model.applications["chain"].model is model
    assert with_model.applications["chain"].modelled == 2
    assert with_model.applications["fan"] is profile.applications["fan"]
    more = with_model.observe(record(*CHAIN)).applications["chain"]
    assert (more.model, more.modelled, more.jobs) == (model, 2, 3)


def test_marginals_are_the_model_without_correlations(observed):
    """The same variables, each on its own."""
    own = observed(*[("x", ("a", 1.0 + n % 2), ("b", 1.0 + n % 2)) for n in range(40)]).applications["x"]
    model = learn(own.template, own.outcomes)
    assert model.correlated
    assert not model.marginals.correlated
    assert model.marginals is model.marginals
    assert model.marginals.columns == model.columns
    assert model.marginals.bins == model.bins


# -- total work -------------------------------------------------------------------------


def test_total_work_without_any_knowledge_is_the_prior():
    """A scheduler that has seen nothing expects one second of any application."""
    assert Profile().total_work_s(app("unknown")) == 1.0


def test_total_work_shrinks_towards_all_jobs_and_all_calls(observed):
    """Application towards all jobs, all jobs towards all calls, all calls towards one second."""
    profile = observed(CHAIN, CHAIN, LOOP_ONCE)
    calls = (5 * Fraction(13, 5) + 2 * 1) / 7  # 2 + 4 + 2 + 4 + 1 over five calls
    jobs = (3 * Fraction(13, 3) + 2 * calls) / 5  # 6 + 6 + 1 over three jobs
    assert profile.call_s == pytest.approx(float(calls))
    assert profile.total_work_s(app("chain")) == pytest.approx(float((2 * 6 + 2 * jobs) / 4))
    assert profile.total_work_s(app("loop")) == pytest.approx(float((1 * 1 + 2 * jobs) / 3))
    assert profile.total_work_s(app("unknown")) == pytest.approx(float(jobs))


def test_total_work_of_an_application_that_never_ran(observed):
    """A call for each stage that makes some; each further time round a loop is half as likely."""
    thrice = AGENT.unrolled({"think": 3, "act": 3})
    stages = [stage for stage in thrice.stages if stage.node == "think"]
    shares = sum(Fraction(1, 2) ** (stage.occurrence - 1) for stage in stages)
    assert Profile().total_work_s(thrice) == pytest.approx(float(shares))
    profile = observed(*[CHAIN] * 4)
    assert profile.total_work_s(thrice) == pytest.approx(profile.call_s * float(shares))


def test_the_whole_history_is_in_the_mean(monkeypatch, observed):
    """Total work is that of the jobs that are remembered."""
    monkeypatch.setattr(profile_module, "MEANS", 1e-12)
    monkeypatch.setattr(profile_module, "HISTORY", 2)
    profile = observed(("x", ("s", 50.0)), ("x", ("s", 2.0)), ("x", ("s", 4.0)))
    assert profile.total_work_s(app("x")) == pytest.approx(3.0)
