"""Several processes share slots; one of them is killed while it holds one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.redis_home import new_name, server_url

from llmsched_langgraph import Backend
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS

CALLS = 15


def started(name, slots, calls):
    """A process of its own that takes slots."""
    command = [sys.executable, "-m", "support.redis_worker", server_url(), name, str(slots), str(calls)]
    tests = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True)


def held(text):
    """The intervals in which a worker held a slot."""
    times = [float(line) for line in text.splitlines()]
    return list(zip(times[::2], times[1::2], strict=True))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("slots", [1, 2])
def test_processes_share_slots_and_a_dead_one_gives_them_back(slots):
    """Never more than the slots are held at once; what the dead one held comes back with its lease."""
    name = new_name()
    dead = started(name, slots, 0)
    first_s = float(dead.stdout.readline())
    watch = LedgerClient(
        server_url(), name, Shared(UNBOUNDED, None, NO_TENANTS), [Backend("b", slots)], lease_s=1e6
    )
    watch.apply()
    workers = [started(name, slots, CALLS) for _ in range(3)]
    while len(watch.snapshot().waiting) < 4 - slots:
        time.sleep(0.01)
    killed_s = watch.apply().now_s
    dead.kill()
    dead.wait()
    dead.stdout.close()
    intervals = []
    for worker in workers:
        out, _ = worker.communicate()
        assert worker.returncode == 0
        intervals += held(out)
    assert len(intervals) == 3 * CALLS
    events = sorted([(at, +1) for at, _ in intervals] + [(at, -1) for _, at in intervals])
    holding = 0
    for at, change in events:
        holding += change
        assert holding <= slots - (at < killed_s)
    assert first_s < min(events)[0]
    while watch.snapshot().backends["b"].holding:  # until the lease of the dead one ends
        watch.apply()
        time.sleep(0.05)
    watch.check()
    assert list(watch.snapshot().workers) == [watch.worker]
    watch.close()
