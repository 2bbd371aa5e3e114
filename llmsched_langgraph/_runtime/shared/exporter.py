"""Collects the metrics of a shared ledger from its server, for Prometheus.

Does not serve them, and is no worker of the ledger: it only reads.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.redis.snapshots import Snapshot
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._observe.bounds import Bounded
from llmsched_langgraph._observe.metrics import (
    ALL_CLOSED,
    ALL_DEPTH,
    ALL_GRANTED,
    ALL_IN_USE,
    ALL_LIMIT,
    ALL_PAUSED,
    LEDGER,
    SHARED_COUNTERS,
    SHARED_GAUGES,
    SHARED_METRICS,
    TENANT_DEPTH,
    TENANT_IN_USE,
    UP,
    WORKERS,
    Labels,
    Metric,
)
from llmsched_langgraph._observe.prometheus import counter_of, gauge_of
from llmsched_langgraph._runtime.shared.doctor import TIMEOUT_S, UNREADABLE
from llmsched_langgraph.errors import LedgerUnreachableError

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    Family = CounterMetricFamily | GaugeMetricFamily

_ACCOUNT = re.compile("#[0-9a-f]{12}$")
"""What the name of a backend's account ends in. The ledger does not say which backends have accounts."""


class LedgerCollector:
    """Reads the ledger at each scrape. Thread-safe.

    Args:
        url: the server.
        name: the name of the ledger.
        quick: whether to leave out what takes the longer the more calls wait: the numbers of each tenant.
        tell: receives one line when the server cannot be read, and one when it can be read again.

    Raises:
        ConfigurationError: the URL is invalid, the name is empty, or the package redis is not installed.
    """

    def __init__(self, url: str, name: str, *, quick: bool, tell: Callable[[str], object]) -> None:
        self._client = LedgerClient(url, name, Shared(UNBOUNDED, None, NO_TENANTS), (), timeout_s=TIMEOUT_S)
        self.url = self._client.url
        self._name = name
        self._quick = quick
        self._tell = tell
        self._lock = threading.Lock()
        self._up = True
        self._backends, self._tenants = Bounded(), Bounded()

    def describe(self) -> Iterable[Family]:
        """Return the metrics without values."""
        return [
            counter_of(metric, LEDGER) if metric in SHARED_COUNTERS else gauge_of(metric, LEDGER)
            for metric in SHARED_METRICS
        ]

    def collect(self) -> Iterator[Family]:
        """Yield the metrics; `llmsched_up` alone, which is 0, if the server cannot be read."""
        with self._lock:
            snapshot = self._read()
        up = gauge_of(UP, LEDGER)
        up.add_metric((self._name,), float(snapshot is not None))
        yield up
        if snapshot is None:
            return
        now_s, snap = snapshot
        values = self._values(now_s, snap)
        for metric in (*SHARED_GAUGES, *SHARED_COUNTERS):
            if self._quick and metric in (TENANT_IN_USE, TENANT_DEPTH):
                continue
            family: Family = (
                counter_of(metric, LEDGER) if metric in SHARED_COUNTERS else gauge_of(metric, LEDGER)
            )
            for labels, value in values[metric].items():
                family.add_metric((self._name, *labels), value)
            yield family

    def _read(self) -> tuple[float, Snapshot] | None:
        try:
            seconds, microseconds = self._client.ask("TIME")
            snapshot = self._client.decoded(self._client.stored("brief" if self._quick else ""))
        except LedgerUnreachableError as error:
            self._away(f"{error}; llmsched_up is 0 until it answers: see llmsched doctor")
            return None
        except UNREADABLE as error:
            text = f"the ledger {self._name!r} at {self.url} is damaged ({type(error).__name__})"
            self._away(f"{text}; llmsched_up is 0: see llmsched doctor")
            return None
        if not self._up:
            self._up = True
            self._tell(f"the ledger at {self.url} answers again")
        return max(float(seconds) + float(microseconds) / 1e6, snapshot.now_s), snapshot

    def _away(self, text: str) -> None:
        if self._up:
            self._up = False
            self._tell(text)

    def _values(self, now_s: float, snapshot: Snapshot) -> dict[Metric, dict[Labels, float]]:
        found: dict[Metric, dict[Labels, float]] = {
            metric: {} for metric in (*SHARED_GAUGES, *SHARED_COUNTERS)
        }

        def add(metric: Metric, labels: Labels, value: float) -> None:
            found[metric][labels] = found[metric].get(labels, 0.0) + value

        for name, own in snapshot.backends.items():
            backend = (self._backend(name),)
            add(ALL_LIMIT, backend, own.slots)
            add(ALL_IN_USE, backend, own.holding)
            add(ALL_DEPTH, backend, own.waiting)
            add(ALL_GRANTED, backend, own.granted)
            add(ALL_CLOSED, backend, own.pause.closed_s)
            left_s = max(0.0, own.pause.opens_s - now_s, found[ALL_PAUSED].get(backend, 0.0))
            found[ALL_PAUSED][backend] = left_s
        for ticket, waits in snapshot.waiting.items():
            tenant = self._tenants(snapshot.tenants[ticket])
            add(TENANT_DEPTH, (self._backend(waits.lane[0]), tenant), 1)
        for grant in snapshot.holding.values():
            tenant = "" if grant.share is None else self._tenants(grant.share.tenant)
            add(TENANT_IN_USE, (self._backend(grant.lane[0]), tenant), 1)
        leases = Counter("running" if until_s > now_s else "ended" for until_s in snapshot.leases.values())
        for lease in ("running", "ended"):
            add(WORKERS, (lease,), leases[lease])
        return found

    def _backend(self, name: str) -> str:
        return self._backends(_ACCOUNT.sub("", name))
