"""Defines the metrics of a scheduler: names, units, labels.

Does not measure or export them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the buckets of waits, in seconds."""

JOBS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper bounds of the buckets of job completion times, in seconds."""

Labels = tuple[str, ...]
"""The values of a metric's labels, in the order of `Metric.labels`."""

_UNITS = {"s": "_seconds"}


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: its name in OpenTelemetry.
        kind: "counter", "gauge" or "histogram".
        unit: its unit in OpenTelemetry's notation (UCUM).
        labels: the names of its labels.
        about: what it measures.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    about: str
    buckets: tuple[float, ...] = ()

    @property
    def exposed(self) -> str:
        """Its name in Prometheus, without the `_total` of a counter."""
        return self.name.replace(".", "_") + _UNITS.get(self.unit, "")


WAIT = Metric(
    "llmsched.queue.wait",
    "histogram",
    "s",
    ("backend", "tenant"),
    "Wait of each granted slot, from its request to its grant",
    WAITS_S,
)
WITHDRAWN = Metric(
    "llmsched.queue.withdrawn",
    "histogram",
    "s",
    ("backend", "tenant"),
    "Wait of each request that got no slot: cancelled, timed out, or refused after it waited",
    WAITS_S,
)
CALLS = Metric(
    "llmsched.calls",
    "counter",
    "{call}",
    ("backend", "tenant", "reason", "outcome"),
    "Requests for a slot that ended; each attempt of a call counts",
)
OVER = Metric(
    "llmsched.over_commitments",
    "counter",
    "{call}",
    ("backend",),
    "Slots granted above the limit or during a pause, to calls that could not wait",
)
TOKENS = Metric(
    "llmsched.tokens",
    "counter",
    "{token}",
    ("backend", "tenant", "direction"),
    "Known tokens of calls, input and output",
)
PAUSES = Metric(
    "llmsched.pauses", "counter", "{pause}", ("backend",), "Pauses that began after a refusal of this process"
)
DURATION = Metric(
    "llmsched.job.duration",
    "histogram",
    "s",
    ("application", "outcome"),
    "Completion time of each job with calls, without interruptions",
    JOBS_S,
)
ERROR = Metric(
    "llmsched.job.prediction_error",
    "histogram",
    "s",
    ("application",),
    "Difference between a finished job's work in slot-seconds and its prediction at arrival",
    JOBS_S,
)
DEPTH = Metric("llmsched.queue.depth", "gauge", "{call}", ("backend",), "Calls that wait for a slot")
IN_USE = Metric("llmsched.slots.in_use", "gauge", "{slot}", ("backend",), "Slots that are held")
LIMIT = Metric("llmsched.slots.limit", "gauge", "{slot}", ("backend",), "Slots that may be held at once")
PAUSED = Metric("llmsched.pause.left", "gauge", "s", ("backend",), "Time until the backend's pause ends")

COUNTERS = (CALLS, OVER, TOKENS, PAUSES)
HISTOGRAMS = (WAIT, WITHDRAWN, DURATION, ERROR)
GAUGES = (DEPTH, IN_USE, LIMIT, PAUSED)
METRICS = (*HISTOGRAMS, *COUNTERS, *GAUGES)
"""What `observe` exports."""

SCHEDULER = "scheduler"
"""The first label of every metric: the name under which the scheduler is observed."""

# -- of a ledger that several processes share ---------------------------------------------------

UP = Metric("llmsched.up", "gauge", "", (), "Whether the server of the shared ledger answered")
ALL_LIMIT = Metric(
    "llmsched.shared.slots.limit", "gauge", "{slot}", ("backend",), "Slots that all workers may hold at once"
)
ALL_IN_USE = Metric(
    "llmsched.shared.slots.in_use", "gauge", "{slot}", ("backend",), "Slots that workers hold, all together"
)
ALL_DEPTH = Metric(
    "llmsched.shared.queue.depth",
    "gauge",
    "{call}",
    ("backend",),
    "Calls of all workers that wait for a slot",
)
ALL_PAUSED = Metric(
    "llmsched.shared.pause.left", "gauge", "s", ("backend",), "Time until the backend's pause ends"
)
TENANT_IN_USE = Metric(
    "llmsched.shared.tenant.slots.in_use",
    "gauge",
    "{slot}",
    ("backend", "tenant"),
    "Slots that a tenant holds; calls granted while no other tenant was there count as of no tenant",
)
TENANT_DEPTH = Metric(
    "llmsched.shared.tenant.queue.depth",
    "gauge",
    "{call}",
    ("backend", "tenant"),
    "Calls of a tenant that wait for a slot",
)
WORKERS = Metric(
    "llmsched.shared.workers", "gauge", "{worker}", ("lease",), "Workers by their lease: running or ended"
)
ALL_GRANTED = Metric(
    "llmsched.shared.grants", "counter", "{slot}", ("backend",), "Slots granted to all workers"
)
ALL_CLOSED = Metric(
    "llmsched.shared.paused", "counter", "s", ("backend",), "Length of all pauses, the current one included"
)

SHARED_GAUGES = (ALL_LIMIT, ALL_IN_USE, ALL_DEPTH, ALL_PAUSED, TENANT_IN_USE, TENANT_DEPTH, WORKERS)
SHARED_COUNTERS = (ALL_GRANTED, ALL_CLOSED)
SHARED_METRICS = (UP, *SHARED_GAUGES, *SHARED_COUNTERS)
"""What `llmsched metrics` exports."""

LEDGER = "ledger"
"""The first label of these metrics: the name of the ledger."""
