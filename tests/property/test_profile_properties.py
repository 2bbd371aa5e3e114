"""Profiles: what any sequence of records leads to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph.belief.profile import Mean, Profile
from llmsched_langgraph.belief.record import CallRecord, Evidence, JobRecord

QUIET = settings(deadline=None, database=None, max_examples=100)

WORK_S = st.floats(0.0, 1e4)
OCCURRENCES = st.tuples(st.sampled_from("abc"), st.integers(1, 9))


@st.composite
def records(draw, applications="xyz"):
    """A job of up to eight calls, its occurrences counted as they come."""
    seen: dict[str, int] = {}
    calls = []
    for stage, work_s in draw(st.lists(st.tuples(st.sampled_from("abc"), WORK_S), max_size=8)):
        seen[stage] = seen.get(stage, 0) + 1
        calls.append(CallRecord(stage, seen[stage], work_s))
    return JobRecord(draw(st.sampled_from(applications)), tuple(calls), 0.0, 1.0, draw(st.booleans()))


def observed(jobs):
    profile = Profile()
    for job in jobs:
        profile = profile.observe(job)
    return profile


def same(mean, values):
    """Whether a running mean is that of the values, as numpy has it."""
    assert mean.count == len(values)
    assert mean.value == pytest.approx(np.mean(values) if len(values) else 0.0, rel=1e-9, abs=1e-9)


@QUIET
@given(st.lists(WORK_S, max_size=50))
def test_a_running_mean_is_the_mean(values):
    """Observing one by one gives what numpy gives at once."""
    mean = Mean()
    for value in values:
        mean = mean.observe(value)
    same(mean, values)


@QUIET
@given(st.lists(records(), max_size=25))
def test_all_means_are_those_of_the_complete_jobs(jobs):
    """Jobs, calls, occurrences and what came after them: each mean is numpy's over the complete jobs."""
    profile = observed(jobs)
    known = [job for job in jobs if job.complete and job.calls]
    same(profile.job, [job.work_s for job in known])
    same(profile.call, [call.work_s for job in known for call in job.calls])
    assert profile.applications.keys() == {job.application for job in known}
    for name, means in profile.applications.items():
        own = [job for job in known if job.application == name]
        same(means.job, [job.work_s for job in own])
        same(means.call, [call.work_s for job in own for call in job.calls])
        for stage, row in means.stages.items():
            for occurrence, seen in enumerate(row, 1):
                at = [
                    (call.work_s, sum(later.work_s for later in job.calls[n + 1 :]))
                    for job in own
                    for n, call in enumerate(job.calls)
                    if (call.stage, call.occurrence) == (stage, occurrence)
                ]
                same(seen.work, [work_s for work_s, _ in at])
                same(seen.after, [after_s for _, after_s in at])


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
    assert (new is kept) == (not job.complete or not job.calls)


@QUIET
@given(st.lists(records(), max_size=25), st.lists(st.integers(1, 9), max_size=25))
def test_jobs_observed_together_are_jobs_observed_one_by_one(jobs, sizes):
    """In batches of any size a profile comes to the same figures, to the last bit."""
    profile, rest = Profile(), jobs
    for size in [*sizes, len(jobs)]:
        profile, rest = profile.observe(*rest[:size]), rest[size:]
    assert profile == observed(jobs)


@QUIET
@given(
    st.lists(records(), max_size=12),
    st.sampled_from("xyzw"),
    st.lists(st.tuples(OCCURRENCES, st.integers(1, 9)), max_size=4),
    st.lists(st.tuples(OCCURRENCES, WORK_S), max_size=4),
    st.floats(0.0, 1e5),
)
def test_remaining_work_is_a_finite_number_of_seconds(jobs, application, waiting, running, received_s):
    """Whatever the evidence, what is left is finite and, but for rounding, never less than nothing."""
    latest = waiting[-1][0] if waiting else running[-1][0] if running else None
    evidence = Evidence(tuple(waiting), tuple(running), latest, received_s)
    remaining_s = observed(jobs).remaining_work_s(application, evidence)
    assert np.isfinite(remaining_s)
    assert remaining_s >= -1e-6
