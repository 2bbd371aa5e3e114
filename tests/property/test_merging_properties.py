"""Merging profiles: jobs are a union by identity, whatever comes first, and no job counts twice."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.profiles import TEMPLATE, ids, job, profile

from llmsched_langgraph._belief.fit.drift import RECENT
from llmsched_langgraph._belief.profile import profile as profile_module
from llmsched_langgraph._belief.profile.merging import merged, profile_from_jobs
from llmsched_langgraph._belief.profile.profile import History
from llmsched_langgraph._belief.profile.serialization import (
    application_profile_from_json,
    application_profile_to_json,
)

QUIET = settings(deadline=None, max_examples=150)
KEPT = 6


@pytest.fixture(autouse=True, scope="module")
def short_memory():
    """Few jobs are remembered, so that some are forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile_module, "HISTORY", KEPT)
        yield


@st.composite
def profiles(draw):
    """Of some of a few jobs, some told in two ways, some without an id; with or without a model."""
    jobs = [
        replace(job(kind), id=name, arrival_s=float(at))
        for name, kind, at in draw(
            st.lists(
                st.tuples(st.sampled_from(["", *"abcdefgh"]), st.integers(0, 2), st.integers(0, 9)),
                max_size=9,
            )
        )
    ]
    own = profile_from_jobs(TEMPLATE, jobs)
    own = replace(own, counted=own.counted + draw(st.integers(0, 3)))
    if draw(st.booleans()):
        own = replace(own, model=MODELS[draw(st.integers(0, 2))], modelled=draw(st.integers(0, 9)))
    return merged(own, replace(profile([]), forgotten_before=draw(st.sampled_from((0.0, 0.0, 3.0, 7.0)))))


MODELS = [profile(range(n), modelled=n).model for n in (6, 7, 8)]


@QUIET
@given(profiles(), profiles())
def test_which_is_named_first_does_not_matter(a, b):
    assert merged(a, b) == merged(b, a)


@QUIET
@given(profiles(), profiles(), profiles())
def test_in_which_order_does_not_matter(a, b, c):
    assert merged(merged(a, b), c) == merged(a, merged(b, c))


@QUIET
@given(profiles(), profiles())
def test_once_more_changes_nothing(a, b):
    both = merged(a, b)
    for again in (merged(both, both), merged(both, a), merged(b, both)):
        assert again == both
    assert merged(a, a) == a


@QUIET
@given(profiles(), profiles())
def test_a_merger_is_the_union_by_id(a, b):
    """In the order of time, the newest, none that is forgotten; counts are at least those of both."""
    both = merged(a, b)
    jobs = both.history.jobs
    assert list(jobs) == sorted(jobs, key=lambda own: (own.ended_at, own.id))
    assert len(set(ids(both))) == len(jobs) <= KEPT
    assert all(own.ended_at >= both.forgotten_before for own in jobs)
    told = {own.id for own in (*a.history.jobs, *b.history.jobs) if own.ended_at >= both.forgotten_before}
    assert set(ids(both)) <= told
    assert len(jobs) == min(KEPT, len(told))
    assert both.jobs >= max(a.jobs, b.jobs)


@QUIET
@given(profiles(), profiles())
def test_what_is_stored_merges_alike(a, b):
    """A profile read back is the same, in all that is derived of it, too."""

    def stored(own):
        return application_profile_from_json(json.loads(json.dumps(application_profile_to_json(own))))

    both = merged(a, b)
    assert merged(stored(a), stored(b)) == both == stored(both)
    assert stored(both).outcomes == both.outcomes
    assert (stored(both).nodes, stored(both).history.call) == (both.nodes, both.history.call)


@QUIET
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=40))
def test_no_job_counts_twice(events):
    """Workers that see jobs, save into one store and go on from it: counts never exceed the truth.

    Nor do they lack anything before a job is forgotten, and each worker's only grow.
    """
    stored = profile([])
    workers = dict.fromkeys("abc", stored)
    done = []
    for worker, kind in events:
        before = workers[worker].jobs
        if kind:
            done.append(job(len(done)))
            workers[worker] = workers[worker].observe(done[-1:])
            assert workers[worker].jobs == before + 1
        else:
            stored = workers[worker] = merged(stored, workers[worker])
            assert stored.jobs >= before
    for own in workers.values():
        stored = merged(stored, own)
    truth = profile_from_jobs(TEMPLATE, done)
    assert ids(stored) == [own.id for own in done[-KEPT:]]
    assert stored.jobs <= len(done)
    assert stored.history == truth.history
    if len(done) <= KEPT:
        assert stored.jobs == len(done)


def test_workers_that_forget_the_same_lose_no_count():
    """Both began with the same profile and forgot its oldest jobs; the larger count is the truth or less."""
    base = profile(range(20))
    one, other = (merged(base, profile([30 + n], by=by)) for n, by in enumerate("ab"))
    assert (base.jobs, one.jobs) == (20, 20)
    both = merged(one.observe([job(40)]), other)
    assert both.jobs == 21
    assert ids(both) == ["17", "18", "19", "a30", "b31", "40"]


def test_observing_a_job_again_adds_nothing():
    own = profile(range(3))
    assert own.observe([job(1)]) == own
    assert [own.observe([job(3)]).jobs, len(own.observe([job(3), job(3)]).history)] == [4, 4]


def test_what_is_forgotten_stays_forgotten():
    """The later of the two counts, and what an old worker still remembers does not come back."""
    drifted = replace(profile(range(4, 6)), forgotten_before=4.0)
    both = merged(profile(range(6)), drifted)
    assert (ids(both), both.forgotten_before, both.jobs) == (["4", "5"], 4.0, 6)


def test_what_drift_made_one_worker_forget_all_forget():
    """A profile that forgets says since when."""
    own = replace(profile([]), history=History(tuple(job(n) for n in range(RECENT + 7)))).forgetting()
    assert own.jobs == RECENT + 7
    assert own.forgotten_before == 7.0
    assert ids(merged(profile([5, 6, 7]), profile([6]))) == ["5", "6", "7"]
    assert not {"5", "6"} & set(
        ids(merged(profile([5, 6, 7]), replace(own, history=History(own.history.jobs[:1]))))
    )
    assert profile([]).forgetting().forgotten_before == 0.0


def test_the_same_job_told_twice_is_one():
    early, late = job(1, at=1.0), replace(job(2, at=2.0), id="1")
    both = merged(profile_from_jobs(TEMPLATE, [early]), profile_from_jobs(TEMPLATE, [late]))
    assert both.history.jobs == (late,)
    assert both.jobs == 1


def test_different_applications_are_not_merged():
    other = profile_from_jobs(type(TEMPLATE).of("other"), [])
    with pytest.raises(ValueError, match="fan and other are different applications"):
        merged(profile([1]), other)
