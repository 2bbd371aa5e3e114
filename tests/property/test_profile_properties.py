"""Profiles: what any sequence of records leads to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.applications import app
from support.ended import ended

from llmsched_langgraph import Profile
from llmsched_langgraph._belief.model.outliers import limited
from llmsched_langgraph._jobs.observed import observed as observed_of

QUIET = settings(deadline=None, database=None, max_examples=100)

WORK_S = st.floats(0.0, 1e4)


@st.composite
def records(draw, applications="xyz"):
    """A job of up to eight calls, its occurrences counted as they come."""
    calls = draw(st.lists(st.tuples(st.sampled_from("abc"), WORK_S), max_size=8))
    return ended(draw(st.sampled_from(applications)), *calls, end="done" if draw(st.booleans()) else "failed")


def observed(jobs):
    profile = Profile()
    for job in jobs:
        profile = profile.observe(job)
    return profile


def same(mean, values):
    """Whether a mean is that of the values, as numpy has it."""
    assert mean.count == len(values)
    assert mean.value == pytest.approx(np.mean(values) if len(values) else 0.0, rel=1e-9, abs=1e-9)


@QUIET
@given(st.lists(records(), max_size=25))
def test_everything_known_is_of_the_complete_jobs(jobs):
    """Means of jobs and calls are numpy's over the complete jobs; outcomes are what those did, in order.

    Outliers count as much as `limited` lets them.
    """
    profile = observed(jobs)
    complete = [job for job in jobs if job.informative]
    names = {job.fingerprint for job in complete}
    known = [job for name in names for job in limited([job for job in complete if job.fingerprint == name])]
    same(profile.job, [job.work_s for job in known])
    same(profile.call, [call.seconds for job in known for call in job.llm_calls()])
    assert profile.applications.keys() == names
    for name, learned in profile.applications.items():
        own = [job for job in known if job.fingerprint == name]
        works = sorted(job.work_s for job in own)
        recorded = [job for job in complete if job.fingerprint == name]
        assert learned.history.recorded == tuple(map(observed_of, recorded))
        assert learned.outcomes == tuple(map(observed_of, own))
        assert learned.jobs == profile.jobs(name) == len(own)
        same(learned.history.call, [call.seconds for job in own for call in job.llm_calls()])
        assert learned.works_s == pytest.approx(works)
        assert learned.mean_s == pytest.approx(np.mean(works))
    assert profile.jobs("never ran") == 0


@QUIET
@given(st.lists(records("x"), max_size=8), st.lists(records("y"), max_size=8), st.randoms())
def test_applications_do_not_care_how_they_are_interleaved(xs, ys, shuffle):
    """What is known of an application depends on its own jobs, not on when those of others came."""
    places = ["x"] * len(xs) + ["y"] * len(ys)
    shuffle.shuffle(places)
    queues = {"x": iter(xs), "y": iter(ys)}
    mixed = observed(next(queues[place]) for place in places)
    apart = observed(xs + ys)
    assert mixed.applications == apart.applications
    for one, other in ((mixed.job, apart.job), (mixed.call, apart.call)):
        assert one.count == other.count
        assert one.value == pytest.approx(other.value, rel=1e-9, abs=1e-9)


@QUIET
@given(st.lists(records(), max_size=8), records())
def test_observing_changes_nothing_that_was(jobs, job):
    """A profile that somebody kept stays what it was, and learning again gives the same value."""
    kept = observed(jobs)
    new = kept.observe(job)
    assert kept == observed(jobs)
    assert kept.observe(job) == new
    assert (new is kept) == (not job.informative)


@QUIET
@given(st.lists(records(), max_size=25), st.lists(st.integers(1, 9), max_size=25))
def test_jobs_observed_together_are_jobs_observed_one_by_one(jobs, sizes):
    """In batches of any size a profile comes to the same figures, to the last bit."""
    profile, rest = Profile(), jobs
    for size in [*sizes, len(jobs)]:
        profile, rest = profile.observe(*rest[:size]), rest[size:]
    assert profile == observed(jobs)


@QUIET
@given(st.lists(records(), max_size=25), st.sampled_from("xyzw"))
def test_total_work_is_a_finite_number_of_seconds(jobs, application):
    """Between the least and the most that anything known of jobs or calls, or the prior, would say."""
    profile = observed(jobs)
    total_s = profile.total_work_s(app(application))
    known = [job for job in jobs if job.informative]
    figures = [
        1.0,
        *(job.work_s for job in known),
        *(call.seconds for job in known for call in job.llm_calls()),
    ]
    assert min(figures) - 1e-9 <= total_s <= max(figures) * (1 + 1e-9)
