"""Measuring predictions: what was known at each moment, who may teach whom, and the figures."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.beliefs import call, fan_job, loop_job, planned_job

from llmsched_langgraph._belief.fit.evaluation import PARTS, evaluate, groups_of, moments, split, unit_of
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._jobs.observed import Unit, observed
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage


def test_a_job_is_seen_as_it_was_then():
    """At each moment what ended and what was announced, never what came later."""
    jobs = [fan_job(0, 3), fan_job(1, 0)]
    seen = list(moments(jobs[0], template_of("fan", jobs), Unit.TOKENS))
    assert [moment.finished for moment in seen] == [0, 1, 2]
    assert [moment.remaining for moment in seen] == [60 + 120 + 90, 120 + 90, 90]
    assert [
        [
            stage_occurrence.path
            for stage_occurrence in (own.stage_occurrence for own in moment.evidence.begun)
        ]
        for moment in seen
    ] == [
        ["split"],
        ["map"],
        ["join"],
    ]
    assert seen[1].evidence.begun[0].runs == 3
    assert [sorted(moment.evidence.skipped) for moment in seen] == [
        ["split"],
        ["map", "split"],
        ["join", "map", "split"],
    ]
    assert all(moment.evidence.prompt_tokens == 100 for moment in seen)


def test_what_runs_side_by_side_ends_one_by_one():
    job = EndedJob(
        id="j",
        app="a",
        jct_s=None,
        stages=(
            EndedStage(name="plan", kind="llm", deps=(), calls=(call(10),)),
            EndedStage(name="left", kind="llm", deps=(0,), calls=(call(20),)),
            EndedStage(name="right", kind="llm", deps=(0,), calls=(call(30),)),
        ),
    )
    seen = list(moments(job, template_of("a", [job]), Unit.TOKENS))
    assert [moment.remaining for moment in seen] == [60, 50, 30]
    assert [
        stage_occurrence.path for stage_occurrence in (own.stage_occurrence for own in seen[2].evidence.begun)
    ] == ["right"]


def test_a_loop_may_go_on_until_its_job_ends():
    """Only what edges forbid is known not to come."""
    jobs = [loop_job(n, 3) for n in range(2)]
    for moment in moments(jobs[0], template_of("loop", jobs), Unit.SECONDS):
        assert not moment.evidence.skipped & {"think", "act"}


def test_a_plan_is_known_once_it_is_made():
    jobs = [planned_job(n, "abc"[: 1 + n % 3]) for n in range(3)]
    seen = list(moments(jobs[2], template_of("planner", jobs), Unit.TOOL_SECONDS))
    assert [moment.evidence.planned for moment in seen[:2]] == [None, (("a", 1), ("b", 1), ("c", 1))]


def test_two_jobs_with_the_same_past_have_the_same_belief():
    """Their futures differ: the one goes round again, the other is all but over."""
    jobs = [loop_job(n, 1 + n % 4) for n in range(40)]
    template = template_of("loop", jobs)
    model = learn(template, [observed(job) for job in jobs])
    short, long = loop_job(7, 2), loop_job(7, 4)
    pasts = [list(moments(job, template, Unit.SECONDS))[:4] for job in (short, long)]
    for one, other in zip(*pasts, strict=True):
        assert one.evidence == other.evidence
        assert one.remaining != other.remaining
        assert model.belief(one.evidence) is model.belief(other.evidence)


@pytest.mark.parametrize(
    ("ids", "groups"),
    [
        (["run-1/p", "run-1/q", "run-2/p", "run-2/q", "run-1/r"], ["p", "q", "p", "q", "r"]),
        (["s1/1", "s1/2", "s2/1", "s3/1"], ["s1", "s1", "s2", "s3"]),
        (["a", "b", "c"], ["a", "b", "c"]),
        (["base/t1/x", "base/t2/x", "base/t1/y", "base/t1/z"], ["x", "x", "y", "z"]),
        ([], []),
    ],
)
def test_jobs_that_belong_together_are_found_by_their_ids(ids, groups):
    """Runs of one problem, turns of one session."""
    assert groups_of([replace(loop_job(0, 1), id=name) for name in ids]) == groups


def test_groups_are_dealt_whole_and_evenly():
    jobs = [replace(loop_job(0, 1), id=f"problem-{n % 40}/{n}") for n in range(200)]
    jobs = [replace(job, id=f"run-{n // 40}/problem-{n % 40}") for n, job in enumerate(jobs)]
    parts = split(jobs, 3)
    homes = {}
    for job, part in zip(jobs, parts, strict=True):
        homes.setdefault(job.id.split("/")[1], set()).add(part)
    assert all(len(home) == 1 for home in homes.values())
    assert sorted(parts.count(part) for part in range(PARTS)) == [40] * PARTS
    assert split(jobs, 3) == parts != split(jobs, 4)


def test_the_unit_is_what_was_recorded():
    assert unit_of([fan_job(0, 2)]) is Unit.SECONDS
    assert unit_of([planned_job(0, "ab")]) is Unit.TOOL_SECONDS
    unknown = EndedJob(
        id="j",
        app="a",
        jct_s=None,
        stages=(EndedStage(name="x", kind="llm", deps=(), calls=(EndedCall(1, 5, None),)),),
    )
    assert unit_of([unknown]) is Unit.TOKENS


def test_the_figures_tell_a_predictable_application():
    """The first call tells the width, and the width all that follows."""
    deal = random.Random(5)
    jobs = [fan_job(n, deal.choice((1, 2, 4, 8))) for n in range(60)]
    made = evaluate("fan", jobs)
    assert made == evaluate("fan", jobs)
    assert (made.jobs, made.stages, made.used) == (60, 3, "network")
    assert made.logloss_network < made.logloss_marginals - 2
    assert made.r2_log_remaining[1] > 0.95 > 0.8 > made.r2_log_remaining_marginals[1]
    assert len(made.r2_log_remaining) == len(made.r2_log_remaining_marginals) == 3
    assert 0.7 < made.coverage80 <= 1.0


def test_independent_stages_are_predicted_by_the_marginals():
    """And then the figures of both are the same."""
    deal = random.Random(6)
    jobs = [
        EndedJob(
            id=f"{n}",
            app="coins",
            jct_s=None,
            stages=tuple(
                EndedStage(
                    name=name,
                    kind="llm",
                    deps=(i - 1,) if i else (),
                    calls=(call(deal.choice((10, 100, 400))),),
                )
                for i, name in enumerate("abc")
            ),
        )
        for n in range(60)
    ]
    made = evaluate("coins", jobs)
    assert made.used == "marginals"
    assert made.r2_log_remaining == made.r2_log_remaining_marginals


def test_training_jobs_are_not_measured():
    """One that stands in both lists teaches only; too few of either are refused."""
    jobs = [fan_job(n, 1 + n % 4) for n in range(50)]
    assert evaluate("fan", jobs, jobs[:30]).jobs == 20
    with pytest.raises(InvalidDataError, match="fan: 50 jobs to learn from and 0 others to measure"):
        evaluate("fan", jobs, jobs)
    with pytest.raises(InvalidDataError, match="fan: 0 jobs to learn from"):
        evaluate("fan", jobs, [])
    with pytest.raises(InvalidDataError, match="fan: 3 jobs with recorded seconds; at least 15 are required"):
        evaluate("fan", jobs[:3])
