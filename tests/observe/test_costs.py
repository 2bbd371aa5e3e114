"""What is exported never costs a call its slot, keeps nothing, and says what is missing."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from support.observed import Exports

from llmsched_langgraph import ConfigurationError, Scheduler, Tenant, observe, schedule
from llmsched_langgraph.testing import PlainModel

exporting = pytest.importorskip("opentelemetry.sdk.trace.export")


def graph_of(model):
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile(name="agent")


class Stuck(exporting.SpanExporter):
    """An exporter that hangs, or raises."""

    def __init__(self, error=None):
        self.begun, self.go, self.error = threading.Event(), threading.Event(), error

    def export(self, spans):
        self.begun.set()
        if self.error is not None:
            raise self.error
        self.go.wait(20)
        return exporting.SpanExportResult.SUCCESS


def batching(exporter):
    return exporting.BatchSpanProcessor(exporter, schedule_delay_millis=1, max_export_batch_size=1)


@pytest.mark.parametrize("processor", [batching, exporting.SimpleSpanProcessor])
@pytest.mark.parametrize("error", [None, ZeroDivisionError("my bug")], ids=["hangs", "raises"])
def test_an_exporter_that_does_not_return(make_scheduler, processor, error, caplog):
    """It runs in another thread: every call gets its slot, and gives it back."""
    exports, exporter, scheduler = Exports(), Stuck(error), make_scheduler(1)
    exports.tracers.add_span_processor(processor(exporter))
    with caplog.at_level(logging.CRITICAL), exports.of(scheduler):
        with scheduler.slot():
            pass
        assert exporter.begun.wait(20)
        for _ in range(100):
            with scheduler.slot():
                pass
        assert scheduler.statistics().released == 101
        exporter.go.set()
        assert len(exports.spans()) == 101
        exports.tracers.shutdown()
        exports.meters.shutdown()


def test_a_processor_that_raises(make_scheduler, caplog):
    """A bug in it is logged once; no call notices."""

    class Broken(exporting.SpanExporter):
        def export(self, spans):
            raise ZeroDivisionError("my bug")

    class Processor(exporting.SimpleSpanProcessor):
        def on_start(self, span, parent_context=None):
            raise ZeroDivisionError("my bug")

    exports, scheduler = Exports(), make_scheduler(1)
    exports.tracers.add_span_processor(Processor(Broken()))
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"), exports.of(scheduler):
        for _ in range(3):
            with scheduler.slot():
                pass
        assert scheduler.statistics().released == 3
        assert exports.spans() == []
    assert [record.getMessage() for record in caplog.records] == [
        "an exporter failed (logged once): ZeroDivisionError('my bug')"
    ]
    exports.tracers.shutdown()
    exports.meters.shutdown()


def test_a_parent_that_raises(make_scheduler, exports, caplog):
    """The function of the user is called no more, and the calls go on."""

    def parent():
        raise ZeroDivisionError("my bug")

    scheduler = make_scheduler(1)
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"), exports.of(scheduler, parent=parent):
        for _ in range(3):
            with scheduler.slot():
                pass
        assert scheduler.statistics().released == 3
        assert exports.prometheus("llmsched_calls_total").popitem()[1] == 3
    (record,) = caplog.records
    assert "an observer failed at a request" in record.getMessage()


def test_nothing_is_kept_of_ended_calls(make_scheduler, exports):
    """Neither tickets nor jobs nor contexts."""
    from llmsched_langgraph._observe import measures, spans

    scheduler = make_scheduler(1, tenants={"gold": Tenant(2.0)})
    with exports.of(scheduler):
        agent = schedule(graph_of(PlainModel()), scheduler)
        for _ in range(3):
            agent.invoke({"messages": [("user", "?")]}, {"metadata": {"llmsched_tenant": "gold"}})
            with scheduler.slot(tenant="gold"):
                pass
        scheduler.statistics()
        found = [own for own in gc.get_objects() if isinstance(own, spans.Spans | measures.Measures)]
        kept = [(own._jobs, own._asked, own._open) for own in found if isinstance(own, spans.Spans)]
        counted = [
            (own._owners, own._direct, own._tickets) for own in found if isinstance(own, measures.Measures)
        ]
    assert ({}, {}, {}) in kept
    assert counted.count(({}, {}, {})) >= 2
    assert all(not any(three) for three in (*kept, *counted))


def test_the_scheduler_may_be_collected(exports):
    """What is observed is not kept alive; its totals stay."""
    scheduler = Scheduler(1)
    observation = observe.prometheus(scheduler, exports.registry)
    with scheduler.slot():
        pass
    gone = weakref.ref(scheduler)
    scheduler.statistics()
    del scheduler
    gc.collect()
    assert gone() is None
    assert exports.prometheus("llmsched_calls_total").popitem()[1] == 1
    assert exports.prometheus("llmsched_slots_limit") == {}
    observation.close()
    assert exports.text() == ""


PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from llmsched_langgraph import Scheduler, observe

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")))
trace.set_tracer_provider(provider)
scheduler = Scheduler(1)
observe.otel(scheduler)
with scheduler.slot():
    pass
"""


def test_the_end_of_the_process_exports_what_is_left():
    """Also where nobody closes anything."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "llmsched.call\n")


def test_entries_that_nobody_takes_are_dropped(monkeypatch):
    """The oldest first, and counted; one that comes twice counts once."""
    from llmsched_langgraph._core.events import Entry
    from llmsched_langgraph._observe import deferred

    monkeypatch.setattr(deferred, "MOST", 3)
    monkeypatch.setattr(deferred.Background, "there_is_work", lambda self: None)
    seen = []
    entries = deferred.Deferred(lambda entry: seen.append(entry.number))
    for number in (1, 2, 2, 3, 4, 5):
        entries.put(Entry(number, 0.0, "Ticked"))
    assert entries.drain()
    assert (seen, entries.missed) == ([3, 4, 5], 2)
    with entries._seeing:
        assert not entries.drain(0.0)


@pytest.mark.parametrize(
    ("module", "function", "extra"),
    [
        ("opentelemetry.metrics", "otel", "otel"),
        ("opentelemetry.trace", "otel", "otel"),
        ("prometheus_client", "prometheus", "prometheus"),
    ],
)
def test_without_the_package(make_scheduler, monkeypatch, module, function, extra):
    """The error names the extra, and the scheduler is not observed."""
    monkeypatch.setitem(sys.modules, module, None)
    scheduler = make_scheduler(1)
    with pytest.raises(ConfigurationError, match=rf"of the extra `{extra}`: pip install .*\[{extra}\]"):
        getattr(observe, function)(scheduler)
    assert not scheduler._driver.askers


def test_wrong_arguments(make_scheduler, exports):
    """Each is refused with the cure."""
    scheduler = make_scheduler(1)
    with pytest.raises(ConfigurationError, match="observe a Scheduler, not str"):
        observe.otel("scheduler")
    with pytest.raises(ConfigurationError, match="name must be text"):
        observe.prometheus(scheduler, exports.registry, name="")
    with exports.of(scheduler):
        with pytest.raises(ConfigurationError, match="already observed as 'default'; give this one another"):
            observe.prometheus(make_scheduler(1), exports.registry)
        with pytest.raises(ConfigurationError, match="already observed as 'default'; give this one another"):
            observe.otel(make_scheduler(1), exports.tracers, exports.meters)
