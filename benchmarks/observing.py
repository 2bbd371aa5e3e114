"""Measures what watching a scheduler costs: a call through ChatOpenAI against loopback, watched and not.

    python benchmarks/observing.py [--repeats 25] [--calls 100]

*All* is a recording, traces and metrics for OpenTelemetry, and metrics for Prometheus, at once. The server is
a process of its own that answers each request at once, so the ratios are the worst that a user can see: a
model that thinks for a second makes them 1.00. Spans go through a `BatchSpanProcessor`, whose exporter drops
them: what a real one costs does not depend on this package. A run makes 10 calls; the work of background
threads counts in CPU time. Ratios are medians over the repeats, in brackets the middle half of them.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import attempts
from langchain_openai import ChatOpenAI
from measuring import Clock, Cost, in_turn, microseconds, print_table, versus
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr

from llmsched_langgraph import Scheduler, observe
from llmsched_langgraph._adapter import gate
from llmsched_langgraph._adapter.http import hooks
from llmsched_langgraph._application.application import Application, Node
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo

CALLS = 10
"""Calls of each run."""

APPLICATION = Application.of("ask", (Node("ask", calls_llm=True),))


class Dropping(SpanExporter):
    """Exports nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Drop the spans."""
        return SpanExportResult.SUCCESS


class Watched:
    """A scheduler, with what watches it.

    Args:
        folder: where it is recorded.
        record, traces, metrics: what watches it.
    """

    def __init__(self, folder: Path, *, record: bool, traces: bool, metrics: bool) -> None:
        self.stack = ExitStack()
        name = f"{record:d}{traces:d}{metrics:d}"
        file = folder / f"{name}.jsonl" if record else None
        self.scheduler = self.stack.enter_context(Scheduler(8, record=file))
        self.registry = CollectorRegistry()
        self.watching: list[observe.Observation] = []
        if traces:
            tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
            tracers.add_span_processor(BatchSpanProcessor(Dropping()))
            self.stack.callback(tracers.shutdown)
            self.stack.callback(meters.shutdown)
            self.watching.append(observe.otel(self.scheduler, tracers, meters))
        if metrics:
            self.watching.append(observe.prometheus(self.scheduler, self.registry))
        for one in self.watching:
            self.stack.enter_context(one)

    def run(self, call: Callable[[], object]) -> None:
        """Make the calls of one run."""
        run = start_run(self.scheduler, JobInfo(application=APPLICATION, tenant="t", run_id="1"))
        try:
            with inside(run):
                for _ in range(CALLS):
                    call()
        finally:
            run.end(Outcome.FINISHED)

    def flush(self) -> None:
        """Have everything exported that has happened."""
        for one in self.watching:
            assert one.flush()
        self.scheduler._driver.save()  # noqa: SLF001 (what is recorded counts as well)


def compare(port: int, repeats: int, calls: int, folder: Path) -> None:
    """Print the ratios."""
    gate.install()
    hooks.install()
    model = ChatOpenAI(model="m", api_key=SecretStr("k"), base_url=f"http://127.0.0.1:{port}/v1")
    loop = asyncio.new_event_loop()
    watched = {
        "off": Watched(folder, record=False, traces=False, metrics=False),
        "recording": Watched(folder, record=True, traces=False, metrics=False),
        "prometheus": Watched(folder, record=False, traces=False, metrics=True),
        "opentelemetry": Watched(folder, record=False, traces=True, metrics=False),
        "all": Watched(folder, record=True, traces=True, metrics=True),
    }

    def ask() -> None:
        loop.run_until_complete(model.ainvoke("?"))

    def case(own: Watched, call: Callable[[], object]) -> Callable[[], Cost]:
        def measure() -> Cost:
            with Clock(calls // CALLS * CALLS) as clock:
                for _ in range(calls // CALLS):
                    own.run(call)
                own.flush()
            return clock.cost

        return measure

    rows = []
    for title, call in (("invoke", lambda: model.invoke("?")), ("ainvoke", ask)):
        costs = in_turn({name: case(own, call) for name, own in watched.items()}, repeats)
        rows += [
            [f"`{title}`: {name} / off", *versus(costs, name, "off")]
            for name in ("recording", "prometheus", "opentelemetry", "all")
        ]
        rows.append([f"`{title}`: off, microseconds", microseconds(costs["off"]), ""])
    seen = generate_latest(watched["all"].registry).decode()
    assert (
        f'outcome="finished",reason="free",scheduler="default",tenant="t"}} {2 * (repeats + 1) * calls}.0'
        in seen
    )
    for own in watched.values():
        own.scheduler.check()
        own.stack.close()
    loop.close()
    print_table(["", "CPU", "wall"], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    command = [sys.executable, attempts.__file__, "serve"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        try:
            compare(int(server.stdout.readline()), options.repeats, options.calls, Path(folder))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
