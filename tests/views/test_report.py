"""The report's figures, and the trace events: they are those of the recording, to its rounding."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from support.recordings import APPS, BACKENDS, recording

from llmsched_langgraph import InvalidDataError
from llmsched_langgraph.reports import Report, report
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage, write_jobs


def data_of(made):
    """The data in the page."""
    html = made.html()
    return json.loads(html.partition('id="data">')[2].partition("</script>")[0])


def call(asked_s, granted_s, ended_s, **more):
    more = {"backend": "b", "reason": "order", **more}
    seconds = more.pop("seconds", ended_s - granted_s)
    return EndedCall(
        10,
        5,
        seconds,
        asked_s=asked_s,
        granted_s=granted_s,
        ended_s=ended_s,
        attempts=more.pop("attempts", 1),
        **more,
    )


def job(*stages, **more):
    """A job whose stages, each some calls, follow each other."""
    made = {"id": "1", "app": "a", "jct_s": 10.0, "arrival_s": 100.0, **more}
    return EndedJob(
        stages=tuple(
            EndedStage(name=f"s{place}", kind="llm", deps=(place - 1,) if place else (), calls=calls)
            for place, calls in enumerate(stages)
        ),
        **made,
    )


def bare(one):
    """The job without anything that a recording may lack."""
    stages = (
        replace(
            stage,
            calls=tuple(EndedCall(own.prompt_tokens, own.output_tokens, own.seconds) for own in stage.calls),
        )
        for stage in one.stages
    )
    return replace(one, stages=tuple(stages), jct_s=None, arrival_s=None, predicted=None)


@pytest.fixture(scope="module")
def day():
    return Report(recording(300), "day.jsonl")


def test_waits_of_the_page_are_those_of_the_recording(day):
    """Of each call, each job, each application, tenant and priority, and in all; to a microsecond each."""
    page = data_of(day)
    total_s, by_app = 0.0, defaultdict(float)
    for one, row in zip(day.jobs, page["jobs"], strict=True):
        waits = [own.granted_s - own.asked_s for own in one.llm_calls()]
        shown = [own[6] for stage in row["stages"] for own in stage[5]]
        assert shown == pytest.approx(waits, abs=1e-6)
        assert row["wait"] == pytest.approx(sum(waits), abs=1e-6 * len(waits))
        assert 0.0 <= row["waiting"] <= row["wait"]
        assert page["words"][row["app"]] == one.app
        total_s += sum(waits)
        by_app[one.app] += sum(waits)
    assert total_s > 100.0
    assert page["figures"] == json.loads(json.dumps(day.figures))
    assert day.figures["wait_s"] == pytest.approx(total_s, abs=1e-6 * day.figures["calls"])
    for by, rows in day.figures["paid"].items():
        assert sum(row["wait_s"] for row in rows) == pytest.approx(total_s, abs=0.01), by
        assert sum(row["jobs"] for row in rows) == 300, by
    paid = {row["name"]: row["wait_s"] for row in day.figures["paid"]["app"]}
    assert paid == pytest.approx(dict(by_app), abs=0.001)
    assert set(paid) == set(APPS)
    grants = day.figures["grants"]
    assert sum(row["grants"] for row in grants) == day.figures["calls"]
    assert {row["name"]: row["wait_s"]["max"] for row in grants}["free"] == 0.0


def test_slots_over_time_are_those_that_the_calls_held(day):
    """At most as many as there are, although arrival and times of a call are rounded each."""
    backends = {row["name"]: row for row in day.figures["backends"]}
    assert {name: row["peak_held"] for name, row in backends.items()} == BACKENDS
    held_s = sum(own.seconds for one in day.jobs for own in one.llm_calls())
    assert sum(row["held_s"] for row in backends.values()) == pytest.approx(held_s, abs=0.01)
    assert day.figures["backends"][0]["held_s"] == max(row["held_s"] for row in backends.values())
    assert day.figures["work_s"] == pytest.approx(held_s, abs=0.01)


def test_the_figures_of_a_few_jobs():
    """As computed by hand."""
    made = Report(
        [
            job((call(0.0, 2.0, 5.0), call(0.0, 3.0, 5.0)), (call(5.0, 6.0, 10.0),)),
            job(
                (call(0.0, 0.0, 4.0, reason="free"),),
                id="2",
                jct_s=4.0,
                arrival_s=104.0,
                tenant="t",
                priority=3,
            ),
            job(id="3", jct_s=1.0, arrival_s=101.0, end="failed"),
        ]
    )
    figures = made.figures
    assert figures["ends"] == {"done": 2, "failed": 1, "cancelled": 0}
    assert figures["jct_s"] == {"mean": 5.0, "median": 4.0, "p95": pytest.approx(9.4), "max": 10.0}
    assert (figures["first_arrival_s"], figures["span_s"]) == (100.0, 10.0)
    assert figures["wait_s"] == 6.0
    assert figures["waiting_share"] == pytest.approx((3.0 + 1.0) / (10.0 + 4.0), abs=1e-6)
    assert figures["slowdown"]["max"] == pytest.approx(10.0 / 7.0, abs=1e-6)
    assert [(row["name"], row["jobs"], row["wait_s"]) for row in figures["paid"]["tenant"]] == [
        (None, 2, 6.0),
        ("t", 1, 0.0),
    ]
    assert [(row["name"], row["jobs"]) for row in figures["paid"]["priority"]] == [(0, 2), (3, 1)]
    (backend,) = figures["backends"]
    assert (backend["calls"], backend["held_s"], backend["wait_s"]) == (4, 13.0, 6.0)
    assert (backend["peak_held"], backend["peak_waiting"]) == (3, 2)
    assert backend["mean_held"] == pytest.approx(13.0 / 10.0)
    assert [(row["name"], row["grants"]) for row in figures["grants"]] == [("order", 3), ("free", 1)]
    assert figures["tokens"] == {"prompt": 40, "output": 20}
    assert figures["prediction"] is None


def test_time_in_slots_of_earlier_attempts_is_no_wait():
    """The record has the last grant, and the slot time of all attempts."""
    made = Report([job((call(0.0, 8.0, 10.0, seconds=5.0, attempts=2),))])
    assert made.figures["wait_s"] == 5.0
    assert made.figures["waiting_share"] == 0.5
    assert made.figures["backends"][0]["held_s"] == 5.0


def test_predictions_are_measured_against_the_work():
    """Of completed jobs: how many were inside, and the sums."""
    works = (2.0, 4.0, 6.0)
    jobs = [job((call(0.0, 0.0, work_s),), predicted=(4.0, 3.0, 5.0)) for work_s in works]
    failed = job((call(0.0, 0.0, 1.0),), predicted=(4.0, 3.0, 5.0), end="failed")
    quality = Report([*jobs, failed]).figures["prediction"]
    assert (quality["jobs"], quality["inside"], quality["ratio"]) == (3, pytest.approx(1 / 3, abs=1e-6), 1.0)
    assert quality["error_s"]["mean"] == pytest.approx(4 / 3, abs=1e-6)


def test_what_was_not_recorded_is_said(day):
    """And no number is made up for it."""
    made = Report([bare(one) for one in day.jobs])
    figures = made.figures
    for name in ("jct_s", "wait_s", "waiting_share", "slowdown", "first_arrival_s", "span_s", "prediction"):
        assert figures[name] is None, name
    assert figures["grants"] == []
    assert figures["recorded"] == {"arrivals": 0, "jcts": 0, "times": 0, "predictions": 0}
    assert figures["work_s"] == day.figures["work_s"]
    notes = data_of(made)["about"]["notes"]
    for words in ("No arrival", "No JCT", "times of calls were not recorded", "No prediction"):
        assert any(words in note for note in notes), words
    assert data_of(day)["about"]["notes"] == []
    some = Report([*day.jobs[:3], bare(day.jobs[3])])
    assert any("1 jobs have no recorded arrival" in note for note in data_of(some)["about"]["notes"])
    with pytest.raises(InvalidDataError, match="no times of jobs"):
        made.trace_events()


def test_trace_events_are_balanced_and_nested(day):
    """Spans of an id lie in each other: a job its stages, a stage its calls, a call its wait and its run."""
    made = day.trace_events()
    events = json.loads(json.dumps(made))["traceEvents"]
    assert all(type(event["ts"]) is int and event["ts"] >= 0 for event in events)
    spans = [event for event in events if event["ph"] in "be"]
    assert [event["ts"] for event in spans] == sorted(event["ts"] for event in spans)
    open_: dict[str, list] = defaultdict(list)
    sums = {"run": 0, "wait": 0}
    deepest = 0
    for event in spans:
        stack = open_[event["id"]]
        if event["ph"] == "b":
            assert set(event) == {"name", "cat", "id", "pid", "tid", "ph", "ts", "args"}
            stack.append(event)
            deepest = max(deepest, len(stack))
            continue
        begun = stack.pop()
        assert (begun["name"], begun["pid"], begun["cat"]) == (event["name"], event["pid"], event["cat"])
        if event["name"] in sums:
            sums[event["name"]] += event["ts"] - begun["ts"]
        if not stack:  # a job; the parallel calls of one have tracks of their own
            assert begun["args"]["jct_s"] * 1e6 == pytest.approx(event["ts"] - begun["ts"], abs=2)
    assert deepest == 4
    assert not any(open_.values())
    calls = day.figures["calls"]
    assert sums["run"] == pytest.approx(day.figures["work_s"] * 1e6, abs=2 * calls)
    assert sums["wait"] == pytest.approx(day.figures["wait_s"] * 1e6, abs=2 * calls)
    processes = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert set(processes.values()) == {"slots", *APPS}
    counters = [event for event in events if event["ph"] == "C"]
    assert {event["name"] for event in counters} == {f"slots {backend}" for backend in BACKENDS}
    assert max(event["args"]["held"] for event in counters) == max(BACKENDS.values())


def test_files_are_read_once_and_told(tmp_path):
    """Of several files; what could not be read is part of the report."""
    one, two = recording(3), recording(2, seed=1)
    write_jobs(one, tmp_path / "one.jsonl")
    write_jobs(two, tmp_path / "two.jsonl.gz")
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"id": "torn')
    told = []
    made = report([tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz"], skipped=told.append)
    assert made.jobs == (*one, *two)
    assert [skipped.path.name for skipped in told] == ["one.jsonl"]
    assert made.figures["name"] == "one.jsonl, two.jsonl.gz"
    assert made.figures["skipped"] == [told[0].to_json()]
    assert data_of(made)["about"]["notes"][0].startswith(str(told[0]))
    assert "5 jobs" in repr(made)
    assert report(str(tmp_path / "two.jsonl.gz")).jobs == tuple(two)
