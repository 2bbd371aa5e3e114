"""Examines a shared ledger and its server: what is there, what is wrong, and how to cure it.

Does not change anything, and is no worker of the ledger: it only reads.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.redis.client import FORMAT, LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.redis.snapshots import Snapshot, check_snapshot
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._ledger.values import BackendView
from llmsched_langgraph.errors import LedgerUnreachableError

Level = Literal["ok", "warning", "error"]

LEAST = {"Redis": 7, "Valkey": 8}
"""The first version of each kind of server that is supported."""

TIMEOUT_S = 3.0
"""Maximum seconds for connecting, and for one answer."""

CLOCK_S = 5.0
"""Largest difference between two clocks that is not mentioned as a warning."""

FULL = 0.9
"""Part of `maxmemory` from which a server counts as nearly full."""


_FACTS = "server", "eviction", "clock_ahead_s", "format", "ledger", "workers", "backends", "broken"


class Finding(NamedTuple):
    """What one check found; `cure` is empty where there is nothing to do."""

    check: str
    level: Level
    text: str
    cure: str = ""


@dataclass
class Report:
    """What was found at a server.

    Attributes:
        url: the server, without a password.
        name: the name of the ledger.
        findings: in the order of the checks.
        facts: what was seen, in values that JSON has; None for what could not be read.
    """

    url: str
    name: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(_FACTS))

    @property
    def level(self) -> Level:
        """The worst level of all findings."""
        levels = {one.level for one in self.findings}
        return "error" if "error" in levels else "warning" if "warning" in levels else "ok"

    def add(self, check: str, level: Level, text: str, cure: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(check, level, text, cure))


def examined(url: str, name: str, *, quick: bool = False, clock: Callable[[], float] = time.time) -> Report:
    """Examine the server, and the ledger of that name.

    Args:
        url: the URL of the server.
        name: the name of the ledger.
        quick: whether to leave out what takes the longer the more calls wait: the calls of each worker, and
            the search for lost slots.
        clock: the clock of this machine, in Unix time.

    Raises:
        ConfigurationError: the URL is invalid, the name is empty, or the package redis is not installed.
    """
    client = LedgerClient(url, name, Shared(UNBOUNDED, None, NO_TENANTS), (), timeout_s=TIMEOUT_S)
    report = Report(client.url, name)
    report.facts["format"] = FORMAT
    try:
        client.ask("PING")
        _look_at_server(report, client)
        now_s = _look_at_clock(report, client, clock)
        _look_at_ledger(report, client, now_s, quick)
    except LedgerUnreachableError as error:
        report.add(
            "server",
            "error",
            str(error),
            "see that the server runs, that this machine reaches it, and that user, password and rediss:// "
            "(only with TLS) are right",
        )
    finally:
        client.close()
    return report


# -- the server ---------------------------------------------------------------------------


def _look_at_server(report: Report, client: LedgerClient) -> None:
    try:
        told = client.ask("INFO")
    except LedgerUnreachableError as error:
        cure = "let its user run INFO, to have its version and maxmemory-policy checked"
        report.add("server", "warning", f"it answers, and does not say what it is: {error}", cure)
        return
    kind, version = _kind(told)
    report.facts["server"] = {"kind": kind, "version": version}
    least, shown = LEAST.get(kind), f"{kind} {version} at {report.url}"
    if least is None:
        cure = "if calls fail, use Redis 7 or newer, or Valkey 8 or newer"
        report.add("server", "warning", f"{shown}, which is not tested", cure)
    elif int(version.partition(".")[0]) < least:
        report.add("server", "error", shown, f"use {kind} {least} or newer")
    else:
        report.add("server", "ok", shown)
    if told.get("role") == "slave":
        report.add("server", "error", "it is a replica and takes no writes", "use the URL of its primary")
    _look_at_memory(report, told)


def _kind(told: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of the server, and its version."""
    if "valkey_version" in told:
        return "Valkey", str(told["valkey_version"])
    if "dragonfly_version" in told:
        return "Dragonfly", str(told["dragonfly_version"])
    if "redis_version" in told:
        return "Redis", str(told["redis_version"])
    return "an unknown server", "of no version"


def _look_at_memory(report: Report, told: Mapping[str, Any]) -> None:
    policy, most = told.get("maxmemory_policy"), int(told.get("maxmemory", 0))
    report.facts["eviction"] = policy
    if policy is None:
        cure = "see to it that maxmemory-policy is noeviction"
        report.add("eviction", "warning", "the server does not say its maxmemory-policy", cure)
    elif policy == "noeviction":
        report.add("eviction", "ok", "maxmemory-policy is noeviction")
    elif str(policy).startswith("volatile-"):
        report.add("eviction", "ok", f"maxmemory-policy is {policy}: keys without an expiry stay")
    else:
        report.add(
            "eviction",
            "error" if most else "warning",
            f"maxmemory-policy is {policy}: the server removes keys of the ledger when its memory is full"
            + ("" if most else "; no maxmemory is set now"),
            "CONFIG SET maxmemory-policy noeviction, or a server of its own",
        )
    used = int(told.get("used_memory", 0))
    if most and used > FULL * most:
        text = f"{used / most:.0%} of maxmemory is used: a full server takes no more writes"
        report.add("memory", "warning", text, "give it more memory, or a server of its own")


def _look_at_clock(report: Report, client: LedgerClient, clock: Callable[[], float]) -> float:
    """Compare the clocks; return the server's."""
    before_s = clock()
    seconds, microseconds = client.ask("TIME")
    after_s = clock()
    now_s = float(seconds) + float(microseconds) / 1e6
    ahead_s = now_s - (before_s + after_s) / 2
    report.facts["clock_ahead_s"] = round(ahead_s, 6)
    text = f"the server's is {abs(ahead_s):.3f} s {'ahead of' if ahead_s >= 0 else 'behind'} this machine's"
    if abs(ahead_s) <= CLOCK_S:
        report.add("clock", "ok", text)
    else:
        report.add("clock", "warning", f"{text}; leases go by the server's", "set both by NTP")
    return now_s


# -- the ledger ---------------------------------------------------------------------------

UNREADABLE = AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError
"""What reading a damaged ledger can raise."""


def _look_at_ledger(report: Report, client: LedgerClient, now_s: float, quick: bool) -> None:
    try:
        stored = client.stored("brief" if quick else "indexes")
    except LedgerUnreachableError as error:
        report.add(
            "scripts",
            "error",
            str(error),
            "let its user run EVAL and EVALSHA, with all commands on the keys and channels llmsched:*",
        )
        return
    report.add("scripts", "ok", "the server runs them")
    try:
        snapshot = client.decoded(stored)
    except UNREADABLE as error:
        report.facts["ledger"] = True
        _broken(report, client, error)
        return
    there = bool(snapshot.now_s or snapshot.backends)
    report.facts |= {"ledger": there, "workers": [], "backends": []}
    if not there:
        report.add(
            "ledger",
            "warning",
            f"there is none called {report.name!r} (format {FORMAT})",
            "none is needed: the first call of a scheduler makes it. Else name that of Scheduler(name=...)",
        )
        return
    report.add("ledger", "ok", f"{report.name!r} is there, in format {FORMAT}")
    back_s = snapshot.now_s - now_s
    if back_s > CLOCK_S:
        text = f"the server's clock was set back: the ledger's stands still for {back_s:.0f} s"
        report.add("clock", "warning", text, "set the server's clock by NTP")
    _look_at_workers(report, snapshot, max(now_s, snapshot.now_s), quick)
    for name, backend in snapshot.backends.items():
        _look_at_backend(report, name, backend, max(now_s, snapshot.now_s))
    if not quick:
        _look_for_lost_slots(report, client, stored, snapshot)


def _look_at_workers(report: Report, snapshot: Snapshot, now_s: float, quick: bool) -> None:
    if not snapshot.workers:
        report.add("workers", "ok", "no worker has a lease")
    held = Counter(number for number, _ in snapshot.holding)
    waiting = Counter(number for number, _ in snapshot.waiting)
    for number, name in snapshot.workers.items():
        left_s = snapshot.leases[number] - now_s
        facts = {"name": name, "lease_left_s": round(left_s, 3)}
        text = f"{name!r}: "
        if not quick:
            facts |= {"held": held[number], "waiting": waiting[number]}
            text = f"{name!r} holds {held[number]}, {waiting[number]} wait; "
        report.facts["workers"].append(facts)
        if left_s > 0.0:
            report.add("worker", "ok", f"{text}its lease has {left_s:.1f} s left")
        elif held[number] or waiting[number]:
            text += f"its lease ended {-left_s:.1f} s ago: it was killed, or cannot reach the server"
            report.add("worker", "warning", text, "the next call of any other worker frees what it holds")
        else:
            report.add("worker", "ok", f"{text}its lease ended {-left_s:.1f} s ago: it is idle, or gone")


def _look_at_backend(report: Report, name: str, backend: BackendView, now_s: float) -> None:
    paused_s = max(0.0, backend.pause.opens_s - now_s)
    slots, held = backend.slots, backend.holding
    report.facts["backends"].append(
        {
            "name": name,
            "slots": slots,
            "held": held,
            "waiting": backend.waiting,
            "paused_s": round(paused_s, 3),
        }
    )
    text = f"{name!r} has {slots} slots, {held} held, {backend.waiting} waiting"
    if paused_s > 0.0:
        text += f"; paused for {paused_s:.1f} s more, because it refused calls"
        report.add("backend", "warning", text, "none is needed; fewer slots if it comes again")
    elif held > slots:
        text += ": more than there are, of calls that could not wait or whose lease had ended"
        report.add("backend", "warning", text, "none is needed: no other is granted until enough have ended")
    else:
        report.add("backend", "ok", f"{text}, no pause")


def _look_for_lost_slots(report: Report, client: LedgerClient, stored: Any, snapshot: Snapshot) -> None:
    if not __debug__:
        report.add("slots", "warning", "not checked: Python runs with -O", "run without -O, PYTHONOPTIMIZE")
        return
    try:
        check_snapshot(stored, snapshot, None)
    except UNREADABLE as error:
        _broken(report, client, error)
    else:
        report.add("slots", "ok", "none is lost: every invariant holds")


def _broken(report: Report, client: LedgerClient, error: Exception) -> None:
    """Tell of a ledger that is damaged."""
    broken = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    report.facts["broken"] = broken = broken or "its numbers contradict each other"
    report.add(
        "slots",
        "error",
        f"the ledger is damaged, and slots may be lost: {broken}",
        f"stop its workers, delete the keys {client.prefix}*, and start them again",
    )
