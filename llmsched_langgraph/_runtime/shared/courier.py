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
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE
from llmsched_langgraph._ledger.redis.client import Answer, BackendLevel, LedgerClient
from llmsched_langgraph._ledger.redis.encoding import encoded
from llmsched_langgraph._ledger.values import (
    FIRST_COME,
    Change,
    Configure,
    Force,
    Key,
    LedgerView,
    Measure,
    News,
    Rekey,
    Release,
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

KEPT = 10_000
"""Number of changes from which those of calls that have ended are not kept for a server that is away."""

LEAVE_S = 2.0
"""Seconds for which the exit of the process waits until the thread has given up the lease."""


_CURE = (
    "see that the server runs, that this machine reaches it, and that user, password and rediss:// "
    "(only with TLS) are right; llmsched doctor examines it"
)

_FALLBACKS = {
    "wait": 'go on waiting until it is back (fallback="wait")',
    "fail": 'fail at once (fallback="fail")',
    "local": 'are served on this process\'s share of the slots (fallback="local")',
}


class Mirror(Protocol):
    """What the thread needs of the ledger of this process."""

    lost: int
    unreachable: LedgerUnreachableError | None
    processes: int
    alone: set[int]

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

    def fall_back(self) -> None:
        """Have calls that wait do what they do while the server is unreachable."""

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
        handed: number of the last change that was taken over from the ledger, and is kept until it is sent.
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
        self._kept: list[Change] = []  # that were not handed to the client yet
        self._closing = False
        self._process = os.getpid()
        _couriers.add(self)
        _register()

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
        if self._sends.join(LEAVE_S):
            self._disconnect()

    def _disconnect(self) -> None:
        """Give up the lease. Where the server is unreachable, it ends by itself, and nobody waits for it."""
        client, self._client = self._client, None
        if client is not None:
            client.close(tell=self._mirror.unreachable is None)

    # -- the thread that sends ---------------------------------------------------------

    def _send(self) -> bool:
        """Do one piece of work; return False if there is none."""
        out = self._mirror.out(self.handed)
        if not (out or self._kept or self._pause_s or self._mirror.busy):
            if self._closing:
                self._disconnect()
            return False
        wait_s = self._due_s - time.monotonic()
        if wait_s > 0.0 and (self._pause_s or not (out or self._kept)):
            self._wait(wait_s)
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

    def _wait(self, wait_s: float) -> None:
        """Wait at most `wait_s` seconds until a change is committed."""
        with suppress(Empty):
            self._rings.get(timeout=wait_s)
            while True:
                self._rings.get_nowait()

    def _exchange(self, out: Sequence[tuple[int, Change]]) -> Answer:
        self._keep(out)
        client = self._client
        if client is None:
            client = self._client = self._connect()
            client.restore = self._restored
        if self._offset_s is None:
            self._measure(client)
        changes = [] if client.unsent else [self._at_server(change) for change in self._kept]
        # A further attempt of a call keeps its arrival, and waits in any case.
        first = {own.ticket for own in changes if isinstance(own, Request) and not own.arrival}
        if changes:
            try:
                client.take(*changes, admit=True, bounded=first)
            except Exception:  # one of them cannot be encoded: nothing was taken
                changes = [_encodable(change) for change in changes]
                client.take(*changes, admit=True, bounded=first)
            self._kept = []
        try:
            return client.apply()
        except KeyError as error:  # the server lost its backends, and those of this batch
            logger.warning("the shared ledger did not know backend %s; it is told again", error)
            backends = [Configure(own.backend) for own in self._mirror.view().backends.values()]
            return client.apply(*backends, *changes, admit=True, bounded=first)

    def _keep(self, out: Sequence[tuple[int, Change]]) -> None:
        """Take over changes that were committed, but for calls that were given up before they were sent.

        If there are very many, because the server is away for long, also but for those that were served
        meanwhile and have ended: what they used counts against no rate.
        """
        changes, alone = [*self._kept, *(change for _, change in out)], self._mirror.alone
        many = self._pause_s > 0.0 and len(changes) > KEPT
        asked = {own.ticket for own in changes if isinstance(own, Request) and (many or not own.forced)}
        gone = asked.intersection(own.ticket for own in changes if isinstance(own, Release))
        if many:
            alone.difference_update(gone)
        else:
            gone -= alone
        ended = Request | Release | Measure
        self._kept = [own for own in changes if not (isinstance(own, ended) and own.ticket in gone)]
        if out:
            self.handed = out[-1][0]

    def _measure(self, client: LedgerClient) -> None:
        """Register, and ask for the server's clock."""
        clock = self._mirror.clock
        before_s = clock()
        answer = client.apply()
        self._offset_s = answer.now_s - (before_s + clock()) / 2
        self._mirror.tell(answer.news)
        if answer.changed:
            logger.warning(
                "the shared ledger at %s had other settings (%s): those of this process count for all "
                "from now on. Give all processes the same settings",
                client.url,
                answer.changed,
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
        self._pause_s, mirror.processes = 0.0, answer.workers
        mirror.show(answer.levels, self._offset_s)
        mirror.tell(answer.news)  # before anything that may fail
        if not self._kept and (alone := tuple(mirror.alone)):  # the server knows all of them
            forced = [Force(ticket) for ticket in sorted(mirror.view().holding.keys() & alone)]
            mirror.tell(client.apply(*forced).news)
            mirror.alone.difference_update(alone)
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
        return [_encodable(self._at_server(request)) for request in requests]

    def _unreachable(self, error: LedgerUnreachableError) -> None:
        mirror, (first_s, longest_s) = self._mirror, AGAIN_S
        error = LedgerUnreachableError(f"{str(error).rstrip('.')}; {_CURE}")
        if mirror.unreachable is None:
            logger.warning("%s. Calls that wait %s", error, _FALLBACKS[mirror.fallback])
        mirror.unreachable = error
        self._pause_s = min(2 * self._pause_s, longest_s) if self._pause_s else first_s
        self._due_s = time.monotonic() + self._pause_s
        mirror.fall_back()

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


def _encodable(change: Change) -> Change:
    """Return the change without what cannot be sent, such as a key whose numbers are none.

    Nothing else is lost: the call is requested, the slot is released.
    """
    try:
        encoded(change)
    except Exception as error:
        logger.error("%s; its call goes on without this", error)
        match change:
            case Request() | Rekey():
                key = FIRST_COME if change.key is None else change.key
                return change._replace(key=Key(key.level, tenant=key.tenant))
            case Release():
                return Release(change.ticket)
            case Measure():
                return Measure(change.ticket, UNKNOWN_USAGE)
    return change


_couriers: weakref.WeakSet[Courier] = weakref.WeakSet()


_registered = False
"""Whether the functions below are registered with `multiprocessing`; a forked child inherits it, and them."""


def _register() -> None:
    """Have children of `multiprocessing`, which skip `atexit`, give up their leases at their end."""
    global _registered
    if not _registered and (util := sys.modules.get("multiprocessing.util")) is not None:
        _registered = True
        util.register_after_fork(_leave, _in_child)
        _in_child(_leave)


def _in_child(leave: Callable[[], None]) -> None:
    """Register anew: a child of `multiprocessing` forgets what its parent has registered for its own end."""
    util = sys.modules["multiprocessing.util"]
    util.Finalize(None, leave, exitpriority=10)  # of an object, it would be called at the object's end


@atexit.register
def _leave() -> None:
    """Give up leases at once, so that others need not wait for their end."""
    for courier in tuple(_couriers):
        courier.leave()
