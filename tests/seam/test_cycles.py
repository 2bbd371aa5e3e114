"""Graphs whose calls would wait for ever, because the holders of slots wait for them: they end as bare."""

from __future__ import annotations

import asyncio
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from pydantic import ConfigDict
from support.cycles import ends, went_ahead

from llmsched_langgraph import schedule
from llmsched_langgraph.testing import Meter, PlainModel, StreamingModel

SLOTS = pytest.mark.parametrize("slots", [1, 2])


class State(TypedDict, total=False):
    out: Annotated[list[Any], operator.add]


class SlowModel(PlainModel):
    """Answers on the loop after the calls behind it have come to wait."""

    seconds: float = 0.1

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        await asyncio.sleep(self.seconds)
        return await super()._agenerate(*args, **kwargs)


def compiled(*nodes, after=()):
    """A graph of the nodes, side by side; those of `after` come one after the other behind the first."""
    builder = StateGraph(State)
    for number, node in enumerate(nodes):
        builder.add_node(f"node{number}", node)
        builder.add_edge(START, f"node{number}")
    previous = "node0"
    for number, node in enumerate(after):
        builder.add_node(f"after{number}", node)
        builder.add_edge(previous, f"after{number}")
        previous = f"after{number}"
    return builder.compile()


def fan_out(model, width=3):
    builder = StateGraph(State)
    builder.add_node("split", lambda state: {})
    builder.add_node("ask", lambda state: {"out": [model.invoke("?").text]})
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", lambda state: [Send("ask", {})] * width, ["ask"])
    return builder.compile()


def compare(make_scheduler, slots, program, meter):
    """Run the program on the bare graph and on the scheduled one; return the scheduler."""
    bare = ends(lambda: program(lambda graph: graph))
    scheduler = make_scheduler(slots)
    meter.peak = 0
    assert ends(lambda: program(lambda graph: schedule(graph, scheduler)), scheduler) == bare
    ahead = len(went_ahead(scheduler))
    assert meter.peak <= slots + ahead
    return scheduler


# -- the event loop's thread waits -----------------------------------------------------------


def batch(model):
    return [one.text for one in model.batch(["a", "b", "c"])]


def parallel(model):
    return sorted(one.text for one in RunnableParallel(a=model, b=model, c=model).invoke("?").values())


def subgraph(model):
    return fan_out(model).invoke({})["out"]


def streamed_subgraph(model):
    graph = fan_out(model)
    return [message.text for message, _ in graph.stream({}, stream_mode="messages")]


def subgraph_with_updates(model):
    return sorted(str(step) for step in fan_out(model).stream({}, stream_mode="updates"))


def tasks(model):
    @task
    def ask(number):
        return model.invoke("?").text

    @entrypoint()
    def ask_all(given):
        futures = [ask(number) for number in range(3)]
        return [future.result() for future in futures]

    return ask_all.invoke(0)


def chain_of_runnables(model):
    chain = RunnableLambda(lambda _: "?") | model | RunnableLambda(lambda message: message.text)
    return chain.batch([1, 2, 3])


BLOCKS = [batch, parallel, subgraph, streamed_subgraph, subgraph_with_updates, tasks, chain_of_runnables]


@SLOTS
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_synchronous_fan_out_in_an_async_node(make_scheduler, block, slots):
    """One node awaits the model; another one blocks the event loop until its own calls are answered."""
    meter = Meter()
    model = SlowModel(meter=meter)

    async def awaits(state):
        return {
            "out": [one.text for one in await asyncio.gather(*(model.ainvoke("?") for _ in range(slots)))]
        }

    async def blocks(state):
        await asyncio.sleep(0.01)
        return {"out": block(model)}

    scheduler = compare(
        make_scheduler, slots, lambda wrap: asyncio.run(wrap(compiled(awaits, blocks)).ainvoke({})), meter
    )
    assert 1 <= len(went_ahead(scheduler)) <= 3


@SLOTS
def test_web_handlers(make_scheduler, slots):
    """Handlers of one loop run their own graphs: some await them, some block the loop with `invoke`."""
    meter, served = Meter(), []

    class Watched(SlowModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            served.append(None)
            try:
                return await super()._agenerate(*args, **kwargs)
            finally:
                served.pop()

    model = Watched(meter=meter)

    async def awaits(state):
        return {"out": [(await model.ainvoke("?")).text]}

    def program(wrap):
        awaited, blocking = wrap(compiled(awaits)), wrap(fan_out(SlowModel(meter=meter)))

        async def blocks(others):
            while len(served) < slots and not all(other.done() for other in others):
                await asyncio.sleep(0.001)  # until the others have all slots
            return blocking.invoke({})

        async def serve():
            tasks = [asyncio.create_task(awaited.ainvoke({})) for _ in range(4)]
            tasks += [asyncio.create_task(blocks(tasks[:4])) for _ in range(2)]
            return await asyncio.gather(*tasks)

        return asyncio.run(serve())

    assert went_ahead(compare(make_scheduler, slots, program, meter))


# -- the code of a call, or of a slot, waits -------------------------------------------------


class Asking(BaseChatModel):
    """Asks a scheduled graph in a thread of its own, which it joins."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    graph: Any

    @property
    def _llm_type(self) -> str:
        return "asking"

    def _ask(self) -> str:
        box: list[str] = []
        thread = threading.Thread(target=lambda: box.extend(self.graph.invoke({})["out"]))
        thread.start()
        thread.join()
        return "".join(box)

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._ask()))])


@SLOTS
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_in_a_thread_that_a_call_joins(make_scheduler, slots, asynchronous):
    """The thread does not know the call, which holds its slot until the thread has ended."""
    meter = Meter()
    inner = compiled(lambda state: {"out": [PlainModel(meter=meter).invoke("?").text]})

    def program(wrap):
        model = Asking(graph=wrap(inner))

        async def anode(state):
            return {"out": [(await model.ainvoke("?")).text]}

        def node(state):
            return {"out": [model.invoke("?").text]}

        if asynchronous:
            return asyncio.run(wrap(compiled(*[anode] * slots)).ainvoke({}))
        return wrap(compiled(*[node] * slots)).invoke({})

    compare(make_scheduler, slots, program, meter)


def test_graphs_inside_slots_of_each_others_schedulers(make_scheduler):
    """Two threads each hold a slot of one scheduler around a graph on the other one."""
    model = PlainModel(meter=Meter())
    graph = compiled(lambda state: {"out": [model.invoke("?").text]})
    schedulers = [make_scheduler(1), make_scheduler(1)]

    def crossed(wrapped):
        ready = threading.Barrier(2)

        def one(at):
            with schedulers[at].slot() if wrapped else nullcontext():
                ready.wait(30)
                return (schedule(graph, schedulers[1 - at]) if wrapped else graph).invoke({})

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    assert ends(lambda: crossed(True), *schedulers) == ends(lambda: crossed(False))
    assert sum(len(went_ahead(scheduler)) for scheduler in schedulers) == 1


def test_async_graphs_inside_slots_of_each_others_schedulers(make_scheduler):
    """The same on one loop, with nodes side by side."""
    model = PlainModel(meter=Meter())

    async def node(state):
        return {"out": [(await model.ainvoke("?")).text]}

    graph, schedulers = compiled(node, node), [make_scheduler(1), make_scheduler(1)]

    async def crossed():
        ready = asyncio.Barrier(2)

        async def one(at):
            async with schedulers[at].slot():
                await ready.wait()
                return await schedule(graph, schedulers[1 - at]).ainvoke({})

        return await asyncio.gather(one(0), one(1))

    assert ends(lambda: asyncio.run(crossed()), *schedulers) == [{"out": ["yes"] * 2}] * 2
    assert 1 <= sum(len(went_ahead(scheduler)) for scheduler in schedulers) <= 2


# -- streams ---------------------------------------------------------------------------------


@SLOTS
def test_a_pumped_stream(make_scheduler, slots):
    """A helper task reads the stream, the node asks the model about each piece; two runs for each slot."""
    meter = Meter(answer="abc")
    model, other = StreamingModel(meter=Meter(answer="a b c")), PlainModel(meter=meter)

    async def node(state):
        pieces: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

        async def pump():
            async for chunk in model.astream("?"):
                await pieces.put(chunk.text)
            await pieces.put(None)

        helper, out = asyncio.create_task(pump()), []
        while (piece := await pieces.get()) is not None:
            out.append((piece, (await other.ainvoke(f"translate {piece}")).text))
        await helper
        return {"out": out}

    def program(wrap):
        graph = wrap(compiled(node))

        async def main():
            return await asyncio.gather(*(graph.ainvoke({}) for _ in range(2 * slots)))

        return asyncio.run(main())

    assert went_ahead(compare(make_scheduler, slots, program, meter))


async def queued(ask):
    """Get the answer from a queue that a task fills."""
    pieces: asyncio.Queue[Any] = asyncio.Queue()

    async def put():
        await pieces.put(await ask())

    helper = asyncio.create_task(put())
    answer = await pieces.get()
    await helper
    return answer


async def grouped(ask):
    """Have a task group wait for the task."""
    async with asyncio.TaskGroup() as group:
        helper = group.create_task(ask())
    return helper.result()


async def waited(ask):
    """Wait for the task with `asyncio.wait`."""
    done, _ = await asyncio.wait([asyncio.create_task(ask())])
    return done.pop().result()


async def told(ask):
    """Wait for an event that the task sets."""
    answered, box = asyncio.Event(), []

    async def tell():
        box.append(await ask())
        answered.set()

    helper = asyncio.create_task(tell())
    await answered.wait()
    await helper
    return box[0]


@SLOTS
@pytest.mark.parametrize("wait", [queued, grouped, waited, told], ids=lambda wait: wait.__name__)
@pytest.mark.parametrize(
    "way",
    [lambda graph, events: graph.ainvoke({}), lambda graph, events: events(graph)],
    ids=["ainvoke", "astream_events"],
)
def test_a_reader_whose_task_asks(make_scheduler, wait, slots, way):
    """A node has a stream open and waits for the call of a task; two runs for each slot."""
    meter = Meter(answer="abc")
    model, other = StreamingModel(meter=Meter(answer="a b c")), PlainModel(meter=meter)

    async def ask():
        return (await other.ainvoke("?")).text

    async def node(state):
        stream = model.astream("?")
        out = [(await anext(stream)).text, await wait(ask)]
        return {"out": out + [chunk.text async for chunk in stream]}

    async def events(graph):
        return [event["event"] async for event in graph.astream_events({}, version="v2")][-1]

    def program(wrap):
        graph = wrap(compiled(node))

        async def main():
            return await asyncio.gather(*(way(graph, events) for _ in range(2 * slots)))

        return asyncio.run(main())

    assert went_ahead(compare(make_scheduler, slots, program, meter))


@SLOTS
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_left_open_by_the_node_before(make_scheduler, slots, asynchronous):
    """Its keeper reads it after the run; the next node's call does not wait for that."""
    meter = Meter()
    model, other = StreamingModel(meter=Meter(answer="a b c")), PlainModel(meter=meter)

    def program(wrap):
        kept = []

        def opens(state):
            kept.append(model.stream("?"))
            return {"out": [next(kept[-1]).text]}

        async def aopens(state):
            kept.append(model.astream("?"))
            return {"out": [(await anext(kept[-1])).text]}

        async def aasks(state):
            return {"out": [(await other.ainvoke("?")).text]}

        def asks(state):
            return {"out": [other.invoke("?").text]}

        if not asynchronous:
            out = wrap(compiled(*[opens] * slots, after=[asks])).invoke({})["out"]
            return sorted(out), sorted("".join(chunk.text for chunk in stream) for stream in kept)

        async def main():
            out = (await wrap(compiled(*[aopens] * slots, after=[aasks])).ainvoke({}))["out"]
            rest = ["".join([chunk.text async for chunk in stream]) for stream in kept]
            return sorted(out), sorted(rest)

        return asyncio.run(main())

    assert len(went_ahead(compare(make_scheduler, slots, program, meter))) == 1


@SLOTS
def test_a_reader_that_asks_about_each_piece(make_scheduler, slots):
    """In a node, in the same thread or by a batch of threads."""
    meter = Meter()
    model, other = StreamingModel(meter=Meter(answer="a b c")), PlainModel(meter=meter)

    def node(state):
        out = []
        for chunk in model.stream("?"):
            out.append((chunk.text, other.invoke("?").text, [one.text for one in other.batch(["?"] * 2)]))
        return {"out": out}

    assert went_ahead(
        compare(make_scheduler, slots, lambda wrap: wrap(compiled(*[node] * slots)).invoke({}), meter)
    )
