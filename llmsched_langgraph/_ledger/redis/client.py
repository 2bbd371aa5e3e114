"""Implements the client of a ledger that is stored in Redis or Valkey.

Does not decide anything: the scripts do. A client is one worker with one lease. It waits for its server, so
it belongs to a thread of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from llmsched_langgraph._arguments import is_number
from llmsched_langgraph._ledger.auto import Auto
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.redis.connection import connected, shown
from llmsched_langgraph._ledger.redis.encoding import (
    Encoded,
    Shared,
    encoded,
    encoded_backend,
    encoded_shared,
    from_json,
    grant_of,
    refusal_of,
    to_json,
)
from llmsched_langgraph._ledger.redis.script import digest, script
from llmsched_langgraph._ledger.redis.snapshots import Snapshot, check_snapshot, snapshot_of
from llmsched_langgraph._ledger.values import Change, Configure, Granted, Lost, News, Release, Request
from llmsched_langgraph.errors import ConfigurationError, LedgerUnreachableError

FORMAT = 1
"""Version of what is stored; another one begins with an empty ledger."""

LEASE_S = 5.0
"""Default length of a lease, in seconds."""


class BackendLevel(NamedTuple):
    """A backend for all workers: its limit of slots, the end of its pause, slots held, calls that wait."""

    slots: int
    opens_s: float
    holding: int
    waiting: int


class Answer(NamedTuple):
    """What a call of the client brought.

    Attributes:
        news: new grants of this worker in their order, losses (the tickets of a lease that had ended), and
            refusals. Those of one call come before its grants, except for losses, which come first.
        wake_s: time of the server's clock at which a grant becomes possible by time alone; None for never.
        now_s: the server's clock.
        lease_until_s: when the worker's lease ends unless another call renews it, by the same clock.
        changed: what registering changed of the settings that other workers had brought, in words; empty for
            nothing.
        workers: number of workers with a lease, this one included.
        levels: the backends that the call has changed, by name.
    """

    news: tuple[News, ...]
    wake_s: float | None
    now_s: float
    lease_until_s: float
    changed: str = ""
    workers: int = 1
    levels: Mapping[str, BackendLevel] = MappingProxyType({})


class LedgerClient:
    """One worker of a shared ledger.

    Times of keys, and those that are returned, are seconds of the server's clock (Unix time).

    Args:
        url: where the server is: `redis://`, `rediss://` or `unix://`, with a user and a password if needed.
        name: the name of the scheduler; those of equal names share a ledger.
        shared: the settings that all workers share.
        backends: the backends; more may follow by `Configure`.
        lease_s: length of the lease, in seconds. Each `apply` renews it.
        worker: what this worker is called in views, such as a host name and a process number.
        timeout_s: maximum seconds for connecting, and for one answer.

    Attributes:
        restore: returns the changes that bring lost tickets back after a lease has ended; None for none.

    Raises:
        ConfigurationError: the URL or the lease is invalid, the name is empty, or the package redis is not
            installed.
    """

    def __init__(
        self,
        url: str,
        name: str,
        shared: Shared,
        backends: Iterable[Backend],
        *,
        lease_s: float = LEASE_S,
        worker: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        if not name:
            raise ConfigurationError("a scheduler that shares a ledger needs a name that is not empty")
        if not (is_number(lease_s) and lease_s > 0.0):
            raise ConfigurationError(f"a lease needs a positive number of seconds, not {lease_s!r}")
        self.url = shown(url)
        self.prefix = f"llmsched:{FORMAT}:{{{quote(name, safe='')}}}:"
        self._server = connected(url, timeout_s)
        # If nobody closes it: a collected socket that is open brings a warning.
        weakref.finalize(self, self._server.connection_pool.disconnect).atexit = False
        self._shared = shared
        self._backends = {own.name: own for own in backends}
        self._lease_s = lease_s
        self._name = worker
        self._worker: int | None = None
        self._registered = False
        self._token = ""
        self._heard = 0
        self._batch = 0
        self._unsent: list[tuple[int, tuple[Change, ...], bytes]] = []  # with their JSON
        self._requests: dict[int, Request] = {}  # of the tickets that wait or hold a slot
        self._news: list[News] = []  # of calls that then failed
        self.restore: Callable[[Sequence[int]], Sequence[Change]] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} {self.prefix} worker {self._worker}>"

    @property
    def lease_s(self) -> float:
        """Length of the lease, in seconds."""
        return self._lease_s

    @property
    def worker(self) -> int | None:
        """The worker's number; None until the first `apply`. It changes when a lease has ended."""
        return self._worker

    @property
    def unsent(self) -> bool:
        """Whether changes were taken that the server has not confirmed."""
        return bool(self._unsent)

    @property
    def channel(self) -> str:
        """The channel on which this worker is woken when another one's call granted it a slot."""
        return f"{self.prefix}granted:{self._worker}"

    # -- changes -----------------------------------------------------------------------

    def apply(
        self,
        *changes: Change,
        now: float | None = None,
        admit: bool = False,
        bounded: Container[int] = (),
    ) -> Answer:
        """Apply the changes in order, at once or not at all; grant all that can be granted; renew the lease.

        Without changes, it only asks for news. If it fails, the changes are kept, and the next call sends
        them first: they count once.

        Args:
            changes: the changes. Tickets and jobs are numbers of this worker.
            now: the clock, for tests; None for the server's.
            admit: whether requests take a free slot at once if no ticket waits, as `Ledger.admit` does.
            bounded: the tickets whose requests are refused where no more calls may wait, by `max_queued` of a
                backend or a tenant. Further attempts of a call wait in any case.

        Raises:
            LedgerUnreachableError: the server did not answer.
            KeyError: a request names a backend that the ledger does not have; nothing is changed.
            ValueError: a key is invalid; nothing is changed.
        """
        if changes or not self._unsent:
            self.take(*changes, admit=admit, bounded=bounded)
        changed = ""
        while True:
            number, batch, text = self._unsent[0]
            answer = self._call(now, number, text)
            if "unknown" in answer:
                self._unsent.pop(0)
                raise KeyError(answer["unknown"])
            told = answer["answer"]
            if self._worker is None:
                self._worker, self._registered = told["worker"], True
                changed = ", ".join(told["others"])
            if told["lost"]:
                self._lose()
                continue
            self._unsent.pop(0)
            self._note(batch, answer)
            if not self._unsent:
                break
        news, self._news = tuple(self._news), []
        levels = {name: BackendLevel(*own) for name, *own in answer["levels"]}
        for name, level in levels.items():  # another worker may have changed them
            known = self._backends.get(name)
            if known is not None and not isinstance(known.slots, Auto) and known.slots != level.slots:
                self._backends[name] = replace(known, slots=level.slots)
        wake_s = told.get("wake_s")
        wake_s = None if wake_s is None else float(wake_s)
        return Answer(
            news,
            wake_s,
            float(told["now"]),
            float(answer["until_s"]),
            changed,
            int(told["workers"]),
            levels,
        )

    def take(self, *changes: Change, admit: bool = False, bounded: Container[int] = ()) -> None:
        """Keep the changes for the next `apply`, all or none of them; see there.

        Raises:
            ValueError, TypeError: a change cannot be encoded, because of a key that is invalid, for example.
        """
        fields = [
            encoded(own, admit=admit, bounded=isinstance(own, Request) and own.ticket in bounded)
            for own in changes
        ]
        self._unsent.append((self._batch + 1, changes, to_json(fields)))  # that cannot fail later
        self._batch += 1

    def _call(self, now: float | None, number: int, changes: bytes) -> Any:
        self._token = self._token or token_hex(8)
        command = self._command() | {"batch": number}
        if now is not None:
            command["now"] = now
        if self._worker is None:
            command["name"] = self._name
            command["again"] = self._registered
            command["settings"] = encoded_shared(self._shared)
            command["backends"] = [encoded_backend(own) for own in self._backends.values()]
        else:
            command["worker"] = self._worker
        return self._run("apply", to_json(command), changes)

    def _command(self) -> Encoded:
        return {"token": self._token, "lease_s": self._lease_s, "heard": self._heard}

    def _note(self, batch: Iterable[Change], answer: Any) -> None:
        """Take over what the server answered to a batch."""
        released: dict[int, Request] = {}
        for change in batch:
            if isinstance(change, Request):
                self._requests.setdefault(change.ticket, change)
            elif isinstance(change, Release):
                if (request := self._requests.pop(change.ticket, None)) is not None:
                    released[change.ticket] = request
            elif isinstance(change, Configure):
                self._backends[change.backend.name] = change.backend
        first, news = answer["told"], answer["news"]
        for fields in news[max(0, self._heard - first) :]:
            request = self._requests.get(fields[0]) or released.get(fields[0])
            if fields[1] == "refused":
                self._requests.pop(fields[0], None)
                self._news.append(refusal_of(fields))
            elif request is not None:  # else an earlier batch released it
                self._news.append(Granted(request.ticket, grant_of(fields, request, answer["until_s"])))
        self._heard = max(self._heard, first + len(news))

    def _lose(self) -> None:
        """The lease had ended: all tickets are lost but those that are still to be sent. Register anew."""
        unsent = [change for _, batch, _ in self._unsent for change in batch]
        ended = {change.ticket for change in unsent if isinstance(change, Release)}
        lost = [ticket for ticket in sorted(self._requests) if ticket not in ended]
        self._news += [Lost(ticket) for ticket in lost]
        self._requests.clear()
        self._worker, self._token, self._heard = None, "", 0
        again = () if self.restore is None else tuple(self.restore(lost))
        if again:  # before what is still to be sent: a slot that is held must not be granted first
            self._unsent.insert(0, (0, again, to_json([encoded(own, admit=True) for own in again])))
        self._unsent = [(number, own[1], own[2]) for number, own in enumerate(self._unsent, 1)]
        self._batch = len(self._unsent)

    def close(self, now: float | None = None, *, tell: bool = True) -> None:
        """Give up the lease and all tickets, and disconnect. An unreachable server is left to the lease.

        Args:
            now: the clock, for tests; None for the server's.
            tell: whether to tell the server; else the lease ends by itself.
        """
        if tell and self._worker is not None:
            command = self._command() | {"worker": self._worker, "batch": 0, "close": True}
            if now is not None:
                command["now"] = now
            try:
                self._run("apply", to_json(command), b"[]")
            except LedgerUnreachableError:
                pass
        self._worker = None
        self._server.close()

    # -- what is seen ------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the whole ledger, with the tickets of all workers. O(tickets): for display and checks."""
        return self.decoded(self.stored())

    def check(self, now: float | None = None) -> None:
        """Raise AssertionError unless every invariant holds of what is stored, at the last call or `now`."""
        stored = self.stored("indexes")
        check_snapshot(stored, self.decoded(stored), now)

    def stored(self, detail: Literal["", "brief", "indexes"] = "") -> Any:
        """Return what is stored: with "indexes" what a check needs, with "brief" no tickets and lanes."""
        return self._run("view", detail.encode())

    def decoded(self, stored: Any) -> Snapshot:
        """Return what is stored as values."""
        return snapshot_of(stored, self._worker, self._requests, self._backends)

    def ask(self, command: str) -> Any:
        """Return the server's answer to a command without arguments, which must be one that only reads.

        Raises:
            LedgerUnreachableError: the server did not answer, or refuses the command.
        """
        import redis

        try:
            return self._server.execute_command(command)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise self._failed(error) from None

    def wakes(self, timeout_s: float) -> Iterator[bool]:
        """Yield whether another worker's call woke this one, each time within `timeout_s`, for ever.

        It has a connection of its own, and belongs to a thread of its own. Messages may be lost: call `apply`
        within the lease in any case.

        Raises:
            LedgerUnreachableError: the connection is lost. Begin anew, after a call of `apply`.
        """
        import redis

        listener: Any = self._server.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        listened = ""
        try:
            while True:
                try:
                    if self._worker is not None and self.channel != listened:
                        if listened:
                            listener.unsubscribe()
                        listener.subscribe(listened := self.channel)
                    message = listener.get_message(timeout=timeout_s)
                except (redis.RedisError, OSError, ValueError) as error:  # the last: `close` closed it
                    raise self._failed(error) from None
                yield message is not None
        finally:
            listener.close()

    def _run(self, main: str, *arguments: bytes) -> Any:
        """Run a script at the server, which may not have it yet."""
        import redis

        try:
            try:
                text = self._server.evalsha(digest(main), 1, self.prefix, *arguments)
            except redis.exceptions.NoScriptError:
                text = self._server.eval(script(main), 1, self.prefix, *arguments)
        except redis.RedisError as error:
            raise self._failed(error) from None
        assert isinstance(text, bytes)
        return from_json(text)

    def _failed(self, error: Exception) -> LedgerUnreachableError:
        return LedgerUnreachableError(f"the ledger at {self.url}: {type(error).__name__}: {error}")
