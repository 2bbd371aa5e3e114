"""Exports the metrics of schedulers to a registry of `prometheus_client`.

Does not measure them, or serve them by HTTP.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph._observe.metrics import COUNTERS, GAUGES, HISTOGRAMS, SCHEDULER, Metric
from llmsched_langgraph._observe.sources import Source, Sources, gauged
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import CollectorRegistry

    Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def needs_prometheus() -> None:
    """Do nothing if `prometheus_client` is installed.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise needs_extra("a collector for Prometheus", "prometheus-client", "prometheus") from None


class SchedulerCollector:
    """Collects the metrics of all schedulers that one registry exports."""

    def __init__(self) -> None:
        self.sources = Sources()

    def describe(self) -> Iterable[Family]:
        """Return the metrics without values."""
        return [*map(_histogram, HISTOGRAMS), *map(counter_of, COUNTERS), *map(gauge_of, GAUGES)]

    def collect(self) -> Iterator[Family]:
        """Yield the metrics with their values now."""
        levels = self.sources.levels()
        for metric in HISTOGRAMS:
            histogram = _histogram(metric)
            for labels, (counts, total) in self.sources.spreads(metric):
                histogram.add_metric(labels, list(_cumulative(metric, counts)), total)
            yield histogram
        for metric in COUNTERS:
            counter = counter_of(metric)
            for labels, value in self.sources.counts(metric):
                counter.add_metric(labels, value)
            yield counter
        for metric in GAUGES:
            gauge = gauge_of(metric)
            for labels, value in gauged(metric, levels):
                gauge.add_metric(labels, value)
            yield gauge


def _histogram(metric: Metric) -> HistogramMetricFamily:
    from prometheus_client.core import HistogramMetricFamily

    return HistogramMetricFamily(metric.exposed, metric.about, labels=(SCHEDULER, *metric.labels))


def counter_of(metric: Metric, first: str = SCHEDULER) -> CounterMetricFamily:
    """Return a counter without values; `first` is its first label."""
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(metric.exposed, metric.about, labels=(first, *metric.labels))


def gauge_of(metric: Metric, first: str = SCHEDULER) -> GaugeMetricFamily:
    """Return a gauge without values; `first` is its first label."""
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(metric.exposed, metric.about, labels=(first, *metric.labels))


def _cumulative(metric: Metric, counts: tuple[int, ...]) -> Iterator[tuple[str, float]]:
    """Yield the upper bound of each bucket, and the number of observations up to it."""
    total = 0
    for bound, count in zip((*map(str, metric.buckets), "+Inf"), counts, strict=True):
        total += count
        yield bound, total


_collectors: weakref.WeakKeyDictionary[CollectorRegistry, SchedulerCollector] = weakref.WeakKeyDictionary()


def register(source: Source, registry: CollectorRegistry) -> None:
    """Export a scheduler to the registry.

    Raises:
        ConfigurationError: another scheduler is observed under its name, or the registry has other metrics of
            these names.
    """
    collector = _collectors.get(registry)
    if collector is None:
        collector = SchedulerCollector()
        try:
            registry.register(collector)
        except ValueError as error:
            raise ConfigurationError(
                f"the registry has metrics of these names already ({error}); give another registry="
            ) from None
        _collectors[registry] = collector
    collector.sources.add(source)


def unregister(source: Source, registry: CollectorRegistry) -> None:
    """Export the scheduler no longer. Idempotent."""
    collector = _collectors.get(registry)
    if collector is None:
        return
    collector.sources.remove(source)
    if not len(collector.sources):
        del _collectors[registry]
        registry.unregister(collector)
