"""A job that is recorded from a simulated run of another job does the same in the same time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.belief.tracing import trace_of
from llmsched_langgraph.core.policies import as_policy
from llmsched_langgraph.sim.simulation import Simulation
from llmsched_langgraph.sim.workloads import APPLICATIONS, TimedJob, generate
from llmsched_langgraph.traces import TraceCall, TraceJob, TraceStage

SECONDS = st.sampled_from([0.0, 0.5, 1.0, 1.25, 7.0])


@st.composite
def jobs(draw):
    """Any stages in any order, with ties: many things end and begin at the same moment."""
    stages = [TraceStage("s0", "llm", (), (TraceCall(1, 1, draw(SECONDS)),))]
    for index in range(1, draw(st.integers(1, 8))):
        deps = tuple(sorted(draw(st.sets(st.integers(0, index - 1), max_size=3))))
        name = draw(st.sampled_from(["s0", "s1", "s2"]))
        if draw(st.booleans()):
            used = (TraceCall(None, None, draw(SECONDS)),)
            stages.append(TraceStage(name, "tool", deps, used, draw(st.none() | st.just("saw"))))
        else:
            calls = draw(st.lists(SECONDS, min_size=1, max_size=3))
            stages.append(TraceStage(name, "llm", deps, tuple(TraceCall(2, 3, s) for s in calls)))
    return TraceJob("j", "app", None, tuple(stages))


def recorded(job, slots=99, arrival_s=0.0):
    """The job as a scheduler records it, run alone."""
    run = Simulation([TimedJob(arrival_s, job)], slots=slots, policy=as_policy("fcfs")).run()
    (record,) = run.records
    return trace_of(replace(record, id=job.id, ended_at=record.ended_s)), run.jobs[0].jct_s


def done(job):
    """Everything that it did, whatever came when."""
    return Counter((s.name, s.kind, s.tool, call) for s in job.stages for call in s.calls)


@given(jobs())
def test_a_recorded_job_does_the_same_in_the_same_time(job):
    """All calls and tools, tokens and seconds; alone it takes as long; and recorded again it is the same."""
    once, jct_s = recorded(job)
    assert done(once) == done(job)
    assert once.jct_s == pytest.approx(jct_s)
    assert once.critical_path_s == pytest.approx(jct_s)
    again, again_s = recorded(once)
    assert again_s == pytest.approx(jct_s)
    assert done(again) == done(once)


@given(jobs(), st.integers(1, 2))
def test_waiting_for_slots_does_not_get_into_it(job, slots):
    """Recorded on a busy backend, it does the same work; only what waited for what may look stricter."""
    busy, _ = recorded(job, slots, arrival_s=50.0)
    assert done(busy) == done(job)
    assert busy.critical_path_s >= job.critical_path_s - 1e-6
    assert busy.arrival_s == pytest.approx(50.0)


@pytest.mark.parametrize("app", APPLICATIONS)
def test_the_papers_applications_keep_their_stages(app):
    """In the order of time, each behind what it waited for."""
    for job in generate(app, 5, 1):
        once, jct_s = recorded(job)
        assert once.critical_path_s == pytest.approx(jct_s, abs=1e-4)
        assert once.work_s == pytest.approx(job.work_s, abs=1e-4)
        assert {stage.name for stage in once.stages} == {stage.name for stage in job.stages}
