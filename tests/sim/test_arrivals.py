"""When jobs arrive: the load is what was asked for, the pattern is that of its name, all from the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.workloads import Bursty, Poisson, Recorded, Traced, arrive, generate
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

PATTERNS = [Poisson(), Bursty(0.3), Bursty(3.0), Bursty(13.2), Traced((0.0, 1.0, 0.2, 5.0))]


def job(seconds, name="j"):
    return EndedJob(
        id=name,
        app="app",
        jct_s=None,
        stages=(EndedStage(name="s", kind="llm", deps=(), calls=(EndedCall(1, 1, seconds),)),),
    )


JOBS = [job(1.0 + number % 7, f"j{number}") for number in range(400)]


def gaps(timed):
    return np.diff([0.0, *[each.arrival_s for each in timed]])


def cv(values):
    return np.std(values) / np.mean(values)


@given(
    st.sampled_from(PATTERNS),
    st.floats(0.05, 3.0),
    st.integers(1, 200),
    st.integers(0, 2**32),
    st.lists(st.floats(0.01, 100.0), min_size=30, max_size=60),
)
def test_the_load_is_what_was_asked_for(pattern, load, slots, seed, works):
    """Work over slots times the time to the last arrival, exactly, for every pattern and seed."""
    jobs = [job(work) for work in works]
    timed = arrive(jobs, pattern, load=load, slots=slots, seed=seed)
    assert [each.job for each in timed] == jobs
    assert np.all(gaps(timed) >= 0)
    assert sum(works) / (slots * timed[-1].arrival_s) == pytest.approx(load)


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_the_seed_is_all_there_is(pattern):
    assert arrive(JOBS, pattern, load=0.9, slots=4, seed=1) == arrive(
        JOBS, pattern, load=0.9, slots=4, seed=1
    )
    assert arrive(JOBS, pattern, load=0.9, slots=4, seed=1) != arrive(
        JOBS, pattern, load=0.9, slots=4, seed=2
    )


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_load_and_slots_only_stretch_the_pattern(pattern):
    """So that two loads are compared on the same bursts."""
    light = arrive(JOBS, pattern, load=0.5, slots=4, seed=1)
    heavy = arrive(JOBS, pattern, load=1.0, slots=8, seed=1)
    assert gaps(light) == pytest.approx(4 * gaps(heavy))


@pytest.mark.parametrize("wanted", [0.3, 1.0, 3.0])
def test_bursts_have_the_coefficient_of_variation_asked_for(wanted):
    jobs = [job(1.0)] * 40_000
    timed = arrive(jobs, Bursty(wanted), load=0.8, slots=2, seed=3)
    assert cv(gaps(timed)) == pytest.approx(wanted, rel=0.05)


def test_poisson_is_memoryless():
    """Mean and deviation of the times are the same, neighbours have nothing to do with each other."""
    times = gaps(arrive([job(1.0)] * 40_000, Poisson(), load=0.8, slots=2, seed=3))
    assert cv(times) == pytest.approx(1.0, abs=0.02)
    assert np.corrcoef(times[:-1], times[1:])[0, 1] == pytest.approx(0, abs=0.02)
    counts = np.histogram(np.cumsum(times), bins=2000)[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


def test_recorded_times_come_in_their_order_from_a_random_place():
    recorded = (1.0, 2.0, 4.0)
    times = gaps(arrive([job(1.0)] * 5, Traced(recorded), load=1.0, slots=1, seed=0))
    ratios = times / times.min()
    start = recorded.index(round(ratios[0], 6))
    assert ratios == pytest.approx([recorded[(start + at) % 3] for at in range(5)])
    starts = {
        float(gaps(arrive([job(1.0)] * 3, Traced(recorded), load=1.0, slots=1, seed=s))[0]) for s in range(20)
    }
    assert len(starts) == 3


@given(st.lists(st.floats(0, 1e5), min_size=2, max_size=30), st.integers(1, 9), st.floats(0.1, 10))
def test_jobs_come_again_as_they_came(times, slots, rate):
    """At the load that they came to, at their very times; at a multiple of it, so much faster."""
    at_s = tuple(1.7e9 + time for time in sorted(times))
    assume(at_s[-1] - at_s[0] > 1e-3)
    jobs, recorded = JOBS[: len(at_s)], Recorded(at_s)
    load = recorded.offered(jobs, slots)
    timed = arrive(jobs, recorded, load=load * rate, slots=slots, seed=7)
    assert [each.job for each in timed] == jobs
    since = [(at - at_s[0]) / rate for at in at_s]
    assert [each.arrival_s for each in timed] == pytest.approx(since, abs=1e-6)
    assert load == pytest.approx(sum(job.work_s for job in jobs) / (slots * (at_s[-1] - at_s[0])))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((2.0, 1.0), "recorded times must ascend"),
        ((1.0, 1.0), "at least two different arrival times"),
        ((1.0,), "at least two different arrival times"),
        ((), "at least two different arrival times"),
    ],
)
def test_no_jobs_came_at_such_times(wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        Recorded(wrong)


def test_arrivals_do_not_depend_on_how_the_jobs_were_drawn():
    """The same seed may make jobs and times: the two streams have nothing in common."""
    one, other = generate("chain", 50, 9), generate("planning", 50, 9)
    first = gaps(arrive(one, Poisson(), load=0.9, slots=2, seed=9))
    second = gaps(arrive(other, Poisson(), load=0.9, slots=2, seed=9))
    assert first / first.sum() == pytest.approx(second / second.sum())


def test_no_jobs_no_arrivals():
    assert arrive([], Poisson(), load=0.9, slots=1, seed=0) == []


@pytest.mark.parametrize(
    ("jobs", "settings", "message"),
    [
        (JOBS, {"load": 0.0}, "load must be above 0, slots 1 or more and seed 0 or more, not 0.0, 2 and 1"),
        (JOBS, {"load": float("nan")}, "load must be above 0"),
        (JOBS, {"load": float("inf")}, "load must be above 0"),
        (JOBS, {"slots": 0}, "not 0.9, 0 and 1"),
        (JOBS, {"seed": -1}, "not 0.9, 2 and -1"),
        ([job(None, "late")], {}, r"the work of job 'late' is unknown.*fill_seconds\(\) adds them"),
        ([job(0.0)], {}, "the jobs need no slot"),
        ([job(1.0)], {"arrivals": Traced((0.0, 0.0, 0.0, 0.0, 1.0))}, "all gaps between the arrivals"),
    ],
)
def test_what_cannot_be_is_refused(jobs, settings, message):
    settings = {"arrivals": Poisson(), "load": 0.9, "slots": 2, "seed": 1} | settings
    with pytest.raises(ConfigurationError, match=message):
        arrive(jobs, **settings)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_no_pattern_has_such_a_coefficient(wrong):
    with pytest.raises(ConfigurationError, match="coefficient of variation must be above 0"):
        Bursty(wrong)


@pytest.mark.parametrize("wrong", [(), (0.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (float("inf"),)])
def test_no_trace_has_such_times(wrong):
    with pytest.raises(ConfigurationError, match="a trace needs gaps"):
        Traced(wrong)
