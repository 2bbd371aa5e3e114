"""OpenTelemetry, Prometheus, the statistics and the recording say the same of how long calls waited."""

from __future__ import annotations

import asyncio
import math

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph
from support.observed import by
from support.seam import auntil

from llmsched_langgraph import Backend, OverloadedError, QueueTimeoutError, schedule
from llmsched_langgraph.testing import StreamingModel
from llmsched_langgraph.traces import read_jobs

CONFIG = {"metadata": {"llmsched_tenant": "gold"}}


def graph_of(model, name):
    """A graph whose runs ask the model twice."""

    def ask(state):
        return {"messages": [model.invoke(state["messages"])]}

    async def aask(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    for node in ("first", "second"):
        builder.add_node(node, RunnableLambda(ask, aask))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    return builder.compile(name=name)


async def mixed(scheduler, model, late):
    """Runs that finish, are streamed, are cancelled while they wait, and are refused; one call times out."""
    agent, impatient = (
        schedule(graph_of(model, "agent"), scheduler),
        schedule(graph_of(late, "late"), scheduler),
    )
    asked = {"messages": [("user", "?")]}

    def waits():
        return scheduler.statistics().waiting

    model.meter.gate.clear()
    first = asyncio.create_task(agent.ainvoke(asked, CONFIG))
    await auntil(lambda: model.meter.now == 1)
    finished = [asyncio.create_task(agent.ainvoke(asked, CONFIG)) for _ in range(2)]
    await auntil(lambda: waits() == 2)

    async def stream():
        return [chunk async for chunk, _ in agent.astream(asked, CONFIG, stream_mode="messages")]

    streamed = asyncio.create_task(stream())
    await auntil(lambda: waits() == 3)
    dropped = asyncio.create_task(agent.ainvoke(asked, CONFIG))
    await auntil(lambda: waits() == 4)
    with pytest.raises(OverloadedError):
        await agent.ainvoke(asked, CONFIG)
    dropped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dropped
    late.meter.gate.clear()
    holder = asyncio.create_task(impatient.ainvoke(asked))
    await auntil(lambda: late.meter.now == 1)
    with pytest.raises(QueueTimeoutError):
        await impatient.ainvoke(asked)
    late.meter.gate.set()
    model.meter.gate.set()
    await asyncio.gather(first, *finished, holder)
    assert len(await streamed) > 2


def test_all_waits_agree(make_scheduler, exports, tmp_path):
    """Only waits of calls that got a slot are added up; calls that got none are counted by themselves."""
    file = tmp_path / "jobs.jsonl"
    backends = [
        Backend("b", 1, models=["m"], max_queued=4),
        Backend("late", 1, models=["late"], queue_timeout_s=0.05),
    ]
    scheduler = make_scheduler(backends=backends, record=file)
    with exports.of(scheduler):
        asyncio.run(mixed(scheduler, StreamingModel(model="m"), StreamingModel(model="late")))
        now = scheduler.statistics()
        waits = exports.otel("llmsched.queue.wait")
        shown = exports.prometheus("llmsched_queue_wait_seconds_sum")
        calls, counted = exports.otel("llmsched.calls"), exports.prometheus("llmsched_calls_total")
        withdrawn = exports.prometheus("llmsched_queue_withdrawn_seconds_count")
        jobs = by(exports.prometheus("llmsched_job_duration_seconds_count"), "application", "outcome")
    scheduler.close()
    times = [own for job in read_jobs(file) for stage in job.stages for own in stage.calls]
    recorded_s = sum(own.granted_s - own.asked_s for own in times)
    assert now.waited_s > 0.0
    assert math.isclose(sum(waits.values()), now.waited_s, abs_tol=1e-9)
    assert waits.keys() == shown.keys()
    assert math.isclose(sum(shown.values()), now.waited_s, abs_tol=1e-9)
    assert len(times) == now.granted == 10
    assert math.isclose(recorded_s, now.waited_s, abs_tol=2e-6 * len(times))
    assert calls == counted
    assert by(counted, "outcome") == {"finished": 10, "withdrawn": 2, "refused": 1}
    assert sum(by(counted, "reason").values()) == 13
    assert by(withdrawn, "backend") == {"b": 1, "late": 1}
    assert by(counted, "tenant") == {"gold": 10, "": 3}
    assert jobs == {("agent", "finished"): 4, ("late", "finished"): 1}
    spans = exports.spans()
    assert len(spans) == 13
    told_s = sum(
        span.attributes["gen_ai.latency.time_in_queue"]
        for span in spans
        if span.attributes["llmsched.outcome"] == "finished"
    )
    assert math.isclose(told_s, now.waited_s, abs_tol=1e-9)
