"""`Scheduler.check()` holds at every moment: while slots drain, with forced grants and pauses."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph import Backend, Scheduler
from llmsched_langgraph._ledger.pauses import Failure

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 4)),
        st.tuples(st.just("force"), st.integers(1, 3)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("refuse"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("resize"), st.integers(1, 6)),
        st.tuples(st.just("wait"), st.integers(0, 3)),
    ),
    max_size=40,
)


class Bench:
    """One backend, calls that hold and wait, and a clock that the test moves."""

    def __init__(self, slots, policy):
        self.now_s = 100.0
        self.scheduler = Scheduler(backends=[Backend("b", slots)], policy=policy, clock=lambda: self.now_s)
        self.held, self.waiting = [], []

    async def ask(self, times):
        for _ in range(times):
            slot = self.scheduler.slot()
            self.waiting.append((slot, asyncio.create_task(slot.aacquire())))
            await self.turn()

    async def force(self, times):
        """A synchronous call on the loop's thread cannot wait."""
        for _ in range(times):
            slot = self.scheduler.slot()
            slot.acquire()
            self.held.append(slot)

    async def release(self, which, failure=None):
        if self.held:
            self.held.pop(which % len(self.held)).release(failure=failure)

    async def refuse(self, which):
        """The backend answers 429 and names a time."""
        await self.release(which, Failure(429, 2.0, "rate"))

    async def cancel(self, which):
        if self.waiting:
            _, task = self.waiting[which % len(self.waiting)]
            if not task.done():
                task.cancel()

    async def resize(self, slots):
        self.scheduler.resize(slots)

    async def wait(self, seconds):
        """Time passes, and no timer has noticed yet."""
        self.now_s += seconds

    async def turn(self):
        for _ in range(3):
            await asyncio.sleep(0)
        for own in [own for own in self.waiting if own[1].done()]:
            self.waiting.remove(own)
            if not own[1].cancelled():
                own[1].result()
                self.held.append(own[0])

    async def look(self):
        """Everything adds up, and no grant but a forced one exceeded the slots."""
        self.scheduler.check()
        await self.turn()
        now = self.scheduler.statistics()
        (pool,) = now.backends
        assert (pool.holding, pool.waiting) == (len(self.held), len(self.waiting))
        view = self.scheduler._driver.view()
        assert all(own.concurrency <= own.slots for own in view.holding.values() if own.reason != "forced")
        paused = self.now_s < view.backends["b"].ready_s
        assert pool.holding >= pool.slots or not pool.waiting or paused

    async def run(self, steps):
        for name, number in steps:
            before, (pool,) = len(self.held), self.scheduler.statistics().backends
            await getattr(self, name)(number)
            await self.turn()
            await self.look()
            if before > pool.slots and name in ("ask", "cancel", "release", "wait"):
                assert len(self.held) <= before  # it drains: nobody gets a slot above the limit
        while self.held or self.waiting:
            self.now_s += 2.0
            await self.release(0)
            await self.look()
        self.scheduler.check()
        self.scheduler.close()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), st.sampled_from(["fcfs", "llmsched", "fair"]), STEPS)
def test_check_holds_at_every_moment(slots, policy, steps):
    """Whatever is asked, forced, released, refused, cancelled and resized, in whatever order."""

    async def main():
        await Bench(slots, policy).run(steps)

    asyncio.run(main())


def test_a_smaller_capacity_drains():
    """From six to one and up again, while calls wait and one is forced: each step is sound."""

    async def main():
        bench = Bench(6, "fcfs")
        await bench.ask(9)
        for slots, held in ((1, 6), (3, 6), (1, 6), (2, 6)):
            await bench.resize(slots)
            await bench.look()
            assert len(bench.held) == held
        await bench.force(2)
        await bench.look()
        for left in (7, 6, 5, 4, 3, 2, 2, 2, 2, 1, 0):
            await bench.release(0)
            await bench.look()
            assert len(bench.held) == left
        bench.scheduler.close()

    asyncio.run(main())


def test_a_pause_that_has_just_ended_is_no_fault():
    """Nobody has noticed yet that the backend is open: whoever checks, does."""

    async def main():
        bench = Bench(1, "fcfs")
        await bench.ask(2)
        await bench.refuse(0)
        await bench.look()
        assert (len(bench.held), len(bench.waiting)) == (0, 1)
        bench.now_s += 2.0
        bench.scheduler.check()
        await bench.turn()
        assert (len(bench.held), len(bench.waiting)) == (1, 0)
        await bench.release(0)
        bench.scheduler.close()

    asyncio.run(main())
