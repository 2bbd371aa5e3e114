"""Carries changes to the server of a shared ledger, and news back, in a thread that exists while needed.

Does not keep tickets: the ledger does. The thread sends what was committed as soon as it is committed; while
tickets wait or hold slots, it renews the lease and asks for news. A second thread listens for messages of
other processes' calls while tickets wait. Both are optional for progress: a lost message is made good by the
next question, and a lost connection by the next try.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf, isnan
from queue import Empty, SimpleQueue
from typing import Protocol

from llmsched_langgraph._background import Background
from llmsched_langgraph._ledger.preview import Next
from llmsched_langgraph._ledger.redis.client import Answer, BackendLevel, LedgerClient
from llmsched_langgraph._ledger.values import (
    Change,
    Configure,
    Force,
    Grant,
    Granted,
    Key,
    LedgerView,
    News,
    Rekey,
    Request,
)
from llmsched_langgraph.errors import LedgerUnreachableError, SchedulerClosedError

logger = logging.getLogger("llmsched_langgraph")

RECHECK_S = 0.5
"""Seconds between two questions for news while tickets wait: a message that wakes may be lost."""

RENEWALS = 3.0
"""How often a lease is renewed while it lasts."""

AGAIN_S = 0.05, 1.0
"""First and longest pause between two tries to reach the server; each is twice the last."""

LEAVE_S = 2.0
"""Seconds for which the exit of the process waits until the thread has given up the lease."""


class Mirror(Protocol):
    """What the thread needs of the ledger of this process."""

    lost: int
    unreachable: LedgerUnreachableError | None

    @property
    def clock(self) -> Callable[[], float]:
        """The clock of this process."""

    @property
    def fallback(self) -> str:
        """What happens to calls that wait while the server is unreachable."""

    def out(self, handed: int) -> Sequence[tuple[int, Change]]:
        """Return the committed changes with a number above `handed`."""

    def view(self) -> LedgerView:
        """Return the tickets of this process."""

    @property
    def waits(self) -> bool:
        """Whether a ticket of this process waits."""

    @property
    def busy(self) -> bool:
        """Whether one waits or holds a slot."""

    def requests(self, tickets: Sequence[int]) -> list[Request]:
        """Return requests that bring these tickets back to a server that does not know them."""

    def preview(self, now: float, name: str) -> list[Next]:
        """Return the tickets that wait at a backend, first the one to serve first."""

    def tell(self, news: Sequence[News]) -> None:
        """Take over news, and have them settled."""

    def show(self, levels: Mapping[str, BackendLevel], offset_s: float) -> None:
        """Take over how backends are for all processes; the server's clock is ahead by `offset_s`."""

    def fail(self, error: Exception) -> None:
        """End all waits with the error."""


class Courier:
    """The threads of one shared ledger in this process.

    Args:
        mirror: the ledger.
        connect: returns the client; called in the thread.

    Attributes:
        handed: number of the last change that was handed to the client, which keeps it until it is sent.
    """

    def __init__(self, mirror: Mirror, connect: Callable[[], LedgerClient]) -> None:
        self.handed = 0
        self._mirror = mirror
        self._connect = connect
        self._client: LedgerClient | None = None
        self._rings: SimpleQueue[None] = SimpleQueue()
        self._sends = Background("llmsched-ledger", self._send, end_s=0.0)
        self._listens = Background("llmsched-ledger-news", self._listen, end_s=0.0)
        self._offset_s: float | None = None  # the server's clock minus that of this process
        self._due_s = -inf  # when to ask the server next, by `time.monotonic`
        self._pause_s = 0.0  # before the next try; 0 if the last one succeeded
        self._processes = 1
        self._alone: set[int] = set()  # tickets that were served while the server was unreachable
        self._closing = False
        self._process = os.getpid()
        _couriers.add(self)
        _at_exit(self)
        if (util := sys.modules.get("multiprocessing.util")) is not None:
            util.register_after_fork(self, _at_exit)

    def ring(self, _: object = None) -> None:
        """Announce that something was committed. Never blocks; legal in any thread."""
        self._rings.put(None)
        self._sends.there_is_work()

    def close(self) -> None:
        """Give up the lease when no ticket is left. Does not wait."""
        self._closing = True
        self.ring()

    def leave(self) -> None:
        """Give up the lease now, with all tickets: the process ends, and later calls raise an error."""
        if self._process != os.getpid():
            return  # the lease is the parent's
        self._mirror.fail(SchedulerClosedError("the process ends, and its lease of shared slots with it"))
        self._sends.stop()
        self._listens.stop()
        self._rings.put(None)
        if self._sends.join(LEAVE_S) and (client := self._client) is not None:
            self._client = None
            client.close()

    # -- the thread that sends ---------------------------------------------------------

    def _send(self) -> bool:
        """Do one piece of work; return False if there is none."""
        out = self._mirror.out(self.handed)
        if not (out or self._pause_s or self._mirror.busy):
            if self._closing and (client := self._client) is not None:
                self._client = None
                client.close()
            return False
        wait_s = self._due_s - time.monotonic()
        if wait_s > 0.0 and (self._pause_s or not out):
            if self._wait(wait_s) and self._pause_s:
                self._fall_back()  # for what was committed meanwhile
            return True
        try:
            answer = self._exchange(self._mirror.out(self.handed))
            self._reached(answer)
        except LedgerUnreachableError as error:
            self._unreachable(error)
        except Exception as error:  # nothing of it is lost: the next try has it
            logger.exception("the shared ledger's thread failed, and tries again")
            self._unreachable(LedgerUnreachableError(f"{type(error).__name__}: {error}"))
        return True

    def _wait(self, wait_s: float) -> bool:
        """Wait at most `wait_s` seconds until a change is committed; return whether one was."""
        try:
            self._rings.get(timeout=wait_s)
        except Empty:
            return False
        with suppress(Empty):
            while True:
                self._rings.get_nowait()
        return True

    def _exchange(self, out: Sequence[tuple[int, Change]]) -> Answer:
        client = self._client
        if client is None:
            client = self._client = self._connect()
            client.restore = self._restored
        if self._offset_s is None:
            self._measure(client)
        changes = [self._at_server(change) for _, change in out]
        # A further attempt of a call keeps its arrival, and waits in any case.
        first = {own.ticket for own in changes if isinstance(own, Request) and not own.arrival}
        if out:
            self.handed = out[-1][0]
        try:
            return client.apply(*changes, admit=True, bounded=first)
        except KeyError as error:  # the server lost its backends, and those of this batch
            logger.warning("the shared ledger did not know backend %s; it is told again", error)
            backends = [Configure(own.backend) for own in self._mirror.view().backends.values()]
            return client.apply(*backends, *changes, admit=True, bounded=first)

    def _measure(self, client: LedgerClient) -> None:
        """Register, and ask for the server's clock."""
        clock = self._mirror.clock
        before_s = clock()
        answer = client.apply()
        self._offset_s = answer.now_s - (before_s + clock()) / 2
        self._mirror.tell(answer.news)
        if answer.changed:
            logger.warning(
                "the shared ledger at %s had other settings (slots, tenants, overdue, exploration): those of "
                "this process count for all from now on. Give all processes the same settings",
                client.url,
            )

    def _reached(self, answer: Answer) -> None:
        """Settle what the server answered, and bring back what it has lost."""
        mirror, client = self._mirror, self._client
        assert client is not None
        if mirror.unreachable is not None:
            logger.warning("the shared ledger at %s is back", client.url)
            mirror.unreachable = None
            self._offset_s = answer.now_s - mirror.clock()  # it may be another server
        assert self._offset_s is not None
        self._pause_s, self._processes = 0.0, answer.workers
        mirror.show(answer.levels, self._offset_s)
        mirror.tell(answer.news)  # before anything that may fail
        if self._alone:
            forced = [Force(ticket) for ticket in sorted(self._alone & mirror.view().holding.keys())]
            mirror.tell(client.apply(*forced).news)
            self._alone = set()
        wait_s = client.lease_s / RENEWALS
        if mirror.waits:
            wait_s = min(wait_s, RECHECK_S)
            self._listens.there_is_work()
        if answer.wake_s is not None:
            wait_s = min(wait_s, max(0.0, answer.wake_s - answer.now_s))
        self._due_s = time.monotonic() + wait_s

    def _restored(self, tickets: Sequence[int]) -> Sequence[Change]:
        """Return what brings back tickets whose lease had ended.

        Calls in flight count again, above the limit if they must; those that waited wait again.
        """
        requests = self._mirror.requests(tickets)
        flying = sum(request.forced for request in requests)
        self._mirror.lost += flying
        if requests:
            logger.warning(
                "the lease of this process at the shared ledger had ended: others may have taken its slots. "
                "%d calls in flight count again until they end, and %d wait again",
                flying,
                len(requests) - flying,
            )
        return [self._at_server(request) for request in requests]

    def _unreachable(self, error: LedgerUnreachableError) -> None:
        mirror, (first_s, longest_s) = self._mirror, AGAIN_S
        if mirror.unreachable is None:
            logger.warning("%s; calls that wait: %s (fallback)", error, mirror.fallback)
        mirror.unreachable = error
        self._pause_s = min(2 * self._pause_s, longest_s) if self._pause_s else first_s
        self._due_s = time.monotonic() + self._pause_s
        self._fall_back()

    def _fall_back(self) -> None:
        """Do what calls that wait do while the server is unreachable."""
        mirror = self._mirror
        if mirror.fallback == "fail" and mirror.unreachable is not None:
            mirror.fail(mirror.unreachable)
        elif mirror.fallback == "local":
            self._serve_alone()

    def _serve_alone(self) -> None:
        """Grant what this process may grant without the server: its share of the slots."""
        view, now = self._mirror.view(), self._mirror.clock()
        found: list[News] = []
        for name, own in view.backends.items():
            free = max(1, own.slots // max(1, self._processes)) - own.holding
            if own.pause.opens_s > now:
                continue  # it is paused, as far as this process has heard
            for count, one in enumerate(self._mirror.preview(now, name)[: max(0, free)], own.holding + 1):
                lane, _, asked_s, call = one.waits
                grant = Grant(lane, asked_s, now, call, one.reason, count, own.slots)
                found.append(Granted(one.ticket, grant))
        self._alone |= {one.ticket for one in found}
        self._mirror.tell(found)

    def _at_server(self, change: Change) -> Change:
        """Return the change with times of the server's clock."""
        if isinstance(change, Request) and change.key is not None:
            return change._replace(key=self._key(change.key))
        return change._replace(key=self._key(change.key)) if isinstance(change, Rekey) else change

    def _key(self, key: Key) -> Key:
        offset_s = self._offset_s or 0.0
        explore = key.explore
        if explore is not None:
            shifted_s = explore.granted_sum_s + explore.holding * offset_s
            explore = explore._replace(granted_sum_s=shifted_s)
        return key._replace(
            order=0.0 if isnan(key.order) else key.order,
            explore=explore,
            urgent_s=key.urgent_s + offset_s,
            lost_s=key.lost_s + offset_s,
        )

    # -- the thread that listens -------------------------------------------------------

    def _listen(self) -> bool:
        """Listen while tickets wait; return False when none does."""
        client = self._client
        if client is None or not self._mirror.waits:
            return False
        try:
            for woken in client.wakes(RECHECK_S):
                if woken:
                    self._due_s = -inf
                    self.ring()
                if self._listens.stopped(0.0) or not self._mirror.waits:
                    return False
        except LedgerUnreachableError:
            if self._client is not client:
                return False  # it was closed
            self._listens.stopped(AGAIN_S[1])
        return True


_couriers: weakref.WeakSet[Courier] = weakref.WeakSet()


def _at_exit(_: Courier) -> None:
    """Have a child of `multiprocessing`, which skips `atexit`, give up its leases at its end."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, _leave, exitpriority=10)  # of an object, it would be called at the object's end


@atexit.register
def _leave() -> None:
    """Give up leases at once, so that others need not wait for their end."""
    for courier in tuple(_couriers):
        courier.leave()
