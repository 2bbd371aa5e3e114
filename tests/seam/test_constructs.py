"""LangGraph's and LangChain's constructs, on one slot: no deadlock, and the same result as unscheduled."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import itertools
import operator
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_stream_writer
from langgraph.errors import GraphDrained
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl, Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, TimeoutPolicy, interrupt
from pydantic import BaseModel
from support.seam import assert_unmarked, auntil, in_any_order, modulo_ids

from llmsched_langgraph import QueueTimeoutError, Scheduler, schedule
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph.testing import PlainModel, StreamingModel, SyncOnlyModel

pytestmark = pytest.mark.timeout(20)  # a deadlock is a failure soon

On = Callable[[Any], Any]
CONFIG = {"configurable": {"thread_id": "1"}}


class State(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


def play(scene: Callable[[Any, On], Any], model: Any, on: On) -> Any:
    result = scene(model, on)
    if inspect.isawaitable(result):

        async def main() -> Any:
            return await result

        result = asyncio.run(main())
    return in_any_order(result)


def compare(
    make_scheduler: Callable[..., Scheduler],
    scene: Callable[[Any, On], Any],
    model_class: Callable[[], Any] = PlainModel,
) -> Scheduler:
    """Play a scene bare and then scheduled on one slot, with a fresh model each; they must come to the same.

    Afterwards no job runs, and every request of the model took a slot of its own.
    """
    bare = play(scene, model_class(), lambda graph: graph)
    scheduler, model = make_scheduler(1), model_class()
    assert play(scene, model, lambda graph: schedule(graph, scheduler)) == bare
    assert model.meter.peak == 1
    now = scheduler.statistics()
    assert (now.jobs_running, now.granted, now.over_commitments) == (0, model.meter.total, 0)
    assert_unmarked()
    return scheduler


def asks(model: Any, word: str = "") -> Callable[..., Any]:
    """A coroutine node with one call."""

    async def ask(state: State) -> State:
        return {"answers": [word + (await model.ainvoke("?")).text]}

    return ask


def asks_in_thread(model: Any, word: str = "") -> Callable[..., Any]:
    """A plain node with one call."""

    def ask(state: State) -> State:
        return {"answers": [word + model.invoke("?").text]}

    return ask


KINDS_OF_NODE = pytest.mark.parametrize("asks", [asks, asks_in_thread], ids=["async", "def"])


def run(graph: Any, given: Any, ask: Callable[..., Any], **options: Any) -> Any:
    """Run as its nodes need it; the result or something to await."""
    method = graph.ainvoke if ask is asks else graph.invoke
    return method(given, **options)


def wide(*nodes: Any, width: int = 3, **compiling: Any) -> Any:
    """Each node in turn, the first one `width` times at once."""
    builder = StateGraph(State)
    names = [f"n{i}" for i in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    builder.add_conditional_edges(START, lambda _: [Send("n0", {})] * width, ["n0"])
    for before, after in itertools.pairwise(names):
        builder.add_edge(before, after)
    return builder.compile(**compiling)


# -- graphs in graphs ----------------------------------------------------------------------


@KINDS_OF_NODE
def test_declared_subgraphs_three_deep(make_scheduler, asks):
    """A graph as a node of a graph as a node of a graph, each fanning out, is one job and ends."""

    def scene(model: Any, on: On) -> Any:
        inner = wide(asks(model, "inner "))
        middle = wide(inner, asks(model, "middle "), width=2)
        return run(on(wide(middle, asks(model, "outer "), width=2)), {}, asks)

    assert compare(make_scheduler, scene).statistics().jobs_ended == 1


@pytest.mark.parametrize("inner_scheduled", [False, True])
@pytest.mark.parametrize("own", ["nothing", "thread_id", "checkpointer", "both"])
@KINDS_OF_NODE
def test_graphs_invoked_in_nodes(make_scheduler, asks, own, inner_scheduled):
    """A graph invoked in a node, three deep, with its own thread or checkpointer, is part of the same job."""

    def scene(model: Any, on: On) -> Any:
        saver = InMemorySaver() if own in ("checkpointer", "both") else None

        def config() -> dict[str, Any]:
            return {"configurable": {"thread_id": str(uuid.uuid4())}} if own != "nothing" else {}

        def calls(inner: Any) -> Callable[..., Any]:
            inner = on(inner) if inner_scheduled else inner

            async def acall(state: State) -> State:
                return await inner.ainvoke({}, config())

            def call(state: State) -> State:
                return inner.invoke({}, config())

            return call if asks is asks_in_thread else acall

        inner = wide(asks(model, "inner "), checkpointer=saver)
        middle = wide(calls(inner), width=2, checkpointer=saver)
        outer = wide(calls(middle), asks(model, "outer "), width=2)
        return run(on(outer), {}, asks)

    assert compare(make_scheduler, scene).statistics().jobs_ended == 1


class Scripted(PlainModel):
    """Says what comes next in its script, by how many answers the conversation has; else calls its tool."""

    turns: list[AIMessage] = []

    def _turn(self, messages: Any, result: ChatResult) -> ChatResult:
        turn = self.turns[sum(message.type == "ai" for message in messages)]
        result.generations[0].message = turn.model_copy()
        return result

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._turn(messages, super()._generate(messages, stop, run_manager, **kwargs))

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._turn(messages, await super()._agenerate(messages, stop, run_manager, **kwargs))


def says(text: str) -> AIMessage:
    return AIMessage(text)


def calls_tool(name: str, *arguments: dict[str, Any]) -> AIMessage:
    calls = [
        {"name": name, "args": args, "id": f"{name}{n}", "type": "tool_call"}
        for n, args in enumerate(arguments)
    ]
    return AIMessage("", tool_calls=calls)


@KINDS_OF_NODE
def test_agents_as_tools(make_scheduler, asks):
    """An agent whose tools are agents, called twice at once, ends with the same conversation."""

    def scene(model: Any, on: On) -> Any:
        meter = model.meter
        expert = create_agent(
            Scripted(meter=meter, turns=[calls_tool("look", {"what": "x"}), says("it is x")]), [look]
        )

        @tool("ask_expert")
        def ask_expert(question: str) -> str:
            """Ask."""
            return expert.invoke({"messages": [("user", question)]})["messages"][-1].text

        @tool("ask_expert")
        async def aask_expert(question: str) -> str:
            """Ask."""
            return (await expert.ainvoke({"messages": [("user", question)]}))["messages"][-1].text

        questions = [{"question": "a"}, {"question": "b"}]
        chief = Scripted(meter=meter, turns=[calls_tool("ask_expert", *questions), says("done")])
        agent = create_agent(chief, [ask_expert if asks is asks_in_thread else aask_expert])
        return run(on(agent), {"messages": [("user", "?")]}, asks)

    assert compare(make_scheduler, scene).statistics().granted == 6


@tool
def look(what: str) -> str:
    """Look."""
    return what


@KINDS_OF_NODE
def test_send_inside_subgraphs(make_scheduler, asks):
    """Wide fan-outs inside fanned-out subgraphs share the slot."""

    def scene(model: Any, on: On) -> Any:
        return run(on(wide(wide(asks(model), width=8), width=4)), {}, asks)

    assert compare(make_scheduler, scene).statistics().granted == 32


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_functional(make_scheduler, kind):
    """`@task` in `@entrypoint`, `@task` in `@task`, and an entrypoint in an entrypoint."""

    def scene(model: Any, on: On) -> Any:
        @task
        def ask(n: int) -> str:
            return f"{n} {model.invoke('?').text}"

        @task
        def ask_twice(n: int) -> list[str]:
            return [future.result() for future in (ask(n), ask(n + 1))]

        @entrypoint()
        def inner(n: int) -> list[list[str]]:
            return [future.result() for future in [ask_twice(k) for k in range(n)]]

        @entrypoint()
        def outer(n: int) -> Any:
            return [inner.invoke(n), ask(0).result()]

        @task
        async def aask(n: int) -> str:
            return f"{n} {(await model.ainvoke('?')).text}"

        @task
        async def aask_twice(n: int) -> list[str]:
            return list(await asyncio.gather(aask(n), aask(n + 1)))

        @entrypoint()
        async def ainner(n: int) -> list[list[str]]:
            return list(await asyncio.gather(*(aask_twice(k) for k in range(n))))

        @entrypoint()
        async def aouter(n: int) -> Any:
            return [await ainner.ainvoke(n), await aask(0)]

        return on(outer).invoke(3) if kind == "sync" else on(aouter).ainvoke(3)

    assert compare(make_scheduler, scene).statistics().granted == 7


@KINDS_OF_NODE
def test_deferred_nodes(make_scheduler, asks):
    """A deferred node waits for a branch that waits for the slot."""

    def scene(model: Any, on: On) -> Any:
        builder = StateGraph(State)
        for name in ("a", "b", "b2"):
            builder.add_node(name, asks(model, name))
        builder.add_node("end", asks(model, "end"), defer=True)
        builder.add_edge(START, "a")
        builder.add_edge(START, "b")
        builder.add_edge("b", "b2")
        builder.add_edge("a", "end")
        builder.add_edge("b2", "end")
        return run(on(builder.compile()), {}, asks)

    compare(make_scheduler, scene)


@pytest.mark.parametrize("inner_scheduled", [False, True])
@KINDS_OF_NODE
def test_command_to_the_parent(make_scheduler, asks, inner_scheduled):
    """A subgraph that sends its parent elsewhere does so, and that is no failure of the job."""

    def scene(model: Any, on: On) -> Any:
        async def aleave(state: State) -> Command:
            text = (await model.ainvoke("?")).text
            return Command(goto="elsewhere", graph=Command.PARENT, update={"answers": [text]})

        def leave(state: State) -> Command:
            return Command(
                goto="elsewhere", graph=Command.PARENT, update={"answers": [model.invoke("?").text]}
            )

        inner = StateGraph(State)
        inner.add_node("leave", leave if asks is asks_in_thread else aleave)
        inner.add_edge(START, "leave")
        compiled = inner.compile()
        outer = StateGraph(State)
        outer.add_node("sub", on(compiled) if inner_scheduled else compiled)
        outer.add_node("elsewhere", asks(model, "elsewhere "))
        outer.add_edge(START, "sub")
        return run(on(outer.compile()), {}, asks)

    scheduler = compare(make_scheduler, scene)
    assert scheduler.statistics().jobs_ended == 1


@KINDS_OF_NODE
def test_drain(make_scheduler, asks):
    """A run that is asked to drain stops after the step, holds nothing, and can be resumed."""

    def scene(model: Any, on: On) -> Any:
        control = RunControl()

        async def adrain(state: State) -> State:
            control.request_drain()
            return await asks(model)(state)

        def drain(state: State) -> State:
            control.request_drain()
            return asks(model)(state)

        builder = StateGraph(State)
        builder.add_node("drain", drain if asks is asks_in_thread else adrain)
        builder.add_node("after", asks(model, "after "))
        builder.add_edge(START, "drain")
        builder.add_edge("drain", "after")
        graph = on(builder.compile(checkpointer=InMemorySaver()))
        if asks is asks_in_thread:
            with pytest.raises(GraphDrained):
                graph.invoke({}, CONFIG, control=control)
            return graph.invoke(None, CONFIG)

        async def main() -> Any:
            with pytest.raises(GraphDrained):
                await graph.ainvoke({}, CONFIG, control=control)
            return await graph.ainvoke(None, CONFIG)

        return main()

    compare(make_scheduler, scene)


@pytest.mark.parametrize("which", ["inner scheduled", "outer scheduled", "both"])
@KINDS_OF_NODE
def test_scheduled_and_unscheduled_graphs_mixed(make_scheduler, asks, which):
    """A scheduled graph as a node of an unscheduled one is a job at each run of it; and the reverse."""

    def scene(model: Any, on: On) -> Any:
        inner = wide(asks(model, "inner "))
        outer = wide(inner if which == "outer scheduled" else on(inner), width=2)
        return run(outer if which == "inner scheduled" else on(outer), {}, asks)

    scheduler = compare(make_scheduler, scene)
    assert scheduler.statistics().jobs_ended == (2 if which == "inner scheduled" else 1)


@KINDS_OF_NODE
def test_two_schedulers_nested(make_scheduler, asks):
    """A graph scheduled elsewhere takes its slots there; what is around it, and comes after it, here."""
    elsewhere = make_scheduler(1)

    def scene(model: Any, on: On) -> Any:
        inner = wide(asks(model, "inner "))
        if on(inner) is not inner:  # not in the bare scene
            inner = schedule(inner, elsewhere)
        return run(on(wide(asks(model, "before "), inner, asks(model, "after "))), {}, asks)

    bare = play(scene, PlainModel(), lambda graph: graph)
    here, model = make_scheduler(1), PlainModel()
    assert play(scene, model, lambda graph: schedule(graph, here)) == bare
    assert model.meter.peak <= 2
    assert [s.statistics().granted for s in (here, elsewhere)] == [4, 3]
    assert [s.statistics().jobs_ended for s in (here, elsewhere)] == [1, 1]


def test_interrupt_in_a_scheduled_subgraph_of_an_unscheduled_graph(make_scheduler):
    """An interrupt goes through a scheduled subgraph to its parent, and the resumption back into it."""

    def scene(model: Any, on: On) -> Any:
        async def ask(state: State) -> State:
            return {"answers": [(await model.ainvoke("?")).text + interrupt("sure?")]}

        inner = on(StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile())
        outer = StateGraph(State).add_node("sub", inner).add_edge(START, "sub")
        graph = outer.compile(checkpointer=InMemorySaver())

        async def main() -> Any:
            paused = await graph.ainvoke({}, CONFIG)
            return [paused, await graph.ainvoke(Command(resume=" indeed"), CONFIG)]

        return main()

    compare(make_scheduler, scene)


# -- models in other clothes ---------------------------------------------------------------


class Answer(BaseModel):
    """Has a text."""

    text: str


def failing(model: Any) -> Any:
    """Another model on the same meter, which always fails."""

    class Failing(type(model)):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            super()._generate(*args, **kwargs)
            raise ZeroDivisionError

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            await super()._agenerate(*args, **kwargs)
            raise ZeroDivisionError

    return Failing(meter=model.meter)


def failing_once(model: Any) -> Any:
    """Another model on the same meter, which fails the first time."""
    failed: list[bool] = []

    class FailingOnce(type(model)):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            result = super()._generate(*args, **kwargs)
            if not failed:
                failed.append(True)
                raise ZeroDivisionError
            return result

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            result = await super()._agenerate(*args, **kwargs)
            if not failed:
                failed.append(True)
                raise ZeroDivisionError
            return result

    return FailingOnce(meter=model.meter)


def structured(model: Any) -> Any:
    answer = calls_tool("Answer", {"text": "yes"})
    return Scripted(meter=model.meter, turns=[answer]).with_structured_output(Answer)


CLOTHES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    # How the model is dressed, and how its answer is read.
    "with_fallbacks": (lambda m: failing(m).with_fallbacks([m]), lambda a: a.text),
    "with_retry": (
        lambda m: failing_once(m).with_retry(wait_exponential_jitter=False, stop_after_attempt=3),
        lambda a: a.text,
    ),
    "with_structured_output": (structured, lambda a: a.text),
    "bind_tools": (lambda m: m.bind_tools([look]), lambda a: a.text),
    "bind": (lambda m: m.bind(stop=["x"]), lambda a: a.text),
    "with_config": (lambda m: m.with_config(tags=["t"]), lambda a: a.text),
    "piped": (lambda m: m | RunnableLambda(lambda message: message.text) | m, lambda a: a.text),
    "in parallel": (lambda m: RunnableParallel(a=m, b=m), lambda a: a["a"].text + a["b"].text),
}


@pytest.mark.parametrize("clothes", CLOTHES)
@KINDS_OF_NODE
def test_models_in_other_clothes(make_scheduler, asks, clothes):
    """Runnables made of a model take a slot for each request, and none while they back off."""
    dress, read = CLOTHES[clothes]

    def scene(model: Any, on: On) -> Any:
        dressed = dress(model)

        def node(state: State) -> State:
            return {"answers": [read(dressed.invoke("?"))]}

        async def anode(state: State) -> State:
            return {"answers": [read(await dressed.ainvoke("?"))]}

        return run(on(wide(node if asks is asks_in_thread else anode, width=2)), {}, asks)

    compare(make_scheduler, scene)


@pytest.mark.parametrize("how", ["batch", "abatch", "generate", "agenerate", "stream", "astream"])
def test_many_requests_in_one_node(make_scheduler, how):
    """`batch`, `abatch`, `generate([a, b])` and streams in a node, and that node twice at once."""

    def scene(model: Any, on: On) -> Any:
        two = [[HumanMessage("a")], [HumanMessage("b")]]

        def node(state: State) -> State:
            match how:
                case "batch":
                    return {"answers": [answer.text for answer in model.batch(["a", "b", "c"])]}
                case "generate":
                    return {"answers": [part[0].text for part in model.generate(two).generations]}
            return {"answers": ["".join(chunk.text for chunk in model.stream("?"))]}

        async def anode(state: State) -> State:
            match how:
                case "abatch":
                    return {"answers": [answer.text for answer in await model.abatch(["a", "b", "c"])]}
                case "agenerate":
                    return {"answers": [part[0].text for part in (await model.agenerate(two)).generations]}
            return {"answers": ["".join([chunk.text async for chunk in model.astream("?")])]}

        if how.startswith("a"):
            return on(wide(anode, width=2)).ainvoke({})
        return on(wide(node, width=2)).invoke({})

    compare(make_scheduler, scene, StreamingModel)


class Wrapper(BaseChatModel):
    """A chat model that asks other ones, in turn and then at once."""

    inner: Any

    @property
    def _llm_type(self) -> str:
        return "wrapper"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text = self.inner.invoke(messages).text + self.inner.invoke(messages).text
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        text = (await self.inner.ainvoke(messages)).text + (await self.inner.ainvoke(messages)).text
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class StreamingWrapper(Wrapper):
    """The same, which also streams what the other one streams."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for chunk in self.inner.stream(messages):
            yield ChatGenerationChunk(message=AIMessageChunk(chunk.text))

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        async for chunk in self.inner.astream(messages):
            yield ChatGenerationChunk(message=AIMessageChunk(chunk.text))


@pytest.mark.parametrize("mode", ["values", "messages"])
@pytest.mark.parametrize("wrapper", [Wrapper, StreamingWrapper])
@KINDS_OF_NODE
def test_models_that_call_models(make_scheduler, asks, wrapper, mode):
    """Each request of the innermost model holds a slot; the calls around it hold none meanwhile."""

    def scene(model: Any, on: On) -> Any:
        graph = on(wide(asks(wrapper(inner=wrapper(inner=model))), width=2))
        if asks is asks_in_thread:
            return list(graph.stream({}, stream_mode=mode))

        async def main() -> Any:
            return [step async for step in graph.astream({}, stream_mode=mode)]

        return main()

    bare = play(scene, StreamingModel(), lambda graph: graph)
    scheduler, model = make_scheduler(1), StreamingModel()
    assert play(scene, model, lambda graph: schedule(graph, scheduler)) == bare
    now = scheduler.statistics()
    assert (model.meter.peak, now.peak, now.over_commitments) == (1, 1, 0)
    assert now.granted == model.meter.total


@pytest.fixture
def llm_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@KINDS_OF_NODE
def test_cached_answers_take_no_slot(make_scheduler, llm_cache, asks):
    """With LangChain's cache, only the first run of two takes slots."""
    scheduler, model = make_scheduler(1), PlainModel()
    graph = schedule(wide(asks(model), width=1), scheduler)
    for _ in range(2):
        result = run(graph, {}, asks)
        if inspect.isawaitable(result):

            async def main(result: Any = result) -> Any:
                return await result

            result = asyncio.run(main())
        assert result["answers"] == ["yes"]
    assert scheduler.statistics().granted == model.meter.total == 1


@KINDS_OF_NODE
def test_models_built_in_nodes_of_classes_defined_later(make_scheduler, asks):
    """A model that is built in the node, of a class that is defined there, is gated like any other."""

    def scene(model: Any, on: On) -> Any:
        def late(state: State) -> Any:
            class Late(PlainModel):
                def _generate(self, messages, stop=None, run_manager=None, **kwargs):
                    return super()._generate(messages, stop, run_manager, **kwargs)

            return asks(Late(meter=model.meter))(state)

        async def alate(state: State) -> Any:
            return await late(state)

        return run(on(wide(late if asks is asks_in_thread else alate)), {}, asks)

    compare(make_scheduler, scene)


class Hooks:
    """Provider hooks in a class that is no chat model itself."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        with self.meter:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(self.meter.respond()))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        with self.meter:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(await self.meter.arespond()))])


class MixedIn(Hooks, SyncOnlyModel):
    """A chat model that has its hooks from a mixin."""


@KINDS_OF_NODE
def test_hooks_from_a_mixin(make_scheduler, asks):
    """A chat model whose hooks come from a class that is no chat model takes slots too."""

    def scene(model: Any, on: On) -> Any:
        return run(on(wide(asks(model))), {}, asks)

    compare(make_scheduler, scene, MixedIn)


@pytest.mark.parametrize("context", ["copied", "empty"])
def test_models_called_in_threads_of_the_user(make_scheduler, context):
    """A thread with a copy of the node's context takes slots, and so does one without."""
    scheduler, model = make_scheduler(1), PlainModel()

    def node(state: State) -> State:
        answers: list[str] = []

        def ask() -> None:
            answers.append(model.invoke("?").text)

        threads = [
            threading.Thread(target=contextvars.copy_context().run if context == "copied" else ask, args=args)
            for args in ([(ask,)] * 4 if context == "copied" else [()] * 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"answers": answers}

    assert schedule(wide(node, width=1), scheduler).invoke({})["answers"] == ["yes"] * 4
    assert (scheduler.statistics().granted, model.meter.peak) == (4, 1)


# -- streams and timeouts inside nodes -----------------------------------------------------


@KINDS_OF_NODE
def test_a_call_while_streaming_from_another(make_scheduler, asks):
    """A node that asks one model for each piece that it streams from another does not wait for itself."""

    def scene(model: Any, on: On) -> Any:
        async def anode(state: State) -> State:
            return {"answers": [(await model.ainvoke("?")).text async for _ in model.astream("?")]}

        def node(state: State) -> State:
            return {"answers": [model.invoke("?").text for _ in model.stream("?")]}

        return run(on(wide(node if asks is asks_in_thread else anode, width=1)), {}, asks)

    bare = play(scene, StreamingModel(), lambda graph: graph)
    scheduler = make_scheduler(1, queue_timeout_s=1)  # so that it fails instead of hanging
    try:
        outcome = play(scene, StreamingModel(), lambda graph: schedule(graph, scheduler))
    except QueueTimeoutError:
        outcome = "it waits for a slot that it holds itself"
    assert outcome == bare


@pytest.mark.parametrize("how", ["nested graph", "nested node with its own timeout", "thread"])
def test_waiting_is_not_idling(make_scheduler, how):
    """A call that waits in a nested graph or in a thread of a node does not use up its idle timeout."""
    scheduler, model = make_scheduler(1), PlainModel()

    async def to_thread(state: State) -> State:
        return {"answers": [await asyncio.to_thread(lambda: model.invoke("?").text)]}

    inner = StateGraph(State)
    own = {"timeout": TimeoutPolicy(idle_timeout=0.3)} if how == "nested node with its own timeout" else {}
    inner.add_node("ask", asks(model), **own)
    inner.add_edge(START, "ask")
    compiled = inner.compile()

    async def call_inner(state: State) -> State:
        return await compiled.ainvoke({})

    outer = StateGraph(State)
    node = to_thread if how == "thread" else call_inner
    outer.add_node("node", node, timeout=TimeoutPolicy(idle_timeout=0.3))
    outer.add_edge(START, "node")
    graph = schedule(outer.compile(), scheduler)
    slot = scheduler.slot()
    slot.acquire()

    async def main() -> Any:
        running = asyncio.create_task(graph.ainvoke({}))
        await auntil(lambda: scheduler.statistics().waiting == 1)
        await asyncio.wait([running], timeout=0.5)
        slot.release()
        return await running

    try:
        assert asyncio.run(main())["answers"] == ["yes"]
    finally:
        slot.release()


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("ending", ["cancel", "give up", "raise", "break", "drop"])
def test_streams_that_end_half_way_inside_a_node(make_scheduler, ending):
    """A stream that is cancelled, timed out, failed or left after its first piece gives its slot back."""
    scheduler = make_scheduler(1)
    came = asyncio.Event()

    class HalfWay(StreamingModel):
        async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
            with self.meter:
                yield ChatGenerationChunk(message=AIMessageChunk("ye"))
                if ending == "raise":
                    raise ZeroDivisionError
                if ending in ("cancel", "give up"):
                    came.set()
                    await asyncio.Event().wait()

    model = HalfWay()

    async def node(state: State) -> State:
        stream = model.astream("?")
        match ending:
            case "give up":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(drain(stream), 0.01)
            case "raise":
                with pytest.raises(ZeroDivisionError):
                    await drain(stream)
            case "break":
                async for _ in stream:
                    break
                await stream.aclose()
            case "drop":
                await anext(stream)
                del stream
                await auntil(lambda: scheduler.statistics().holding == 0)
            case "cancel":
                await drain(stream)
        assert scheduler.statistics().holding == 0
        return {"answers": [(await PlainModel(meter=model.meter).ainvoke("?")).text]}

    graph = schedule(wide(node, width=1), scheduler)

    async def main() -> Any:
        running = asyncio.create_task(graph.ainvoke({}))
        if ending == "cancel":
            await came.wait()
            running.cancel()
        return (await asyncio.gather(running, return_exceptions=True))[0]

    result = asyncio.run(main())
    if ending == "cancel":
        assert isinstance(result, asyncio.CancelledError)
    else:
        assert result["answers"] == ["yes"]
    assert scheduler.statistics().jobs_running == 0


# -- persistence, copies, options ----------------------------------------------------------


@pytest.mark.parametrize("saver", ["memory", "sqlite"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@KINDS_OF_NODE
def test_durability(make_scheduler, asks, durability, saver):
    """Every durability mode saves the same checkpoints."""

    def scene(model: Any, on: On) -> Any:
        graph = wide(asks(model), asks(model, "then "))

        def history() -> Any:
            with checkpointer(saver) as its:
                saved = on(graph.copy(update={"checkpointer": its}))
                saved.invoke({}, CONFIG, durability=durability)
                return [(state.values, state.next) for state in saved.get_state_history(CONFIG)]

        async def ahistory() -> Any:
            async with acheckpointer(saver) as its:
                saved = on(graph.copy(update={"checkpointer": its}))
                await saved.ainvoke({}, CONFIG, durability=durability)
                return [(state.values, state.next) async for state in saved.aget_state_history(CONFIG)]

        return history() if asks is asks_in_thread else ahistory()

    compare(make_scheduler, scene)


def checkpointer(saver: str) -> Any:
    if saver == "memory":
        return nullcontext(InMemorySaver())
    return SqliteSaver.from_conn_string(":memory:")


def acheckpointer(saver: str) -> Any:
    if saver == "memory":
        return nullcontext(InMemorySaver())
    return AsyncSqliteSaver.from_conn_string(":memory:")


def test_store_and_context(make_scheduler):
    """Nodes of a scheduled graph have its store and its context."""

    class Context(TypedDict):
        name: str

    def scene(model: Any, on: On) -> Any:
        async def node(state: State, store: BaseStore, runtime: Runtime[Context]) -> State:
            text = (await model.ainvoke("?")).text
            await store.aput(("names",), runtime.context["name"], {"text": text})
            return {"answers": [item.value["text"] for item in await store.asearch(("names",))]}

        builder = StateGraph(State, context_schema=Context).add_node("node", node).add_edge(START, "node")
        store = InMemoryStore()
        graph = on(builder.compile(store=store))

        async def main() -> Any:
            result = await graph.ainvoke({}, context={"name": "Ada"})
            return [result, [item.key for item in store.search(("names",))]]

        return main()

    compare(make_scheduler, scene)


@KINDS_OF_NODE
def test_many_stream_modes_with_subgraphs(make_scheduler, asks):
    """A list of stream modes with `subgraphs=True` tells the same, modulo ids."""
    modes = ["values", "updates", "messages", "custom", "tasks", "checkpoints"]

    def scene(model: Any, on: On) -> Any:
        graph = wide(wide(asks(model), width=2), asks(model), width=2, checkpointer=InMemorySaver())
        if asks is asks_in_thread:
            return list(on(graph).stream({}, CONFIG, stream_mode=modes, subgraphs=True))

        async def main() -> Any:
            steps = []
            async for step in on(graph).astream({}, CONFIG, stream_mode=modes, subgraphs=True):
                assert_unmarked()
                steps.append(step)
            return steps

        return main()

    compare(make_scheduler, scene, StreamingModel)


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
@KINDS_OF_NODE
def test_events_of_version_3(make_scheduler, asks):
    """The newer event streams end in the same output, and take slots."""

    def scene(model: Any, on: On) -> Any:
        graph = on(wide(asks(model), width=2))
        if asks is asks_in_thread:
            events = graph.stream_events({}, version="v3")
            return [events.output]

        async def main() -> Any:
            events = await graph.astream_events({}, version="v3")
            return [await events.output()]

        return main()

    compare(make_scheduler, scene, StreamingModel)


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
@pytest.mark.parametrize("how", ["copy", "with_config", "transform", "astream_log"])
def test_other_ways_in(make_scheduler, how):
    """Copies and the remaining methods of a runnable, compared as well."""

    def scene(model: Any, on: On) -> Any:
        graph = on(wide(asks(model), asks(model)))

        async def main() -> Any:
            match how:
                case "copy":
                    return await graph.copy(update={"checkpointer": InMemorySaver()}).ainvoke({}, CONFIG)
                case "with_config":
                    tagged = graph.with_config(tags=["tagged"], recursion_limit=9)
                    return [await tagged.ainvoke({}), tagged.config["tags"]]
                case "transform":

                    async def given() -> Any:
                        yield {}

                    return [step async for step in graph.atransform(given())]
                case "astream_log":
                    return len([patch async for patch in graph.astream_log({})]) > 1

        return main()

    compare(make_scheduler, scene)


def test_state_methods(make_scheduler):
    """`get_state`, `update_state` and going on from there, with nothing of ours in any config."""

    def scene(model: Any, on: On) -> Any:
        graph = wide(asks_in_thread(model), asks_in_thread(model, "then "), checkpointer=InMemorySaver())
        graph = on(graph)
        paused = graph.invoke({}, CONFIG, interrupt_before=["n1"])
        before = graph.get_state(CONFIG)
        graph.update_state(CONFIG, {"answers": ["edited"]})
        resumed = graph.invoke(None, CONFIG)
        after = graph.get_state(CONFIG)
        assert graph.config is None or "configurable" not in graph.config
        return [paused, resumed] + [[s.values, s.next, s.config, s.metadata] for s in (before, after)]

    compare(make_scheduler, scene)


def test_nothing_is_written_to_the_graph(make_scheduler):
    """Scheduling and running change neither the graph that was given nor the config of either."""
    bare = wide(asks(PlainModel())).with_config(tags=["mine"], configurable={"mine": 1})
    before = dict(vars(bare)), modulo_ids(bare.config)
    graph = schedule(bare, make_scheduler(1))
    config: dict[str, Any] = {"configurable": {"thread_id": "1"}}
    asyncio.run(graph.ainvoke({}, config))
    assert config == {"configurable": {"thread_id": "1"}}
    assert (dict(vars(bare)), modulo_ids(bare.config)) == before
    assert modulo_ids(graph.config) == before[1]


# -- many threads, many loops, and the consumer --------------------------------------------


def test_one_graph_from_eight_threads(make_scheduler):
    """A graph and a scheduler used from eight threads at once give each its result."""
    scheduler, model = make_scheduler(2), PlainModel()
    graph = schedule(wide(asks_in_thread(model)), scheduler)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: graph.invoke({})["answers"], range(32)))
    assert results == [["yes"] * 3] * 32
    assert model.meter.peak <= 2
    assert scheduler.statistics().granted == model.meter.total == 96
    assert scheduler.statistics().jobs_running == 0


def test_one_graph_on_many_loops(make_scheduler):
    """Event loops in threads of their own share the slot."""
    scheduler, model = make_scheduler(1), StreamingModel()
    graph = schedule(wide(asks(model)), scheduler)

    async def main() -> list[Any]:
        return await asyncio.gather(*(graph.ainvoke({}) for _ in range(3)))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: asyncio.run(main()), range(4)))
    assert [state["answers"] for states in results for state in states] == [["yes"] * 3] * 12
    assert model.meter.peak == 1
    assert scheduler.statistics().jobs_running == 0


@pytest.mark.parametrize("kind", ["stream", "astream"])
def test_the_consumer_is_no_part_of_the_run(make_scheduler, kind):
    """Between steps the consumer's context is unmarked, and so are the tasks and threads it starts."""
    scheduler, model = make_scheduler(1), PlainModel()
    graph = schedule(wide(asks(model), asks(model)), scheduler)
    threaded = schedule(wide(asks_in_thread(model), asks_in_thread(model)), scheduler)

    async def bystander() -> None:
        assert_unmarked()
        await PlainModel().ainvoke("?")

    async def main() -> None:
        async for _ in graph.astream({}):
            assert_unmarked()
            await asyncio.create_task(bystander())
            await asyncio.to_thread(assert_unmarked)
        assert_unmarked()

    if kind == "astream":
        asyncio.run(main())
    else:
        for _ in threaded.stream({}):
            assert_unmarked()
            contextvars.copy_context().run(assert_unmarked)
        assert_unmarked()
    assert scheduler.statistics().granted == model.meter.total == 4


def test_a_consumer_that_is_itself_in_a_run_stays_in_its_own(make_scheduler):
    """A node that consumes a stream of a graph on another scheduler stays part of its own run in between."""
    here, there, model = make_scheduler(1), make_scheduler(1), PlainModel()
    inner = schedule(wide(asks(model)), there)

    async def node(state: State) -> State:
        mine = current_run()
        assert mine is not None
        async for _ in inner.astream({}):
            assert current_run() is mine
        return {"answers": [(await model.ainvoke("?")).text]}

    asyncio.run(schedule(wide(node, width=1), here).ainvoke({}))
    assert [s.statistics().granted for s in (here, there)] == [1, 3]


def test_steps_pulled_by_different_tasks(make_scheduler):
    """Each step may be asked for by another task, as servers do; none of them is marked afterwards."""
    scheduler, model = make_scheduler(1), PlainModel()
    graph = schedule(wide(asks(model), asks(model)), scheduler)

    async def main() -> int:
        stream, steps = graph.astream({}, stream_mode="updates"), 0
        while await asyncio.create_task(anext(stream, None)) is not None:
            assert_unmarked()
            steps += 1
        return steps

    assert asyncio.run(main()) == 4
    assert scheduler.statistics().jobs_running == 0


def test_an_error_thrown_into_a_stream(make_scheduler):
    """An error thrown into a stream comes out of it again, and its run is over."""
    scheduler = make_scheduler(1)
    stream = schedule(wide(asks_in_thread(PlainModel())), scheduler).stream({})
    next(stream)
    with pytest.raises(ZeroDivisionError):
        stream.throw(ZeroDivisionError)
    assert scheduler.statistics().jobs_running == 0


def test_streams_that_were_never_started(make_scheduler):
    """An iterator that is dropped before its first step is no job."""
    scheduler = make_scheduler(1)
    graph = schedule(wide(asks_in_thread(PlainModel())), scheduler)
    with closing(graph.stream({})):
        pass

    async def main() -> None:
        stream = graph.astream({})
        await stream.aclose()

    asyncio.run(main())
    now = scheduler.statistics()
    assert (now.jobs_running, now.jobs_ended) == (0, 0)


def test_a_stream_dropped_in_a_cycle(make_scheduler, caplog):
    """A stream that only a garbage collection finds is closed without a word, as unscheduled."""
    scheduler, model = make_scheduler(1), PlainModel()
    model.meter.gate.clear()

    async def node(state: State) -> State:
        get_stream_writer()("asking")
        return {"answers": [(await model.ainvoke("?")).text]}

    graph = schedule(wide(node), scheduler)

    async def main() -> None:
        stream = graph.astream({}, stream_mode="custom")
        await anext(stream)
        await auntil(lambda: model.meter.now == 1)
        box = [stream]
        box.append(box)
        del stream, box
        gc.collect()
        await auntil(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(main())
    gc.collect()
    assert caplog.messages == []
    now = scheduler.statistics()
    assert (now.jobs_running, now.jobs_ended) == (0, 1)
