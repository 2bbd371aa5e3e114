"""The six applications: their shape, the statistics they state, and that all comes from the seed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.workloads import (
    APPLICATIONS,
    MIXES,
    chain,
    generate,
    planning,
    predefined,
    resample,
)
from llmsched_langgraph.lab.sim.workloads.draws import LogNormal, linked, normal, pick
from llmsched_langgraph.traces import MEASURED_SPEED, Derived, TokenSpeed, read_jobs, write_jobs

MANY = 1500


@pytest.fixture(scope="module")
def sample():
    """Many jobs of an application, made once."""
    made = {}

    def get(app, jobs=MANY):
        if (app, jobs) not in made:
            made[app, jobs] = generate(app, jobs, seed=7)
        return made[app, jobs]

    return get


def calls(job, name):
    return [call for stage in job.stages if stage.name == name for call in stage.calls]


def outputs(job, name):
    return [call.output_tokens for call in calls(job, name)]


def logs(values):
    return np.log(np.array(values, float))


def correlation(first, second):
    return float(np.corrcoef(first, second)[0, 1])


def shares(values):
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), (counts / len(values)).tolist(), strict=True))


def has_shares(values, weights, tolerance=0.04):
    total = sum(weights.values())
    found = shares(values)
    assert found.keys() <= weights.keys()
    assert all(abs(found.get(key, 0) - weight / total) < tolerance for key, weight in weights.items())


def has_statistics(values, stated, tolerance=0.1):
    """Median and spread of what was drawn are those of the log-normal, which the limits narrow a little."""
    assert min(values) >= math.floor(stated.low)
    assert max(values) <= math.ceil(stated.high)
    assert logs(values).mean() == pytest.approx(stated.mu, abs=max(tolerance * stated.sigma, 0.02))
    assert logs(values).std() == pytest.approx(stated.sigma, rel=0.15)


# What holds for all of them.


@pytest.mark.parametrize("app", APPLICATIONS)
def test_jobs_are_those_of_their_application(sample, app):
    """Their names say so, every number is there, seconds follow from tokens and are marked so."""
    for job in sample(app)[:100]:
        assert job.app == app
        assert job.jct_s is None
        assert job.work_s > 0
        assert job.critical_path_s > 0
        for call in job.llm_calls():
            assert call.output_tokens >= 1
            assert call.derived == Derived.SECONDS
            assert call.seconds == MEASURED_SPEED.call_s(call.prompt_tokens, call.output_tokens)


@pytest.mark.parametrize("mix", [*MIXES, *APPLICATIONS])
def test_the_seed_is_all_there_is(mix):
    """The same seed gives the same jobs, also when there are more of them, and another gives others."""
    assert generate(mix, 8, 3) == generate(mix, 8, 3)
    assert generate(mix, 5, 3) == generate(mix, 8, 3)[:5]
    assert generate(mix, 8, 3) != generate(mix, 8, 4)
    assert len({job.id for job in generate(mix, 8, 3)}) == 8


@given(st.sampled_from(list(MIXES)), st.integers(0, 2**40))
def test_any_seed_gives_sound_jobs(mix, seed):
    """Building a job checks that it is a graph; its work is never none."""
    assert all(job.work_s > 0 for job in generate(mix, 3, seed))


def test_global_randomness_is_neither_used_nor_touched():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    first = generate("mixed", 5, 1)
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(2)
    assert generate("mixed", 5, 1) == first


def test_a_mix_has_each_of_its_applications_equally_often():
    for mix in MIXES:
        apps = [job.app for job in generate(mix, 900, 11)]
        has_shares(apps, dict.fromkeys(MIXES[mix], 1), tolerance=0.05)
    assert MIXES["mixed"] == tuple(APPLICATIONS)
    assert {app for mix in ("predefined", "chain", "planning") for app in MIXES[mix]} == set(APPLICATIONS)


def test_speed_changes_seconds_and_nothing_else():
    slow = TokenSpeed(1.0, 0.0, 1.0, 9.0, {}, "made up")
    for usual, slowed in zip(
        generate("planning", 20, 1), generate("planning", 20, 1, speed=slow), strict=True
    ):
        for one, other in zip(usual.stages, slowed.stages, strict=True):
            assert (one.name, one.deps, one.tool) == (other.name, other.deps, other.tool)
            for call, again in zip(one.calls, other.calls, strict=True):
                assert (call.prompt_tokens, call.output_tokens) == (again.prompt_tokens, again.output_tokens)
                if one.kind == "llm":
                    assert again.seconds == 1.0 + again.output_tokens
                else:
                    assert again.seconds == call.seconds


def test_generated_jobs_go_through_a_file(tmp_path):
    """They are jobs in the trace format like any other."""
    jobs = generate("mixed", 12, 5)
    write_jobs(jobs, tmp_path / "jobs.jsonl.gz")
    assert list(read_jobs(tmp_path / "jobs.jsonl.gz")) == jobs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("mix", 1, 0),
            "unknown workload 'mix'; choose one of predefined, chain, planning, mixed, sequence_sorting",
        ),
        (("mixed", -1, 0), "jobs and seed must be 0 or more, not -1 and 0"),
        (("mixed", 1, -5), "jobs and seed must be 0 or more, not 1 and -5"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        generate(*arguments)


def test_recorded_jobs_are_drawn_again_with_ids_of_their_own():
    recorded = generate("chain", 5, 1)
    drawn = resample(recorded, 200, 3)
    assert drawn == resample(recorded, 200, 3)
    assert len({job.id for job in drawn}) == 200
    assert {job.id.rpartition("#")[0] for job in drawn} == {job.id for job in recorded}
    assert all(job.stages in [one.stages for one in recorded] for job in drawn)
    with pytest.raises(ConfigurationError, match="no recorded jobs"):
        resample([], 1, 1)


# How numbers are drawn.


def test_linked_numbers_have_their_correlation():
    rng = np.random.default_rng(1)
    first = [normal(rng) for _ in range(20_000)]
    second = [linked(rng, z, 0.7) for z in first]
    assert correlation(first, second) == pytest.approx(0.7, abs=0.02)
    assert (np.mean(second), np.std(second)) == pytest.approx((0, 1), abs=0.03)


def test_picks_are_as_often_as_their_weights():
    rng = np.random.default_rng(1)
    has_shares([pick(rng, {"a": 1, "b": 3}) for _ in range(4000)], {"a": 1, "b": 3})


@given(st.floats(-8, 8))
def test_log_normal_stays_within_its_limits(z):
    assert 5 <= LogNormal(3.0, 1.0, 5, 50).tokens(z) <= 50


# Sequence sorting.


def test_sorting_splits_sorts_and_merges_by_twos(sample):
    """128 numbers: the recorded graph of 23 stages and 151 calls. Shorter lists: fewer chunks of 16."""
    sizes = {}
    for job in sample("sequence_sorting"):
        names = [stage.name for stage in job.stages]
        sizes[names.count("sort")] = (len(names), sum(len(stage.calls) for stage in job.stages))
        assert names.count("merge") == names.count("improve") == names.count("sort") - 1
        assert job.stages[-1].name == "improve"
        for stage in job.stages:
            if stage.name == "merge":
                assert len(stage.deps) == 2
            if stage.name == "improve":
                assert [job.stages[dep].name for dep in stage.deps] == ["merge"]
    assert sizes[8] == (23, 151)
    assert sizes.keys() == {2, 4, 8}
    has_shares([outputs(job, "split")[0] for job in sample("sequence_sorting")], {108: 1, 217: 1, 434: 1})


def test_sortings_prompts_and_answers_are_those_recorded(sample):
    """The means over the jobs with 128 numbers, beside the six that were recorded."""
    jobs = [job for job in sample("sequence_sorting") if len(job.stages) == 23]
    assert {call.prompt_tokens for call in calls(jobs[0], "split")} == {1542}
    assert np.mean([outputs(job, "sort") for job in jobs]) == pytest.approx(50.4, rel=0.01)
    merges = [[stage for stage in job.stages if stage.name == "merge"] for job in jobs]
    improves = [[stage for stage in job.stages if stage.name == "improve"] for job in jobs]
    for which, merged, prompt, recorded in ((slice(0, 4), 98.7, 255, 145), (slice(4, 6), 198.5, 353, 389)):
        of = [call for job in merges for stage in job[which] for call in stage.calls]
        assert np.mean([call.output_tokens for call in of]) == pytest.approx(merged, rel=0.02)
        assert of[0].prompt_tokens == pytest.approx(prompt, abs=3)
        of = [call for job in improves for stage in job[which] for call in stage.calls]
        assert np.mean([call.output_tokens for call in of]) == pytest.approx(recorded, rel=0.1)
    last = [call.output_tokens for job in improves for call in job[6].calls]
    assert np.mean(last) == pytest.approx(1233, rel=0.05)
    assert (min(last), max(last)) == (689, 2010)


# Document merging.


def test_merging_is_a_chain_of_wide_stages(sample):
    """The recorded 105 calls, whatever the job."""
    for job in sample("document_merging", 300):
        assert [(stage.name, stage.deps, len(stage.calls)) for stage in job.stages] == [
            ("generate1", (), 2),
            ("score1", (0,), 40),
            ("aggregate", (1,), 2),
            ("score2", (2,), 40),
            ("generate2", (3,), 1),
            ("score3", (4,), 20),
        ]


def test_merged_documents_lengths_go_together(sample):
    """Recorded: 0.92 and 0.84 between documents, 0.88 and 0.86 between scores, nothing between the two."""
    jobs = sample("document_merging")
    mean = {
        name: logs([np.mean(outputs(job, name)) for job in jobs])
        for name in ("generate1", "aggregate", "generate2", "score1", "score2", "score3")
    }
    assert correlation(mean["generate1"], mean["aggregate"]) == pytest.approx(0.93, abs=0.04)
    assert correlation(mean["generate1"], mean["generate2"]) == pytest.approx(0.85, abs=0.04)
    assert correlation(mean["score1"], mean["score2"]) == pytest.approx(0.91, abs=0.04)
    assert correlation(mean["score2"], mean["score3"]) == pytest.approx(0.86, abs=0.08)
    assert correlation(mean["generate1"], mean["score1"]) == pytest.approx(0, abs=0.08)
    prompts = logs([calls(job, "generate1")[0].prompt_tokens for job in jobs])
    assert correlation(prompts, mean["generate1"]) == pytest.approx(0, abs=0.08)


def test_merged_documents_have_the_recorded_lengths(sample):
    jobs = sample("document_merging")
    has_statistics([calls(job, "generate1")[0].prompt_tokens for job in jobs], predefined.DOCUMENTS_PROMPT)
    has_statistics([outputs(job, "aggregate")[0] for job in jobs], predefined.AGGREGATED)
    has_statistics([outputs(job, "generate2")[0] for job in jobs], predefined.SECOND)
    for name, recorded in (("generate1", 931), ("score1", 437), ("score2", 440), ("score3", 447)):
        assert np.mean([outputs(job, name) for job in jobs]) == pytest.approx(recorded, rel=0.04)
    for name, recorded in (("score1", 2581), ("aggregate", 3358), ("generate2", 2428)):
        prompts = [call.prompt_tokens for job in jobs for call in calls(job, name)]
        assert np.mean(prompts) == pytest.approx(recorded, rel=0.03)


# Code generation.


def test_attempts_are_few_or_up_to_the_cap(sample):
    """Solved at once, or five attempts, seldom between; the first answer's length does not tell which."""
    jobs = sample("code_generation")
    attempts = [1 + len(calls(job, "refine")) for job in jobs]
    has_shares(attempts, chain.ATTEMPTS.weights, tolerance=0.025)
    first = [outputs(job, "generate")[0] for job in jobs]
    assert correlation(logs(first), np.array(attempts) > 1) == pytest.approx(0, abs=0.08)
    for job, count in zip(jobs[:200], attempts, strict=False):
        kinds = [stage.name for stage in job.stages]
        assert kinds == ["generate", "execute", *["refine", "execute"] * (count - 1)]
        assert [stage.deps for stage in job.stages] == [(), *[(index,) for index in range(len(kinds) - 1)]]


def test_consecutive_attempts_have_similar_lengths(sample):
    jobs = generate("code_generation", 8000, 7)
    retried = [job for job in jobs if calls(job, "refine")]
    first = [(outputs(job, "generate")[0], outputs(job, "refine")[0]) for job in retried]
    later = [pair for job in jobs for pair in pairwise(outputs(job, "refine"))]
    assert correlation(*logs(first).T) == pytest.approx(chain.FIRST_RETRY_LINK, abs=0.06)
    assert correlation(*logs(later).T) == pytest.approx(chain.RETRY_LINK, abs=0.04)
    has_statistics([outputs(job, "generate")[0] for job in jobs], chain.FIRST_ATTEMPT)
    has_statistics([tokens for job in jobs for tokens in outputs(job, "refine")], chain.REFINEMENT)
    has_statistics([calls(job, "generate")[0].prompt_tokens for job in jobs], chain.PROBLEM)


def test_a_retrys_prompt_holds_all_before_it(sample):
    for job in sample("code_generation"):
        told = [call for stage in job.stages if stage.kind == "llm" for call in stage.calls]
        for before, after in pairwise(told):
            assert 364 <= after.prompt_tokens - before.prompt_tokens - before.output_tokens <= 750


# Web search.


def test_search_takes_its_recorded_steps(sample):
    """From 2 calls to 6, whatever the question's length."""
    jobs = sample("web_search")
    steps = [len(calls(job, "think")) for job in jobs]
    has_shares(steps, chain.STEPS.weights)
    questions = [calls(job, "think")[0].prompt_tokens - chain.EXAMPLES for job in jobs]
    has_statistics(questions, chain.QUESTION)
    assert correlation(logs(questions), steps) == pytest.approx(0, abs=0.08)
    for job in jobs[:200]:
        assert [stage.name for stage in job.stages] == [
            "think",
            *["use_tool", "think"] * (len(job.stages) // 2),
        ]


def test_steps_and_searches_have_their_statistics(sample):
    jobs = sample("web_search")
    has_statistics([tokens for job in jobs for tokens in outputs(job, "think")], chain.THOUGHT_AND_ACTION)
    pairs = [pair for job in jobs for pair in pairwise(outputs(job, "think"))]
    assert correlation(*logs(pairs).T) == pytest.approx(chain.STEP_LINK, abs=0.04)
    tools = [stage for job in jobs for stage in job.stages if stage.kind == "tool"]
    has_statistics(
        [stage.seconds for stage in tools if stage.tool == "search"], chain.SEARCH_S, tolerance=0.15
    )
    later = [stage.tool for job in jobs for stage in job.stages[2:] if stage.kind == "tool"]
    assert later.count("lookup") / len(later) == pytest.approx(chain.LOOKUPS, abs=0.02)
    assert all(stage.seconds == 0 for stage in tools if stage.tool == "lookup")


# Task automation.


def subtasks(job):
    return [stage for stage in job.stages if stage.name == "subtask"]


def test_a_longer_plan_has_more_subtasks(sample):
    """The rank correlation recorded in executed plans is 0.87; 0.89 to 0.94 in TaskBench's."""
    jobs = sample("task_automation")
    counts = [len(subtasks(job)) for job in jobs]
    has_shares(counts, planning.SUBTASKS.weights)
    ranks = [np.argsort(np.argsort(values)) for values in (counts, [outputs(job, "plan")[0] for job in jobs])]
    assert correlation(*ranks) == pytest.approx(0.87, abs=0.06)


def test_the_tools_planned_explain_their_time(sample):
    """Each has its own seconds; their number alone says little of the sum."""
    jobs = sample("task_automation")
    usual = {tool: math.exp(stated.mu) for tool, stated in planning.TOOL_S.items()}
    spent, expected, counts = [], [], []
    for job in jobs:
        tools = [stage for stage in subtasks(job) if stage.kind == "tool"]
        if tools:
            spent.append(sum(stage.seconds for stage in tools))
            expected.append(sum(usual[stage.tool] for stage in tools))
            counts.append(len(subtasks(job)))
    assert correlation(logs(spent), logs(expected)) ** 2 > 0.95
    assert correlation(logs(spent), counts) ** 2 < 0.3
    for tool, stated in planning.TOOL_S.items():
        seconds = [stage.seconds for job in jobs for stage in subtasks(job) if stage.tool == tool]
        assert stated.low <= min(seconds)
        assert max(seconds) <= stated.high
        # Some were recorded with few values near their least one, which narrows the drawn spread.
        assert logs(seconds).mean() == pytest.approx(stated.mu, abs=0.12)


def test_subtasks_mostly_follow_one_another(sample):
    """Also when a model has to be chosen for them first; the answer needs them all."""
    jobs = sample("task_automation")
    follows = []
    for job in jobs:
        indices = [index for index, stage in enumerate(job.stages) if stage.name == "subtask"]
        assert job.stages[-1].name == "respond"
        assert list(job.stages[-1].deps) == indices
        assert len({stage.tool for stage in subtasks(job)}) == len(indices)
        for before, index in pairwise(indices):
            (dep,) = job.stages[index].deps
            chosen = job.stages[dep].name == "choose_model"
            assert chosen == (job.stages[index].tool in planning.CHOOSES_MODEL)
            (dep,) = job.stages[dep].deps if chosen else (dep,)
            assert dep in (0, before)
            follows.append(dep == before)
    assert np.mean(follows) == pytest.approx(planning.FOLLOWS_PREVIOUS, abs=0.03)


def test_answers_grow_with_the_subtasks(sample):
    jobs = sample("task_automation")
    prompts = [calls(job, "respond")[0].prompt_tokens for job in jobs]
    assert np.mean(prompts) == pytest.approx(654, rel=0.04)
    assert np.mean([outputs(job, "respond")[0] for job in jobs]) == pytest.approx(546, rel=0.06)
    assert np.mean([outputs(job, "plan")[0] for job in jobs]) == pytest.approx(117, rel=0.04)


# LLMCompiler.


def test_compiled_plans_search_at_once_and_then_do_sums(sample):
    jobs = sample("llm_compiler")
    searches = [sum(stage.tool == "search" for stage in job.stages) for job in jobs]
    has_shares(searches, planning.BRANCHES.weights)
    sums = {}
    for job, count in zip(jobs, searches, strict=True):
        assert all(stage.deps == (0,) for stage in job.stages if stage.tool == "search")
        tasks = [index for index, stage in enumerate(job.stages) if stage.name == "task"]
        assert job.stages[-1].name == "join"
        assert list(job.stages[-1].deps) == tasks
        sums.setdefault(count, set()).add(len(tasks) - count)
    assert sums == {2: {1, 2, 3}, 3: {1, 3, 4}, 4: {1, 3, 4, 5}, 5: {1, 4, 5, 6}}


def test_compiled_plans_are_as_long_as_their_actions_say(sample):
    jobs = sample("llm_compiler")
    actions = [len(job.stages) - 2 for job in jobs]
    plans = [outputs(job, "plan")[0] for job in jobs]
    slope, base = np.polyfit(actions, plans, 1)
    assert (slope, base) == pytest.approx((planning.COMPILED_PER_ACTION, planning.COMPILED_BASE), abs=2.5)
    found = {call.prompt_tokens - planning.PLANNER_PROMPT for job in jobs for call in calls(job, "plan")}
    assert 23 <= min(found) <= max(found) <= 100
