"""A span for each call: where it hangs, when it ends, and what it tells."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from support.openai_server import openai_server
from support.seam import taken, until

from llmsched_langgraph import (
    Backend,
    CallCancelledError,
    OverloadedError,
    QueueTimeoutError,
    SchedulerClosedError,
    schedule,
)
from llmsched_langgraph.testing import PlainModel, VirtualClock

otel_trace = pytest.importorskip("opentelemetry.trace")
exporting = pytest.importorskip("opentelemetry.sdk.trace.export")

WAIT_S = "gen_ai.latency.time_in_queue"


def seconds(span):
    return (span.end_time - span.start_time) / 1e9


def events(span):
    return [event.name for event in span.events]


def waiting(scheduler, spawn, **settings):
    """A call that waits in a thread; returns its future."""

    def call():
        with scheduler.slot(**settings):
            pass

    before = scheduler.statistics().waiting
    future = spawn(contextvars.copy_context().run, call)
    until(lambda: scheduler.statistics().waiting == before + 1)
    return future


# -- what a span tells --------------------------------------------------------------------


def test_a_call_that_waits(make_scheduler, exports, spawn):
    """Its span has the wait inside it, below the span that was current where the call was made."""
    clock = VirtualClock(1000.0)
    scheduler, tracer = make_scheduler(1, clock=clock), exports.tracers.get_tracer("program")
    with exports.of(scheduler):
        with taken(scheduler), tracer.start_as_current_span("request") as request:
            call = waiting(scheduler, spawn, model="gpt-9", stage="ask", tenant="gold", priority=-2)
            clock.advance(3.0)
        call.result(20)
        free, span = exports.spans()
        (wait,) = exports.spans("llmsched.wait")
    assert free.attributes[WAIT_S] == 0.0
    assert free.attributes["llmsched.reason"] == "free"
    assert span.parent.span_id == request.get_span_context().span_id
    assert wait.parent.span_id == span.context.span_id
    assert span.context.trace_id == wait.context.trace_id == request.get_span_context().trace_id
    assert span.start_time == wait.start_time
    assert seconds(wait) == seconds(span) == 3.0
    assert wait.attributes == {WAIT_S: 3.0, "llmsched.reason": "order"}
    assert events(span) == ["llmsched.granted"]
    assert dict(span.attributes) == {
        "llmsched.backend": "default",
        "llmsched.job": 2,
        "llmsched.priority": -2,
        "llmsched.stage": "ask",
        "llmsched.tenant": "gold",
        "gen_ai.request.model": "gpt-9",
        WAIT_S: 3.0,
        "llmsched.reason": "order",
        "llmsched.attempts": 1,
        "llmsched.outcome": "finished",
    }


def test_names_of_the_conventions():
    """The attributes of the conventions are called as these say."""
    conventions = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    from llmsched_langgraph._observe.spans import MODEL

    assert conventions.GEN_AI_REQUEST_MODEL == MODEL


def graph_of(model):
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile(name="agent")


def test_the_attempts_of_a_call_are_one_span(make_scheduler, exports):
    """A request that is refused and sent again; the tokens are those that the call reports at its end."""
    from langchain_openai import ChatOpenAI

    scheduler = make_scheduler(2)
    with openai_server() as server, exports.of(scheduler):
        model = ChatOpenAI(model="gpt-9", api_key="k", base_url=server.base_url)
        server.refusals.append(500)
        config = {"run_id": "11111111-2222-3333-4444-555555555555"}
        schedule(graph_of(model), scheduler).invoke({"messages": [("user", "?")]}, config)
        scheduler.statistics()
        (span,) = exports.spans()
        calls = exports.prometheus("llmsched_calls_total")
        tokens = exports.prometheus("llmsched_tokens_total")
        pauses = exports.prometheus("llmsched_pauses_total")
    told = dict(span.attributes)
    assert told["llmsched.attempts"] == 2
    assert told["llmsched.outcome"] == "finished"
    assert told["gen_ai.request.model"] == "gpt-9"
    assert (told["llmsched.tokens.input"], told["llmsched.tokens.output"]) == (3, 2)
    assert told["llmsched.application"] == "agent"
    assert told["llmsched.run_id"] == config["run_id"]
    assert told["llmsched.stage"] == "ask"
    assert events(span) == ["llmsched.granted"]  # the first one is the begin of the span
    assert span.status.status_code is otel_trace.StatusCode.UNSET
    assert sorted(dict(labels)["outcome"] for labels in calls) == ["failed", "finished"]
    assert {dict(labels)["direction"]: value for labels, value in tokens.items()} == {"input": 3, "output": 2}
    assert len(pauses) <= 1


def test_a_failed_call(make_scheduler, exports):
    """Its span says so."""
    scheduler = make_scheduler(1)
    with exports.of(scheduler):
        with pytest.raises(ZeroDivisionError), scheduler.slot():
            raise ZeroDivisionError
        (span,) = exports.spans()
    assert span.attributes["llmsched.outcome"] == "failed"
    assert span.status.status_code is otel_trace.StatusCode.ERROR


def test_accounts_are_not_told(make_scheduler, exports):
    """A backend that has limits for each account is one backend, without keys or hashes of them."""
    scheduler = make_scheduler(backends=[Backend("b", 1, per_account=True)])
    with exports.of(scheduler):
        for account in ("key-1", "key-2"):
            with scheduler.slot(account=account):
                pass
        scheduler.statistics()
        text, gauges = exports.text(), exports.prometheus("llmsched_slots_limit")
        told = [span.attributes["llmsched.backend"] for span in exports.spans()]
    assert told == ["b", "b"]
    assert gauges == {(("backend", "b"), ("scheduler", "default")): 2}
    assert "#" not in text.replace("# HELP", "").replace("# TYPE", "")
    assert "key-" not in text


def waits_in_vain(slot):
    with pytest.raises(CallCancelledError):
        slot.acquire()


# -- when it ends -------------------------------------------------------------------------


def test_every_way_out_ends_the_span(make_scheduler, exports, spawn):
    """Timed out, refused, cancelled, collected, closed: what waits leaves no span open."""
    scheduler = make_scheduler(
        backends=[
            Backend("b", 1, models=["m"], max_queued=3),
            Backend("q", 1, models=["q"], queue_timeout_s=0.01),
        ]
    )
    with exports.of(scheduler):
        held, short = scheduler.slot("m"), scheduler.slot("q")
        held.acquire()
        spawn(short.acquire).result(20)  # a thread that waits for itself goes ahead
        with pytest.raises(QueueTimeoutError), scheduler.slot("q"):
            pass
        assert exports.outcomes() == ["withdrawn"]
        dropped = scheduler.slot("m")
        request = threading.Thread(target=waits_in_vain, args=(dropped,))
        request.start()
        until(lambda: scheduler.statistics().waiting == 1)
        dropped.dismiss()
        request.join(20)
        assert exports.outcomes() == ["withdrawn"] * 2
        asyncio.run(cancelled(scheduler))
        assert exports.outcomes() == ["withdrawn"] * 3
        late = [waiting(scheduler, spawn, model="m") for _ in range(3)]
        with pytest.raises(OverloadedError), scheduler.slot("m"):
            pass
        assert exports.outcomes() == ["refused"] + ["withdrawn"] * 3
        scheduler.close()
        for call in late:
            with pytest.raises(SchedulerClosedError):
                call.result(20)
        assert exports.outcomes() == ["refused"] + ["withdrawn"] * 6
        del held
        gc.collect()
        scheduler.statistics()
        assert exports.outcomes() == ["cancelled", "refused"] + ["withdrawn"] * 6
        short.release()
        scheduler.statistics()
        ended = exports.spans()
    assert len(ended) == 9
    assert len(exports.spans("llmsched.wait")) == 6
    refused = [span for span in ended if span.attributes["llmsched.outcome"] == "refused"]
    assert refused[0].status.description == "3 calls wait, and 3 may"


async def cancelled(scheduler):
    """A task that is cancelled while its call waits."""

    async def call():
        async with scheduler.slot("m"):
            pass

    task = asyncio.create_task(call())
    while not scheduler.statistics().waiting:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_call_that_is_collected_while_it_waits(make_scheduler, exports, caplog):
    """Its event loop is gone, so nobody ends it."""
    scheduler, loop = make_scheduler(1), asyncio.new_event_loop()

    async def call():
        async with scheduler.slot():
            pass

    async def begin():
        asyncio.ensure_future(call())  # noqa: RUF006
        while not scheduler.statistics().waiting:
            await asyncio.sleep(0)

    with exports.of(scheduler), taken(scheduler), caplog.at_level(logging.CRITICAL):
        loop.run_until_complete(begin())
        loop.close()
        del loop
        gc.collect()
        scheduler.statistics()
        assert exports.outcomes() == ["withdrawn"]


def test_the_end_of_the_observation_ends_open_spans(make_scheduler, exports):
    """Nobody would hear of the ends of their calls; the calls themselves go on."""
    scheduler = make_scheduler(1)
    with scheduler.slot():
        with exports.of(scheduler):
            slot = scheduler.slot()
            slot._ask(None, True)
        (span,) = exports.spans()
        assert span.attributes["llmsched.reason"] == "forced"
        slot.release()
    assert len(exports.spans()) == 1


# -- where it hangs -----------------------------------------------------------------------


def test_below_the_node_that_calls(make_scheduler, exports):
    """In a graph, with a function that says what the parent is."""
    scheduler, tracer = make_scheduler(1), exports.tracers.get_tracer("program")
    asked = []

    def parent():
        asked.append(threading.get_ident())
        return node[0] if node else None

    node = []
    with exports.of(scheduler, parent=parent), tracer.start_as_current_span("outer") as outer:
        with scheduler.slot():
            pass
        node.append(tracer.start_span("node"))
        with scheduler.slot():
            pass
        node[0].end()
        first, second = exports.spans()
    assert asked == [threading.get_ident()] * 2
    assert first.parent.span_id == outer.get_span_context().span_id
    assert second.parent.span_id == node[0].get_span_context().span_id


def test_beside_the_models_span_of_an_instrumentation(make_scheduler, exports):
    """OpenInference makes no span the current one, but has a function for it."""
    openinference = pytest.importorskip("openinference.instrumentation.langchain")
    scheduler = make_scheduler(1)
    instrumentor = openinference.LangChainInstrumentor()
    instrumentor.instrument(tracer_provider=exports.tracers)
    try:
        with exports.of(scheduler, parent=openinference.get_current_span):
            agent = schedule(graph_of(PlainModel()), scheduler)
            agent.invoke({"messages": [("user", "?")]})
            asyncio.run(agent.ainvoke({"messages": [("user", "?")]}))
            scheduler.statistics()
    finally:
        instrumentor.uninstrument()
    ours, models, nodes = exports.spans(), exports.spans("PlainModel"), exports.spans("ask")
    assert len(ours) == len(models) == len(nodes) == 2
    for own, model, node in zip(ours, models, nodes, strict=True):
        assert own.context.trace_id == model.context.trace_id
        assert own.parent.span_id in (model.context.span_id, node.context.span_id)
        assert model.start_time <= own.start_time <= own.end_time <= model.end_time
