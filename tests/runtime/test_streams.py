"""Streams that own a slot: from the first item asked for until exhausted, closed, dropped, failed."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import gc
import threading

import pytest
from support.seam import until

from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._runtime.streams import ahold, hold
from llmsched_langgraph.errors import CallCancelledError


class Count:
    """A meter that counts items, and may fail at one of them or at the end."""

    def __init__(self, fail_at=None, fail_at_end=False):
        self.seen = []
        self.fail_at = fail_at
        self.fail_at_end = fail_at_end

    def see(self, item):
        if item == self.fail_at:
            raise ValueError("meter")
        self.seen.append(item)

    def usage(self):
        if self.fail_at_end:
            raise ValueError("usage")
        return Usage(1, len(self.seen))


class Source:
    """Items in both flavours; it notes that it was closed and can fail at an item."""

    def __init__(self, items=3, fail_at=None, fail_at_close=False):
        self.items, self.fail_at, self.fail_at_close = items, fail_at, fail_at_close
        self.closed = 0

    def _item(self, n):
        if n == self.fail_at:
            raise ValueError("source")
        return n

    def _close(self):
        self.closed += 1
        if self.fail_at_close:
            raise ValueError("close")

    def plain(self):
        try:
            for n in range(self.items):
                yield self._item(n)
        finally:
            self._close()

    async def asynchronous(self):
        try:
            for n in range(self.items):
                await asyncio.sleep(0)
                yield self._item(n)
        finally:
            self._close()


def held(scheduler):
    return scheduler.statistics().holding


def last_release(scheduler):
    calls = [entry.detail for entry in scheduler._driver.story() if entry.kind == "CallReleased"]
    return calls[-1].outcome, calls[-1].usage


# -- plain iterators --------------------------------------------------------------------


def test_a_stream_holds_its_slot_between_items(make_scheduler):
    """Nothing is taken before the first item is asked for, and the slot is back after the last."""
    scheduler, source, meter = make_scheduler(1), Source(), Count()
    stream = hold(scheduler.slot(), source.plain, meter)
    assert held(scheduler) == 0
    assert [(item, held(scheduler)) for item in stream] == [(0, 1), (1, 1), (2, 1)]
    assert held(scheduler) == 0
    assert meter.seen == [0, 1, 2]
    assert last_release(scheduler) == (Outcome.FINISHED, Usage(1, 3))
    assert source.closed == 1
    assert list(stream) == []


def test_a_stream_that_is_never_started_takes_nothing(make_scheduler):
    """Making a stream and throwing it away costs nothing."""
    scheduler = make_scheduler(1)
    hold(scheduler.slot(), Source().plain, Count())
    hold(scheduler.slot(), Source().plain, Count()).close()
    assert scheduler.statistics().granted == 0


@pytest.mark.parametrize("how", ["close", "drop", "break"])
def test_a_stream_that_is_given_up(make_scheduler, how):
    """Closed, dropped, or left in the middle: the source is closed, the slot back, the usage kept."""
    scheduler, source = make_scheduler(1), Source()
    stream = hold(scheduler.slot(), source.plain, Count())
    next(stream)
    assert held(scheduler) == 1
    if how == "close":
        stream.close()
    elif how == "break":
        for _ in stream:
            break
    del stream
    gc.collect()
    assert held(scheduler) == 0
    assert source.closed == 1
    assert last_release(scheduler) == (Outcome.CANCELLED, Usage(1, 2 if how == "break" else 1))


def test_a_dropped_stream_in_a_cycle_is_given_back_by_the_collector(make_scheduler):
    """A stream that only the garbage collector can find gives its slot back when it does."""
    scheduler = make_scheduler(1)
    stream = hold(scheduler.slot(), Source().plain, Count())
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    assert held(scheduler) == 0


FAILURES = pytest.mark.parametrize(
    ("source", "meter", "message", "received", "outcome"),
    [
        ({"fail_at": 1}, {}, "source", 1, Outcome.FAILED),
        ({"fail_at": 0}, {}, "source", 0, Outcome.FAILED),
        ({"fail_at_close": True}, {}, "close", 3, Outcome.FAILED),
        ({}, {"fail_at": 2}, "meter", 2, Outcome.FAILED),
        ({}, {"fail_at_end": True}, "usage", 3, Outcome.FINISHED),
    ],
    ids=["source", "source-at-once", "source-at-its-end", "meter", "meter-at-the-end"],
)


@FAILURES
def test_a_stream_that_fails(make_scheduler, source, meter, message, received, outcome):
    """Whoever fails (source, its end, meter), the error passes through and the slot is back."""
    scheduler, source, got = make_scheduler(1), Source(**source), []
    with pytest.raises(ValueError, match=message):
        collections.deque(map(got.append, hold(scheduler.slot(), source.plain, Count(**meter))))
    assert (len(got), held(scheduler), source.closed) == (received, 0, 1)
    assert last_release(scheduler)[0] is outcome


@FAILURES
def test_an_asynchronous_stream_that_fails(make_scheduler, source, meter, message, received, outcome):
    """As for plain streams."""
    scheduler, source, got = make_scheduler(1), Source(**source), []

    async def main():
        async for item in ahold(scheduler.slot(), source.asynchronous, Count(**meter)):
            got.append(item)

    with pytest.raises(ValueError, match=message):
        asyncio.run(main())
    assert (len(got), held(scheduler), source.closed) == (received, 0, 1)
    assert last_release(scheduler)[0] is outcome


def test_a_stream_that_cannot_start(make_scheduler):
    """A source that fails before there is an iterator gives the slot back, too."""
    scheduler = make_scheduler(1)

    def start():
        raise ValueError("start")

    with pytest.raises(ValueError, match="start"):
        next(hold(scheduler.slot(), start, Count()))
    assert last_release(scheduler)[0] is Outcome.FAILED


def test_the_call_rides_and_the_consumer_does_not(make_scheduler):
    """Inside the source a nested call takes over the slot; between items the consumer takes its own."""
    scheduler = make_scheduler(2)
    seen = []

    def source():
        for n in range(2):
            with scheduler.slot() as nested:
                seen.append((nested.held, held(scheduler)))
            yield n

    for _ in hold(scheduler.slot(), source, Count()):
        with scheduler.slot() as own:
            assert own.held
            assert held(scheduler) == 2
    assert seen == [(True, 1), (True, 1)]
    assert scheduler.statistics().granted == 3


def test_a_stream_inside_a_call_takes_no_slot(make_scheduler):
    """A stream that is consumed inside a call that holds a slot rides on it."""
    scheduler = make_scheduler(1)
    with scheduler.slot():
        assert list(hold(scheduler.slot(), Source().plain, Count())) == [0, 1, 2]
        assert held(scheduler) == 1
    assert scheduler.statistics().granted == 1


def test_a_stream_passed_between_contexts(make_scheduler):
    """Each step may run in another context and the end in yet another; no context stays marked."""
    scheduler = make_scheduler(1)
    stream = hold(scheduler.slot(), Source().plain, Count())
    contexts = [contextvars.copy_context() for _ in range(3)]
    for context in contexts[:2]:
        context.run(next, stream)
    contexts[2].run(stream.close)
    assert held(scheduler) == 0
    for context in contexts:
        slot = context.run(scheduler.slot)
        context.run(slot.acquire)
        assert slot.held
        slot.release()


# -- asynchronous iterators -------------------------------------------------------------


def test_an_asynchronous_stream_holds_its_slot_between_items(make_scheduler):
    """As for plain streams: from the first item asked for to the last."""

    async def main():
        scheduler, source, meter = make_scheduler(1), Source(), Count()
        stream = ahold(scheduler.slot(), source.asynchronous, meter)
        assert held(scheduler) == 0
        assert [(item, held(scheduler)) async for item in stream] == [(0, 1), (1, 1), (2, 1)]
        assert held(scheduler) == 0
        assert last_release(scheduler) == (Outcome.FINISHED, Usage(1, 3))
        assert source.closed == 1

    asyncio.run(main())


def test_an_asynchronous_stream_that_is_closed(make_scheduler):
    """Closing it closes the source and gives the slot back at once."""

    async def main():
        scheduler, source = make_scheduler(1), Source()
        stream = ahold(scheduler.slot(), source.asynchronous, Count())
        await anext(stream)
        await stream.aclose()
        assert (held(scheduler), source.closed) == (0, 1)
        assert last_release(scheduler) == (Outcome.CANCELLED, Usage(1, 1))

    asyncio.run(main())


def test_an_asynchronous_stream_that_is_dropped(make_scheduler):
    """The loop closes a dropped stream, which gives its slot back: at the latest when the loop ends."""
    scheduler, source = make_scheduler(1), Source()

    async def main():
        stream = ahold(scheduler.slot(), source.asynchronous, Count())
        await anext(stream)
        del stream
        gc.collect()
        assert await asyncio.wait_for(in_new_task(scheduler), 20) is None

    async def in_new_task(scheduler):
        async with scheduler.slot():
            assert source.closed == 1

    asyncio.run(main())
    assert held(scheduler) == 0


def test_an_asynchronous_stream_that_its_loop_ends_with(make_scheduler):
    """A stream that is kept beyond the end of its loop is closed by the end of the loop."""
    scheduler, source, kept = make_scheduler(1), Source(), []

    async def main():
        kept.append(ahold(scheduler.slot(), source.asynchronous, Count()))
        await anext(kept[0])

    asyncio.run(main())
    assert (held(scheduler), source.closed) == (0, 1)


@pytest.mark.parametrize("where", ["waiting", "source", "consumer"])
def test_an_asynchronous_stream_that_is_cancelled(make_scheduler, where):
    """Cancelled while it waits for its slot, for an item, or by its consumer: the slot is back."""

    async def main():
        scheduler, source = make_scheduler(1), Source()
        reached, never = asyncio.Event(), asyncio.Event()
        holder = scheduler.slot()
        if where == "waiting":
            await holder.aacquire()

        async def slow():
            async for item in source.asynchronous():
                if where == "source":
                    reached.set()
                    await never.wait()
                yield item

        async def consume():
            if where == "waiting":
                reached.set()
            stream = ahold(scheduler.slot(), slow, Count())
            try:
                async for _ in stream:
                    reached.set()
                    await never.wait()
            finally:
                await stream.aclose()

        task = asyncio.create_task(consume())
        await reached.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        holder.release()
        assert held(scheduler) == scheduler.statistics().waiting == 0
        story = scheduler._driver.story()
        if where == "waiting":
            (outcome,) = [entry.detail for entry in story if entry.kind == "CallWithdrawn"]
        else:
            (outcome,) = [entry.detail.outcome for entry in story if entry.kind == "CallReleased"]
        assert outcome is Outcome.CANCELLED

    asyncio.run(main())


def test_the_asynchronous_call_rides_and_the_consumer_does_not(make_scheduler):
    """Inside the source a nested call takes over the slot; between items the consumer takes its own."""

    async def main():
        scheduler = make_scheduler(2)
        seen = []

        async def source():
            for n in range(2):
                async with scheduler.slot() as nested:
                    seen.append((nested.held, held(scheduler)))
                yield n

        async for _ in ahold(scheduler.slot(), source, Count()):
            async with scheduler.slot() as own:
                assert own.held
                assert held(scheduler) == 2
        assert seen == [(True, 1), (True, 1)]

    asyncio.run(main())


# -- streams inside a call that is cancelled --------------------------------------------------


class Watching(Source):
    """It notes how many slots were held when it was closed."""

    def __init__(self, scheduler, **kwargs):
        super().__init__(**kwargs)
        self.scheduler = scheduler

    def _close(self):
        super()._close()
        self.at_close = held(self.scheduler)


def test_an_open_stream_is_closed_before_its_slot_is_free(make_scheduler):
    """The call around it is cancelled while its consumer does something else."""
    scheduler = make_scheduler(1)
    source = Watching(scheduler)
    with scheduler.slot() as outer:
        stream = hold(scheduler.slot(), source.plain, Count())
        assert next(stream) == 0
        outer.end(Outcome.CANCELLED)
        assert (source.closed, source.at_close, held(scheduler)) == (1, 1, 0)
        with pytest.raises(CallCancelledError):
            next(stream)
    assert held(scheduler) == 0


def test_a_step_of_a_stream_keeps_the_slot(make_scheduler):
    """A thread waits for the next item when the call around it is cancelled: the request is in flight."""
    scheduler, go, errors = make_scheduler(1), threading.Event(), []
    source, asking = Watching(scheduler), threading.Event()

    def items():
        for item in source.plain():
            yield item
            asking.set()
            go.wait()

    def read(stream):
        with pytest.raises(CallCancelledError) as caught:
            list(stream)
        errors.append(caught.value)

    with scheduler.slot() as outer:
        stream = hold(scheduler.slot(), items, Count())
        work = contextvars.copy_context().run, read, stream
        thread = threading.Thread(target=work[0], args=work[1:])
        thread.start()
        until(asking.is_set)
        outer.end(Outcome.CANCELLED)
        assert held(scheduler) == 1
        go.set()
        thread.join()
    assert (len(errors), source.closed, source.at_close, held(scheduler)) == (1, 1, 1, 0)


def test_an_open_asynchronous_stream_is_closed_before_its_slot_is_free(make_scheduler):
    """Its loop closes it, though its consumer does not come back."""
    scheduler = make_scheduler(1)
    source = Watching(scheduler)

    async def main():
        async with scheduler.slot() as outer:
            stream = ahold(scheduler.slot(), source.asynchronous, Count())
            assert await anext(stream) == 0
            outer.end(Outcome.CANCELLED)
            assert (source.closed, held(scheduler)) == (0, 1)
            while held(scheduler):
                await asyncio.sleep(0)
            assert (source.closed, source.at_close) == (1, 1)
            with pytest.raises(CallCancelledError):
                await anext(stream)

    asyncio.run(main())
    assert held(scheduler) == 0


@pytest.mark.parametrize("way", ["closed", "read", "collected"])
def test_a_stream_that_another_thread_is_closing(make_scheduler, way):
    """Its consumer comes back meanwhile: no error of the generator reaches it, and the slot stays."""
    scheduler, go, closing = make_scheduler(1), threading.Event(), threading.Event()

    def items():
        try:
            yield 0
            yield 1
        finally:
            closing.set()
            go.wait()

    with scheduler.slot() as outer:
        stream = hold(scheduler.slot(), items, Count())
        assert next(stream) == 0
        thread = threading.Thread(target=outer.end, args=(Outcome.CANCELLED,))
        thread.start()
        until(closing.is_set)
        if way == "closed":
            stream.close()
        elif way == "read":
            with pytest.raises(CallCancelledError):
                next(stream)
        else:
            del stream
            gc.collect()
        assert held(scheduler) == 1
        go.set()
        thread.join()
        assert held(scheduler) == 0


@pytest.mark.parametrize("way", ["closed", "read"])
def test_an_asynchronous_stream_that_another_task_is_closing(make_scheduler, way):
    scheduler = make_scheduler(1)

    async def main():
        go, closing = asyncio.Event(), asyncio.Event()

        async def items():
            try:
                yield 0
                yield 1
            finally:
                closing.set()
                await go.wait()

        async with scheduler.slot() as outer:
            stream = ahold(scheduler.slot(), items, Count())
            assert await anext(stream) == 0
            outer.end(Outcome.CANCELLED)
            await closing.wait()
            if way == "closed":
                await stream.aclose()
            else:
                with pytest.raises(CallCancelledError):
                    await anext(stream)
            assert held(scheduler) == 1
            go.set()
            while held(scheduler):
                await asyncio.sleep(0)

    asyncio.run(main())


def test_an_asynchronous_stream_of_a_closed_loop_ends_at_once(make_scheduler):
    """No code of that loop can close it."""
    scheduler, source = make_scheduler(1), Source()
    loop = asyncio.new_event_loop()

    with scheduler.slot() as outer:
        stream = ahold(scheduler.slot(), source.asynchronous, Count())
        assert loop.run_until_complete(anext(stream)) == 0
        loop.close()
        outer.end(Outcome.CANCELLED)
        assert held(scheduler) == 0


class Abandoned:
    """A call that is cancelled as soon as it has its slot, before its request begins."""

    def __init__(self, scheduler):
        self.call = call = scheduler.slot()
        take, atake = call.acquire, call.aacquire

        def acquire():
            take()
            call.abandon()

        async def aacquire():
            await atake()
            call.abandon()

        call.acquire, call.aacquire = acquire, aacquire


@pytest.mark.parametrize("way", ["with", "async with", "hold", "ahold"])
def test_no_request_begins_after_the_call_was_cancelled(make_scheduler, way):
    """It would have no slot."""
    scheduler, source = make_scheduler(1), Source()
    call, begun = Abandoned(scheduler).call, []

    async def main():
        if way == "with":
            with call:
                begun.append(way)
        elif way == "async with":
            async with call:
                begun.append(way)
        elif way == "hold":
            begun.extend(hold(call, source.plain, Count()))
        else:
            begun.extend([item async for item in ahold(call, source.asynchronous, Count())])

    with pytest.raises(CallCancelledError):
        asyncio.run(main())
    assert (begun, source.closed, held(scheduler)) == ([], 0, 0)
