"""A run that has reached a limit stops between two supersteps, with its state whole, and can be resumed."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from support.spending import TWO_CALLS, WHOLE, configured, loop, priced

from llmsched_langgraph import BudgetExceededError, DeadlineExceededError, LLMSchedError, schedule
from llmsched_langgraph.testing import assert_idle

WAYS = ["invoke", "stream", "batch"]
SAVERS = ["none", "memory", "sqlite"]
ROUND = {"n": 1, "log": [0]}, {"n": 2, "log": [0, 1]}
PAUSED_S = 1_000


@asynccontextmanager
async def saver_of(kind, path, *, asynchronous):
    if kind == "none":
        yield None
    elif kind == "memory":
        yield InMemorySaver()
    elif asynchronous:
        async with AsyncSqliteSaver.from_conn_string(str(path / "states.db")) as saver:
            yield saver
    else:
        connection = sqlite3.connect(path / "states.db", check_same_thread=False)
        yield SqliteSaver(connection)
        connection.close()


async def play(graph, way, given, config, *, asynchronous):
    """Return the values that one run shows, and its error if there is one."""
    seen = []
    try:
        if way == "invoke":
            seen = [await graph.ainvoke(given, config) if asynchronous else graph.invoke(given, config)]
        elif way == "batch":
            (answer,) = (
                await graph.abatch([given], [config], return_exceptions=True)
                if asynchronous
                else graph.batch([given], [config], return_exceptions=True)
            )
            if isinstance(answer, Exception):
                raise answer
            seen = [answer]
        elif asynchronous:
            async for step in graph.astream(given, config, stream_mode="values"):
                seen.append(step)
        else:
            for step in graph.stream(given, config, stream_mode="values"):
                seen.append(step)
    except LLMSchedError as error:
        return seen, error
    return seen, None


def error_of(kind):
    return DeadlineExceededError if kind == "deadline" else BudgetExceededError


def jobs(scheduler):
    now = scheduler.statistics()
    return now.jobs_running, now.jobs_ended


@pytest.mark.parametrize("kind", TWO_CALLS)
@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_run_stops_and_goes_on(tmp_path, asynchronous, way, saver, kind):
    """After two calls, again as long as it may not spend more; it ends as if uninterrupted."""
    scheduler, model = priced()
    limit = TWO_CALLS[kind]

    async def story():
        async with saver_of(saver, tmp_path, asynchronous=asynchronous) as checkpointer:
            graph = schedule(loop(model, checkpointer=checkpointer), scheduler)
            seen, error = await play(graph, way, {"n": 0}, configured(limit), asynchronous=asynchronous)
            assert type(error).__name__ == error_of(kind).__name__
            assert isinstance(error, error_of(kind))
            assert model.meter.total == error.spent.calls == 2
            assert (error.spent.tokens, error.spent.slot_s, error.spent.cost) == (30, 2.0, 2.0)
            assert error.overrun.reached == ("deadline_s" if kind == "deadline" else kind,)
            if way == "stream":  # what the last superstep wrote was streamed before the stop
                assert seen[-1] == ROUND[1]
            if checkpointer is None:
                assert "cannot be resumed" in error.cure
                assert jobs(scheduler) == (0, 1)
                return
            assert jobs(scheduler) == (0, 0)  # it is paused
            config = configured(limit)
            state = await graph.aget_state(config) if asynchronous else graph.get_state(config)
            assert state.values == ROUND[1]
            assert [(task.name, task.error, task.interrupts) for task in state.tasks] == [("step", None, ())]
            _, again = await play(graph, way, None, config, asynchronous=asynchronous)
            assert isinstance(again, error_of(kind))
            assert model.meter.total == 2
            scheduler._driver.clock.advance(PAUSED_S)  # a pause is no time of the run
            more = {name: 2 * amount for name, amount in limit.items()} if kind != "deadline" else 2 * limit
            _, later = await play(graph, way, None, configured(more), asynchronous=asynchronous)
            assert isinstance(later, error_of(kind))
            assert (model.meter.total, later.spent.calls) == (4, 4)  # what was spent before counts
            seen, error = await play(graph, way, None, configured(None), asynchronous=asynchronous)
            assert error is None
            assert seen[-1] == WHOLE
            assert jobs(scheduler) == (0, 1)
            assert model.meter.total == WHOLE["n"] - 100

    asyncio.run(story())
    assert_idle(scheduler)
    scheduler.learn()
    ends = [job.end for known in scheduler.profile.applications.values() for job in known.history.jobs]
    assert ends == ([] if saver == "none" else ["done"])


@pytest.mark.parametrize("kind", TWO_CALLS)
@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_run_that_yields(tmp_path, asynchronous, way, saver, kind):
    """It ends normally, with the state so far, and can be resumed."""
    scheduler, model = priced(on_budget="yield")

    async def story():
        async with saver_of(saver, tmp_path, asynchronous=asynchronous) as checkpointer:
            graph = schedule(loop(model, checkpointer=checkpointer), scheduler)
            config = configured(TWO_CALLS[kind])
            seen, error = await play(graph, way, {"n": 0}, config, asynchronous=asynchronous)
            assert (seen[-1], error) == (ROUND[1], None)
            assert model.meter.total == 2
            if checkpointer is None:
                assert jobs(scheduler) == (0, 1)
                return
            assert jobs(scheduler) == (0, 0)
            seen, error = await play(graph, way, None, configured(None), asynchronous=asynchronous)
            assert (seen[-1], error) == (WHOLE, None)
            assert jobs(scheduler) == (0, 1)

    asyncio.run(story())
    assert_idle(scheduler)
