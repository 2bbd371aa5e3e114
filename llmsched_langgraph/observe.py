"""Exports what a scheduler does: to OpenTelemetry, Prometheus and LangSmith.

Does not decide anything, or store what it exports.

from llmsched_langgraph import Scheduler, observe

with Scheduler(8) as scheduler, observe.otel(scheduler), observe.prometheus(scheduler):
    ...

What happened is gathered, and exported by a background thread within a fraction of a second: an exporter that
is slow, blocks or fails costs no call anything. A scrape, a collection of metrics, `close` and the end of the
process export what is left at once.

Names of tenants, applications, backends and stages are exported, and run ids; nothing of prompts, answers or
keys. Of the tenants, the applications and the backends, the first 100 have values of their own in labels;
further ones are "other".
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmsched_langgraph._observe.deferred import Deferred
from llmsched_langgraph._observe.langsmith_steps import Steps
from llmsched_langgraph._observe.measures import Measures
from llmsched_langgraph._observe.otel_metrics import instruments_of, needs_opentelemetry, recording
from llmsched_langgraph._observe.prometheus import needs_prometheus, register, unregister
from llmsched_langgraph._observe.sources import Level, Source
from llmsched_langgraph._observe.spans import Spans
from llmsched_langgraph._runtime.default import default_scheduler
from llmsched_langgraph._runtime.fork import renew_in_child
from llmsched_langgraph._runtime.scheduler import Scheduler
from llmsched_langgraph._runtime.watching import Watched
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider
    from prometheus_client.registry import CollectorRegistry

    from llmsched_langgraph._core.events import CallRequested, Entry

__all__ = ["Observation", "langsmith", "otel", "prometheus"]


class Observation:
    """A scheduler that is exported, until this is closed: call `close`, or use it as a context manager.

    It does not keep the scheduler alive. Totals that were exported stay; spans that are open end.
    """

    def __init__(self, watched: Watched, measures: Measures | None, spans: Spans | Steps | None) -> None:
        self._watched = watched
        self._measures = measures
        self._spans = spans
        self._deferred = deferred = Deferred(self._see)
        # A subscription refers to its scheduler, which refers to it.
        self._subscription = weakref.ref(watched.subscribe(deferred.put, self._asked, deferred.soon))
        self._ended: Callable[[], object] = lambda: None
        levels = watched.levels()
        if measures is not None:
            measures.begin([level.backend for level in levels])
        renew_in_child(self)
        self._at_exit = _flushing(weakref.ref(self))
        atexit.register(self._at_exit)  # the providers register theirs earlier, so it comes before these

    def export(self, name: str, add: Callable[[Source], object], remove: Callable[[Source], object]) -> Self:
        """Have what was measured exported by `add`, and no longer by `remove`."""
        assert self._measures is not None
        source = Source(name, self._measures, self._levels)
        try:
            add(source)
        except BaseException:
            self.close()
            raise
        self._ended = lambda: remove(source)
        return self

    def _asked(self, request: CallRequested) -> None:
        if self._measures is not None:
            self._measures.asked(request)
        if self._spans is not None:
            self._spans.asked(request)

    def _see(self, entry: Entry) -> None:
        if self._spans is not None:
            self._spans.see(entry)
        if self._measures is not None:
            self._measures.see(entry)

    def _levels(self) -> Sequence[Level]:
        levels = self._watched.levels()
        self._deferred.drain()
        return levels

    def forked(self) -> None:
        """Begin anew in the child of a fork: its totals begin at 0, and the parent ends its own spans."""
        self._deferred.forked()
        if self._measures is not None:
            self._measures.forked()
        if self._spans is not None:
            self._spans.forked()

    def flush(self) -> bool:
        """Give what has happened so far to the providers now; return False if an exporter blocks.

        It does not flush the providers: `tracer_provider.force_flush()` does.
        """
        self._watched.levels()
        return self._deferred.drain()

    def close(self) -> None:
        """Export what has happened, and nothing further. Idempotent."""
        flushed = self.flush()
        subscription = self._subscription()
        if subscription is not None:
            subscription.close()
        self._deferred.stop()
        self._ended()
        if self._spans is not None and flushed:
            self._spans.close()
        atexit.unregister(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _flushing(observation: weakref.ref[Observation]) -> Callable[[], None]:
    """Return what flushes the observation at the exit of the process, if it is still there."""

    def flush() -> None:
        found = observation()
        if found is not None:
            found.flush()

    return flush


def otel(
    scheduler: Scheduler | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    name: str = "default",
    parent: Callable[[], Span | None] | None = None,
) -> Observation:
    """Export traces and metrics of a scheduler to OpenTelemetry.

    Each call has a span `llmsched.call`, from its request to its end, and in it, if it waits, a span
    `llmsched.wait`; both have the seconds of the wait as `gen_ai.latency.time_in_queue`. The parent is the
    span that is current in the code that makes the call. The metrics are those of `prometheus`, with their
    names in the style of OpenTelemetry: `llmsched.queue.wait` is `llmsched_queue_wait_seconds` there.

    Args:
        scheduler: the scheduler; None for the process-wide one.
        tracer_provider: gets the spans; None for the global one.
        meter_provider: gets the metrics; None for the global one.
        name: the value of the label `scheduler` of all metrics.
        parent: returns the parent of a call's span; it is called in the code that makes the call, and may
            return None for the current span. An instrumentation that makes no span the current one has such
            a function, as `openinference.instrumentation.langchain` has `get_current_span`.

    Raises:
        ConfigurationError: OpenTelemetry is not installed, the scheduler is none, or another one is observed
            under this name.
    """
    own = _checked(scheduler, name)
    needs_opentelemetry()
    from opentelemetry import metrics, trace

    watched = Watched(own)
    instruments = instruments_of(meter_provider or metrics.get_meter_provider())
    measures = Measures(watched.shared, recording(instruments, name))
    spans = Spans(tracer_provider or trace.get_tracer_provider(), watched.shared, parent)
    observation = Observation(watched, measures, spans)
    return observation.export(name, instruments.sources.add, instruments.sources.remove)


def prometheus(
    scheduler: Scheduler | None = None, registry: CollectorRegistry | None = None, *, name: str = "default"
) -> Observation:
    """Export metrics of a scheduler to a registry of `prometheus_client`, which you serve as your own.

    Args:
        scheduler: the scheduler; None for the process-wide one.
        registry: the registry; None for the global one.
        name: the value of the label `scheduler` of all metrics.

    Raises:
        ConfigurationError: `prometheus_client` is not installed, the scheduler is none, another one is
            observed under this name, or the registry has other metrics of these names.
    """
    own = _checked(scheduler, name)
    needs_prometheus()
    from prometheus_client import REGISTRY

    watched, place = Watched(own), registry or REGISTRY
    observation = Observation(watched, Measures(watched.shared), None)
    return observation.export(
        name, lambda source: register(source, place), lambda source: unregister(source, place)
    )


def langsmith(scheduler: Scheduler | None = None) -> Observation:
    """Add each wait for a slot to LangSmith's trace, as a step "waiting for a slot" beside the model's.

    The step is added when the wait is over, and only for calls that wait. Callbacks, events and streams of
    the graph do not change. Only runs that LangSmith traces have such steps (`LANGSMITH_TRACING=true`).
    Langfuse takes the spans of `otel`.

    Args:
        scheduler: the scheduler; None for the process-wide one.

    Raises:
        ConfigurationError: LangSmith is not installed, or the scheduler is none.
    """
    watched = Watched(_checked(scheduler, "default"))
    return Observation(watched, None, Steps(watched.shared))


def _checked(scheduler: object, name: object) -> Scheduler:
    if scheduler is None:
        scheduler = default_scheduler()
    if not isinstance(scheduler, Scheduler):
        raise ConfigurationError(f"observe a Scheduler, not {type(scheduler).__name__}")
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"name must be text that is not empty, not {name!r:.40}")
    return scheduler
