"""The metrics: bounded labels, the same names everywhere, values of now, and several schedulers at once."""

from __future__ import annotations

import asyncio
import os
import re
from types import SimpleNamespace

import pytest
from support.observed import Exports, by
from support.seam import taken

from llmsched_langgraph import Application, Backend, ConfigurationError, Scheduler, observe
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._observe.bounds import MOST, OTHER
from llmsched_langgraph._observe.measures import Measures
from llmsched_langgraph._observe.metrics import ERROR, GAUGES, METRICS
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.testing import VirtualClock


def jobs(scheduler, count):
    """Runs of `count` tenants and as many applications, of one call each."""
    for number in range(count):
        application = Application.of(f"app {number}", (Node("ask", calls_llm=True),))
        run = start_run(scheduler, JobInfo(application=application, tenant=f"tenant {number}"))
        with inside(run), scheduler.slot(stage=f"stage {number}"):
            pass
        run.end(Outcome.FINISHED)


# -- labels --------------------------------------------------------------------------------


def test_labels_are_bounded(make_scheduler, exports):
    """However many tenants, applications and accounts there are; the sums stay right."""
    scheduler = make_scheduler(4)
    with exports.of(scheduler):
        jobs(scheduler, MOST + 50)
        for number in range(50):
            with scheduler.slot(tenant=f"direct {number}", stage=f"stage {number}"):
                pass
        scheduler.statistics()
        calls = by(exports.prometheus("llmsched_calls_total"), "tenant")
        durations = by(exports.prometheus("llmsched_job_duration_seconds_count"), "application")
        for name in (metric.name for metric in METRICS):
            assert len(exports.otel(name)) <= MOST + 2, name
        tenants = {span.attributes["llmsched.tenant"] for span in exports.spans()}
    assert len(calls) == len(durations) == len(tenants) == MOST + 1
    assert (sum(calls.values()), calls[OTHER]) == (MOST + 100, 100)
    assert durations[OTHER] == 50
    assert OTHER in tenants


def test_accounts_count_together(make_scheduler, exports):
    """Each has slots of its own; one series tells of all."""
    scheduler = make_scheduler(backends=[Backend("b", 2, per_account=True)])
    with exports.of(scheduler):
        for number in range(MOST + 5):
            with scheduler.slot(account=f"key {number}"):
                pass
        assert by(exports.prometheus("llmsched_calls_total"), "backend") == {"b": MOST + 5}
        assert by(exports.prometheus("llmsched_slots_limit"), "backend") == {"b": 2 * (MOST + 5)}
        assert len(exports.prometheus("llmsched_queue_wait_seconds_count")) == 1


@pytest.mark.parametrize("name", ['a"b\\c\nd', "Łódź", "<script>"])
def test_any_name_of_a_tenant_is_text(make_scheduler, exports, name):
    """Prometheus reads what it is given back."""
    scheduler = make_scheduler(1)
    with exports.of(scheduler):
        with scheduler.slot(tenant=name):
            pass
        assert by(exports.prometheus("llmsched_calls_total"), "tenant") == {name: 1}


# -- names ---------------------------------------------------------------------------------


def test_prometheus_has_every_metric(make_scheduler, exports):
    """With its type, its labels, and the unit in its name; nothing else."""
    with exports.of(make_scheduler(1)):
        shown = dict(re.findall(r"^# TYPE (\w+) (\w+)$", exports.text(), re.MULTILINE))
    assert shown == {
        metric.exposed + ("_total" if metric.kind == "counter" else ""): metric.kind for metric in METRICS
    }
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert (metric.unit == "s") == metric.exposed.endswith("_seconds")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_opentelemetry_gives_prometheus_the_same_names(make_scheduler):
    """Through OpenTelemetry's own exporter, dashboards find the same metrics."""
    bridge = pytest.importorskip("opentelemetry.exporter.prometheus")
    from prometheus_client import REGISTRY, generate_latest

    reader = bridge.PrometheusMetricReader()
    exports, scheduler = Exports(reader=reader), make_scheduler(1)
    try:
        with exports.of(scheduler):
            with scheduler.slot(tenant="t"):
                pass
            bridged = {
                line.partition(" ")[0].partition("{")[0]
                for line in generate_latest(REGISTRY).decode().splitlines()
                if line.startswith("llmsched_")
            }
            own = {line.partition(" ")[0].partition("{")[0] for line in exports.text().splitlines()} - {"#"}
    finally:
        exports.meters.shutdown()
        exports.tracers.shutdown()
    assert bridged == own
    assert len(own) > len(GAUGES)


# -- values --------------------------------------------------------------------------------


def test_values_of_now(make_scheduler, exports, spawn):
    """Slots, calls that wait, and pauses, as the ledger has them when it is asked."""
    clock = VirtualClock(100.0)
    scheduler = make_scheduler(backends=[Backend("b", 3)], clock=clock)

    def now():
        names = ("slots_limit", "slots_in_use", "queue_depth", "pause_left_seconds")
        shown = [exports.prometheus(f"llmsched_{name}").popitem()[1] for name in names]
        told = ("slots.limit", "slots.in_use", "queue.depth", "pause.left")
        assert shown == [exports.otel(f"llmsched.{name}").popitem()[1] for name in told]
        return shown

    with exports.of(scheduler):
        assert now() == [3, 0, 0, 0]
        refused = scheduler.slot()
        refused.acquire()
        with taken(scheduler):
            assert now() == [3, 2, 0, 0]
            scheduler.resize(2)
            refused.release(Outcome.FAILED, Failure(429, 7.0))
            assert now() == [2, 1, 0, 7]
            clock.advance(2.0)
            assert now() == [2, 1, 0, 5]
        clock.advance(10.0)
        assert now() == [2, 0, 0, 0]
        assert exports.prometheus("llmsched_pauses_total").popitem()[1] == 1


def test_one_pause_counts_once(make_scheduler, exports):
    """However many calls in flight are refused with it; the next one counts anew."""
    clock = VirtualClock(100.0)
    scheduler = make_scheduler(3, clock=clock)
    with exports.of(scheduler):
        for count in (1, 2):
            slots = [scheduler.slot() for _ in range(3)]
            for slot in slots:
                slot.acquire()
            for slot in slots:
                slot.release(Outcome.FAILED, Failure(429, 7.0))
            assert exports.prometheus("llmsched_pauses_total").popitem()[1] == count
            clock.advance(60.0)


def test_calls_that_could_not_wait(make_scheduler, exports):
    """They are counted as over-commitments, as in the statistics."""
    scheduler = make_scheduler(1)

    async def main():
        with scheduler.slot():
            pass

    with exports.of(scheduler), taken(scheduler):
        asyncio.run(main())
        assert scheduler.statistics().over_commitments == 1
        assert exports.prometheus("llmsched_over_commitments_total").popitem()[1] == 1


def test_the_error_of_a_prediction(monkeypatch):
    """The distance between the work of a finished job and what was predicted at its arrival."""
    monkeypatch.setattr("llmsched_langgraph._observe.measures.predicted", lambda job: job.told)
    measures = Measures(lambda name: name)
    done = SimpleNamespace(done_s=5.0, finished={1: None})
    common = {"id": 1, "paused_since": None, "paused_s": 0.0, "arrival_s": 0.0, "ended_s": 9.0}
    template = Application.of("app", (Node("ask", calls_llm=True),))
    for number, (told, outcome) in enumerate(
        [((8.0, 1.0, 20.0), Outcome.FINISHED), (None, Outcome.FINISHED), ((1.0, 1.0, 1.0), Outcome.FAILED)], 1
    ):
        job = SimpleNamespace(**common, progress=done, template=template, outcome=outcome, told=told)
        measures.see(Entry(number, 9.0, "JobClosed", number, 0, "", job))
    ((labels, spread),) = measures.spreads[ERROR].items()
    assert (labels, sum(spread.counts), spread.total) == (("app",), 1, 3.0)


def test_an_entry_counts_once(make_scheduler):
    """Also when an interrupt has it delivered again."""
    measures = Measures(lambda name: name)
    entry = Entry(5, 1.0, "BackendPaused", 0, 0, "b", 3.0)
    measures.see(entry)
    measures.see(entry)
    assert [series for series in measures.counters.values() if series] == [{("b",): 1}]


# -- several schedulers, several processes -------------------------------------------------


def test_two_schedulers_in_one_registry(make_scheduler, exports):
    """Each has its name as a label; closing one leaves the other."""
    one, other = make_scheduler(1), make_scheduler(2)
    with exports.of(other, name="other"):
        with exports.of(one):
            for scheduler in (one, other):
                with scheduler.slot():
                    pass
            for found in (exports.prometheus("llmsched_slots_limit"), exports.otel("llmsched.slots.limit")):
                assert by(found, "scheduler") == {"default": 1, "other": 2}
            for found in (exports.prometheus("llmsched_calls_total"), exports.otel("llmsched.calls")):
                assert by(found, "scheduler") == {"default": 1, "other": 1}
        assert by(exports.prometheus("llmsched_calls_total"), "scheduler") == {"other": 1}
        assert by(exports.otel("llmsched.slots.limit"), "scheduler") == {"other": 2}
    assert exports.text() == ""


def test_the_process_wide_scheduler(exports):
    """It is the one that is observed if none is named."""
    from llmsched_langgraph import default_scheduler

    with observe.prometheus(registry=exports.registry):
        with default_scheduler().slot():
            pass
        assert exports.prometheus("llmsched_calls_total").popitem()[1] == 1


def test_a_registry_that_has_the_names(make_scheduler, exports):
    """One line says which, and what to do."""
    from prometheus_client import Gauge

    Gauge("llmsched_queue_depth", "of somebody else", registry=exports.registry)
    with pytest.raises(ConfigurationError, match=r"llmsched_queue_depth.*give another registry="):
        observe.prometheus(make_scheduler(1), exports.registry)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked")
def test_a_forked_child_begins_at_nothing(exports):
    """It counts its own calls, and leaves the spans of its parent to the parent."""
    scheduler = Scheduler(2)
    with exports.of(scheduler):
        held = scheduler.slot()
        held.acquire()
        with scheduler.slot():
            pass
        assert len(exports.spans()) == 1
        child = os.fork()
        if not child:
            code = 1
            try:
                with scheduler.slot():
                    pass
                counted = exports.prometheus("llmsched_calls_total").popitem()[1]
                code = 0 if counted == 1 and len(exports.spans()) == 2 else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        held.release()
        assert exports.prometheus("llmsched_calls_total").popitem()[1] == 2
        assert len(exports.spans()) == 2
    scheduler.close()
