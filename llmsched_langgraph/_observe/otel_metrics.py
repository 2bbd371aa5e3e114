"""Exports the metrics of schedulers to a meter provider of OpenTelemetry.

Does not measure them, or make spans.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph._observe.metrics import COUNTERS, GAUGES, HISTOGRAMS, SCHEDULER, Labels, Metric
from llmsched_langgraph._observe.sources import Sources, gauged
from llmsched_langgraph._version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

SCOPE = "llmsched_langgraph"
"""The instrumentation scope of all spans and metrics."""


def needs_opentelemetry() -> None:
    """Do nothing if OpenTelemetry's API is installed.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        import opentelemetry.metrics
        import opentelemetry.trace  # noqa: F401
    except ImportError:
        raise needs_extra("exporting to OpenTelemetry", "opentelemetry-api", "otel") from None


class Instruments:
    """The instruments of one meter provider, and the schedulers whose metrics they have.

    Counters and gauges are read when the provider collects. Histograms are recorded with each observation.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self.sources = Sources()
        meter = provider.get_meter(SCOPE, __version__)
        self._histograms = {
            metric: meter.create_histogram(
                metric.name,
                unit=metric.unit,
                description=metric.about,
                explicit_bucket_boundaries_advisory=list(metric.buckets),
            )
            for metric in HISTOGRAMS
        }
        for metric in COUNTERS:
            meter.create_observable_counter(
                metric.name, [self._reading(metric)], unit=metric.unit, description=metric.about
            )
        for metric in GAUGES:
            meter.create_observable_gauge(
                metric.name, [self._reading(metric)], unit=metric.unit, description=metric.about
            )

    def record(self, scheduler: str, metric: Metric, value: float, labels: Labels) -> None:
        """Record one observation of a histogram."""
        self._histograms[metric].record(value, _attributes(metric, (scheduler, *labels)))

    def _reading(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(options: CallbackOptions) -> Iterator[Observation]:
            from opentelemetry.metrics import Observation

            levels = self.sources.levels()  # entries that were put by are counted now
            series = gauged(metric, levels) if metric.kind == "gauge" else self.sources.counts(metric)
            for labels, value in series:
                yield Observation(value, _attributes(metric, labels))

        return read


def _attributes(metric: Metric, labels: Labels) -> dict[str, str]:
    return dict(zip((SCHEDULER, *metric.labels), labels, strict=True))


_instruments: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()


def instruments_of(provider: MeterProvider) -> Instruments:
    """Return the instruments of the provider; they are created once."""
    found = _instruments.get(provider)
    if found is None:
        found = _instruments[provider] = Instruments(provider)
    return found


def recording(instruments: Instruments, name: str) -> Callable[[Metric, float, Labels], None]:
    """Return what records the observations of the scheduler that is observed under this name."""

    def record(metric: Metric, value: float, labels: Labels) -> None:
        instruments.record(name, metric, value, labels)

    return record
