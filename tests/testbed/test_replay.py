"""A recorded job is replayed as it was: its calls, their lengths, its stages; one template for its kind."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from langchain_openai import ChatOpenAI

from llmsched_langgraph import InvalidDataError, Scheduler, compile_graph, schedule
from llmsched_langgraph._adapter.graph import application_of
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend
from llmsched_langgraph.lab.sim.workloads import APPLICATIONS, generate
from llmsched_langgraph.lab.testbed.calls import Calls, CountingClient, EmbeddedLengths
from llmsched_langgraph.lab.testbed.graphs import graph_of, replay
from llmsched_langgraph.lab.testbed.jobs import node_name, replayable, timed
from llmsched_langgraph.lab.testbed.script import Script, in_supersteps, levels_of, runs_of
from llmsched_langgraph.lab.testbed.speed import speed_of
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

FAST = 20_000.0
SPEED = speed_of("llama-3.1-8b-h100").times(FAST)


@pytest.fixture(scope="module")
def backend():
    with running_backend(SimulatedBackend(slots=8, time_scale=FAST)) as running:
        yield running


def replayed(backend, app_jobs, scheduler=None):
    """The calls that each job made."""

    async def main():
        async with CountingClient(trust_env=False) as http:
            model = ChatOpenAI(
                model="sim-model", base_url=backend.base_url, api_key="none", http_async_client=http
            )
            graph = graph_of("app", app_jobs, Calls(model, EmbeddedLengths()))
            if scheduler is not None:
                graph = schedule(graph, scheduler)
            return [await replay(graph, Script.of(job, "test")) for job in app_jobs]

    return asyncio.run(main())


def calls_of(job):
    return Counter(
        (stage.name, max(call.prompt_tokens or 0, 1), max(call.output_tokens or 0, 1))
        for stage in job.stages
        if stage.kind == "llm"
        for call in stage.calls
    )


def small(app, jobs=3, seed=1):
    made = [timed(replayable(job), SPEED, 8, FAST) for job in generate(app, jobs * 4, seed)]
    return sorted(made, key=lambda job: len(list(job.llm_calls())))[:jobs]


@pytest.mark.parametrize("app", APPLICATIONS)
def test_calls_are_those_that_were_recorded(backend, app, make_scheduler):
    """Every call of every stage, with exactly its tokens, as the endpoint counts them; scheduled or not."""
    jobs = small(app)
    for scheduler in (None, make_scheduler(2)):
        backend.reset()
        for job, made in zip(jobs, replayed(backend, jobs, scheduler), strict=True):
            assert Counter((one.stage, one.prompt_tokens, one.output_tokens) for one in made) == calls_of(job)
        seen = backend.statistics()
        calls = [call for job in jobs for call in job.llm_calls()]
        assert seen["served"] == len(calls)
        assert seen["output_tokens"] == sum(call.output_tokens for call in calls)
        assert seen["prompt_tokens"] == sum(call.prompt_tokens for call in calls)
        if scheduler is not None:
            assert seen["peak_in_flight"] <= 2
            assert scheduler.statistics().granted == len(calls)


def test_the_scheduler_sees_the_recorded_stages(backend, make_scheduler):
    """What it learns of a job has the recorded stages, as often as they were run."""
    scheduler = make_scheduler(4)
    jobs = small("web_search", 2)
    replayed(backend, jobs, scheduler)
    (known,) = scheduler.profile.applications.values()
    assert known.jobs == len(jobs)
    assert set(known.nodes) == {"think", "use_tool"}


def test_the_scheduler_is_told_the_tools(backend, make_scheduler):
    """Every tool that was recorded is in what it learns, and no other."""
    scheduler = make_scheduler(4)
    jobs = small("task_automation", 2)
    replayed(backend, jobs, scheduler)
    (known,) = scheduler.profile.applications.values()
    seen = [part for outcome in known.outcomes for stage in outcome.stages for part in stage.parts]
    assert {part.tool for part in seen} == {stage.tool for job in jobs for stage in job.stages}


@pytest.mark.parametrize("app", APPLICATIONS)
def test_one_template_for_all_jobs(app):
    """The graph shows the scheduler the template of the recorded jobs, whichever of them it will run."""
    jobs = generate(app, 40, 0)
    template = template_of(app, jobs)
    graph = graph_of(app, jobs, Calls(ChatOpenAI(model="m", api_key="none"), EmbeddedLengths()))
    seen = compile_graph(graph)
    assert (seen.name, seen.edges, seen.entries) == (app, template.edges, template.entries)
    assert seen.fingerprint == template.fingerprint
    assert {(node.path, node.kind, node.calls_llm) for node in seen.nodes} == {
        (node.path, node.kind, node.calls_llm) for node in template.nodes
    }
    assert {node.planned_by for node in template.nodes} <= {node.planned_by for node in seen.nodes}
    with Scheduler(1) as scheduler:
        assert application_of(schedule(graph, scheduler)) == application_of(graph) == seen


@pytest.mark.parametrize("app", APPLICATIONS)
def test_scripts_keep_to_the_dependencies(app):
    """Superstep by superstep, each stage is run in full, once, after all that it waits for."""
    for job in generate(app, 20, 2):
        script = Script.of(job)
        done, now, steps = [], script.begin(), 0
        while now:
            assert all(dep in done for run in now for dep in run.stage.deps)
            assert len({(run.index, run.number) for run in now}) == len(now)
            for index in {run.index for run in now}:
                assert sum(run.index == index for run in now) == runs_of(job.stages[index])
            done += {run.index for run in now}
            now, steps = [after for run in now for after in run.next()], steps + 1
        assert sorted(done) == list(range(len(job.stages)))
        assert steps == script.supersteps == max(levels_of(job)) + 1


def test_the_simulated_job_waits_like_the_graph():
    """Every stage waits for all of the superstep before; nothing else changes, least of all in a chain."""
    (job,) = generate("code_generation", 1, 0)
    assert in_supersteps(job) == job
    for job in generate("llm_compiler", 10, 0):
        barred = in_supersteps(job)
        levels = levels_of(barred)
        assert sorted(levels) == sorted(levels_of(job))
        assert Counter(stage.name for stage in barred.stages) == Counter(stage.name for stage in job.stages)
        assert barred.work_s == pytest.approx(job.work_s)
        for stage, level in zip(barred.stages, levels, strict=True):
            assert list(stage.deps) == [at for at, other in enumerate(levels) if other == level - 1]


def llm(name, deps=(), calls=((8, 3),)):
    return EndedStage(name=name, kind="llm", deps=deps, calls=tuple(EndedCall(*call, None) for call in calls))


def test_odd_jobs(backend):
    """Names that nodes cannot have, stages without calls, tools with several, no tokens, no stages."""
    tool = EndedStage(
        name="a|b", kind="tool", deps=(0,), calls=(EndedCall(None, None, 0.001), EndedCall(None, None, 0.0))
    )
    stages = (
        llm("a:b"),
        tool,
        llm("__start__", (0, 1), ((None, 2), (4, 0))),
        llm("replay", (2,), ()),
        llm("a:b", (3,)),
    )
    jobs = [
        replayable(EndedJob(id="one", app="app", jct_s=None, stages=stages)),
        EndedJob(id="two", app="app", jct_s=None, stages=()),
    ]
    names = [stage.name for stage in jobs[0].stages]
    assert names == ["a%3ab", "a%7cb", "%__start__", "replay", "a%3ab"]
    first, second = replayed(backend, jobs)
    assert Counter((one.stage, one.prompt_tokens, one.output_tokens) for one in first) == calls_of(jobs[0])
    assert second == []


def test_names_stay_apart():
    """Different stages are different nodes."""
    odd = ["", "%", "__start__", "__end__", "a:b", "a|b", "a/b", "a%3ab", "%__start__", "a"]
    assert len({node_name(name) for name in odd}) == len(odd)


def test_what_was_not_recorded_cannot_be_replayed():
    """One line that names the job and the stage."""
    with pytest.raises(InvalidDataError, match="job 'j': the output tokens of a call of 'ask' were not"):
        replayable(EndedJob(id="j", app="app", jct_s=None, stages=(llm("ask", (), ((5, None),)),)))
