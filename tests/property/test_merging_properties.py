"""Merging profiles: outcomes are a union, whatever comes first, and no job counts twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.profiles import TEMPLATE, ids, job, profile

from llmsched_langgraph.belief import merging
from llmsched_langgraph.belief.drift import RECENT
from llmsched_langgraph.belief.merging import merged, taught_by
from llmsched_langgraph.belief.outcome import JobOutcome

QUIET = settings(deadline=None, max_examples=150)
KEPT = 6


@pytest.fixture(autouse=True, scope="module")
def short_memory():
    """Few jobs are remembered, so that some are forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "HISTORY", KEPT)
        yield


@st.composite
def profiles(draw):
    """Of some of a few jobs, some of which nobody gave an id; with or without a model."""
    outcomes = [
        replace(job(number), id=draw(st.sampled_from((f"{number}", f"{number}", ""))), ended_at=float(at))
        for number, at in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9))
    ]
    own = merged(taught_by(TEMPLATE, outcomes), taught_by(TEMPLATE, []))
    own = replace(own, jobs=own.jobs + draw(st.integers(0, 3)))
    if draw(st.booleans()):
        own = replace(own, model=MODELS[draw(st.integers(0, 2))], modelled=draw(st.integers(0, 9)))
    return merged(own, replace(profile([]), forgotten_before=draw(st.sampled_from((0.0, 0.0, 3.0, 7.0)))))


MODELS = [profile(range(n), modelled=n).model for n in (6, 7, 8)]


def told(own):
    """All of the outcomes, ids and times among them."""
    return [(job.ended_at, job.id, job) for job in own.outcomes]


@QUIET
@given(profiles(), profiles())
def test_which_is_named_first_does_not_matter(a, b):
    one, other = merged(a, b), merged(b, a)
    assert told(one) == told(other)
    assert replace(one, call=other.call) == other
    assert (one.call.count, one.call.value) == (other.call.count, pytest.approx(other.call.value))


@QUIET
@given(profiles(), profiles(), profiles())
def test_in_which_order_does_not_matter(a, b, c):
    """For what is remembered, the model and when to forget; counts of what is forgotten are estimates."""
    one, other = merged(merged(a, b), c), merged(a, merged(b, c))
    assert told(one) == told(other)
    assert (one.model, one.modelled) == (other.model, other.modelled)
    assert one.forgotten_before == other.forgotten_before


@QUIET
@given(profiles(), profiles())
def test_once_more_changes_nothing(a, b):
    both = merged(a, b)
    for again in (merged(both, both), merged(both, a), merged(b, both)):
        assert told(again) == told(both)
        assert (again.model, again.modelled) == (both.model, both.modelled)
    same = merged(a, a)
    assert told(same) == told(a)
    assert (same.jobs, same.nodes, same.call.count) == (a.jobs, dict(a.nodes), a.call.count)
    assert same.call.value == pytest.approx(a.call.value)


@QUIET
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=40))
def test_no_job_counts_twice(events):
    """Workers that see jobs, save into one store and go on from it: counts never exceed the truth.

    Nor do they lack anything before a job is forgotten.
    """
    stored = profile([])
    workers = dict.fromkeys("abc", stored)
    ended = []
    for worker, kind in events:
        if kind:
            outcome = job(len(ended))
            ended.append(outcome)
            more = taught_by(TEMPLATE, [outcome])
            own = workers[worker]
            # As a worker does by itself: it counts, and forgets the oldest.
            workers[worker] = replace(
                own,
                outcomes=(*own.outcomes, outcome)[-KEPT:],
                jobs=own.jobs + 1,
                nodes={path: own.nodes.get(path, type(seen)()) + seen for path, seen in more.nodes.items()}
                | {path: seen for path, seen in own.nodes.items() if path not in more.nodes},
                call=merging._mean(
                    own.call.count + more.call.count,
                    own.call.count * own.call.value + more.call.count * more.call.value,
                ),
            )
        else:
            stored = workers[worker] = merged(stored, workers[worker])
    for own in workers.values():
        stored = merged(stored, own)
    truth = taught_by(TEMPLATE, ended)
    assert ids(stored) == [outcome.id for outcome in ended[-KEPT:]]
    assert stored.jobs <= truth.jobs
    assert stored.call.count <= truth.call.count
    assert all(own.runs <= truth.nodes[path].runs for path, own in stored.nodes.items())
    if len(ended) <= KEPT:
        assert (stored.jobs, stored.nodes, stored.call.count) == (truth.jobs, truth.nodes, truth.call.count)
        assert stored.call.value == pytest.approx(truth.call.value)


def test_workers_that_forget_the_same_lose_no_count():
    """The example of the docstring: both began with the same profile and forgot its oldest jobs."""
    base = profile(range(20))
    one, other = (merged(base, profile([30 + n], by=by)) for n, by in enumerate("ab"))
    both = merged(one, other)
    assert (base.jobs, one.jobs, both.jobs) == (20, 21, 22)
    assert ids(both) == ["16", "17", "18", "19", "a30", "b31"]
    assert both.call.count == taught_by(TEMPLATE, [job(n) for n in (*range(20), 30, 31)]).call.count


def test_what_is_forgotten_stays_forgotten():
    """The later of the two counts, and what an old worker still remembers does not come back."""
    drifted = replace(profile(range(4, 6)), forgotten_before=4.0)
    both = merged(profile(range(6)), drifted)
    assert (ids(both), both.forgotten_before, both.jobs) == (["4", "5"], 4.0, 6)


def test_what_drift_made_one_worker_forget_all_forget():
    """A profile that forgets says since when."""
    own = replace(
        profile([]), outcomes=tuple(job(n) for n in range(RECENT + 7)), jobs=RECENT + 7
    ).forgetting()
    assert own.forgotten_before == 7.0
    assert ids(merged(profile([5, 6, 7]), profile([6]))) == ["5", "6", "7"]
    assert not {"5", "6"} & set(ids(merged(profile([5, 6, 7]), replace(own, outcomes=own.outcomes[:1]))))
    assert profile([]).forgetting().forgotten_before == 0.0


def test_the_same_job_told_twice_is_one():
    early, late = job(1, at=1.0), replace(job(2), id="1", ended_at=2.0)
    both = merged(taught_by(TEMPLATE, [early]), taught_by(TEMPLATE, [late]))
    assert [(own.id, own.ended_at) for own in both.outcomes] == [("1", 2.0)]
    assert both.jobs == 1


def test_different_applications_are_not_merged():
    other = taught_by(type(TEMPLATE).of("other"), [JobOutcome("other", ())])
    with pytest.raises(ValueError, match="fan and other are different applications"):
        merged(profile([1]), other)
