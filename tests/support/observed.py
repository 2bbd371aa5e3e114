"""A scheduler whose traces and metrics are exported into memory, and what was exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmsched_langgraph import Scheduler, observe

pytest.importorskip("prometheus_client", reason="the extra prometheus")
pytest.importorskip("opentelemetry.sdk", reason="the extra otel, and the SDK")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[tuple[str, str], ...], Any]
"""The values of a metric, by its labels as sorted pairs."""


@dataclass
class Exports:
    """Providers that keep what they get, and a registry."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self._observations: tuple[observe.Observation, ...] = ()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    @contextmanager
    def of(self, scheduler: Scheduler, **options: Any) -> Iterator[None]:
        """Export the scheduler for as long as the block lasts."""
        with (
            observe.otel(scheduler, self.tracers, self.meters, **options) as otel,
            observe.prometheus(scheduler, self.registry, name=options.get("name", "default")) as prometheus,
        ):
            self._observations += (otel, prometheus)
            yield

    def _flush(self) -> None:
        for observation in self._observations:
            assert observation.flush()

    # -- spans -------------------------------------------------------------------------

    def spans(self, name: str = "llmsched.call") -> list[ReadableSpan]:
        """The ended spans of this name, in the order of their ends."""
        self._flush()
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def outcomes(self) -> list[Any]:
        """How the calls of the ended spans ended, sorted."""
        return sorted(span.attributes["llmsched.outcome"] for span in self.spans())

    # -- metrics -----------------------------------------------------------------------

    def otel(self, name: str) -> Series:
        """The series of a metric of OpenTelemetry: values, or sums of a histogram."""
        self._flush()
        data = self.reader.get_metrics_data()
        scopes = [] if data is None else [one for own in data.resource_metrics for one in own.scope_metrics]
        return {
            tuple(sorted(point.attributes.items())): getattr(point, "sum", None)
            if hasattr(point, "sum")
            else point.value
            for scope in scopes
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }

    def text(self) -> str:
        """What Prometheus gets."""
        return generate_latest(self.registry).decode()

    def prometheus(self, name: str) -> Series:
        """The series of a sample of Prometheus."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name
        }


def by(series: Series, *names: str) -> dict[Any, float]:
    """The sums of the series by the values of these labels."""
    sums: dict[Any, float] = {}
    for labels, value in series.items():
        key = tuple(dict(labels)[name] for name in names)
        key = key[0] if len(key) == 1 else key
        sums[key] = sums.get(key, 0) + value
    return sums
