"""The learner: when an application's new means are published."""

from __future__ import annotations

import math

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.runtime.learning import BATCH_CALLS, Learner


def published(learner, records):
    """The numbers (from 1) of the records after which something was published."""
    return [n for n, record in enumerate(records, 1) if learner.observe(record)]


def test_schedule_of_publications(record):
    """After each of the first jobs, then each time their number grew by an eighth."""
    numbers = published(Learner(Profile()), [record("app", ("s", 1.0))] * 40)
    assert numbers == [*range(1, 17), 18, 20, 22, 24, 27, 30, 33, 37]


def test_publications_grow_with_the_logarithm(record):
    """Ten times the jobs add only a constant number of publications."""
    numbers = published(Learner(Profile()), [record("app", ("s", 1.0))] * 2_000)
    assert len(numbers) <= 8 + math.log(2_000 / 8) / math.log(1 + 1 / 9) + 8


def test_applications_have_schedules_of_their_own(record):
    """Each application is published by its own number of jobs, and names itself."""
    learner = Learner(Profile())
    for _ in range(16):
        learner.observe(record("old", ("s", 1.0)))
    assert learner.observe(record("old", ("s", 1.0))) == frozenset()
    assert learner.observe(record("new", ("s", 1.0))) == {"new"}


def test_incomplete_jobs_are_not_published(record):
    """A job that failed teaches nothing, so nothing is published and the schedule does not move."""
    learner = Learner(Profile())
    failed = record("app", ("s", 1.0), complete=False)
    assert published(learner, [failed] * 5) == []
    assert learner.profile == Profile()
    assert learner.observe(record("app", ("s", 1.0))) == {"app"}


def test_jobs_without_calls_are_not_published(record):
    """A job that made no call moves no mean."""
    learner = Learner(Profile())
    learner.observe(record("app", ("s", 1.0)))
    assert published(learner, [record("app")] * 5) == []


def test_the_newest_profile_is_kept_whether_published_or_not(record, observed):
    """Learning never waits for a publication."""
    learner = Learner(Profile())
    jobs = [("app", ("s", float(n))) for n in range(30)]
    for job in jobs:
        learner.observe(record(*job))
    assert learner.profile == observed(*jobs)


def test_a_profile_that_is_handed_on_starts_a_new_schedule(record, observed):
    """Jobs known from elsewhere count: after the first new one, an eighth of all must come."""
    numbers = published(Learner(observed(*[("app", ("s", 1.0))] * 80)), [record("app", ("s", 1.0))] * 30)
    assert numbers == [1, 11, 22]


def test_the_batch_is_bounded(record):
    """However far the next publication is, jobs are put by up to a number of calls, and none is lost."""
    learner = Learner(Profile())
    for jobs in range(1, 2_001):
        learner.observe(record(f"app {jobs % 3}", *[("s", 1.0)] * (jobs % 7)))
        assert sum(len(put_by.calls) for put_by in learner._batch) == learner._batch_calls < BATCH_CALLS
    assert learner.profile.job.count == sum(1 for jobs in range(1, 2_001) if jobs % 7)
    assert learner._batch == []
