"""Deadlines in simulated runs: what is urgent, for how long, and that it is worth it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmsched_langgraph import Profile
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._core.ordering import LOST, NEVER_URGENT, URGENT, Ordering
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.workloads import generate
from llmsched_langgraph.policies import JobInfo

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
deadlines = pytest.importorskip("deadlines")


def job_of(application, deadline_s, arrival_s=100.0):
    return Job(1, JobInfo(application=application, deadline_s=deadline_s), application, arrival_s)


def test_a_job_is_urgent_by_its_remaining_time_not_by_its_work():
    """Half of what these jobs do runs side by side, and tools take time that is no work."""
    train = generate("predefined", 60, 1)
    templates = templates_of(train)
    ordering = Ordering(as_policy("srtf"), learned_from(train, templates))
    for own in ordering.profile.applications.values():
        job = job_of(own.application, 50.0)
        paths_s = sum(job.critical_path_s for job in own.history.limited)
        alone = paths_s / sum(job.work_s for job in own.history.limited)
        left_s = alone * job.remaining_s(100.0, ordering.profile.total_work_s(job.template))
        assert ordering.urgent(job, 100.0) == pytest.approx((150.0 - URGENT * left_s, 150.0 - LOST * left_s))
        assert not 0.99 < alone < 1.01


def test_without_a_profile_work_counts_as_time():
    (template, *_) = templates_of(generate("predefined", 5, 1)).values()
    ordering, job = Ordering(as_policy("srtf"), Profile()), job_of(template, 50.0)
    left_s = job.remaining_s(100.0, Profile().total_work_s(template))
    assert ordering.urgent(job, 100.0) == pytest.approx((150.0 - URGENT * left_s, 150.0 - LOST * left_s))


def test_without_a_deadline_nothing_is_urgent():
    (template, *_) = templates_of(generate("predefined", 5, 1)).values()
    assert Ordering(as_policy("srtf"), Profile()).urgent(job_of(template, None), 100.0) == NEVER_URGENT


@pytest.mark.parametrize("workload", ["mixed", "chain"])
def test_more_deadlines_are_met_than_without_the_tier(workload):
    """One job in five has a deadline; the others hardly wait longer."""
    found = deadlines.cell((workload, 200, 8, 1.5, 0.2, 7, "srtf"))
    met, mean_s = found["srtf + deadlines"]
    assert met > found["srtf"][0] + 0.05
    assert met > found["fcfs"][0] + 0.05
    assert mean_s < 1.1 * found["srtf"][1]
