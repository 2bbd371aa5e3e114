"""Builds the wait-for graph of one moment, and finds the backends whose slots can never come free.

Does not act on it, and takes no lock. An edge leads from a slot to the code that has to run before the slot
is released: a thread, or a task and the thread of its event loop; from there to what that code waits for
without a time limit; and from a wait for a slot to all slots of its backend. A holder from which no known
edge leads counts as one that moves: a request may take as long as it likes.

A backend is dead if every holder of its slots waits, directly or not, for a slot of a dead backend: the
greatest fixed point over all schedulers of the process. The slots that a tenant with a limit may hold of a
backend count as a backend of their own, which its calls wait for as well.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._ledger.values import Waiting
from llmsched_langgraph._runtime.context import RUN
from llmsched_langgraph._runtime.cycles import stdlib
from llmsched_langgraph._runtime.cycles.coroutines import time_limit
from llmsched_langgraph._runtime.cycles.stacks import Threads
from llmsched_langgraph._runtime.cycles.states import Blocked, Key, Pool, State, Stuck, Waiter, full, together
from llmsched_langgraph._runtime.cycles.stdlib import Other, Wait
from llmsched_langgraph._runtime.threads import serves

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.slot import Slot

GUESS_S = 1.0
"""Seconds for which an uncertain edge must have existed before it counts."""

AHEAD_S = 0.05
"""Seconds without a read after which an open answer is read ahead."""


class Graph:
    """The graph of one moment. Drop it soon: it keeps what the frames of all threads refer to.

    Attributes:
        pools: the backends that calls wait for.
    """

    def __init__(self, drivers: Iterable[Driver]) -> None:
        self.pools: dict[Key, Pool] = {}
        self._by_thread: dict[int, Waiter] = {}
        self._by_task: dict[Any, Waiter] = {}
        self._memo: dict[Any, State] = {}
        self._dead: set[Key] = set()
        # Pools with work that a holder waits for, while these calls keep all of their threads.
        self._occupied: list[tuple[weakref.ref[Any], tuple[Waiter, ...]]] = []
        self._now_s = time.monotonic()
        for driver in drivers:
            self._add(driver)
        self._threads = Threads()

    def _add(self, driver: Driver) -> None:
        for name, view in driver.backends.items():
            if view.waiting:
                self.pools[id(driver), name, ""] = Pool(driver, view, view.slots, view.holding, [], [])
                for tenant, slots, held in driver.limits(name):
                    self.pools[id(driver), name, tenant] = Pool(driver, view, slots, held, [], [])
        now = driver.clock()
        for ticket, died in tuple(driver._watched.items()):  # noqa: SLF001 (of this package)
            slot, claim = died(), driver.claim(ticket)
            pool = None if claim is None else self.pools.get(key := (id(driver), claim.lane[0], ""))
            if slot is None or claim is None or pool is None:
                continue
            limit = (*key[:2], driver.tenant(claim))
            of_tenant = self.pools.get(limit) if limit != key else None
            if type(claim) is not Waiting:
                pool.holding.append((ticket, slot))
                if of_tenant is not None:
                    of_tenant.holding.append((ticket, slot))
                continue
            limit = key if of_tenant is None else limit
            waiter = Waiter(key, ticket, slot, now - claim.asked_s, limit)
            pool.waiting.append(waiter)
            if of_tenant is not None:
                of_tenant.waiting.append(waiter)
            task = None if slot.task is None else slot.task()
            if task is not None:
                self._by_task[task] = waiter
            elif slot.task is None:
                self._by_thread[slot.thread] = waiter

    def read_ahead(self) -> None:
        """Start reading ahead the open answers that are not being read while calls wait for their slots."""
        for pool in self.pools.values():
            consumed = {id(call) for waiter in pool.waiting for call in waiter.slot.consumes}
            for _, slot in pool.holding:
                ahead, since_s = slot.read_ahead, slot.idle_s
                if ahead is None or since_s is None or slot.ahead:
                    continue
                if id(slot.call) in consumed or self._now_s - since_s >= AHEAD_S:
                    ahead()

    def dead(self) -> dict[Key, list[Stuck]]:
        """Return the dead backends, each with its holders."""
        self._dead = {key for key, pool in self.pools.items() if full(pool)}
        while True:
            self._memo.clear()
            self._occupied.clear()
            found: dict[Key, list[Stuck]] = {}
            for key in self._dead:
                stuck = self._all_stuck(self.pools[key])
                if stuck is not None:
                    found[key] = stuck
            if len(found) == len(self._dead):
                return found
            self._dead = set(found)

    def _all_stuck(self, pool: Pool) -> list[Stuck] | None:
        all_stuck = []
        for _, slot in pool.holding:
            try:
                stuck = self._stuck(pool, slot)
            except RecursionError:
                stuck = None
            if stuck is None:
                return None
            all_stuck.append(stuck)
        return all_stuck

    def first(self, found: dict[Key, list[Stuck]]) -> Waiter | None:
        """Return the call to let go ahead: the one that has waited longest, on a loop that can run it."""
        waiters = {waiter for all_stuck in found.values() for stuck in all_stuck for waiter in stuck.by}
        return min(
            waiters, key=lambda own: (self._loop_stands(own.slot), -own.age_s, own.ticket), default=None
        )

    def lender(self, waiter: Waiter) -> ThreadPoolExecutor | None:
        """Return a pool that one thread more would free, instead of the call; None if there is none.

        It is the default executor of the loop of some call. A user's own pool keeps its size.
        """
        slots = [slot for pool in self.pools.values() for _, slot in pool.holding]
        loops = {task.get_loop() for slot in slots if slot.task is not None and (task := slot.task())}
        for executor, by in self._occupied:
            pool: ThreadPoolExecutor | None = executor()
            if pool is not None and waiter in by and any(serves(pool, loop) for loop in loops):
                return pool
        return None

    def _loop_stands(self, slot: Slot) -> bool:
        return slot.task is not None and isinstance(self._thread(slot.thread, main=False), Blocked)

    # -- holders -----------------------------------------------------------------------

    def _stuck(self, pool: Pool, slot: Slot) -> Stuck | None:
        """Return what the holder waits for; None if it may continue by itself."""
        reader = slot.reader()
        if slot.ahead:  # a thread or a task of the loop reads the answer, or is about to
            state = Other.MOVES if slot.task is None else self._loop(slot)
            return self._certain(slot, state, "loop")
        if reader is not None:
            return self._idle(pool, slot, reader)
        state = self._code(slot)
        if isinstance(state, Blocked):
            why = "holder" if slot.task is None or not isinstance(self._loop(slot), Blocked) else "loop"
            return self._certain(slot, state, why)
        if state is Other.WAITS:
            inner = self._waiting(lambda own: any(call is slot.call for call in _around(own)))
            return self._certain(slot, Blocked(inner, sure=False), "holder")
        return None

    def _idle(self, pool: Pool, slot: Slot, reader: Slot) -> Stuck | None:
        """Return what a holder waits for whose answer is open and not being read."""
        state, call = self._code(reader), slot.call
        ended = call.stage is not None and call.stage.over
        if state is Other.MOVES:
            if not ended or call.terms.driver.runs(call.terms.job):
                return None
            # The thread that opened the stream does other work. Other code may still read the stream.
            return self._certain(slot, Blocked(tuple(pool.waiting), sure=False), "left open", reader.idle_s)
        if isinstance(state, Blocked):
            # A thread of a pool may do other work by now. Its context tells whether it consumes the stream.
            by = tuple(own for own in state.by if reader.task is not None or call in own.slot.consumes)
            if by:
                return self._certain(slot, Blocked(by, state.sure), "stream")
        if ended:
            return self._certain(slot, Blocked(tuple(pool.waiting)), "left open")
        own_run = self._waiting(lambda own: call in own.consumes or _same_job(own, call))
        return self._certain(slot, Blocked(own_run, sure=False), "stream", reader.idle_s)

    def _certain(self, slot: Slot, state: State, why: str, idle_s: float | None = None) -> Stuck | None:
        """Return the result for a holder in that state; None if the state is uncertain and too recent."""
        if not isinstance(state, Blocked) or not state.by:
            return None
        if not state.sure and not slot.call.lent:
            ages_s = [own.age_s for own in state.by]
            if idle_s is not None:
                ages_s.append(self._now_s - idle_s)
            if min(ages_s) < GUESS_S:
                return None
        return Stuck(slot, state.by, why, state.sure)

    def _waiting(self, is_one: Callable[[Slot], bool]) -> tuple[Waiter, ...]:
        """Return the waiting calls of dead backends for which `is_one(slot)` is true."""
        return tuple(own for key in self._dead for own in self.pools[key].waiting if is_one(own.slot))

    # -- code --------------------------------------------------------------------------

    def _code(self, slot: Slot) -> State:
        """Return the state of the code that holds the slot, or reads the answer that holds it."""
        if slot.task is None:
            ended = slot.alive is not None and slot.alive() is None
            return Other.GONE if ended else self._thread(slot.thread)
        loop = self._loop(slot)
        if loop is not Other.MOVES:
            return loop
        task = slot.task()
        if task is None or task.done():
            return Other.GONE
        # A limit around the block that holds the slot ends the block with the wait: its code cannot go on.
        return Other.MOVES if time_limit(task, inside=slot.call) else self._task(task)

    def _loop(self, slot: Slot) -> State:
        """Return whether the thread of the slot's event loop is blocked."""
        task = None if slot.task is None else slot.task()
        loop = None if task is None else task.get_loop()
        if loop is not None and loop.is_closed():
            return Other.MOVES  # the slots of its coroutines are released
        thread = stdlib.thread_of(loop, slot.thread)
        if thread is None:
            # The loop does not run now; the thread that ran it last will run it again, if it can.
            waiter = self._by_thread.get(slot.thread)
            return self._granted_later(waiter) if waiter is not None else Other.MOVES
        state = self._thread(thread, main=False)
        if state is Other.WAITS and (by := self._awaited(loop, thread)):
            return Blocked(by, sure=False)
        return state if isinstance(state, Blocked) or state is Other.WAITS else Other.MOVES

    def _awaited(self, loop: Any, thread: int) -> tuple[Waiter, ...]:
        """Return the calls that the code which blocks the loop's thread may wait for.

        Other code has to notify that thread: perhaps another thread of the same run, whose call waits.
        """
        context = stdlib.context_of(stdlib.running_task(loop))
        run = None if context is None else context.get(RUN)
        if run is None:
            return ()
        job = run.driver, run.job
        return self._waiting(lambda own: own.thread != thread and (own.terms.driver, own.terms.job) == job)

    def _granted_later(self, waiter: Waiter) -> State:
        dead = waiter.key in self._dead or waiter.limit in self._dead
        return Blocked((waiter,)) if dead else Other.MOVES

    def _thread(self, thread: int, *, main: bool = True) -> State:
        """Return the state of a thread; with `main`, of the task until which it runs an event loop."""
        waiter = self._by_thread.get(thread)
        if waiter is not None:
            return self._granted_later(waiter)
        at = thread, main
        if at not in self._memo:
            self._memo[at] = Other.MOVES  # as long as it depends on itself
            state = self._resolved(self._threads.state(thread))
            if state is Other.MOVES and main and (task := self._threads.main_task(thread)) is not None:
                state = self._state(task)
            self._memo[at] = state
        return self._memo[at]

    def _state(self, future: Any) -> State:
        """Return the state of a task, or of a future of asyncio or of a pool."""
        if future.done():
            return Other.MOVES
        if hasattr(future, "get_coro"):
            return Other.MOVES if self._limited(future) else self._task(future)
        if future not in self._memo:
            self._memo[future] = Other.MOVES
            self._memo[future] = self._unresolved(future)
        return self._memo[future]

    def _limited(self, task: Any) -> bool:
        """Return whether a time limit ends the task's wait, on a loop that can run its timer."""
        if not time_limit(task):
            return False
        thread = stdlib.thread_of(task.get_loop(), 0)
        return not thread or self._thread(thread, main=False) is Other.MOVES

    def _task(self, task: Any) -> State:
        """Return the state of a task, without its time limits."""
        waiter = self._by_task.get(task)
        if waiter is not None:
            return self._granted_later(waiter)
        if task not in self._memo:
            self._memo[task] = Other.MOVES
            self._memo[task] = self._resolved(stdlib.task_state(task))
        return self._memo[task]

    def _unresolved(self, future: Any) -> State:
        thread = self._threads.runner(future)
        if thread is not None:
            state = self._thread(thread)
            return Other.MOVES if state is Other.GONE else state
        pool = self._threads.pool(future)
        if pool is not None:
            if any(own.slot.may_lend and own.slot.thread in pool.threads for own in self._waiters()):
                return Other.MOVES
            state = together([self._thread(thread) for thread in pool.threads], every=False)
            if isinstance(state, Blocked):
                self._occupied.append((pool.executor, state.by))
            return state
        behind = stdlib.behind_of(future)
        return Other.MOVES if behind is None else self._resolved(behind)

    def _waiters(self) -> Iterator[Waiter]:
        yield from self._by_thread.values()
        yield from self._by_task.values()

    def _resolved(self, wait: Wait | Other) -> State:
        if not isinstance(wait, Wait):
            return wait
        states = [self._thread(on) if isinstance(on, int) else self._state(on) for on in wait.on]
        return together(states, every=wait.every)


def _same_job(one: Slot, other: Slot) -> bool:
    """Return whether both belong to the same run."""
    return other.terms.job is not None and (one.terms.driver, one.terms.job) == (
        other.terms.driver,
        other.terms.job,
    )


def _around(slot: Slot) -> Iterator[Any]:
    """Iterate over the calls that the slot's code is part of, from the inside out."""
    call = slot.call if slot.call is not slot else getattr(slot, "around", None)
    while call is not None:
        yield call
        call = call.around
