"""What runs really do has its place in what was compiled, for every known graph and each of its runs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from graphs import EACH_RUN
from graphs.fixture import aplay, play

from llmsched_langgraph import Scheduler, compile_graph, schedule
from llmsched_langgraph._core.ending import ended


def recorded(fixture, run, how):
    """The job's record, from a run through the scheduler; none if it made no call."""
    with Scheduler(slots=2) as scheduler:
        graph = schedule(fixture.build(), scheduler)
        if how == "loop":

            async def main():
                asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
                return await aplay(graph, run)

            outcome = asyncio.run(main())
        else:
            outcome = play(graph, run)
        assert fixture.outcome(outcome) == run.outcome
        scheduler.check()
        return [ended(entry.detail) for entry in scheduler._driver.story() if entry.kind == "JobClosed"]


@pytest.mark.parametrize("how", ["thread", "loop"])
@pytest.mark.parametrize(("fixture", "run"), EACH_RUN)
def test_every_stage_run_has_its_place(fixture, run, how):
    """Each node that ran is a stage of the template, or contains some; and every call knows its stage."""
    application = compile_graph(fixture.build())
    stages = {stage.id for stage in application.stages}
    containers = {
        path.rsplit("/", n)[0] for path in application.by_path for n in range(1, path.count("/") + 1)
    }
    records = recorded(fixture, run, how)
    assert bool(records) == bool(run.calls)
    for record in records:
        assert record.fingerprint == application.fingerprint
        for done in record.runs:
            if done.name in application.by_path:
                assert application.stage_id(done.name, done.occurrence) in stages
            elif done.name not in fixture.tasks:  # those stand beside the node that calls them
                around = [done.name.rsplit("/", n)[0] for n in range(1, done.name.count("/") + 1)]
                assert done.name in containers or set(around) & set(application.by_path), done
    asking = [stage for record in records for stage in record.stages if stage.kind == "llm"]
    assert sum(len(stage.calls) for stage in asking) == run.calls
    assert all(stage.run is not None for stage in asking)
