"""Open answers over HTTP are read ahead while calls wait: slots come back, and readers miss nothing."""

from __future__ import annotations

import asyncio
import operator
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from support.cycles import ends
from support.piecewise import PIECES, PiecewiseModel, PiecewiseServer, piecewise_server
from support.seam import auntil, until

from llmsched_langgraph import schedule
from llmsched_langgraph._adapter.http import readahead
from llmsched_langgraph._adapter.http.readahead import AsyncBody, Body

WHOLE = "".join(PIECES)


class State(TypedDict, total=False):
    out: Annotated[list[Any], operator.add]


@pytest.fixture(scope="module")
def running() -> Iterator[PiecewiseServer]:
    with piecewise_server() as own:
        yield own


@pytest.fixture
def server(running):
    running.reset()
    yield running
    running.gate.set()


@pytest.fixture(params=["httpx", "httpx2"])
def model(request, server):
    library = pytest.importorskip(request.param)
    own = PiecewiseModel(url=server.url, library=library)
    yield own
    own.client.close()


def run(scheduler, model, *nodes):
    """Run the nodes side by side in a scheduled graph; return what each of them returned."""
    builder = StateGraph(State)
    for number, node in enumerate(nodes):
        builder.add_node(f"node{number}", node)
        builder.add_edge(START, f"node{number}")
    graph = schedule(builder.compile(), scheduler)
    if not asyncio.iscoroutinefunction(nodes[0]):
        return ends(lambda: graph.invoke({}), scheduler)["out"]

    async def main():
        try:
            return await graph.ainvoke({})
        finally:
            await model.aclient().aclose()

    return ends(lambda: asyncio.run(main()), scheduler)["out"]


def text(stream):
    return [chunk.text for chunk in stream if chunk.text]


async def atext(stream):
    return [chunk.text async for chunk in stream if chunk.text]


# -- programs that stand still without it ----------------------------------------------------


def pump_in_threads(model):
    pieces: queue.Queue[Any] = queue.Queue(maxsize=1)

    def pump():
        for piece in (chunk.text for chunk in model.stream("?") if chunk.text):
            pieces.put(piece)
        pieces.put(None)

    thread = threading.Thread(target=copy_context().run, args=(pump,))
    thread.start()
    found = []
    while (piece := pieces.get()) is not None:
        found.append(piece + model.invoke("?").text)
    thread.join()
    return found


def reader_that_calls(model):
    return [chunk.text + model.invoke("?").text for chunk in model.stream("?") if chunk.text]


def reader_that_waits_for_a_thread(model):
    found = []
    with ThreadPoolExecutor(1) as pool:
        for chunk in model.stream("?"):
            if chunk.text:
                found.append(chunk.text + pool.submit(copy_context().run, model.invoke, "?").result().text)
    return found


def in_step(model):
    other = (chunk.text for chunk in model.stream("?") if chunk.text)
    return [chunk.text + WHOLE for chunk in model.stream("?") if chunk.text and next(other) == chunk.text]


def left_open(model):
    stream = (chunk.text for chunk in model.stream("?") if chunk.text)
    first = next(stream)
    said = model.invoke("?").text
    return [piece + said for piece in (first, *stream)]


PROGRAMS = [pump_in_threads, reader_that_calls, reader_that_waits_for_a_thread, in_step, left_open]


async def apump(model):
    pieces: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    async def pump():
        async for chunk in model.astream("?"):
            if chunk.text:
                await pieces.put(chunk.text)
        await pieces.put(None)

    task, found = asyncio.create_task(pump()), []
    while (piece := await pieces.get()) is not None:
        found.append(piece + (await model.ainvoke("?")).text)
    await task
    return found


async def areader_that_awaits_tasks(model):
    found = []
    async for chunk in model.astream("?"):
        if chunk.text:
            said = await asyncio.gather(*(model.ainvoke("?") for _ in range(3)))
            assert {one.text for one in said} == {WHOLE}
            found.append(chunk.text + WHOLE)
    return found


async def ain_step(model):
    other = model.astream("?")
    found = []
    async for chunk in model.astream("?"):
        if chunk.text:
            assert (await anext(other)).text == chunk.text
            found.append(chunk.text + WHOLE)
    return found


async def aleft_open(model):
    stream = model.astream("?")
    first = (await anext(stream)).text
    said = (await model.ainvoke("?")).text
    return [piece + said for piece in [first, *await atext(stream)]]


APROGRAMS = [apump, areader_that_awaits_tasks, ain_step, aleft_open]


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("program", [*PROGRAMS, *APROGRAMS], ids=lambda program: program.__name__)
def test_streams_whose_readers_wait(make_scheduler, model, server, program, slots):
    """Each ends with the same result as without slots; the limit holds, and no call goes ahead."""
    scheduler = make_scheduler(slots)
    if program in PROGRAMS:
        nodes = [lambda state: {"out": [program(model)]}] * slots
    else:

        async def node(state):
            return {"out": [await program(model)]}

        nodes = [node] * slots
    assert run(scheduler, model, *nodes) == [[piece + WHOLE for piece in PIECES]] * slots
    now = scheduler.statistics()
    assert (now.over_commitments, now.peak, server.peak) == (0, slots, slots)


def test_a_stream_that_a_node_leaves_open(make_scheduler, model, server):
    """The node after it gets the slot, and what the stream's keeper reads later is whole."""
    scheduler, kept = make_scheduler(1), []

    def opens(state):
        kept.append(chunk.text for chunk in model.stream("?") if chunk.text)
        return {"out": [next(kept[0])]}

    builder = StateGraph(State)
    builder.add_node("opens", opens)
    builder.add_node("asks", lambda state: {"out": [model.invoke("?").text]})
    builder.add_edge(START, "opens")
    builder.add_edge("opens", "asks")
    graph = schedule(builder.compile(), scheduler)
    assert ends(lambda: graph.invoke({}), scheduler)["out"] == [PIECES[0], WHOLE]
    assert list(kept[0]) == PIECES[1:]
    assert (scheduler.statistics().over_commitments, server.peak) == (0, 1)


def test_an_answer_larger_than_the_buffer(make_scheduler, model, server):
    """Then the slot comes back only with its reader, so a call goes ahead; nothing is lost on the way."""
    scheduler = make_scheduler(1)
    server.pieces = [letter * 300_000 for letter in "abcdefgh"]

    def node(state):
        stream = (chunk.text for chunk in model.stream("?") if chunk.text)
        first = next(stream)
        said = model.invoke("?").text
        return {"out": [first, said, *stream]}

    first, said, *rest = run(scheduler, model, node)
    assert [first, *rest] == server.pieces
    assert said == "".join(server.pieces)
    assert scheduler.statistics().over_commitments == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_comes_at_its_place(make_scheduler, model, server, asynchronous):
    """The connection breaks after the third piece: the reader gets three pieces, then the error."""
    scheduler, found = make_scheduler(1), []
    server.breaks_after = 3

    def ask():
        server.breaks_after = None
        return model.invoke("?").text

    def node(state):
        for chunk in model.stream("?"):
            found.append(chunk.text)
            if len(found) == 1:
                assert ThreadPoolExecutor(1).submit(copy_context().run, ask_later, model).result() == WHOLE
        return {}

    def ask_later(model):
        until(lambda: server.now == 0)  # it broke
        return ask()

    async def anode(state):
        async for chunk in model.astream("?"):
            found.append(chunk.text)
            if len(found) == 1:
                await auntil(lambda: server.now == 0)
                server.breaks_after = None
                assert (await model.ainvoke("?")).text == WHOLE
        return {}

    with pytest.raises(model.library.RemoteProtocolError):
        run(scheduler, model, anode if asynchronous else node)
    assert found == PIECES[:3]
    assert scheduler.statistics().over_commitments == 0


# -- closing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_closing_while_it_is_read_ahead(make_scheduler, model, server, asynchronous):
    """The read-ahead waits for a piece that does not come; closing the stream ends it and frees the slot."""
    scheduler = make_scheduler(1)
    server.gate.clear()

    def waiting():
        return scheduler.statistics().waiting == 1 and reading_ahead(scheduler)

    def node(state):
        stream = model.stream("?")
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(copy_context().run, model.invoke, "?")
            until(waiting)
            stream.close()
            until(lambda: scheduler.statistics().waiting == 0)
            server.gate.set()
            return {"out": [other.result().text]}

    async def anode(state):
        stream = model.astream("?")
        await anext(stream)
        other = asyncio.create_task(model.ainvoke("?"))
        await auntil(waiting)
        await stream.aclose()
        await auntil(lambda: scheduler.statistics().waiting == 0)
        server.gate.set()
        return {"out": [(await other).text]}

    assert run(scheduler, model, anode if asynchronous else node) == [WHOLE]
    assert (scheduler.statistics().over_commitments, scheduler.statistics().peak) == (0, 1)
    until(lambda: not any(thread.name == "llmsched-read-ahead" for thread in threading.enumerate()))


def reading_ahead(scheduler):
    """Whether the answer of a slot is being read ahead."""
    owners = [died() for died in tuple(scheduler._driver._watched.values())]
    return any(owner is not None and owner.ahead for owner in owners)


def test_a_task_that_is_cancelled_while_its_answer_is_read_ahead(make_scheduler, model, server):
    """The reader waits for the piece that is being read, and is cancelled: the slot is free."""
    scheduler = make_scheduler(1)
    server.gate.clear()

    async def node(state):
        read = asyncio.Event()

        async def reader():
            async for _ in model.astream("?"):
                read.set()
                await auntil(lambda: reading_ahead(scheduler))

        task = asyncio.create_task(reader())
        await read.wait()
        other = asyncio.create_task(model.ainvoke("?"))
        await auntil(lambda: reading_ahead(scheduler))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        server.gate.set()
        return {"out": [(await other).text]}

    assert run(scheduler, model, node) == [WHOLE]
    assert (scheduler.statistics().over_commitments, scheduler.statistics().peak) == (0, 1)


# -- the bodies by themselves ------------------------------------------------------------------


class Owner:
    """Holds a slot in name only."""

    def __init__(self):
        self.idle_s, self.ahead, self.read_ahead, self.held = None, False, None, True
        self.failures = []

    def stand(self):
        pass

    def give_back(self, failure=None):
        if self.held:
            self.held = False
            self.failures.append(failure)


class Source:
    """A body of the library, in both flavours. It gives a piece for each permit."""

    def __init__(self, *pieces, error=None):
        self.pieces, self.error = pieces, error
        self.permits = threading.Semaphore(0)
        self.inside = self.given = self.closed = 0
        self.interrupted = threading.Event()

    def permit(self, pieces=100):
        self.permits.release(pieces)

    def interrupt(self):
        self.interrupted.set()

    def _enter(self):
        self.inside += 1
        assert self.inside == 1, "two read at once"

    def __iter__(self):
        for piece in self.pieces:
            self._enter()
            while not self.permits.acquire(timeout=0.001):
                if self.interrupted.is_set():
                    self.inside -= 1
                    raise ConnectionResetError
            self.inside -= 1
            self.given += 1
            yield piece
        if self.error is not None:
            raise self.error

    async def __aiter__(self):
        for piece in self.pieces:
            self._enter()
            try:
                while not self.permits.acquire(blocking=False):
                    await asyncio.sleep(0.001)
            finally:
                self.inside -= 1
            self.given += 1
            yield piece
        if self.error is not None:
            raise self.error

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


def body_of(source, owner):
    return Body(source, owner, source.interrupt)


def test_pieces_in_order_however_they_are_read():
    """Reader and read-ahead take turns; at the end the body is closed and the slot free before it is read."""
    source, owner = Source(*(bytes([n]) for n in range(50))), Owner()
    body = body_of(source, owner)
    pieces = iter(body)
    source.permit(1)
    found = [next(pieces)]
    assert owner.idle_s is not None
    owner.read_ahead()
    owner.read_ahead()
    source.permit(10)
    until(lambda: source.given == 11)
    assert (owner.held, owner.ahead) == (True, True)
    found += [next(pieces) for _ in range(5)]
    source.permit()
    until(lambda: not owner.ahead)
    owner.read_ahead()
    until(lambda: not owner.held)
    assert source.closed == 1
    found += list(pieces)
    assert found == list(source.pieces)
    assert owner.failures == [None]


def test_the_reader_waits_for_the_piece_that_is_read_ahead():
    """It gets that piece, and reads the next ones itself."""
    source, owner = Source(b"a", b"b", b"c"), Owner()
    body = body_of(source, owner)
    owner.read_ahead()
    until(lambda: source.inside == 1)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(list, body)
        until(lambda: body._reading)
        source.permit()
        assert reader.result(30) == [b"a", b"b", b"c"]
    until(lambda: not owner.ahead)
    assert owner.held  # until it is closed, as without read-ahead
    body.close()
    assert (owner.held, source.closed) == (False, 1)


@pytest.mark.parametrize("pieces", [0, 2])
def test_an_error_after_pieces(pieces):
    """The slot comes back with the error; the reader has the pieces first, and the error each time."""
    source, owner = Source(*[b"x"] * pieces, error=ConnectionResetError()), Owner()
    source.permit()
    body = body_of(source, owner)
    owner.read_ahead()
    until(lambda: not owner.held)
    reader = iter(body)
    assert [next(reader) for _ in range(pieces)] == [b"x"] * pieces
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            next(iter(body))
    (failure,) = owner.failures
    assert failure.kind == "ConnectionResetError"


def test_the_buffer_has_a_limit(monkeypatch):
    """Reading stops there, and goes on when the reader has made room."""
    monkeypatch.setattr(readahead, "LIMIT", 100)
    source, owner = Source(*[b"x" * 40] * 5), Owner()
    source.permit()
    body = body_of(source, owner)
    owner.read_ahead()
    until(lambda: source.given == 3 and not owner.ahead)
    owner.read_ahead()
    assert (source.given, owner.held, owner.ahead) == (3, True, False)
    pieces = iter(body)
    found = [next(pieces), next(pieces), next(pieces)]
    owner.read_ahead()
    until(lambda: not owner.held)
    assert [*found, *pieces] == list(source.pieces)


@pytest.mark.parametrize("dropped", [False, True])
def test_closing_interrupts_the_thread(dropped):
    """Also if the reader drops its iterator."""
    source, owner = Source(b"a", b"b"), Owner()
    body = body_of(source, owner)
    pieces = iter(body)
    source.permit(1)
    assert next(pieces) == b"a"
    owner.read_ahead()
    until(lambda: source.inside == 1)
    if dropped:
        pieces.close()
    else:
        body.close()
    assert source.interrupted.is_set()
    assert (source.closed, owner.held, owner.ahead, owner.read_ahead) == (1, False, False, None)


def test_a_body_that_cannot_be_interrupted_is_not_read_ahead():
    """For example one of several on a connection of HTTP/2."""
    owner = Owner()
    body = Body(Source(b"a"), owner, None)
    assert owner.read_ahead is None
    body.close()
    assert not owner.held


def test_pieces_in_order_on_a_loop():
    """As in threads."""

    async def main():
        source, owner = Source(*(bytes([n]) for n in range(50))), Owner()
        body = AsyncBody(source, owner, possible=True)
        pieces = aiter(body)
        source.permit(1)
        found = [await anext(pieces)]
        owner.read_ahead()
        owner.read_ahead()
        source.permit(10)
        await auntil(lambda: source.given == 11)
        assert (owner.held, owner.ahead) == (True, True)
        source.permit(1)
        found += [await anext(pieces) for _ in range(5)]
        source.permit()
        await auntil(lambda: not owner.ahead)
        await asyncio.to_thread(owner.read_ahead)
        await auntil(lambda: not owner.held)
        assert source.closed == 1
        found += [piece async for piece in pieces]
        assert found == list(source.pieces)
        assert owner.failures == [None]

    asyncio.run(main())


def test_closing_cancels_the_task():
    """It is over when `aclose` returns."""

    async def main():
        source, owner = Source(b"a", b"b"), Owner()
        body = AsyncBody(source, owner, possible=True)
        owner.read_ahead()
        await auntil(lambda: source.inside == 1)
        await body.aclose()
        assert (source.inside, source.closed, owner.held, owner.ahead) == (0, 1, False, False)

    asyncio.run(main())


def test_a_task_that_others_cancel_does_not_cut_the_answer_short():
    """Who cancels all tasks cancels the read-ahead too: the reader gets an error, not an end."""

    async def main():
        source, owner = Source(b"a", b"b"), Owner()
        body = AsyncBody(source, owner, possible=True)
        source.permit(1)
        owner.read_ahead()
        await auntil(lambda: source.given == 1 and source.inside == 1)
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        task.cancel()
        await asyncio.wait([task])
        pieces = aiter(body)
        assert await anext(pieces) == b"a"
        with pytest.raises(ConnectionError, match="read this answer ahead was cancelled"):
            await anext(pieces)
        assert not owner.held

    asyncio.run(main())


def test_a_closed_loop_reads_nothing_ahead():
    """The request for it comes from another thread, perhaps too late."""
    owner = Owner()

    async def main():
        return AsyncBody(Source(b"a"), owner, possible=True)

    body = asyncio.run(main())
    body.read_ahead()
    assert not owner.ahead
